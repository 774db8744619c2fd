"""A plan as TOML."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from hansa.plan.plan import Coopetitive, Plan
from hansa.plan.search import Interval, given_of
from hansa.toml import write_toml


def write_plan(plan: Plan) -> str:
    """The plan as TOML text that `parse_plan` reads back to an equal plan. Defaults are written out.

    Parameters
    ----------
    plan : Plan

    Returns
    -------
    str
        TOML, which any member may keep as a file: layout does not count for the digest.

    Examples
    --------
    >>> from hansa import Plan, Schema, parse_parameters, parse_plan
    >>> plan = Plan(
    ...     name="cells", mode="federated", aggregator="hub", parties=("aurora", "borealis"), receivers=("aurora",),
    ...     minimum_parties=2, schema=Schema(("rsrp", "load"), "sleeping"), parameters=parse_parameters({"rounds": 10}),
    ... )
    >>> parse_plan(write_plan(plan)).digest() == plan.digest()
    True
    """
    more = plan.coopetitive
    document: dict[str, Any] = {
        "name": plan.name,
        "mode": plan.mode,
        **({"start_model": plan.start_model} if plan.start_model else {}),
        "members": _members(plan),
        "schema": _schema(plan),
        "privacy": _privacy(plan),
        "evaluation": {
            **({"folds": plan.folds} if plan.folds else {"fraction": plan.evaluation_fraction}),
            **({"shap": plan.shap} if plan.shap else {}),
        },
        "release": _release(plan),
        "parameters": given_of(plan.parameters),
    }
    if plan.schema.categories:
        document["categories"] = plan.schema.levels
    if plan.custom_objective is not None:
        document["custom_objective"] = asdict(plan.custom_objective)
    if plan.custom_metric is not None:
        document["custom_metric"] = asdict(plan.custom_metric)
    if plan.search is not None:
        space = {name: asdict(own) if isinstance(own, Interval) else own for name, own in plan.search.space}
        document["search"] = {"trials": plan.search.trials, "space": space}
    if more is not None:
        document |= _by_feature(plan, more)
        if more.steps:
            document["evaluation"]["steps"] = more.steps
        if more.label_range is not None:
            document["labels"] = {"range": more.label_range}
    return write_toml(document)


def _members(plan: Plan) -> dict[str, Any]:
    more = plan.coopetitive
    if more is None:
        first: dict[str, Any] = {"aggregator": plan.aggregator}
    else:
        first = {"hub": more.hub, "servers": more.servers, "server_links": more.server_links}
    return {
        **first,
        "parties": plan.parties,
        "receivers": plan.receivers,
        "minimum_parties": plan.minimum_parties,
        "on_dropout": plan.on_dropout,
        **({} if plan.continue_after_s is None else {"continue_after_s": plan.continue_after_s}),
        **({"collectors": dict(plan.collectors)} if plan.collectors else {}),
    }


def _schema(plan: Plan) -> dict[str, Any]:
    more, schema = plan.coopetitive, plan.schema
    given: dict[str, Any] = {
        "features": schema.features,
        "union": schema.union or None,
        "label": schema.label,
        "weight": schema.weight,
        "id": schema.id,
        "decimal": None if schema.decimal == "." else schema.decimal,
        "ignore": schema.ignore or None,
        "classes": schema.classes or None,
        "base_margin": schema.base_margin or None,
        "base_margin_limit": schema.base_margin_limit or None,
        "unseen": None if schema.unseen == "missing" else schema.unseen,
        "dates": dict(schema.dates) or None,
        "rare_levels": dict(schema.rare_levels) or None,
        "missing": None if more is None else more.missing,
        "weight_limit": None if more is None else more.weight_limit,
    }
    return {key: value for key, value in given.items() if value is not None}


def _privacy(plan: Plan) -> dict[str, Any]:
    names = ["min_cell_rows", "min_party_rows", "min_child_rows"]
    if plan.coopetitive is None:
        names += ["dominance", "verify_counts"]
    return {name: getattr(plan, name) for name in names}


def _release(plan: Plan) -> dict[str, Any]:
    release = plan.release
    given = {
        "least_choices": release.least_choices,
        "leaf_bits": release.leaf_bits,
        "metric": release.metric or None,
        "at_least": release.at_least,
        "at_most": release.at_most,
        "deadline_s": None if plan.coopetitive is None else plan.coopetitive.deadline_s,
    }
    return {"statistics": plan.statistics, **{key: value for key, value in given.items() if value is not None}}


def _by_feature(plan: Plan, more: Coopetitive) -> dict[str, Any]:
    """The tables whose keys are features."""
    tables = {"monotone": more.monotone or None, "cuts": more.cuts}
    return {
        title: dict(zip(plan.schema.features, values, strict=True))
        for title, values in tables.items()
        if values is not None
    }
