"""A search for parameters in a plan: what is tried, and each trial's parameters, which follow from the plan alone.

Every member computes the trials by itself, so nobody is trusted to draw them. They are a Latin hypercube (McKay, Beckman & Conover
1979): each parameter's range is cut into as many parts as there are trials, and each part is tried once, in an order and at a place
within it that are hashes under the plan's seed.
"""

from __future__ import annotations

import decimal
import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from decimal import Decimal
from typing import Any

from hansa.declared import fault_of_fields
from hansa.errors import PlanError
from hansa.plan.values import MOST_TRIALS, Trials
from hansa.trees.parameters import ALIASES, Parameters, parse_parameters

Value = int | float | str

SEARCHED = (
    *(
        "eta",
        "max_depth",
        "max_leaves",
        "grow_policy",
        "min_child_weight",
        "lambda",
        "alpha",
        "gamma",
        "max_delta_step",
    ),
    *("subsample", "colsample_bytree", "colsample_bylevel", "colsample_bynode", "base_score", "scale_pos_weight"),
)
"""Parameters that may be searched. All trials count the same cells for cuts, and their metrics can be compared."""

DIGITS = 4
"""Of a drawn number: what it is does not hang on the last bit, and people can read it."""

_EXACT = decimal.Context(prec=40)
"""Logarithms by the module decimal have the same digits on every machine."""


@dataclass(frozen=True)
class Interval:
    """From low to high, both tried too, evenly, or evenly in its logarithm. Whole numbers for a parameter that is one."""

    low: int | float
    high: int | float
    log: bool = False


@dataclass(frozen=True)
class Search:
    """What a plan of trials says more. Public to all members.

    Attributes:
        trials: how many choices of parameters are tried.
        space: (parameter, interval or choices), sorted by XGBoost's names.

    Raises PlanError: a parameter is not searched, or an interval or choice is none.
    """

    trials: Trials
    space: tuple[tuple[str, Interval | tuple[Value, ...]], ...]

    def __post_init__(self) -> None:
        fault = fault_of_fields(self, {"trials": "search.trials"})
        if fault is not None:
            raise PlanError(fault)
        if not self.space:
            raise PlanError(
                "search.space is empty; name at least one parameter, such as eta = { low = 0.03, high = 0.3 }"
            )
        named: dict[str, Interval | tuple[Value, ...]] = {}
        for name, values in self.space:
            target = ALIASES.get(name, name)
            if target not in SEARCHED:
                raise PlanError(
                    f"search.space.{name}: this parameter is not searched; expected one of {', '.join(SEARCHED)}: give others "
                    "in [parameters], for all trials"
                )
            if target in named:
                raise PlanError(f"search.space.{name}: {target} is named more than once; name it once")
            _check(name, target, values)
            named[target] = values
        object.__setattr__(self, "space", tuple(sorted(named.items())))

    def drawn(self, seed: int) -> tuple[Mapping[str, Value], ...]:
        """Each trial's parameters, under XGBoost's names, by the plan's seed."""
        columns = {name: _column(name, values, self.trials, seed) for name, values in self.space}
        return tuple({name: column[trial] for name, column in columns.items()} for trial in range(self.trials))


def given_of(parameters: Parameters) -> dict[str, Any]:
    """Parameters as `parse_parameters` reads them back."""
    given = asdict(parameters) | {"monotone_constraints": dict(parameters.monotone_constraints) or None}
    return {name.rstrip("_"): value for name, value in given.items() if value is not None and value != ()}


def _check(name: str, target: str, values: Interval | tuple[Value, ...]) -> None:
    where = f"search.space.{name}"
    if isinstance(values, Interval):
        ends: tuple[Value, ...] = (values.low, values.high)
        if (
            any(isinstance(end, bool) or not isinstance(end, int | float) for end in ends)
            or not values.low < values.high
        ):
            raise PlanError(
                f"{where}: expected numbers, low below high, found {values.low!r:.40} and {values.high!r:.40}"
            )
        if _is_whole(target) and not all(isinstance(end, int) for end in ends):
            raise PlanError(f"{where}: expected whole numbers, found {values.low!r:.40} and {values.high!r:.40}")
        if values.log and not values.low > 0:
            raise PlanError(f"{where}: a logarithm needs a low above 0, found {values.low!r:.40}")
    else:
        ends = values
        if not values or len(set(values)) < len(values):
            raise PlanError(f"{where}: expected different choices, found {list(values)!r:.80}")
        if len(values) > MOST_TRIALS:  # each is checked, by every member
            raise PlanError(f"{where}: expected at most {MOST_TRIALS} choices, as many as trials; found {len(values)}")
    for value in ends:
        try:
            parse_parameters({target: value})
        except PlanError as error:
            raise PlanError(f"{where}: {error}") from error


def _is_whole(name: str) -> bool:
    return any(field.name.rstrip("_") == name and field.type == "int" for field in fields(Parameters))


def _column(name: str, values: Interval | tuple[Value, ...], trials: int, seed: int) -> list[Value]:
    """What each trial has for one parameter."""
    order = sorted(range(trials), key=lambda trial: _hash(seed, name, "order", trial))
    places = {trial: Decimal(part) for part, trial in enumerate(order)}
    with decimal.localcontext(_EXACT):
        shares = [
            (places[trial] + _hash(seed, name, "place", trial) / Decimal(2**64)) / trials for trial in range(trials)
        ]
        return [_at(values, share, _is_whole(name)) for share in shares]


def _at(values: Interval | tuple[Value, ...], share: Decimal, whole: bool) -> Value:
    """What stands at a share, 0 to below 1, of the values."""
    if not isinstance(values, Interval):
        return values[int(share * len(values))]
    # As it is written: 0.1 is one tenth, and not the nearest float64.
    low, high = Decimal(str(values.low)), Decimal(str(values.high))
    end = high + 1 if whole else high
    found = (low.ln() + share * (end.ln() - low.ln())).exp() if values.log else low + share * (end - low)
    if whole:
        return int(min(max(found, low), high))
    return float(min(max(Decimal(f"{found:.{DIGITS}g}"), low), high))


def _hash(seed: int, name: str, what: str, trial: int) -> int:
    """64 bits."""
    text = f"hansa search\0{seed}\0{name}\0{what}\0{trial}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
