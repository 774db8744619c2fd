"""What a party is asked of bins, and told of the pooled table, where a run describes: held to what it may be."""

from __future__ import annotations

import math

import numpy as np

from hansa.data.bin_counts import Layout
from hansa.data.description import Description
from hansa.data.quantiles import CutGuard, Cuts
from hansa.plan import Plan
from hansa.protocol.messages import CountBins, Described
from hansa.roles.run import Roster
from hansa.roles.summed import describing
from hansa.roles.summed.asker import Asker
from hansa.roles.summed.party_rows import Int64, PartyRows


class ToldDescription:
    """The bins that a party counted, and all parties' rows in them.

    Args:
        message: what was asked. guard: of the cells that were counted. rows: of this party. n_rows: that all parties train on.

    Attributes:
        layout: of the bins. own: this party's rows in them, int64. in_bins: the same of those that row counts are verified of.
    """

    def __init__(
        self, asker: Asker, plan: Plan, guard: CutGuard, rows: PartyRows, n_rows: int, message: CountBins
    ) -> None:
        self._asker = asker
        self._plan = plan
        self._n_rows = n_rows
        self._columns = describing.columns_of(plan)
        n_columns = len(self._columns.names)
        with asker.blaming():
            cuts = Cuts(
                asker.array(message, "offsets", np.int64, n_columns + 1),
                asker.array(message, "values", np.float32, None),
                np.zeros(n_columns, np.bool_),
            )
            self._pooled = asker.whole(message, "rows", None)
            self.layout: Layout = describing.check_request(plan, self._columns, guard, cuts, self._pooled)
        with asker.fitting():
            self.own: Int64 = rows.count_bins(self.layout)
        with asker.blaming():
            describing.check_own(self.layout, self.own, self._pooled, n_rows)
        self.in_bins = describing.bins_of(self.layout, self.own, self._pooled, n_rows)

    def accept(self, message: Described, vouched: Int64 | None, name: str, run: bytes, roster: Roster) -> Description:
        """What is told of the pooled table, where it is what the plan allows, with this party's own shifts. Raises ProtocolError.

        Args:
            vouched: rows by bin that all parties vouched for, where row counts are verified.
        """
        plan, layout, rows = self._plan, self.layout, self._pooled
        told = self._asker.whole(message, "counts", int(layout.offsets[-1]))
        other = self._asker.whole(message, "other", len(self._columns.names))
        with self._asker.blaming():
            describing.check_told(plan, self._columns, layout, rows, self._n_rows, told, other)
            if vouched is not None and not np.array_equal(vouched, rows):
                raise self._asker.broken("bins were said to hold other rows than the parties vouched for")
            if not math.isfinite(message.label_mean) or (message.label_mean and not describing.tells_mean(layout)):
                raise self._asker.broken(f"the mean of the labels is said to be {message.label_mean}")
        return describing.description_of(plan, run, roster, layout, told, other, message.label_mean, {name: self.own})
