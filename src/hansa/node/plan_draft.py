"""`hansa plan new`: a plan's file of few lines, made of the consortium's members and of what tables hold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from hansa.consortium.members import Members
from hansa.errors import PlanError
from hansa.node.schema_proposal import ProposedColumn, SchemaProposal, array_line
from hansa.plan import COOPETITIVE, parse_plan
from hansa.toml import write_toml


@dataclass(frozen=True)
class Roles:
    """Who does what, as the command line says it; None where it does not.

    Attributes:
        hub: the aggregator, or a coopetitive plan's hub. servers: a coopetitive plan's three. parties, receivers: names.
    """

    hub: str | None = None
    servers: tuple[str, ...] | None = None
    parties: tuple[str, ...] | None = None
    receivers: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Draft:
    """A plan's text, which is a whole plan, and sentences on what was chosen for it, for those who agree on it."""

    text: str
    notes: tuple[str, ...]


def draft(
    name: str,
    mode: str,
    members: Members,
    roles: Roles,
    schema: SchemaProposal,
    objective: str | None,
    rounds: int,
    union: bool = False,
) -> Draft:
    """Write a plan. It is read before it is given.

    Args:
        name: of the run. members: of the consortium. roles: where parties are not named, all members that do nothing else are; where
            receivers are not named, all parties are. schema: with a label.
        objective, rounds: of the parameters; objective None: what the label looks like.
        union: whether texts are the union of all parties' levels, which `federated` mode alone allows, in place of those of the tables.

    Raises PlanError: a name is no member's, a role is missing, or the plan is refused as any plan would be.
    """
    parties, receivers = _with_roles(mode, members, roles)
    labels = [column for column in schema.columns if column.role == "label"]
    if not labels:
        raise PlanError("a plan needs --label, the column to predict")
    for label in labels:
        if label.noted:
            raise PlanError(f"label {label.name!r} cannot be learnt as it is: {label.why}")
    notes = schema.notes()
    if objective is None:
        objective, note = _objective(labels)
        notes += (note,)
    parameters: dict[str, Any] = {"objective": objective, "rounds": rounds}
    if objective.startswith("multi:") and labels[0].classes:
        parameters["num_class"] = labels[0].classes
    lines = [
        "# Written by `hansa plan new`. Change what you do not agree with; `hansa plan show` says who would learn what.",
        _line("name", name),
        f"{_line('mode', mode)}  # how rows are protected: federated, secure-aggregation or coopetitive",
        "evaluation.fraction = 0.2  # of each party's rows, held out; metrics are of them",
        "",
        "[members]",
        *_members(mode, roles, parties, receivers),
        "",
        schema.short(union),
        "",
        "[parameters]  # XGBoost's names: eta, max_depth, ...",
        *(_line(key, value) for key, value in parameters.items()),
    ]
    text = "\n".join(lines) + "\n"
    parse_plan(text, "the new plan")
    return Draft(text, notes)


def _with_roles(mode: str, members: Members, roles: Roles) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Parties and receivers. Raises PlanError: a name is no member's, or a role is missing."""
    if mode == COOPETITIVE:
        if roles.servers is None or roles.hub is None:
            raise PlanError(f"mode {mode!r} needs --hub and --servers, three of {', '.join(members)}")
        others: tuple[str, ...] = ()
    else:
        if roles.servers is not None:
            raise PlanError(f"--servers is for mode {COOPETITIVE!r}; leave it out")
        if roles.hub is None:
            raise PlanError(f"mode {mode!r} needs --hub, the aggregator, one of {', '.join(members)}")
        others = (roles.hub,)
    parties = roles.parties or tuple(own for own in members if own not in others)
    receivers = roles.receivers or parties
    named = {"--hub": (roles.hub,), "--servers": roles.servers or (), "--parties": parties, "--receivers": receivers}
    for option, names in named.items():
        unknown = [own for own in names if own not in members]
        if unknown:
            raise PlanError(f"{option} names {unknown[0]!r}, who is no member; members are {', '.join(members)}")
    return parties, receivers


def _objective(labels: Sequence[ProposedColumn]) -> tuple[str, str]:
    """The objective that labels look like, and a sentence that says so."""
    named = " and ".join(repr(label.name) for label in labels)
    most = max(label.classes for label in labels)
    if all(label.classes == 2 for label in labels):
        return "binary:logistic", f"{named}: two classes, so the objective is binary:logistic"
    if len(labels) == 1 and most:
        return "multi:softprob", (
            f"{named}: {most} classes, so the objective is multi:softprob; where they are amounts choose another (--objective)"
        )
    return "reg:squarederror", f"{named}: numbers, so the objective is reg:squarederror; others: --objective"


def _members(mode: str, roles: Roles, parties: Sequence[str], receivers: Sequence[str]) -> Iterable[str]:
    if mode == COOPETITIVE:
        yield f"{_line('hub', roles.hub)}  # relays sealed messages, and has no keys of the run"
        yield f"{array_line('servers', roles.servers or ())}  # compute on shares; two of them together could read all"
    else:
        yield f"{_line('aggregator', roles.hub)}  # adds the parties' sums, and has no rows"
    if set(receivers) == set(parties):
        yield f"{array_line('parties', parties)}  # have rows, and get the model file"
    else:
        yield f"{array_line('parties', parties)}  # have rows"
        yield f"{array_line('receivers', receivers)}  # get the model file"


def _line(key: str, value: Any) -> str:
    """One key as TOML, on one line."""
    return write_toml({key: value}).rstrip("\n")
