"""A table that changes while it is read by column is its owner's affair: nobody else is blamed, and no path of it is told."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from hansa.errors import HansaError, RowsLost
from hansa.node.in_process import describe_in_process, train_in_process
from made_tables import NAMES, plan, spread, table

WHERE = "/secret/place/rows.parquet"


class Failing:
    """Rows that can be read some times, and then are lost."""

    def __init__(self, rows, times: int) -> None:
        self._rows, self._left = rows, times

    def __getattr__(self, name: str):
        return getattr(self._rows, name)

    def groups(self) -> Iterator[tuple[int, np.ndarray]]:
        self._left -= 1
        for first, group in self._rows.groups():
            if self._left < 0:
                raise RowsLost(f"{WHERE}: expected the rows that were checked when the run began")
            yield first, group


def readings_of(run) -> int:
    """How often a run reads the rows."""
    counted = Failing(PARTS[NAMES[0]], 1000)
    run(plan(NAMES[:3], evaluation=0.2), {**PARTS, NAMES[0]: counted})
    return 1000 - counted._left


PARTS = spread(table(600), np.arange(600) % 3)


@pytest.mark.parametrize("run", [train_in_process, describe_in_process])
def test_each_reading_may_be_the_one_that_fails(run):
    readings = readings_of(run)
    assert readings > 2
    for times in range(readings):
        with pytest.raises(HansaError) as caught:
            run(plan(NAMES[:3], evaluation=0.2), {**PARTS, NAMES[0]: Failing(PARTS[NAMES[0]], times)})
        assert isinstance(caught.value, RowsLost), (times, caught.value)
        assert caught.value.member == ""
