"""Hansa: organisations that do not trust each other train one XGBoost model on all their rows without showing them.

The public names; everything else may change. See README.md for the commands, ARCHITECTURE.md for the code.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from hansa.version import __version__

if TYPE_CHECKING:
    from hansa.data.description import Description
    from hansa.data.drift import Drift
    from hansa.data.schema import Schema
    from hansa.data.source import Rows, check_rows, read_rows
    from hansa.errors import DataError, HansaError, PlanError
    from hansa.library.contributions import contributions
    from hansa.library.cross_validation import cv
    from hansa.library.describe import describe
    from hansa.library.drift import drift
    from hansa.library.estimators import HansaClassifier, HansaRegressor
    from hansa.library.evaluate import evaluate
    from hansa.library.fit import Member, Run, fit, join, split
    from hansa.library.tuning import tune
    from hansa.mlflow import log_run
    from hansa.model import Model
    from hansa.node.in_process import train_in_process
    from hansa.plan import Plan, parse_plan, read_plan, write_plan
    from hansa.simulation.contributions import Contributions
    from hansa.simulation.cross_validation import CV
    from hansa.simulation.evaluation import Comparison, Evaluation
    from hansa.simulation.tuning import Tuning
    from hansa.transport.recording import RecordedFrame, read_transcript
    from hansa.trees.ensemble import Ensemble
    from hansa.trees.parameters import Parameters, parse_parameters
    from hansa.trees.xgboost_json import from_json, from_model_file, to_json

_NAMES = {
    "hansa.data.description": ("Description",),
    "hansa.data.drift": ("Drift",),
    "hansa.data.schema": ("Schema",),
    "hansa.data.source": (
        "Rows",
        "check_rows",
        "read_rows",
    ),
    "hansa.errors": (
        "DataError",
        "HansaError",
        "PlanError",
    ),
    "hansa.library.contributions": ("contributions",),
    "hansa.library.cross_validation": ("cv",),
    "hansa.library.describe": ("describe",),
    "hansa.library.drift": ("drift",),
    "hansa.library.estimators": (
        "HansaClassifier",
        "HansaRegressor",
    ),
    "hansa.library.evaluate": ("evaluate",),
    "hansa.library.fit": (
        "Member",
        "Run",
        "fit",
        "join",
        "split",
    ),
    "hansa.library.tuning": ("tune",),
    "hansa.mlflow": ("log_run",),
    "hansa.model": ("Model",),
    "hansa.node.in_process": ("train_in_process",),
    "hansa.plan": (
        "Plan",
        "parse_plan",
        "read_plan",
        "write_plan",
    ),
    "hansa.simulation.contributions": ("Contributions",),
    "hansa.simulation.cross_validation": ("CV",),
    "hansa.simulation.evaluation": (
        "Comparison",
        "Evaluation",
    ),
    "hansa.simulation.tuning": ("Tuning",),
    "hansa.transport.recording": (
        "RecordedFrame",
        "read_transcript",
    ),
    "hansa.trees.ensemble": ("Ensemble",),
    "hansa.trees.parameters": (
        "Parameters",
        "parse_parameters",
    ),
    "hansa.trees.xgboost_json": (
        "from_json",
        "from_model_file",
        "to_json",
    ),
}
"""Module -> public names. A module is imported when one of its names is asked for: a command loads only what it needs."""


def __getattr__(name: str) -> object:
    for module, names in _NAMES.items():
        if name in names:
            found = globals()[name] = getattr(import_module(module), name)
            return found
    raise AttributeError(f"module 'hansa' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


__all__ = [
    "CV",
    "Comparison",
    "Contributions",
    "DataError",
    "Description",
    "Drift",
    "Ensemble",
    "Evaluation",
    "HansaClassifier",
    "HansaError",
    "HansaRegressor",
    "Member",
    "Model",
    "Parameters",
    "Plan",
    "PlanError",
    "RecordedFrame",
    "Rows",
    "Run",
    "Schema",
    "Tuning",
    "__version__",
    "check_rows",
    "contributions",
    "cv",
    "describe",
    "drift",
    "evaluate",
    "fit",
    "from_json",
    "from_model_file",
    "join",
    "log_run",
    "parse_parameters",
    "parse_plan",
    "read_plan",
    "read_rows",
    "read_transcript",
    "split",
    "to_json",
    "train_in_process",
    "tune",
    "write_plan",
]
