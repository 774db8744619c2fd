"""Callbacks of `hansa.fit`, under the names that XGBoost's have.

XGBoost gives its callbacks the model after every round. Here nobody has the model before the end of the run, so they
get None. In XGBoost a callback can stop the training. Here the number of rounds is part of the plan that all members
agreed on, and parties refuse a model of another length, unless the plan has `early_stopping_rounds`. So a callback
that asks to stop ends the run with an error, in every mode.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from hansa.errors import PlanError

EVALUATION = "evaluation"
"""What the held-out rows of all parties are called in the history that callbacks get."""

XGBOOST = "xgboost.callback"

NEED_THE_MODEL = {
    "EarlyStopping": "set early_stopping_rounds",
    "LearningRateScheduler": "set one eta for all rounds",
    "TrainingCheckPoint": "save run.model after the run",
}
"""XGBoost's own callbacks that change or save the model between rounds -> what to do in their place."""


@runtime_checkable
class Callback(Protocol):
    """What `hansa.fit` takes as a callback. It may also have `before_training(model)` and `after_training(model)`."""

    def after_iteration(self, model: None, epoch: int, evals_log: dict[str, dict[str, list[float]]]) -> bool | None:
        """Called after each round. True would stop the training, which no mode can do.

        Parameters
        ----------
        model : None
            Nobody has the model yet.
        epoch : int
            Number of the round, from 0.
        evals_log : dict
            {"evaluation": {metric: [value, ...]}} of the held-out rows of all parties: one value for each round that
            opened it, NaN where the metric has none. Federated and secure-aggregation runs open their metrics in every
            round, coopetitive ones after the rounds of `evaluation_steps`. Empty without held-out rows.
        """
        ...


def check_callbacks(callbacks: Sequence[object]) -> None:
    """Refuse what could not do its work here, before anything is trained. Raises PlanError with the cure."""
    for callback in callbacks:
        name = type(callback).__name__
        if not isinstance(callback, Callback):
            raise PlanError(
                f"callbacks: expected objects with a method after_iteration(model, epoch, evals_log), found {name}; "
                "on_event= takes functions"
            )
        if type(callback).__module__ == XGBOOST and name in NEED_THE_MODEL:
            raise PlanError(
                f"callbacks: XGBoost's {name} needs the model between rounds, and here nobody has it before the end; "
                f"leave it out, and {NEED_THE_MODEL[name]}"
            )
        before = getattr(type(callback), "before_iteration", None)
        if before is not None and before.__module__ != XGBOOST:
            raise PlanError(
                f"callbacks: {name} has a method before_iteration, which is never called here: members begin rounds by "
                "themselves; move what it does to after_iteration"
            )


class Callbacks:
    """Calls the callbacks of one run. Check them first with `check_callbacks`."""

    def __init__(self, callbacks: Sequence[object]) -> None:
        self._callbacks = list(dict.fromkeys(callbacks))
        self._history: dict[str, dict[str, list[float]]] = {}

    def before_training(self) -> None:
        """The run begins."""
        self._all("before_training")

    def after_round(self, rounds: int, metrics: Mapping[str, float | None]) -> None:
        """So many rounds are over; these metrics were opened after the last. Raises PlanError where one would stop."""
        for name, value in metrics.items():
            values = self._history.setdefault(EVALUATION, {}).setdefault(name, [])
            values.append(math.nan if value is None else value)
        for callback in self._callbacks:
            assert isinstance(callback, Callback)
            if callback.after_iteration(None, rounds - 1, self._history):
                raise PlanError(
                    f"callbacks: {type(callback).__name__} asked to stop after round {rounds}, and no run stops on "
                    "request: the number of rounds is part of the plan that all members agreed on. "
                    "Return False, and set rounds or early_stopping_rounds"
                )

    def after_training(self, model: object) -> None:
        """The run is over."""
        self._all("after_training", model)

    def _all(self, name: str, model: Any = None) -> None:
        for callback in self._callbacks:
            if (method := getattr(callback, name, None)) is not None:
                method(model)
