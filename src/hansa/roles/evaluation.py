"""What a compute server does with held-out rows: metrics at the plan's steps, and early stopping. A program of `mpc`'s steps.

Held-out rows go down every tree on shares. After the numbers of rounds that the plan names its metrics are opened; with early
stopping one bit a round is: whether the last metric improved. A metric of several classes is the mean over rows and classes: each
class's margins and labels count as rows.
"""

from __future__ import annotations

import numpy as np

from hansa.mpc.evaluation import all_in_range, improved, metric_share, open_metric, tree_margins
from hansa.mpc.oblivious_growth import TreeShares
from hansa.mpc.replicated import Address, Program, Server, together
from hansa.mpc.ring import Words
from hansa.mpc.shared_rows import Block, label_words, weights_of
from hansa.mpc.training import may_leave_range, start_margins
from hansa.roles.sharing import Start

IN_LABEL_UNITS = ("rmse", "mae")


class Evaluation:
    """The state of evaluation at one server; does nothing where no rows are held out.

    Attributes:
        stops: whether training stops early. best_rounds: how many rounds the model keeps; None for all.
        left_range: whether held-out rows' margins left +-16, where metrics on shares end; training stops there.
        openings: what was opened, in words.
    """

    def __init__(self, server: Server, start: Start, blocks: list[Block]) -> None:
        self.stops = self.left_range = False
        self.best_rounds: int | None = None
        self.openings: list[str] = []
        self._server = server
        self._start = start
        self._blocks = blocks
        self._patience = start.plan.parameters.early_stopping_rounds
        self._best: Words | None = None
        self._margins = np.zeros((2, 0), np.uint32)
        if blocks:
            outputs = range(len(start.output_settings))
            # Words that only carry scale_pos_weight are no weights of metrics.
            weighted = start.plan.schema.weight is not None
            weights = [own for output in outputs if weighted and (own := weights_of(blocks, output)) is not None]
            self._labels = np.concatenate([label_words(blocks, output) for output in outputs], axis=1)
            self._weights = np.concatenate(weights, axis=2) if weights else None
            rows = sum(block.rows for block in blocks)
            self._margins = np.concatenate(
                [start_margins(server, rows, settings) for settings in start.output_settings], axis=1
            )

    def after(self, number: int, trees: list[TreeShares]) -> Program[dict[str, float]]:
        """Route the held-out rows down the trees of round `number`; the metrics that the plan has opened after it, by name."""
        if not self._blocks:
            return {}
        start, server = self._start, self._server
        address = Address(0, number, 0, "evaluation")
        added = yield from together(
            *(
                tree_margins(server, start.candidates, self._blocks, tree, address.named(f"output {output}"))
                for output, tree in enumerate(trees)
            )
        )
        self._margins = self._margins + np.concatenate(added, axis=1)
        names = start.plan.parameters.metrics
        opened = start.evaluated_after(number + 1)
        values: dict[str, float] = {}
        # The range is checked once a round: it is the same for every metric.
        if (opened or self._patience is not None) and any(
            may_leave_range(settings, number + 1) for settings in start.output_settings
        ):
            fits = yield from all_in_range(server, self._margins, address.named("range"))
            if not fits:
                self.openings.append(
                    f"training.rounds_in_range: one bit, that a held-out margin left +-16 in round {number + 1}"
                )
                self.stops = self.left_range = True
                self.best_rounds = min(max(1, number), self.best_rounds or number)
                return {}
        for name in names:
            judge = name == names[-1] and self._patience is not None
            if not opened and not judge:
                continue
            place = address.named(name)
            share = yield from metric_share(
                server, name, start.metric_settings, self._margins, self._labels, self._weights, place
            )
            if opened:
                value = yield from open_metric(server, name, share, place)
                scale = 1.0 if start.label_scale is None or name not in IN_LABEL_UNITS else start.label_scale.scale
                values[name] = value * scale
                self.openings.append(f"evaluation.open_metric: {name} of held-out rows after {number + 1} rounds")
            if judge:
                yield from self._judge(name, share, number, place)
        return values

    def _judge(self, name: str, share: Words, number: int, place: Address) -> Program[None]:
        """Early stopping: open whether the metric is better than the best so far."""
        better = True
        if self._best is not None:
            better = yield from improved(self._server, name, share, self._best, place)
            self.openings.append(f"evaluation.improved: one bit, whether {name} improved with round {number + 1}")
        if better:
            self._best, self.best_rounds = share, number + 1
        self.stops = number + 1 - (self.best_rounds or 0) >= (self._patience or 0)
