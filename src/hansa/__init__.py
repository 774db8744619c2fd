"""Hansa: organisations that do not trust each other train one XGBoost model on all their rows without showing them.

The public names; everything else may change. See README.md for the commands, ARCHITECTURE.md for the code.
"""

from typing import TYPE_CHECKING

from hansa.contributions import contributions
from hansa.cross_validation import cv
from hansa.data.description import Description
from hansa.data.drift import Drift
from hansa.data.schema import Schema
from hansa.data.source import Rows, check_rows, read_rows
from hansa.describe import describe
from hansa.drift import drift
from hansa.errors import DataError, HansaError, PlanError
from hansa.evaluate import evaluate
from hansa.fit import Member, Run, fit, join, split
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
from hansa.tuning import tune
from hansa.version import __version__

if TYPE_CHECKING:
    from hansa.estimators import HansaClassifier, HansaRegressor


def __getattr__(name: str) -> object:
    """The estimators, which need scikit-learn, when they are asked for."""
    if name in ("HansaClassifier", "HansaRegressor"):
        from hansa import estimators

        return getattr(estimators, name)
    raise AttributeError(f"module 'hansa' has no attribute {name!r}")


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
