"""The training plan: one TOML file that every member holds, word for word the same to the digest.

    name = "dropped-calls"
    mode = "federated"

    [members]
    aggregator = "hub"
    parties = ["aurora", "borealis", "cirrus"]
    receivers = ["aurora", "borealis"]        # default: all parties
    minimum_parties = 3                       # default: all parties

    [schema]
    features = ["traffic", "temperature"]
    label = "fault"
    weight = "importance"                     # optional

    [privacy]
    min_cell_rows = 10                        # cuts stop at cells of so many pooled rows

    [evaluation]
    fraction = 0.2                            # of each party's rows, held out for metrics and early stopping

    [parameters]                              # XGBoost's names
    objective = "binary:logistic"
    rounds = 100
    eta = 0.1

Signed plans, approvals and policies come later; they will sign `digest`.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec

from hansa.data.schema import Schema
from hansa.errors import PlanError
from hansa.trees.parameters import Parameters, parse_parameters

MODES = ("federated", "secure-aggregation")
"""The modes that this release runs."""

PLANNED_MODES = ("coopetitive",)
"""Modes that a later release will run; until then they are refused, never run in a weaker mode."""

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")

DEFAULT_MIN_CELL_ROWS = 10
"""Argued for in SECURITY.md, "Cuts"."""

LEAST_MIN_CELL_ROWS = 2


@dataclass(frozen=True)
class Plan:
    """What the members agreed on. Public to all of them.

    Attributes:
        name: of the run, for people.
        mode: one of `MODES`.
        aggregator: the member that sums and finds splits.
        parties: the members that hold rows, sorted.
        receivers: the members that get the model file, sorted.
        minimum_parties: the run does not start with fewer parties.
        schema: the columns of every party's table.
        parameters: how to grow the trees.
        min_cell_rows: a cell of so many pooled rows or fewer is not split further when cuts are searched.
        evaluation_fraction: share of each party's rows that is held out; 0 for none.
    """

    name: str
    mode: str
    aggregator: str
    parties: tuple[str, ...]
    receivers: tuple[str, ...]
    minimum_parties: int
    schema: Schema
    parameters: Parameters
    min_cell_rows: int = DEFAULT_MIN_CELL_ROWS
    evaluation_fraction: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "parties", tuple(sorted(self.parties)))
        object.__setattr__(self, "receivers", tuple(sorted(self.receivers)))
        _check_plan(self)

    @property
    def members(self) -> tuple[str, ...]:
        """All members, sorted."""
        return tuple(sorted({self.aggregator, *self.parties, *self.receivers}))

    def canonical(self) -> bytes:
        """The plan as bytes that depend on its meaning only: JSON with sorted keys, every default written out."""
        return msgspec.json.encode({"format": 1, **asdict(self)}, order="sorted")

    def digest(self) -> bytes:
        """SHA-256 of `canonical`, 32 bytes."""
        return hashlib.sha256(b"hansa plan\x00" + self.canonical()).digest()


def _check_plan(plan: Plan) -> None:
    if plan.mode in PLANNED_MODES:
        raise PlanError(
            f"plan: mode {plan.mode!r} is not in this release; it is refused rather than run in a weaker mode "
            f"(available: {', '.join(MODES)})"
        )
    if plan.mode not in MODES:
        raise PlanError(f"plan: mode is {plan.mode!r}; expected one of {', '.join((*MODES, *PLANNED_MODES))}")
    for name in plan.members:
        if not NAME.fullmatch(name):
            raise PlanError(
                f"plan: member name {name!r}: expected 1 to 63 lower-case letters, digits and hyphens, a hyphen not first"
            )
    if not plan.parties:
        raise PlanError("plan: members.parties is empty; name at least one member that holds rows")
    for key, names in (("parties", plan.parties), ("receivers", plan.receivers)):
        if len(set(names)) < len(names):
            raise PlanError(f"plan: members.{key} names a member twice")
    if plan.aggregator in plan.parties:
        raise PlanError(f"plan: {plan.aggregator!r} is both the aggregator and a party; the aggregator holds no rows")
    strangers = set(plan.receivers) - {plan.aggregator, *plan.parties}
    if strangers:
        raise PlanError(f"plan: receiver {min(strangers)!r} is neither the aggregator nor a party")
    if not 1 <= plan.minimum_parties <= len(plan.parties):
        raise PlanError(
            f"plan: members.minimum_parties is {plan.minimum_parties}; expected 1 to {len(plan.parties)}, the number of parties"
        )
    if plan.mode == "secure-aggregation" and plan.minimum_parties < 2:
        raise PlanError(
            f"plan: members.minimum_parties is {plan.minimum_parties}; secure-aggregation needs at least 2 parties "
            "(and 3, unless every party's own policy allows two): the sum over one party is that party's part"
        )
    if plan.min_cell_rows < LEAST_MIN_CELL_ROWS:
        raise PlanError(
            f"plan: privacy.min_cell_rows is {plan.min_cell_rows}; expected at least {LEAST_MIN_CELL_ROWS}: "
            "a cell of one row would send that row's value"
        )
    if not 0 <= plan.evaluation_fraction < 1:
        raise PlanError(f"plan: evaluation.fraction is {plan.evaluation_fraction}; expected at least 0 and below 1")
    parameters = plan.parameters
    if plan.evaluation_fraction == 0 and parameters.early_stopping_rounds is not None:
        raise PlanError(
            "plan: early_stopping_rounds needs held-out rows; set evaluation.fraction, for example to 0.2, or leave it out"
        )


def _table(document: Mapping[str, Any], key: str, allowed: tuple[str, ...], where: str) -> dict[str, Any]:
    value = document.get(key, {})
    if not isinstance(value, dict):
        raise PlanError(f"{where}: {key} is {value!r}; expected a table [{key}]")
    _refuse_unknown(value, allowed, f"{where}: [{key}]")
    return value


def _refuse_unknown(given: Mapping[str, Any], allowed: tuple[str, ...], where: str) -> None:
    unknown = sorted(set(given) - set(allowed))
    if unknown:
        raise PlanError(f"{where}: key {unknown[0]!r} is not known; expected {', '.join(allowed)}")


def _typed(value: Any, kind: type | tuple[type, ...], key: str, expected: str, where: str) -> Any:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise PlanError(f"{where}: {key} is {value!r}; expected {expected}")
    return value


def _names(value: Any, key: str, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise PlanError(f"{where}: {key} is {value!r}; expected a list of names")
    return tuple(value)


PLAN_KEYS: dict[str, tuple[str, ...]] = {
    "": ("name", "mode", "members", "schema", "privacy", "evaluation", "parameters"),
    "members": ("aggregator", "parties", "receivers", "minimum_parties"),
    "schema": ("features", "label", "weight"),
    "privacy": ("min_cell_rows",),
    "evaluation": ("fraction",),
}
"""Every key of a plan file but those of [parameters], which are `trees.parameters.NAMES`."""


def parse_plan(text: str, where: str = "plan") -> Plan:
    """Read a plan. Raises PlanError naming the key and what to write instead."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PlanError(f"{where}: not TOML: {error}") from error
    _refuse_unknown(document, PLAN_KEYS[""], where)
    members = _table(document, "members", PLAN_KEYS["members"], where)
    schema = _table(document, "schema", PLAN_KEYS["schema"], where)
    privacy = _table(document, "privacy", PLAN_KEYS["privacy"], where)
    evaluation = _table(document, "evaluation", PLAN_KEYS["evaluation"], where)
    parameters = document.get("parameters", {})
    if not isinstance(parameters, dict):
        raise PlanError(f"{where}: parameters is {parameters!r}; expected a table [parameters]")
    for key, table, name in (
        ("members.aggregator", members, "aggregator"),
        ("members.parties", members, "parties"),
        ("schema.features", schema, "features"),
        ("schema.label", schema, "label"),
        ("mode", document, "mode"),
    ):
        if name not in table:
            raise PlanError(f"{where}: {key} is missing; add it")
    parties = _names(members["parties"], "members.parties", where)
    return Plan(
        name=_typed(document.get("name", "run"), str, "name", "text", where),
        mode=_typed(document["mode"], str, "mode", "text", where),
        aggregator=_typed(members["aggregator"], str, "members.aggregator", "a member's name", where),
        parties=parties,
        receivers=_names(members.get("receivers", list(parties)), "members.receivers", where),
        minimum_parties=_typed(
            members.get("minimum_parties", len(parties)),
            int,
            "members.minimum_parties",
            "a whole number",
            where,
        ),
        schema=Schema(
            features=_names(schema["features"], "schema.features", where),
            label=_typed(schema["label"], str, "schema.label", "a column's name", where),
            weight=None
            if "weight" not in schema
            else _typed(schema["weight"], str, "schema.weight", "a column's name", where),
        ),
        parameters=parse_parameters(parameters),
        min_cell_rows=_typed(
            privacy.get("min_cell_rows", DEFAULT_MIN_CELL_ROWS),
            int,
            "privacy.min_cell_rows",
            "a whole number",
            where,
        ),
        evaluation_fraction=float(
            _typed(evaluation.get("fraction", 0.0), (int, float), "evaluation.fraction", "a number", where)
        ),
    )


def read_plan(path: Path) -> Plan:
    """Read a plan file. Raises PlanError naming file and key."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(f"{path}: cannot be read: {error}") from error
    return parse_plan(text, str(path))


def _quoted(text: str) -> str:
    # TOML's strings are JSON's, but for the one control character that JSON leaves as it is.
    return msgspec.json.encode(text).decode().replace("\x7f", "\\u007f")


def _value(value: Any) -> str:
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    return repr(value)


def write_plan(plan: Plan) -> str:
    """The plan as TOML text that `parse_plan` reads back to an equal plan."""
    schema: dict[str, Any] = {"features": plan.schema.features, "label": plan.schema.label}
    if plan.schema.weight is not None:
        schema["weight"] = plan.schema.weight
    parameters = {
        name.rstrip("_"): value for name, value in asdict(plan.parameters).items() if value is not None and value != ()
    }
    tables: dict[str, dict[str, Any]] = {
        "members": {
            "aggregator": plan.aggregator,
            "parties": plan.parties,
            "receivers": plan.receivers,
            "minimum_parties": plan.minimum_parties,
        },
        "schema": schema,
        "privacy": {"min_cell_rows": plan.min_cell_rows},
        "evaluation": {"fraction": plan.evaluation_fraction},
        "parameters": parameters,
    }
    lines = [f"name = {_quoted(plan.name)}", f"mode = {_quoted(plan.mode)}"]
    for title, table in tables.items():
        lines += ["", f"[{title}]", *(f"{key} = {_value(value)}" for key, value in table.items())]
    return "\n".join(lines) + "\n"
