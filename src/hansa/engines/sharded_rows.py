"""The rows of a party as shards, each held by a worker: every answer is the sum of the workers' answers, to the bit.

What is asked are whole numbers (`roles.summed.party_rows`), so neither the order of shards nor their sizes show. A worker that dies
is made anew from its source, and told again what changed the state of its rows: the cuts, and the splits of the trees so far.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from hansa.data.bin_counts import Layout
from hansa.data.facts import TableFacts, joined
from hansa.data.quantiles import CutRequest
from hansa.data.residuals import Grid
from hansa.errors import HansaError, RowsLost
from hansa.plan import Plan
from hansa.roles.summed.party_rows import Counts, Int64, TrainingStart
from hansa.trees import histogram
from hansa.trees.ensemble import Ensemble
from hansa.trees.level import Level
from hansa.trees.objective import Scales

_LOG = logging.getLogger("hansa.engines")

MOST_LOSSES = 20
"""Workers that may die in a run. More say that something else is wrong, such as too little memory."""

GROWTH = ("draw", "start_tree", "move", "follow", "set_leaves")
"""What a worker that is made anew is told of the trees that are finished."""


class WorkerLost(Exception):
    """A worker died, or cannot be reached. reason: as the engine says it."""


class Workers(Protocol):
    """An engine's workers, each with a `RowsInMemory` of a shard."""

    def __len__(self) -> int:
        """How many there are."""

    def ask(self, worker: int, method: str, arguments: tuple[Any, ...]) -> Any:
        """Begin a call of a worker's rows; what `answer` takes."""

    def answer(self, call: Any) -> Any:
        """The call's answer, waited for. Raises WorkerLost; HansaError where the call did."""

    def total(self, calls: Sequence[Any]) -> Any:
        """The sum of the calls' answers, arrays or tuples of arrays. Raises as `answer`."""

    def restart(self, worker: int) -> None:
        """Make a worker anew, its rows read from their source. Raises WorkerLost, HansaError."""

    def close(self) -> None:
        """End all workers. Safe to call twice."""


@dataclass
class _History:
    """The calls that changed the workers' rows, as a new worker is to be told them.

    Attributes:
        setup: before the first round. grown: of the trees of finished rounds. round: since the last round began.
    """

    setup: list[tuple[str, tuple[Any, ...]]] = field(default_factory=list)
    grown: list[tuple[str, tuple[Any, ...]]] = field(default_factory=list)
    round: list[tuple[str, tuple[Any, ...]]] = field(default_factory=list)

    def add(self, method: str, arguments: tuple[Any, ...]) -> None:
        """Note a call that all workers answered."""
        if method == "start_round":
            self.grown += _growth(self.round)
            self.round = [(method, arguments)]
        elif self.round:
            self.round.append((method, arguments))
        else:
            self.setup.append((method, arguments))

    @property
    def calls(self) -> list[tuple[str, tuple[Any, ...]]]:
        """All of them, in order."""
        return [*self.setup, *self.grown, *self.round]


def _growth(calls: Sequence[tuple[str, tuple[Any, ...]]]) -> list[tuple[str, tuple[Any, ...]]]:
    """What of a finished round moves rows and margins; its beginning draws rows too."""
    kept = []
    for method, arguments in calls:
        if method == "start_round":
            kept.append(("draw", (0, arguments[0])))
        elif method in GROWTH:
            kept.append((method, arguments))
    return kept


class ShardedRows:
    """One party's rows, in the workers of an engine. See `party_rows.PartyRows` for its methods.

    Args:
        workers: whose rows are read and checked. owner: the party, for what is logged.

    Raises HansaError where a worker's rows are not as the plan says.
    """

    def __init__(self, workers: Workers, owner: str) -> None:
        self._workers = workers
        self._owner = owner
        self._history = _History()
        self._losses = 0
        self._checksums: dict[int, list[int]] = {}
        rows = self._each("sizes")
        self.n_rows: int = sum(n_rows for n_rows, _ in rows)
        self.evaluation_rows: int = sum(held for _, held in rows)
        told: dict[str, set[str]] = {}
        for levels in self._each("levels"):
            for name, own in levels.items():
                told.setdefault(name, set()).update(own)
        self.own_levels: Mapping[str, tuple[str, ...]] = {name: tuple(sorted(own)) for name, own in told.items()}
        self._take_checksums()

    def facts(self) -> TableFacts:
        """What the whole table holds that is probably not meant, for the party's own eyes."""
        return joined(self._each("facts"), self.n_rows)

    def ledger_columns(self, key: bytes) -> tuple[str, ...]:
        """What a ledger knows the rows by: hashes of the columns of each file, sorted."""
        return tuple(sorted({column for own in self._each("ledger_columns", key) for column in own}))

    def digest(self, key: bytes) -> bytes:
        """A keyed hash of the rows, 32 bytes: of each shard in any order, shard by shard."""
        return hashlib.sha256(b"".join(self._each("digest", key))).digest()

    # --- calls --------------------------------------------------------------------------------------------------------

    def _begin(self, method: str, arguments: tuple[Any, ...]) -> list[Any]:
        calls = []
        for worker in range(len(self._workers)):
            try:
                calls.append(self._workers.ask(worker, method, arguments))
            except WorkerLost as loss:
                calls.append(loss)
        return calls

    def _each(self, method: str, *arguments: Any) -> list[Any]:
        """Every worker's answer; of one that died, that of the one that is made in its place."""
        calls = self._begin(method, arguments)
        return [self._answered(worker, call, method, arguments) for worker, call in enumerate(calls)]

    def _total(self, method: str, *arguments: Any) -> Any:
        """The sum of all workers' answers."""
        calls = self._begin(method, arguments)
        if not any(isinstance(call, WorkerLost) for call in calls):
            try:
                return self._workers.total(calls)
            except WorkerLost as loss:
                _LOG.debug("a worker is lost: %s", loss)  # which one, the answers one by one tell
        answers = [self._answered(worker, call, method, arguments) for worker, call in enumerate(calls)]
        return added(answers)

    def _change(self, method: str, *arguments: Any) -> list[Any]:
        """`_each` of a call that changes the rows' state."""
        answers = self._each(method, *arguments)
        self._history.add(method, arguments)
        return answers

    def _answered(self, worker: int, call: Any, method: str, arguments: tuple[Any, ...]) -> Any:
        while True:
            try:
                if isinstance(call, WorkerLost):
                    raise call
                return self._workers.answer(call)
            except WorkerLost as loss:
                call = self._made_anew(worker, loss, method, arguments)

    def _made_anew(self, worker: int, loss: WorkerLost, method: str, arguments: tuple[Any, ...]) -> Any:
        """The same call of a worker in the place of one that died, its rows in the same state. A loss where that died too."""
        self._losses += 1
        if self._losses > MOST_LOSSES:
            raise HansaError(
                f"party {self._owner!r}: {MOST_LOSSES} workers died in this run, the last one of {loss}: give each more memory, or use "
                "more of them"
            ) from loss
        _LOG.warning("worker %d of %d died (%s); its shard is read again", worker + 1, len(self._workers), loss)
        try:
            self._workers.restart(worker)
            self._check(worker, 0)
            for done, (name, given) in enumerate(self._history.calls, 1):
                self._workers.answer(self._workers.ask(worker, name, given))
                if done <= len(self._history.setup):
                    self._check(worker, done)
            return self._workers.ask(worker, method, arguments)
        except WorkerLost as again:
            return again

    def _take_checksums(self) -> None:
        """What each worker's rows are like now, before training: after as many calls as there were."""
        self._checksums[len(self._history.setup)] = self._each("checksum")

    def _check(self, worker: int, calls: int) -> None:
        """Refuse rows that are not what they were when the worker that died had been told so many calls."""
        known = self._checksums.get(calls)
        if known is not None and self._workers.answer(self._workers.ask(worker, "checksum", ())) != known[worker]:
            raise RowsLost(
                f"party {self._owner!r}: shard {worker + 1} of {len(self._workers)} was read again after its worker died, and its rows "
                "are not what they were; keep the files as they are while a run goes on"
            )

    # --- `party_rows.PartyRows` ---------------------------------------------------------------------------------------

    def label_counts(self) -> tuple[dict[tuple[int, int], int], dict[tuple[int, int], int]]:
        trained: dict[tuple[int, int], int] = {}
        held: dict[tuple[int, int], int] = {}
        for answer in self._each("label_counts"):
            for counts, own in zip((trained, held), answer, strict=True):
                for label, count in own.items():
                    counts[label] = counts.get(label, 0) + count
        return trained, held

    def join(self, n_rows: int, n_evaluation: int, n_parties: int, own: int) -> None:
        self._change("join", n_rows, n_evaluation, n_parties, own)
        self._take_checksums()

    def unite(self, plan: Plan, levels: Mapping[str, tuple[str, ...]]) -> None:
        self._change("unite", plan, levels)

    def recode(self, plan: Plan, codes: Mapping[int, npt.NDArray[np.float32]]) -> None:
        self._change("recode", plan, codes)

    def count_magnitudes(self) -> Int64:
        return self._whole("count_magnitudes")

    def _whole(self, method: str, *arguments: Any) -> Int64:
        found: Int64 = self._total(method, *arguments)
        return found

    def count_levels(self) -> Int64:
        return self._whole("count_levels")

    def sum_labels(self, label_unit: int, weight_unit: int) -> Int64:
        found: Int64 = added(self._change("sum_labels", label_unit, weight_unit))
        return found

    def count_cells(self, request: CutRequest) -> tuple[Counts, Int64 | None]:
        counts, sums = self._total("count_cells", request)
        return counts, sums

    def count_bins(self, layout: Layout) -> Int64:
        return self._whole("count_bins", layout)

    def start(self, start: TrainingStart) -> None:
        self._change("start", start)
        self._take_checksums()

    def start_round(self, tree: int, gradient_bound: float, hessian_bound: float) -> list[int]:
        totals = self._change("start_round", tree, gradient_bound, hessian_bound)
        return [sum(own) for own in zip(*totals, strict=True)]

    def metrics(self, gradient_bound: float) -> list[tuple[str, Int64]]:
        answers = self._each("metrics", gradient_bound)
        names = [name for name, _ in answers[0]]
        return [(name, added([dict(answer)[name] for answer in answers])) for name in names]

    def shap(self, model: Ensemble, unit: int) -> Int64:
        return self._whole("shap", model, unit)

    def draw(self, place: int, tree: int) -> None:
        self._change("draw", place, tree)

    def start_tree(self, place: int, output: int) -> int:
        return sum(self._change("start_tree", place, output))

    def quantise(self, place: int, output: int, scales: Scales) -> None:
        self._change("quantise", place, output, scales)

    def histograms(self, place: int, layout: histogram.Layout, positions: Int64, out: Int64) -> None:
        out[:] = self._total("built_histograms", place, layout, positions, out.shape)

    def move(self, place: int, level: Level) -> Int64:
        found: Int64 = added(self._change("move", place, level.copy()))
        return found

    def follow(self, place: int, level: Level) -> None:
        self._change("follow", place, level.copy())

    def count_residuals(self, request: CutRequest, grid: Grid, weight_unit: int) -> tuple[Counts, Int64]:
        counts, sums = self._total("count_residuals", request, grid, weight_unit)
        return counts, sums

    def set_leaves(self, values: npt.NDArray[np.float32]) -> None:
        self._change("set_leaves", values.copy())


def added(answers: Sequence[Any]) -> Any:
    """The sum of arrays, or of tuples of arrays and None, item by item."""
    first = answers[0]
    if first is None:
        return None
    if isinstance(first, tuple):
        return tuple(added(own) for own in zip(*answers, strict=True))
    total = np.array(first)
    for other in answers[1:]:
        total += other
    return total
