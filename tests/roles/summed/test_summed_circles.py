"""Two honest runs whose circles overlap: what they open differs by one owner's part, unless ledgers are kept."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from conversation import identity
from hansa.consortium.ledger import Entry, Ledger, Met
from hansa.data.source import Rows
from hansa.errors import HansaError
from hansa.roles.batches import Admit, admit_all
from hansa.roles.shared import compute_server
from made_tables import OPEN, spread, table
from shares import SERVERS, SharedTalk, shared_plan

ROWS = table(303)
OWNERS = np.where(np.arange(303) < 300, np.arange(303) % 3, 3)
TABLES = spread(ROWS, OWNERS)
"""Three owners of 100 rows each, and a fourth of three."""


def run_circle(names: tuple[str, ...], admit: Admit) -> SharedTalk:
    chosen = shared_plan(parties=names, servers=SERVERS, receivers=("aurora",), given=False, rounds=1, max_depth=1)
    return SharedTalk(replace(chosen, min_party_rows=20), {n: TABLES[n] for n in names}, admit=admit).run()


def admission(ledger: Ledger, rows: Rows) -> Admit:
    """What `hansa party` does before anything leaves."""
    columns = ledger.columns(rows.features, rows.label)

    def admit(run, roster) -> None:
        met = tuple(Met(name, identity(name).public.hex(), trained, held) for name, _, trained, held, _ in roster)
        ledger.admit(Entry(columns, "coopetitive", met, run.hex()), OPEN)

    return admit


def test_without_ledgers_two_circles_tell_how_many_of_a_fourth_owners_rows_have_label_1(monkeypatch):
    opened = []
    pooled_sums = compute_server.pooled_sums

    def spy(server, shares, address):
        sums = yield from pooled_sums(server, shares, address)
        if server.index == 0:
            opened.append(int(sums[0]))
        return sums

    monkeypatch.setattr(compute_server, "pooled_sums", spy)
    for circle in (tuple(TABLES)[:3], tuple(TABLES)):
        assert run_circle(circle, admit_all).error is None
    assert opened[1] - opened[0] == int(ROWS.label[300:].sum())


@pytest.mark.parametrize("order", [(3, 4), (4, 3)], ids=["one joins", "one leaves"])
def test_a_ledger_refuses_the_second_circle_before_anything_leaves(tmp_path, order):
    admit = admission(Ledger(tmp_path / "ledger.jsonl"), TABLES["aurora"])
    first, second = (tuple(TABLES)[:count] for count in order)
    assert run_circle(first, admit).error is None
    again = run_circle(second, admit)
    assert isinstance(again.error, HansaError)
    assert "other" in str(again.error)
    assert run_circle(first, admit).error is None
