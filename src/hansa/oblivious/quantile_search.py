"""Cuts under shares: a binary search for quantiles whose opened bits the found cells imply.

Owners count rows at public probes, and share their counts; the servers never see one. Keys, and what a cut means,
are those of `data.quantiles`: "x < cut" goes left. For every wanted rank of a *gap* (the keys [lo, hi) between two
cuts) the servers narrow a cell of keys, halving it at its middle m. With c(k) = pooled rows with a key below k,

    right = [d (c(m) - c(lo)) < a (c(hi) - c(lo))]       is the a-th of d parts of the gap's rows right of m?
    stop  = [the half that the rank lies in holds at most min_cell_rows rows]

* What is asked: each owner's c(k) at the boundaries of the parts of the cells that the search has come to (`CutProbes`).
* What is compared: both sides of `right`, and each half's rows with min_cell_rows. They are linear in the shared counts; only the
  signs of the differences take messages.
* What is opened: `stop` and `right AND NOT stop`, nothing else.

No server can steer what is opened: signs and products are those of `mpc.verified_bits`, so that the opened bits are those of the
owners' counts. Where the search stops the cut is m, the roundest number in the cell and at most min_cell_rows rows from the wanted
rank. So no cell is ever opened that holds min_cell_rows rows or fewer. Where it reaches a single value v, which then has more rows
than that, the cut is the next number above v.

An example with keys of 4 bits: 8 rows have the keys 1 2 2 3 9 9 9 12, and min_cell_rows is 1. For one cut, a = 1 and d = 2:

    cell       m    c(m)    right                half that is left    stop             opened
    [0, 16)    8    4       2 * 4 < 8: no        [0, 8)               4 rows: no       0 0
    [0, 8)     4    4       2 * 4 < 8: no        [0, 4)               4 rows: no       0 0
    [0, 4)     2    1       2 * 1 < 8: yes       [2, 4)               3 rows: no       0 1
    [2, 4)     3    3       2 * 3 < 8: yes       [3, 4)               1 row: yes       1 0

The cut is 3, with 3 rows left of it, 1 off the wanted 4. For two cuts d = 3. The first rank, a = 1, goes left, left, right, and left to
[2, 3), where it ends at the value 2; its cut is 3. The second ends at the value 9; its cut is 10 (`_parts_of` goes on from here).

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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from hansa.data.quantiles import MAX_MAX_BIN, Cuts, SortedKeys, keys_from_values, values_from_keys
from hansa.errors import PlanError, ProtocolError
from hansa.mpc.replicated import Address, Program, Server, add_public, check_copies, open_to_all, together
from hansa.mpc.ring import BITS, BYTES, RING64, WORD_BITS, ShareArray, pack_bits, unpack_bits, words_for
from hansa.mpc.verified_bits import Triples, negative, products_of_bytes, words_of_signs

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

MOST_CELLS = 2**13
"""Cells of all paths that one step compares, about: more bits a step take fewer rounds, and some 300 bytes a cell from each server."""

WEIGHT_SUM_BITS = 53
"""The weights of all rows add up to at most 2^53 units: times 2^9 ranks that is no number of 63 bits."""

PRODUCTS_OF_A_CELL = 8
"""Products of bits that choose the path take so many a cell, about; where it is more, triples are made on the way."""


T = TypeVar("T")


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


class Gap(NamedTuple):
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


class Search(NamedTuple):
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


@dataclass(frozen=True, eq=False)
class Searches:
    """The searches that are under way, in arrays, an entry a wanted rank. Public.

    Attributes:
        gaps: (feature, gap) of all that are searched.
        gap: int64, whose number in `gaps`. rank, parts: int64, as in `Search`.
        start, depth: int64, the cell that the rank is known to lie in.
        stopped: bool, whether the search stopped before a small half; its cut is then the cell's middle.
        ends: int64 (3, ranks): feature, and lowest key and end of the gap.
    """

    gaps: tuple[tuple[int, Gap], ...]
    gap: NDArray[np.int64]
    rank: NDArray[np.int64]
    parts: NDArray[np.int64]
    start: NDArray[np.int64]
    depth: NDArray[np.int64]
    stopped: NDArray[np.bool_]
    ends: NDArray[np.int64]

    @classmethod
    def of(cls, gaps: Sequence[tuple[int, Gap]], ranks: Sequence[int]) -> Searches:
        """So many ranks of every gap, as far down as the gap's ends alone say."""
        given = np.array(ranks, np.int64)
        gap = np.repeat(np.arange(len(gaps)), given)
        parts = given + np.array([not own.below_value for _, own in gaps], np.int64)
        rank = 1 + np.arange(len(gap)) - np.repeat(np.cumsum(given) - given, given)
        zeros = np.zeros(len(gap), np.int64)
        none = np.zeros(len(gap), np.bool_)
        ends = np.array([(feature, own.low, own.high) for feature, own in gaps], np.int64).reshape(-1, 3).T
        ends = np.ascontiguousarray(ends[:, gap])
        return cls(tuple(gaps), gap, rank, parts[gap], zeros, zeros, none, ends).within_gaps()

    def __len__(self) -> int:
        return len(self.gap)

    @property
    def going_on(self) -> NDArray[np.bool_]:
        """Which searches have found no cut yet."""
        return ~self.stopped & (self.depth < KEY_BITS)

    def within_gaps(self) -> Searches:
        """As far down as the gaps' ends alone say."""
        _, low, high = self.ends
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
        triples: this server's stock of verified triples, which all states of a search use up. Secret.
    """

    n_features: int
    rows_total: int
    max_bin: int
    min_cell_rows: int
    has_missing: Any = None
    categorical: Any = None
    weighted: bool = False
    features: tuple[FeatureCuts, ...] = ()
    paths: Searches = field(default_factory=lambda: Searches.of((), ()))
    found: tuple[Found, ...] = ()
    phase: int = 0
    draws: int = 0
    keys: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64), repr=False)
    columns: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64), repr=False)
    counts: ShareArray = field(default_factory=lambda: np.zeros((1, 2, 1), np.uint64), repr=False)
    triples: Triples = field(default_factory=Triples, repr=False)

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
        return self._request

    @cached_property
    def _request(self) -> CutProbes:
        if self.phase == 0:
            offsets = np.arange(self.n_features + 1, dtype=np.int64)
            zeros = np.zeros(self.n_features, np.uint32)
            return CutProbes(offsets, zeros, zeros.astype(np.uint8), MOST_STEP_BITS)
        paths, open_ones = self.paths, self.paths.going_on
        feature = paths.ends[0][open_ones]
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

    def answer(self, server: Server, shares: Mapping[str, ShareArray], address: Address) -> Program[CutSearchOnShares]:
        """The next state, from every owner's shared `count_probes`.

        About 9 rounds and log2 k for k bits of all paths, 7 a phase; opened is what the module's head says.

        Args:
            shares: by owner, in the same order at all servers, in Z_2^64, (2, n_answers).
            address: the same for every answer of one search.

        Raises:
            ProtocolError: shares of another size.
            ServersDisagree: a server lied, or an owner gave two of them different shares; nothing was opened after it.
        """
        state = self._with_counts(np.stack(list(shares.values())).sum(axis=0, dtype=np.uint64))
        unchecked: list[Program[None]] = [check_copies(server, shares, address.named(f"copies {state.draws}"))]
        while True:
            place = address.named(f"stock {state.phase} {state.draws}")
            if not len(state.paths):
                state, gaps = state._next_phase()
                if not gaps and state.phase > 1:
                    return state
                program = state._open_gaps(server, gaps, address.named(f"gaps {state.draws}"))
                words = state._words_of_gaps(len(gaps)), state._words_of_first_step(gaps)
                live, missing = yield from state._stocked(server, program, words, place, unchecked)
                state = state._with_gaps(gaps, live, missing)
                if not len(state.paths):
                    continue
            step = state.step()
            if step is None:
                yield from together(*unchecked)
                return state
            place = address.named(f"stock {state.phase} {state.draws}")
            cells = state._cells(step)
            opening = state._open_path(server, step, cells, address.named(f"bits {state.draws}"))
            bits = yield from state._stocked(server, opening, state._words_of_step(cells), place, unchecked)
            state = state.descended(step, bits)

    def cuts(self) -> Cuts:
        """The cuts, once done. Raises ProtocolError before."""
        if not self.done:
            raise ProtocolError("cut search: it is not done; answer its requests first")
        keys = [np.array(feature.cuts, np.int64) for feature in self.features]
        values = [values_from_keys(np.unique(np.where(k == NEGATIVE_ZERO, k + 1, k)).astype(np.uint32)) for k in keys]
        return Cuts.from_arrays(values, [bool(feature.missing) for feature in self.features])

    # Public transitions: what is opened decides them.

    def _with_counts(self, shares: ShareArray) -> CutSearchOnShares:
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
        # Both are sorted, so that a sort which merges is quick.
        keys, columns = np.concatenate([self.keys, keys]), np.concatenate([self.columns, columns])
        order = np.argsort(keys, kind="stable")
        keys, columns = keys[order], columns[order]
        first = np.concatenate([[True], keys[1:] != keys[:-1]])
        keys, columns = keys[first], columns[first]
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
        """Start the searches of the live gaps, and drop the others.

        A gap is live where it holds more than min_cell_rows rows, which was opened. Feature by feature:

        1. A gap that is not live has been looked at; it is not searched.
        2. Where it is a whole bin at an end of the range, its cut has nearly nothing beyond it: the cut is taken back.
        3. The cuts that are left, max_bin - 1 less those that are found, go to the live gaps (`_allotted`). A gap with n cuts gets the
           ranks 1, ..., n of n + 1 parts; below a value that was found, of n parts.

        An example, max_bin = 5, where 3 and 9 are cuts (counted from LOWEST). Below 3 there are few rows, from 3 to 9 and above there
        are many. The cut 3 is taken back, so 5 - 1 - 1 = 3 cuts are left for two gaps:

        >>> gaps = Gap(LOWEST, LOWEST + 3, 0.2), Gap(LOWEST + 3, LOWEST + 9, 0.2), Gap(LOWEST + 9, END, 0.3)
        >>> known = FeatureCuts((LOWEST + 3, LOWEST + 9), gaps, missing=False)
        >>> search = CutSearchOnShares(1, 100, max_bin=5, min_cell_rows=10, features=(known,), phase=2)
        >>> search = search._with_gaps([(0, gap) for gap in gaps], [False, True, True], [])
        >>> [cut - LOWEST for cut in search.features[0].cuts]
        [9]
        >>> for number, rank, parts in zip(search.paths.gap, search.paths.rank, search.paths.parts):
        ...     print(f"from {search.paths.gaps[number][1].low - LOWEST}: rank {rank} of {parts} parts")
        from 3: rank 1 of 2 parts
        from 9: rank 1 of 3 parts
        from 9: rank 2 of 3 parts
        """
        features = list(self.features)
        if self.phase == 1:
            declared = missing if self.has_missing is None else [bool(m) for m in self.has_missing]
            features = [replace(f, missing=m) for f, m in zip(features, declared, strict=True)]
        searched: list[tuple[int, Gap]] = []
        ranks: list[int] = []
        found = list(self.found)
        for number, feature in enumerate(features):
            own = [(gap, is_live) for (f, gap), is_live in zip(chosen, live, strict=True) if f == number]
            small = [gap for gap, is_live in own if not is_live]
            found += [Found(number, gap, ()) for gap in small]
            useless = {_cut_of_end(gap) for gap in small}
            cuts = tuple(cut for cut in feature.cuts if cut not in useless)
            looked_at = {gap for gap, _ in own}
            gaps = tuple(gap for gap in feature.gaps if gap not in looked_at)
            for gap, extra in _allotted([gap for gap, is_live in own if is_live], self.max_bin - 1 - len(cuts)):
                searched.append((number, gap))
                ranks.append(extra)
            features[number] = replace(feature, cuts=cuts, gaps=gaps)
        paths = Searches.of(searched, ranks)
        return replace(self, features=tuple(features), paths=paths, found=tuple(found), draws=self.draws + 1)._settled()

    def step(self) -> Step | None:
        """What the next step compares; None where every cell that a path has come to is yet to be counted."""
        paths = self.paths
        feature, low, high = paths.ends
        ready = np.flatnonzero(paths.going_on & self._counted(feature, middles(paths.start, paths.depth)))
        if not ready.size:
            return None
        feature, low, high = (column[ready, None] for column in (feature, low, high))
        most, left = _step_bits(len(ready)), self._levels_counted(feature[:, 0], ready)
        # As many steps as it takes, of about as many bits each.
        most = -(-left // -(-left // most))
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

    def _levels_counted(self, feature: NDArray[np.int64], ready: NDArray[np.int64]) -> int:
        """Bits of these paths that can be found before owners are asked again: of the first path of each depth."""
        depth, first = np.unique(self.paths.depth[ready], return_index=True)
        feature, start = feature[first], self.paths.start[ready[first]]
        levels = 0
        while (
            self._counted(feature, middles(start, np.minimum(depth + levels, KEY_BITS))) & (depth + levels < KEY_BITS)
        ).any():
            levels += 1
        return levels

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
        return replace(self, features=tuple(features), found=tuple(found), paths=Searches.of((), ()))

    # On shares.

    def _counted(self, feature: NDArray[np.int64], key: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Are the rows with a key below this one counted?"""
        places = _places(feature, key - 1)
        return np.asarray(self.keys[np.minimum(np.searchsorted(self.keys, places), len(self.keys) - 1)] == places)

    def _below(self, feature: NDArray[np.int64], key: NDArray[np.int64]) -> NDArray[np.int64]:
        """The columns of c(key): rows with a key below it, which were counted."""
        return np.asarray(self.columns[np.searchsorted(self.keys, _places(feature, key - 1))])

    @property
    def _row_bits(self) -> int:
        """Bits of a signed number of rows, less `min_cell_rows`."""
        return max(3, 1 + max(self.rows_total, self.min_cell_rows + 1).bit_length())

    def _rank_bits(self, parts: int) -> int:
        """Bits of a signed number of rows, or of units of weight, times `parts`."""
        return max(3, 1 + (parts * (2**WEIGHT_SUM_BITS if self.weighted else self.rows_total)).bit_length())

    def _stocked(
        self,
        server: Server,
        program: Program[T],
        words: tuple[int, int],
        address: Address,
        unchecked: list[Program[None]],
    ) -> Program[T]:
        """Run a step with triples enough for it; beside it more are made, so that the next step need not wait for its own.

        Args:
            words: of triples, about: of this step, and of the next.
            unchecked: what is to be checked before the step opens anything; taken out. Its one round is the step's first.
        """
        beside = [unchecked.pop() for _ in unchecked[:]]
        short, later = words[0] - self.triples.left, sum(words) - self.triples.left
        if short > 0:
            yield from together(self.triples.make(server, later, address.named("before")), *beside)
            beside = []
        elif later > 0:
            beside.append(self.triples.make(server, later, address.named("beside")))
        found: list[T] = yield from together(program, *beside)
        return found[0]

    def _words_of_gaps(self, gaps: int) -> int:
        return words_of_signs(self._row_bits, 2 * _whole_words(max(gaps, self.n_features)))

    def _words_of_first_step(self, gaps: list[tuple[int, Gap]]) -> int:
        """At most, but where two wanted ranks of a gap have no cell in common."""
        left = [self.max_bin - 1 - len(self.features[feature].cuts) for feature in {feature for feature, _ in gaps}]
        cells = (1 << _step_bits(sum(left))) - 1
        return self._words_of_cells(cells * len(gaps), cells * sum(left), max(left, default=0) + 1)

    def _words_of_step(self, cells: ComparedCells) -> tuple[int, int]:
        """Of this step; and of one whose searches have no cell in common, and somewhat more of them."""
        ranks, parts = len(cells.rank), int(cells.parts.max())
        most = self._words_of_cells(ranks, ranks, parts)
        return self._words_of_cells(cells.halves.shape[1], ranks, parts), most + most // 16

    def _words_of_cells(self, halves: int, ranks: int, parts: int) -> int:
        signs = words_of_signs(self._row_bits, 2 * _whole_words(halves)) + words_of_signs(self._rank_bits(parts), ranks)
        return signs + words_for(PRODUCTS_OF_A_CELL * ranks)

    def _open_gaps(
        self, server: Server, gaps: list[tuple[int, Gap]], address: Address
    ) -> Program[tuple[list[bool], list[bool]]]:
        """Opens one bit a gap: more than min_cell_rows rows; at first one a feature too: does any row lack it."""
        first = self.phase == 1
        ends = np.array([(feature, gap.low, gap.high) for feature, gap in gaps], np.int64).reshape(-1, 3).T
        low, high = self._below(ends[0], ends[1]), self._below(ends[0], ends[2])
        shared = self.counts[0]
        rows = [shared[:, high] - shared[:, low]]
        constants = [-(self.min_cell_rows + 1)]
        opens_missing = first and self.has_missing is None
        if opens_missing:
            rows.append(shared[:, self._below(np.arange(self.n_features), np.full(self.n_features, END))])
            constants.append(-self.rows_total)
        sizes = [own.shape[1] for own in rows]
        stacked = np.zeros((2, len(rows), _whole_words(max(sizes))), np.uint64)
        for row, (values, constant) in enumerate(zip(rows, constants, strict=True)):
            stacked[:, row, : values.shape[1]] = add_public(server, RING64, values, constant)
        place = address.named("sign")
        signs = yield from negative(server, self.triples, stacked.reshape(2, -1), self._row_bits, place)
        opened = yield from open_to_all(server, BITS, signs, address.named("gaps of cuts"))
        below = unpack_bits(opened.reshape(len(rows), -1), max(sizes)).astype(bool)
        missing = below[1, : self.n_features].tolist() if opens_missing else []
        return (~below[0, : len(gaps)]).tolist(), missing

    def _open_path(
        self, server: Server, step: Step, cells: ComparedCells, address: Address
    ) -> Program[NDArray[np.bool_]]:
        """Opens `stop` and `right AND NOT stop` of the cells on every path, bool (searches, levels, 2).

        Formulas are in the module's head. Of a cell that the path does not come to, or that nothing is compared at, both bits are 0
        but for the public `right` of a cell that the gap's ends decide.
        """
        small_left, small_right, goes_right = yield from self._compare(server, cells, address)
        # Where the rank lies right, `stop` is `small_right`; so right AND NOT stop needs no `stop`, and both products go in one round.
        one = np.ones(small_right.shape[1:], np.uint8)
        factors = np.stack([small_left ^ small_right, add_public(server, BYTES, small_right, one)], axis=1)
        place = address.named("chosen")
        (chosen,) = yield from products_of_bytes(server, self.triples, [(goes_right[:, None], factors)], place)
        stop, right = small_left ^ chosen[:, 0], chosen[:, 1]
        segments = []
        ends = np.cumsum([0, *((kind == COMPARED).sum() for kind in step.kinds)])
        for level, kind in enumerate(step.kinds):
            part, compared = slice(ends[level], ends[level + 1]), kind == COMPARED
            own = np.zeros((2, *kind.shape, 2), np.uint8)
            own[:, compared, 0], own[:, compared, 1] = stop[:, part], right[:, part]
            own[..., 1] = add_public(server, BYTES, own[..., 1], (kind == RIGHT).astype(np.uint8))
            left = add_public(server, BYTES, own[..., 0] ^ own[..., 1], (kind != UNKNOWN).astype(np.uint8))
            segments.append((own, np.stack([left, own[..., 1]], axis=-1)))
        while len(segments) > 1:
            segments = yield from self._joined(server, segments, address.named(f"segments {len(segments)}"))
        packet = segments[0][0]
        planes = pack_bits(np.ascontiguousarray(packet[:, :, 0].swapaxes(1, 2)))
        opened = yield from open_to_all(server, BITS, planes, address.named("path of cuts"))
        bits = unpack_bits(opened, len(step.searches)).astype(bool)
        return np.ascontiguousarray(bits.reshape(len(step.kinds), 2, -1).transpose(2, 0, 1))

    def _joined(self, server: Server, segments: list[Segment], address: Address) -> Program[list[Segment]]:
        """Of every two segments of the paths, an upper and the one below it, one: half as many. One round."""
        factors = []
        for (_, leads), (bits, below) in zip(segments[0::2], segments[1::2], strict=False):
            inner = np.concatenate([bits, below], axis=-1)
            factors.append((leads[..., None], inner.reshape(*leads.shape, inner.shape[-1])))
        found = yield from products_of_bytes(server, self.triples, factors, address)
        joined = []
        for own, (upper, _), (bits, _) in zip(found, segments[0::2], segments[1::2], strict=False):
            size = bits.shape[-1]
            seen = np.bitwise_xor.reduce(own[..., :size], axis=-2)
            joined.append((np.concatenate([upper, seen], axis=-1), own[..., size:].reshape(*own.shape[:-2], -1)))
        return joined + segments[2 * len(joined) :]

    def _cells(self, step: Step) -> ComparedCells:
        """What a step compares, level by level."""
        columns, of_search = [], []
        for level, (start, kind) in enumerate(zip(step.starts, step.kinds, strict=True)):
            number, node = np.nonzero(kind == COMPARED)
            own = step.searches[number]
            columns.append(np.stack([self.paths.gap[own], start[number, node], self.paths.depth[own] + level]))
            of_search.append(own)
        number = np.concatenate(of_search)
        gap, start, depth = np.concatenate(columns, axis=1)
        first, half = _each_once((gap * 2**KEY_BITS + start) * 64 + depth)
        ends = np.array([(feature, own.low, own.high) for feature, own in self.paths.gaps], np.int64).T
        of_gaps = np.stack([self._below(ends[0], key) for key in ends[1:]])
        feature, low, high = ends[:, gap[first]]
        start, size = start[first], np.int64(1) << (KEY_BITS - depth[first])
        keys = np.maximum(start, low), start + size // 2, np.minimum(start + size, high)
        halves = np.stack([self._below(feature, key) for key in keys])
        gaps = np.stack([of_gaps[0, gap], halves[1, half], of_gaps[1, gap]])
        return ComparedCells(halves, half, gaps, self.paths.rank[number], self.paths.parts[number])

    def _compare(
        self, server: Server, cells: ComparedCells, address: Address
    ) -> Program[tuple[ShareArray, ShareArray, ShareArray]]:
        """Of all cells, shared bits (2, cells): is the left half small, the right one, is the rank right?"""
        rows, amounts = self.counts[0], self.counts[-1]
        left, middle, right = cells.halves
        count = cells.halves.shape[1]
        sizes = np.zeros((2, 2, _whole_words(count)), np.uint64)
        sizes[:, 0, :count] = rows[:, middle] - rows[:, left]
        sizes[:, 1, :count] = rows[:, right] - rows[:, middle]
        sizes = add_public(server, RING64, sizes, -(self.min_cell_rows + 1))
        low, middle, high = cells.gaps
        ranks = cells.parts.astype(np.uint64) * (amounts[:, middle] - amounts[:, low])
        ranks -= cells.rank.astype(np.uint64) * (amounts[:, high] - amounts[:, low])
        bits = self._rank_bits(int(cells.parts.max()))
        small, goes_right = yield from together(
            negative(server, self.triples, sizes.reshape(2, -1), self._row_bits, address.named("small")),
            negative(server, self.triples, ranks, bits, address.named("right")),
        )
        small_left, small_right = unpack_bits(small.reshape(2, 2, -1), count)[..., cells.half].swapaxes(0, 1)
        return small_left, small_right, unpack_bits(goes_right, len(cells.rank))


Segment = tuple[ShareArray, ShareArray]
"""Some levels of all paths, shared bits uint8 (2, searches, cells of the uppermost level, ...): the opened bits of the path from that
cell on, a pair a level; and to which cell below the lowest level it leads, one of all, or none."""

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


@dataclass(frozen=True, eq=False)
class ComparedCells:
    """The cells that a step compares, an entry a search and cell; places are columns of `CutSearchOnShares.counts`. Public.

    Attributes:
        halves: int64 (3, halves), each once: where the rows below a cell, its middle and its end are counted.
        half: int64, the column of `halves` that each cell has: searches may share a cell.
        gaps: int64 (3, cells): where the rows below the gap, the cell's middle and the gap's end are counted.
        rank, parts: int64, of the search.
    """

    halves: NDArray[np.int64]
    half: NDArray[np.int64]
    gaps: NDArray[np.int64]
    rank: NDArray[np.int64]
    parts: NDArray[np.int64]


def _step_bits(paths: int) -> int:
    """Bits of so many paths that one step finds."""
    return max(1, min(MOST_STEP_BITS, (MOST_CELLS // max(1, paths) + 1).bit_length() - 1))


def _each_once(names: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where each name stands first, and which of these each entry has; quick where they are sorted."""
    if np.all(names[1:] >= names[:-1]):
        new = np.concatenate([[True], names[1:] != names[:-1]])
        return np.flatnonzero(new), np.cumsum(new) - 1
    _, first, which = np.unique(names, return_index=True, return_inverse=True)
    return first, which


def _whole_words(bits: int) -> int:
    return words_for(bits) * WORD_BITS


def _places(feature: Any, key: Any) -> NDArray[np.int64]:
    """Feature and key as one number."""
    return np.asarray(feature * 2**KEY_BITS + key, np.int64)


def _allotted(gaps: Sequence[Gap], cuts: int) -> list[tuple[Gap, int]]:
    """How many cuts each gap gets: one at least while there are any, the others where a part may hold most rows.

    A gap with n cuts falls into n + 1 parts, or n where its end is a value that was found: there the last rank is the gap's end. Of
    the gap's `bound` each part has at most

        bound / (n + 1)      (n where below_value)

    Every cut goes to the gap whose parts have most as yet. No other way with a cut for each gap makes the largest part smaller.

    An example: four cuts for gaps of at most .5 and .2 of the rows. After one each, parts have .25 and .1; the third cut makes the
    first gap's .167, the fourth .125.

    >>> [cuts for _, cuts in _allotted([Gap(0, 8, 0.5), Gap(8, 16, 0.2)], 4)]
    [3, 1]
    >>> [cuts for _, cuts in _allotted([Gap(0, 8, 0.5, below_value=True), Gap(8, 16, 0.2)], 4)]  # .5 / 3 = .167, .2 / 2 = .1
    [3, 1]
    >>> [cuts for _, cuts in _allotted([Gap(0, 8, 0.5), Gap(8, 16, 0.2)], 1)]
    [1]
    """
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


def _cut_of_end(gap: Gap) -> int | None:
    """The cut of a gap that is the whole lowest or highest bin; None of another gap, and of one below a value: that is no cut."""
    if gap.below_value:
        return None
    if gap.low == LOWEST:
        return gap.high
    return gap.low if gap.high == END else None


def _parts_of(gap: Gap, searches: Sequence[Search]) -> list[Gap]:
    """The gaps that a searched gap falls into; the values that were found, and single keys, are none.

    The ranks are of equal parts of the gap's rows, so between two of their cuts lie at most bound / d of all rows,
    d = `parts`, but for the rows of small halves. A value v that a rank fell on has the cut v + 1, and is a bin of its
    own once there is a cut at v too. Until then the gap below it ends at v (`below_value`); where two ranks fell on v
    it comes first for a cut (`below_heavy`).

    The example of the module's head: two ranks of [0, 16), which fell on the values 2 and 9.

    >>> whole, depth = Gap(0, 16), KEY_BITS  # of a single key
    >>> ranks = [Search(0, whole, 1, 3, 2, depth, 3), Search(0, whole, 2, 3, 9, depth, 10)]
    >>> for part in _parts_of(whole, ranks):
    ...     print(f"[{part.low}, {part.high})", round(part.bound, 3), part.below_value, part.below_heavy)
    [0, 2) 0.333 True False
    [3, 9) 0.333 True False
    [10, 16) 0.333 False False

    Of three ranks, the first stopped at the cut 3, and both others fell on 9:

    >>> ranks = [Search(0, whole, 1, 4, 2, depth - 1, 3), *[Search(0, whole, a, 4, 9, depth, 10) for a in (2, 3)]]
    >>> for part in _parts_of(whole, ranks):
    ...     print(f"[{part.low}, {part.high})", part.bound, part.below_value, part.below_heavy)
    [0, 3) 0.25 False False
    [3, 9) 0.25 True True
    [10, 16) 0.25 False False
    """
    bound = gap.bound / searches[0].parts
    parts: list[Gap] = []
    low = gap.low
    # By cut, each with its first search, and whether there is another one.
    hits: dict[int, tuple[Search, bool]] = {}
    for search in searches:
        hits[search.cut] = (hits[search.cut][0], True) if search.cut in hits else (search, False)
    for cut in sorted(hits):
        first, heavy = hits[cut]
        part = Gap(low, first.start, bound, True, heavy) if first.depth == KEY_BITS else Gap(low, cut, bound)
        if part.high - part.low > (0 if part.below_value else 1):
            parts.append(part)
        low = cut
    if gap.high - low > (0 if gap.below_value else 1):
        parts.append(gap._replace(low=low, bound=bound))
    return parts


def _check_settings(n_features: int, rows: int, max_bin: int, min_cell_rows: int) -> None:
    if n_features < 1 or not 1 <= rows <= MOST_ROWS:
        raise PlanError(
            f"cuts: expected at least 1 feature and 1 to 2^31 - 1 pooled rows, found {n_features} and {rows}"
        )
    if not 2 <= max_bin <= MAX_MAX_BIN:
        raise PlanError(f"max_bin: expected 2 to {MAX_MAX_BIN}, found {max_bin}")
    if min_cell_rows < 1:
        raise PlanError(f"min_cell_rows: expected at least 1, found {min_cell_rows}")
