"""An owner: shares its rows among the three servers, and is done. No I/O.

Where the plan leaves cuts or base score open it first shares the sum of its labels, and counts that the servers ask for, under
`RequestGuard`; where rows have weights, their sums beside the counts. All three servers must ask and tell the same. Of its table it
sends shares and nothing else: two of three parts of everything are key streams, so a batch of rows travels once or twice. It sends a
batch once all servers hold the one before the last, so that nothing piles up on the way. An owner that is itself a server gives
owner-assisted rows (`oblivious.shared_rows`).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from hansa.data.binning import bin_rows, category_codes, with_known_missing
from hansa.data.quantiles import Cuts, SortedKeys
from hansa.data.source import Rows
from hansa.errors import DataError, ProtocolError, blaming
from hansa.mpc.fourier import MARGIN_BITS
from hansa.oblivious.quantile_search import CutProbes, RequestGuard, count_probes, weight_units
from hansa.oblivious.shared_rows import RowShares, share_rows
from hansa.oblivious.shared_vectors import share_vector
from hansa.oblivious.training import BoostingSettings, weight_words
from hansa.plan import Plan
from hansa.protocol.messages import (
    CountProbes,
    Message,
    ShareCounts,
    ShareRows,
    TakeRows,
    TrainingSetup,
    encode,
    to_array,
    to_tensor,
)
from hansa.roles.shared.sharing import (
    LEAST_SPREAD,
    Counts,
    TrainingStart,
    categorical,
    coopetitive,
    declared_missing,
    given_start,
    given_values,
    has_factorials,
    label_sums,
    output_labels,
    plan_cuts,
    start_of,
    told_by_all,
)
from hansa.secure.prg import Algorithm

Outgoing = Iterator[tuple[str, Message]]

UNDER_WAY = 2
"""Batches of an owner that may be on their way."""


class Owner:
    """One owner's side of a run.

    Args:
        plan: as every member holds it. name: this member. algorithm: of key streams.
        rows: its table; leaves this object as shares only. held: bool (rows,), which of them are held out.
        counts: of every owner's rows.
        memory: what it answered in earlier epochs, where the run survives its processes. started: whether the start is known, and is
            told again.

    Attributes:
        through: whether all servers hold all rows.
        codes: uint16 (rows, features with candidates) of the training rows, once binned: for this member's own server, if it
            is one.
    """

    def __init__(
        self,
        plan: Plan,
        name: str,
        rows: Rows,
        held: npt.NDArray[np.bool_],
        counts: Counts,
        algorithm: Algorithm,
        memory: OwnerMemory | None = None,
        started: bool = False,
    ) -> None:
        self.through = False
        self.codes: npt.NDArray[np.uint16] | None = None
        self._tables = {False: taken(rows, ~held), True: taken(rows, held)}
        self._numbers = {part: np.flatnonzero(held == part) + 1 for part in (False, True)}
        self._training = self._tables[False]
        self._plan = plan
        self._name = name
        self._servers = plan.servers
        self._counts = counts
        self._algorithm = algorithm
        self._memory = memory
        self._started = started
        self._start: TrainingStart | None = None
        self._step = 0
        self._asked: dict[str, Message] = {}
        self._keys: SortedKeys | None = None
        parameters = plan.parameters
        guard = RequestGuard(len(plan.schema.features), counts.total, parameters.max_bin, plan.min_cell_rows)
        self._guard = guard.close() if started else guard
        self._binned: dict[
            bool, tuple[npt.NDArray[np.uint16], npt.NDArray[np.uint32], npt.NDArray[np.uint32] | None]
        ] = {}
        self._taken = dict.fromkeys(plan.servers, 0)
        self._waiting: deque[tuple[bool, int, int]] = deque()
        self._sent: deque[int] = deque()
        self._shared_rows = 0

    def waiting_for(self) -> list[str]:
        """The members whose next sealed message is owed."""
        if self._start is None:
            return [server for server in self._servers if server not in self._asked]
        return [server for server, rows in self._taken.items() if self._sent and rows < self._sent[0]]

    def begin(self) -> Outgoing:
        """The keys are confirmed: share the rows, or first what the servers need to find cuts and base score.

        Raises:
            DataError: a value missing where the plan says none is; weights or labels that do not count beside others, naming a row.
        """
        start = given_start(self._plan, self._counts)
        if start is not None:
            yield from self._share(start)
        elif self._plan.parameters.base_score is None and not self._started:
            own = self._training
            yield from self._share_vector(label_sums(own.label, own.weight, self._plan, self._counts.total))

    def handle(self, sender: str, message: Message) -> Outgoing:
        """Take a server's question, the start, or its word that it holds a batch. Raises ProtocolError naming the sender."""
        if sender not in self._servers:
            raise ProtocolError(
                f"member {sender!r} sent {type(message).__name__} to owner {self._name!r}, and is no server",
                member=sender,
            )
        match message:
            case CountProbes() | TrainingSetup() if self._start is None:
                if self._agreed(sender, message):
                    yield from self._answer(message)
            case TakeRows() if self._sent:
                yield from self._taken_by(sender, message)
            case _:
                raise ProtocolError(
                    f"server {sender!r} sent {type(message).__name__}, which owner {self._name!r} does not expect",
                    member=sender,
                )

    def _agreed(self, sender: str, message: Message) -> bool:
        """Whether all three servers sent this. Raises ProtocolError naming one that sent something else than the others."""
        if sender in self._asked:
            raise ProtocolError(
                f"server {sender!r} sent {type(message).__name__} before the other servers sent theirs", member=sender
            )
        self._asked[sender] = message
        if len(self._asked) < len(self._servers):
            return False
        told = {server: encode(own) for server, own in self._asked.items()}
        odd = [server for server, own in told.items() if list(told.values()).count(own) == 1]
        if odd:
            named = odd[0] if len(odd) == 1 else ", ".join(odd)
            raise ProtocolError(
                f"server {named!r} told {self._name!r} another {type(message).__name__} than the others; "
                "rule: servers find the same cuts, and say so alike",
                rule="servers find the same cuts, and say so alike",
                member=odd[0] if len(odd) == 1 else "",
                suspects=tuple(odd) if len(odd) > 1 else (),
            )
        self._asked = {}
        return True

    def _answer(self, message: CountProbes | TrainingSetup) -> Outgoing:
        if self._memory is not None:
            with told_by_all(self._servers):
                self._memory.take(self._step, message)
        if isinstance(message, CountProbes):
            request = self._probes(message)
            if self._keys is None:
                own = self._training
                self._keys = SortedKeys.from_features(
                    without_categories(own.features, self._plan), units_of(own.weight, self._plan, self._counts.total)
                )
            yield from self._share_vector(count_probes(self._keys, request))
            return
        start = start_of(self._servers, message, self._plan, self._counts)
        if plan_cuts(self._plan) is None and not self._started:
            with blaming(*self._servers):
                self._guard.check_cuts(start.cuts)
        self._guard = self._guard.close()
        self._keys = None
        yield from self._share(start)

    def _probes(self, message: CountProbes) -> CutProbes:
        """What all servers ask for. Raises ProtocolError where they may not."""
        servers = ", ".join(self._servers)
        features = len(self._plan.schema.features)
        with told_by_all(self._servers):
            request = CutProbes(
                to_array(servers, "offsets", message.offsets, np.int64, (features + 1,)).copy(),
                to_array(servers, "starts", message.starts, np.uint32, (None,)).copy(),
                to_array(servers, "depths", message.depths, np.uint8, (None,)).copy(),
                message.bits,
            )
            if plan_cuts(self._plan) is not None:
                raise ProtocolError(
                    f"servers {servers} asked for counts, and the plan gives the cuts", suspects=self._servers
                )
            self._guard = self._guard.check(request)
        return request

    def _share_vector(self, values: npt.NDArray[Any]) -> Outgoing:
        for server, share in zip(self._servers, share_vector(values, self._algorithm), strict=True):
            part = () if share.part is None else (to_tensor(share.part),)
            yield server, ShareCounts(self._step, share.count, (share.keys[0] or b"", share.keys[1] or b""), part)
        self._step += 1

    def _share(self, start: TrainingStart) -> Outgoing:
        self._start = start
        for held, rows in self._tables.items():
            with naming(self._name):
                labels, weights = label_words(rows, start, held, self._numbers[held])
            self._binned[held] = codes_of(rows.features, start, held), labels, weights
        self.codes = self._binned[False][0]
        self._waiting.extend(self._counts.batches(self._name))
        yield from self._share_more()

    def _taken_by(self, sender: str, message: TakeRows) -> Outgoing:
        if message.rows not in self._sent or message.rows <= self._taken[sender]:
            raise ProtocolError(
                f"server {sender!r} holds {message.rows} rows of {self._name!r}; expected one of {sorted(self._sent)}, and more "
                f"than the {self._taken[sender]} before",
                member=sender,
            )
        self._taken[sender] = message.rows
        while self._sent and not self.waiting_for():
            self._sent.popleft()
        yield from self._share_more()
        self.through = not self._sent and not self._waiting

    def _share_more(self) -> Outgoing:
        start = self._start
        if start is None:
            raise ProtocolError(f"owner {self._name!r}: rows cannot be shared before the cuts are known")
        own = self._servers.index(self._name) if self._name in self._servers else None
        while self._waiting and len(self._sent) < UNDER_WAY:
            held, first, count = self._waiting.popleft()
            self._shared_rows += count
            self._sent.append(self._shared_rows)
            codes, labels, weights = self._binned[held]
            batch = slice(first, first + count)
            shares = share_rows(
                start.candidates,
                codes[batch],
                np.ascontiguousarray(labels[:, batch]),
                self._algorithm,
                own,
                None if weights is None else np.ascontiguousarray(weights[..., batch]),
            )
            for server, share in zip(self._servers, shares, strict=True):
                yield server, _message(held, first, share)


class OwnerMemory(Protocol):
    """What an owner was asked in earlier epochs, and is asked now."""

    def take(self, step: int, message: CountProbes | TrainingSetup) -> None:
        """Keep a question of a step, or the start, before it is answered. Raises ProtocolError where another one was before."""


def taken(rows: Rows, which: npt.NDArray[np.bool_]) -> Rows:
    """The rows at `which`."""
    if which.all():
        return rows
    weight = None if rows.weight is None else rows.weight[which]
    return Rows(np.ascontiguousarray(rows.features[:, which]), rows.label[which], weight)


def units_of(weights: npt.NDArray[np.float32] | None, plan: Plan, rows: int) -> npt.NDArray[np.int64] | None:
    """Weights in the unit that cuts count them in, int64 (rows of one owner,); None where the plan has none. `rows`: of all owners."""
    limit = coopetitive(plan).weight_limit
    return None if weights is None or limit is None else weight_units(weights, limit, rows)


def without_categories(features: npt.NDArray[np.float32], plan: Plan) -> npt.NDArray[np.float32]:
    """`features` with 0 for every category: counts then tell of a categorical feature who has a value, and nothing else."""
    unordered = categorical(plan)[:, None] & ~np.isnan(features)
    return np.where(unordered, np.float32(0), features)


def codes_of(features: npt.NDArray[np.float32], start: TrainingStart, held: bool) -> npt.NDArray[np.uint16]:
    """An owner's rows as candidates take them, uint16 (rows, features with candidates).

    Args:
        features: float32 (features, rows), NaN missing; codes of a categorical feature.
        held: the rows are held out: unless the plan declares who lacks values, a value may be missing where no training row lacked
            the feature. It goes where the model sends it: right of a cut, or to the other categories.

    Raises:
        DataError: a value is missing where none may, or is no category.
    """
    known = features
    if held and declared_missing(start.plan) is None:
        known = with_known_missing(features, start.cuts, np.ones(features.shape[1], np.bool_))
    codes = np.ascontiguousarray(bin_rows(known, start.cuts).codes[:, start.features], np.uint16)
    for column, (number, feature) in enumerate(zip(start.features, start.candidates.features, strict=True)):
        if feature.categorical:
            codes[:, column] = category_codes(features[number], feature.size, start.plan.schema.features[number])
    return codes


def check_labels(rows: Rows, plan: Plan) -> None:
    """Refuse labels and weights beyond the plan's bounds (`data.rows` has held them to the schema). Raises DataError naming the row."""
    more, labels = coopetitive(plan), rows.label
    if more.label_range is not None:
        # The plan's numbers are doubles, a label is a float32: compare where both are float32.
        low, high = (np.float32(bound) for bound in more.label_range)
        wrong = np.flatnonzero((labels < low) | (labels > high))
        if wrong.size:
            raise DataError(
                f"row {int(wrong[0]) + 1}: the label is {labels[wrong[0]]:g}; the plan's labels.range is {list(more.label_range)}: "
                "widen it at every member, or leave the row out"
            )
    if rows.weight is None or more.weight_limit is None:
        return
    heavy = np.flatnonzero(rows.weight > np.float32(more.weight_limit))
    if heavy.size:
        raise DataError(
            f"row {int(heavy[0]) + 1}: the weight is {rows.weight[heavy[0]]:g}; the plan's schema.weight_limit is "
            f"{more.weight_limit:g}: raise it at every member"
        )


@contextmanager
def naming(owner: str) -> Iterator[None]:
    """An error about an owner's rows says whose they are."""
    try:
        yield
    except DataError as error:
        raise DataError(f"party {owner!r}: {error}", member=owner) from error


def check_numbers(rows: Rows, held: npt.NDArray[np.bool_], plan: Plan, counts: Counts) -> None:
    """Refuse what is lost on shares where the plan alone says how numbers are scaled: before anybody shares a row. Raises DataError."""
    values = given_values(plan)
    if values is None:
        return
    width = len(plan.schema.features)
    start = TrainingStart(plan, counts, Cuts.from_arrays([np.zeros(0, np.float32)] * width, [True] * width), values)
    for part in (False, True):
        label_words(taken(rows, held == part), start, part, np.flatnonzero(held == part) + 1)


def label_words(
    rows: Rows, start: TrainingStart, held: bool, numbers: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32] | None]:
    """Labels that `check_labels` took as words, uint32 (label rows, rows), and weights (label rows, 2, rows), or None.

    There is a row of labels for each output, and one of logarithms of factorials where `sharing.has_factorials`; the last row of
    weights is then that of the output again.

    Args:
        numbers: of the rows in the owner's table, for errors.

    Raises:
        DataError: a weight, or the spread of the labels, is lost on shares; naming a row or the plan's key.
    """
    more, scale = coopetitive(start.plan), start.label_scale
    labels = output_labels(rows.label, start.plan)
    if scale is None or more.label_range is None:
        words = labels.astype(np.uint32)
    else:
        _check_spread(rows.label, start, scale.scale)
        labels = np.clip(labels, *more.label_range)
        words = scale.words(labels)
        if has_factorials(start.plan):
            words = np.concatenate([words, _factorials(labels, scale.scale)])
        labels = (labels - scale.centre) / scale.scale
    if not start.weighted:
        return words, None
    weights = np.ones(rows.n_rows)
    if rows.weight is not None and more.weight_limit is not None:
        weights = np.minimum(rows.weight.astype(np.float64), more.weight_limit)
    found = []
    for output, (own, settings) in enumerate(zip(labels, start.output_settings, strict=True)):
        bits = start.weight_bits(output, held)
        found.append(weight_words(settings, own, weights / start.weight_unit, bits, folded=not held))
        _check_weights(found[-1][0], weights, numbers, start, settings, bits, held)
    return words, np.stack(found + found[-1:] * (len(words) - len(found)))


def _factorials(counts: npt.NDArray[np.float64], scale: float) -> npt.NDArray[np.uint32]:
    """log y! of counts in units of their scale, as words with the bits of margins."""
    found = np.array([math.lgamma(count + 1) for count in counts.reshape(-1).tolist()]).reshape(counts.shape)
    words: npt.NDArray[np.int32] = np.round(found / scale * 2.0**MARGIN_BITS).astype(np.int32)
    return words.view(np.uint32)


LEAST_WORD, MOST_LIGHT = 4, 0.25
"""A weight counts in full if its word is so great; no owner may have more than this share of rows that weigh something and less."""


def _check_weights(
    words: npt.NDArray[np.uint32],
    weights: npt.NDArray[np.float64],
    numbers: npt.NDArray[np.int64],
    start: TrainingStart,
    settings: BoostingSettings,
    bits: int,
    held: bool,
) -> None:
    """Refuse weights that are lost beside the greatest ones. Raises DataError naming the lightest such row."""
    positive = weights > 0
    light = positive & (words < LEAST_WORD)
    if not (positive & (words == 0)).any() and np.count_nonzero(light) <= MOST_LIGHT * np.count_nonzero(positive):
        return
    row = int(np.argmin(np.where(positive, weights, np.inf)))
    least, limit = LEAST_WORD * 2.0**-bits * start.weight_unit, coopetitive(start.plan).weight_limit
    if limit is None:
        raise DataError(
            f"row {numbers[row]}: scale_pos_weight {settings.scale_pos_weight:g} gives the rows of one class so little weight beside "
            "the others' that they are lost on shares; bring it nearer to 1, or leave base_score out of the plan"
        )
    if settings.total_weight is None or held:
        cause = f"schema.weight_limit is {limit:g}"
        cure = "lower schema.weight_limit to the greatest weight, at every member"
    else:
        cause = f"all rows together weigh {settings.total_weight * start.weight_unit:.6g}"
        cure = "make the greatest weights smaller"
    raise DataError(
        f"row {numbers[row]}: the weight is {weights[row]:g}; the least weight that counts on shares is {least:.3g}, because "
        f"{cause}: {cure}, give this row more weight, or weight 0"
    )


LEAST_ROWS_OF_SPREAD = 100


def _check_spread(labels: npt.NDArray[np.float32], start: TrainingStart, scale: float) -> None:
    """Refuse labels that are all alike in a range that the plan gives, where the pooled spread is not known. Raises DataError."""
    low, high = coopetitive(start.plan).label_range or (0.0, 1.0)
    spread = float(labels.std(dtype=np.float64)) if len(labels) >= LEAST_ROWS_OF_SPREAD else 0.0
    if start.values.label_spread or not 0 < spread < LEAST_SPREAD * scale:
        return
    half = spread / LEAST_SPREAD / 2
    raise DataError(
        f"labels.range {[low, high]} is {high - low:.3g} wide, and this party's labels spread by {spread:.3g} only: too wide for "
        f"shares. The widest range that works is about {2 * half:.3g} wide: narrow labels.range at every member, or leave base_score "
        "out of the plan"
    )


def _message(held: bool, first: int, share: RowShares) -> ShareRows:
    parts = next((part for part in share.parts if part is not None), ())
    keys = (share.keys[0] or b"", share.keys[1] or b"")
    return ShareRows(held, first, share.rows, keys, tuple(to_tensor(np.ascontiguousarray(part)) for part in parts))
