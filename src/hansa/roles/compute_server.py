"""A compute server: gets shares of rows, trains on shares with the two other servers, and releases the trees. No I/O.

It drives one program of `mpc` (a generator of rounds): what a round sends leaves as a sealed letter to each other server, and the
program goes on once both letters of the round are here. A letter of a round bears the name of its step: servers that are not at
the same step notice. Sizes are public and checked. What it opens stands in `mpc.openings`.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hansa.errors import ProtocolError
from hansa.mpc.lockstep import check_received
from hansa.mpc.oblivious_growth import TreeShares
from hansa.mpc.release import release
from hansa.mpc.replicated import Address, PairStreams, Program, Round, Server, Shape
from hansa.mpc.ring import Words, words_for
from hansa.mpc.shared_rows import Block, RowShares, label_words, receive_rows
from hansa.mpc.training import boost, margins_in_range, start_margins
from hansa.protocol.messages import Message, ReleaseTree, ShareRows, TakeRows, to_array, to_tensor
from hansa.roles.mail import NAME_BYTES, Letter
from hansa.roles.sharing import Start, batches
from hansa.secure.keys import PairKey
from hansa.secure.prg import Algorithm

ALIGNMENT = 8
"""Every array of a round begins at a multiple of so many bytes."""


@dataclass(frozen=True)
class RoundLetter:
    """What a server says in one round to another: the step's name in 8 bytes, and the arrays' bytes."""

    name: bytes
    body: tuple[memoryview, ...]


Outgoing = Iterator[tuple[str, Message | RoundLetter]]


class ComputeServer:
    """One server's side of a run.

    Args:
        name: this member. servers: S_0, S_1, S_2. owners: owner -> number of rows. receivers: who gets the trees.
        keys: the pair keys with the two other servers, by member. algorithm: of key streams.
        progress: called with the number of trees grown.

    Attributes:
        through: whether the trees were released.
        openings: what was opened to this server, in words: see `mpc.openings`.
        rounds: rounds of messages so far.
    """

    def __init__(
        self,
        name: str,
        servers: tuple[str, ...],
        receivers: tuple[str, ...],
        keys: Mapping[str, PairKey],
        algorithm: Algorithm,
        progress: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.through = False
        self.openings: list[str] = []
        self.rounds = 0
        self.index = servers.index(name)
        self._name = name
        self._servers = servers
        self._receivers = receivers
        self._algorithm = algorithm
        self._progress = progress
        by_index = {servers.index(peer): key for peer, key in keys.items()}
        self._server = Server(self.index, PairStreams(self.index, by_index, algorithm))
        self._inbox: dict[int, deque[Letter]] = {i: deque() for i in range(3) if i != self.index}
        self._start: Start | None = None
        self._blocks: dict[str, list[Block]] = {}
        self._program: Program[tuple[TreeShares, ...]] | None = None
        self._round: Round | None = None

    def waiting_for(self) -> list[str]:
        """The members whose next letter is owed."""
        if self._start is not None and self._program is None:
            return [o for o, rows in self._start.rows.items() if sum(b.rows for b in self._blocks.get(o, [])) < rows]
        if self._round is None:
            return []
        return [self._servers[i] for i, shapes in self._round.expect.items() if shapes and not self._inbox[i]]

    def start(self, start: Start) -> Outgoing:
        """Take rows from now on; they may have come before."""
        self._start = start
        start.settings  # noqa: B018 - refuses what shares cannot hold before any row is sent
        yield from ()

    def handle(self, sender: str, message: Message, codes: npt.NDArray[np.uint16] | None = None) -> Outgoing:
        """Take a sealed message: a batch of an owner's rows.

        Args:
            codes: of all rows of the sender, where the sender is this member itself.

        Raises:
            ProtocolError: naming the sender and the rule it broke.
        """
        if not isinstance(message, ShareRows):
            raise ProtocolError(
                f"member {sender!r} sent {type(message).__name__} to server {self._name!r}, which takes rows"
            )
        self._take_rows(sender, message, codes)
        yield sender, TakeRows(message.first + message.rows)
        start = self._started()
        if all(sum(block.rows for block in self._blocks.get(o, [])) == rows for o, rows in start.rows.items()):
            self._program = self._train()
            yield from self._advance(None)

    def handle_round(self, letter: Letter) -> Outgoing:
        """Take another server's part of a round, this one or a later one. Raises ProtocolError."""
        if letter.sender not in self._servers:
            raise ProtocolError(f"member {letter.sender!r} sent numbers of a round, and is no server")
        self._inbox[self._servers.index(letter.sender)].append(letter)
        while self._round is not None and not self.waiting_for():
            yield from self._advance(self._received(self._round))

    def _started(self) -> Start:
        if self._start is None:
            raise ProtocolError(f"server {self._name!r}: rows came before the cuts were known")
        return self._start

    def _take_rows(self, sender: str, message: ShareRows, codes: npt.NDArray[np.uint16] | None) -> None:
        start = self._started()
        blocks = self._blocks.setdefault(sender, [])
        expected = batches(start.rows.get(sender, 0))
        if self._program is not None or len(blocks) >= len(expected):
            raise ProtocolError(
                f"member {sender!r} shared more rows than the {start.rows.get(sender, 0)} that it announced"
            )
        if (message.first, message.rows) != expected[len(blocks)]:
            raise ProtocolError(
                f"member {sender!r} shared rows {message.first} to {message.first + message.rows}; expected from "
                f"{expected[len(blocks)][0]}, {expected[len(blocks)][1]} rows"
            )
        shares = self._row_shares(sender, message)
        own = None if codes is None else codes[message.first : message.first + message.rows]
        blocks.append(receive_rows(start.candidates, self.index, shares, self._algorithm, own))

    def _row_shares(self, sender: str, message: ShareRows) -> RowShares:
        """The message, held to what an owner gives to this server: which parts are keys, which travels."""
        assisted = self._servers.index(sender) if sender in self._servers else None
        streams = (0, 1) if assisted is None else (assisted,)
        explicit = 2 if assisted is None else (assisted + 1) % 3
        halves = (self.index, (self.index + 1) % 3)
        for key, number in zip(message.keys, halves, strict=True):
            if len(key) != (32 if number in streams else 0):
                raise ProtocolError(f"member {sender!r} gave a key of {len(key)} bytes for part {number} of its rows")
        travels = explicit in halves
        if len(message.parts) != (3 if travels else 0):
            raise ProtocolError(
                f"member {sender!r} sent {len(message.parts)} arrays of row shares; expected {3 if travels else 0}"
            )
        part = None
        if travels:
            columns = self._started().candidates.n_columns
            rows = message.rows
            part = (
                to_array(sender, "columns", message.parts[0], np.uint32, (rows, columns)),
                to_array(sender, "bits", message.parts[1], np.uint64, (rows, words_for(columns))),
                to_array(sender, "labels", message.parts[2], np.uint32, (rows,)),
            )
        return RowShares(
            message.rows,
            (message.keys[0] or None, message.keys[1] or None),
            (part if explicit == halves[0] else None, part if explicit == halves[1] else None),
            assisted,
        )

    # --- rounds -------------------------------------------------------------------------------------------------------

    def _advance(self, received: Mapping[int, Sequence[Words]] | None) -> Outgoing:
        """Run the program to its next round, or to its end; what it sends."""
        if self._program is None:
            raise ProtocolError(f"server {self._name!r}: a round before the rows were complete")
        try:
            self._round = next(self._program) if received is None else self._program.send(received)
        except StopIteration as stop:
            self._round = None
            yield from self._release(stop.value)
            return
        self.rounds += 1
        name = step_name(self._round.step)
        for index, arrays in self._round.send.items():
            if arrays:
                yield self._servers[index], RoundLetter(name, tuple(_padded(arrays)))
        if received is None:
            while self._round is not None and not self.waiting_for():
                yield from self._advance(self._received(self._round))

    def _received(self, step: Round) -> dict[int, list[Words]]:
        """What the other servers sent for this round, as arrays, taken from the inbox."""
        received: dict[int, list[Words]] = {}
        for index, shapes in step.expect.items():
            if not shapes:
                received[index] = []
                continue
            letter = self._inbox[index].popleft()
            if letter.name != step_name(step.step):
                raise ProtocolError(
                    f"member {letter.sender!r} sent the numbers of another step than {step.step!r}; rule: servers go in step"
                )
            arrays = _arrays(letter, step.step, shapes)
            check_received(step.step, index, shapes, arrays)
            received[index] = arrays
        return received

    def _train(self) -> Program[tuple[TreeShares, ...]]:
        """All rounds of boosting, and the check of the margins' range; as `mpc.training.train`, with progress."""
        start, server = self._started(), self._server
        settings, candidates, coins = start.settings, start.candidates, start.coins
        blocks = [block for _, of_owner in sorted(self._blocks.items()) for block in of_owner]
        self._blocks = {}
        labels = label_words(blocks)
        margins = start_margins(server, labels.shape[1], settings)
        trees: list[TreeShares] = []
        flags: list[Words] = []
        self._progress(0)
        for tree in range(settings.rounds):
            shares, margins, outside = yield from boost(
                server, candidates, blocks, labels, margins, settings, coins, tree, 0
            )
            trees.append(shares)
            flags += [] if outside is None else [outside]
            self._progress(tree + 1)
        if flags:
            self.openings.append("margins_in_range: one bit, that every margin stayed within +-16")
        yield from margins_in_range(server, flags, labels.shape[1], Address(0, settings.rounds, 0, "range"))
        return tuple(trees)

    def _release(self, trees: tuple[TreeShares, ...]) -> Outgoing:
        for number, tree in enumerate(trees):
            parts = release(tree)
            splits = tuple(to_tensor(np.ascontiguousarray(level)) for level in parts.splits)
            message = ReleaseTree(number, len(trees), splits, to_tensor(np.ascontiguousarray(parts.leaves)))
            for receiver in self._receivers:
                yield receiver, message
        self.through = True


def step_name(step: str) -> bytes:
    """Eight bytes that name a step in letters."""
    return hashlib.sha256(b"hansa step\x00" + step.encode()).digest()[:NAME_BYTES]


def _padded(arrays: Sequence[Words]) -> Iterator[memoryview]:
    for array in arrays:
        if array.nbytes:
            yield np.ascontiguousarray(array).data.cast("B")
        if rest := -array.nbytes % ALIGNMENT:
            yield memoryview(bytes(rest))


def _arrays(letter: Letter, step: str, shapes: Sequence[Shape]) -> list[Words]:
    """The arrays in a letter, as views of it. Raises ProtocolError where its length is another than theirs."""
    dtypes = [np.dtype(shape.dtype) for shape in shapes]
    sizes = [dtype.itemsize * int(np.prod(shape.shape)) for dtype, shape in zip(dtypes, shapes, strict=True)]
    total = sum(size + -size % ALIGNMENT for size in sizes)
    if len(letter.body) != total:
        raise ProtocolError(
            f"member {letter.sender!r} sent {len(letter.body)} bytes for step {step!r}; expected {total}: sizes are public"
        )
    arrays: list[Any] = []
    offset = 0
    for dtype, shape, size in zip(dtypes, shapes, sizes, strict=True):
        arrays.append(np.frombuffer(letter.body[offset : offset + size], dtype).reshape(shape.shape))
        offset += size + -size % ALIGNMENT
    return arrays
