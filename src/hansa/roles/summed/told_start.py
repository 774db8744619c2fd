"""What a party is told before the first tree, held to the plan and to what it joined with: who takes part, and from where it trains."""

from __future__ import annotations

import math

import numpy as np

from hansa.data.quantiles import CutGuard, Cuts
from hansa.data.residuals import Grid
from hansa.plan import Plan
from hansa.protocol.messages import Join, UseCuts, Welcome
from hansa.roles.run import run_id
from hansa.roles.summed.asker import Asker
from hansa.roles.summed.start_model import StartModel
from hansa.trees.ensemble import base_margin
from hansa.trees.guided_search import FeatureRules
from hansa.trees.metrics import MetricScale


def check_welcome(asker: Asker, plan: Plan, name: str, join: Join, message: Welcome) -> None:
    """Refuse a roster that is not of this plan, lacks this party as it joined, or does not give the run's id. Raises ProtocolError."""
    names = tuple(name for name, *_ in message.roster)
    if tuple(sorted(set(names))) != names or not set(names) <= set(plan.parties) or name not in names:
        raise asker.broken(f"roster {names} is not a sorted part of the plan's parties that includes this one")
    if plan.mode != "federated" and names != plan.parties:
        # Fewer parties now and all of them in another run of the same plan: the difference is one party's part.
        left_out = ", ".join(sorted(set(plan.parties) - set(names)))
        raise asker.broken(
            f"the roster leaves out {left_out}; in mode {plan.mode!r} every party of the plan takes part, or nobody does"
        )
    if len(names) < plan.minimum_parties:
        raise asker.broken(f"{len(names)} parties take part; the plan asks for at least {plan.minimum_parties}")
    mine = (name, join.nonce, join.rows, join.evaluation_rows, join.enough)
    if mine not in message.roster:
        raise asker.broken("the roster gives this party another nonce or other numbers of rows than it sent")
    if any(min(rows, held) < 0 or rows + held < 1 for _, _, rows, held, _ in message.roster):
        raise asker.broken("the roster gives a party no rows")
    if message.run != run_id(join.plan, message.roster):
        raise asker.broken("the run's id is not the hash of plan and roster")


def check_start(
    asker: Asker, plan: Plan, before: StartModel | None, evaluation: int, grid: Grid | None, message: UseCuts
) -> None:
    """Refuse base scores that are not numbers, and others than the plan's where it names them.

    Args:
        evaluation: rows that all parties hold out. grid: of labels, where leaves are quantiles.
    """
    parameters = plan.parameters
    scores = message.base_scores
    outputs = parameters.outputs
    if len(scores) != outputs:
        raise asker.broken(f"{len(scores)} base scores; the model has {outputs} outputs")
    for score in scores:
        base_margin(parameters.objective, score)
    if before is not None and scores != before.ensemble.base_scores:
        raise asker.broken(f"base_scores are {scores}; start_model has {before.ensemble.base_scores}")
    given = parameters.base_score
    if given is not None and any(score != float(np.float32(given)) for score in scores):
        raise asker.broken(f"base_scores are {scores}; the plan says {given}")
    own = plan.custom_objective
    if own is not None and message.hessian_bound != own.hessian_bound:
        raise asker.broken(f"the hessian_bound is {message.hessian_bound}; the plan says {own.hessian_bound}")
    scale = message.scale_pos_weight
    if not (math.isfinite(scale) and scale > 0) or parameters.scale_pos_weight not in ("auto", scale):
        raise asker.broken(f"scale_pos_weight is {scale}; the plan says {parameters.scale_pos_weight}")
    bits = message.histogram_bits
    if bits not in (32, 64) or parameters.histogram_bits not in ("auto", bits):
        raise asker.broken(f"histogram_bits is {bits}; the plan says {parameters.histogram_bits}")
    MetricScale(max(evaluation, 1), message.weight_exponent, message.label_exponent)
    if grid is not None and message.label_exponent != grid.label_exponent:
        raise asker.broken(
            f"labels are said to reach 2^{message.label_exponent}, and were to be summed by another bound"
        )


def cuts_told(asker: Asker, plan: Plan, rules: FeatureRules, guard: CutGuard, message: UseCuts) -> Cuts:
    """The cuts, where they are those that the cells which were counted allow. Raises ProtocolError."""
    n_features = len(plan.schema.features)
    cuts = Cuts(
        asker.array(message, "offsets", np.int64, n_features + 1),
        asker.array(message, "values", np.float32, None),
        asker.array(message, "has_missing", np.uint8, n_features).astype(np.bool_),
    )
    if cuts.n_bins.max() > plan.parameters.max_bin:
        raise asker.broken(f"a feature has more bins than max_bin {plan.parameters.max_bin}")
    guard.check_cuts(cuts)
    if cuts.n_bins[rules.n_categories > 0].max(initial=1) > 1:
        raise asker.broken("a categorical feature is given cuts, which it has none of")
    return cuts
