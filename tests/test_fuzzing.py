"""Every decoder gives a value or an error of Hansa's own, in bounded memory: a few draws for each, and what was found.

`make fuzz` goes on for as long as it is told to (`fuzz.py`).
"""

from __future__ import annotations

import base64
import contextlib
import functools
import json
import re
import resource
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from random import Random

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fuzz_targets
import hansa.errors
from fuzz_targets import TARGETS, Target
from hansa.errors import StateError, TransportError
from hansa.node.state import AggregatorState
from hansa.protocol.messages import decode
from hansa.roles import secure_channel
from hansa.roles.secure_channel import SecureChannel
from hansa.secure.keys import PairKey
from hansa.secure.prg import Algorithm
from hansa.transport.recording import MAGIC
from hansa.trees import xgboost_json
from mutations import MARKS, mutated

SOURCE = Path(hansa.errors.__file__).parent
BY_NAME = {target.name: target for target in TARGETS}

ROOM = 2**30
"""Bytes of memory that one input may ask for beyond what the process has."""


@contextlib.contextmanager
def bounded(room: int = ROOM) -> Iterator[None]:
    """Let nothing inside have more than `room` bytes more: it meets a MemoryError, which no decoder may raise."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
    if pages:
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_a_decoder_takes_what_the_code_itself_writes(target: Target):
    if target.name == "where a token's key is":
        pytest.skip("needs a token: tests/consortium/test_consortium_tokens.py has one")
    assert any(target.runs(seed) for seed in target.seeds())


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_a_decoder_gives_a_value_or_an_error_of_our_own(target: Target):
    seeds = target.seeds()

    @settings(
        max_examples=target.examples,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.randoms(use_true_random=False))
    def check(draw: Random) -> None:
        content = mutated(draw, seeds)
        with bounded():
            target.runs(content)

    check()


def test_a_decoder_that_raises_anything_else_is_found():
    broken = Target("broken", lambda content: content[3], lambda: [b"whole"], ())
    assert broken.runs(b"whole")
    with pytest.raises(IndexError):
        broken.runs(b"cut")


# --- no decoder is forgotten --------------------------------------------------------------------------------------------

NAMED = re.compile(r"(?:decode|read|parse|load|open)(?:_\w+)?|from_(?:json|model_file)|opened")
"""Public functions and methods that may take what others wrote."""

OUR_OWN = {
    "files without names that this process has written itself": (
        "engines.disk_codes.CodesOnDisk.read_ahead",
        "engines.disk_codes._File.read",
        "engines.disk_codes._File.read_ahead",
    ),
    "the rows of the party that runs the command, whose table others never send": (
        "console.data._Looked.opened",
        "data.coding.read_coded",
        "data.coding.read_texts",
        "data.database.read_parts",
        "data.database.read_table",
        "data.drift.read_described",
        "data.files.open_by_column",
        "data.files.open_sample",
        "data.files.open_table",
        "data.frames.open_columns",
        "data.source.load",
        "data.source.load_columns",
        "data.source.load_doubles",
        "data.source.read_part",
        "data.source.read_rows",
        "data.streamed.open_rows",
        "engines.shard.ShardSource.open",
        "library.fit.read_parties",
        "simulation.tables.read_table",
        "simulation.training.Training.read_like",
        "simulation.training.read_training",
    ),
    "a record that this member's own process wrote": ("node.record.read_record",),
    "bytes of any kind, up to a limit: whoever asks decodes them": ("files.read_text", "files.read_whole"),
    "calls a decoder of this table and adds nothing": (
        "cli.identity.open_identity",
        "model.Model.load",
        "node.files.read_start_model",
    ),
    "no bytes: an index, a share or a tensor that was decoded before": (
        "mpc.replicated.open_and_deal",
        "mpc.replicated.open_to_all",
        "mpc.tiles.opened",
        "oblivious.evaluation.open_metric",
        "oblivious.release.open_tree",
        "roles.reading.reading_of",
        "roles.summed.verified_counts.CountChecker.open",
        "roles.summed.verified_counts.CountChecker.open_signed",
        "secure.masking.Masker.open",
    ),
    "a secret that this member wrote, taken as it is": ("node.config.read_password",),
    "no bytes: whether something was opened": ("roles.auditing.LogExchange.opened",),
    "code that the plan names by its hash, and that is compared with it before it is run": (
        "node.functions.read_function_files",
        "node.functions.read_functions",
        "node.functions.read_metric",
    ),
    "a stream of TLS, whose bytes OpenSSL reads": (
        "transport.frames.Stream.read",
        "transport.frames.Stream.read_on",
        "transport.tls_stream.TlsStream.read",
        "transport.tls_stream.TlsStream.read_on",
        "transport.tls_stream.Until.read",
        "transport.tls_stream.Until.read_on",
    ),
}
"""Functions of such a name that are not fuzzed, by why."""

DECODING = re.compile(
    r"\b(?:msgspec\.(?:json|msgpack|toml|yaml)\.(?:decode|Decoder)|json\.loads?|tomllib\.loads?|struct\.(?:unpack|iter_unpack)\w*"
    r"|x509\.load_\w+|serialization\.load_\w+|pickle\.\w+|yaml\.\w+|\w+\.unpack(?:_from)?)\("
)
"""What takes bytes apart."""

NOT_FROM_OTHERS = {
    "cli.service": "lines of events that the service on this machine wrote",
    "service.seen_members": "which version of a members file this service took, as it wrote it, or as its back-up has it",
    "service.store": "runs that the service on this machine wrote into its database",
    "service.supervisor": "events of a process that this process started, and its record",
    "simulation.pooled_xgboost": "the answer of a process that this process started",
    "cli.consortium": "certificates of a consortium's file, which is read before",
    "console.consortium": "certificates of a members file, which is read before",
    "console.passkeys": "what a browser sends, which tests/console/test_console_passkeys.py draws",
    "console.policy": "the service's own file, as this process is about to write it",
    "console.records": "comparisons that this console wrote",
    "console.runs": "events and records that the service on this machine wrote",
    "demo.consoles": "what a process that this process started says",
    "node.record": "a record that this member's own process wrote",
    "plan.rules": "rounds a number, and reads no bytes",
    "transport.credentials": "certificates of the members file, which is read before",
    "transport.tcp": "what this machine's kernel says of a connection",
    "transport.welcome": "certificates of the members file, which is read before",
}
"""Modules that take bytes apart and are in no target, by why."""


DEFINED = re.compile(r"^(class |(?: {4})?(?:async )?def )(\w+)", re.MULTILINE)


@functools.cache
def functions() -> tuple[tuple[str, str], ...]:
    """(module, name) of every function and method of `src/` that is not inside another."""
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        module = ".".join(path.relative_to(SOURCE).with_suffix("").parts)
        owner = ""
        for place, name in DEFINED.findall(path.read_text(encoding="utf-8")):
            if place == "class ":
                owner = f"{name}."
                continue
            if not place.startswith(" "):
                owner = ""
            elif not owner:  # inside a function
                continue
            found.append((module, owner + name))
    return tuple(found)


def modules_that_decode() -> set[str]:
    found = set()
    for path in sorted(SOURCE.rglob("*.py")):
        if DECODING.search(path.read_text(encoding="utf-8")):
            found.add(".".join(path.relative_to(SOURCE).with_suffix("").parts))
    return found


FUZZED = {own for target in TARGETS for own in target.reads}


def test_no_decoder_is_forgotten():
    known = FUZZED | {own for group in OUR_OWN.values() for own in group}
    named = {f"{module}.{name}" for module, name in functions() if NAMED.fullmatch(name.rpartition(".")[2])}
    forgotten = sorted(named - known)
    assert not forgotten, f"decoders without a target in tests/fuzz_targets.py, or a reason in OUR_OWN: {forgotten}"


def test_every_module_that_takes_bytes_apart_has_a_target():
    forgotten = {
        module for module in modules_that_decode() if not any(own.startswith(f"{module}.") for own in FUZZED)
    } - set(NOT_FROM_OTHERS)
    assert not forgotten, (
        f"modules without a target in tests/fuzz_targets.py, or a reason in NOT_FROM_OTHERS: {forgotten}"
    )


def test_the_lists_name_what_is_there():
    there = {f"{module}.{name}" for module, name in functions()}
    classes = {name.rpartition(".")[0] for name in there}
    listed = FUZZED | {own for group in OUR_OWN.values() for own in group}
    assert sorted(listed - there - classes) == []
    assert set(NOT_FROM_OTHERS) <= modules_that_decode()


# --- what was found -----------------------------------------------------------------------------------------------------


def refused(name: str, content: bytes, fragment: str) -> None:
    """The target refuses these bytes with an error of our own that says so."""
    target = BY_NAME[name]
    with bounded(), pytest.raises(target.allowed, match=fragment):
        target.decode(content)


def changed(name: str, *path: str | int, to: object) -> bytes:
    """The target's first seed with one value of its JSON replaced, written as statements are; `MARKS` may stand in it."""
    whole = json.loads(BY_NAME[name].seeds()[0])
    holder = whole
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = to
    text = json.dumps(whole, sort_keys=True, separators=(",", ":"))
    for mark, (json_of, _) in MARKS.items():
        text = text.replace(f'"{mark}"', json_of.decode("latin-1"))
    return text.encode("latin-1")


DIGITS = "0x" + "f" * 5000
"""A number that Python reads and does not write."""


@pytest.mark.parametrize(
    ("name", "key"), [("plans", "rounds = 3"), ("plans", "min_cell_rows = 2"), ("cards", "name = ")]
)
def test_a_number_that_cannot_be_written_is_refused(name, key):
    key, _, value = key.partition(" = ")
    whole = fuzz_targets.SIGNED_PLAN if name == "plans" else f"[[member]]\n{key} = "
    refused(
        name,
        whole.replace(f"{key} = {value}", f"{key} = {DIGITS}").encode(),
        f"{key} is 0xfff.*expected a number of at most 64 bits",
    )


def test_a_text_of_constraints_that_python_cannot_evaluate_is_refused():
    text = fuzz_targets.SIGNED_PLAN + 'monotone_constraints = "{[]: 1}"\n'
    refused("plans", text.encode(), "monotone_constraints")


def test_a_range_of_brackets_is_refused():
    BY_NAME["typed texts"].decode(b"eta=" + b"[" * 5000)


def test_a_proposal_of_the_first_year_is_refused():
    content = changed("proposals and their approvals", "predicate", "created", to="0001-01-01T00:00:00Z")
    assert BY_NAME["proposals and their approvals"].runs(content)
    content = changed("proposals and their approvals", "predicate", "expires", to="0001-01-01T00:00:00Z")
    refused("proposals and their approvals", content, "was open until")


def test_a_certificate_of_another_version_is_refused():
    der = bytearray(fuzz_targets.identity("aurora").certificate)
    at = der.index(bytes.fromhex("a003020102")) + 4
    der[at] = 3
    refused("certificates in a card", bytes(der), "the certificate is damaged")
    pem = b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(der) + b"-----END CERTIFICATE-----\n"
    refused("certificates", pem, "not a certificate that Hansa made")


def test_brackets_in_brackets_are_refused():
    refused("evidence", changed("evidence", "unheard-of", to="@deep@"), "is not the evidence of a run")
    refused("lines of --json and records", changed("lines of --json and records", "event", to="@deep@"), "recursion")
    deep = b'{"predicateType":"x","unheard-of":' + MARKS["@deep@"][0] + b"}"
    refused("kinds of statements in a folder", deep, "is no member's statement")


def test_half_a_character_is_no_name_of_a_feature():
    content = changed("models", "learner", "feature_names", 0, to="@half@")
    refused("model files", content, "feature_names is .* expected an array of strings without halves of characters")
    model = json.loads(BY_NAME["models"].seeds()[0])
    for attribute in (xgboost_json.LEVELS_ATTRIBUTE, xgboost_json.DATES_ATTRIBUTE, xgboost_json.OTHER_ATTRIBUTE):
        model["learner"]["attributes"] = {attribute: "\ud800"}
        refused("models", json.dumps(model).encode(), re.escape(f"attributes[{attribute!r}]"))


def test_signed_row_counts_that_are_no_vectors_are_refused():
    for frame in (b"", bytes(7), bytes(8)):
        refused("broadcasts in evidence", msgspec.msgpack.encode([("ShowRows", frame)]), "are no vectors of 2 parties")


def test_a_state_with_a_value_of_another_kind_is_refused():
    path = fuzz_targets.filed("kinds.sqlite", BY_NAME["an aggregator's state folder"].seeds()[0])
    for statement in (
        "UPDATE meta SET value = 1099511627776 WHERE name = 'run'",
        "UPDATE snapshots SET content = 5",
        "UPDATE trees SET content = 'text'",
        "UPDATE broadcasts SET chain = 0.5",
    ):
        path.write_bytes(BY_NAME["an aggregator's state folder"].seeds()[0])
        with contextlib.closing(sqlite3.connect(path)) as database:
            database.execute(statement)
            database.commit()
            database.execute("PRAGMA journal_mode = DELETE")
        refused("an aggregator's state folder", path.read_bytes(), "a value is of another kind than its column")


def test_values_of_a_state_that_are_no_messagepack_are_refused():
    with AggregatorState(fuzz_targets.folder() / "values.state", fuzz_targets.AGREEMENT, "hub") as state:
        for value in (b"\xa4\xff\xfe\xff\xfe", MARKS["@deep@"][1], MARKS["@size@"][1]):
            state._put("setup", value)
            state._put("roster", value)
            for ask in (lambda: state.setup, lambda: state.roster):
                with pytest.raises(StateError, match="holds what is no"):
                    ask()


def test_a_transcript_that_announces_4_gib_takes_no_room_for_them():
    whole = MAGIC + b"U\x06aurora" + bytes(8) + b"\xff\xff\xff\xff" + b"frame"
    target = BY_NAME["transcripts"]
    with bounded(2**28), pytest.raises(TransportError, match="cut off inside record 0"):
        target.decode(whole)


def test_a_sealed_message_that_announces_2_gib_takes_no_room_for_them():
    first = (2**31).to_bytes(8, "little") + bytes(8) + b"begun"
    with bounded(2**28):
        assert BY_NAME["fragments under a seal"].runs(len(first).to_bytes(4, "big") + first)


def test_a_sealed_message_outgrows_its_first_room(monkeypatch):
    """In many fragments, and the buffer is made larger more than once."""
    monkeypatch.setattr(secure_channel, "_FIRST_ROOM", 8)
    monkeypatch.setattr(secure_channel, "FRAGMENT_BYTES", 30)
    names = {"alba": "brix", "brix": "alba"}
    alba, brix = (
        SecureChannel(own, {peer: PairKey(b"k" * 32, own, peer)}, fuzz_targets.RUN, Algorithm.AES_256_CTR)
        for own, peer in names.items()
    )
    body = bytes(range(256)) * 3
    taken = [brix.take(decode("alba", frame)) for frame in alba.post("brix", "round", [memoryview(body)])]
    assert taken[:-1] == [None] * (len(taken) - 1)
    assert bytes(taken[-1].body) == body
