"""Files with functions: by their hash, with one function, and never run where the hash is another."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hansa.consortium.policy import Policy
from hansa.errors import PlanError
from hansa.node.functions import read_functions
from hansa.plan import CustomMetric, CustomObjective, Plan
from hansa.roles.summed.custom import NO_FUNCTIONS
from made_tables import plan

SOURCE = """
import numpy as np

def _twice(values):
    return 2 * values

def errors(margins, labels, weights):
    return _twice(margins - labels) * weights, np.full_like(margins, 2.0) * weights
"""


def plan_of(source: bytes) -> Plan:
    custom = CustomObjective(hashlib.sha256(source).hexdigest(), 64.0, 2.0)
    return replace(plan(("aurora",), objective="reg:squarederror", base_score=0.0), custom_objective=custom)


def written(folder: Path, source: str) -> Path:
    path = folder / "errors.py"
    path.write_text(source)
    return path


def test_the_one_function_of_the_file_is_read(tmp_path):
    path = written(tmp_path, SOURCE)
    function = read_functions(plan_of(path.read_bytes()), path, None).objective
    assert function is not None
    two = np.array([2, 3], np.float32)
    gradient, hessian = function(two, np.ones_like(two), np.ones_like(two))
    assert (gradient.tolist(), hessian.tolist()) == ([2, 4], [2, 2])


def test_a_file_of_another_hash_is_never_run(tmp_path):
    spoilt = tmp_path / "spoilt"
    path = written(tmp_path, f"open({str(spoilt)!r}, 'w')\n{SOURCE}")
    with pytest.raises(PlanError, match="the file's SHA-256 is"):
        read_functions(plan_of(SOURCE.encode()), path, None)
    assert not spoilt.exists()


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("x = 1\n", "expected one function, found 0"),
        ("def f(m, y, w): ...\ndef g(m, y, w): ...\n", "expected one function, found 2"),
        ("from math import *\ndef _f(m, y, w): ...\n", "expected one function, found 0"),
        ("def f(:\n", "cannot be run: SyntaxError"),
        ("1 / 0\n", "cannot be run: ZeroDivisionError"),
    ],
)
def test_files_without_one_function_are_refused(tmp_path, source, fault):
    path = written(tmp_path, source)
    with pytest.raises(PlanError, match=fault):
        read_functions(plan_of(source.encode()), path, None)


def test_file_and_plan_go_together(tmp_path):
    path = written(tmp_path, SOURCE)
    with pytest.raises(PlanError, match="this party names no file"):
        read_functions(plan_of(SOURCE.encode()), None, None)
    with pytest.raises(PlanError, match="the plan has no custom_objective"):
        read_functions(plan(("aurora",)), path, None)
    with pytest.raises(PlanError, match="cannot be read"):
        read_functions(plan_of(SOURCE.encode()), tmp_path / "none.py", None)
    assert read_functions(plan(("aurora",)), None, None) == NO_FUNCTIONS


def test_a_metric_has_a_file_of_its_own(tmp_path):
    path = written(tmp_path, "def cost(predictions, labels, weights):\n    return abs(predictions - labels)\n")
    metric = CustomMetric(hashlib.sha256(path.read_bytes()).hexdigest(), "cost", 8.0)
    one = replace(plan(("aurora",), evaluation=0.2), custom_metric=metric)
    function = read_functions(one, None, path).metric
    assert function is not None
    assert function(np.float32([2]), np.float32([3]), np.float32([1])) == 1
    with pytest.raises(
        PlanError, match=r"the plan has a custom_metric with the hash .* names no file; name it as custom_metric"
    ):
        read_functions(one, None, None)
    with pytest.raises(PlanError, match="the plan has no custom_metric; leave custom_metric out"):
        read_functions(plan(("aurora",)), None, path)


def test_a_policy_allows_no_function_that_it_does_not_list():
    one = plan_of(SOURCE.encode())
    sha256 = hashlib.sha256(SOURCE.encode()).hexdigest()
    with pytest.raises(PlanError, match=r"the custom objective .* \(allowed: none\).* \(functions\)"):
        Policy(least_party_rows=0).check_plan(one)
    Policy(functions=("0" * 64, sha256)).check_plan(one)
    Policy().check_plan(one, has_rows=False)
