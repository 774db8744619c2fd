"""What tests of several folders share, and which cases the fast set leaves out."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from forked import forking
from postgresql import postgresql

__all__ = ["postgresql"]

# No test is held to time: on a busy machine drawing an example takes seconds.
settings.register_profile("without a clock", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("without a clock")

ROOT = Path(__file__).parent.parent
SLOW_CASES = frozenset(
    line for line in (ROOT / "tests" / "slow_cases.txt").read_text().splitlines() if line and not line.startswith("#")
)
"""Node ids that are slow tests, beside those that say so themselves."""


def pytest_collection_modifyitems(config: pytest.Config, items: Sequence[pytest.Item]) -> None:
    """Mark the listed cases. A listed case that a whole run does not find is an error: it would be run again without a word."""
    found = set()
    for item in items:
        if item.nodeid in SLOW_CASES:
            item.add_marker(pytest.mark.slow)
            found.add(item.nodeid)
    whole = {(config.invocation_params.dir / given).resolve() for given in config.args} == {
        ROOT / "tests"
    } and not config.option.ignore
    if whole and (missing := SLOW_CASES - found):
        raise pytest.UsageError(f"tests/slow_cases.txt: no such case: {', '.join(sorted(missing))}")


def pytest_collection_finish() -> None:
    """Leave out of every later collection of garbage what is there before the first test: modules, and thousands of cases."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _forked_processes() -> Iterator[None]:
    with forking():
        yield
