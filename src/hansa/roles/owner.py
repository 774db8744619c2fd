"""An owner: shares its rows among the three servers, and is done. No I/O.

It sends `ShareRows` to the three servers and nothing else of its table: two of three parts of everything are key streams, so a
batch of rows travels once or twice. It sends a batch once all servers hold the one before the last, so that nothing piles up
on the way. An owner that is itself a server gives owner-assisted rows (`mpc.shared_rows`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from hansa.data.binning import bin_rows
from hansa.data.source import Rows
from hansa.errors import DataError, HansaError, ProtocolError
from hansa.mpc.shared_rows import RowShares, share_rows
from hansa.protocol.messages import Message, ShareRows, TakeRows, to_tensor
from hansa.roles.sharing import Start, batches
from hansa.secure.prg import Algorithm

Outgoing = Iterator[tuple[str, Message]]

UNDER_WAY = 2
"""Batches of an owner that may be on their way."""


class Owner:
    """One owner's side of a run.

    Args:
        name: this member. servers: S_0, S_1, S_2. rows: its table; leaves this object as shares only.
        algorithm: of key streams.

    Attributes:
        through: whether all servers hold all rows.
        codes: uint16 (rows, features with candidates), once binned: for this member's own server, if it is one.
    """

    def __init__(self, name: str, servers: tuple[str, ...], rows: Rows, algorithm: Algorithm) -> None:
        self.through = False
        self.codes: npt.NDArray[np.uint16] | None = None
        self._name = name
        self._servers = servers
        self._rows = rows
        self._algorithm = algorithm
        self._start: Start | None = None
        self._labels = np.empty(0, np.uint32)
        self._taken = dict.fromkeys(servers, 0)
        self._waiting: deque[tuple[int, int]] = deque()
        self._sent: deque[tuple[int, int]] = deque()

    def waiting_for(self) -> list[str]:
        """The members whose next letter is owed."""
        if not self._sent:
            return []
        first, count = self._sent[0]
        return [server for server, taken in self._taken.items() if taken < first + count]

    def share(self, start: Start) -> Outgoing:
        """Bin the rows and share the first batches of them.

        Raises:
            DataError: a label out of the plan's range, naming its row; a value missing where the plan says none is.
        """
        self._start = start
        self._labels = label_words(self._rows.label, start)
        codes = bin_rows(self._rows.features, start.cuts).codes[:, start.features]
        self.codes = np.ascontiguousarray(codes, np.uint16)
        self._waiting.extend(batches(self._rows.n_rows))
        yield from self._share_more()

    def handle(self, sender: str, message: Message) -> Outgoing:
        """Take a server's word that it holds a batch, and share on. Raises ProtocolError naming the sender."""
        if not isinstance(message, TakeRows) or sender not in self._taken or not self._sent:
            raise ProtocolError(
                f"member {sender!r} sent {type(message).__name__} to owner {self._name!r}; expected TakeRows of a server"
            )
        follows = [first + count for first, count in self._sent if first == self._taken[sender]]
        if follows != [message.rows]:
            raise ProtocolError(
                f"server {sender!r} holds {message.rows} rows of {self._name!r}; expected {follows or 'no word more'}"
            )
        self._taken[sender] = message.rows
        while self._sent and not self.waiting_for():
            self._sent.popleft()
        yield from self._share_more()
        self.through = not self._sent and not self._waiting

    def _share_more(self) -> Outgoing:
        start, codes = self._start, self.codes
        if start is None or codes is None:
            raise ProtocolError(f"owner {self._name!r}: rows cannot be shared before the cuts are known")
        own = self._servers.index(self._name) if self._name in self._servers else None
        while self._waiting and len(self._sent) < UNDER_WAY:
            first, count = self._waiting.popleft()
            self._sent.append((first, count))
            batch = slice(first, first + count)
            shares = share_rows(start.candidates, codes[batch], self._labels[batch], self._algorithm, own)
            for server, share in zip(self._servers, shares, strict=True):
                yield server, _message(first, share)


def label_words(labels: npt.NDArray[np.float32], start: Start) -> npt.NDArray[np.uint32]:
    """Labels as words: 0 and 1, or fixed point. Raises DataError naming the first row that is out of range."""
    scale = start.label_scale
    values = labels.astype(np.float64)
    if scale is None:
        wrong = np.flatnonzero((values != 0) & (values != 1))
        if wrong.size:
            raise DataError(f"row {wrong[0] + 1}: the label is {values[wrong[0]]:g}; binary:logistic expects 0 or 1")
        return values.astype(np.uint32)
    bounds = start.plan.coopetitive and start.plan.coopetitive.label_range
    if not bounds:
        raise HansaError("squared error without a label range")
    # The plan's numbers are doubles, a label is a float32: compare where both are float32.
    low, high = (np.float32(bound) for bound in bounds)
    wrong = np.flatnonzero((labels < low) | (labels > high))
    if wrong.size:
        raise DataError(
            f"row {wrong[0] + 1}: the label is {labels[wrong[0]]:g}; the plan's labels.range is {list(bounds)}: "
            "widen it at every member, or leave the row out"
        )
    return scale.words(np.clip(values, *bounds))


def _message(first: int, share: RowShares) -> ShareRows:
    parts = next((part for part in share.parts if part is not None), ())
    keys = (share.keys[0] or b"", share.keys[1] or b"")
    return ShareRows(first, share.rows, keys, tuple(to_tensor(np.ascontiguousarray(part)) for part in parts))
