"""An owner: shares its rows among the three servers, and is done. No I/O.

Where the plan leaves cuts or base score open it first shares counts that the servers ask for, under `RequestGuard`, and the sum of
its labels. All three servers must ask and tell the same. Of its table it sends shares and nothing else: two of three parts of
everything are key streams, so a batch of rows travels once or twice. It sends a batch once all servers hold the one before the last,
so that nothing piles up on the way. An owner that is itself a server gives owner-assisted rows (`mpc.shared_rows`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from hansa.data.binning import bin_rows
from hansa.data.quantiles import SortedKeys
from hansa.data.source import Rows
from hansa.errors import DataError, ProtocolError
from hansa.mpc.quantile_search import CutProbes, RequestGuard, count_probes
from hansa.mpc.shared_rows import RowShares, share_rows
from hansa.mpc.shared_vectors import share_vector
from hansa.plan import Plan
from hansa.protocol.messages import (
    CountProbes,
    Message,
    SettleStart,
    ShareCounts,
    ShareRows,
    TakeRows,
    encode,
    to_array,
    to_tensor,
)
from hansa.roles.sharing import Start, batches, coopetitive, given_start, label_units, plan_cuts, start_of
from hansa.secure.prg import Algorithm

Outgoing = Iterator[tuple[str, Message]]

UNDER_WAY = 2
"""Batches of an owner that may be on their way."""


class Owner:
    """One owner's side of a run.

    Args:
        plan: as every member holds it. name: this member. rows: its table; leaves this object as shares only.
        counts: owner -> rows, of all owners. algorithm: of key streams.

    Attributes:
        through: whether all servers hold all rows.
        codes: uint16 (rows, features with candidates), once binned: for this member's own server, if it is one.
    """

    def __init__(self, plan: Plan, name: str, rows: Rows, counts: Mapping[str, int], algorithm: Algorithm) -> None:
        self.through = False
        self.codes: npt.NDArray[np.uint16] | None = None
        self._plan = plan
        self._name = name
        self._servers = plan.servers
        self._rows = rows
        self._counts = counts
        self._algorithm = algorithm
        self._start: Start | None = None
        self._step = 0
        self._asked: dict[str, Message] = {}
        self._keys: SortedKeys | None = None
        parameters = plan.parameters
        self._guard = RequestGuard(
            len(plan.schema.features), sum(counts.values()), parameters.max_bin, plan.min_cell_rows
        )
        self._labels = np.empty(0, np.uint32)
        self._taken = dict.fromkeys(plan.servers, 0)
        self._waiting: deque[tuple[int, int]] = deque()
        self._sent: deque[tuple[int, int]] = deque()

    def waiting_for(self) -> list[str]:
        """The members whose next letter is owed."""
        if self._start is None:
            return [server for server in self._servers if server not in self._asked]
        if not self._sent:
            return []
        first, count = self._sent[0]
        return [server for server, taken in self._taken.items() if taken < first + count]

    def begin(self) -> Outgoing:
        """The keys are confirmed: share the rows, or first what the servers need to find cuts and base score.

        Raises:
            DataError: a label out of the plan's range, naming its row; a value missing where the plan says none is.
        """
        check_labels(self._rows.label, self._plan)
        start = given_start(self._plan, self._counts)
        if start is not None:
            yield from self._share(start)
        elif self._plan.parameters.base_score is None:
            units = label_units(self._rows.label.astype(np.float64), self._plan)
            yield from self._share_vector(np.array([units], np.int64))

    def handle(self, sender: str, message: Message) -> Outgoing:
        """Take a server's question, the start, or its word that it holds a batch. Raises ProtocolError naming the sender."""
        if sender not in self._servers:
            raise ProtocolError(
                f"member {sender!r} sent {type(message).__name__} to owner {self._name!r}, and is no server"
            )
        match message:
            case CountProbes() | SettleStart() if self._start is None:
                if self._agreed(sender, message):
                    yield from self._answer(message)
            case TakeRows() if self._sent:
                yield from self._taken_by(sender, message)
            case _:
                raise ProtocolError(
                    f"server {sender!r} sent {type(message).__name__}, which owner {self._name!r} does not expect"
                )

    def _agreed(self, sender: str, message: Message) -> bool:
        """Whether all three servers said this. Raises ProtocolError naming one that says something else than the others."""
        if sender in self._asked:
            raise ProtocolError(f"server {sender!r} sent {type(message).__name__} before the other servers said theirs")
        self._asked[sender] = message
        if len(self._asked) < len(self._servers):
            return False
        said = {server: encode(own) for server, own in self._asked.items()}
        odd = [server for server, own in said.items() if list(said.values()).count(own) == 1]
        if odd:
            named = odd[0] if len(odd) == 1 else ", ".join(odd)
            raise ProtocolError(
                f"server {named!r} told {self._name!r} another {type(message).__name__} than the others; "
                "rule: servers find the same cuts, and say so alike"
            )
        self._asked = {}
        return True

    def _answer(self, message: CountProbes | SettleStart) -> Outgoing:
        servers = ", ".join(self._servers)
        features = len(self._plan.schema.features)
        if isinstance(message, CountProbes):
            request = CutProbes(
                to_array(servers, "offsets", message.offsets, np.int64, (features + 1,)).copy(),
                to_array(servers, "starts", message.starts, np.uint32, (None,)).copy(),
                to_array(servers, "depths", message.depths, np.uint8, (None,)).copy(),
                message.bits,
            )
            if plan_cuts(self._plan) is not None:
                raise ProtocolError(f"servers {servers} asked for counts, and the plan gives the cuts")
            self._guard = self._guard.check(request)
            if self._keys is None:
                self._keys = SortedKeys.from_features(self._rows.features)
            yield from self._share_vector(count_probes(self._keys, request))
            return
        start = start_of(servers, message, self._plan, self._counts)
        if plan_cuts(self._plan) is None:
            self._guard.check_cuts(start.cuts)
        self._guard = self._guard.close()
        self._keys = None
        yield from self._share(start)

    def _share_vector(self, values: npt.NDArray[Any]) -> Outgoing:
        for server, share in zip(self._servers, share_vector(values, self._algorithm), strict=True):
            part = () if share.part is None else (to_tensor(share.part),)
            yield server, ShareCounts(self._step, share.count, (share.keys[0] or b"", share.keys[1] or b""), part)
        self._step += 1

    def _share(self, start: Start) -> Outgoing:
        self._start = start
        self._labels = label_words(self._rows.label, start)
        codes = bin_rows(self._rows.features, start.cuts).codes[:, start.features]
        self.codes = np.ascontiguousarray(codes, np.uint16)
        self._waiting.extend(batches(self._rows.n_rows))
        yield from self._share_more()

    def _taken_by(self, sender: str, message: TakeRows) -> Outgoing:
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


def check_labels(labels: npt.NDArray[np.float32], plan: Plan) -> None:
    """Refuse labels that the objective or the plan's range does not take. Raises DataError naming the first such row."""
    bounds = coopetitive(plan).label_range
    # The plan's numbers are doubles, a label is a float32: compare where both are float32.
    low, high = (np.float32(bound) for bound in bounds or (0, 1))
    wrong = np.flatnonzero((labels < low) | (labels > high) if bounds else (labels != 0) & (labels != 1))
    if not wrong.size:
        return
    row, label = int(wrong[0]) + 1, labels[wrong[0]]
    if bounds is None:
        raise DataError(f"row {row}: the label is {label:g}; binary:logistic expects 0 or 1")
    raise DataError(
        f"row {row}: the label is {label:g}; the plan's labels.range is {list(bounds)}: "
        "widen it at every member, or leave the row out"
    )


def label_words(labels: npt.NDArray[np.float32], start: Start) -> npt.NDArray[np.uint32]:
    """Labels that `check_labels` took, as words: 0 and 1, or fixed point."""
    scale, bounds = start.label_scale, coopetitive(start.plan).label_range
    if scale is None or bounds is None:
        return labels.astype(np.uint32)
    return scale.words(np.clip(labels.astype(np.float64), *bounds))


def _message(first: int, share: RowShares) -> ShareRows:
    parts = next((part for part in share.parts if part is not None), ())
    keys = (share.keys[0] or b"", share.keys[1] or b"")
    return ShareRows(first, share.rows, keys, tuple(to_tensor(np.ascontiguousarray(part)) for part in parts))
