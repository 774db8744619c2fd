"""Rules that hold between the keys of a plan. Each is a function that says what is broken, in one sentence, or None.

What one key alone may be is declared by its type (`plan.values`), and not asked here again.
"""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

from hansa.data.schema import class_names
from hansa.errors import PlanError
from hansa.plan.values import (
    COOPETITIVE,
    LEAST_BOUND_ON_SHARES,
    LEAST_ETA_OF_CLASSES,
    MASKED,
    MEMBER_NAME,
    MOST_COUNT_STEP,
    MOST_LEVELS,
    MOST_LEVELS_OF_SUMS,
    NOT_ON_SHARES,
    NUMBERS_ON_SHARES,
    RANGES_ON_SHARES,
    SERVERS,
)
from hansa.trees.losses import (
    LOSSES,
    METRICS_ON_SHARES,
    OBJECTIVES_ON_SHARES,
    is_quantile,
    is_softmax,
    measures,
    tells_rows,
)

if TYPE_CHECKING:
    from hansa.plan.plan import Coopetitive, Plan
    from hansa.trees.parameters import Parameters

Rule: TypeAlias = "Callable[[Plan], str | None]"
SharedRule: TypeAlias = "Callable[[Plan, Coopetitive], str | None]"


def broken_rule(plan: Plan) -> str | None:
    """The first rule that the plan breaks: what is wrong and the cure; None where it breaks none."""
    return next((fault for rule in RULES if (fault := rule(plan)) is not None), None)


# --- members ----------------------------------------------------------------------------------------------------------


def mode_and_tables_agree(plan: Plan) -> str | None:
    if (plan.mode == COOPETITIVE) == (plan.coopetitive is not None):
        return None
    return f"mode is {plan.mode!r}; hub, servers, labels and cuts go with {COOPETITIVE!r} only"


def names_are_names(plan: Plan) -> str | None:
    for name in plan.members:
        if not MEMBER_NAME.fullmatch(name):
            return (
                f"member name {name!r}: expected 1 to 63 lower-case letters, digits and hyphens, a hyphen not first; "
                "rename the member in the plan and in its identity"
            )
    return None


def members_are_named_once(plan: Plan) -> str | None:
    if not plan.parties:
        return "members.parties is empty; name at least one member that holds rows"
    for key, names in (("parties", plan.parties), ("receivers", plan.receivers)):
        if len(set(names)) < len(names):
            return f"members.{key} names a member twice; name each once"
    return None


def aggregator_and_receivers(plan: Plan) -> str | None:
    if plan.coopetitive is not None:
        return None
    if plan.aggregator in plan.parties:
        return f"{plan.aggregator!r} is both the aggregator and a party; the aggregator holds no rows"
    others = set(plan.receivers) - {plan.aggregator, *plan.parties}
    if others:
        return f"receiver {min(others)!r} is neither the aggregator nor a party"
    return None


def collectors_can_be_had(plan: Plan) -> str | None:
    if not plan.collectors:
        return None
    if plan.mode != "federated":
        return (
            f"members.collectors goes with mode 'federated' only, and the mode is {plan.mode!r}, where nobody may read a party's sums: "
            "leave it out"
        )
    names = [name for name, _ in plan.collectors]
    if len(set(names)) < len(names):
        return "members.collectors names a collector twice; name each once"
    seen: dict[str, str] = {}
    for name, own in plan.collectors:
        if name == plan.aggregator or name in plan.parties:
            return f"{name!r} is both a collector and {'a party' if name in plan.parties else 'the aggregator'}; a collector is neither"
        if not own:
            return f"members.collectors.{name} is empty; name its parties, or leave the collector out"
        for party in own:
            if party not in plan.parties:
                return f"members.collectors.{name} names {party!r}, which is no party of the plan; name parties only"
            if party in seen:
                return (
                    f"members.collectors names party {party!r} twice ({seen[party]}, {name}); a party has one collector"
                )
            seen[party] = name
    if plan.dominance:
        return (
            "privacy.dominance needs each party's own part of a sum, and members.collectors has the aggregator read sums over several "
            "parties: leave one of them out"
        )
    if plan.only_measures:
        what = "evaluation.folds" if plan.folds else "[search]"
        return f"members.collectors goes with a plan that trains one model, and {what} trains several: leave one of them out"
    return None


def going_on_without_can_be_had(plan: Plan) -> str | None:
    if plan.on_dropout != "continue":
        return (
            None
            if plan.continue_after_s is None
            else "members.continue_after_s goes with on_dropout = 'continue'; leave it out"
        )
    why = "members.on_dropout is 'continue'"
    if plan.mode == COOPETITIVE:
        return f"{why}, and in {COOPETITIVE} mode every server is needed to the end: write 'wait' or 'abort'"
    if plan.continue_after_s is None:
        return f"{why}: say members.continue_after_s, the seconds after which a party that is away is left out"
    least, parties = plan.minimum_parties, len(plan.parties)
    if not (3 if plan.mode == MASKED else 2) <= least < parties:
        return (
            f"{why}, and members.minimum_parties is {least} of {parties} parties; expected fewer than all, and at least "
            f"{3 if plan.mode == MASKED else 2}: the run never goes on with fewer"
        )
    if plan.verify_counts != "off":
        return (
            f"{why}, and privacy.verify_counts is {plan.verify_counts!r}: whoever is left out would owe the rows of the last tree; "
            "write 'off', or 'wait' in place of 'continue'"
        )
    if plan.parameters.balance == "parties":
        return f"{why}, and balance is 'parties', which counts on all of them; leave one out"
    return None


def minimum_parties(plan: Plan) -> str | None:
    least, parties = plan.minimum_parties, len(plan.parties)
    if not 1 <= least <= parties:
        return f"members.minimum_parties is {least}; expected 1 to {parties}, the number of parties"
    if plan.mode == MASKED and least < 2:
        return (
            f"members.minimum_parties is {least}; secure-aggregation needs at least 2 parties "
            "(and 3, unless every party's own policy allows two): the sum over one party is that party's part"
        )
    return None


# --- what goes with a mode --------------------------------------------------------------------------------------------


def categories_have_no_order(plan: Plan) -> str | None:
    if plan.coopetitive is not None:
        return None  # it has rules of its own
    for name, levels in plan.schema.levels.items():
        if len(levels) > MOST_LEVELS_OF_SUMS:
            return f"categories.{name} has {len(levels)} levels; at most {MOST_LEVELS_OF_SUMS} are taken: join rare ones into one"
        if name in dict(plan.parameters.monotone_constraints):
            return f"monotone.{name} constrains a categorical feature, whose levels have no order; leave it out"
    return None


def one_against_the_rest_goes_with_coopetitive(plan: Plan) -> str | None:
    if plan.coopetitive is not None or not plan.parameters.num_class or is_softmax(plan.parameters.objective):
        return None
    return (
        f"parameter num_class = {plan.parameters.num_class} of {plan.parameters.objective} goes with mode {COOPETITIVE!r} "
        f"only; in mode {plan.mode!r} write objective = 'multi:softprob'"
    )


def several_labels_can_be_had(plan: Plan) -> str | None:
    labels = plan.schema.labels
    if len(labels) == 1:
        return None
    why = f"schema.label names {len(labels)} columns"
    if plan.coopetitive is not None:
        return (
            f"{why}, and the mode is {plan.mode!r}, where rows are shared with one label: train a model for each label, or take "
            "another mode"
        )
    if plan.custom_objective is not None or plan.custom_metric is not None:
        return (
            f"{why}, and custom_objective and custom_metric are functions of rows with one label: leave them out, or train a model for "
            "each label"
        )
    if plan.release.least_choices or plan.release.leaf_bits is not None:
        return f"{why}; release.least_choices and leaf_bits speak of one first tree: leave them out, or train a model for each label"
    return None


def a_shap_summary_can_be_had(plan: Plan) -> str | None:
    if not plan.shap:
        return None
    why = f"evaluation.shap is {plan.shap!r}"
    if plan.coopetitive is not None:
        return (
            f"{why}, and the mode is {plan.mode!r}, where no party may have the model that its values are of: leave it out, and let a "
            "receiver use hansa evaluate"
        )
    if plan.only_measures:
        return f"{why}, and a plan of folds or trials releases no model; leave it out"
    if not plan.statistics:
        return f"{why}, and release.statistics is false: SHAP values follow from the covers of nodes; leave one of them out"
    without = [name for name in plan.parties if name not in plan.receivers]
    if without:
        return f"{why}, and party {without[0]!r}, who would compute with the model, is no receiver: have all parties as receivers"
    if plan.start_model:
        return f"{why}, and start_model has cuts of another run, which no party keeps its rows by; leave evaluation.shap out"
    if plan.shap == "held-out" and plan.evaluation_fraction == 0:
        return f"{why}, and evaluation.fraction is 0: no rows are held out; give a fraction, or write 'all'"
    return None


def class_names_fit_labels(plan: Plan) -> str | None:
    return fault_of_classes(plan.schema.classes, plan.parameters)


def fault_of_classes(classes: tuple[str, ...], parameters: Parameters) -> str | None:
    """Why a label of these classes does not go with an objective; None where it does, or where there are none."""
    if not classes:
        return None
    if not parameters.has_classes:
        return (
            f"schema.classes goes with labels that are classes; objective {parameters.objective} takes numbers: leave classes out, or "
            "take binary:logistic"
        )
    expected = parameters.num_class or 2
    if len(classes) == expected:
        return None
    cure = "name both" if expected == 2 else "name one for each"
    return (
        f"schema.classes names {len(classes)} classes, where the parameters have {expected}; {cure}, or set num_class "
        f"(mode {COOPETITIVE!r})"
    )


def checked_classes(given: Sequence[str], parameters: Parameters) -> tuple[str, ...]:
    """Classes of a label of texts that goes with these parameters; () for none. Raises PlanError."""
    classes = class_names(given)
    fault = fault_of_classes(classes, parameters)
    if fault is not None:
        raise PlanError(fault)
    return classes


def rows_of_nodes_are_known(plan: Plan) -> str | None:
    if plan.min_child_rows <= 1 or plan.coopetitive is None:
        return None
    return (
        f"privacy.min_child_rows is {plan.min_child_rows}; mode {COOPETITIVE!r} knows no rows of nodes: set "
        "parameters.min_child_weight instead, to the hessian of so many rows (.25 a row in logistic loss, 1 in squared error)"
    )


def rows_of_nodes_have_bounded_hessians(plan: Plan) -> str | None:
    if plan.min_child_rows <= 1 or tells_rows(plan.parameters.objective):
        return None
    return (
        f"privacy.min_child_rows is {plan.min_child_rows}; a row's hessian of {plan.parameters.objective} has no bound that tells rows "
        "of nodes: leave it out, and set parameters.min_child_weight"
    )


def dominance_goes_with_federated(plan: Plan) -> str | None:
    if not plan.dominance:
        return None
    if plan.mode != "federated":
        return (
            f"privacy.dominance goes with mode 'federated' only, and the mode is {plan.mode!r}, where nobody sees how much of a "
            "sum is one party's: leave it out; what a party that chooses its rows learns then stands in SECURITY.md"
        )
    if len(plan.parties) < 2:
        return "privacy.dominance needs at least two parties: without the largest of one, nothing is left"
    return None


def verified_counts_go_with_masked(plan: Plan) -> str | None:
    if plan.verify_counts == "off" or plan.mode == MASKED:
        return None
    return (
        f"privacy.verify_counts is {plan.verify_counts!r}; it goes with mode {MASKED!r} only, and the mode is "
        f"{plan.mode!r}: leave it out"
    )


# --- what the model tells ---------------------------------------------------------------------------------------------


def leaves_of_other_objectives_stay(plan: Plan) -> str | None:
    choices, bits = plan.release.least_choices, plan.release.leaf_bits
    if not (choices or bits is not None) or plan.parameters.objective == "binary:logistic":
        return None
    name = "least_choices" if choices else "leaf_bits"
    return (
        f"release.{name} goes with binary:logistic only, and the objective is {plan.parameters.objective}, whose "
        "leaves have the unit of the labels or another first tree: leave it out"
    )


def choices_can_be_promised(plan: Plan) -> str | None:
    choices, bits = plan.release.least_choices, plan.release.leaf_bits
    if not choices:
        return None
    asked = f"release.least_choices is {choices}"
    if bits is not None:
        return f"{asked}, and leaf_bits {bits} is given too; give one of them"
    if plan.statistics:
        return f"{asked}, but a leaf's cover tells its number of rows: set release.statistics = false, or leave least_choices out"
    if plan.verify_counts != "off":
        return (
            f"{asked}, but privacy.verify_counts = {plan.verify_counts!r} tells every party the rows of each leaf: set "
            "privacy.verify_counts = 'off', leave least_choices out, or give leaf_bits, which says nothing of choices"
        )
    return None


def a_start_model_is_all_there_is_before(plan: Plan) -> str | None:
    if not plan.start_model:
        return None
    if plan.coopetitive is not None:
        return (
            f"start_model goes with the modes that have an aggregator, and the mode is {plan.mode!r}, where no server may know a row's "
            "margin: leave it out, or take another mode"
        )
    if plan.parameters.base_score is not None:
        return f"base_score is {plan.parameters.base_score}, and start_model has one of its own; leave base_score out"
    if plan.release.least_choices or plan.release.leaf_bits is not None:
        return (
            "release.least_choices and leaf_bits speak of a first tree, which start_model has already; leave them out"
        )
    return None


def base_margins_fit(plan: Plan) -> str | None:
    columns = plan.schema.base_margin
    if not columns:
        return None
    if plan.coopetitive is not None:
        return (
            f"schema.base_margin goes with the modes that have an aggregator, and the mode is {plan.mode!r}, where all rows start at "
            "the same margin: leave it out, or take another mode"
        )
    outputs = plan.parameters.outputs
    if len(columns) != outputs:
        return f"schema.base_margin names {len(columns)} columns; expected one for each of the {outputs} outputs of the model"
    if plan.release.least_choices or plan.release.leaf_bits is not None:
        return (
            "release.least_choices and leaf_bits speak of a first tree whose rows all start at the base score; leave them out, or "
            "schema.base_margin"
        )
    return None


def levels_of_a_union_are_told(plan: Plan) -> str | None:
    union = plan.schema.union
    if not union:
        return None
    if plan.mode != "federated":
        return (
            f"schema.union names {union[0]!r}, whose levels are those of all parties, which each tells in the clear, and the mode is "
            f"{plan.mode!r}, where nothing that one party has is told: list the levels, or take mode 'federated'"
        )
    ordered = [name for name in union if name in dict(plan.parameters.monotone_constraints)]
    if ordered:
        return f"monotone.{ordered[0]} constrains a categorical feature, whose levels have no order; leave it out"
    if plan.start_model:
        return f"schema.union names {union[0]!r}, and start_model has levels of its own; list the model's levels in [categories]"
    return None


def a_custom_objective_can_be_had(plan: Plan) -> str | None:
    if plan.custom_objective is None:
        return None
    if plan.coopetitive is not None:
        return (
            f"custom_objective goes with the modes that have an aggregator, and the mode is {plan.mode!r}, where gradients are "
            "computed on shares, which no function of rows can do: leave it out, or take another mode"
        )
    objective = plan.parameters.objective
    if objective != "reg:squarederror":
        return (
            f"custom_objective takes the place of an objective, and parameters.objective is {objective}; write reg:squarederror, which "
            "XGBoost too writes for a function: labels are any numbers, and predictions margins"
        )
    if plan.parameters.base_score is None and not plan.start_model:
        return "custom_objective needs parameters.base_score, the margin before the first tree, such as 0: none follows from a function"
    return None


def a_custom_metric_can_be_had(plan: Plan) -> str | None:
    own = plan.custom_metric
    if own is None:
        return None
    if plan.coopetitive is not None:
        return (
            f"custom_metric goes with the modes that have an aggregator, and the mode is {plan.mode!r}, where metrics are computed on "
            "shares, which no function of rows can do: leave it out, or take another mode"
        )
    if plan.evaluation_fraction == 0:
        return "custom_metric is of held-out rows; set evaluation.fraction, for example to 0.2, or leave it out"
    if any(measures(own.name, objective) for objective in LOSSES):
        return f"custom_metric.name is {own.name!r}, a metric that there is; take another name"
    return None


def rare_levels_can_be_counted(plan: Plan) -> str | None:
    rare = plan.schema.rare_levels
    if not rare:
        return None
    if plan.coopetitive is not None:
        return (
            f"schema.rare_levels goes with the modes that have an aggregator, and the mode is {plan.mode!r}, where nobody learns how "
            "many rows have a level: join rare levels in the plan, or take another mode"
        )
    for name, least in rare:
        if least < plan.min_cell_rows:
            return (
                f"schema.rare_levels.{name} is {least}, fewer than privacy.min_cell_rows = {plan.min_cell_rows}, below which no cell "
                "is told apart: give at least that many"
            )
    if plan.start_model:
        return "schema.rare_levels counts levels anew, and start_model has its own; leave rare_levels out, and list the model's levels"
    return None


def folds_can_be_had(plan: Plan) -> str | None:
    if not plan.folds:
        return None
    if plan.folds < 2:
        return f"evaluation.folds is {plan.folds}; expected 2 or more, or 0 for none"
    if plan.fold is not None and not 0 <= plan.fold < plan.folds:
        return f"fold is {plan.fold}; expected 0 to {plan.folds - 1}"
    if plan.coopetitive is not None and plan.coopetitive.steps:
        return (
            "evaluation.steps says when metrics are opened, and evaluation.folds opens them after every round, to find the best one; "
            "leave one out"
        )
    if plan.release.metric:
        return "evaluation.folds releases no model, so release.metric has nothing to decide; leave one out"
    if plan.start_model:
        return "evaluation.folds scores models on rows that they were not trained on, and start_model may have seen them; leave one out"
    return None


def trials_can_be_had(plan: Plan) -> str | None:
    search = plan.search
    if search is None:
        return None
    if plan.folds:
        return "a search scores each trial on held-out rows, and evaluation.folds on folds; leave [search] or folds out"
    if not plan.evaluation_fraction:
        return "a search scores trials on held-out rows; set evaluation.fraction, for example to 0.2, or leave [search] out"
    if plan.coopetitive is not None and plan.coopetitive.steps:
        return (
            "evaluation.steps says when metrics are opened, and a search opens them after every round, to find the best one; leave one "
            "out"
        )
    if plan.release.metric:
        return "a search releases no model, so release.metric has nothing to decide; leave one out"
    if plan.start_model:
        return "a search scores trials on rows that they were not trained on, and start_model may have seen them; leave one out"
    if plan.trial is not None:
        return None if 0 <= plan.trial < search.trials else f"trial is {plan.trial}; expected 0 to {search.trials - 1}"
    plan.of_trials()
    return None


def ids_keep_rows_together(plan: Plan) -> str | None:
    if plan.schema.id is None or plan.evaluation_fraction > 0:
        return None
    return (
        f"schema.id is {plan.schema.id!r}, whose rows are held out together, and none are held out: set evaluation.fraction or "
        "evaluation.folds, or name the column in schema.ignore"
    )


def early_stopping_has_rows(plan: Plan) -> str | None:
    if plan.evaluation_fraction > 0 or plan.parameters.early_stopping_rounds is None:
        return None
    return "early_stopping_rounds needs held-out rows; set evaluation.fraction, for example to 0.2, or leave it out"


# --- coopetitive mode -------------------------------------------------------------------------------------------------


def shared_rules_hold(plan: Plan) -> str | None:
    more = plan.coopetitive
    if more is None:
        return None
    return next((fault for rule in RULES_ON_SHARES if (fault := rule(plan, more)) is not None), None)


def three_servers_and_a_hub(plan: Plan, more: Coopetitive) -> str | None:
    if plan.aggregator:
        return (
            f"members.aggregator is {plan.aggregator!r}; in {COOPETITIVE} mode there is a hub instead: name members.hub, and leave "
            "members.aggregator out"
        )
    if len(set(more.servers)) != SERVERS or len(more.servers) != SERVERS:
        return f"members.servers is {list(more.servers)}; expected three different members"
    if not plan.receivers and not plan.only_measures:
        return "members.receivers is empty; nobody would ever see the model: name at least one"
    if plan.minimum_parties != len(plan.parties):
        return f"in {COOPETITIVE} mode every party takes part; leave members.minimum_parties out"
    return None


def weights_have_a_limit(plan: Plan, more: Coopetitive) -> str | None:
    if (plan.schema.weight is None) == (more.weight_limit is None):
        return None
    return (
        f"in {COOPETITIVE} mode schema.weight and schema.weight_limit go together: no row's weight may exceed the limit"
    )


def steps_are_rounds(plan: Plan, more: Coopetitive) -> str | None:
    rising = list(more.steps) == sorted(set(more.steps))
    within = all(1 <= step <= plan.parameters.rounds for step in more.steps)
    if not more.steps or (plan.evaluation_fraction and rising and within):
        return None
    return (
        f"evaluation.steps is {list(more.steps)}; expected rising numbers of rounds up to "
        f"{plan.parameters.rounds}, and an evaluation.fraction"
    )


def base_score_follows(plan: Plan, _: Coopetitive) -> str | None:
    if plan.parameters.scale_pos_weight != "auto" or plan.parameters.base_score is None:
        return None
    return f'scale_pos_weight = "auto" follows from the pooled mean in {COOPETITIVE} mode: leave base_score out, or give a number'


def signs_are_of_features(plan: Plan, more: Coopetitive) -> str | None:
    if not more.monotone or len(more.monotone) == len(plan.schema.features):
        return None
    return f"[monotone] is {list(more.monotone)}; expected 1, -1 or 0 for each of {len(plan.schema.features)} features"


def parameters_fit_shares(plan: Plan, _: Coopetitive) -> str | None:
    for name, value in NOT_ON_SHARES.items():
        if getattr(plan.parameters, name) != value:
            return (
                f"parameter {name} = {getattr(plan.parameters, name)!r} is not supported in {COOPETITIVE} mode, "
                f"where nobody sees the sums that it needs; leave it at {value!r}"
            )
    if plan.parameters.histogram_bits == 64:
        return f'parameter histogram_bits = 64 is not supported in {COOPETITIVE} mode, which has no histograms; leave it at "auto"'
    for field, (least, most) in RANGES_ON_SHARES.items():
        name, value = field.rstrip("_"), getattr(plan.parameters, field)
        if not least <= value <= most:
            much, bound = ("much", f"at most {most}") if value > most else ("little", f"at least {least:g}")
            return f"parameter {name} = {value} is too {much} for {COOPETITIVE} mode; {bound}"
    return None


def bounded_weights_have_no_statistics(plan: Plan, more: Coopetitive) -> str | None:
    if more.statistics and plan.parameters.objective == "count:poisson":
        return (
            f"release.statistics does not go with count:poisson in {COOPETITIVE} mode: set release.statistics = false"
        )
    for name in ("alpha", "max_delta_step"):
        if more.statistics and getattr(plan.parameters, name):
            return (
                f"release.statistics goes with {name} = 0 only in {COOPETITIVE} mode, where receivers derive gains from leaf "
                f"values, and those that {name} bounds do not tell them: set release.statistics = false"
            )
    return None


def step_is_not_too_small(plan: Plan, _: Coopetitive) -> str | None:
    step, eta = plan.parameters.max_delta_step, plan.parameters.eta
    if plan.parameters.objective == "count:poisson" and not (step <= MOST_COUNT_STEP and eta >= math.exp(step) / 4096):
        return (
            f"parameter max_delta_step = {step:g}, with eta = {eta:g}, is too much for count:poisson in {COOPETITIVE} mode; at most "
            f"{MOST_COUNT_STEP:g}, and eta at least 2^-12 times e^max_delta_step"
        )
    if not step or plan.parameters.objective == "reg:squarederror" or eta * step >= LEAST_BOUND_ON_SHARES:
        return None
    return (
        f"parameter max_delta_step = {step:g} times eta = {eta:g} is too little for {COOPETITIVE} mode; at least "
        f"{LEAST_BOUND_ON_SHARES:g}, or 0 for no bound"
    )


def metrics_can_be_had_of_shares(plan: Plan, _: Coopetitive) -> str | None:
    """They matter where rows are held out."""
    names = plan.parameters.metrics if plan.evaluation_fraction > 0 else ()
    wrong = [name for name in names if name not in METRICS_ON_SHARES]
    if not wrong:
        return None
    return (
        f"parameter eval_metric = {wrong[0]!r} cannot be had in {COOPETITIVE} mode, where metrics are computed on shares; take one of "
        f"{', '.join(name for name in METRICS_ON_SHARES if measures(name, plan.parameters.objective))}"
    )


def objective_can_be_had_of_shares(plan: Plan, _: Coopetitive) -> str | None:
    objective = plan.parameters.objective
    if is_softmax(objective) and plan.parameters.eta < LEAST_ETA_OF_CLASSES:
        return (
            f"parameter eta = {plan.parameters.eta} is too little for {objective} in {COOPETITIVE} mode; at least "
            f"{LEAST_ETA_OF_CLASSES:g}"
        )
    if objective in OBJECTIVES_ON_SHARES:
        return None
    if is_quantile(objective):
        return (
            f"parameter objective = {objective!r} cannot be had in {COOPETITIVE} mode: each leaf is refitted to a quantile of its "
            "rows' residuals, from counts that nobody sees there; write objective = 'reg:squarederror', or take mode 'federated' or "
            f"{MASKED!r}"
        )
    return (
        f"parameter objective = {objective!r} cannot be had in {COOPETITIVE} mode, where gradients are computed on shares and only "
        f"those of {', '.join(OBJECTIVES_ON_SHARES)} are: take one of these, or mode 'federated' or {MASKED!r}"
    )


def labels_have_a_range(plan: Plan, more: Coopetitive) -> str | None:
    numbers = plan.parameters.objective in NUMBERS_ON_SHARES
    if numbers != (more.label_range is not None):
        needed = "needs" if numbers else "has no use for"
        return f"{plan.parameters.objective} {needed} labels.range = [lowest, highest] in {COOPETITIVE} mode"
    if more.label_range is None:
        return None
    low, high = more.label_range
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        return f"labels.range is {[low, high]}; expected two finite numbers, the lower first"
    if plan.parameters.objective == "count:poisson" and not low >= 0:
        return f"labels.range is {[low, high]}; counts are at least 0"
    base = plan.parameters.base_score
    if base is not None and not low <= base <= high:
        return f"base_score {base} lies outside labels.range {[low, high]}"
    return None


def missing_are_features(plan: Plan, more: Coopetitive) -> str | None:
    unknown = sorted(set(more.missing or ()) - set(plan.schema.features))
    return f"schema.missing names {unknown[0]!r}, which is no feature" if unknown else None


def cuts_rise(plan: Plan, more: Coopetitive) -> str | None:
    if more.cuts is None:
        return None
    if len(more.cuts) != len(plan.schema.features):
        return f"[cuts] is of {len(more.cuts)} features; expected a list for each of {len(plan.schema.features)}"
    for feature, cuts in zip(plan.schema.features, more.cuts, strict=True):
        narrow = [struct.unpack("<f", struct.pack("<f", cut))[0] if abs(cut) < 3.4e38 else math.inf for cut in cuts]
        if any(not math.isfinite(cut) for cut in narrow) or any(a >= b for a, b in itertools.pairwise(narrow)):
            return f"cuts.{feature} is {list(cuts)}; expected finite float32 numbers that rise strictly"
        if len(cuts) >= plan.parameters.max_bin:
            return f"cuts.{feature} has {len(cuts)} cuts; max_bin {plan.parameters.max_bin} allows fewer"
    if not any(more.cuts) and not more.missing and not plan.schema.categories:
        return "[cuts] gives no cut at all; a tree could not split"
    return None


def categories_fit_shares(plan: Plan, more: Coopetitive) -> str | None:
    for number, (name, levels) in enumerate(zip(plan.schema.features, plan.schema.categories, strict=False)):
        if not levels:
            continue
        if len(levels) > MOST_LEVELS:
            return (
                f"categories.{name} has {len(levels)} levels; at most {MOST_LEVELS} are taken: join rare ones into one"
            )
        most = plan.parameters.max_cat_to_onehot
        if most is not None and len(levels) >= most:
            return (
                f"parameter max_cat_to_onehot = {most} asks for splits on several of the {len(levels)} categories of {name!r}; "
                f"here every split tells one category from all others: leave it out, or give {len(levels) + 1} or more"
            )
        if more.cuts is not None and more.cuts[number]:
            return f"cuts.{name} gives cuts of a categorical feature, which has none; leave them out"
        if more.monotone and more.monotone[number]:
            return f"monotone.{name} constrains a categorical feature, whose levels have no order; leave it out"
    return None


RULES_ON_SHARES: tuple[SharedRule, ...] = (
    three_servers_and_a_hub,
    objective_can_be_had_of_shares,
    weights_have_a_limit,
    steps_are_rounds,
    base_score_follows,
    signs_are_of_features,
    parameters_fit_shares,
    bounded_weights_have_no_statistics,
    step_is_not_too_small,
    metrics_can_be_had_of_shares,
    labels_have_a_range,
    missing_are_features,
    cuts_rise,
    categories_fit_shares,
)
"""Of coopetitive plans, in the order in which they are asked: later ones rely on earlier ones."""


def condition_can_be_checked(plan: Plan) -> str | None:
    release = plan.release
    bounds = [name for name in ("at_least", "at_most") if getattr(release, name) is not None]
    if not release.metric:
        return (
            f"release.{bounds[0]} says what no release.metric must reach; add metric, or leave it out"
            if bounds
            else None
        )
    if len(bounds) != 1:
        return f"release.metric = {release.metric!r} takes one of release.at_least and release.at_most; {len(bounds)} are given"
    if plan.evaluation_fraction == 0:
        return "release.metric is of held-out rows, and none are held out; give evaluation.fraction"
    if release.metric not in plan.metrics:
        return (
            f"release.metric is {release.metric!r}, which this run does not measure; expected one of its metrics "
            f"{', '.join(plan.parameters.metrics)}, or name it in parameters.eval_metric"
        )
    return None


RULES: tuple[Rule, ...] = (
    mode_and_tables_agree,
    names_are_names,
    members_are_named_once,
    shared_rules_hold,
    categories_have_no_order,
    aggregator_and_receivers,
    minimum_parties,
    collectors_can_be_had,
    going_on_without_can_be_had,
    rows_of_nodes_are_known,
    rows_of_nodes_have_bounded_hessians,
    dominance_goes_with_federated,
    verified_counts_go_with_masked,
    leaves_of_other_objectives_stay,
    choices_can_be_promised,
    one_against_the_rest_goes_with_coopetitive,
    several_labels_can_be_had,
    a_shap_summary_can_be_had,
    class_names_fit_labels,
    a_start_model_is_all_there_is_before,
    base_margins_fit,
    levels_of_a_union_are_told,
    a_custom_objective_can_be_had,
    a_custom_metric_can_be_had,
    rare_levels_can_be_counted,
    folds_can_be_had,
    trials_can_be_had,
    ids_keep_rows_together,
    early_stopping_has_rows,
    condition_can_be_checked,
)
"""Of every plan, in the order in which they are asked."""
