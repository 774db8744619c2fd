"""The state folder of a member of a coopetitive run: what it keeps, how, and for how long."""

from __future__ import annotations

import resource
import sqlite3
import stat
import subprocess
import sys

import pytest

from hansa.errors import OutputError, StateError
from hansa.node.shared_state import SharedState
from hansa.protocol.messages import Mark

AGREEMENT, RUN = bytes(32), bytes([7]) * 32
ROSTER = (("aurora", bytes(32), 5, 0, b""),)


def state(folder, member="aurora", rows=b"rows"):
    return SharedState(folder, AGREEMENT, member, rows)


def chain(number):
    return Mark(number, bytes([number]) * 32)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "aurora.state"


@pytest.fixture
def rounds(folder):
    """A server's folder after three rounds."""
    with state(folder) as own:
        own.begin(RUN, ROSTER)
        own.start(chain(1), b"setup")
        for number in range(3):
            own.keep(0, chain(number + 2), b"margins %d" % number, {number: b"trees %d" % number})
    return folder


def test_a_folder_is_its_owners_alone_and_so_is_the_key(rounds):
    assert stat.S_IMODE(rounds.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in rounds.iterdir()} == {0o600}
    assert {path.suffix for path in rounds.iterdir()} == {".sqlite", ".key"}


def test_nothing_secret_stands_in_the_database(rounds):
    content = b"".join(path.read_bytes() for path in rounds.iterdir())
    assert b"margins 2" not in content
    assert b"trees 2" not in content
    assert b"setup" in content, "the start is told to all owners and receivers"


def test_two_checkpoints_and_all_trees_are_kept(rounds):
    with state(rounds) as own:
        assert own.kept(4) == (b"margins 2", [b"trees 0", b"trees 1", b"trees 2"])
        assert own.kept(3) == (b"margins 1", [b"trees 0", b"trees 1"])
        with pytest.raises(StateError, match="lacks checkpoint 2"):
            own.kept(2)
        claim = own.claim
        assert (claim.checkpoint, claim.before, claim.head, claim.now) == (4, chain(3), chain(4), chain(3))
        own.settle(chain(4))
        assert own.claim.now == chain(4)
        assert own.setup == b"setup"
        assert own.roster == ROSTER


def test_a_later_epoch_writes_all_trees_anew_and_the_checkpoint_before_keeps_its_own(rounds):
    with state(rounds) as own:
        own.forget_after(3)
        assert own.claim.head == chain(3)
        own.keep(1, chain(4), b"new margins", {number: b"new trees %d" % number for number in range(3)})
        assert own.kept(4) == (b"new margins", [b"new trees 0", b"new trees 1", b"new trees 2"])
        assert own.kept(3) == (b"margins 1", [b"trees 0", b"trees 1"])
        own.keep(1, chain(5), b"newer", {3: b"new trees 3"})
        assert own.kept(5)[1] == [b"new trees %d" % number for number in range(4)]
        assert {epoch for (epoch,) in own._run("SELECT epoch FROM rounds")} == {1}


def test_claims_before_there_are_rounds(folder):
    with state(folder) as own:
        assert own.claim is None
        assert len(own.nonce) == 32
        nonce = own.nonce
        own.begin(RUN, ROSTER)
        claim = own.claim
        assert (claim.checkpoint, claim.before, claim.head, claim.now) == (0, None, Mark(0, RUN), Mark(0, RUN))
        own.start(chain(1), b"")
        assert own.claim.head == chain(1)
        assert own.claim.now == own.claim.before == Mark(0, RUN)
    with state(folder) as own:
        assert own.nonce == nonce, "the run's id has it"
    assert not list(folder.glob("*.key")), "a member that keeps nothing secret has no key"


@pytest.mark.parametrize(
    "statement", ["UPDATE margins SET sealed = zeroblob(100)", "DELETE FROM rounds WHERE number = 0"]
)
def test_a_damaged_folder_is_refused(rounds, statement):
    with sqlite3.connect(next(rounds.glob("*.sqlite"))) as database:
        database.execute(statement)
    database.close()
    with state(rounds) as own, pytest.raises(StateError, match="restore it"):
        own.kept(4)


def test_another_key_or_an_open_one_is_refused(rounds):
    (key,) = rounds.glob("*.key")
    key.chmod(0o644)
    with state(rounds) as own, pytest.raises(StateError, match="others can read this key; run: chmod 600"):
        own.kept(4)
    key.chmod(0o600)
    key.write_bytes(bytes(range(32)))
    with state(rounds) as own, pytest.raises(StateError, match="the key is another one"):
        own.kept(4)
    key.write_bytes(b"")
    with state(rounds) as own, pytest.raises(StateError, match="has 0 bytes; expected 32"):
        own.kept(4)


def test_records_do_not_change_places(rounds):
    """Each opens as the one that it was sealed as."""
    with state(rounds) as own:
        own._run("UPDATE rounds SET sealed = (SELECT sealed FROM rounds WHERE number = 1) WHERE number = 0")
        with pytest.raises(StateError, match="holds no trees of checkpoint 0"):
            own.kept(4)


def test_other_rows_and_another_member_are_refused(rounds):
    with pytest.raises(StateError, match="not those that the run began with, in their order"):
        state(rounds, rows=b"others")
    with pytest.raises(StateError, match="is not a state of member 'dune'"):
        state(rounds, member="dune")


def test_the_key_is_zeroed_and_everything_goes_at_the_end(rounds, monkeypatch):
    written = {}
    (key,) = rounds.glob("*.key")
    unlink = type(key).unlink

    def watched(path, *given, **named):
        if path.suffix == ".key":
            written[path.name] = path.read_bytes()
        return unlink(path, *given, **named)

    monkeypatch.setattr(type(key), "unlink", watched)
    with state(rounds) as own:
        own.remove()
    assert written == {key.name: bytes(32)}
    assert not rounds.exists()


def test_the_model_of_a_receiver_and_what_an_owner_was_asked(folder):
    with state(folder) as own:
        own.begin(RUN, ROSTER)
        assert own.model is None
        own.finish(b"model")
        own.answer(1, b"digest")
    with state(folder) as own:
        assert own.model == b"model"
        assert own.asked(1) == b"digest"
        assert own.asked(2) is None


FULL = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_node_shared_state import RUN, ROSTER, chain, state
from hansa.errors import OutputError
own = state(Path(sys.argv[2]))
try:
    own.begin(RUN, ROSTER)
    for number in range(100):
        own.keep(0, chain(number + 2), bytes(20_000), {number: bytes(5_000)})
except OutputError as error:
    print(error.retry, error)
"""


def test_a_full_disk_is_said_and_what_was_kept_before_stays(folder):
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(__file__.rpartition("/")[0]), str(folder)],
        capture_output=True, text=True, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (250_000, 250_000)),
    )  # fmt: skip
    assert done.stdout.startswith("True "), (done.stdout, done.stderr)
    assert "the state of the run cannot be kept" in done.stdout
    with state(folder) as own:
        checkpoint = own.claim.checkpoint
        assert checkpoint >= 3
        content, trees = own.kept(checkpoint)
        assert (len(content), len(trees)) == (20_000, checkpoint - 1)


def test_a_key_that_a_full_disk_cut_off_is_made_again(folder, monkeypatch):
    with state(folder) as own:
        own.begin(RUN, ROSTER)
        monkeypatch.setattr("hansa.node.shared_state.fresh_key", lambda: (_ for _ in ()).throw(OSError(28, "No space")))
        with pytest.raises(OutputError, match="cannot be kept"):
            own.keep(0, chain(2), b"margins", {0: b"trees"})
        monkeypatch.undo()
        own.keep(0, chain(2), b"margins", {0: b"trees"})
        assert own.kept(2) == (b"margins", [b"trees"])
