"""The process of a party whose rows are read by column stays small: measured, with real processes."""

from __future__ import annotations

import pytest
from benchmarks.bench_memory import measure


@pytest.mark.slow
def test_the_process_of_a_party_read_by_column_stays_small():
    """At few rows the buffers of reading still count, beside the 1.5 bytes a row and feature that the rows take; in memory it is 7."""
    found = measure(1_000_000, 30, 256, 1, "federated", ["by column"])["ways"]["by column"]
    assert found["bytes_a_cell"] < 3.5
    assert found["peak"] < 450e6
