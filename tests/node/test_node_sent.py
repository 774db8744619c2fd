"""What `hansa check` says that a party sends is what a party of a real run sends."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest

from hansa.node.in_process import train_in_process
from hansa.node.sent import sent_under
from hansa.protocol.messages import SETUP, Contribution, ShareCounts, ShareRows, VouchRows, decode
from made_tables import NAMES, plan, spread, table
from shares import SharedTalk, shared_plan, shared_tables

PARTIES = NAMES[:3]

WHAT = {
    "magnitudes": "rows by binary exponent of label and weight",
    "labels": "sums of labels and weights, rows with label 1",
    "weights": "sums of weights in these cells",
    "totals": "sums of |gradient| and hessian",
    "histograms": "histograms of gradients and hessians",
    "metric/auc": "sums for auc on held-out rows",
    "metric/logloss": "sums for logloss on held-out rows",
}
"""Quantity -> what the report calls it."""

WHOLE = ("magnitudes", "labels", "totals", "metric/auc", "metric/logloss")
"""Quantities of which every party sends just as many bytes as the report says."""


class Listening:
    """A hub that notes the bytes of every quantity of one party, by tree and step."""

    def __init__(self, party: str) -> None:
        self._party = party
        self.sent: dict[tuple[int, int, str], int] = defaultdict(int)
        self.counts: dict[tuple[str, int, int], int] = defaultdict(int)

    def around(self, hub):
        self._hub = hub
        return self

    def receive(self, timeout=None):
        member, frame = self._hub.receive(timeout)
        message = decode(member, bytes(frame))
        if member == self._party and isinstance(message, VouchRows):
            what = "cells" if message.tree == SETUP else "nodes"
            self.counts[what, message.tree, message.step if message.tree == SETUP else 0] += len(message.words) + len(
                message.tags
            )
        if isinstance(message, VouchRows):
            message = message.then
        if member == self._party and isinstance(message, Contribution):
            self.sent[message.tree, message.step, message.quantity] += len(message.values.data)
        return member, frame

    def send(self, member, frame) -> None:
        self._hub.send(member, frame)


@pytest.mark.parametrize("mode", ["federated", "secure-aggregation"])
@pytest.mark.parametrize("weighted", [False, True])
def test_sums_are_as_large_as_the_report_says(mode: str, weighted: bool):
    given = plan(
        PARTIES,
        weighted=weighted,
        evaluation=0.25,
        mode=mode,
        max_bin=16,
        eval_metric=["auc", "logloss"],
        histogram_bits=64,
    )
    hub = Listening("borealis")
    rows = spread(table(600, weighted=weighted), np.arange(600) % 3)
    train_in_process(given, rows, wrap=hub.around)
    said = {kind.what: kind.bytes_at_most for kind in sent_under(given)}
    seen = set()
    for (_, step, quantity), size in hub.sent.items():
        if quantity == "root":  # with the totals behind it
            quantity, size = "histograms", size - said[WHAT["totals"]]
        what = WHAT.get(quantity)
        if quantity == "cells":
            what = (
                "rows in the coarse cells of each feature"
                if step == min(s for _, s, q in hub.sent if q == "cells")
                else "rows in the parts of cells"
            )
        assert what in said, quantity
        assert 0 < size <= said[what], (quantity, size)
        if quantity in WHOLE or what == "rows in the coarse cells of each feature":
            assert size == said[what], (quantity, size)
        seen.add(what)
    assert seen == set(said) - {"number of rows, and of held-out rows"}


@pytest.mark.parametrize("when", ["tree", "after", "before"])
def test_row_counts_are_as_large_as_the_report_says(when: str):
    given = replace(plan(PARTIES, mode="secure-aggregation", max_bin=16), verify_counts=when)
    hub = Listening("borealis")
    train_in_process(given, spread(table(600), np.arange(600) % 3), wrap=hub.around)
    told = {
        kind.what.split(" in the ")[1].split()[0]: kind.bytes_at_most
        for kind in sent_under(given)
        if "masked" in kind.what
    }
    assert {what for what, _, _ in hub.counts} == set(told) == {"cells", "nodes"}
    assert all(0 < size <= told[what] for (what, _, _), size in hub.counts.items())
    assert max(size for (what, _, _), size in hub.counts.items() if what == "nodes") >= told["nodes"] / 2


def shares_of(talk_plan, tables, **options) -> tuple[list[int], dict[str, int]]:
    """What one owner, who is no server, shares: bytes of each vector of counts, in order; bytes and number of its rows."""
    counts: dict[int, int] = defaultdict(int)
    rows: dict[str, int] = defaultdict(int)

    def note(to, message):
        if isinstance(message, ShareCounts):
            counts[message.step] += sum(len(part.data) for part in message.part) + sum(map(len, message.keys))
        if isinstance(message, ShareRows):
            rows["bytes"] += sum(len(array.data) for array in message.parts)
            rows["rows"] += message.rows if to == talk_plan.servers[0] else 0
        return message

    talk = SharedTalk(talk_plan, tables, twists={"dune": note}, **options).run()
    assert talk.error is None
    return [counts[step] for step in sorted(counts)], rows


def test_shares_are_as_large_as_the_report_says():
    given = shared_plan(given=False, rounds=1, max_depth=2)
    vectors, rows = shares_of(given, shared_tables())
    by_often = {kind.often: kind.bytes_at_most for kind in sent_under(given) if "number of rows" not in kind.what}
    assert vectors[0] == by_often["once"]
    (request,) = (size for often, size in by_often.items() if often.startswith("in each"))
    assert all(0 < size <= request for size in vectors[1:])
    assert rows["bytes"] / rows["rows"] <= by_often["per row"]


def test_a_row_is_as_large_as_the_report_says_where_the_plan_gives_the_cuts():
    given = shared_plan(rounds=1, max_depth=2)
    vectors, rows = shares_of(given, shared_tables())
    assert vectors == []
    (row,) = (kind.bytes_at_most for kind in sent_under(given) if kind.often == "per row")
    assert rows["bytes"] == row * rows["rows"]


@pytest.mark.parametrize("weight", [2.5, "auto"])
def test_a_row_with_a_weight_is_as_large_as_the_report_says(weight: float | str):
    given = shared_plan(rounds=1, max_depth=2)
    base_score = None if weight == "auto" else given.parameters.base_score
    given = replace(given, parameters=replace(given.parameters, scale_pos_weight=weight, base_score=base_score))
    _, rows = shares_of(given, shared_tables())
    (row,) = (kind.bytes_at_most for kind in sent_under(given) if kind.often == "per row")
    assert rows["bytes"] <= row * rows["rows"]
