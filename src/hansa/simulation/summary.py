"""What a simulation found, as frozen structs with one JSON form: what `hansa simulate --json` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
from msgspec import UNSET, UnsetType

from hansa.node.record import Bytes, SharedRecord
from hansa.simulation.comparison import PairedLoss

Metrics = dict[str, float | None]
"""Metric -> value; None for a metric without one."""

Reasons = dict[str, str]
"""Metric -> why it has no value."""

History = Mapping[str, Sequence[float | None]]
"""Metric of held-out rows -> its values, in the order of the rounds that opened it."""


class Compared(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Metrics of a party's test rows: of the common model, and of one trained on its rows only; None where there is no model or row."""

    together: Metrics | None
    alone: Metrics | None


class ComparedReasons(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Why metrics of a party's test rows have no value."""

    together: Reasons
    alone: Reasons


class PartySummary(Bytes, frozen=True, kw_only=True):
    """One party.

    Attributes:
        rows, test_rows: how many it has. label_mean: of its rows. class_shares: the share of rows of each class, with num_class.
        bytes_up, bytes_down: what left it, and came. metrics, without_value: of its test rows. paired: the loss of these rows under the
            common model and its own, row by row; None where there are not both.
    """

    rows: int
    test_rows: int
    label_mean: float
    class_shares: tuple[float, ...]
    metrics: Compared
    without_value: ComparedReasons
    paired: PairedLoss | None


class Timing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Seconds until all had joined, from there to the cuts, and from there to the end; of a summary, all of it too."""

    startup: float
    binning: float
    training: float
    total: float | UnsetType = UNSET


class HeldOut(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Metrics of the held-out rows after the last round that opened them."""

    metrics: Metrics
    without_value: Reasons


class PooledSeconds(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Seconds of training on pooled rows."""

    binning: float
    training: float


class PooledResult(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model of the pooled rows, on all test rows.

    Attributes:
        version: of XGBoost, where it trained.
    """

    metrics: Metrics | None
    without_value: Reasons
    seconds: PooledSeconds
    version: str | UnsetType = UNSET


class Pooled(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Training on pooled rows: by Hansa, and by XGBoost where it is installed; neither where nobody asked."""

    hansa: PooledResult | UnsetType = UNSET
    xgboost: PooledResult | UnsetType = UNSET

    def by_name(self) -> dict[str, PooledResult]:
        """Those that were trained: "hansa", "xgboost"."""
        return {name: found for name in ("hansa", "xgboost") if (found := getattr(self, name)) is not UNSET}


class Summary(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that a simulation found.

    Attributes:
        mode, objective, num_class: of the plan. transport: what carried the frames.
        trees: of the model. members: by party. seconds: of the common training.
        round_trips_per_tree: with the aggregator, or among the servers.
        metrics, without_value: of all test rows. held_out: of the held-out rows.
        pooled: for comparison. categories: categorical column -> how many categories it has.
        advice: on members whose own models are better. warnings: what is allowed but probably not meant.
        model_sha256: of the model's file.
    """

    mode: str
    transport: str
    objective: str
    num_class: int
    trees: int
    members: dict[str, PartySummary]
    seconds: Timing
    round_trips_per_tree: float
    metrics: Metrics
    without_value: Reasons
    held_out: HeldOut
    pooled: Pooled
    categories: dict[str, int]
    advice: tuple[str, ...]
    warnings: tuple[str, ...]
    model_sha256: str


@dataclass(frozen=True)
class Together:
    """What the common training gave.

    Attributes:
        model: what every receiver holds. exchanges: round trips in all. trees_grown: those that the model left out among them.
        history, without_value: of the held-out rows. seconds: see `Timing`. traffic: by member.
        servers: in coopetitive mode over a network, the three compute servers' records.
    """

    model: bytes
    exchanges: int
    trees_grown: int
    history: History
    without_value: Reasons
    seconds: Timing
    traffic: Mapping[str, Bytes]
    servers: tuple[SharedRecord, ...] = ()


def values_alone(history: Mapping[str, Sequence[tuple[int, float | None]]]) -> dict[str, list[float | None]]:
    """Metric -> its values, in the order of the steps."""
    return {name: [value for _, value in values] for name, values in history.items()}
