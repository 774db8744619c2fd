"""Cases of a test of which some run with `make test`, and all with `make test-all`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def quick(cases: Iterable[Any], *kept: Any) -> list[Any]:
    """The cases, those that are not kept marked slow."""
    cases = list(cases)
    assert all(each in cases for each in kept), "a case that is kept is none"
    return [each if each in kept else _slow(each) for each in cases]


def _slow(case: Any) -> Any:
    return pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.slow)
