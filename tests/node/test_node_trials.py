"""A search for parameters over the network: what its trials find, which are ended early, and that nobody else can end a run."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hansa.data.source import Rows
from hansa.errors import ProtocolError
from hansa.node.in_process import policy_of_holder, train_in_process
from hansa.node.trial_scores import is_behind, search_scores
from hansa.plan import Interval, Plan, Search, parse_plan
from hansa.roles.summed.metric_history import MetricHistory
from made_consortium import PARTIES, PLAN, Consortium, make_consortium
from made_tables import plan, spread
from sharing_hands import Hand

SEARCH = """
[evaluation]
fraction = 0.3

[search]
trials = TRIALS

[search.space]
eta = { low = 0.001, high = 0.9, log = true }
max_depth = { low = 1, high = 3 }
"""

DRAW = np.random.default_rng(5)
FEATURES = DRAW.integers(0, 12, (5, 400)).astype(np.float32)
ROWS = Rows(FEATURES, (FEATURES[0] + DRAW.normal(0, 4, 400) > 6).astype(np.float32), None)
TABLES = spread(ROWS, np.arange(400) % 2)


def of_trials(mode: str) -> Plan:
    one = plan(("aurora", "borealis"), mode=mode, evaluation=0.3, rounds=4, max_bin=16)
    space = (("eta", Interval(0.01, 0.9, True)), ("lambda", Interval(0.5, 9)), ("subsample", (0.7, 1.0)))
    return replace(one, search=Search(3, space))


@pytest.mark.parametrize("mode", ["federated", "secure-aggregation"])
def test_a_trial_is_the_training_with_its_parameters(mode):
    one = of_trials(mode)
    for own in one.of_trials():
        alone = replace(own, search=None, trial=None, part_of="", receivers=("aurora",), on_dropout="abort")
        trained = [train_in_process(each, TABLES, policy=policy_of_holder(each)) for each in (own, alone)]
        assert trained[0].outcome.history == trained[1].outcome.history
        assert trained[0].outcome.model == trained[1].outcome.model
        assert all(party.model is None for party in trained[0].parties.values())


@pytest.mark.parametrize("mode", ["federated", "secure-aggregation"])
def test_an_aggregator_can_end_trials_early_and_no_other_runs(mode, monkeypatch):
    one = of_trials(mode).of_trials()[0]
    monkeypatch.setattr(MetricHistory, "stops_early", lambda self: len(self.values["logloss"]) == 2)
    run = train_in_process(one, TABLES, policy=policy_of_holder(one))
    assert len(run.outcome.history["logloss"]) == run.outcome.trees_grown == 2
    other = replace(one, search=None, trial=None, part_of="", receivers=("aurora",), on_dropout="abort")
    with pytest.raises(ProtocolError):
        train_in_process(other, TABLES, policy=policy_of_holder(other))


values = st.one_of(st.none(), st.integers(0, 6).map(float))


@settings(deadline=None, max_examples=60)
@given(
    st.booleans(),
    st.lists(st.lists(st.integers(0, 6).map(float), min_size=10, max_size=10), max_size=9),
    st.lists(st.integers(0, 6).map(float), min_size=1, max_size=10),
)
def test_who_is_behind_is_whom_optuna_prunes(maximizes, before, history):
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    pruner = optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=2)
    study = optuna.create_study(direction="maximize" if maximizes else "minimize", pruner=pruner)
    for own in before:
        steps = dict(enumerate(own, 1))
        study.add_trial(optuna.trial.create_trial(value=own[-1], intermediate_values=steps))
    trial = study.ask()
    for step, value in enumerate(history, 1):
        trial.report(value, step)
        assert is_behind(maximizes, history[:step], before, 10) == trial.should_prune()


def test_trials_without_values_are_neither_behind_nor_best():
    before = [[None] * 4] * 5
    assert not is_behind(False, [0.5, 0.4], before, 4)
    assert not is_behind(False, [0.5, None], [[0.1] * 4] * 5, 4)
    drawn = ({"eta": 0.1}, {"eta": 0.2}, {"eta": 0.3})
    found = search_scores("logloss", False, drawn, [[None, None], [0.6, 0.5], [0.4]], [False, False, True])
    assert (found.best, found.best_parameters) == (2, {"eta": 0.2, "rounds": 2})
    assert [own.state for own in found.trials] == ["complete", "complete", "pruned"]
    assert found.table()[1:] == [
        ["1", "-", "-", "0.1", "complete"],
        ["2", "0.5000", "2", "0.2", "best"],
        ["3", "0.4000", "1", "0.3", "pruned"],
    ]
    nothing = search_scores("auc", True, drawn[:1], [[None]], [False])
    assert (nothing.best, nothing.best_parameters) == (None, {})


LONG = pytest.mark.slow


@pytest.mark.parametrize(
    ("mode", "trials"),
    [
        ("federated", 2),
        pytest.param("federated", 8, marks=LONG),
        pytest.param("secure-aggregation", 8, marks=LONG),
    ],
)
def test_members_search_over_mutual_tls(tmp_path, mode, trials):
    text = PLAN.replace('"federated"', f'"{mode}"').replace("rounds = 3", "rounds = 5")
    text = text.replace("max_depth = 2\n", "").replace("_rows = 2", "_rows = 2\nmin_party_rows = 4")
    text += SEARCH.replace("TRIALS", str(trials))
    folder = make_consortium(tmp_path, text)
    consortium = Consortium(folder)
    policy = {} if mode == "federated" else {"allow_two_parties": True, "least_party_rows": 4}
    try:
        hub, port = consortium.start_hub()
        given = {"model": None, "policy": policy}
        parties = [consortium.start_party(name, port, ledger=f"{name}-ledger.jsonl", **given) for name in PARTIES]
        ends = [each.end() for each in (hub, *parties)]
    finally:
        consortium.stop()
    assert [status for status, _, _ in ends] == [0, 0, 0], ends
    record = json.loads(ends[0][1].splitlines()[-1])["record"]
    one = parse_plan(text)
    assert record["plan"] == one.digest().hex()
    found = record["search"]
    records = [json.loads((folder / f"hub-record.trial-{number}.json").read_text()) for number in range(1, trials + 1)]
    assert [own["plan"] for own in records] == [own.digest().hex() for own in one.of_trials()]
    complete: list[list[float]] = []
    for own, scored, drawn in zip(records, found["trials"], one.search.drawn(0), strict=True):
        history = own["history"]["logloss"]
        assert scored["parameters"] == drawn
        assert (scored["value"], scored["best_round"]) == (min(history), int(np.argmin(history)) + 1)
        behind = is_behind(False, history, complete, 5)
        assert scored["state"] == ("pruned" if behind else "complete")
        assert behind == (len(history) < 5) or len(history) == 5
        complete += [] if behind else [history]
    assert {own["state"] for own in found["trials"]} == ({"complete", "pruned"} if trials > 5 else {"complete"})
    done = [own for own in found["trials"] if own["state"] == "complete"]
    best = min(done, key=lambda own: own["value"])
    assert (found["best"], found["metric"], found["direction"]) == (best["trial"], "logloss", "minimize")
    assert found["best_parameters"] == {**best["parameters"], "rounds": best["best_round"]}
    assert consortium.models() == []
    if mode != "federated":  # behind its head, a line for each trial
        _, *lines = map(json.loads, (folder / f"{PARTIES[0]}-ledger.jsonl").read_text().splitlines())
        assert [line["run"] for line in lines] == [own["run"] for own in records]


@pytest.mark.slow
def test_members_search_on_shares_over_mutual_tls(tmp_path):
    """The servers have every trial's metrics after every round; none is ended early, and nobody has a model."""
    more = SEARCH.replace("TRIALS", "2").replace("low = 0.001", "low = 0.1")
    hand = Hand(tmp_path, 2, "hub", three=True, more=more, policy={"least_party_rows": 4})
    path = tmp_path / "plan.toml"
    path.write_text(
        re.sub("receivers = .*\n", "", path.read_text()).replace("_rows = 5", "_rows = 5\nmin_party_rows = 4")
    )
    hand.start("aurora", "borealis", "cirrus")
    ends = hand.ended()
    assert {name: status for name, (status, _, _) in ends.items()} == dict.fromkeys(ends, 0), ends
    found = [json.loads((tmp_path / f"{name}-record.json").read_text())["search"] for name in ends]
    assert found[0] == found[1] == found[2]
    assert [own["state"] for own in found[0]["trials"]] == ["complete", "complete"]
    assert found[0]["best_parameters"].keys() == {"eta", "max_depth", "rounds"}
    assert not list(tmp_path.glob("*-model.json"))
