"""Pooled row counts of cells and nodes, which every party opens and checks by itself (secure-aggregation mode).

The aggregator sees sums, parties do not: so an aggregator that lies could name a cell or a node of one row and read that row in the
sums. Here parties also learn how many rows of all parties each named cell, and each child of a split, holds, and refuse fewer than
the plan allows:

1. With its answer to a request, a party gives a vector of its row counts of what the request names, masked under a label of its own,
   and a proof for every other party (`secure.vouching`) over run, epoch, tree, step, everything broadcast so far, and the vector.
2. The aggregator shows every party all vectors with the proofs that are meant for it, with its next broadcast (`verify_counts =
   "after"`), or before any sums of that request leave (`"before"`). Under `"tree"` the children of a whole tree are named when it
   ends, otherwise all is as under `"after"`. The vectors join the transcript, to which later masks are bound. Of trees that grow side
   by side one vector has the children of all.
3. A party checks the proofs, adds the vectors up (the masks cancel, the zero words say so) and checks the counts (`Named.broken`).

Where cells were counted, and where trees end (under `"after"` and `"before"` every `SIGNED_TREES`-th and the last one, or those that
grew side by side with it), the aggregator signs a hash of its broadcasts since the signature before. A party keeps what was signed
before it judges the counts in it. Both sides' logic is here: `CountChecker` for a party, `CountRelay` for the aggregator. No I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from hansa.consortium.identity import verify
from hansa.data.bin_counts import Layout
from hansa.data.quantiles import FIRST_BITS, STEP_BITS, CutRequest
from hansa.errors import IdentityError, ProtocolError
from hansa.plan import Plan
from hansa.protocol import messages
from hansa.protocol.messages import Contribution, ShowRows, VouchRows
from hansa.roles.summed.custom import hessian_bound, most_hessian
from hansa.roles.summed.sum_masking import SumMasking
from hansa.secure.keys import encode_fields
from hansa.secure.masking import Transcript
from hansa.secure.vouching import VOUCH_BYTES
from hansa.trees.least_rows import add_up, check_scale, heaviest_row, rows_of
from hansa.trees.level import Level
from hansa.trees.objective import Scales

Int64 = npt.NDArray[np.int64]

QUANTITY = "rows"
"""Of the masked vectors' labels."""

SIGNING_PURPOSE = "hansa broadcasts v1"

SIGNED_TREES = 8
"""Trees from one signature of the aggregator to the next where counts are shown level by level: making and checking one takes as long
as the counts of a level."""


BINS = -1
"""Stands for the bits of a cell's prefix where bins of a description are named."""

RESIDUALS = -2
"""The same where cells of residuals are."""

_WORD = np.dtype("<u8")
_NONE = np.zeros(0, np.int64)


# --- what is named, and the rules --------------------------------------------------------------------------------------


class Named(NamedTuple):
    """What a request names, and what all parties know of its rows.

    Attributes:
        tree, step: of the request, or of the tree's last one; tree is the first of those that grow side by side, `messages.SETUP` for
            cells.
        size: how many cells or children. least: int64 (size,), rows that each must have. most: rows of all parties.
        whole: int64: rows of what they are parts of; empty where unknown. Of children these are pairs, whose rows add up to it.
        within: int64, as long as `whole`: of children, the one among them that a pair's parent is; -1 where that is not named here,
            and its rows are `whole`, or unknown and that is -1.
        group: int64 (size,): of cells, which entry of `whole` each is a part of, at most; None of children.
        last: whether all trees side by side end with them. signed: whether the aggregator signs its broadcasts when it shows the
            counts.
        where: what `describe` needs: of children (tree, level, positions of the nodes that split) by level, of cells (bits, prefixes,
            names of columns); of bins (`BINS`, their places, names of columns); of residuals (`RESIDUALS`, bits, prefixes, groups).
    """

    tree: int
    step: int
    size: int
    least: Int64
    most: int
    whole: Int64
    within: Int64
    group: Int64 | None
    last: bool
    signed: bool
    where: Any

    def describe(self, number: int) -> str:
        """A cell or child in words."""
        if self.where[0] == RESIDUALS:
            _, bits, prefixes, groups = self.where
            of = (
                "of labels"
                if self.tree == messages.SETUP
                else f"of residuals in leaf {groups[number]} of tree {self.tree}"
            )
            return f"cell {int(prefixes[number]):#x} of {bits} bits {of}"
        if self.tree == messages.SETUP:
            bits, prefixes, features = self.where
            if bits == BINS:
                return f"bin {prefixes[number] + 1} of column {features[number]!r}"
            return f"cell {int(prefixes[number]):#x} of {bits} bits of feature {features[number]!r}"
        side, pair = "right" if number % 2 else "left", number // 2
        for tree, level, nodes in self.where:
            if pair < len(nodes):
                return f"the {side} child of node {nodes[pair]} in level {level} of tree {tree}"
            pair -= len(nodes)
        raise IndexError(number)

    def broken(self, counts: Int64) -> str:
        """The rule that these pooled counts break, or ""; int64 (size,)."""
        low, high = int((counts - self.least).argmin()), int(counts.argmax())
        if counts[low] < self.least[low]:
            return f"{self.describe(low)} holds {counts[low]} rows of all parties; the plan allows no fewer than {self.least[low]}"
        if counts[high] > self.most:
            return f"{self.describe(high)} is said to hold {counts[high]} rows; all parties have {self.most}: a party's count is false"
        if not len(self.whole):
            return ""
        group = np.arange(self.size) >> 1 if self.group is None else self.group
        sums = np.bincount(group, counts, len(self.whole)).astype(np.int64)
        whole = np.where(self.within >= 0, counts[self.within], self.whole)
        wrong = np.flatnonzero((whole >= 0) & (sums != whole) if self.group is None else sums > whole)
        if not len(wrong):
            return ""
        return (
            f"{self.describe(int(np.flatnonzero(group == wrong[0])[0]))} and its siblings are said to hold {sums[wrong[0]]} rows "
            f"together, what they are parts of {whole[wrong[0]]}: a party's count is false"
        )

    def pooled(self, words: bytes | memoryview, own: Int64) -> Int64:
        """The sums of all parties' vectors, int64 (size,), checked.

        Args:
            words: uint64 (parties, size + 1), little-endian. own: int64 (size,): what one party said, or zeros.

        Raises ProtocolError where masks do not cancel or counts break a rule.
        """
        counts = np.empty(self.size, np.int64)
        parts = np.frombuffer(words, _WORD).view(np.int64).reshape(-1, self.size + 1)
        whole = self.whole if self.group is None else _NONE
        fault = add_up(parts, own, self.least, self.most, whole, self.within, counts)
        if fault == 1:
            raise ProtocolError(
                f"row counts of tree {self.tree}, step {self.step}: the masks do not cancel: a member saw other broadcasts, or sent "
                "a wrong vector"
            )
        if (fault or self.group is not None) and (broken := self.broken(counts)):
            raise ProtocolError(broken)
        if fault:
            raise ProtocolError("row counts of all parties are less than this party's own: a party's count is false")
        return counts


class Naming:
    """What the requests of a run name, one after the other, with the counts that are known so far. Both sides keep one.

    Args:
        plan: of the run. n_rows: training rows of all parties. columns: whose cells are counted; the features where none is named.

    Attributes:
        pooled_bins: int64, rows of all parties in the bins of a description, once they were shown.
    """

    def __init__(self, plan: Plan, n_rows: int, columns: tuple[str, ...] = ()) -> None:
        self._plan = plan
        self._columns = columns or plan.schema.features
        self.pooled_bins = _NONE
        self._n_rows = n_rows
        self._cells: tuple[CutRequest, Int64] | None = None
        self._request: CutRequest | None = None
        self._residuals: Int64 | None = None
        self._weight = 1.0
        self._by_tree = plan.verify_counts == "tree"
        self._trees: list[_TreeNaming] = []
        self._parts: list[tuple[_TreeNaming, int, int]] = []
        self._last_tree = plan.parameters.rounds * plan.parameters.trees_per_round - 1

    def cells(self, step: int, request: CutRequest) -> Named | None:
        """The cells that a request splits; None in round 0, which names nothing but the features."""
        self._request = request
        if request.bits == 0 or not len(request.prefixes):
            return None
        offsets, prefixes, features = request.offsets, request.prefixes, self._columns
        feature = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
        whole, group = np.full(len(features), self._n_rows, np.int64), feature
        if self._cells is not None:
            above, whole = self._cells
            keys = (feature << 32) | (prefixes >> np.uint32(STEP_BITS)).astype(np.int64)
            parents = np.repeat(np.arange(len(above.offsets) - 1), np.diff(above.offsets))
            group = np.searchsorted((parents << 32) | above.prefixes.astype(np.int64), keys)
        return Named(
            tree=messages.SETUP,
            step=step,
            size=len(prefixes),
            least=np.full(len(prefixes), self._plan.min_cell_rows + 1),
            most=self._n_rows,
            whole=whole,
            within=np.full(len(whole), -1),
            group=group,
            last=False,
            signed=True,
            where=(request.bits, prefixes, [features[f] for f in feature]),
        )

    def bins(self, step: int, layout: Layout) -> Named | None:
        """The bins of a description, of columns that have several; None where none has."""
        sizes = [(number, len(cuts) + 1) for number, cuts in enumerate(layout.cuts) if len(cuts)]
        if not sizes:
            return None
        total = sum(size for _, size in sizes)
        return Named(
            tree=messages.SETUP,
            step=step,
            size=total,
            least=np.full(total, self._plan.min_cell_rows),
            most=self._n_rows,
            whole=np.full(len(sizes), self._n_rows, np.int64),
            within=np.full(len(sizes), -1),
            group=np.repeat(np.arange(len(sizes)), [size for _, size in sizes]),
            last=False,
            signed=True,
            where=(
                BINS,
                np.concatenate([np.arange(size) for _, size in sizes]),
                [self._columns[number] for number, size in sizes for _ in range(size)],
            ),
        )

    def residuals(self, tree: int, step: int, request: CutRequest) -> Named | None:
        """The cells of residuals that a request parts, groups in place of features; None in round 0, which names none."""
        before, self._request = self._request, request
        if request.bits == 0:
            return None
        groups = np.repeat(np.arange(len(request.offsets) - 1), np.diff(request.offsets))
        whole, group = np.full(len(request.offsets) - 1, self._n_rows, np.int64), groups
        if request.bits > FIRST_BITS and before is not None and self._residuals is not None:
            above = np.repeat(np.arange(len(before.offsets) - 1), np.diff(before.offsets))
            keys = (groups << 32) | (request.prefixes >> np.uint32(STEP_BITS)).astype(np.int64)
            group = np.searchsorted((above << 32) | before.prefixes.astype(np.int64), keys)
            whole = self._residuals
        return Named(
            tree=tree,
            step=step,
            size=len(request.prefixes),
            least=np.full(len(request.prefixes), self._plan.min_cell_rows + 1),
            most=self._n_rows,
            whole=whole,
            within=np.full(len(whole), -1),
            group=group,
            last=False,
            signed=True,
            where=(RESIDUALS, request.bits, request.prefixes, groups),
        )

    def start(self, weight_bound: float) -> None:
        """No row's weight, scale_pos_weight included, exceeds this."""
        self._weight = weight_bound

    def start_trees(self, first: int, scales: Sequence[Scales], gradient_bound: float) -> None:
        """Trees from number `first` on begin side by side, their sums at these scales; no row's |g| exceeds this bound."""
        plan, parameters = self._plan, self._plan.parameters
        public = (plan, self._weight, gradient_bound)
        most, bound = most_hessian(*public), hessian_bound(*public)
        # How many rows a draw of each party leaves is not worth working out: the root's children tell.
        n_root = self._n_rows if parameters.subsample == 1 else -1
        self._trees = []
        for tree, own in enumerate(scales, first):
            least = rows_of(parameters.min_child_weight, plan.min_child_rows, heaviest_row(most, own), own)
            self._trees.append(_TreeNaming(tree, own, least, bound, n_root, self._by_tree))

    def nodes(self, number: int, levels: Mapping[int, Level]) -> Named | None:
        """The children that level `number` of trees makes, or those of the whole trees that end with it; None where there are none to
        name now.

        Args:
            levels: of each tree that still grows, by its number.

        Raises HansaError where scales make nonsense of counts.
        """
        first = self._trees[0].tree
        group = self._trees[-1].tree + 1
        found = [(tree, tree.nodes(number, levels[tree.tree], self._n_rows)) for tree in self._trees if not tree.ended]
        named = [(tree, own) for tree, own in found if own is not None]
        if not named:
            return None
        ends = np.cumsum([0, *(own.size for _, own in named)]).tolist()
        self._parts = [(tree, begin, end) for (tree, _), begin, end in zip(named, ends, ends[1:], strict=False)]
        last = all(tree.ended for tree in self._trees)
        due = group // SIGNED_TREES > first // SIGNED_TREES or group > self._last_tree
        within = [
            np.where(own.within >= 0, own.within + begin, -1) for (_, own), begin in zip(named, ends, strict=False)
        ]
        return Named(
            tree=first,
            step=number + 1,
            size=ends[-1],
            least=np.concatenate([np.full(own.size, own.least) for _, own in named]),
            most=self._n_rows,
            whole=np.concatenate([own.whole for _, own in named]),
            within=np.concatenate(within),
            group=None,
            last=last,
            signed=self._by_tree or (last and due),
            where=[(tree.tree, level, nodes) for tree, own in named for level, nodes in own.levels],
        )

    def settle(self, named: Named, counts: Int64) -> None:
        """These are the counts of what was named."""
        if named.where[0] == RESIDUALS:
            self._residuals = counts
        elif named.tree == messages.SETUP:
            assert self._request is not None  # it named them
            if named.where[0] == BINS:
                self.pooled_bins = counts
            else:
                self._cells = (self._request, counts)
        elif not named.last:
            for tree, begin, end in self._parts:
                tree.settle(counts[begin:end])


class _Children(NamedTuple):
    """Children of one tree that are named: how many, the rows that each has at least, `Named.whole` and `Named.within` of them alone;
    the levels that they are of, with positions of the nodes that split."""

    size: int
    least: int
    whole: Int64
    within: Int64
    levels: list[tuple[int, Int64]]


class _TreeNaming:
    """What the levels of one tree name.

    Args:
        tree: its number. scales: of its sums. least: rows that each child has. hessian_bound: of any row. n_root: rows at its root, -1
            where that is not known. by_tree: whether its children are named when it ends.

    Attributes:
        ended: whether its last level was told.
    """

    def __init__(self, tree: int, scales: Scales, least: int, hessian_bound: float, n_root: int, by_tree: bool) -> None:
        self.tree = tree
        self.ended = False
        self._scales = scales
        self._least = least
        self._hessian_bound = hessian_bound
        self._n_root = n_root
        self._by_tree = by_tree
        self._active = np.array([n_root], np.int64)
        self._place = np.full(1, -1)
        self._levels: list[tuple[int, Int64]] = []
        self._above: list[Int64] = []
        self._kept = _NONE, _NONE
        self._fine = False

    def nodes(self, number: int, level: Level, n_rows: int) -> _Children | None:
        """The children that a level makes, or those of the whole tree that ends with it; None where there are none to name now.

        Raises HansaError where scales make nonsense of counts.
        """
        where = level.splits
        if len(where) and not self._fine:
            check_scale(self._hessian_bound, n_rows, self._scales)
            self._fine = True
        self.ended = level.last
        self._levels.append((number, where))
        self._above.append(self._place[where])
        first = 2 * (sum(len(nodes) for _, nodes in self._levels) - len(where)) if self._by_tree else 0
        made = first + np.arange(2 * len(where))
        built, waits = np.repeat(level.built, 2), level.waiting(len(self._place))
        self._kept = made[built], self._active[waits]
        self._place = np.concatenate([made[built], self._place[waits]])
        if self._by_tree and not level.last:
            self._active = np.full(len(self._place), -1)
            return None
        levels, self._levels = self._levels, []
        above, self._above = self._above, []
        pairs = sum(len(nodes) for _, nodes in levels)
        if not pairs:
            return None
        within = np.full(pairs, -1)
        if self._by_tree:
            whole = np.full(pairs, -1)
            whole[0] = self._n_root  # the root's rows: those of others are counted here too
            within = np.concatenate(above)
        else:
            whole = self._active[where]
        return _Children(2 * pairs, self._least, whole, within, levels)

    def settle(self, counts: Int64) -> None:
        """These are the counts of the children that were named last."""
        if not self.ended:
            built, waiting = self._kept
            self._active = np.concatenate([counts[built], waiting])


# --- signed broadcasts -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Evidence:
    """Broadcasts that the aggregator signed. Holds nothing that is secret: they went to every party.

    Attributes:
        run: 32 bytes, the run's id. start: 32 bytes, the hash that the section before ended with (of the first, the run's id, or what
            the checkpoint of a later epoch gives).
        broadcasts: (kind, bytes) in order; "ShowRows" stands for the masked row counts of all parties.
        signature: over run and the hash that this section ends with.
    """

    run: bytes
    start: bytes
    broadcasts: tuple[tuple[str, bytes], ...]
    signature: bytes

    @property
    def end(self) -> bytes:
        """32 bytes: the hash of `start` and the broadcasts."""
        section = Transcript(self.start)
        for kind, frame in self.broadcasts:
            section.absorb(kind, frame)
        return section.digest()


def signed_bytes(run: bytes, end: bytes) -> bytes:
    """What the aggregator signs (under `SIGNING_PURPOSE`) at the end of a section."""
    return encode_fields(SIGNING_PURPOSE, run, end)


def last_counts_bytes(run: bytes, words: bytes) -> bytes:
    """What the aggregator signs for a party that comes back when the run is over."""
    return encode_fields(SIGNING_PURPOSE, run, "last row counts", words)


def check_evidence(evidence: Evidence, aggregator: bytes, parties: int) -> list[Int64]:
    """What a third person can see in signed broadcasts: the pooled row counts that the aggregator showed, one by one.

    An honest aggregator checks counts before it shows them, so counts against the plan's rules convict whoever signed. So do two
    sections of one run that have the same `start`, other broadcasts, and a good signature each.

    Args:
        aggregator: its identity's public key, 32 bytes. parties: how many took part.

    Returns:
        int64 (cells or children named,) for every "ShowRows" in order.

    Raises IdentityError: the aggregator did not sign this. ProtocolError: vectors whose masks do not cancel.
    """
    verify(aggregator, SIGNING_PURPOSE, signed_bytes(evidence.run, evidence.end), evidence.signature)
    found = []
    for kind, frame in evidence.broadcasts:
        if kind == ShowRows.__name__:
            if not frame or len(frame) % (parties * _WORD.itemsize):
                raise ProtocolError(f"signed row counts: {len(frame)} bytes are no vectors of {parties} parties")
            words = np.frombuffer(frame, _WORD).reshape(parties, -1)
            total = words.sum(axis=0, dtype=np.uint64)
            if total[-1]:
                raise ProtocolError(
                    "signed row counts: the masks do not cancel: the vectors are not what the parties sent"
                )
            found.append(total[:-1].view(np.int64))
    return found


# --- a party ------------------------------------------------------------------------------------------------------------


class CountChecker:
    """One party's side.

    Args:
        plan: of the run. member: this party. masking: its keys and masks. n_rows: training rows of all parties.
        identity: the aggregator's, 32 bytes. columns: as for `Naming`.

    Attributes:
        due: what was named and not shown yet.
        evidence: the last section of broadcasts that the aggregator signed, the one with counts that were refused included; None
            before the first.
    """

    def __init__(
        self,
        plan: Plan,
        member: str,
        masking: SumMasking,
        n_rows: int,
        identity: bytes,
        columns: tuple[str, ...] = (),
    ) -> None:
        self.due: Named | None = None
        self.evidence: Evidence | None = None
        self.naming = Naming(plan, n_rows, columns)
        self._plan = plan
        self._parties = plan.parties
        self._at = plan.parties.index(member)
        self._masking = masking
        self._identity = identity
        self._section = _Section(masking.run.run_id, masking.start)
        self._carried = True
        self._children: dict[int, list[Int64]] = {}
        self._before = encode_fields("hansa row counts v1", masking.run.run_id, masking.run.epoch)

    @property
    def first(self) -> bool:
        """Whether counts are shown before sums leave."""
        return self._plan.verify_counts == "before"

    def absorb(self, kind: str, frame: memoryview | bytes) -> None:
        """Keep a broadcast for the signature to come."""
        self._section.absorb(kind, frame)

    def count(self, tree: int, own: Int64) -> None:
        """Keep this party's rows of the children of a level of a tree, until they are named."""
        if len(own):
            self._children.setdefault(tree, []).append(own)

    def recall(self, named: Named) -> None:
        """These cells or children were named before a checkpoint, and vouched for then."""
        self.due, self._children = named, {}

    def recall_counts(self, words: bytes | memoryview) -> None:
        """What all parties vouched for then, which was checked then. Raises ProtocolError where it is not what was named."""
        named = self.due
        if named is None or len(words) != len(self._parties) * 8 * (named.size + 1):
            raise ProtocolError("row counts are recalled that no request named")
        self.naming.settle(named, named.pooled(words, np.zeros(named.size, np.int64)))
        self.due = None

    def open_signed(self, words: bytes, signature: bytes) -> None:
        """Check the last counts of a run, to which this party comes back for the model alone: its keys, and so the proofs, are gone.

        Masks must cancel and counts keep the rules, as ever. That the words are the parties' own the aggregator's signature says:
        those who stayed hold the words themselves.

        Raises ProtocolError.
        """
        message = last_counts_bytes(self._masking.run.run_id, words)
        try:
            verify(self._identity, SIGNING_PURPOSE, message, signature)
        except IdentityError as error:
            raise ProtocolError(f"the signature over the last row counts is wrong: {error}") from error
        self.recall_counts(words)

    def vouch(self, named: Named, own: npt.NDArray[np.integer[Any]] | None = None) -> None:
        """Mask this party's counts of what was named, (size,), and make the proofs; `message` or `carry` gives them out.

        Without `own` they are those of the children that were kept, of the trees whose children are named.
        """
        if own is None:
            trees = dict.fromkeys(tree for tree, _, _ in named.where)
            own = np.concatenate([part for tree in trees for part in self._children.pop(tree)])
        words = np.empty(named.size + 1, _WORD)
        words[:-1] = own
        self._own = own.astype(np.int64, copy=False)
        self.due = named
        place = (named.tree + 1).to_bytes(8, "little") + named.step.to_bytes(8, "little")
        self._prefix = self._before + place + self._masking.received()
        words[-1] = self._masking.mask(named.tree, named.step, QUANTITY, words[:-1], True, named.size)
        self._words = words.tobytes()
        vouching = self._masking.vouching
        assert vouching is not None  # a vector was masked
        self._tags = vouching.make(self._prefix + self._words)
        self._carried = self.first

    def message(self, then: Contribution | None = None) -> VouchRows:
        """What this party vouches for, with the first fragment of the answer or alone."""
        named = self.due
        assert named is not None  # see `vouch`
        return VouchRows(named.tree, named.step, memoryview(self._words), memoryview(self._tags), then)

    def carry(self, contribution: Contribution) -> Contribution | VouchRows:
        """A fragment of an answer; the first one with the counts that go with it."""
        if self._carried:
            return contribution
        self._carried = True
        return self.message(contribution)

    def open(self, message: ShowRows) -> None:
        """Check and add up what all parties vouched for. Raises ProtocolError, or IdentityError for the signature."""
        named = self.due
        if named is None:
            raise ProtocolError("row counts are shown that no request named")
        size = 8 * (named.size + 1)
        others = len(self._parties) - 1
        if len(message.words) != len(self._parties) * size or len(message.tags) != others * VOUCH_BYTES:
            raise ProtocolError(
                f"row counts of {len(message.words)} bytes and proofs of {len(message.tags)}; expected {named.size} counts and a "
                f"zero word from each of {len(self._parties)} parties, and {others} proofs"
            )
        self._check_proofs(bytes(message.words), bytes(message.tags), size)
        self._section.absorb(ShowRows.__name__, message.words)
        if named.signed:
            section = self._section.close(bytes(message.signature))
            self._check_signature(section)
            self.evidence = section
        elif message.signature:
            raise ProtocolError("a signature came where none is due")
        self.naming.settle(named, named.pooled(message.words, self._own))
        self.due = None
        self._masking.absorb(ShowRows.__name__, message.words)

    def _check_proofs(self, words: bytes, tags: bytes, size: int) -> None:
        vouching = self._masking.vouching
        assert vouching is not None  # a vector was masked
        tag = 0
        for number, name in enumerate(self._parties):
            theirs = words[number * size : (number + 1) * size]
            if number == self._at:
                if theirs != self._words:
                    raise ProtocolError(f"row counts are shown as those of {name!r} that this party did not send")
                continue
            if not vouching.check(name, self._prefix + theirs, tags[tag : tag + VOUCH_BYTES]):
                raise ProtocolError(
                    f"row counts are shown as those of {name!r} that it did not vouch for: they were changed, come from another place "
                    "in the run or of another member, or that member received other broadcasts",
                    member=name,
                )
            tag += VOUCH_BYTES

    def _check_signature(self, evidence: Evidence) -> None:
        try:
            verify(self._identity, SIGNING_PURPOSE, signed_bytes(evidence.run, self._section.start), evidence.signature)
        except IdentityError as error:
            raise ProtocolError(f"the signature over its broadcasts is wrong: {error}") from error


class _Section:
    """Broadcasts since the last signature, and their hash."""

    def __init__(self, run: bytes, start: bytes) -> None:
        self.start = start
        self._run = run
        self._hash = Transcript(start)
        self._received: list[tuple[str, bytes]] = []

    def absorb(self, kind: str, frame: memoryview | bytes) -> None:
        self._hash.absorb(kind, frame)
        self._received.append((kind, bytes(frame)))

    def close(self, signature: bytes) -> Evidence:
        """The section that ends here; the next one starts with its hash, `start`."""
        evidence = Evidence(self._run, self.start, tuple(self._received), signature)
        self.start = self._hash.digest()
        self._hash = Transcript(self.start)
        self._received = []
        return evidence


# --- the aggregator -----------------------------------------------------------------------------------------------------


class CountRelay:
    """The aggregator's side: collects what parties vouch for, checks it, and puts it in front of the next broadcast.

    Args:
        plan: of the run. run: its id. sign: the aggregator's signature, (purpose, message) -> bytes. n_rows, columns: as for `Naming`.
        start: 32 bytes that the signed broadcasts begin from: the run's id, or what the checkpoint of a later epoch gives.

    Attributes:
        named: what was named and not shown yet.
    """

    def __init__(
        self,
        plan: Plan,
        run: bytes,
        sign: Callable[[str, bytes], bytes],
        n_rows: int,
        columns: tuple[str, ...] = (),
        start: bytes = b"",
    ) -> None:
        self.naming = Naming(plan, n_rows, columns)
        self._parties = plan.parties
        self._run = run
        self._sign = sign
        self._first = plan.verify_counts == "before"
        self._section = Transcript(start or run)
        self.named: Named | None = None
        self._given: dict[str, VouchRows] = {}

    def owes(self, member: str) -> bool:
        """Whether this party's counts must come before, or with, anything else that it says."""
        return self.named is not None and member not in self._given

    @property
    def waiting(self) -> list[str]:
        """The parties that every other one waits for, where counts come before sums."""
        return [name for name in self._parties if self._first and self.owes(name)]

    def absorb(self, kind: str, frame: bytes) -> None:
        """A broadcast that is about to leave."""
        self._section.absorb(kind, frame)

    def name(self, named: Named | None) -> None:
        """These cells or children are asked about."""
        self.named, self._given = named, {}

    def take(self, member: str, message: VouchRows) -> Iterator[tuple[str, ShowRows]]:
        """Keep a party's counts; where sums wait for them, show them to all once they are there. Raises ProtocolError."""
        named = self.named
        if named is None or not self.owes(member) or (message.tree, message.step) != (named.tree, named.step):
            raise ProtocolError(
                f"member {member!r} sent row counts of tree {message.tree}, step {message.step}, that are not due, or "
                "for a second time",
                member=member,
            )
        if len(message.words) != 8 * (named.size + 1) or len(message.tags) != VOUCH_BYTES * (len(self._parties) - 1):
            raise ProtocolError(
                f"member {member!r} sent row counts of {len(message.words)} bytes with proofs of {len(message.tags)}; expected "
                f"{named.size} counts, a zero word and {len(self._parties) - 1} proofs",
                member=member,
            )
        if self._first != (message.then is None):
            raise ProtocolError(
                f"member {member!r} sent row counts {'with' if self._first else 'without'} its answer", member=member
            )
        # What came is a view of a buffer that the next frame overwrites.
        self._given[member] = VouchRows(
            message.tree, message.step, memoryview(bytes(message.words)), memoryview(bytes(message.tags))
        )
        if self._first and len(self._given) == len(self._parties):
            yield from self.show(dict.fromkeys(self._parties, b""))

    def show(self, frames: dict[str, bytes]) -> Iterator[tuple[str, ShowRows]]:
        """What every party is told: the counts that are due, in front of the frame that is meant for it.

        Raises ProtocolError where the counts break a rule: an honest aggregator shows, and signs, no such counts.
        """
        named = self.named
        assert named is not None  # see `due`
        given = [self._given[name] for name in self._parties]
        words = b"".join(each.words for each in given)
        try:
            counts = named.pooled(words, np.zeros(named.size, np.int64))
        except ProtocolError as error:
            raise ProtocolError(
                f"the parties' row counts do not fit the sums that they sent: {error}",
                suspects=self._parties,
                rule=error.rule or str(error),
            ) from error
        self.naming.settle(named, counts)
        self.named = None
        self._section.absorb(ShowRows.__name__, words)
        signature = b""
        if named.signed:
            end = self._section.digest()
            signature = self._sign(SIGNING_PURPOSE, signed_bytes(self._run, end))
            self._section = Transcript(end)
        for number, name in enumerate(self._parties):
            tags = b"".join(_tag(each, number - (number > at)) for at, each in enumerate(given) if at != number)
            yield name, ShowRows(memoryview(words), memoryview(tags), signature, memoryview(frames[name]))

    @property
    def due(self) -> bool:
        """Whether counts are to be shown."""
        return self.named is not None


def _tag(message: VouchRows, number: int) -> memoryview:
    return message.tags[number * VOUCH_BYTES : (number + 1) * VOUCH_BYTES]


__all__ = [
    "CountChecker",
    "CountRelay",
    "Evidence",
    "Named",
    "Naming",
    "check_evidence",
    "signed_bytes",
]
