"""A member's log: it only grows, proves it by an oracle that reads RFC 9162 alone, and shows every byte that was changed."""

from __future__ import annotations

import hashlib
import itertools
import multiprocessing
import os
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hansa.consortium.audit_checks import check_log, checked, report_of
from hansa.consortium.audit_entries import (
    CheckpointsSeen,
    Head,
    IdentityReplaced,
    LogBegun,
    RunRefused,
    read_line,
    written_line,
)
from hansa.consortium.audit_log import (
    SHOWN_PURPOSE,
    AuditLog,
    Checkpoint,
    Extension,
    lines_of,
    now,
    signed_checkpoint,
)
from hansa.consortium.identity import Identity, create_identity
from hansa.consortium.members import Members, Revoked, Standing, members_of
from hansa.errors import HansaError, IdentityError, StateError

NORTH = create_identity("north", days=1)
SOUTH = create_identity("south", days=1)
MEMBERS = members_of([NORTH.card(), SOUTH.card()])


def entry(rule: str) -> RunRefused:
    return RunRefused(at=now(), run="", kind="ProtocolError", rule=rule, member="south", suspects=())


def log_of(path, n_writings: int, each: int = 2) -> AuditLog:
    log = AuditLog(path, NORTH)
    for number in range(n_writings):
        log.append(*(entry(f"rule {number}.{place}") for place in range(each)))
    return log


def naive_root(leaves: list[bytes]) -> bytes:
    """RFC 9162, section 2.1.1, as it is written there."""
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    return hashlib.sha256(b"\x01" + naive_root(leaves[:k]) + naive_root(leaves[k:])).digest()


def leaves_of(path) -> list[bytes]:
    return [raw for _, line, raw in lines_of(path.read_bytes(), path) if not isinstance(line, Head)]


def test_the_root_is_that_of_the_rfc_at_every_size(tmp_path):
    log = log_of(tmp_path / "north.audit", 6)
    leaves = leaves_of(log.path)
    assert log.checkpoint == Checkpoint(naive_root(leaves[:1]), 13, naive_root(leaves))
    found = check_log(log.path)
    assert [found.root_of(size) for size in range(1, 14)] == [naive_root(leaves[:size]) for size in range(1, 14)]


def test_a_log_goes_on_where_it_was_and_is_its_owners_alone(tmp_path):
    path = tmp_path / "north.audit"
    before = log_of(path, 3).flush()
    assert path.stat().st_mode & 0o777 == 0o600
    again = AuditLog(path, NORTH)
    assert again.checkpoint == before
    again.append(entry("more"))
    assert again.extension(before.size, again.checkpoint.size).holds(before, again.checkpoint)


def test_two_processes_of_a_member_write_one_log(tmp_path):
    path = tmp_path / "north.audit"
    first, second = AuditLog(path, NORTH), AuditLog(path, NORTH)
    for number in range(3):
        first.append(entry(f"first {number}"))
        second.append(entry(f"second {number}"))
    assert second.checkpoint.size == 7
    assert report_of(check_log(path), pinned=False).entries == 7


@given(prior=st.integers(1, 20), size=st.integers(1, 20), data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_proof_holds_for_the_logs_that_it_is_of_and_no_others(tmp_path_factory, prior, size, data):
    prior, size = sorted((prior, size))
    log = log_of(tmp_path_factory.mktemp("log") / "a", 19, each=1)
    leaves = leaves_of(log.path)
    before, after = (Checkpoint(log.name, n, naive_root(leaves[:n])) for n in (prior, size))
    proof = log.extension(prior, size)
    assert proof.holds(before, after)
    other = data.draw(st.sampled_from([n for n in range(1, 20) if n != prior]))
    assert not proof.holds(Checkpoint(log.name, other, naive_root(leaves[:other])), after)
    rewritten = list(leaves)
    place = data.draw(st.integers(0, prior - 1))
    rewritten[place] += b" "
    assert not proof.holds(Checkpoint(log.name, prior, naive_root(rewritten[:prior])), after)
    short = Extension(proof.prior, proof.size, proof.rule, proof.subset, proof.path[:-1])
    assert not short.holds(before, after)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A log with a head of each kind of line, and what its member showed in it."""
    path = tmp_path_factory.mktemp("log") / "north.audit"
    log = log_of(path, 2)
    own, session = log.flush(), bytes(32)
    signature = NORTH.sign(SHOWN_PURPOSE, signed_checkpoint(session, "opening", "north", own))
    log.append(CheckpointsSeen(at=now(), phase="opening", session=session.hex(), shown={"north": own.shown(signature)}))
    log.append(entry("last"))
    return path


@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_every_byte_that_is_changed_is_found(written, data):
    content = written.read_bytes()
    place = data.draw(st.integers(0, len(content) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda b: b != content[place]))
    with pytest.raises(HansaError):
        checked(content[:place] + bytes([byte]) + content[place + 1 :], written, MEMBERS)


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_what_is_removed_or_put_in_between_is_found(written, data):
    content = written.read_bytes()
    lines = content.splitlines(keepends=True)
    first = data.draw(st.integers(0, len(content) - 1))
    last = data.draw(st.integers(first + 1, len(content)))
    at_heads = {sum(map(len, lines[: n + 1])) for n, line in enumerate(lines) if b'"line":"head"' in line}
    if not (
        last == len(content) and first in at_heads
    ):  # a log cut off at a head is an older one: others' checkpoints tell
        with pytest.raises(HansaError):
            checked(content[:first] + content[last:], written, MEMBERS)
    with pytest.raises(HansaError):
        checked(content[:first] + content[first:last] + content[first:], written, MEMBERS)


@given(order=st.permutations(range(12)))
@settings(max_examples=50, deadline=None)
def test_lines_in_another_order_are_found(written, order):
    lines = written.read_bytes().splitlines(keepends=True)
    assert len(lines) == 12
    mixed = [lines[place] for place in order]
    if mixed != lines:
        with pytest.raises(HansaError):
            checked(b"".join(mixed), written, MEMBERS)


def test_an_error_names_the_line(written, tmp_path):
    lines = written.read_bytes().splitlines(keepends=True)
    lines[3] = lines[3].replace(b"rule 0.1", b"rule 0.9")
    path = tmp_path / "altered.audit"
    path.write_bytes(b"".join(lines))
    with pytest.raises(
        StateError, match=r"altered.audit, line 5: the log was altered .* other entries than the 3 before it"
    ):
        check_log(path)


def test_what_a_loss_of_power_cut_off_goes_and_nothing_else(tmp_path):
    path = tmp_path / "north.audit"
    before = log_of(path, 2).checkpoint
    whole = path.read_bytes()
    for torn in (written_line(entry("lost")) + b"\n", b'{"at":"20', whole.splitlines()[-1]):
        path.write_bytes(whole + torn)
        with pytest.raises(StateError, match="altered or is damaged"):
            check_log(path)
        assert AuditLog(path, NORTH).checkpoint == before
        assert path.read_bytes() == whole


def test_a_damaged_log_is_not_gone_on_with(tmp_path):
    path = tmp_path / "north.audit"
    log_of(path, 2)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"rule 0.0", b"rule 9.0"))
    with pytest.raises(StateError, match=r"line 8: .*other entries"):
        AuditLog(path, NORTH)
    path.write_bytes(content)
    path.chmod(0o644)
    with pytest.raises(StateError, match="chmod 600"):
        AuditLog(path, NORTH)


def test_a_log_that_becomes_shorter_while_it_is_open_is_noticed(tmp_path):
    path = tmp_path / "north.audit"
    log = log_of(path, 2)
    os.truncate(path, 100)
    with pytest.raises(StateError, match="became shorter"):
        log.append(entry("more"))


def test_the_log_of_another_identity_is_refused_once_it_was_shown(written, tmp_path):
    path = tmp_path / "north.audit"
    log_of(path, 1)
    other = create_identity("north", days=1)
    assert AuditLog(path, other).checkpoint.size == 1  # nobody holds anything of the one before
    path.write_bytes(written.read_bytes())
    for identity in (other, SOUTH):
        with pytest.raises(StateError, match=r"not the log of member .*new_logs"):
            AuditLog(path, identity)
    with pytest.raises(IdentityError, match="another identity than the members file"):
        check_log(path, members_of([other.card(), SOUTH.card()]))


def test_a_log_goes_on_under_the_key_that_its_member_took(written, tmp_path):
    path, new = tmp_path / "north.audit", create_identity("north", days=1)
    path.write_bytes(written.read_bytes())
    path.chmod(0o600)
    before = AuditLog(path, NORTH).checkpoint
    with pytest.raises(StateError, match="or one that it had before by the members file"):
        AuditLog(path, new)
    log = AuditLog(path, new, lambda key: key == NORTH.public)
    assert log.checkpoint.log == before.log
    assert log.extension(before.size, log.checkpoint.size).holds(before, log.checkpoint)
    log.append(entry("more"))
    log.close()
    AuditLog(path, new, lambda key: key == NORTH.public).close()  # says so once
    found = check_log(path)
    assert found.identity == new.public
    assert [type(entry).__name__ for entry in found.entries].count("IdentityReplaced") == 1
    with pytest.raises(StateError, match="is not the log of member"):
        AuditLog(path, NORTH, lambda key: False)


def test_runs_under_a_former_key_and_under_the_present_one_write_into_one_log(written, tmp_path):
    """A run that began before its member took another key goes on beside those that began since."""
    path, new = tmp_path / "north.audit", create_identity("north", days=1)
    path.write_bytes(written.read_bytes())
    path.chmod(0o600)
    keys = {NORTH.public, new.public}
    before, since = (AuditLog(path, identity, keys.__contains__) for identity in (NORTH, new))
    for number in range(3):
        before.append(entry(f"before-{number}"))
        since.append(entry(f"since-{number}"), entry(f"more-{number}"))
    before.append(entry("last"))
    pinned = Members({"north": new.card()}, Standing("n", ("ab",), frozenset(), {NORTH.public: "north"}, {}, {}))
    found = check_log(path, pinned)
    assert found.identity == NORTH.public
    assert [type(each).__name__ for each in found.entries].count("IdentityReplaced") == 8
    lost = replace(pinned.standing, earlier={}, revoked={NORTH.public: Revoked("north", 2, "stolen")})
    with pytest.raises(IdentityError, match="another identity than the members file"):
        check_log(path, replace(pinned, standing=lost))


def test_two_processes_of_two_keys_write_into_one_log_at_once(written, tmp_path):
    """Neither loses an entry of the other, and all heads hold, whoever writes when."""
    path, new = tmp_path / "north.audit", create_identity("north", days=1)
    path.write_bytes(written.read_bytes())
    path.chmod(0o600)
    before, keys, own = len(checked(path.read_bytes(), path).entries), {NORTH.public, new.public}, 40
    ready = multiprocessing.get_context("fork").Barrier(2)

    def write(identity: Identity, name: str) -> None:
        log = AuditLog(path, identity, keys.__contains__)
        ready.wait(60)
        for number in range(own):
            log.append(*(entry(f"{name}-{number}-{place}") for place in range(number % 3 + 1)))
        os._exit(0)

    writers = [
        multiprocessing.get_context("fork").Process(target=write, args=(identity, name))
        for identity, name in ((NORTH, "before"), (new, "since"))
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(120)
    assert [writer.exitcode for writer in writers] == [0, 0]
    found = check_log(path)
    more = found.entries[before:]
    for name in ("before", "since"):
        of = [each.rule for each in more if isinstance(each, RunRefused) and each.rule.startswith(name)]
        assert of == [f"{name}-{number}-{place}" for number in range(own) for place in range(number % 3 + 1)]
    changes = [each.identity for each in more if isinstance(each, IdentityReplaced)]
    assert changes
    assert all(one != other for one, other in itertools.pairwise(changes))


def test_a_head_of_another_key_is_found_where_no_entry_says_that_it_was_taken(written, tmp_path):
    path, new = tmp_path / "north.audit", create_identity("north", days=1)
    path.write_bytes(written.read_bytes())
    path.chmod(0o600)
    AuditLog(path, new, lambda key: key == NORTH.public).close()
    lines = path.read_bytes().splitlines(keepends=True)
    with pytest.raises(StateError):
        checked(b"".join(lines[:-2] + lines[-1:]), path)


def test_a_line_has_one_way_of_writing():
    line = written_line(entry("r"))
    assert read_line(line) == entry("r")
    for other in (line.replace(b":", b": "), line.replace(b"south", b"\\u0073outh"), line[:-1] + b',"more":1}'):
        with pytest.raises(ValueError):
            read_line(other)
    begun = LogBegun(at=now(), member="north", identity=NORTH.public.hex(), nonce="0" * 64)
    assert read_line(written_line(begun)) == begun
