"""`hansa plan show`: what a plan says, its defaults written out, and who can read what under it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import msgspec

from hansa.data.schema import Level
from hansa.exposure import exposure, exposure_lines, openings_under, released
from hansa.plan import (
    COOPETITIVE,
    DEFAULT_BINS_ON_SHARES,
    DEFAULT_MIN_CELL_ROWS,
    DEFAULT_MIN_PARTY_ROWS,
    Plan,
    Release,
    default_verify_counts,
)
from hansa.printable import printable, size
from hansa.roles.shared.sharing import assumed_counts, memory_needed
from hansa.trees.parameters import Parameters

SHOWN_ITEMS = 12
"""Items of a long list that are shown to people; `--json` has all."""


def defaults(plan: Plan) -> dict[str, object]:
    """Plan key -> the value that a plan with these members has where it does not give the key; keys without a default are left out."""
    parameters = {f"parameters.{name.rstrip('_')}": value for name, value in asdict(Parameters()).items()}
    if plan.mode == COOPETITIVE:
        parameters["parameters.max_bin"] = DEFAULT_BINS_ON_SHARES
    return {
        "name": "run",
        "members.receivers": plan.parties,
        "members.minimum_parties": len(plan.parties),
        "members.on_dropout": "wait" if plan.can_wait else "abort",
        "members.continue_after_s": None,
        "members.server_links": "hub",
        "schema.weight": None,
        "schema.id": None,
        "schema.decimal": ".",
        "schema.ignore": (),
        "schema.classes": (),
        "schema.base_margin": (),
        "schema.base_margin_limit": 0.0,
        "schema.unseen": "missing",
        "schema.dates": (),
        "schema.rare_levels": (),
        "schema.weight_limit": None,
        "schema.missing": None,
        "categories": (),
        "privacy.min_cell_rows": DEFAULT_MIN_CELL_ROWS,
        "privacy.min_party_rows": DEFAULT_MIN_PARTY_ROWS,
        "privacy.min_child_rows": 1,
        "privacy.dominance": False,
        "privacy.verify_counts": default_verify_counts(plan.mode, plan.parties),
        "evaluation.fraction": 0.0,
        "evaluation.steps": (),
        "release.deadline_s": None,
        "labels.range": None,
        "cuts": None,
        "monotone": (),
        "release.statistics": plan.coopetitive is None,
        "release.least_choices": replace(plan, release=Release(statistics=plan.release.statistics)).least_choices,
        "release.leaf_bits": None,
        "release.metric": "",
        "release.at_least": None,
        "release.at_most": None,
        **parameters,
    }


class Opened(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a coopetitive run opens, and to whom."""

    to: str
    what: str


def opened_under(plan: Plan) -> tuple[Opened, ...]:
    """Everything that a run of this plan opens; nothing but in coopetitive mode."""
    return tuple(Opened(opening.to, opening.what) for opening in openings_under(plan))


class PlanReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `hansa plan show --json` prints.

    Attributes:
        plan: the digest. plan_file: SHA-256 of the file. mode, receivers, features, categories: of the plan.
        values: every key, each with a value of its own kind. defaults: the keys whose value is their default.
        exposure: who can read what. release: what the model tells of leaves. openings: what is opened.
    """

    plan: str
    plan_file: str
    mode: str
    receivers: tuple[str, ...]
    features: tuple[str, ...]
    categories: dict[str, tuple[Level, ...]]
    values: dict[str, Any]
    defaults: tuple[str, ...]
    exposure: tuple[str, ...]
    release: tuple[str, ...]
    openings: tuple[Opened, ...]


def report(plan: Plan, file_sha256: str) -> PlanReport:
    """For programs: every key, which of them are at their defaults, and what the mode shows to whom."""
    given = defaults(plan)
    values = plan.by_key()
    return PlanReport(
        plan=plan.digest().hex(),
        plan_file=file_sha256,
        mode=plan.mode,
        receivers=plan.receivers,
        features=plan.schema.features,
        categories=dict(plan.schema.levels),
        values=values,
        defaults=tuple(sorted(key for key, value in values.items() if key in given and given[key] == value)),
        exposure=exposure(plan),
        release=released(plan),
        openings=opened_under(plan),
    )


def text(plan: Plan, where: str, file_sha256: str) -> str:
    """For people: the digest first, then every key with its value, then who can read what."""
    given = defaults(plan)
    lines = [f"{where}: {plan.mode}, {len(plan.parties)} parties, digest {plan.digest().hex()}"]
    for key, value in plan.by_key().items():
        default = "   (default)" if key in given and given[key] == value else ""
        lines.append(f"  {key:<34} {_value(key, value)}{default}")
    for name, levels in plan.schema.levels.items():
        lines.append(f"{name}: {len(levels)} categories: {', '.join(map(str, levels))}")
    lines += [f"{name}: categories: all levels of all parties, which they tell" for name in plan.schema.union]
    if plan.servers:
        lines.append(_memory_of(plan))
    lines += [*exposure_lines(plan), f"file SHA-256 {file_sha256} (need not be the same)"]
    return "\n".join(printable(line) for line in lines)


def _memory_of(plan: Plan) -> str:
    """What a server of a coopetitive plan needs, for numbers of rows that the plan does not know."""

    def most(rows: int) -> str:
        return size(max(memory_needed(plan, assumed_counts(plan, rows), server) for server in plan.servers))

    needs = ", ".join(f"{most(rows)} for {rows:,} rows" for rows in (10_000, 100_000, 1_000_000))
    return (
        f"memory of a server: about {needs}, dealt evenly to {len(plan.parties)} parties (memory_mb in its member file)"
    )


def _value(key: str, value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{len(value)} entries"
    if isinstance(value, list | tuple):
        if key in ("categories", "cuts"):
            return f"of {sum(1 for item in value if item)} features" if value else "none"
        shown = ", ".join(map(str, value[:SHOWN_ITEMS]))
        more = f" and {len(value) - SHOWN_ITEMS} more" if len(value) > SHOWN_ITEMS else ""
        return f"{len(value)}: {shown}{more}" if value else "none"
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
