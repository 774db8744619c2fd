"""Whole runs over real TLS sockets, on lines that record, are slow, or break their promises.

TLS keeps the promises of `transport.channel`; `FaultyHub` breaks them behind TLS's back, as a faulty release
or a lying member could. Whatever is lost, said twice, cut off or out of order, a run ends with the model that
all rows give or in an error that names the member; it never hangs. A bit that flips inside a number behind TLS
is a lie that sums cannot show; on the line TLS sees it, which the relay proves.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import pytest

from faults import (
    DelayingHub,
    FaultyHub,
    dropping,
    duplicating,
    flipping,
    replacing,
    swapping,
    truncating,
)
from hansa.consortium.identity import create_identity
from hansa.errors import HansaError
from hansa.node.in_process import train_in_process
from hansa.protocol.messages import Contribution, SplitNodes, decode
from hansa.roles.run import run_hub, run_member
from hansa.roles.summed.aggregator import Aggregator
from hansa.roles.summed.outcome import Outcome
from hansa.roles.summed.party import Party
from hansa.transport.channel import Channel, Hub
from hansa.transport.credentials import Credentials
from hansa.transport.recording import RecordingChannel, RecordingHub, read_transcript
from hansa.transport.tls import TlsChannel
from hansa.transport.tls_hub import TlsHub
from made_tables import NAMES, OPEN, plan, spread, table
from waiting import HANG_S

PARTIES = NAMES[:3]
VICTIM = "borealis"
PLAN = plan(PARTIES, rounds=2, max_depth=2, evaluation=0.2)
QUIET_S = 0.6
"""The hub gives a run up after so long without a frame, where one was lost."""

Wrap = Callable[[Hub], Hub]


@dataclass(frozen=True)
class End:
    """How a run ended for each member: the aggregator's outcome or error, each party's model or error."""

    outcome: Outcome | None
    error: HansaError | None
    models: dict[str, bytes | None]
    errors: dict[str, HansaError]


@pytest.fixture(scope="module")
def tables():
    return spread(table(120), np.arange(120) % 3)


@pytest.fixture(scope="module")
def expected(tables) -> bytes:
    """The model that the rows give."""
    return train_in_process(PLAN, tables).outcome.model


class Circle:
    """Members with identities, who can run the plan over loopback."""

    def __init__(self, tables) -> None:
        self.tables = tables
        self.identities = {name: create_identity(name) for name in ("hub", *PARTIES)}
        self.certificates = {name: identity.certificate for name, identity in self.identities.items()}

    def credentials(self, name: str) -> Credentials:
        own = self.identities[name]
        return Credentials(name, own.certificate, own.tls_key, self.certificates)

    def run(
        self,
        wrap: Wrap = lambda hub: hub,
        member_wrap: Callable[[str, Channel], Channel] = lambda name, channel: channel,
        relays: dict[str, Callable[[int], int]] | None = None,
        given=PLAN,
        quiet_s: float = HANG_S,
    ) -> End:
        """Run the plan; `relays` puts something between a member and the hub's port."""
        inner = TlsHub.listen(self.credentials("hub"), "127.0.0.1", 0, allowed=PARTIES)
        aggregator = Aggregator(given)
        error = None
        with ThreadPoolExecutor(len(PARTIES)) as pool:
            futures: dict[str, Future[bytes | None]] = {}
            for name in PARTIES:
                port = (relays or {}).get(name, lambda port: port)(inner.port)
                futures[name] = pool.submit(self._take_part, name, given, port, member_wrap)
            hub = wrap(inner)
            try:
                inner.wait_for(PARTIES, HANG_S)
                run_hub(aggregator, hub, quiet_s)
            except HansaError as raised:
                error = raised
            finally:
                hub.close()
            models: dict[str, bytes | None] = {}
            errors: dict[str, HansaError] = {}
            for name, future in futures.items():
                raised_there = future.exception(HANG_S)  # TimeoutError where a party hangs
                if raised_there is None:
                    models[name] = future.result()
                else:
                    assert isinstance(raised_there, HansaError), repr(raised_there)
                    errors[name] = raised_there
        return End(aggregator.outcome, error, models, errors)

    def _take_part(self, name: str, given, port: int, wrap) -> bytes | None:
        party = Party(given, name, self.tables[name], nonce=name.encode().ljust(32), nodes_per_frame=1, policy=OPEN)
        channel = wrap(name, TlsChannel.connect(self.credentials(name), "hub", "127.0.0.1", port))
        try:
            run_member(party, channel)
        finally:
            channel.close()
        return party.model


@pytest.fixture(scope="module")
def circle(tables) -> Circle:
    return Circle(tables)


def assert_right(end: End, expected: bytes) -> None:
    """Everybody holds the model of the rows."""
    assert end.error is None
    assert not end.errors
    assert set(end.models.values()) == {expected}
    assert end.outcome is not None
    assert end.outcome.model == expected


def assert_blamed_or_right(end: End, expected: bytes) -> None:
    """An error that names the victim, or the right model; never another model, at any member."""
    assert {model for model in end.models.values() if model is not None} <= {expected}
    if end.error is None:
        assert_right(end, expected)
        return
    assert VICTIM in str(end.error) or "no frame from any member" in str(end.error), end.error
    for name, error in end.errors.items():
        assert str(error), name


# --- lines that keep their promises ------------------------------------------------------------------------


def test_over_tls_the_model_is_the_one_of_one_process(circle, expected):
    assert_right(circle.run(), expected)


def test_both_ends_record_the_same_frames(circle, expected, tmp_path):
    end = circle.run(
        wrap=lambda hub: RecordingHub(hub, tmp_path, "hub"),
        member_wrap=lambda name, channel: RecordingChannel(channel, tmp_path, name),
    )
    assert_right(end, expected)
    at_hub = list(read_transcript(tmp_path / "hub.frames"))
    for name in PARTIES:
        own = list(read_transcript(tmp_path / f"{name}.frames"))
        for direction in ("up", "down"):
            here = [record.frame for record in own if record.direction == direction]
            there = [r.frame for r in at_hub if r.direction == direction and r.member == name]
            assert here == there, (name, direction)
        assert {record.member for record in own} == {name}
        assert not any(isinstance(decode("hub", r.frame), Contribution) for r in own if r.direction == "down")


def test_a_slow_line_costs_a_round_trip_for_each_exchange_and_changes_nothing(circle, expected):
    started = time.monotonic()
    slow = circle.run(wrap=lambda hub: DelayingHub(hub, 0.05))
    assert_right(slow, expected)
    assert slow.outcome is not None
    # Setting up takes four requests at least, and leaving one.
    assert time.monotonic() - started > 0.05 * (slow.outcome.exchanges + 4)
    assert slow.outcome.exchanges == 2 * PLAN.parameters.max_depth + 2


def test_a_line_that_is_recorded_and_slow(circle, expected, tmp_path):
    end = circle.run(wrap=lambda hub: RecordingHub(DelayingHub(hub, 0.01), tmp_path, "hub"))
    assert_right(end, expected)
    kinds = [type(decode("hub", r.frame)) for r in read_transcript(tmp_path / "hub.frames")]
    assert kinds.count(SplitNodes) == 2 * PLAN.parameters.max_depth * len(PARTIES)


# --- lines that break them ---------------------------------------------------------------------------------

EARLY_TO_LATE = range(14)


@pytest.mark.parametrize("direction", ["sending", "receiving"])
@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(duplicating, id="twice"),
        pytest.param(lambda place: truncating(place, 9), id="cut off early"),
        pytest.param(lambda place: truncating(place, -1), id="last byte lost"),
        pytest.param(lambda place: flipping(place, 3), id="bit flipped in the first byte"),
        pytest.param(lambda place: replacing(place, b"\x80"), id="empty map"),
        pytest.param(lambda place: replacing(place, b"\xff" * 50), id="noise"),
    ],
)
def test_a_spoilt_frame_ends_the_run_by_name(circle, expected, fault, direction):
    for place in EARLY_TO_LATE:
        end = circle.run(wrap=lambda hub, p=place: FaultyHub(hub, **{direction: {VICTIM: fault(p)}}))
        assert_blamed_or_right(end, expected)
        assert end.error is not None, f"frame {place} was spoilt and nobody noticed"
        assert VICTIM in str(end.error), f"frame {place}: {end.error}"


@pytest.mark.parametrize("direction", ["sending", "receiving"])
@pytest.mark.parametrize("fault", [dropping, swapping])
@pytest.mark.parametrize("place", [0, 2, 9])
def test_a_lost_or_late_frame_ends_the_run_in_time(circle, expected, fault, direction, place):
    end = circle.run(wrap=lambda hub: FaultyHub(hub, **{direction: {VICTIM: fault(place)}}), quiet_s=QUIET_S)
    assert_blamed_or_right(end, expected)
    assert end.error is not None
    assert set(end.errors) == set(PARTIES), "a party believes that the run went well"


@pytest.mark.parametrize("direction", ["sending", "receiving"])
def test_bits_flipped_in_numbers_never_part_the_members(circle, direction):
    """A lie may pass, but then everybody holds one and the same model; else the run ends and says why."""
    draw = np.random.Generator(np.random.PCG64(3))
    noticed = 0
    for _ in range(25):
        place, bit = int(draw.integers(0, 14)), int(draw.integers(0, 8 * 300))
        end = circle.run(
            wrap=lambda hub, p=place, b=bit: FaultyHub(hub, **{direction: {VICTIM: flipping(p, b)}}),
        )
        if end.error is None:
            assert not end.errors
            assert len(set(end.models.values())) == 1
        else:
            noticed += 1
            # Cut counts are checked once they are summed: then it is known that somebody lied, not who.
            assert VICTIM in str(end.error) or "a party counted" in str(end.error), (place, bit, end.error)
    assert noticed


def test_a_party_that_hangs_up_ends_the_run_for_all(circle):
    class Leaving:
        """A channel that closes after some frames."""

        def __init__(self, channel: Channel) -> None:
            self._channel, self._left = channel, 9

        def send(self, frame) -> None:
            self._left -= 1
            if self._left == 0:
                self._channel.close()
            self._channel.send(frame)

        def receive(self, timeout=None) -> memoryview:
            return self._channel.receive(timeout)

        def close(self) -> None:
            self._channel.close()

    end = circle.run(member_wrap=lambda name, channel: Leaving(channel) if name == VICTIM else channel)
    assert VICTIM in str(end.error)
    for name in set(PARTIES) - {VICTIM}:
        assert VICTIM in str(end.errors[name]), "the others are told who left"
    assert not end.models


# --- what happens to the bytes of TLS itself ---------------------------------------------------------------


@pytest.fixture
def relay() -> Iterator[Callable[..., Callable[[int], int]]]:
    """Makes relays between a member and the hub: relay(spoil)(port of the hub) is the port to dial."""
    open_sockets: list[socket.socket] = []

    def make(spoil: Callable[[int, bytes], bytes | None]) -> Callable[[int], int]:
        def between(port: int) -> int:
            listener = socket.create_server(("127.0.0.1", 0))
            open_sockets.append(listener)
            threading.Thread(target=serve, args=(listener, port), daemon=True).start()
            return int(listener.getsockname()[1])

        def serve(listener: socket.socket, port: int) -> None:
            near, _ = listener.accept()
            far = socket.create_connection(("127.0.0.1", port))
            open_sockets.extend((near, far))
            threading.Thread(target=pump, args=(far, near, lambda _, data: data), daemon=True).start()
            pump(near, far, spoil)

        def pump(source: socket.socket, sink: socket.socket, change) -> None:
            passed = 0
            try:
                while data := source.recv(65536):
                    changed = change(passed, data)
                    if changed is None:
                        break
                    passed += len(data)
                    sink.sendall(changed)
                sink.shutdown(socket.SHUT_WR)
            except OSError:
                return  # either end hung up, which is what these tests are about

        return between

    yield make
    for each in open_sockets:
        each.close()


def flipped(at: int) -> Callable[[int, bytes], bytes]:
    """Flip a bit of the byte at this place of the stream."""

    def change(passed: int, data: bytes) -> bytes:
        if not passed <= at < passed + len(data):
            return data
        changed = bytearray(data)
        changed[at - passed] ^= 1
        return bytes(changed)

    return change


def test_an_honest_relay_changes_nothing(circle, expected, relay):
    assert_right(circle.run(relays={VICTIM: relay(lambda _, data: data)}), expected)


@pytest.mark.parametrize("at", [3_000, 10_000, 40_000])
def test_a_bit_flipped_on_the_line_is_noticed(circle, relay, at):
    end = circle.run(relays={VICTIM: relay(flipped(at))})
    assert VICTIM in str(end.error), end.error
    assert not end.models


def test_a_line_that_is_cut_is_noticed(circle, relay):
    end = circle.run(relays={VICTIM: relay(lambda passed, data: data if passed < 20_000 else None)})
    assert VICTIM in str(end.error), end.error
    assert not end.models


# --- members that do not agree -----------------------------------------------------------------------------


def test_a_party_with_another_plan_is_named_and_nobody_trains(circle, monkeypatch):
    other = replace(PLAN, min_cell_rows=PLAN.min_cell_rows + 1)
    take_part = circle._take_part
    monkeypatch.setattr(
        circle,
        "_take_part",
        lambda name, given, port, wrap: take_part(name, other if name == VICTIM else given, port, wrap),
    )
    end = circle.run()
    assert VICTIM in str(end.error)
    assert "another plan" in str(end.error)
    assert set(end.errors) == set(PARTIES)
