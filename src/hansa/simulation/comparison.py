"""Whether a member's rows are predicted better by the common model or by its own: row by row, with the error of the difference."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import numpy.typing as npt

from hansa.simulation.scores import row_losses

CLEAR = 2.0
"""Standard errors from which on a difference is told."""


class PairedLoss(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The mean loss of a member's test rows under two models.

    Attributes:
        loss: which. together: of the common model. alone: of the one trained on this member's rows only.
        standard_error: of the difference, from the differences of single rows. rows: how many.
    """

    loss: str
    together: float
    alone: float
    standard_error: float
    rows: int

    @property
    def clear(self) -> bool:
        """Whether the member's own model is better by more than chance may be."""
        return self.rows > 1 and self.together - self.alone > CLEAR * self.standard_error


def paired_loss(
    objective: str,
    labels: npt.NDArray[np.float32],
    together: npt.NDArray[np.float32],
    alone: npt.NDArray[np.float32],
    quantiles: tuple[float, ...] = (),
) -> PairedLoss:
    """Compare two models' predictions, (rows,) or (rows, outputs), of the same rows; quantiles as for `row_losses`."""
    name, first = row_losses(objective, together, labels, quantiles)
    _, second = row_losses(objective, alone, labels, quantiles)
    difference = first - second
    rows = len(difference)
    error = float(np.std(difference, ddof=1)) / math.sqrt(rows) if rows > 1 else math.inf
    return PairedLoss(
        loss=name, together=float(first.mean()), alone=float(second.mean()), standard_error=error, rows=rows
    )


def advice(member: str, found: PairedLoss | None) -> str:
    """What a member should know whose own model is better; "" where it is not."""
    if found is None or not found.clear:
        return ""
    return (
        f"{member}: its own model predicts its rows better than the common one: {found.loss} {found.alone:.4f} against "
        f"{found.together:.4f} (difference {found.together - found.alone:.4f}, standard error {found.standard_error:.4f}, "
        f"{found.rows} test rows). Its rows may differ from the others': try a member feature, or keep its own model"
    )
