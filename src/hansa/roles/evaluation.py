"""What a compute server does with held-out rows: metrics at the plan's steps, and early stopping. A program of `mpc`'s steps.

Held-out rows go down every tree on shares. After the numbers of trees that the plan names its metrics are opened; with early
stopping one bit a tree is: whether the last metric improved.
"""

from __future__ import annotations

import numpy as np

from hansa.mpc.evaluation import improved, metric_share, open_metric, tree_margins
from hansa.mpc.oblivious_growth import TreeShares
from hansa.mpc.replicated import Address, Program, Server
from hansa.mpc.ring import Words
from hansa.mpc.shared_rows import Block, label_words, weights_of
from hansa.mpc.training import may_leave_range, start_margins
from hansa.roles.sharing import Start

IN_LABEL_UNITS = ("rmse", "mae")


class Evaluation:
    """The state of evaluation at one server; does nothing where no rows are held out.

    Attributes:
        stops: whether training stops early. best_trees: how many trees the model keeps; None for all.
        openings: what was opened, in words.
    """

    def __init__(self, server: Server, start: Start, blocks: list[Block]) -> None:
        self.stops = False
        self.best_trees: int | None = None
        self.openings: list[str] = []
        self._server = server
        self._start = start
        self._blocks = blocks
        self._patience = start.plan.parameters.early_stopping_rounds
        self._best: Words | None = None
        self._margins = np.zeros((2, 0), np.uint32)
        if blocks:
            self._labels = label_words(blocks)
            self._weights = weights_of(blocks)
            self._margins = start_margins(server, self._labels.shape[1], start.settings)

    def after(self, tree: int, shares: TreeShares) -> Program[dict[str, float]]:
        """Route the held-out rows down tree number `tree`; the metrics that the plan has opened after it, by name."""
        if not self._blocks:
            return {}
        start, server = self._start, self._server
        address = Address(0, tree, 0, "evaluation")
        added = yield from tree_margins(server, start.candidates, self._blocks, shares, address)
        self._margins = self._margins + added
        names = start.plan.parameters.metrics
        opened = start.evaluated_after(tree + 1)
        values: dict[str, float] = {}
        # The range is checked once a tree: it is the same for every metric.
        check = may_leave_range(start.settings, tree + 1)
        for name in names:
            judge = name == names[-1] and self._patience is not None
            if not opened and not judge:
                continue
            place = address.named(name)
            share = yield from metric_share(
                server, name, start.settings, self._margins, self._labels, self._weights, place, check
            )
            check = False
            if opened:
                value = yield from open_metric(server, name, share, place)
                scale = 1.0 if start.label_scale is None or name not in IN_LABEL_UNITS else start.label_scale.scale
                values[name] = value * scale
                self.openings.append(f"evaluation.open_metric: {name} of held-out rows after {tree + 1} trees")
            if judge:
                yield from self._judge(name, share, tree, place)
        return values

    def _judge(self, name: str, share: Words, tree: int, place: Address) -> Program[None]:
        """Early stopping: open whether the metric is better than the best so far."""
        better = True
        if self._best is not None:
            better = yield from improved(self._server, name, share, self._best, place)
            self.openings.append(f"evaluation.improved: one bit, whether {name} improved with tree {tree + 1}")
        if better:
            self._best, self.best_trees = share, tree + 1
        self.stops = tree + 1 - (self.best_trees or 0) >= (self._patience or 0)
