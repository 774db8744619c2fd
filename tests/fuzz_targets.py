"""Every decoder of what comes from others, or lies in a file: what a fuzzer may throw at it, and what it may answer.

A decoder gives a value or raises an error of Hansa's own, in bounded memory. `test_fuzzing` draws a few inputs for each, and fails
where a decoder is not in this table; `fuzz.py` goes on for as long as it is told to.

Signatures would hide what stands behind them: whoever may sign may sign anything. Such targets take the statement alone, and sign it.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import io
import json
import shutil
import socket
import sqlite3
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
from click import BadParameter

from hansa.cli.option_types import Search, Setting
from hansa.consortium.approvals import approve, propose, read_rejection, reject, require_approved, write_proposal
from hansa.consortium.audit_checks import check_log, report_of
from hansa.consortium.audit_entries import Counted, MessagesCounted, RunBegun, RunOver
from hansa.consortium.audit_entries import read_line as read_entry
from hansa.consortium.audit_log import AuditLog, now
from hansa.consortium.audit_page import check_page, export_run
from hansa.consortium.envelopes import read_envelope, sealed, sign, written
from hansa.consortium.identity import (
    CARD_FILE,
    CERTIFICATE_FILE,
    IDENTITY_KEY_FILE,
    Identity,
    create_identity,
    fingerprint,
    load_identity,
    read_fingerprint,
    save_identity,
)
from hansa.consortium.invitations import answer, invite, read_answer, read_invitation
from hansa.consortium.key_files import Unlocking, private_pem, read_key_file, read_pin
from hansa.consortium.ledger import Entry, Ledger, Met, Spent
from hansa.consortium.members import members_of, read_members, write_members
from hansa.consortium.policy import Policy
from hansa.consortium.provenance import FinishedRun, verify_model, write_provenance
from hansa.consortium.tokens import read_token_key
from hansa.consortium.versions import (
    ConsortiumJson,
    found,
    read_consortium,
    read_pinned,
    rotated,
    signed,
    write_consortium,
)
from hansa.consortium.words import CODE_WORDS, code_of, read_words
from hansa.data.description import Bin, Category, ColumnDescription, Description
from hansa.errors import HansaError
from hansa.node.config import read_agreed, read_member_file, read_policy, read_rows_source
from hansa.node.events import Listening, Paused, line_of, read_line
from hansa.node.evidence import judge, keep_evidence, read_evidence
from hansa.node.proposals import list_proposals, withdrawals
from hansa.node.shared_state import SharedState
from hansa.node.state import AggregatorState, PartyState
from hansa.plan import parse_plan, read_plan, write_plan
from hansa.prediction import read_model
from hansa.protocol import messages
from hansa.roles.secure_channel import KINDS, SecureChannel
from hansa.roles.shared.snapshots import KeptMargins, KeptModel, KeptRound
from hansa.roles.shared.snapshots import decode as decode_kept
from hansa.roles.shared.snapshots import encode as encode_kept
from hansa.roles.summed.checkpoints import SignedCheckpoint, agree, start_of_chain
from hansa.roles.summed.journal import Broadcast, broadcast_in
from hansa.roles.summed.outcome import Outcome
from hansa.roles.summed.snapshots import Setup, Snapshot
from hansa.roles.summed.verified_counts import SIGNING_PURPOSE, Evidence, signed_bytes
from hansa.secure.at_rest import StateSealer
from hansa.secure.keys import PairKey, RunNames
from hansa.secure.prg import Algorithm
from hansa.secure.sealing import Opener, Sealer
from hansa.service.backup import read_backup
from hansa.service.config import read_place, read_service_file
from hansa.service.store import ServiceRun
from hansa.simulation.description import read_description
from hansa.transport.delivery import (
    HEAD,
    HELLO,
    WELCOME,
    DeliveryState,
    notice_signal,
    read_hello,
    read_notice,
    read_welcome,
)
from hansa.transport.frames import FrameReader, fragments
from hansa.transport.notices import Notice
from hansa.transport.proxy import Proxy, read_proxy
from hansa.transport.recording import MAGIC, read_transcript
from hansa.trees.xgboost_json import from_json, from_model_file, to_json
from made_consortium import PLAN

VECTORS = Path(__file__).parent / "vectors"

PASSPHRASE = "six words of a fuzzer"
NAMES = ("hub", "aurora", "borealis")
SIGNED_PLAN = PLAN.replace('mode = "federated"', 'mode = "secure-aggregation"').replace(
    "[privacy]", '[privacy]\nmin_party_rows = 0\nverify_counts = "tree"'
)
RUN = RunNames(b"p" * 32, b"r" * 32, 1)

Decoder = Callable[[bytes], object]


@dataclass(frozen=True)
class Target:
    """One decoder.

    Attributes:
        name: for people. decode: takes the bytes. seeds: valid examples, made by the code itself where it writes the kind.
        reads: the functions of `src/` that it tries, as module.function. allowed: the errors that it may raise.
        examples: how many a test draws; few where each costs a key derivation.
    """

    name: str
    decode: Decoder
    seeds: Callable[[], Sequence[bytes]]
    reads: tuple[str, ...]
    allowed: tuple[type[Exception], ...] = (HansaError,)
    examples: int = 10

    def runs(self, content: bytes) -> bool:
        """Try it; whether it gave a value. Any other error than those allowed passes."""
        try:
            self.decode(content)
        except self.allowed:
            return False
        return True

    def runs_quietly(self, content: bytes) -> None:
        """The same for a fuzzer, which takes no answer."""
        self.runs(content)


# --- what valid examples are made of ------------------------------------------------------------------------------------


@functools.cache
def folder() -> Path:
    """Where files are put to be read; removed when the process ends."""
    made = tempfile.TemporaryDirectory(prefix="hansa-fuzz-")
    _KEPT.append(made)
    return Path(made.name)


_KEPT: list[tempfile.TemporaryDirectory[str]] = []


def filed(name: str, content: bytes) -> Path:
    path = folder() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(0o600)
    return path


def file_of(read: Callable[[Path], object], name: str) -> Decoder:
    """A decoder of a file as one of bytes."""
    return lambda content: read(filed(name, content))


@functools.cache
def identity(name: str) -> Identity:
    return create_identity(name)


@functools.cache
def members() -> Any:
    return members_of([identity(name).card() for name in NAMES])


@functools.cache
def plan() -> Any:
    return parse_plan(SIGNED_PLAN)


@functools.cache
def proposal() -> Any:
    return propose(plan(), members(), identity("aurora"))


def content_of(write: Callable[[Path], object]) -> bytes:
    """What a function writes into a file."""
    path = folder() / "written"
    path.unlink(missing_ok=True)
    write(path)
    return path.read_bytes()


def payload_of(envelope: bytes) -> bytes:
    return base64.b64decode(json.loads(envelope)["payload"])


def resigned(read: Callable[[Path], object], by: str, name: str) -> Decoder:
    """A decoder of a signed file as one of the statement in it, which a member signs whatever it says."""

    def decode(payload: bytes) -> object:
        return read(filed(name, written(sealed(payload, {identity(by).public: sign(identity(by), payload)}))))

    return decode


@functools.cache
def invitation() -> tuple[bytes, str]:
    return invite(nordic(), "cirrus", identity("hub"))


@functools.cache
def nordic() -> Any:
    """A consortium's file of two versions, signed by all."""
    made = found("nordic", [identity("aurora").card(), identity("borealis").card()], identity("hub"))
    for name in NAMES[1:]:
        made = signed(made, identity(name))
    return made


def answered() -> bytes:
    content, code = invitation()
    return answer(read_invitation(filed("invitation.json", content)), code, identity("cirrus"))


def finished(model: bytes) -> FinishedRun:
    public = {name: identity(name).public for name in NAMES}
    digest = hashlib.sha256(model).hexdigest()
    return FinishedRun(plan(), public, "model.json", digest, "ab" * 32, "0.1.0", proposal())


@functools.cache
def xgboost_models() -> tuple[bytes, ...]:
    """As real XGBoost wrote them, JSON and UBJSON."""
    found = json.loads((VECTORS / "xgboost-3.2.0.json").read_text()) | json.loads(
        (VECTORS / "xgboost-1.7.6.json").read_text()
    )
    return tuple(base64.b64decode(own[kind]) for own in found.values() for kind in ("json", "ubj") if kind in own)


def own_model() -> bytes:
    return to_json(from_model_file(xgboost_models()[0]))


MODEL = b'{"learner": {}}'


def samples() -> list[messages.Message]:
    """One message of each kind."""
    return [
        kind(**{field.name: _sample(field.type) for field in msgspec.structs.fields(kind)})
        for kind in messages.MESSAGES
    ]


def _sample(kind: Any) -> Any:
    tensor = messages.to_tensor(np.arange(6, dtype="<i8").reshape(2, 3))
    scales = messages.TreeScales(1, 0.5, 1.0, tensor)
    mark = messages.Mark(3, b"m" * 32)
    claim = messages.Claim(b"r" * 32, 1, 2, None, mark, mark)
    proofs = (messages.LogProof(1, 3, (0, 1), (1, 0), (b"p" * 32,)),)
    shown = messages.LogCheckpoint(b"l" * 32, 3, b"r" * 32, b"s" * 64, proofs, b"p" * 64)
    known: dict[Any, Any] = {
        int: 7,
        float | None: 0.5,
        tuple[int, ...]: (1, 2),
        tuple[messages.Awaited, ...]: (messages.Awaited("histograms", 1, "<i8", (1, 2, 3), 2, (5, 6)),),
        dict[str, int]: {"aurora": 3},
        messages.LogCheckpoint: shown,
        dict[str, messages.LogCheckpoint]: {"aurora": shown},
        bool: True,
        float: 0.5,
        str: "aurora",
        bytes: b"k" * 32,
        memoryview: b"sealed",
        messages.Tensor: tensor,
        tuple[float, ...]: (0.5, 1.5),
        tuple[bytes, bytes]: (b"a", b"b"),
        tuple[messages.Tensor, ...]: (tensor, tensor),
        dict[str, bytes]: {"aurora": b"k" * 32},
        dict[str, tuple[str, ...]]: {"load": ("a", "b")},
        messages.Claim | None: claim,
        tuple[tuple[str, messages.Claim], ...]: (("aurora", claim),),
        tuple[tuple[str, bytes, int, int, bytes], ...]: (("aurora", b"k" * 32, 60, 10, b"\5"),),
        tuple[tuple[str, bytes, str, bytes], ...]: (("aurora", b"k" * 32, "aes", b"s" * 64),),
        messages.QuantiseGradients | None: messages.QuantiseGradients(0, 0.5, 1.0, tensor, (scales,)),
        tuple[messages.TreeScales, ...]: (scales,),
        tuple[messages.TreeSplits, ...]: (messages.TreeSplits(1, *[tensor] * 8),),
        messages.Contribution | None: messages.Contribution(0, 0, "sums", 3, tensor, 1),
    }
    return known[kind]


# --- what comes over the network ----------------------------------------------------------------------------------------


def message(frame: bytes) -> None:
    got = messages.decode("aurora", frame)
    for field in msgspec.structs.fields(got):
        value = getattr(got, field.name)
        for each in value if isinstance(value, tuple) else (value,):
            if isinstance(each, messages.Tensor):
                messages.to_array("aurora", field.name, each, np.int64, (None, 3))


class Bytes:
    """A stream of TLS that holds these bytes, cut as the first of them says."""

    def __init__(self, content: bytes) -> None:
        self.left = content
        self._most = 1 + (content[-1] if content else 0) * 100

    def read(self, size: int, buffer: memoryview) -> int:
        part = self.left[: min(size, self._most)]
        buffer[: len(part)] = part
        self.left = self.left[len(part) :]
        return len(part)

    read_on = read


def framed(*parts: bytes) -> bytes:
    return b"".join(bytes(each) for part in parts for each in fragments(memoryview(part)))


def frames(content: bytes) -> None:
    reader, stream = FrameReader(2**20), Bytes(content)
    while stream.left:
        reader.read(stream)


def deliveries(content: bytes) -> None:
    """Frames and signals of one conversation, one after another, each behind a byte with its length."""
    state = DeliveryState(takes_notices=True)
    state.keep(b"first")
    state.keep(b"second")
    while content:
        size = content[0]
        state.take(memoryview(content[1 : 1 + size]))
        if state.notice:
            read_notice(state.notice, NAMES)
        content = content[1 + size :]


def conversation() -> list[bytes]:
    notices = [Notice("away", "aurora", ("borealis",), 2.5, 60.0), Notice("waiting", "", ("aurora", "borealis"), 1.0)]
    signals = [HEAD.pack(0, 1) + own for own in (b"a", b"f", b"g", *map(notice_signal, notices))]
    parts = [HEAD.pack(1, 0) + b"frame", *signals, HEAD.pack(2, 2) + b"next"]
    return [b"".join(bytes([len(part)]) + part for part in parts)]


def seals(content: bytes) -> None:
    Opener(PairKey(b"k" * 32, "brix", "alba"), RUN, Algorithm.AES_256_CTR).open("share", content)


def fragments_under_a_seal(content: bytes) -> None:
    """What a member seals for another, fragment by fragment, each behind four bytes with its length."""
    sealer = Sealer(PairKey(b"k" * 32, "alba", "brix"), RUN, Algorithm.AES_256_CTR)
    channel = SecureChannel("brix", {"alba": PairKey(b"k" * 32, "brix", "alba")}, RUN, Algorithm.AES_256_CTR)
    while content:
        size = int.from_bytes(content[:4], "big")
        fragment, content = content[4 : 4 + size], content[4 + size :]
        kind = KINDS[len(fragment) % 2]
        channel.take(messages.Relay("alba", "brix", kind, memoryview(sealer.seal(kind, fragment))))


def cut_for_a_seal() -> list[bytes]:
    body = (20).to_bytes(8, "little") + b"n" * 8 + bytes(20)
    cuts = [body[:22], body[22:36]]
    return [b"".join(len(part).to_bytes(4, "big") + part for part in cuts)]


def proxy_answer(content: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(content[:60_000])
        theirs.shutdown(socket.SHUT_WR)
        Proxy("10.0.0.9", 3128, "user", "password").open(ours, "10.0.0.2", 7465, "hub", time.monotonic() + 60)


# --- what members write and sign ----------------------------------------------------------------------------------------


def use_agreed(path: Path) -> object:
    """Read a proposal and ask whether it may be run, as every member does."""
    agreed, proposed = read_agreed(path, members())
    if proposed is not None:
        whole = proposed
        for name in NAMES:
            whole = approve(whole, identity(name))
        require_approved(whole, "plan.json")
    return agreed


def use_plan(path: Path) -> None:
    """Read a plan, and do what every command does with one."""
    read = read_plan(path)
    read.digest()
    parse_plan(write_plan(read))


def exchanged(content: bytes) -> None:
    """A statement that came over the hub, where the proposal is known already."""
    from hansa.service.config import Consortium
    from hansa.service.proposals import keep_proposal, take

    own = folder() / "exchanged"
    card = members()["borealis"]
    at = Consortium("", own / "members.toml", members(), own, card, None, None, "h:1", "aurora", Policy())
    if not own.exists():
        keep_proposal(own, at, proposal())
    take(own, at, content, "aurora")


def listed(content: bytes) -> None:
    """A folder of statements, of which one is a proposal that holds."""
    own = folder() / "statements"
    own.mkdir(exist_ok=True)
    if not (own / "held.json").exists():
        write_proposal(own / "held.json", proposal())
    filed("statements/other.json", content)
    list_proposals(own, members())
    withdrawals(own, proposal())


def version_of(payload: bytes) -> object:
    """A second version of a consortium's file, which its founder signs."""
    first = nordic().head.envelope
    second = sealed(payload, {identity("hub").public: sign(identity("hub"), payload)})
    content = msgspec.json.encode(ConsortiumJson((first, second)))
    return read_consortium(filed("versions.json", content))


def next_version() -> bytes:
    new = create_identity("hub")
    return rotated(nordic(), new, [identity("hub"), new]).head.payload


def identity_file(name: str) -> Decoder:
    def decode(content: bytes) -> object:
        own = folder() / "aurora.identity"
        if not own.exists():
            save_identity(identity("aurora"), own)
        kept = (own / name).read_bytes()
        try:
            (own / name).write_bytes(content)
            return load_identity(own, Unlocking(ask=lambda _: PASSPHRASE))
        finally:
            (own / name).write_bytes(kept)

    return decode


def texts(content: bytes) -> None:
    """What people type or paste."""
    text = content.decode("utf-8", "surrogateescape")
    for read in (
        read_fingerprint,
        lambda words: read_words(words, CODE_WORDS, "the code"),
        lambda value: Setting().convert(value, None, None),
        lambda value: Search().convert(value, None, None),
    ):
        try:
            read(text)
        except (HansaError, BadParameter):
            continue


def member_folder() -> Path:
    own = folder() / "member"
    if not own.exists():
        save_identity(identity("aurora"), own / "aurora.identity")
        write_members(own / "members.toml", members())
        (own / "plan.toml").write_text(SIGNED_PLAN)
    return own


def member_file(content: bytes) -> None:
    path = member_folder() / "aurora.toml"
    path.write_bytes(content)
    for read in (read_rows_source, read_policy, read_member_file):
        try:
            read(path)
        except HansaError:
            continue


MEMBER = b"""plan = "plan.toml"
members = "members.toml"
identity = "aurora.identity"
hub = "127.0.0.1:7465"
table = "aurora.csv"
threads = 1
wait_s = 600.0
policy = { least_mode = "secure-aggregation", most_runs = 3 }
"""


# --- what stands on a member's own disk ---------------------------------------------------------------------------------


def ledger(content: bytes) -> None:
    path = folder() / "ledger.jsonl"
    _whole_ledger()
    path.write_bytes(content)
    Ledger(path).check(
        ("c" * 64,), {"aurora": "ab" * 32, "borealis": "cd" * 32}, Policy(most_runs=3, most_trees=50), Spent(10, 100)
    )


@functools.cache
def _whole_ledger() -> bytes:
    path = folder() / "ledger.jsonl"
    met = (Met("aurora", "ab" * 32, 90, 10), Met("borealis", "cd" * 32, 80, 8))
    Ledger(path).admit(Entry(("c" * 64,), "secure-aggregation", met, "ab" * 32, 10, 100), Policy())
    return path.read_bytes()


AGREEMENT = b"g" * 32


@functools.cache
def states() -> tuple[bytes, bytes]:
    """An aggregator's state and a party's, as their databases stand once closed."""
    model = own_model()
    mark = messages.Mark(1, b"c" * 32)
    claims = {
        name: messages.Claim(b"r" * 32, 0, 0, None, start_of_chain(b"r" * 32), start_of_chain(b"r" * 32))
        for name in NAMES
    }
    agreed = SignedCheckpoint(agree(AGREEMENT, b"r" * 32, 1, claims), {"aurora": b"s" * 64})
    setup = Setup(bytes(8), bytes(8), (0.5,), bytes(8), bytes(4), b"\0")
    snapshot = Snapshot(1, 3, 1.0, (1.0,), (0.5,), (0.0,), (1, 2), (), False, {"auc": (0.5, None)}, {}, None)
    tree = from_json(model).trees[0]
    with AggregatorState(folder() / "made.state", AGREEMENT, "hub") as state:
        state.begin(b"r" * 32, (("aurora", b"k" * 32, 60, 10, b"\5"),))
        state.begin_epoch(agreed)
        state.checkpoint(mark, _broadcast(messages.UseCuts), snapshot, setup, [])
        state.checkpoint(replace_mark(mark), _broadcast(messages.SplitNodes), snapshot, None, [tree])
        state.finish(Outcome(from_json(model), model, {"auc": [0.5, None]}, 1, 3, ()), b"")
        hub = state.path
    with PartyState(folder() / "party.state", AGREEMENT, "aurora", b"w" * 32) as own:
        own.begin(b"r" * 32, b"welcome")
        own.begin_epoch(agreed)
        own.answer(mark, _broadcast(messages.UseCuts), (0, b"words"))
        own.finish(model)
        party = own.path
    return hub.read_bytes(), party.read_bytes()


def _broadcast(kind: type[messages.Message]) -> Broadcast:
    found = broadcast_in(plan(), next(messages.encode(own) for own in samples() if type(own) is kind))
    assert found is not None
    return found


def replace_mark(mark: messages.Mark) -> messages.Mark:
    return messages.Mark(mark.number + 1, mark.chain)


def use_hub(state: AggregatorState) -> None:
    for ask in (
        lambda: (state.epoch, state.signed, state.claim),
        lambda: state.roster,
        lambda: state.setup,
        lambda: state.kept(2),
        lambda: state.outcome,
    ):
        try:
            ask()
        except HansaError:
            continue


def _state_file(content: bytes) -> Path:
    own = folder() / "state"
    own.mkdir(mode=0o700, exist_ok=True)
    for old in own.iterdir():
        old.unlink()
    return filed(f"state/{AGREEMENT.hex()[:16]}.sqlite", content).parent


def hub_state(content: bytes) -> None:
    with AggregatorState(_state_file(content), AGREEMENT, "hub") as state:
        use_hub(state)


def party_state(content: bytes) -> None:
    with PartyState(_state_file(content), AGREEMENT, "aurora", b"w" * 32) as state:
        assert isinstance(state.nonce + state.welcome, bytes)
        state.claim, state.epoch, state.signed, state.over, state.model  # noqa: B018
        state.broadcast(1)
        list(state.broadcasts(9))


VALUES = ("roster", "signed", "setup", "outcome", "run", "epoch")


def state_values(content: bytes) -> None:
    """A state whose database is whole, and whose values are not."""
    own = _state_file(states()[0])
    database = sqlite3.connect(own / f"{AGREEMENT.hex()[:16]}.sqlite")
    database.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", [(name, content) for name in VALUES])
    database.execute("UPDATE snapshots SET content = ?", (content,))
    database.execute("UPDATE trees SET content = ?", (content,))
    database.commit()
    database.close()
    with AggregatorState(own, AGREEMENT, "hub") as state:
        use_hub(state)


def kept_values() -> list[bytes]:
    filed("values.sqlite", states()[0])
    database = sqlite3.connect(folder() / "values.sqlite")
    rows = [
        *database.execute("SELECT value FROM meta"),
        *database.execute("SELECT content FROM snapshots"),
        *database.execute("SELECT content FROM trees"),
    ]
    database.close()
    return [bytes(content) for (content,) in rows]


def evidence(*broadcasts: tuple[str, bytes]) -> Evidence:
    made = Evidence(b"r" * 32, b"s" * 32, broadcasts, b"")
    return replace(made, signature=identity("hub").sign(SIGNING_PURPOSE, signed_bytes(made.run, made.end)))


def _judged(path: Path) -> object:
    member_folder()
    return judge(path, None, folder() / "member" / "plan.toml", folder() / "member" / "members.toml")


def evidence_file(content: bytes) -> None:
    path = filed("hub.evidence.json", content)
    read_evidence(path)
    _judged(path)


def signed_broadcasts(content: bytes) -> None:
    """Broadcasts that an aggregator signs whatever they are: MessagePack's list of (kind, bytes)."""
    try:
        given = msgspec.msgpack.decode(content, type=tuple[tuple[str, bytes], ...])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        given = (("ShowRows", content), ("SplitNodes", content))
    path = folder() / "broadcasts.evidence.json"
    keep_evidence(path, evidence(*given))
    _judged(path)


def broadcasts() -> list[bytes]:
    words = np.array([[5, 6, 0], [7, 8, 0]], "<u8").tobytes()
    kinds = [
        message for message in samples() if type(message).__name__ in ("CountCells", "CountResiduals", "SplitNodes")
    ]
    asked = [(type(own).__name__, messages.encode(own)) for own in kinds]
    return [msgspec.msgpack.encode([*asked, ("ShowRows", words)])]


def transcript(content: bytes) -> None:
    for _ in read_transcript(filed("aurora.frames", content)):
        pass


def recorded() -> list[bytes]:
    records = [(b"U", b"aurora", b"join"), (b"D", b"hub", b"welcome" * 9)]
    return [
        MAGIC
        + b"".join(
            mark + bytes([len(name)]) + name + number.to_bytes(8, "big") + len(frame).to_bytes(4, "big") + frame
            for number, (mark, name, frame) in enumerate(records)
        )
    ]


def model(content: bytes) -> None:
    from_model_file(content)


def model_file(content: bytes) -> None:
    ensemble = read_model(filed("model.json", content))
    to_json(ensemble)


def description(content: bytes) -> None:
    read = read_description(filed("described.json", content))
    read.tables()
    read.facts()
    repr(read)


def described() -> list[bytes]:
    bins = (Bin(low=None, high=0.5, rows=60), Bin(low=0.5, high=None, rows=40))
    load = ColumnDescription(name="load", missing=0, bins=bins)
    fault = ColumnDescription(
        name="fault", missing=0, categories=(Category(level=0, rows=70), Category(level=1, rows=30)), levels=(0, 1)
    )
    made = Description(
        mode="federated",
        plan="ab" * 32,
        run="cd" * 32,
        rows=100,
        held_out=0,
        parties={"aurora": 60, "borealis": 40},
        min_cell_rows=2,
        features=(load,),
        label=fault,
    )
    return [made.to_json()]


def lines() -> list[bytes]:
    events = [
        Listening(host="127.0.0.1", port=7465, member="hub"),
        Paused(member="aurora", waiting_for=("hub",), limit_s=60.0, text="gone", run="ab"),
    ]
    return [line_of(event).encode() for event in events]


def made_log(name: str) -> Path:
    """A log of one run, as its member wrote it."""
    path = folder() / name
    path.unlink(missing_ok=True)
    log = AuditLog(path, identity("aurora"))
    counted = (Counted("aurora", "hub", "Contribution", 3, 900),)
    log.append(
        RunBegun(
            at=now(), run="ab" * 32, epoch=0, plan="cd" * 32, mode="federated", purpose="train", hub="hub", hansa="0.1.0",
            members={each: identity(each).public.hex() for each in NAMES}, roster=(("aurora", 60, 10),), proposal="", approved_by=(),
        )
    )  # fmt: skip
    log.append(MessagesCounted(at=now(), run="ab" * 32, epoch=0, counts=counted))
    log.append(RunOver(at=now(), run="ab" * 32, epoch=0, state="finished", transcript={"aurora>hub": "ef" * 32}))
    log.close()
    return path


def audit_log(content: bytes) -> None:
    """Checked as `hansa audit verify` does, and opened as its member does."""
    path = filed("aurora.audit", content)
    try:
        read = check_log(path)
        report_of(read, False).lines()
    except HansaError:
        pass
    AuditLog(path, identity("aurora")).close()


def audit_lines(content: bytes) -> object:
    return read_entry(content)


def page(content: bytes) -> object:
    return check_page(content, "run.html")


def pages() -> list[bytes]:
    checked = check_log(made_log("page.audit"))
    return [export_run(checked, "ab" * 32, identity("aurora"), datetime(2026, 12, 1, tzinfo=UTC))]


def kept_rounds(content: bytes) -> None:
    """What stands behind the seals of a server's state folder."""
    for kind in (KeptRound, KeptMargins, KeptModel):
        try:
            decode_kept(content, kind)
        except HansaError:
            continue


def sealed_state(content: bytes) -> object:
    return StateSealer(b"k" * 32, AGREEMENT, b"r" * 32, "aurora").open(1, 2, "margins", content)


@functools.cache
def shared_states() -> bytes:
    with SharedState(folder() / "shared.state", AGREEMENT, "aurora", b"w" * 32) as state:
        state.begin(b"r" * 32, (("aurora", b"k" * 32, 60, 10, b"\5"),))
        state.start(messages.Mark(1, b"c" * 32), b"setup", 5.0)
        state.keep(0, messages.Mark(2, b"d" * 32), b"margins", {0: b"trees"})
        own = state.path
    return own.read_bytes()


def shared_state(content: bytes) -> None:
    with SharedState(_state_file(content), AGREEMENT, "aurora", b"w" * 32) as state:
        for ask in (
            lambda: state.claim,
            lambda: state.roster,
            lambda: state.kept(2),
            lambda: (state.began, state.setup, state.model),
        ):
            try:
                ask()
            except HansaError:
                continue


def service_folder() -> Path:
    member_folder()
    return folder() / "member"


def service_file(content: bytes) -> None:
    path = service_folder() / "service.toml"
    path.write_bytes(content)
    read_place(path)
    read_service_file(path)


SERVICE = b"""identity = "aurora.identity"
members = "members.toml"
hub = "127.0.0.1:7465"
health = "127.0.0.1:7480"
policy = { least_mode = "secure-aggregation" }

[[sources]]
plans = ["cells-*"]
table = "aurora.csv"
"""


def back_up(content: bytes) -> None:
    own = service_folder()
    (own / "service.toml").write_bytes(SERVICE)
    service = read_service_file(own / "service.toml")
    shutil.rmtree(service.state, ignore_errors=True)
    store: Any = SimpleNamespace(runs=lambda: (), put=lambda _: None, close=lambda: None)
    read_backup(service, lambda: store, filed("aurora.tar", content))


def back_ups() -> list[bytes]:
    run = ServiceRun(
        run="ab12",
        proposal="ab" * 32,
        plan="cells",
        mode="federated",
        consortium="",
        command="party",
        folder="ab12",
        rounds=3,
    )
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:") as archive:
        for name, held in (
            ("runs.json", msgspec.json.encode([run])),
            ("ledger", b"{}\n"),
            ("runs/ab12/record.json", b"{}"),
        ):
            entry = tarfile.TarInfo(name)
            entry.size = len(held)
            archive.addfile(entry, io.BytesIO(held))
    return [made.getvalue()]


def proxy_url(content: bytes) -> None:
    read_proxy(content.decode("utf-8", "surrogateescape"))


TARGETS = (
    Target(
        "wire messages",
        message,
        lambda: [messages.encode(own) for own in samples()],
        (
            "protocol.messages.decode",
            "protocol.messages.decode_as",
            "protocol.messages.kind_of",
            "protocol.messages.to_array",
            "protocol.session.Session.decode",
        ),
    ),
    Target(
        "frames", frames, lambda: [framed(b"first", b"x" * 70_000, b"third")], ("transport.frames.FrameReader.read",)
    ),
    Target(
        "deliveries and notices",
        deliveries,
        conversation,
        ("transport.delivery.DeliveryState.take", "transport.delivery.read_notice"),
    ),
    Target(
        "a member's greeting",
        read_hello,
        lambda: [HELLO.pack(b"t" * 16, b"h" * 16, 3)],
        ("transport.delivery.read_hello",),
    ),
    Target(
        "a hub's greeting", read_welcome, lambda: [WELCOME.pack(b"h" * 16, 3)], ("transport.delivery.read_welcome",)
    ),
    Target(
        "sealed messages",
        seals,
        lambda: [Sealer(PairKey(b"k" * 32, "alba", "brix"), RUN, Algorithm.AES_256_CTR).seal("share", b"hidden")],
        ("secure.sealing.Opener.open",),
    ),
    Target(
        "fragments under a seal", fragments_under_a_seal, cut_for_a_seal, ("roles.secure_channel.SecureChannel.take",)
    ),
    Target(
        "a proxy's answer",
        proxy_answer,
        lambda: [b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 407 Who are you\r\nProxy-Authenticate: Basic\r\n\r\n"],
        ("transport.proxy.Proxy.open",),
    ),
    Target(
        "a proxy's address",
        proxy_url,
        lambda: [b"http://user:word@10.0.0.9:3128"],
        ("transport.proxy.read_proxy",),
        (ValueError,),
    ),
    Target(
        "members files",
        file_of(read_pinned, "members.toml"),
        lambda: [
            content_of(lambda path: write_members(path, members())),
            content_of(lambda path: write_consortium(path, nordic())),
        ],
        (
            "consortium.members.read_members",
            "consortium.versions.read_pinned",
            "consortium.versions.read_consortium",
            "toml.read_toml",
        ),
    ),
    Target(
        "versions of a consortium",
        version_of,
        lambda: [next_version(), nordic().head.payload],
        ("consortium.versions.read_consortium",),
    ),
    Target(
        "envelopes",
        file_of(read_envelope, "envelope.json"),
        lambda: [written(proposal().envelope)],
        ("consortium.envelopes.read_envelope", "consortium.envelopes.opened"),
    ),
    Target(
        "proposals and their approvals",
        resigned(use_agreed, "aurora", "plan.json"),
        lambda: [proposal().payload],
        ("consortium.approvals.read_proposal", "node.config.read_agreed", "consortium.approvals.proposal_of"),
    ),
    Target(
        "statements over the hub",
        exchanged,
        lambda: [written(proposal().envelope), reject(proposal(), identity("aurora"), "no")],
        ("service.proposals.take",),
    ),
    Target(
        "rejections and withdrawals",
        resigned(lambda path: read_rejection(path, proposal()), "borealis", "rejection.json"),
        lambda: [payload_of(reject(proposal(), identity("borealis"), "no"))],
        (
            "consortium.approvals.read_rejection",
            "consortium.approvals.rejection_of",
            "consortium.approvals.proposal_digest_of",
        ),
    ),
    Target(
        "statements in a folder",
        listed,
        lambda: [written(proposal().envelope), reject(proposal(), identity("borealis"), "no")],
        ("node.proposals.list_proposals", "node.proposals.withdrawals", "node.proposals.kind_of"),
    ),
    Target(
        "kinds of statements in a folder",
        resigned(lambda path: listed(path.read_bytes()), "aurora", "statement.json"),
        lambda: [proposal().payload, payload_of(reject(proposal(), identity("borealis"), "no"))],
        ("node.proposals.list_proposals",),
    ),
    Target(
        "provenance",
        resigned(
            lambda path: verify_model(filed("vouched.json", MODEL), [path], members()), "aurora", "provenance.json"
        ),
        lambda: [payload_of(content_of(lambda path: write_provenance(path, finished(MODEL), identity("aurora"))))],
        ("consortium.provenance.verify_model",),
    ),
    Target(
        "invitations",
        resigned(read_invitation, "hub", "invitation.json"),
        lambda: [payload_of(invitation()[0])],
        ("consortium.invitations.read_invitation",),
    ),
    Target(
        "answers to invitations",
        resigned(lambda path: read_answer(path, nordic(), identity("hub")), "cirrus", "answer.json"),
        lambda: [payload_of(answered())],
        ("consortium.invitations.read_answer",),
        examples=3,
    ),
    Target(
        "private keys",
        identity_file(IDENTITY_KEY_FILE),
        lambda: [private_pem(identity("aurora").identity_key, own) for own in (None, PASSPHRASE.encode())],
        ("consortium.identity.load_identity", "consortium.key_files.read_private_key"),
        examples=4,
    ),
    Target(
        "certificates",
        identity_file(CERTIFICATE_FILE),
        lambda: [(load_folder() / CERTIFICATE_FILE).read_bytes()],
        ("consortium.identity.load_identity",),
    ),
    Target(
        "cards",
        file_of(read_members, "card.toml"),
        lambda: [(load_folder() / CARD_FILE).read_bytes()],
        ("consortium.members.read_members", "consortium.members.card_of"),
    ),
    Target(
        "certificates in a card",
        lambda der: certificate_in_card(der),
        lambda: [identity("aurora").certificate],
        ("consortium.members.members_of",),
    ),
    Target(
        "key files",
        file_of(read_key_file, "aurora.key"),
        lambda: [b"c2l4IHdvcmRzIG9mIGEgZnV6emVy\n"],
        ("consortium.key_files.read_key_file",),
    ),
    Target(
        "where a token's key is",
        file_of(read_token_key, "identity_token.toml"),
        lambda: [
            b'module = "/no/such/library.so"\ntoken = "north"\nid = "ab"\npublic = ""\npin_file = "/no/such/pin"\n'
        ],
        ("consortium.tokens.read_token_key",),
    ),
    Target("PINs", file_of(read_pin, "north.pin"), lambda: [b"648219\n"], ("consortium.key_files.read_pin",)),
    Target(
        "typed texts",
        texts,
        lambda: [
            fingerprint(b"k" * 32).encode(),
            code_of(b"s" * 32).encode(),
            b"eta=0.1",
            b"eta=0.1,0.5,log",
            b"max_depth=[2,3]",
        ],
        (
            "consortium.identity.read_fingerprint",
            "consortium.words.read_words",
            "cli.option_types.Setting.convert",
            "cli.option_types.Search.convert",
        ),
    ),
    Target(
        "plans",
        file_of(use_plan, "plan.toml"),
        lambda: [SIGNED_PLAN.encode(), write_plan(plan()).encode()],
        (
            "plan.reading.read_plan",
            "plan.reading.parse_plan",
            "trees.parameters.parse_parameters",
            "declared.decode",
            "toml.parse_toml",
        ),
    ),
    Target(
        "members' own files and policies",
        member_file,
        lambda: [MEMBER],
        ("node.config.read_member_file", "node.config.read_rows_source", "node.config.read_policy"),
    ),
    Target("ledgers", ledger, lambda: [_whole_ledger()], ("consortium.ledger.Ledger",)),
    Target("an aggregator's state folder", hub_state, lambda: [states()[0]], ("node.state.AggregatorState",)),
    Target("a party's state folder", party_state, lambda: [states()[1]], ("node.state.PartyState",)),
    Target("values of a state folder", state_values, kept_values, ("node.state.AggregatorState",)),
    Target(
        "evidence",
        evidence_file,
        lambda: [content_of(lambda path: keep_evidence(path, evidence(("ShowRows", bytes(48)))))],
        ("node.evidence.read_evidence",),
    ),
    Target("broadcasts in evidence", signed_broadcasts, broadcasts, ("node.evidence.judge",)),
    Target("transcripts", transcript, recorded, ("transport.recording.read_transcript",)),
    Target(
        "models",
        model,
        lambda: [own_model(), *xgboost_models()],
        ("trees.xgboost_json.from_model_file", "trees.xgboost_json.from_json", "trees.ubjson.decode"),
    ),
    Target("model files", model_file, lambda: [own_model(), *xgboost_models()], ("prediction.read_model",)),
    Target(
        "descriptions",
        description,
        described,
        ("data.description.Description.from_json", "simulation.description.read_description"),
    ),
    Target(
        "audit logs",
        audit_log,
        lambda: [made_log("seed.audit").read_bytes()],
        ("consortium.audit_log.read_log", "consortium.audit_log.AuditLog"),
    ),
    Target(
        "entries of audit logs",
        audit_lines,
        lambda: made_log("seed.audit").read_bytes().splitlines(),
        ("consortium.audit_entries.read_line",),
        (ValueError,),
    ),
    Target("exported runs", page, pages, ("consortium.audit_page.check_page",)),
    Target(
        "rounds that a server keeps",
        kept_rounds,
        lambda: [encode_kept(KeptRound((), ()))],
        ("roles.shared.snapshots.decode",),
    ),
    Target(
        "sealed records of a state folder",
        sealed_state,
        lambda: [StateSealer(b"k" * 32, AGREEMENT, b"r" * 32, "aurora").seal(1, 2, "margins", b"shares")],
        ("secure.at_rest.StateSealer.open",),
    ),
    Target(
        "a coopetitive member's state folder",
        shared_state,
        lambda: [shared_states()],
        ("node.shared_state.SharedState",),
    ),
    Target(
        "services' files",
        service_file,
        lambda: [SERVICE],
        ("service.config.read_service_file", "service.config.read_place"),
    ),
    Target("back-ups", back_up, back_ups, ("service.backup.read_backup",)),
    Target("lines of --json and records", read_line, lines, ("node.events.read_line",), (msgspec.DecodeError,)),
)


def load_folder() -> Path:
    own = folder() / "seed.identity"
    if not own.exists():
        save_identity(identity("aurora"), own)
    return own


def certificate_in_card(der: bytes) -> object:
    """A certificate that its member signs into its card whatever it is."""
    from hansa.consortium.identity import Card

    own = replace(identity("aurora"), certificate=der)
    card = own.card()
    assert isinstance(card, Card)
    return members_of([card])
