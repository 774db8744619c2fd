"""A tiny run stands for every real one: it must go through, whatever the objective."""

from __future__ import annotations

import pytest

from hansa.node.warm_up import warm_up
from hansa.trees.losses import LOSSES
from hansa.trees.parameters import parse_parameters


@pytest.mark.parametrize("objective", LOSSES)
def test_every_objective_can_be_warmed_up(objective):
    classes = {"num_class": 3} if LOSSES[objective].labels == "classes" else {}
    more = classes | ({"quantile_alpha": 0.5} if objective == "reg:quantileerror" else {})
    warm_up(parse_parameters({"objective": objective, "scale_pos_weight": 1.0, "early_stopping_rounds": 3} | more))
