"""Cuts under shares: a binary search for quantiles whose opened bits the found cells imply.

Owners count rows at public probes, and share their counts; the servers never see one. Keys, and what a cut means,
are those of `data.quantiles`: "x < cut" goes left. For every wanted rank of a *gap* (the keys [lo, hi) between two
cuts) the servers narrow a cell of keys, halving it at its middle m. With c(k) = pooled rows with a key below k,

    right = [d (c(m) - c(lo)) < a (c(hi) - c(lo))]       is the a-th of d parts of the gap's rows right of m?
    stop  = [the half that the rank lies in holds at most min_cell_rows rows]

are linear in the shared counts but for the signs. `stop` and `right AND NOT stop` are opened, nothing else. Where the
search stops the cut is m, the roundest number in the cell and at most min_cell_rows rows from the wanted rank. So
no cell is ever opened that holds min_cell_rows rows or fewer. Where it reaches a single value v, which then has more
rows than that, the cut is the next number above v.

Several bits of a path are found in one step: both bits of every cell that the path may come to are computed side by
side, and those on the path are chosen on shares, from the lowest up. So what a step opens is what bit by bit would be.

Where rows have weights, owners share the sums of weights at the same probes too, in whole units. Then `right` compares
weight, so that cuts share weight, and `stop` counts rows still. A row of integer weight w counts as w rows would, but
for min_cell_rows.

A value that two ranks of a gap fall on is *heavy*: it gets a bin of its own. The ranks that this saves are spent,
phase by phase, on the gaps that hold more than min_cell_rows rows (one opened bit a gap), where those next to a heavy
value come first: while there are cuts, a value that was found gets a bin of its own. So:

1. Every cell that the search names holds more than min_cell_rows pooled rows.
2. With N rows that have the feature, and B bins for them, every bin holds at most N / B + 2 min_cell_rows rows beside
   those of its most frequent value; with weights at most the weight N / B and that of 2 min_cell_rows rows.
3. Everything depends on pooled rows alone, never on how they are spread over owners.
4. What is opened follows from `CutSearchOnShares.found`: which gaps were searched, and which cell each rank fell on. The
   cuts follow from it too; beyond them it tells how many ranks fall on a heavy value, that is, its rows up to N / B.

Source: secure k-th ranked element by binary search, Aggarwal, Mishra & Pinkas, EUROCRYPT 2004.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hansa.data.quantiles import MAX_MAX_BIN, Cuts, SortedKeys, keys_from_values, values_from_keys
from hansa.errors import PlanError, ProtocolError
from hansa.mpc.comparison import sign_part
from hansa.mpc.replicated import Address, Program, Server, add_public, open_to_all, product_part, reshare
from hansa.mpc.ring import BITS, BYTES, RING64, Words, pack_bits, unpack_bits, words_for

KEY_BITS = 32
LOWEST, END = 0x0080_0000, 0xFF80_0000
"""Keys of finite values lie in [LOWEST, END)."""

NEGATIVE_ZERO = 0x7FFF_FFFF
PROBES = 1024
"""Probes of one feature and request, about: fewer round trips to owners for more bytes."""

LEAST_STEP_BITS, MOST_STEP_BITS = 4, 10
MOST_PHASES = 64
MOST_REQUESTS = 64
"""Requests that an owner answers; most searches need six to twelve."""

MOST_ROWS = 2**31 - 1

MOST_CELLS = 2**12
"""Cells of all paths that one step compares, about: more bits a step take fewer rounds, and 180 bytes a cell from S_2."""

WEIGHT_SUM_BITS = 53
"""The weights of all rows add up to at most 2^53 units: times 2^9 ranks that is no number of 63 bits."""


@dataclass(frozen=True, eq=False)
class CutProbes:
    """Which cells of keys to split, and how finely; asked of every owner alike. Public.

    A cell is the keys that share their first `depth` bits; `count_probes` counts up to every boundary of its 2^bits
    parts (fewer where the key has not so many bits left) but its own ends; the cell of depth 0 counts up to its end too.

    Attributes:
        offsets: int64 (n_features + 1): feature f's cells are starts[offsets[f]:offsets[f + 1]].
        starts: uint32, the lowest key of each cell, sorted within a feature.
        depths: uint8, of each cell.
        bits: 1 to 10.
    """

    offsets: NDArray[np.int64]
    starts: NDArray[np.uint32]
    depths: NDArray[np.uint8]
    bits: int

    def keys(self, feature: int) -> NDArray[np.uint32]:
        """The highest key that each count of a feature includes, cell by cell."""
        starts, depths = self.cells(feature)
        bits = np.minimum(self.bits, KEY_BITS - depths)
        counts = (1 << bits) - 1 + (depths == 0)
        step = 1 + np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        widths = np.repeat(KEY_BITS - depths - bits, counts)
        return np.asarray(np.repeat(starts, counts) + (step << widths) - 1, np.uint32)

    def cells(self, feature: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Starts and depths of a feature's cells, int64."""
        part = slice(self.offsets[feature], self.offsets[feature + 1])
        return self.starts[part].astype(np.int64), self.depths[part].astype(np.int64)

    @property
    def n_counts(self) -> int:
        """Length of an answer."""
        bits = np.minimum(self.bits, KEY_BITS - self.depths.astype(np.int64))
        return int(((1 << bits) - 1 + (self.depths == 0)).sum())


def count_probes(sorted_keys: SortedKeys, request: CutProbes) -> NDArray[np.int64]:
    """An owner's answer: its rows with a key at or below each probe, int64 (request.n_counts,). Secret.

    Where rows have weights, twice as many: behind the rows, the sums of their weights, in units of `weight_units`.

    Raises ProtocolError where the request is for another number of features; the other rules are `RequestGuard`'s.
    """
    if len(request.offsets) != len(sorted_keys.offsets):
        raise ProtocolError(
            f"cut probes: expected {sorted_keys.n_features} features as in the plan's schema, "
            f"found {len(request.offsets) - 1}"
        )
    counts, sums = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for feature in range(sorted_keys.n_features):
        part = slice(sorted_keys.offsets[feature], sorted_keys.offsets[feature + 1])
        counts.append(np.searchsorted(sorted_keys.keys[part], request.keys(feature), side="right").astype(np.int64))
        if sorted_keys.weights is not None:
            sums.append(np.concatenate([[0], np.cumsum(sorted_keys.weights[part])])[counts[-1]])
    return np.concatenate([*counts, *sums])


def weight_units(weights: NDArray[np.float32], limit: float, rows: int) -> NDArray[np.int64]:
    """Weights as whole numbers of a unit, int64: the same at all owners, and the weights of all their rows fit `WEIGHT_SUM_BITS`.

    Args:
        weights: float32 (rows of one owner,), 0 to `limit`. Secret. rows: of all owners. Public.
    """
    bits = WEIGHT_SUM_BITS - rows.bit_length()
    return np.round(weights.astype(np.float64) / limit * 2.0**bits).astype(np.int64)


# --- what an owner allows -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class RequestGuard:
    """What an owner allows itself to be asked: every cell a part of one that was split before, and never too many.

    An owner sees no sums, so it cannot check that a cell holds more than min_cell_rows pooled rows. It checks that no more
    cells of one depth are split than could hold so many: min(max_bin, n_rows_total // (min_cell_rows + 1)) a request.

    Attributes:
        n_features, n_rows_total, max_bin, min_cell_rows: as in the plan.
        asked: the requests allowed so far.
        closed: no request is allowed any more.
    """

    n_features: int
    n_rows_total: int
    max_bin: int
    min_cell_rows: int
    asked: tuple[CutProbes, ...] = ()
    closed: bool = False

    def __post_init__(self) -> None:
        _check_settings(self.n_features, self.n_rows_total, self.max_bin, self.min_cell_rows)

    @property
    def cell_limit(self) -> int:
        """Cells of one feature and depth that one request may split."""
        return max(1, min(self.max_bin, self.n_rows_total // (self.min_cell_rows + 1)))

    def check(self, request: CutProbes) -> RequestGuard:
        """Allow the request and return the guard for the next. Raises ProtocolError naming the rule."""
        if self.closed:
            raise ProtocolError("cut probes: refused, since the cuts are settled; rounds end with the cuts")
        if len(self.asked) == MOST_REQUESTS:
            raise ProtocolError(f"cut probes: request {MOST_REQUESTS + 1}; the protocol needs at most {MOST_REQUESTS}")
        self._check_form(request)
        for feature in range(self.n_features):
            self._check_cells(request, feature)
        return replace(self, asked=(*self.asked, request))

    def check_cuts(self, cuts: Cuts) -> None:
        """Refuse cuts that lie on no boundary that was counted. Raises ProtocolError naming the feature."""
        if cuts.n_features != self.n_features:
            raise ProtocolError(f"cuts: expected {self.n_features} features, found {cuts.n_features}")
        for feature in range(self.n_features):
            keys = keys_from_values(cuts.of(feature)).astype(np.int64)
            counted = np.concatenate([request.keys(feature) for request in self.asked]).astype(np.int64) + 1
            # -0 is written +0, which no row tells from it.
            counted = np.where(counted == NEGATIVE_ZERO, NEGATIVE_ZERO + 1, counted)
            known = np.isin(keys, counted)
            if not known.all():
                raise ProtocolError(f"cuts: feature {feature}: cut {cuts.of(feature)[~known][0]!r} was never counted")

    def close(self) -> RequestGuard:
        """The guard once the cuts have come: it refuses every request."""
        return replace(self, closed=True)

    def _check_form(self, request: CutProbes) -> None:
        offsets, starts, depths = request.offsets, request.starts, request.depths
        right = (
            offsets.dtype == np.int64
            and offsets.shape == (self.n_features + 1,)
            and starts.dtype == np.uint32
            and depths.dtype == np.uint8
            and starts.ndim == 1
            and starts.shape == depths.shape
            and offsets[0] == 0
            and offsets[-1] == len(starts) > 0
            and bool(np.all(np.diff(offsets) >= 0))
            and 1 <= request.bits <= MOST_STEP_BITS
            and bool(np.all(depths < KEY_BITS))
        )
        if not right:
            raise ProtocolError("cut probes: the request is malformed; expected cells by feature, of 0 to 31 bits")
        if np.any(starts.astype(np.int64) & ((1 << (KEY_BITS - depths.astype(np.int64))) - 1)):
            raise ProtocolError("cut probes: a cell does not start where a cell of its depth may")

    def _check_cells(self, request: CutProbes, feature: int) -> None:
        starts, depths = request.cells(feature)
        if not self.asked:
            if starts.tolist() != [0] or depths.tolist() != [0]:
                raise ProtocolError("cut probes: the first request must split the whole range of every feature, once")
            return
        names = _names_of(starts, depths)
        if np.any(np.diff(names) <= 0):
            raise ProtocolError(f"cut probes: feature {feature}: cells must be sorted and named once")
        if np.bincount(depths, minlength=1).max() > self.cell_limit:
            raise ProtocolError(
                f"cut probes: feature {feature}: at most {self.cell_limit} cells of one depth may be split "
                "(max_bin, and rows / (min_cell_rows + 1))"
            )
        wrong = np.flatnonzero(~self._follow(feature, starts, depths))
        if wrong.size:
            start, depth = int(starts[wrong[0]]), int(depths[wrong[0]])
            raise ProtocolError(
                f"cut probes: feature {feature}: the cell of {depth} bits at {start:#x} is no part that was counted, "
                "or was split before"
            )

    def _follow(self, feature: int, starts: NDArray[np.int64], depths: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Of each cell: is it a finest part of a cell that was split, and was not split itself?"""
        follows, names = np.zeros(len(starts), np.bool_), _names_of(starts, depths)
        before = np.zeros(len(starts), np.bool_)
        for request in self.asked:
            own_starts, own_depths = request.cells(feature)
            before |= np.isin(names, _names_of(own_starts, own_depths))
            for depth in np.unique(own_depths).tolist():
                shift = KEY_BITS - depth
                inside = np.isin(starts >> shift, own_starts[own_depths == depth] >> shift)
                follows |= inside & (depths == min(depth + request.bits, KEY_BITS))
        return follows & ~before


def _names_of(starts: NDArray[np.int64], depths: NDArray[np.int64]) -> NDArray[np.int64]:
    """A number for each cell of a feature, in the order of (start, depth)."""
    return starts * 64 + depths


# --- the public state ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Gap:
    """Keys [low, high) between two cuts of a feature, or between a cut and a value that was found. Public.

    Attributes:
        bound: at most so many of the feature's rows lie here, as a share, but for small cells; orders gaps.
        below_value: `high` is a value that was found, not a cut: the last rank is the gap's end.
        below_heavy: and two ranks fell on it.
    """

    low: int
    high: int
    bound: float = 1.0
    below_value: bool = False
    below_heavy: bool = False


@dataclass(frozen=True)
class Search:
    """One wanted rank, and what it fell on. Public.

    Attributes:
        feature, gap: where.
        rank, parts: the rank is rank / parts of the gap's rows.
        start, depth: the cell: keys that share their first `depth` bits with `start`.
        cut: the cut that was found.
    """

    feature: int
    gap: Gap
    rank: int
    parts: int
    start: int
    depth: int
    cut: int

    @property
    def is_value(self) -> bool:
        """Was a single value reached?"""
        return self.depth == KEY_BITS


@dataclass(frozen=True, eq=False)
class Paths:
    """The searches that are under way, in arrays, an entry a wanted rank. Public.

    Attributes:
        gaps: (feature, gap) of all that are searched.
        gap: int64, whose number in `gaps`. rank, parts: int64, as in `Search`.
        start, depth: int64, the cell that the rank is known to lie in.
        stopped: bool, whether the search stopped before a small half; its cut is then the cell's middle.
    """

    gaps: tuple[tuple[int, Gap], ...]
    gap: NDArray[np.int64]
    rank: NDArray[np.int64]
    parts: NDArray[np.int64]
    start: NDArray[np.int64]
    depth: NDArray[np.int64]
    stopped: NDArray[np.bool_]

    @classmethod
    def of(cls, gaps: Sequence[tuple[int, Gap]], ranks: Sequence[int]) -> Paths:
        """So many ranks of every gap, as far down as the gap's ends alone say."""
        given = np.array(ranks, np.int64)
        gap = np.repeat(np.arange(len(gaps)), given)
        parts = given + np.array([not own.below_value for _, own in gaps], np.int64)
        rank = 1 + np.arange(len(gap)) - np.repeat(np.cumsum(given) - given, given)
        zeros = np.zeros(len(gap), np.int64)
        none = np.zeros(len(gap), np.bool_)
        return cls(tuple(gaps), gap, rank, parts[gap], zeros, zeros, none).within_gaps()

    def __len__(self) -> int:
        return len(self.gap)

    @property
    def going_on(self) -> NDArray[np.bool_]:
        """Which searches have found no cut yet."""
        return ~self.stopped & (self.depth < KEY_BITS)

    def ends(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Feature, and lowest key and end of the gap, of every search."""
        ends = np.array([(feature, gap.low, gap.high) for feature, gap in self.gaps], np.int64).reshape(-1, 3)
        feature, low, high = ends[self.gap].T
        return feature, low, high

    def within_gaps(self) -> Paths:
        """As far down as the gaps' ends alone say."""
        _, low, high = self.ends()
        start, depth = self.start.copy(), self.depth.copy()
        while True:
            middle = middles(start, depth)
            forced = ~self.stopped & (depth < KEY_BITS) & ((middle <= low) | (middle >= high))
            if not forced.any():
                return replace(self, start=start, depth=depth)
            start = np.where(forced & (middle <= low), middle, start)
            depth = depth + forced

    def found(self) -> list[list[Search]]:
        """What every gap's ranks fell on, once all searches are over."""
        cuts = np.where(self.stopped, middles(self.start, self.depth), self.start + 1)
        searches: list[list[Search]] = [[] for _ in self.gaps]
        columns = (self.gap, self.rank, self.parts, self.start, self.depth, cuts)
        for number, *own in zip(*(column.tolist() for column in columns), strict=True):
            searches[number].append(Search(*self.gaps[number], *own))
        return searches


def middles(start: NDArray[np.int64], depth: NDArray[np.int64]) -> NDArray[np.int64]:
    """The lowest key of the right half of each cell; of a single key, that key."""
    return start + ((np.int64(1) << (KEY_BITS - depth)) >> 1)


@dataclass(frozen=True)
class Found:
    """A gap that was searched, and what each of its ranks fell on. Public; all opened bits follow from these.

    Attributes:
        searches: finished, by rank; empty where the gap holds at most min_cell_rows rows.
    """

    feature: int
    gap: Gap
    searches: tuple[Search, ...]


@dataclass(frozen=True)
class FeatureCuts:
    """What is known of one feature: its cuts so far (keys, sorted), its open gaps, and whether values are missing."""

    cuts: tuple[int, ...] = ()
    gaps: tuple[Gap, ...] = (Gap(LOWEST, END),)
    missing: bool | None = None


@dataclass(frozen=True, eq=False)
class CutSearchOnShares:
    """One server's state between two answers of the owners. Public but for `counts`.

        search = CutSearchOnShares(n_features, rows_total, max_bin, min_cell_rows, has_missing)
        while not search.done:
            search = yield from search.answer(server, sum of the owners' shares, address)
        search.cuts()

    Attributes:
        n_features, rows_total: features and pooled rows (all owners, missing values included).
        max_bin: bins of a feature's values at most; missing values have a code beyond them.
        min_cell_rows: no cell of so many pooled rows or fewer is named; at least 1.
        categorical: features that need no cut, bool (n_features,); None for no such feature. Of them only the bit of
            missing values is opened.
        has_missing: which features may lack values, as the plan declares, bool (n_features,); None opens one bit a
            feature: whether any pooled row lacks it. Where a declaration says no, an owner that does lack a value
            refuses when it bins its rows.
        weighted: owners share the sums of weights too.
        features, paths: the public state of the search.
        found: everything that was searched so far.
        phase: how many rounds of gaps began.
        draws: batches of comparisons so far; part of every draw's name.
        keys: int64, sorted: feature * 2^32 + key, of every key that rows were counted up to.
        columns: int64, where `counts` holds them.
        counts: shared in Z_2^64, (kinds, 2, columns): rows and, with weights, sums of weights. Secret.
    """

    n_features: int
    rows_total: int
    max_bin: int
    min_cell_rows: int
    has_missing: Any = None
    categorical: Any = None
    weighted: bool = False
    features: tuple[FeatureCuts, ...] = ()
    paths: Paths = field(default_factory=lambda: Paths.of((), ()))
    found: tuple[Found, ...] = ()
    phase: int = 0
    draws: int = 0
    keys: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64), repr=False)
    columns: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64), repr=False)
    counts: Words = field(default_factory=lambda: np.zeros((1, 2, 1), np.uint64), repr=False)

    def __post_init__(self) -> None:
        _check_settings(self.n_features, self.rows_total, self.max_bin, self.min_cell_rows)
        for name, given in (("has_missing", self.has_missing), ("categorical", self.categorical)):
            if given is not None and np.shape(given) != (self.n_features,):
                raise PlanError(f"{name}: expected one entry for each of {self.n_features} features")
        if not self.features:
            without = [False] * self.n_features if self.categorical is None else self.categorical
            own = tuple(FeatureCuts(gaps=()) if known else FeatureCuts() for known in without)
            object.__setattr__(self, "features", own)
            object.__setattr__(self, "keys", _places(np.arange(self.n_features), LOWEST - 1))
            object.__setattr__(self, "columns", np.zeros(self.n_features, np.int64))
            object.__setattr__(self, "counts", np.zeros((1 + self.weighted, 2, 1), np.uint64))

    @property
    def done(self) -> bool:
        """Whether nothing is left to ask."""
        return self.phase > 0 and not len(self.paths)

    def request(self) -> CutProbes:
        """What to ask every owner next; the same at all three servers. Raises ProtocolError once done."""
        if self.done:
            raise ProtocolError("cut search: it is done, there is nothing to ask; read the cuts")
        if self.phase == 0:
            offsets = np.arange(self.n_features + 1, dtype=np.int64)
            zeros = np.zeros(self.n_features, np.uint32)
            return CutProbes(offsets, zeros, zeros.astype(np.uint8), MOST_STEP_BITS)
        paths, open_ones = self.paths, self.paths.going_on
        feature = paths.ends()[0][open_ones]
        names = np.unique(feature * 2**40 + _names_of(paths.start[open_ones], paths.depth[open_ones]))
        cells = np.bincount(names >> 40, minlength=self.n_features)
        bits = min(MOST_STEP_BITS, max(LEAST_STEP_BITS, (PROBES // int(cells.max())).bit_length() - 1))
        return CutProbes(
            np.concatenate([[0], np.cumsum(cells)]).astype(np.int64),
            (names % 2**40 // 64).astype(np.uint32),
            (names % 64).astype(np.uint8),
            bits,
        )

    @property
    def n_answers(self) -> int:
        """Length of an owner's answer to `request`."""
        return self.request().n_counts * len(self.counts)

    def answer(self, server: Server, shares: Words, address: Address) -> Program[CutSearchOnShares]:
        """The next state, from the sum over owners of their shared `count_probes`.

        5 + k rounds for k bits of all paths, 5 a phase; opened is what the module's head says.

        Args:
            shares: in Z_2^64, (2, n_answers).
            address: the same for every answer of one search.

        Raises:
            ProtocolError: shares of another size.
        """
        state = self._with_counts(shares)
        while True:
            if not len(state.paths):
                state, gaps = state._next_phase()
                if not gaps and state.phase > 1:
                    return state
                live, missing = yield from state._open_gaps(server, gaps, address.named(f"gaps {state.draws}"))
                state = state._with_gaps(gaps, live, missing)
                if not len(state.paths):
                    continue
            step = state.step()
            if step is None:
                return state
            bits = yield from state._open_path(server, step, address.named(f"bits {state.draws}"))
            state = state.descended(step, bits)

    def cuts(self) -> Cuts:
        """The cuts, once done. Raises ProtocolError before."""
        if not self.done:
            raise ProtocolError("cut search: it is not done; answer its requests first")
        keys = [np.array(feature.cuts, np.int64) for feature in self.features]
        values = [values_from_keys(np.unique(np.where(k == NEGATIVE_ZERO, k + 1, k)).astype(np.uint32)) for k in keys]
        return Cuts.from_arrays(values, [bool(feature.missing) for feature in self.features])

    # Public transitions: what is opened decides them.

    def _with_counts(self, shares: Words) -> CutSearchOnShares:
        request = self.request()
        if shares.dtype != np.uint64 or shares.shape != (2, self.n_answers):
            raise ProtocolError(
                f"cut answers: expected shares uint64 (2, {self.n_answers}), found {shares.dtype} {shares.shape}"
            )
        own = [_places(number, request.keys(number).astype(np.int64)) for number in range(self.n_features)]
        keys = np.concatenate(own)
        columns = self.counts.shape[2] + np.arange(len(keys))
        if self.phase == 0:
            # All finite keys lie below END, so as many rows as below the end of all keys.
            ends = _places(np.arange(self.n_features), END - 1)
            columns = np.concatenate([columns, columns[np.searchsorted(keys, ends | (2**KEY_BITS - 1))]])
            keys = np.concatenate([keys, ends])
        keys, places = np.unique(np.concatenate([self.keys, keys]), return_index=True)
        columns = np.concatenate([self.columns, columns])[places]
        kinds = shares.reshape(2, len(self.counts), -1).swapaxes(0, 1)
        return replace(self, keys=keys, columns=columns, counts=np.concatenate([self.counts, kinds], axis=2))

    def _next_phase(self) -> tuple[CutSearchOnShares, list[tuple[int, Gap]]]:
        """Which gaps to look at: as many as cuts are left, those next to heavy values first, then the largest."""
        chosen: list[tuple[int, Gap]] = []
        if self.phase < MOST_PHASES:
            for number, feature in enumerate(self.features):
                left = self.max_bin - 1 - len(feature.cuts)
                order = sorted(feature.gaps, key=lambda gap: (not gap.below_heavy, -gap.bound, gap.low))
                chosen += [(number, gap) for gap in order[: max(0, left)]]
        return replace(self, phase=self.phase + 1), chosen

    def _with_gaps(self, chosen: list[tuple[int, Gap]], live: list[bool], missing: list[bool]) -> CutSearchOnShares:
        """Start the searches of the live gaps, and drop the others."""
        features = list(self.features)
        if self.phase == 1:
            declared = missing if self.has_missing is None else [bool(m) for m in self.has_missing]
            features = [replace(f, missing=m) for f, m in zip(features, declared, strict=True)]
        searched: list[tuple[int, Gap]] = []
        ranks: list[int] = []
        found = list(self.found)
        for number, feature in enumerate(features):
            own = [(gap, is_live) for (f, gap), is_live in zip(chosen, live, strict=True) if f == number]
            cuts, gaps = list(feature.cuts), list(feature.gaps)
            for gap, is_live in own:
                gaps.remove(gap)
                if not is_live:
                    found.append(Found(number, gap, ()))
                    # A cut with nothing beyond it is none.
                    useless = gap.high if gap.low == LOWEST else gap.low
                    if (gap.low == LOWEST or gap.high == END) and useless in cuts and not gap.below_value:
                        cuts.remove(useless)
            alive = [gap for gap, is_live in own if is_live]
            for gap, extra in _allotted(alive, self.max_bin - 1 - len(cuts)):
                searched.append((number, gap))
                ranks.append(extra)
            features[number] = replace(feature, cuts=tuple(cuts), gaps=tuple(gaps))
        paths = Paths.of(searched, ranks)
        return replace(self, features=tuple(features), paths=paths, found=tuple(found), draws=self.draws + 1)._settled()

    def step(self) -> Step | None:
        """What the next step compares; None where every cell that a path has come to is yet to be counted."""
        paths = self.paths
        feature, low, high = paths.ends()
        ready = np.flatnonzero(paths.going_on & self._counted(feature, middles(paths.start, paths.depth)))
        if not ready.size:
            return None
        feature, low, high = (column[ready, None] for column in (feature, low, high))
        most = max(1, min(MOST_STEP_BITS, (MOST_CELLS // len(ready) + 1).bit_length() - 1))
        levels: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
        for level in range(most):
            depth = paths.depth[ready, None] + level
            width = np.maximum(KEY_BITS - depth, 0)
            start = paths.start[ready, None] + (np.arange(1 << level) << width)
            known = np.minimum(depth, KEY_BITS)
            middle = middles(start, known)
            inside = (low < middle) & (middle < high) & (depth < KEY_BITS)
            kind = np.where(inside & self._counted(feature, middle), COMPARED, UNKNOWN)
            kind = np.where(~inside & (depth < KEY_BITS), np.where(middle <= low, RIGHT, LEFT), kind)
            if level and not (kind == COMPARED).any():
                break
            levels.append((start, kind))
        return Step(ready, tuple(start for start, _ in levels), tuple(kind for _, kind in levels))

    def descended(self, step: Step, bits: NDArray[np.bool_]) -> CutSearchOnShares:
        """After the bits of a step, (searches, levels, 2): `stop` and `right AND NOT stop` of the cells on every path."""
        paths, ready = self.paths, step.searches
        start, depth = paths.start.copy(), paths.depth.copy()
        stopped, going = paths.stopped.copy(), np.ones(len(ready), np.bool_)
        node = np.zeros(len(ready), np.int64)
        for level, kinds in enumerate(step.kinds):
            kind = kinds[np.arange(len(ready)), node]
            going &= kind != UNKNOWN
            stops = going & (kind == COMPARED) & bits[:, level, 0]
            stopped[ready] |= stops
            going &= ~stops
            right = going & np.where(kind == COMPARED, bits[:, level, 1], kind == RIGHT)
            start[ready] = np.where(right, middles(start[ready], depth[ready]), start[ready])
            depth[ready] += going
            node = 2 * node + right
        found = replace(paths, start=start, depth=depth, stopped=stopped).within_gaps()
        return replace(self, paths=found, draws=self.draws + 1)._settled()

    def _settled(self) -> CutSearchOnShares:
        """Where every search of the phase has ended: their cuts, and the gaps between them."""
        if not len(self.paths) or self.paths.going_on.any():
            return self
        features, found = list(self.features), list(self.found)
        for (number, gap), searches in zip(self.paths.gaps, self.paths.found(), strict=True):
            found.append(Found(number, gap, tuple(searches)))
            feature = features[number]
            last = gap.high - (not gap.below_value)
            cuts = {*feature.cuts, *(s.cut for s in searches if s.cut <= last)}
            gaps = sorted([*feature.gaps, *_parts_of(gap, searches)], key=lambda part: part.low)
            features[number] = replace(feature, cuts=tuple(sorted(cuts)), gaps=tuple(gaps))
        return replace(self, features=tuple(features), found=tuple(found), paths=Paths.of((), ()))

    # On shares.

    def _counted(self, feature: NDArray[np.int64], key: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Are the rows with a key below this one counted?"""
        places = _places(feature, key - 1)
        return np.asarray(self.keys[np.minimum(np.searchsorted(self.keys, places), len(self.keys) - 1)] == places)

    def _below(self, feature: NDArray[np.int64], key: NDArray[np.int64]) -> NDArray[np.int64]:
        """The columns of c(key): rows with a key below it, which were counted."""
        return np.asarray(self.columns[np.searchsorted(self.keys, _places(feature, key - 1))])

    def _open_gaps(
        self, server: Server, gaps: list[tuple[int, Gap]], address: Address
    ) -> Program[tuple[list[bool], list[bool]]]:
        """Opens one bit a gap: more than min_cell_rows rows; at first one a feature too: does any row lack it."""
        first = self.phase == 1
        ends = np.array([(feature, gap.low, gap.high) for feature, gap in gaps], np.int64).reshape(-1, 3).T
        low, high = self._below(ends[0], ends[1]), self._below(ends[0], ends[2])
        part = self.counts[0, 0]
        rows = [part[high] - part[low]]
        constants = [-(self.min_cell_rows + 1)]
        opens_missing = first and self.has_missing is None
        if opens_missing:
            rows.append(part[self._below(np.arange(self.n_features), np.full(self.n_features, END))])
            constants.append(-self.rows_total)
        sizes = [len(row) for row in rows]
        stacked = np.zeros((len(rows), words_for(max(sizes)) * 64), np.uint64)
        for row, (values, constant) in enumerate(zip(rows, constants, strict=True)):
            stacked[row, : len(values)] = values
            if server.index == 0:
                stacked[row, : len(values)] += RING64.constant(constant)
        bits = yield from sign_part(server, RING64, stacked.reshape(-1), address.named("sign"))
        shared = yield from reshare(server, BITS, bits, address.named("bits"))
        opened = yield from open_to_all(server, BITS, shared, address.named("gaps of cuts"))
        negative = unpack_bits(opened.reshape(len(rows), -1), max(sizes)).astype(bool)
        missing = negative[1, : self.n_features].tolist() if opens_missing else []
        return (~negative[0, : len(gaps)]).tolist(), missing

    def _open_path(self, server: Server, step: Step, address: Address) -> Program[NDArray[np.bool_]]:
        """Opens `stop` and `right AND NOT stop` of the cells on every path, bool (searches, levels, 2); 5 rounds and one a level.

        Formulas are in the module's head. Of a cell that the path does not come to, or that nothing is compared at, both bits are 0
        but for the public `right` of a cell that the gap's ends decide.
        """
        small_left, small_right, goes_right = yield from self._compare(server, step, address)
        # Where the rank lies right, `stop` is `small_right`; so right AND NOT stop needs no `stop`, and both products go in one round.
        one = np.ones(small_right.shape[1:], np.uint8)
        factors = np.stack([small_left ^ small_right, add_public(server, BYTES, small_right, one)], axis=1)
        chosen = yield from _and(server, goes_right[:, None], factors, address.named("chosen"))
        stop, right = small_left ^ chosen[:, 0], chosen[:, 1]
        packet = np.zeros((2, len(step.searches), 0, 0), np.uint8)
        ends = np.cumsum([0, *((kind == COMPARED).sum() for kind in step.kinds)])
        for level in reversed(range(len(step.kinds))):
            kind, part = step.kinds[level], slice(ends[level], ends[level + 1])
            own = np.zeros((2, *kind.shape, 2), np.uint8)
            compared = kind == COMPARED
            own[:, compared, 0], own[:, compared, 1] = stop[:, part], right[:, part]
            own[..., 1] = add_public(server, BYTES, own[..., 1], (kind == RIGHT).astype(np.uint8))
            if level == len(step.kinds) - 1:
                packet = own
                continue
            left = add_public(server, BYTES, own[..., 0] ^ own[..., 1], (kind != UNKNOWN).astype(np.uint8))
            both = np.stack([left, own[..., 1]], axis=-1)[..., None]
            of_child = packet.reshape(2, *kind.shape, 2, packet.shape[-1])
            below = yield from _and(server, both, of_child, address.named(f"level {level}"), joined=True)
            packet = np.concatenate([own, below], axis=-1)
        planes = pack_bits(np.ascontiguousarray(packet[:, :, 0].swapaxes(1, 2)))
        opened = yield from open_to_all(server, BITS, planes, address.named("path of cuts"))
        bits = unpack_bits(opened, len(step.searches)).astype(bool)
        return np.ascontiguousarray(bits.reshape(len(step.kinds), 2, -1).transpose(2, 0, 1))

    def _compare(self, server: Server, step: Step, address: Address) -> Program[tuple[Words, Words, Words]]:
        """Of all cells that are compared, level by level, shared bits (2, cells): is the left half small, the right one, is the rank
        right? Four rounds."""
        feature, low, high = (column[step.searches] for column in self.paths.ends())
        depth = self.paths.depth[step.searches]
        columns, of_search = [], []
        for level, (start, kind) in enumerate(zip(step.starts, step.kinds, strict=True)):
            number, node = np.nonzero(kind == COMPARED)
            first, own = start[number, node], (feature[number], low[number], high[number])
            size = np.int64(1) << (KEY_BITS - depth[number] - level)
            ends = (own[1], own[2], first + size // 2, np.maximum(first, own[1]), np.minimum(first + size, own[2]))
            columns.append(np.stack([self._below(own[0], key) for key in ends]))
            of_search.append(number)
        number = step.searches[np.concatenate(of_search)]
        rows, amounts = self.counts[0, 0], self.counts[-1, 0]
        place_low, place_high, middle, left, right = np.concatenate(columns, axis=1)
        rank, parts = self.paths.rank[number].astype(np.uint64), self.paths.parts[number].astype(np.uint64)
        least = RING64.constant(self.min_cell_rows + 1 if server.index == 0 else 0)
        count = len(number)
        stacked = np.zeros((3, words_for(count) * 64), np.uint64)
        stacked[0, :count] = rows[middle] - rows[left] - least
        stacked[1, :count] = rows[right] - rows[middle] - least
        stacked[2, :count] = parts * (amounts[middle] - amounts[place_low])
        stacked[2, :count] -= rank * (amounts[place_high] - amounts[place_low])
        signs = yield from sign_part(server, RING64, stacked.reshape(-1), address.named("sign"))
        shared = yield from reshare(server, BITS, signs, address.named("bits"))
        small_left, small_right, goes_right = unpack_bits(shared.reshape(2, 3, -1), count).swapaxes(0, 1)
        return small_left, small_right, goes_right


COMPARED, RIGHT, LEFT, UNKNOWN = range(4)
"""What is known of a cell before a step: nothing; the gap's ends say in which half its ranks lie; its middle was not counted, or it
is a single key."""


@dataclass(frozen=True, eq=False)
class Step:
    """What one step compares: of some searches every cell that their paths may come to. Public.

    Attributes:
        searches: int64, numbers of the searches.
        starts, kinds: by level, int64 (searches, 2^level): the cells of that level, and what is known of each.
    """

    searches: NDArray[np.int64]
    starts: tuple[NDArray[np.int64], ...]
    kinds: tuple[NDArray[np.int64], ...]


def _places(feature: Any, key: Any) -> NDArray[np.int64]:
    """Feature and key as one number."""
    return np.asarray(feature * 2**KEY_BITS + key, np.int64)


def _and(server: Server, x: Words, y: Words, address: Address, joined: bool = False) -> Program[Words]:
    """x AND y of shared bits uint8 that broadcast; `joined`: the XOR over the axis before the last. One round."""
    part = product_part(BYTES, x, y)
    if joined:
        part = np.bitwise_xor.reduce(part, axis=-2)
    flat = pack_bits(part.reshape(-1))
    packed = yield from reshare(server, BITS, flat, address)
    return unpack_bits(packed, part.size).reshape(2, *part.shape)


def _allotted(gaps: Sequence[Gap], cuts: int) -> list[tuple[Gap, int]]:
    """How many cuts each gap gets: one at least while there are any, the others where a part may hold most rows."""
    gaps = gaps[:cuts]
    extra = [1] * len(gaps)
    heap = [(-gap.bound / (1 + (not gap.below_value)), number) for number, gap in enumerate(gaps)]
    heapq.heapify(heap)
    for _ in range(cuts - len(gaps) if gaps else 0):
        _, number = heap[0]
        extra[number] += 1
        gap = gaps[number]
        heapq.heapreplace(heap, (-gap.bound / (extra[number] + (not gap.below_value)), number))
    return list(zip(gaps, extra, strict=True))


def _parts_of(gap: Gap, searches: Sequence[Search]) -> list[Gap]:
    """The gaps that a searched gap falls into; the values that were found, and single keys, are none."""
    hits: dict[int, list[Search]] = {}
    for search in searches:
        hits.setdefault(search.cut, []).append(search)
    bound = gap.bound / searches[0].parts
    parts: list[Gap] = []
    low = gap.low
    for cut in sorted(hits):
        value = hits[cut][0].start
        heavy = len(hits[cut]) > 1
        parts.append(Gap(low, value, bound, True, heavy) if hits[cut][0].is_value else Gap(low, cut, bound))
        low = cut
    if low < gap.high:
        parts.append(replace(gap, low=low, bound=bound))
    return [part for part in parts if part.high - part.low > (0 if part.below_value else 1)]


def _check_settings(n_features: int, rows: int, max_bin: int, min_cell_rows: int) -> None:
    if n_features < 1 or not 1 <= rows <= MOST_ROWS:
        raise PlanError(
            f"cuts: expected at least 1 feature and 1 to 2^31 - 1 pooled rows, found {n_features} and {rows}"
        )
    if not 2 <= max_bin <= MAX_MAX_BIN:
        raise PlanError(f"max_bin: expected 2 to {MAX_MAX_BIN}, found {max_bin}")
    if min_cell_rows < 1:
        raise PlanError(f"min_cell_rows: expected at least 1, found {min_cell_rows}")
