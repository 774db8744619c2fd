"""A run whose processes end at any message gives the bytes of the undisturbed run (in one process, with real state folders)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hansa.node.in_process import train_in_process
from made_tables import NAMES, plan, spread, table
from surviving import Survivors, crash_at

PARTIES = NAMES[:3]


@pytest.fixture(scope="module")
def tables():
    return spread(table(150), np.arange(150) % 3)


def test_thin(tmp_path, tables):
    given = plan(PARTIES, rounds=3, max_depth=2)
    expected = train_in_process(given, tables).outcome.model
    run = Survivors(tmp_path, given, tables)
    run.finish()
    assert set(run.models.values()) == {expected}
    messages = 200
    for place in range(1, messages, 3):
        folder = tmp_path / str(place)
        run = Survivors(folder, given, tables)
        run.finish(crash_at(place))
        assert set(run.models.values()) == {expected}, place
        if run.epochs == 1:
            break
