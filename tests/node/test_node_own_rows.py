"""What a party is told of its own rows before a run."""

from __future__ import annotations

import numpy as np
import pytest

from hansa.node.config import read_member_file
from hansa.node.own_rows import own_rows
from made_consortium import PLAN, cells, make_consortium, write_member, write_table

HELD_OUT = PLAN + "\n[evaluation]\nfraction = 0.2\n"


@pytest.mark.parametrize(
    ("plan", "describes", "told"), [(HELD_OUT, False, True), (HELD_OUT, True, False), (PLAN, False, False)]
)
def test_a_party_whose_rows_repeat_is_told_where_some_are_held_out(tmp_path, plan, describes, told):
    folder = make_consortium(tmp_path / "made", plan)
    columns = {name: np.tile(values[:4], 30) for name, values in cells(120, 3).items()}
    write_table(folder / "aurora.csv", columns)
    with own_rows(read_member_file(write_member(folder, "aurora", 1)), describes=describes) as (given,):
        assert any("many rows are equal" in text for text in given.warnings) == told
        assert given.n_rows == 120
