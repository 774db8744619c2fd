"""The keys of files, read from the structs that files are decoded to: what documents must list."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from hansa.consortium.policy import Policy
from hansa.declared import decode, keys_of
from hansa.errors import PlanError
from hansa.node.config import MemberDocument
from hansa.plan import reading

TABLES: dict[str, type[msgspec.Struct]] = {
    "": reading.PlanDocument,
    "members": reading.MembersTable,
    "schema": reading.SchemaTable,
    "privacy": reading.PrivacyTable,
    "evaluation": reading.EvaluationTable,
    "labels": reading.LabelsTable,
    "custom_objective": reading.CustomObjectiveTable,
    "custom_metric": reading.CustomMetricTable,
    "search": reading.SearchTable,
    "release": reading.ReleaseTable,
}

PLAN_KEYS = {name: keys_of(table) for name, table in TABLES.items()}
"""Every key of a plan file but those of [parameters], which are `trees.parameters.NAMES`, of [search.space], which are some of them,
and of [cuts], [categories] and [monotone]: features."""


def required_keys(table: type[msgspec.Struct]) -> tuple[str, ...]:
    """Those that must be given."""
    return tuple(field.encode_name for field in msgspec.structs.fields(table) if field.required)


KEYS = keys_of(MemberDocument)
REQUIRED = required_keys(MemberDocument)


def read_policy(given: Mapping[str, Any], where: str) -> Policy:
    """The table [policy] of a member's file."""
    return decode(given, Policy, where, PlanError, within="policy")
