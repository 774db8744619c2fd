"""Functions of the members' own, in files that each party has: read by hash, and run only where its policy allows the hash."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import FunctionType

from hansa.errors import PlanError, in_words
from hansa.files import read_whole
from hansa.plan import Plan
from hansa.roles.summed.custom import FunctionFile, FunctionFiles, Functions

MOST_FUNCTION_BYTES = 2**20
"""Of a file with a function."""


def read_function_files(plan: Plan, custom_objective: Path | None, custom_metric: Path | None) -> FunctionFiles:
    """The files of the plan's custom objective and metric, those that the member's own file names. Nothing in them is run.

    Raises PlanError: a file is missing, cannot be read, or has another hash than the plan's.
    """
    objective, metric = plan.custom_objective, plan.custom_metric
    return FunctionFiles(
        _read("custom_objective", None if objective is None else objective.sha256, custom_objective),
        _read("custom_metric", None if metric is None else metric.sha256, custom_metric),
    )


def read_functions(plan: Plan, custom_objective: Path | None, custom_metric: Path | None) -> Functions:
    """The functions in those files. The party's policy must have allowed their hashes before: the files' code runs here.

    Raises PlanError: as `read_function_files`, and where a file is no Python or has not one function.
    """
    return read_function_files(plan, custom_objective, custom_metric).functions()


def _read(key: str, sha256: str | None, path: Path | None) -> FunctionFile | None:
    """The file that a key of the plan means; None where the plan has no such key."""
    if sha256 is None:
        if path is not None:
            raise PlanError(f"{path}: the plan has no {key}; leave {key} out")
        return None
    if path is None:
        raise PlanError(
            f"the plan has a {key} with the hash {sha256[:16]}..., and this party names no file; name it as {key}"
        )
    source = _source(path)
    found = hashlib.sha256(source).hexdigest()
    if found != sha256:
        raise PlanError(
            f"{path}: the file's SHA-256 is {found[:16]}...; the plan's {key} has {sha256[:16]}...: ask for the "
            "file that the plan means"
        )
    return FunctionFile(key, str(path), source)


def read_metric(path: Path) -> tuple[FunctionType, str]:
    """The function of a custom metric from a file, which is run, and the file's SHA-256. Raises PlanError, as `read_functions`."""
    source = _source(path)
    return FunctionFile("custom_metric", str(path), source).function(), hashlib.sha256(source).hexdigest()


def _source(path: Path) -> bytes:
    try:
        return read_whole(path, MOST_FUNCTION_BYTES)
    except (OSError, ValueError) as error:
        raise PlanError(
            f"{path}: cannot be read: {in_words(error)}; expected a Python file with one function"
        ) from error
