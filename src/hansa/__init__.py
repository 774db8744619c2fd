"""Hansa: organisations that do not trust each other train one XGBoost model on all their rows without showing them.

The public names; everything else may change. See README.md for the commands, ARCHITECTURE.md for the code.
"""

from hansa.data.schema import Schema
from hansa.data.source import Rows, check_rows, read_rows
from hansa.errors import HansaError
from hansa.node.in_process import train_in_process
from hansa.plan import Plan, parse_plan, read_plan, write_plan
from hansa.trees.ensemble import Ensemble
from hansa.trees.parameters import Parameters, parse_parameters
from hansa.trees.xgboost_json import from_json, from_model_file, to_json

__version__ = "0.1.0"

__all__ = [
    "Ensemble",
    "HansaError",
    "Parameters",
    "Plan",
    "Rows",
    "Schema",
    "check_rows",
    "from_json",
    "from_model_file",
    "parse_parameters",
    "parse_plan",
    "read_plan",
    "read_rows",
    "to_json",
    "train_in_process",
    "write_plan",
]
