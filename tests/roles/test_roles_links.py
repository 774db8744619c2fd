"""Whole runs over mutual TLS on lines that are cut again and again: the model stays, no mask is used twice.

Every party dials through a line of its own, cut at bytes that a seed chooses: inside handshakes, greetings, heads and frames, in
both directions, by resets and by ends of file.
"""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

import hansa.roles.summed.sum_masking
import hansa.secure.masking
from cutting_line import Cut, CuttingLine, drawn_cuts
from hansa.consortium.identity import create_identity
from hansa.errors import HansaError
from hansa.node.in_process import train_in_process
from hansa.protocol.messages import Contribution, decode
from hansa.roles.run import run_hub, run_member
from hansa.roles.summed.aggregator import Aggregator
from hansa.roles.summed.outcome import Outcome
from hansa.roles.summed.party import Party
from hansa.roles.summed.sum_masking import Signer
from hansa.secure.masking import Label, Masker
from hansa.transport.credentials import Credentials
from hansa.transport.delivery import HEAD
from hansa.transport.recording import RecordingHub, read_transcript
from hansa.transport.resumable import ResumableChannel, ResumableHub
from hansa.transport.tls import TlsChannel
from hansa.transport.tls_hub import TlsHub
from made_tables import NAMES, OPEN, plan, spread, table
from waiting import HANG_S

PARTIES = NAMES[:3]
VICTIM = "borealis"
PLAN = plan(PARTIES, rounds=4, max_depth=3, evaluation=0.2, eval_metric=["auc", "logloss"])
MODES = ("federated", "secure-aggregation")


@dataclass(frozen=True)
class End:
    """How a run ended for each member, and its lines."""

    outcome: Outcome | None
    error: HansaError | None
    models: dict[str, bytes | None]
    errors: dict[str, HansaError]
    lines: dict[str, CuttingLine]
    reconnections: int


@dataclass
class Wire:
    """Every numbered frame that was written to a connection: (direction, member) -> number -> contents, once each time."""

    written: dict[tuple[str, str], dict[int, list[bytes]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )

    def note(self, direction: str, member: str, head: bytes, frame) -> None:
        if head:
            number, _ = HEAD.unpack(head)
            self.written[direction, member][number].append(bytes(frame))

    @property
    def resent(self) -> int:
        return sum(len(copies) - 1 for numbers in self.written.values() for copies in numbers.values())


@pytest.fixture
def wire(monkeypatch) -> Wire:
    """Watches what is written below `transport.resumable`."""
    seen = Wire()
    channel_send, hub_send = TlsChannel.send, TlsHub.send

    def send_up(self, frame, head=b""):
        seen.note("up", threading.current_thread().name, head, frame)
        channel_send(self, frame, head)

    def send_down(self, member, frame, head=b""):
        seen.note("down", member, head, frame)
        hub_send(self, member, frame, head)

    monkeypatch.setattr(TlsChannel, "send", send_up)
    monkeypatch.setattr(TlsHub, "send", send_down)
    return seen


class Circle:
    """Members with identities, who run a plan through lines that are cut."""

    def __init__(self) -> None:
        self.tables = spread(table(240), np.arange(240) % 3)
        self.identities = {name: create_identity(name) for name in ("hub", *PARTIES)}
        self.pinned = {name: identity.public for name, identity in self.identities.items()}

    def credentials(self, name: str) -> Credentials:
        certificates = {name: identity.certificate for name, identity in self.identities.items()}
        own = self.identities[name]
        return Credentials(name, own.certificate, own.tls_key, certificates)

    def run(
        self,
        mode: str,
        cuts: dict[str, list[Cut]],
        *,
        reconnect_timeout_s: float = HANG_S,
        run: int = 0,
        transcript: Path | None = None,
        breaks: str = "",
    ) -> End:
        given = replace(PLAN, mode=mode)
        inner = ResumableHub.listen(
            self.credentials("hub"), "127.0.0.1", 0, allowed=PARTIES, reconnect_timeout_s=reconnect_timeout_s
        )
        hub = inner if transcript is None else RecordingHub(inner, transcript)
        aggregator = Aggregator(given, identities={} if mode == "federated" else self.pinned)
        lines = {name: CuttingLine(inner.port, cuts.get(name, ()), breaks=name == breaks) for name in PARTIES}
        error = None
        with ThreadPoolExecutor(len(PARTIES)) as pool:
            futures = {
                name: pool.submit(self._take_part, name, given, lines[name].port, reconnect_timeout_s, run)
                for name in PARTIES
            }
            try:
                inner.wait_for(PARTIES, HANG_S)
                run_hub(aggregator, hub, HANG_S)
            except HansaError as raised:
                error = raised
            finally:
                hub.close()
            models, errors = self._ends(futures)
        for line in lines.values():
            line.close()
        return End(aggregator.outcome, error, models, errors, lines, inner.reconnections)

    def _take_part(self, name: str, given, port: int, reconnect_timeout_s: float, run: int) -> bytes | None:
        threading.current_thread().name = name
        signer = None if given.mode == "federated" else Signer(self.identities[name].sign, self.pinned)
        nonce = f"{name} in run {run}".encode().ljust(32)
        party = Party(given, name, self.tables[name], nonce=nonce, nodes_per_frame=1, signer=signer, policy=OPEN)
        channel = ResumableChannel.connect(
            self.credentials(name), "hub", "127.0.0.1", port, reconnect_timeout_s=reconnect_timeout_s
        )
        try:
            run_member(party, channel)
        finally:
            channel.close()
        return party.model

    @staticmethod
    def _ends(futures: dict[str, Future[bytes | None]]) -> tuple[dict[str, bytes | None], dict[str, HansaError]]:
        models: dict[str, bytes | None] = {}
        errors: dict[str, HansaError] = {}
        for name, future in futures.items():
            raised = future.exception(HANG_S)  # TimeoutError where a party hangs
            if raised is None:
                models[name] = future.result()
            else:
                assert isinstance(raised, HansaError), repr(raised)
                errors[name] = raised
        return models, errors


@pytest.fixture(scope="module")
def circle() -> Circle:
    return Circle()


@pytest.fixture(scope="module")
def expected(circle) -> bytes:
    """The model that the rows give, on lines that nobody cuts."""
    return train_in_process(PLAN, circle.tables).outcome.model


def cuts_of_all(seed: int, count: int = 8) -> dict[str, list[Cut]]:
    return {name: drawn_cuts(100 * seed + place, count, 25_000) for place, name in enumerate(PARTIES)}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("mode", MODES)
def test_a_run_over_lines_that_are_cut_gives_the_undisturbed_model(circle, expected, wire, mode, seed):
    end = circle.run(mode, cuts_of_all(seed))
    assert end.error is None, end.error
    assert not end.errors
    assert end.outcome is not None
    assert end.outcome.model == expected
    assert set(end.models.values()) == {expected}
    assert sum(line.cuts for line in end.lines.values()) >= 10
    assert end.reconnections >= 5
    assert wire.resent >= 5
    for numbers in wire.written.values():
        assert sorted(numbers) == list(range(1, len(numbers) + 1))
        for copies in numbers.values():
            assert len(set(copies)) == 1, "a frame was sent again with other bytes"


def test_no_label_and_no_mask_is_used_twice_though_frames_are_sent_again(circle, expected, wire, monkeypatch):
    """Over two whole runs on lines that are cut: each vector is masked once, each stream drawn by its two ends once."""
    labels: list[tuple[str, Label]] = []
    drawn: list[tuple[bytes, bytes]] = []
    noted = threading.Lock()

    class Watched(Masker):
        def _names(self, label: Label) -> list[bytes]:
            with noted:
                labels.append((self.member, label))
            return super()._names(label)

    class Streams(hansa.secure.masking.NamedStreams):
        def __init__(self, key, algorithm):
            self.watched = bytes(key)
            super().__init__(key, algorithm)

        def _spend(self, name):
            with noted:
                drawn.append((self.watched, name))
            return super()._spend(name)

    monkeypatch.setattr(hansa.roles.summed.sum_masking, "Masker", Watched)
    monkeypatch.setattr(hansa.secure.masking, "NamedStreams", Streams)
    vectors: dict[tuple[object, ...], set[bytes]] = defaultdict(set)
    for seed in (11, 12):
        end = circle.run("secure-aggregation", cuts_of_all(seed), run=seed)
        assert end.outcome is not None, end.error
        assert end.outcome.model == expected
        for (direction, member), numbers in wire.written.items():
            for copies in numbers.values() if direction == "up" else ():
                for copy in copies:
                    message = decode(member, copy)
                    if isinstance(message, Contribution):
                        place = (seed, member, message.tree, message.step, message.quantity, message.first)
                        vectors[place].add(bytes(message.values.data))
        assert wire.resent >= 5
        wire.written.clear()
    for member in PARTIES:
        used = [label for who, label in labels if who == member]
        assert len(used) > 40
        assert len({label.encode() for label in used}) == len(used)
        assert len({label.place() for label in used}) == len(used)
    assert len({label.run for _, label in labels}) == 2
    assert set(Counter(drawn).values()) == {2}
    assert len(vectors) > 180
    assert {len(each) for each in vectors.values()} == {1}, "two masked vectors left for one place"


def test_both_ends_of_a_cut_line_tell_the_same_story(circle, expected, tmp_path):
    """What the aggregator received, in number and order, is what it hears on lines that nobody cuts."""
    stories = []
    for seed, name in ((None, "whole"), (5, "cut")):
        end = circle.run("federated", {} if seed is None else cuts_of_all(seed), transcript=tmp_path / name)
        assert end.outcome is not None, end.error
        assert (end.reconnections > 0) == (seed is not None)
        records = list(read_transcript(tmp_path / name / "hub.frames"))
        said = {
            (d, m): [r.frame for r in records if (r.direction, r.member) == (d, m)]
            for d in ("up", "down")
            for m in PARTIES
        }
        stories.append(said)
    assert stories[0] == stories[1]


@pytest.mark.parametrize("mode", MODES)
def test_a_party_that_stays_away_beyond_the_reconnect_timeout_ends_the_run_by_name(circle, mode):
    end = circle.run(mode, {VICTIM: [Cut("up", 20_000, True)]}, reconnect_timeout_s=1.0, breaks=VICTIM)
    assert f"member '{VICTIM}'" in str(end.error)
    assert "did not come back in 1 s" in str(end.error)
    assert not end.models
    assert set(end.errors) == set(PARTIES)
    for name in set(PARTIES) - {VICTIM}:
        assert VICTIM in str(end.errors[name]), "the others are told who stayed away"
    assert "the hub is gone" in str(end.errors[VICTIM])
