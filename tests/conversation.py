"""A run that a test can stop at any frame, to say something else in its place."""

from __future__ import annotations

import contextlib
import functools
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from hansa.consortium.identity import Identity, create_identity
from hansa.data.source import Rows
from hansa.errors import ProtocolError
from hansa.plan import Plan
from hansa.protocol.messages import (
    PROTOCOL_VERSION,
    AgreeModel,
    AskLogs,
    Awaited,
    CheckpointSigned,
    Close,
    Collect,
    CommitKey,
    CountBins,
    CountersignLogs,
    CountProbes,
    DecideRelease,
    Described,
    Done,
    Explain,
    KeepLevels,
    KeysCommitted,
    LogCheckpoint,
    LogsCountersigned,
    LogsOpened,
    LogsShown,
    Message,
    OpenLogs,
    PassOn,
    Relay,
    ReleaseTree,
    Resume,
    ShareCounts,
    ShareRows,
    ShowLog,
    ShowRows,
    SignCheckpoint,
    TakeRows,
    TellLevels,
    TrainingSetup,
    UseLevels,
    VouchRows,
    decode,
    encode,
    to_tensor,
)
from hansa.roles.summed.aggregator import Aggregator
from hansa.roles.summed.party import Party
from hansa.roles.summed.sum_masking import Signer
from hansa.secure.mask_graph import LEAST_PARTIES
from made_tables import OPEN, plan, table, take

Wanted = Callable[[str, Message], bool]


@functools.cache
def identity(name: str) -> Identity:
    """One identity a name, for all tests."""
    return create_identity(name, days=1)


def identities(plan: Plan) -> dict[str, bytes]:
    """What all members of the plan pinned; nothing in federated mode, as in process."""
    return {} if plan.mode == "federated" else {name: identity(name).public for name in plan.members}


def signer(plan: Plan, name: str) -> Signer | None:
    """A member's signature and what it pinned; None in federated mode."""
    return None if plan.mode == "federated" else Signer(identity(name).sign, identities(plan))


_EMPTY = to_tensor(np.zeros(0, np.uint32))

OF_COOPETITIVE_RUNS: dict[type[Message], Message] = {
    type(message): message
    for message in (
        Collect(0, (Awaited("histograms", 1, "<i8", (1, 2, 3), 2, (5, 6)),)),
        PassOn("aurora", memoryview(b"frame")),
        Relay("aurora", "borealis", "round", memoryview(b"sealed")),
        Done(),
        Close(),
        ShareCounts(0, 0, (b"", b""), ()),
        CountProbes(_EMPTY, _EMPTY, _EMPTY, 1),
        TrainingSetup(_EMPTY, _EMPTY, _EMPTY, (0.5,), 1.0, (0.0,)),
        ShareRows(False, 0, 0, (b"", b""), ()),
        TakeRows(0),
        ReleaseTree(0, 1, (), _EMPTY, ()),
        DecideRelease(True, None),
        AgreeModel(b"hash"),
        VouchRows(0, 1, memoryview(bytes(8)), memoryview(b"")),
        ShowRows(memoryview(bytes(8)), memoryview(b""), b"", memoryview(b"")),
        CountBins(_EMPTY, _EMPTY, _EMPTY),
        Described(_EMPTY, _EMPTY, 0.5),
        TellLevels({}),
        UseLevels({}),
        KeepLevels(_EMPTY),
        Resume(b"", 1, ()),
        SignCheckpoint(b""),
        CheckpointSigned({}),
        CommitKey(b"c" * 32),
        KeysCommitted({}),
        OpenLogs(PROTOCOL_VERSION, b"n" * 32, {}),
        LogsOpened({}, ()),
        ShowLog(LogCheckpoint(b"l" * 32, 1, b"r" * 32, b"s" * 64, (), b"p" * 64)),
        LogsShown({}),
        AskLogs(),
        CountersignLogs(b"s" * 64),
        LogsCountersigned({}),
        Explain(1, b"h" * 32, b"model"),
    )
}
"""One of each message that has no place in a run of another mode or purpose, in a run itself (those of audit logs), or without
verified row counts, a drawn graph of masks, unions of levels or rare ones, or a SHAP summary, where it must be refused."""


@contextlib.contextmanager
def lent(frame: bytes) -> Iterator[memoryview]:
    """A frame as a network lends it: what comes next overwrites it."""
    room = bytearray(frame)
    yield memoryview(room).toreadonly()
    room[:] = b"\xa5" * len(room)


@contextlib.contextmanager
def naming_somebody() -> Iterator[None]:
    """Whoever refuses what another member sent says who that is, or which of several."""
    try:
        yield
    except ProtocolError as error:
        check_blame(error)
        raise


def check_blame(error: ProtocolError) -> None:
    """Raise AssertionError where an error names nobody."""
    assert error.member or error.suspects, error


class Conversation:
    """An aggregator and parties, their frames in queues.

    Args:
        first_nonce: the first party's nonce is 32 of this byte; another one makes another run.

    Attributes:
        up: (party, frame) on the way to the aggregator. down: the same on the way to parties.
    """

    def __init__(self, plan: Plan, tables: Mapping[str, Rows], first_nonce: int = 0, **options: Any) -> None:
        self.plan = plan
        self.parties = {
            name: Party(
                plan,
                name,
                rows,
                nonce=bytes([first_nonce + i]) * 32,
                signer=signer(plan, name),
                **({"policy": OPEN} | options),
            )
            for i, (name, rows) in enumerate(tables.items())
        }
        self.aggregator = Aggregator(
            plan,
            identities=identities(plan),
            signer=signer(plan, plan.aggregator),
            purpose=options.get("purpose", "train"),
        )
        self.down: deque[tuple[str, bytes]] = deque()
        self.up: deque[tuple[str, bytes]] = deque(
            (name, bytes(frame)) for name, party in self.parties.items() for frame in party.opening()
        )

    def deliver(self, name: str, frame: bytes) -> None:
        """Give a party a frame and put its answers on their way."""
        with lent(frame) as view, naming_somebody():
            self.up += [(name, bytes(answer)) for answer in self.parties[name].handle(view)]

    def submit(self, name: str, frame: bytes) -> None:
        """Give the aggregator a frame and put its answers on their way."""
        with lent(frame) as view, naming_somebody():
            self.down += [(to, bytes(answer)) for to, answer in self.aggregator.handle(name, view)]

    def until(self, kind: type[Message], to: str, count: int = 1) -> Message:
        """Run until the count-th message of this kind to a party is next; it is not delivered."""
        return self._run(self.down, kind, to, count)

    def until_up(self, kind: type[Message], sender: str, wanted: Wanted | None = None) -> Message:
        """Run until a message of this kind by a party is next at the aggregator; it is not delivered."""
        return self._run(self.up, kind, sender, 1, wanted)

    def _run(self, queue, kind, member, count, wanted=None):
        while self.up or self.down:
            at = self.up or self.down
            name, frame = at.popleft()
            message = decode(name, frame)
            if at is queue and name == member and isinstance(message, kind) and (not wanted or wanted(name, message)):
                count -= 1
                if count == 0:
                    return message
            (self.submit if at is self.up else self.deliver)(name, frame)
        raise AssertionError(f"the run ended before {kind.__name__} to or from {member}")

    def finish(self) -> None:
        """Run to the end."""
        while self.up or self.down:
            at = self.up or self.down
            (self.submit if at is self.up else self.deliver)(*at.popleft())

    def tell(self, name: str, message: Message) -> list[Message]:
        """What a party answers to a message."""
        with lent(encode(message)) as view:
            return [decode(name, bytes(frame)) for frame in self.parties[name].handle(view)]

    def say(self, name: str, message: Message) -> list[tuple[str, Message]]:
        """What the aggregator answers to a party's message."""
        with lent(encode(message)) as view:
            return [(to, decode("hub", bytes(frame))) for to, frame in self.aggregator.handle(name, view)]


def drawn_graph(*among: str) -> Conversation:
    """A masked run of the fewest parties that draw a graph, these among them."""
    names = (*among, *(f"party-{number}" for number in range(LEAST_PARTIES - len(among))))
    rows = table(2 * len(names))
    tables = {name: take(rows, np.arange(at, rows.n_rows, len(names))) for at, name in enumerate(names)}
    return Conversation(plan(tuple(sorted(names)), mode="secure-aggregation", max_bin=4), tables)
