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

A value that two ranks of a gap fall on is *heavy*: it gets a bin of its own. The ranks that this saves are spent,
phase by phase, on the gaps that hold more than min_cell_rows rows (one opened bit a gap), where those next to a heavy
value come first: while there are cuts, a value that was found gets a bin of its own. So:

1. Every cell that the search names holds more than min_cell_rows pooled rows.
2. With N rows that have the feature, and B bins for them, every bin holds at most N / B + 2 min_cell_rows rows beside
   those of its most frequent value.
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
from hansa.mpc.replicated import Address, Program, Server, add_public, multiply, open_to_all, reshare
from hansa.mpc.ring import BITS, RING64, Words, pack_bits, unpack_bits, words_for

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
_ALL = np.uint64(2**64 - 1)


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
        found = [np.empty(0, np.uint32)]
        for cell in range(self.offsets[feature], self.offsets[feature + 1]):
            depth = int(self.depths[cell])
            bits = min(self.bits, KEY_BITS - depth)
            steps = np.arange(1, (1 << bits) + (depth == 0), dtype=np.int64)
            found.append((int(self.starts[cell]) + (steps << (KEY_BITS - depth - bits)) - 1).astype(np.uint32))
        return np.concatenate(found)

    @property
    def n_counts(self) -> int:
        """Length of an answer."""
        bits = np.minimum(self.bits, KEY_BITS - self.depths.astype(np.int64))
        return int(((1 << bits) - 1 + (self.depths == 0)).sum())


def count_probes(sorted_keys: SortedKeys, request: CutProbes) -> NDArray[np.uint32]:
    """An owner's answer: its rows with a key at or below each probe, uint32 (request.n_counts,). Secret.

    Raises ProtocolError where the request is for another number of features; the other rules are `RequestGuard`'s.
    """
    if len(request.offsets) != len(sorted_keys.offsets):
        raise ProtocolError(
            f"cut probes: expected {sorted_keys.n_features} features as in the plan's schema, "
            f"found {len(request.offsets) - 1}"
        )
    counts = [np.empty(0, np.uint32)]
    for feature in range(sorted_keys.n_features):
        own = sorted_keys.keys[sorted_keys.offsets[feature] : sorted_keys.offsets[feature + 1]]
        counts.append(np.searchsorted(own, request.keys(feature), side="right").astype(np.uint32))
    return np.concatenate(counts)


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
        part = slice(request.offsets[feature], request.offsets[feature + 1])
        cells = list(zip(request.starts[part].tolist(), request.depths[part].tolist(), strict=True))
        if not self.asked:
            if cells != [(0, 0)]:
                raise ProtocolError("cut probes: the first request must split the whole range of every feature, once")
            return
        if len(set(cells)) < len(cells) or cells != sorted(cells):
            raise ProtocolError(f"cut probes: feature {feature}: cells must be sorted and named once")
        if max(np.bincount([depth for _, depth in cells], minlength=1), default=0) > self.cell_limit:
            raise ProtocolError(
                f"cut probes: feature {feature}: at most {self.cell_limit} cells of one depth may be split "
                "(max_bin, and rows / (min_cell_rows + 1))"
            )
        for start, depth in cells:
            if not self._follows(feature, start, depth):
                raise ProtocolError(
                    f"cut probes: feature {feature}: the cell of {depth} bits at {start:#x} is no part that was counted, "
                    "or was split before"
                )

    def _follows(self, feature: int, start: int, depth: int) -> bool:
        """Is this a finest part of a cell that was split?"""
        for request in self.asked:
            part = slice(request.offsets[feature], request.offsets[feature + 1])
            starts, depths = request.starts[part].astype(np.int64), request.depths[part].astype(np.int64)
            finest = np.minimum(depths + request.bits, KEY_BITS)
            if np.any((depth == finest) & (start >> (KEY_BITS - depths) == starts >> (KEY_BITS - depths))):
                return not any(
                    (start, depth) in zip(r.starts[p].tolist(), r.depths[p].tolist(), strict=True)
                    for r in self.asked
                    for p in [slice(r.offsets[feature], r.offsets[feature + 1])]
                )
        return False


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
    """One wanted rank, and the cell that it lies in. Public.

    Attributes:
        feature, gap: where.
        rank, parts: the rank is rank / parts of the gap's rows.
        start, depth: the cell: keys that share their first `depth` bits with `start`.
        cut: None while the search goes on; then the cut that it found.
    """

    feature: int
    gap: Gap
    rank: int
    parts: int
    start: int = 0
    depth: int = 0
    cut: int | None = None

    @property
    def middle(self) -> int:
        """The lowest key of the cell's right half."""
        return self.start + (1 << (KEY_BITS - self.depth - 1))

    @property
    def is_value(self) -> bool:
        """Was a single value reached?"""
        return self.depth == KEY_BITS

    def half(self, right: bool) -> Search:
        """The search in one half of its cell; over where that is a single key."""
        found = replace(self, start=self.middle if right else self.start, depth=self.depth + 1)
        return replace(found, cut=found.start + 1) if found.is_value else found

    def within_gap(self) -> Search:
        """As far down as the gap's ends alone say."""
        search = self
        while search.cut is None and not search.gap.low < search.middle < search.gap.high:
            search = search.half(search.middle <= search.gap.low)
        return search


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
        features, searches: the public state of the search.
        found: everything that was searched so far.
        phase: how many rounds of gaps began.
        draws: batches of comparisons so far; part of every draw's name.
        columns: by feature, where `counts` holds the rows at or below a key.
        counts: shared in Z_2^64, (2, columns). Secret.
    """

    n_features: int
    rows_total: int
    max_bin: int
    min_cell_rows: int
    has_missing: Any = None
    categorical: Any = None
    features: tuple[FeatureCuts, ...] = ()
    searches: tuple[Search, ...] = ()
    found: tuple[Found, ...] = ()
    phase: int = 0
    draws: int = 0
    columns: tuple[dict[int, int], ...] = ()
    counts: Words = field(default_factory=lambda: np.zeros((2, 1), np.uint64), repr=False)

    def __post_init__(self) -> None:
        _check_settings(self.n_features, self.rows_total, self.max_bin, self.min_cell_rows)
        for name, given in (("has_missing", self.has_missing), ("categorical", self.categorical)):
            if given is not None and np.shape(given) != (self.n_features,):
                raise PlanError(f"{name}: expected one entry for each of {self.n_features} features")
        if not self.features:
            without = [False] * self.n_features if self.categorical is None else self.categorical
            own = tuple(FeatureCuts(gaps=()) if known else FeatureCuts() for known in without)
            object.__setattr__(self, "features", own)
            object.__setattr__(self, "columns", tuple({LOWEST - 1: 0} for _ in range(self.n_features)))

    @property
    def done(self) -> bool:
        """Whether nothing is left to ask."""
        return self.phase > 0 and not self.searches

    def request(self) -> CutProbes:
        """What to ask every owner next; the same at all three servers. Raises ProtocolError once done."""
        if self.done:
            raise ProtocolError("cut search: it is done, there is nothing to ask; read the cuts")
        if self.phase == 0:
            offsets = np.arange(self.n_features + 1, dtype=np.int64)
            zeros = np.zeros(self.n_features, np.uint32)
            return CutProbes(offsets, zeros, zeros.astype(np.uint8), MOST_STEP_BITS)
        cells: list[list[tuple[int, int]]] = [[] for _ in range(self.n_features)]
        for feature, start, depth in sorted({(s.feature, s.start, s.depth) for s in self.searches if s.cut is None}):
            cells[feature].append((start, depth))
        most = max(len(own) for own in cells)
        bits = min(MOST_STEP_BITS, max(LEAST_STEP_BITS, (PROBES // most).bit_length() - 1))
        flat = [cell for own in cells for cell in own]
        return CutProbes(
            np.concatenate([[0], np.cumsum([len(own) for own in cells])]).astype(np.int64),
            np.array([start for start, _ in flat], np.uint32),
            np.array([depth for _, depth in flat], np.uint8),
            bits,
        )

    def answer(self, server: Server, shares: Words, address: Address) -> Program[CutSearchOnShares]:
        """The next state, from the sum over owners of their shared `count_probes`.

        Eight rounds a bit of a path, 8 a phase; opened is what the module's head says.

        Args:
            shares: in Z_2^64, (2, request.n_counts).
            address: the same for every answer of one search.

        Raises:
            ProtocolError: shares of another size.
        """
        state = self._with_counts(shares)
        while True:
            if not state.searches:
                state, gaps = state._next_phase()
                if not gaps and state.phase > 1:
                    return state
                live, missing = yield from state._open_gaps(server, gaps, address.named(f"gaps {state.draws}"))
                state = state._with_gaps(gaps, live, missing)
                if not state.searches:
                    continue
            ready = [
                n for n, s in enumerate(state.searches) if s.cut is None and s.middle - 1 in state.columns[s.feature]
            ]
            if not ready:
                return state
            stop, right = yield from state._open_path(server, ready, address.named(f"bits {state.draws}"))
            state = state._descended(ready, stop, right)

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
        if shares.dtype != np.uint64 or shares.shape != (2, request.n_counts):
            raise ProtocolError(
                f"cut answers: expected shares uint64 (2, {request.n_counts}), found {shares.dtype} {shares.shape}"
            )
        columns, at = [], self.counts.shape[1]
        for feature, known in enumerate(self.columns):
            keys = request.keys(feature).tolist()
            columns.append({**known, **{key: at + place for place, key in enumerate(keys)}})
            at += len(keys)
            if self.phase == 0:
                columns[-1][END - 1] = columns[-1][2**KEY_BITS - 1]
        return replace(self, columns=tuple(columns), counts=np.concatenate([self.counts, shares], axis=1))

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
        searches: list[Search] = []
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
                parts = extra + (not gap.below_value)
                searches += [Search(number, gap, rank, parts).within_gap() for rank in range(1, extra + 1)]
            features[number] = replace(feature, cuts=tuple(cuts), gaps=tuple(gaps))
        state = replace(
            self, features=tuple(features), searches=tuple(searches), found=tuple(found), draws=self.draws + 1
        )
        return state._settled()

    def _descended(self, ready: list[int], stop: list[bool], right: list[bool]) -> CutSearchOnShares:
        searches = list(self.searches)
        for number, stopped, goes_right in zip(ready, stop, right, strict=True):
            search = searches[number]
            searches[number] = replace(search, cut=search.middle) if stopped else search.half(goes_right).within_gap()
        return replace(self, searches=tuple(searches), draws=self.draws + 1)._settled()

    def _settled(self) -> CutSearchOnShares:
        """Where every search of the phase has ended: their cuts, and the gaps between them."""
        if not self.searches or any(search.cut is None for search in self.searches):
            return self
        features, found = list(self.features), list(self.found)
        by_gap: dict[tuple[int, Gap], list[Search]] = {}
        for search in self.searches:
            by_gap.setdefault((search.feature, search.gap), []).append(search)
        for (number, gap), searches in by_gap.items():
            found.append(Found(number, gap, tuple(searches)))
            feature = features[number]
            last = gap.high - (not gap.below_value)
            cuts = {*feature.cuts, *(s.cut for s in searches if s.cut is not None and s.cut <= last)}
            gaps = sorted([*feature.gaps, *_parts_of(gap, searches)], key=lambda part: part.low)
            features[number] = replace(feature, cuts=tuple(sorted(cuts)), gaps=tuple(gaps))
        return replace(self, features=tuple(features), found=tuple(found), searches=())

    # On shares.

    def _below(self, feature: int, key: int) -> int:
        """The column of c(key): rows with a key below it."""
        return self.columns[feature][key - 1]

    def _open_gaps(
        self, server: Server, gaps: list[tuple[int, Gap]], address: Address
    ) -> Program[tuple[list[bool], list[bool]]]:
        """Opens one bit a gap: more than min_cell_rows rows; at first one a feature too: does any row lack it."""
        first = self.phase == 1
        ends = [(self._below(f, gap.low), self._below(f, gap.high)) for f, gap in gaps]
        low, high = np.array(ends, dtype=np.int64).reshape(-1, 2).T
        part = self.counts[0]
        rows = [part[high] - part[low]]
        constants = [-(self.min_cell_rows + 1)]
        opens_missing = first and self.has_missing is None
        if opens_missing:
            rows.append(part[[self.columns[f][END - 1] for f in range(self.n_features)]])
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

    def _open_path(self, server: Server, ready: list[int], address: Address) -> Program[tuple[list[bool], list[bool]]]:
        """Opens `stop` and `right AND NOT stop` of each search; formulas in the module's head. Eight rounds."""
        searches = [self.searches[number] for number in ready]
        count = len(searches)
        width = words_for(count) * 64
        places = np.array(
            [
                [
                    self._below(s.feature, s.gap.low),
                    self._below(s.feature, s.gap.high),
                    self._below(s.feature, s.middle),
                    self._below(s.feature, max(s.start, s.gap.low)),
                    self._below(s.feature, min(s.start + (1 << (KEY_BITS - s.depth)), s.gap.high)),
                ]
                for s in searches
            ]
        ).T
        part = self.counts[0]
        low, high, middle, left, right = (part[column] for column in places)
        rank = np.array([s.rank for s in searches], np.uint64)
        parts = np.array([s.parts for s in searches], np.uint64)
        least = RING64.constant(self.min_cell_rows + 1) if server.index == 0 else RING64.constant(0)
        stacked = np.zeros((3, width), np.uint64)
        stacked[0, :count] = parts * (middle - low) - rank * (high - low)
        stacked[1, :count] = middle - left - least
        stacked[2, :count] = right - middle - least
        bits = yield from sign_part(server, RING64, stacked.reshape(-1), address.named("sign"))
        shared = yield from reshare(server, BITS, bits, address.named("bits"))
        goes_right, small_left, small_right = shared.reshape(2, 3, -1).transpose(1, 0, 2)
        # Where the rank lies right, `stop` is `small_right`; so right AND NOT stop needs no `stop`, and both products go in one round.
        large_right = add_public(server, BITS, small_right, np.full(small_right.shape[1:], _ALL))
        factors = np.concatenate([small_left ^ small_right, large_right], axis=1)
        products = yield from multiply(server, BITS, np.tile(goes_right, 2), factors, address.named("chosen"))
        stop = small_left ^ products[:, : goes_right.shape[1]]
        right_bits = products[:, goes_right.shape[1] :]
        both = np.concatenate([stop, right_bits], axis=1) & np.tile(_mask(count, width), 2)
        opened = yield from open_to_all(server, BITS, both, address.named("path of cuts"))
        first, second = unpack_bits(opened.reshape(2, -1), count).astype(bool)
        return first.tolist(), second.tolist()


def _mask(count: int, width: int) -> Words:
    return pack_bits((np.arange(width) < count).astype(np.uint8))


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
        assert search.cut is not None
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
