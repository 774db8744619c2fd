"""Functions of the members' own, in files that each party has: read by hash, and run only where its policy allows the hash."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import FunctionType

from hansa.errors import PlanError, in_words
from hansa.files import read_whole
from hansa.plan import Plan
from hansa.roles.summed.custom import Functions

MOST_FUNCTION_BYTES = 2**20
"""Of a file with a function."""


def read_functions(plan: Plan, custom_objective: Path | None, custom_metric: Path | None) -> Functions:
    """The functions of the plan's custom objective and metric, from the files that the member's own file names.

    The party's policy must have allowed their hashes before: the files' code runs here.

    Raises PlanError: a file is missing, cannot be read, has another hash than the plan's, is no Python, or has not one function.
    """
    objective, metric = plan.custom_objective, plan.custom_metric
    return Functions(
        _read("custom_objective", None if objective is None else objective.sha256, custom_objective),
        _read("custom_metric", None if metric is None else metric.sha256, custom_metric),
    )


def _read(key: str, sha256: str | None, path: Path | None) -> FunctionType | None:
    """The function that a key of the plan means, the one whose name begins with no underscore; None where the plan has no such key."""
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
    return _function(key, path, source)


def read_metric(path: Path) -> tuple[FunctionType, str]:
    """The function of a custom metric from a file, which is run, and the file's SHA-256. Raises PlanError, as `read_functions`."""
    source = _source(path)
    return _function("custom_metric", path, source), hashlib.sha256(source).hexdigest()


def _source(path: Path) -> bytes:
    try:
        return read_whole(path, MOST_FUNCTION_BYTES)
    except (OSError, ValueError) as error:
        raise PlanError(
            f"{path}: cannot be read: {in_words(error)}; expected a Python file with one function"
        ) from error


def _function(key: str, path: Path, source: bytes) -> FunctionType:
    names: dict[str, object] = {"__name__": f"hansa_{key}", "__file__": str(path)}
    try:
        exec(compile(source, str(path), "exec"), names)  # the policy allowed this hash
    except Exception as error:  # whatever the file raises
        raise PlanError(f"{path}: the file cannot be run: {type(error).__name__}: {error}") from error
    functions = [
        value
        for name, value in names.items()
        if isinstance(value, FunctionType) and value.__module__ == names["__name__"] and not name.startswith("_")
    ]
    if len(functions) != 1:
        raise PlanError(
            f"{path}: expected one function, found {len(functions)}; let the names of others begin with an underscore"
        )
    return functions[0]
