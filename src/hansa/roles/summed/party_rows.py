"""The rows of a party, and what they are asked: the seam between a party's side of the protocol (`party.Party`) and who holds the rows.

`rows_in_memory.RowsInMemory` holds them in this process. An engine that spreads them over workers gives the same answers: every answer
is a sum of whole numbers over rows, so that neither the order of rows nor their split into parts can be told from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from hansa.data.bin_counts import Layout
from hansa.data.columns import Columns
from hansa.data.quantiles import CutRequest, Cuts
from hansa.data.residuals import Grid
from hansa.errors import HansaError
from hansa.plan import Plan
from hansa.roles.batches import LabelCounts
from hansa.roles.summed.custom import Functions
from hansa.roles.summed.start_model import StartModel
from hansa.trees import histogram
from hansa.trees.ensemble import Ensemble
from hansa.trees.guided_search import FeatureRules
from hansa.trees.level import Level
from hansa.trees.objective import Scales
from hansa.trees.worker_pool import WorkerPool

Int64 = npt.NDArray[np.int64]
Counts = npt.NDArray[np.uint32]


class DoesNotFit(HansaError):
    """What a party was told of the run does not fit its rows. The text says nothing of any row."""


@dataclass(frozen=True)
class TrainingStart:
    """What all parties train with once the cuts are known.

    Attributes:
        cuts: with a bin for each category (`features.with_categories`). rules: of the features.
        base_scores: of each output. before: the model that training goes on from, or None.
        scale_pos_weight, hessian_bound, label_exponent, weight_exponent: as `messages.UseCuts` has them.
        planes: int64 words that a row's packed gradient and hessian take.
    """

    cuts: Cuts
    rules: FeatureRules
    base_scores: tuple[float, ...]
    before: StartModel | None
    scale_pos_weight: float
    hessian_bound: float
    label_exponent: int
    weight_exponent: int
    planes: int


class PartyRows(Protocol):
    """One party's rows, and where they stand in the trees that grow.

    What `Party` may rely on, whatever holds the rows:

    1. Rows do not leave: no answer is of one row. What is answered are the sums and counts below.
    2. Answers are whole numbers, added without rounding. They depend on the rows as a multiset: not on their order, nor on how they are
       spread over workers.
    3. Held-out rows are those that `plan` draws by contents (`data.holdout`), and a tree's rows those that it draws by contents
       (`trees.sampling`): equal rows are drawn together.
    4. Calls come in the order of the protocol: `count_*`, `sum_labels`, `unite`, `recode` before `start`; then by round `metrics`,
       `start_round`; by tree `draw` (but for the first one of a round), `start_tree`, `quantise`, by level `histograms` and `move`,
       `follow`; `set_leaves` where leaves are refitted; `shap` at the end. Trees that grow side by side have places, from 0 on; the
       calls of one place come in that order, and those of the next trees once all have ended. Whoever holds rows may keep that order as
       an assertion, and need not defend against another.
    5. A call is answered whole or raises; after an error nothing more is asked. `DoesNotFit` says that what was told does not fit
       these rows, without a word of any row; `RowsLost` that rows cannot be read any more; other `HansaError`s are this party's own.
    6. A state that was lost may be made anew from the source by the same calls: nothing in it is random.
    """

    @property
    def n_rows(self) -> int:
        """Rows of the table, held-out ones included."""

    @property
    def evaluation_rows(self) -> int:
        """Rows that are held out."""

    @property
    def own_levels(self) -> Mapping[str, tuple[str, ...]]:
        """The levels of features whose dictionaries the plan unites."""

    def label_counts(self) -> tuple[LabelCounts, LabelCounts]:
        """Rows trained on, and held out, by their labels, where these are whole numbers."""

    def join(self, n_rows: int, n_evaluation: int, n_parties: int, own: int) -> None:
        """The run began: rows that all parties train on, that they hold out, how many parties there are, and rows that this one trains
        on.
        """

    def unite(self, plan: Plan, levels: Mapping[str, tuple[str, ...]]) -> None:
        """Go on with all parties' levels, by feature of a union, which `plan` has. Raises DoesNotFit where one of its own is not."""

    def recode(self, plan: Plan, codes: Mapping[int, npt.NDArray[np.float32]]) -> None:
        """Go on with the plan's levels: old code -> new, by feature (`levels.Dictionary.codes`)."""

    def count_magnitudes(self) -> Int64:
        """`statistics.count_magnitudes`, int64 (labels + 1, 256)."""

    def count_levels(self) -> Int64:
        """`levels.count_levels` of rows trained on."""

    def sum_labels(self, label_unit: int, weight_unit: int) -> Int64:
        """Sums of the rows trained on in these units: `statistics.sum_labels`, `sum_steps`, `sum_classes`. Raises DoesNotFit."""

    def count_cells(self, request: CutRequest) -> tuple[Counts, Int64 | None]:
        """Rows trained on, and their weights where there are some, in each part of each cell that a cut search names."""

    def count_bins(self, layout: Layout) -> Int64:
        """Rows trained on by bin and category of every column, to describe them. Raises DoesNotFit."""

    def start(self, start: TrainingStart) -> None:
        """Code the rows by the cuts, let the table go, and take each row's first margin. Raises DoesNotFit, RowsLost."""

    def start_round(self, tree: int, gradient_bound: float, hessian_bound: float) -> list[int]:
        """Gradients at the margins so far, and the rows of the round's first tree, `tree`.

        Returns, by output, upper bounds of the sums of |g| and of |h| in the units that the bounds give. Raises DoesNotFit.
        """

    def metrics(self, gradient_bound: float) -> list[tuple[str, Int64]]:
        """By metric, the sums of held-out rows at the margins so far."""

    def shap(self, model: Ensemble, unit: int) -> Int64:
        """Sums of sizes of SHAP values by feature, of the rows that the plan's summary is of, as whole numbers of 2^unit, int64
        (n_features,). Raises DoesNotFit.
        """

    def draw(self, place: int, tree: int) -> None:
        """The rows of the tree of this number, which grows at a place."""

    def start_tree(self, place: int, output: int) -> int:
        """All rows of the tree at its root; its leaves add to this output's margins. Returns how many rows the tree trains on.

        A row's margin is increased by the leaves of trees in the order of their places, to the bit.
        """

    def quantise(self, place: int, output: int, scales: Scales) -> None:
        """Round and pack the gradients of an output."""

    def histograms(self, place: int, layout: histogram.Layout, positions: Int64, out: Int64) -> None:
        """Write the histograms of the active nodes at `positions` to out, int64 (positions, planes, cells)."""

    def move(self, place: int, level: Level) -> Int64:
        """The tree's rows move to the next level; int64 (2 splits,): how many reach each child."""

    def follow(self, place: int, level: Level) -> None:
        """All other rows move to the next level. Nothing that is sent waits for them."""

    def count_residuals(self, request: CutRequest, grid: Grid, weight_unit: int) -> tuple[Counts, Int64]:
        """Rows, and weights where there are some, in parts of cells: of labels before the first tree, then of residuals by leaf."""

    def set_leaves(self, values: npt.NDArray[np.float32]) -> None:
        """The leaves of the tree have these values, float32 (leaves,)."""


HoldRows = Callable[[Plan, str, Columns | None, WorkerPool, Functions, bool], PartyRows]
"""(plan, party, table, compute threads, custom functions, whether the run describes) -> who holds the rows from now on."""
