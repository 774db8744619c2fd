"""Collectors: the model is the one without them, to the byte; and who sends what does not fit is named."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import test_summed_levels as levels
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st
from test_summed_law import FORMS, SETTINGS, alone, rows_of

from hansa.data.holdout import HoldOut, held_out
from hansa.node.in_process import train_in_process
from made_tables import NAMES, OPEN, coded, plan, spread, table, take

COLLECTORS = ("west", "east", "north")


def collected(agreed, places):
    """The plan, with party i under collector places[i], or under none where that is 0."""
    parties = {name: [] for name in COLLECTORS}
    for party, place in zip(agreed.parties, places, strict=False):
        if place:
            parties[COLLECTORS[place - 1]].append(party)
    return replace(agreed, collectors=tuple((name, tuple(own)) for name, own in parties.items() if own))


def spread_over(rows, n_parties, seed):
    """Rows of so many parties, each with one at least, by chance."""
    rng = np.random.default_rng(seed)
    owners = rng.choice(n_parties, rows.n_rows, p=rng.dirichlet(np.full(n_parties, 0.5)))
    owners[rng.permutation(rows.n_rows)[:n_parties]] = np.arange(n_parties)
    order = np.concatenate([np.flatnonzero(owners == i) for i in range(n_parties)])
    return spread(take(rows, order), owners[order])


PLACES = st.lists(st.integers(0, len(COLLECTORS)), min_size=6, max_size=6)
NO_SHRINKING = (Phase.explicit, Phase.reuse, Phase.generate)


@pytest.mark.parametrize("name", SETTINGS)
@settings(max_examples=5, deadline=None, phases=NO_SHRINKING)
@given(data=st.data())
def test_the_model_is_the_one_without_collectors(name, data):
    tables = spread_over(
        rows_of(name), data.draw(st.integers(1, 6), "parties"), data.draw(st.integers(0, 2**32), "seed")
    )
    fraction = SETTINGS[name].get("evaluation", 0)
    for held in tables.values():
        assume(not fraction or not held_out(held.features, held.label, HoldOut(fraction, 0)).all())
    agreed = collected(plan(tuple(tables), **SETTINGS[name]), data.draw(PLACES, "collector of each party"))
    turns = data.draw(st.randoms(use_true_random=False), "who is received next")
    nodes = data.draw(st.sampled_from([0, 1, 3]), "nodes per frame")
    run = train_in_process(agreed, tables, nodes_per_frame=nodes, order=turns.choice)
    assert run.outcome.model == alone(name).outcome.model
    assert run.outcome.history == alone(name).outcome.history
    assert run.outcome.exchanges == alone(name).outcome.exchanges
    assert {party.model for party in run.parties.values()} == {alone(name).outcome.model}


@settings(max_examples=25, deadline=None, phases=NO_SHRINKING)
@given(given_=FORMS, seed=st.integers(0, 2**32), places=PLACES, nodes=st.sampled_from([0, 1, 3]))
def test_whatever_form_trees_take(given_, seed, places, nodes):
    rows = table(150, given_["objective"], weighted=given_["weighted"], seed=seed % 97)
    rows = coded(rows) if given_["categories"] else rows
    tables = spread_over(rows, 5, seed)
    assume(
        not given_["evaluation"]
        or not any(held_out(t.features, t.label, HoldOut(0.25, 0)).all() for t in tables.values())
    )
    agreed = plan(NAMES[:5], **given_, rounds=2, max_bin=16)
    without = train_in_process(agreed, tables)
    run = train_in_process(collected(agreed, places), tables, nodes_per_frame=nodes)
    assert run.outcome.model == without.outcome.model
    assert run.outcome.history == without.outcome.history


@settings(max_examples=8, deadline=None, phases=NO_SHRINKING)
@given(seed=st.integers(0, 2**16), union=st.booleans(), rare=st.booleans(), places=PLACES)
def test_levels_of_a_union_and_rare_levels_are_those_without_collectors(seed, union, rare, places):
    assume(union or rare)
    tables = levels.spread(levels.owners_of(seed, 4), union)
    agreed = levels.plan(tuple(tables), union=union, rare=rare)
    without = train_in_process(replace(agreed, on_dropout="abort"), tables, policy=OPEN)
    run = train_in_process(collected(agreed, places), tables, policy=OPEN)
    assert run.outcome.model == without.outcome.model
    assert {party.model for party in run.parties.values()} == {run.outcome.model}


@pytest.mark.parametrize("places", [(1, 1, 2), (0, 1, 1), (1, 2, 3)])
def test_what_else_a_plan_may_have_is_the_same(places):
    """A SHAP summary, parties that count alike, and a model to go on from."""
    tables = spread_over(rows_of("weights"), 3, 5)
    agreed = replace(plan(tuple(tables), weighted=True, evaluation=0.2, balance="parties"), shap="all")
    without = train_in_process(agreed, tables)
    run = train_in_process(collected(agreed, places), tables)
    assert run.outcome.model == without.outcome.model
    assert run.outcome.shap == without.outcome.shap != {}
    assert all(party.shap == run.outcome.shap for party in run.parties.values())
    before = without.outcome.model
    more = replace(agreed, shap="", start_model=hashlib.sha256(before).hexdigest())
    first = train_in_process(more, tables, start=before)
    again = train_in_process(collected(more, places), tables, start=before)
    assert again.outcome.model == first.outcome.model
