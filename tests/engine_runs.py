"""Whole runs of three parties whose rows are held in some way, of every kind of plan: what an engine must not change."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np

from conversation import Conversation
from hansa.data.holdout import hash_subjects
from hansa.plan import CustomMetric, CustomObjective, Plan
from hansa.roles.summed.custom import FunctionFile, FunctionFiles
from hansa.roles.summed.rows_in_memory import RowsInMemory
from made_tables import NAMES, OPEN, coded, plan, spread, table, with_labels

PARTIES = NAMES[:3]

SETTINGS: dict[str, dict[str, Any]] = {
    "logistic, weights, held-out rows": {"weighted": True, "evaluation": 0.2, "eval_metric": ["logloss", "auc"]},
    "softmax, categories, lossguide": {
        "objective": "multi:softprob", "categories": True, "grow_policy": "lossguide", "max_leaves": 5,
    },
    "quantiles, two trees a round": {"objective": "reg:quantileerror", "num_parallel_tree": 2, "weighted": True},
    "sampled rows and columns": {
        "subsample": 0.6, "colsample_bytree": 0.8, "colsample_bynode": 0.7, "evaluation": 0.2, "eval_metric": ["logloss"],
    },
    "parties balanced": {"balance": "parties", "objective": "count:poisson"},
    "masked": {"mode": "secure-aggregation", "weighted": True},
    "held out by an id": {"evaluation": 0.3, "eval_metric": ["auc"]},
    "a summary of SHAP values": {"evaluation": 0.3},
    "medians of two labels": {"objective": "reg:absoluteerror", "label": ("y", "z")},
    "functions of the members' own": {
        "objective": "reg:squarederror", "base_score": 0.0, "weighted": True, "evaluation": 0.3, "eval_metric": ["rmse"],
    },
}  # fmt: skip

BY_ID, EXPLAINED, OWN = "held out by an id", "a summary of SHAP values", "functions of the members' own"

OWN_FILES = FunctionFiles(
    FunctionFile(
        "custom_objective",
        "flat.py",
        b"""
import numpy as np


def flat(margins, labels, weights):
    error = margins - labels
    slope = np.sqrt(1 + error * error)
    return error / slope * weights, weights / slope
""",
    ),
    FunctionFile(
        "custom_metric",
        "cost.py",
        b"def cost(predictions, labels, weights):\n    return abs(predictions - labels)\n",
    ),
)

OWN_HASHES = tuple(hashlib.sha256(file.source).hexdigest() for file in (OWN_FILES.objective, OWN_FILES.metric) if file)


def with_own_functions(agreed: Plan) -> Plan:
    """The plan with the functions of `OWN_FILES`."""
    objective, metric = OWN_HASHES
    return replace(
        agreed,
        custom_objective=CustomObjective(objective, 64.0, 64.0),
        custom_metric=CustomMetric(metric, "cost", 4096.0),
    )


class Listening(Conversation):
    """A conversation that keeps what parties send."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.sent: list[tuple[str, bytes]] = []
        super().__init__(*arguments, **options)

    def submit(self, name: str, frame: bytes) -> None:
        self.sent.append((name, frame))
        super().submit(name, frame)


def talked(setting: str, hold: Any = RowsInMemory) -> Listening:
    """A whole run of three parties; `hold` keeps the rows of each."""
    given = SETTINGS[setting]
    rows = table(420, given.get("objective", "binary:logistic"), weighted=given.get("weighted", False))
    rows = coded(rows) if given.get("categories") else rows
    rows = with_labels(rows, 2, given["objective"]) if "label" in given else rows
    agreed = replace(plan(PARTIES, **given), shap="all" if setting == EXPLAINED else "")
    if setting == BY_ID:
        agreed = replace(agreed, schema=replace(agreed.schema, id="site"))
        rows = replace(rows, subject=hash_subjects(f"site {row // 5}" for row in range(rows.n_rows)))
    options: dict[str, Any] = {}
    if setting == OWN:
        agreed = with_own_functions(agreed)
        options = {"functions": OWN_FILES.functions(), "policy": msgspec.structs.replace(OPEN, functions=OWN_HASHES)}
    talk = Listening(agreed, spread(rows, np.arange(rows.n_rows) % 3), hold=hold, **options)
    talk.finish()
    return talk


def same(talk: Listening, other: Listening, setting: str) -> bool:
    """Whether two runs sent and gave the same. What is masked differs: keys are fresh."""
    frames = setting == "masked" or talk.sent == other.sent
    return frames and talk.aggregator.outcome.model == other.aggregator.outcome.model
