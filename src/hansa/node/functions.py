"""Functions of the members' own, in files that each party has: read by hash, and run only where its policy allows the hash."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import FunctionType

from hansa.errors import PlanError
from hansa.files import read_whole
from hansa.plan import Plan
from hansa.roles.summed.custom import GradientFunction

MOST_FUNCTION_BYTES = 2**20
"""Of a file with a function."""


def read_gradient_function(plan: Plan, path: Path | None) -> GradientFunction | None:
    """The function of the plan's custom objective, from the file that the member's own file names; None where the plan has none.

    The party's policy must have allowed its hash before: the file's code runs here. The function is the one whose name begins with no
    underscore.

    Raises PlanError: the file is missing, cannot be read, has another hash than the plan's, is no Python, or has not one function.
    """
    wanted = plan.custom_objective
    if wanted is None:
        if path is not None:
            raise PlanError(f"{path}: the plan has no custom_objective; leave custom_objective out")
        return None
    if path is None:
        raise PlanError(
            f"the plan has a custom objective with the hash {wanted.sha256[:16]}..., and this party names no file; name it as "
            "custom_objective"
        )
    try:
        source = read_whole(path, MOST_FUNCTION_BYTES)
    except (OSError, ValueError) as error:
        raise PlanError(f"{path}: cannot be read: {error}; expected a Python file with one function") from error
    found = hashlib.sha256(source).hexdigest()
    if found != wanted.sha256:
        raise PlanError(
            f"{path}: the file's SHA-256 is {found[:16]}...; the plan's custom_objective has {wanted.sha256[:16]}...: ask for the "
            "file that the plan means"
        )
    names: dict[str, object] = {"__name__": "hansa_custom_objective", "__file__": str(path)}
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
