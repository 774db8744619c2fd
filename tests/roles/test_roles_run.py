"""The loops that drive roles: at whatever end of a run, no key of it is left."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from conversation import Conversation
from hansa.errors import HansaError, LinkLost, ProtocolError, TransportError
from hansa.node.in_process import share_in_process, train_in_process
from hansa.protocol.messages import Abort, KeysConfirmed, Message, QuantiseGradients, decode, encode
from hansa.roles.run import LocalMemberRole, run_id, run_member
from hansa.secure.keys import PairKey, RunKeyPair
from hansa.secure.prg import KeyStream, NamedStreams
from hansa.secure.sealing import Opener, Sealer
from made_tables import NAMES, plan, spread, table
from shares import shared_plan

PARTIES = NAMES[:3]
HOLDERS = (PairKey, RunKeyPair, KeyStream, NamedStreams, Sealer, Opener)


class Interrupted(KeyboardInterrupt):
    """Somebody presses Ctrl-C, in a test."""


class OutOfMemory(MemoryError):
    """The system has no more, in a test."""


ENDS: dict[str, BaseException] = {
    "the line broke": LinkLost("the hub is gone"),
    "nothing came": TransportError("no frame from the hub in 5 s"),
    "a rule was broken": ProtocolError("member 'hub' broke a rule"),
    "the disk is full": HansaError("no room"),
    "a fault of ours": ZeroDivisionError("a fault"),
    "no memory": OutOfMemory(),
    "Ctrl-C": Interrupted(),
    "SIGTERM": SystemExit(143),
}


@pytest.fixture
def watched(monkeypatch) -> list[object]:
    """Everything that holds a key and is made from here on."""
    made: list[object] = []
    for kind in HOLDERS:
        first = kind.__init__

        def noted(self, *arguments, first=first, **named):
            made.append(self)
            first(self, *arguments, **named)

        monkeypatch.setattr(kind, "__init__", noted)
    return made


def living(made: list[object]) -> list[str]:
    """Which of them still hold a key."""
    gc.collect()
    found = []
    references = [sys.getrefcount(made[number]) for number in range(len(made))]
    alone = [object()]
    of_a_list = sys.getrefcount(alone[0])
    for each, held in zip(made, references, strict=True):
        match each:
            case RunKeyPair():
                alive = each._private is not None
            case KeyStream():
                # Of a stream nobody holds but this list, the cipher is freed with it.
                alive = each._encryptor is not None and held > of_a_list
            case NamedStreams():
                alive = any(each._key) or each._encryptor is not None or each._gcm is not None
            case PairKey():
                alive = each._key is not None
            case _:
                alive = any(each._key) or each._aead is not None
        if alive:
            found.append(type(each).__name__)
    return found


class Line:
    """A channel on which a run begins well: the member hears what the others say, until something ends it."""

    def __init__(self, received: list[bytes], end: BaseException, where: str) -> None:
        self._received = list(received)
        self._end = end
        self._where = where
        self.sent: list[bytes] = []

    def send(self, frame) -> None:
        if self._where == "sending" and not self._received:
            raise self._end
        self.sent.append(bytes(frame))

    def receive(self, timeout=None) -> memoryview:
        if not self._received:
            raise self._end
        return memoryview(self._received.pop(0))

    def close(self) -> None:
        """Nothing is open."""


def masked_run(upto: type[Message]) -> tuple[Conversation, list[bytes]]:
    """A run up to a message of the aggregator, and what a party received so far, that one included."""
    given = plan(PARTIES, mode="secure-aggregation", max_bin=16, rounds=2, max_depth=2)
    talk = Conversation(given, spread(table(120), np.arange(120) % 3))
    return talk, [encode(talk.until(upto, "borealis"))]


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
@pytest.mark.parametrize("where", ["receiving", "sending", "computing"])
@pytest.mark.parametrize("upto", [KeysConfirmed, QuantiseGradients])
def test_a_partys_keys_are_erased_however_its_run_ends(monkeypatch, upto, where, end):
    talk, received = masked_run(upto)
    party = talk.parties["borealis"]
    setup, masker = party._masking._setup, party._masking._masker
    mine = [*setup.keys.values(), *((streams for _, streams in masker._streams) if masker else ())]
    assert len(living(mine)) == len(mine) >= 2

    def fails(*_: object) -> Iterator[bytes]:
        raise end
        yield

    with monkeypatch.context() as patched:
        patched.setattr(party, "opening", lambda: iter(()))
        if where == "computing":
            patched.setattr(party, "_answer", fails)
        with pytest.raises(type(end)):
            run_member(party, Line(received, end, where))
    assert not living([*mine, setup._pair])
    with pytest.raises(ProtocolError, match="while the party was 'aborted'"):
        list(party.handle(memoryview(received[-1])))


def masked_in_process(wrap) -> None:
    given = plan(PARTIES, mode="secure-aggregation", rounds=2, max_depth=2)
    train_in_process(given, spread(table(120), np.arange(120) % 3), wrap=wrap)


def shared_in_process(wrap) -> None:
    share_in_process(shared_plan(PARTIES, rounds=1, max_depth=2), spread(table(120), np.arange(120) % 3), wrap=wrap)


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
@pytest.mark.parametrize("run", [masked_in_process, shared_in_process])
def test_a_run_in_one_process_leaves_no_key_however_it_ends(watched, run, end):
    with pytest.raises(TransportError if isinstance(end, LinkLost) else type(end)):
        run(Stopping(end, 40).around)
    assert len(watched) > 12
    assert not living(watched)


def test_a_run_that_ends_well_leaves_no_key(watched):
    masked_in_process(lambda hub: hub)
    shared_in_process(lambda hub: hub)
    assert len(watched) > 12
    assert not living(watched)


class Stopping:
    """A hub on which a run ends after some frames."""

    def __init__(self, end: BaseException, frames: int) -> None:
        self._end, self._left = end, frames

    def around(self, hub):
        self._hub = hub
        return self

    def receive(self, timeout=None):
        self._left -= 1
        if self._left < 0:
            raise self._end
        return self._hub.receive(timeout)

    def send(self, member, frame) -> None:
        self._hub.send(member, frame)


class Sayer:
    """A role that fails, and notes that its keys were erased."""

    done = False
    run = b""

    def __init__(self, fails: Callable[[], Iterator[bytes]]) -> None:
        self._fails = fails
        self.erased = 0

    def opening(self) -> Iterator[bytes]:
        return self._fails()

    def handle(self, frame: memoryview) -> Iterator[bytes]:
        return self._fails()

    def erase(self) -> None:
        self.erased += 1


def refuses() -> Iterator[bytes]:
    raise ProtocolError("member 'aurora' broke a rule " + "and again " * 10_000)
    yield


def test_a_local_member_that_waits_in_vain_or_is_given_up_erases_its_keys():
    role = Sayer(refuses)
    seat = LocalMemberRole(role, "hub", lambda: ["aurora"])
    assert isinstance(decode("hub", next(seat.waited(5.0))), Abort)
    assert role.erased == 1
    seat.erase()
    assert role.erased == 2


def test_a_long_reason_is_cut_before_it_is_sent():
    line = Line([], TransportError("enough"), "nowhere")
    role = Sayer(refuses)
    with pytest.raises(ProtocolError, match="broke a rule"):
        run_member(role, line)
    assert role.erased == 1
    told = decode("aurora", line.sent[-1])
    assert isinstance(told, Abort)
    assert len(told.reason) < 5000


def test_the_run_id_hangs_on_every_nonce_name_count_and_plan():
    roster = (("a", b"1" * 32, 5, 1, b""), ("b", b"2" * 32, 6, 2, b"\x01"))
    changed = [
        (("a", b"1" * 32, 5, 1, b""), ("b", b"3" * 32, 6, 2, b"\x01")),
        (("a", b"1" * 32, 5, 1, b""), ("c", b"2" * 32, 6, 2, b"\x01")),
        (("a", b"1" * 32, 5, 1, b""),),
        (("a", b"2" * 32, 5, 1, b""), ("b", b"1" * 32, 6, 2, b"\x01")),
        (("a", b"1" * 32, 4, 1, b""), ("b", b"2" * 32, 6, 2, b"\x01")),
        (("a", b"1" * 32, 5, 1, b""), ("b", b"2" * 32, 6, 3, b"\x01")),
        (("a", b"1" * 32, 5, 1, b""), ("b", b"2" * 32, 6, 2, b"\x00")),
    ]
    names = [run_id(b"p" * 32, one) for one in [roster, *changed]] + [run_id(b"q" * 32, roster)]
    assert len(set(names)) == len(names)
    assert {len(name) for name in names} == {32}
