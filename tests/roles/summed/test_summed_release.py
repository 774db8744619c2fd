"""A release that depends on a metric: whoever receives the model gets it where the metric is reached, and else nobody does."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from hansa import parse_plan, write_plan
from hansa.data.rows import Rows
from hansa.errors import ModelWithheld, PlanError, ProtocolError
from hansa.node.in_process import train_in_process
from hansa.protocol import messages
from hansa.protocol.messages import Finish
from hansa.roles.summed.release import kept_rounds, released_value

PLAN = """
mode = "{mode}"
[members]
aggregator = "hub"
parties = ["east", "north", "west"]
[schema]
features = ["load"]
label = "fault"
[privacy]
min_party_rows = 1
[evaluation]
fraction = 0.3
[release]
metric = "auc"
{bound}
[parameters]
eval_metric = ["auc", "logloss"]
rounds = 3
{more}
"""


def plan(bound, mode="federated", more=""):
    return parse_plan(PLAN.format(mode=mode, bound=bound, more=more))


def tables():
    draw = np.random.Generator(np.random.PCG64(5))
    found = {}
    for name in ("east", "north", "west"):
        load = draw.normal(size=200).astype(np.float32)
        fault = (load + draw.normal(size=200) > 0).astype(np.float32)
        found[name] = Rows(load[None], fault, None)
    return found


class Telling:
    """A hub that changes the `Finish` that one party is told."""

    def __init__(self, hub, party, **changes):
        self._hub, self._party, self._changes = hub, party, changes
        self.traffic = hub.traffic

    def send(self, member, frame):
        if messages.kind_of("hub", frame) is Finish and member == self._party:
            message = messages.decode("hub", frame)
            frame = messages.encode(msgspec.structs.replace(message, **self._changes))
        self._hub.send(member, frame)

    def receive(self, timeout=None):
        return self._hub.receive(timeout)

    def close(self):
        self._hub.close()


@pytest.mark.parametrize("mode", ["federated", "secure-aggregation"])
def test_the_model_is_that_of_a_plan_without_a_condition_where_it_is_reached(mode):
    free = parse_plan(PLAN.format(mode=mode, bound="", more="").replace('metric = "auc"\n\n', ""))
    reached = train_in_process(plan("at_least = 0.55", mode), tables())
    assert reached.outcome.model == train_in_process(free, tables()).outcome.model
    value = reached.outcome.history["auc"][-1]
    assert 0.55 < value < 0.999
    told = []
    with pytest.raises(ModelWithheld, match=r"demands auc at least 0\.999"):
        train_in_process(plan("at_least = 0.999", mode), tables(), report=told.append)
    assert told[-1].stage == "withheld"
    assert told[-1].metrics == {"auc": value}


def test_the_bound_itself_is_enough_and_the_last_kept_round_counts():
    value = train_in_process(plan("at_least = 0.1"), tables()).outcome.history["auc"][-1]
    train_in_process(plan(f"at_least = {value!r}"), tables())
    train_in_process(plan(f"at_most = {value!r}"), tables())
    with pytest.raises(ModelWithheld):
        train_in_process(plan(f"at_least = {float(np.nextafter(value, 1))!r}"), tables())
    stops = plan("at_least = 0.1", more="early_stopping_rounds = 2")
    history = {"auc": [0.6, 0.8, 0.7, 0.65], "logloss": [0.5, 0.4, 0.3, 0.2]}
    assert (kept_rounds(stops, history, 4), released_value(stops, history, 4)) == (4, 0.65)
    history["logloss"] = [0.5, 0.1, 0.3, 0.2]
    assert (kept_rounds(stops, history, 4), released_value(stops, history, 4)) == (2, 0.8)
    assert released_value(stops, {}, 4) is None


@pytest.mark.parametrize(
    ("bound", "changes", "fragment"),
    [
        ("at_least = 0.5", {"metric": 0.4}, "demands auc at least 0.5"),
        ("at_least = 0.5", {"metric": None}, "demands auc at least 0.5"),
        ("at_least = 0.999", {"metric": 1.0}, "the model says otherwise"),
    ],
)
def test_a_party_holds_what_it_is_told_to_the_plan(bound, changes, fragment):
    with pytest.raises(ProtocolError, match=fragment):
        train_in_process(plan(bound), tables(), wrap=lambda hub: Telling(hub, "north", **changes))


def test_a_metric_is_told_of_no_other_release():
    free = parse_plan(PLAN.format(mode="federated", bound="", more="").replace('metric = "auc"\n\n', ""))
    with pytest.raises(ProtocolError, match="a release that depends on none"):
        train_in_process(free, tables(), wrap=lambda hub: Telling(hub, "north", metric=0.5))


def test_the_condition_is_part_of_the_plan():
    one, other = plan("at_least = 0.5"), plan("at_least = 0.6")
    free = parse_plan(PLAN.format(mode="federated", bound="", more="").replace('metric = "auc"\n\n', ""))
    assert len({one.digest(), other.digest(), free.digest()}) == 3
    assert parse_plan(write_plan(one)) == one
    assert one.release.condition == "auc at least 0.5"
    assert b"release_condition" not in free.canonical()
    assert one.by_key()["release.at_least"] == 0.5


@pytest.mark.parametrize(
    ("old", "new", "fragment"),
    [
        ("at_least = 0.5", "", "takes one of release.at_least and release.at_most; 0 are given"),
        ("at_least = 0.5", "at_least = 0.5\nat_most = 0.6", "2 are given"),
        ("at_least = 0.5", "at_least = inf", "release.at_least"),
        ('metric = "auc"', "", "release.at_least says what no release.metric must reach"),
        (
            'metric = "auc"',
            'metric = "rmse"',
            "which this run does not measure; expected one of its metrics auc, logloss",
        ),
        ("fraction = 0.3", "", "none are held out"),
    ],
)
def test_a_condition_that_cannot_be_checked_is_refused(old, new, fragment):
    text = PLAN.format(mode="federated", bound="at_least = 0.5", more="")
    with pytest.raises(PlanError, match=fragment):
        parse_plan(text.replace(old, new))


def test_a_party_that_is_no_receiver_takes_the_end_of_a_run_whose_model_is_withheld():
    """It keeps no trees, so it cannot say how many there are to be."""
    agreed = replace(plan("at_least = 1.0"), receivers=("east",))
    told = []
    with pytest.raises(ModelWithheld):
        train_in_process(agreed, tables(), report=told.append)
    assert told[-1].stage == "withheld"
