"""The bins of a pooled table, asked for once, and what may be told of them, where a run describes."""

from __future__ import annotations

import numpy as np

from hansa.data.bin_counts import Layout
from hansa.data.description import Description
from hansa.data.quantiles import Cuts, CutSearch
from hansa.plan import Plan
from hansa.protocol import messages
from hansa.protocol.messages import CountBins, Described
from hansa.roles.run import Roster
from hansa.roles.summed import describing
from hansa.roles.summed.party_rows import Int64


class PooledDescription:
    """The bins that were asked for.

    Args:
        search: of cuts, which is over. label_mean: of all rows.

    Attributes:
        layout: of the bins. own: of members whose counts are in the clear, their rows in them.
    """

    def __init__(self, plan: Plan, search: CutSearch, n_rows: int, label_mean: float) -> None:
        self.layout: Layout
        self.layout, self._pooled = describing.layout_of(describing.columns_of(plan), search, plan.min_cell_rows)
        self.own: dict[str, Int64] = {}
        self._plan = plan
        self._n_rows = n_rows
        self._label_mean = label_mean

    def request(self) -> CountBins:
        """What parties are asked for."""
        edges = Cuts.from_arrays(self.layout.cuts, np.zeros(len(self.layout.cuts), np.bool_))
        tensors = (messages.to_tensor(each) for each in (edges.offsets, edges.values, self._pooled))
        return CountBins(*tensors)

    def tell(self, counts: Int64, run: bytes, roster: Roster) -> tuple[Description, Described]:
        """What may be told of the pooled counts. Raises HansaError where they do not fit."""
        plan, layout = self._plan, self.layout
        told, other = describing.tell(layout, self._pooled, self._n_rows, counts, plan.min_cell_rows)
        description = describing.description_of(plan, run, roster, layout, told, other, self._label_mean, self.own)
        mean = self._label_mean if describing.tells_mean(layout) else 0.0
        return description, Described(messages.to_tensor(told), messages.to_tensor(other), mean)
