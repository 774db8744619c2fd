"""`hansa plan new`: a plan's file with comments, made of the consortium's members and of what tables hold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from hansa.consortium.members import Members
from hansa.errors import PlanError
from hansa.node.schema_proposal import SchemaProposal
from hansa.plan import COOPETITIVE, DEFAULT_MIN_CELL_ROWS, DEFAULT_MIN_PARTY_ROWS, MASKED, parse_plan
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


def draft(
    name: str, mode: str, members: Members, roles: Roles, schema: SchemaProposal, objective: str, rounds: int
) -> str:
    """The text of a plan, which is a whole one: it is read before it is given.

    Args:
        name: of the run. members: of the consortium. roles: where parties are not named, all members that do nothing else are; where
            receivers are not named, all parties are. schema: with a label. objective, rounds: of the parameters.

    Raises PlanError: a name is no member's, a role is missing, or the plan is refused as any plan would be.
    """
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
    label = next((column for column in schema.columns if column.role == "label"), None)
    if label is None:
        raise PlanError("a plan needs --label, the column to predict")
    parameters: dict[str, Any] = {"objective": objective, "rounds": rounds}
    if objective.startswith("multi:") and label.levels:
        parameters["num_class"] = len(label.levels)
    lines = [
        "# Written by `hansa plan new`. Change what you do not agree with; `hansa plan show` checks it and says who would learn what.",
        _line("name", name),
        f"{_line('mode', mode)}  # how rows are protected: federated, secure-aggregation or coopetitive",
        "",
        "[members]",
        *_members(mode, roles, parties, receivers),
        "",
        schema.text(),
        "",
        "[evaluation]",
        "fraction = 0.2  # of each party's rows, held out; metrics are of them",
        "",
        "[privacy]",
        f"min_cell_rows = {DEFAULT_MIN_CELL_ROWS}  # cuts stop at cells of so many pooled rows",
        *(
            []
            if mode == "federated"
            else [f"min_party_rows = {DEFAULT_MIN_PARTY_ROWS}  # rows that each party has at least"]
        ),
        *(
            ['verify_counts = "tree"  # parties check the aggregator; "before" and "after" are stricter']
            if mode == MASKED
            else []
        ),
        "",
        "[parameters]  # XGBoost's names",
        *(_line(key, value) for key, value in parameters.items()),
        "# eta = 0.3, max_depth = 6, max_bin = 256 and so on: docs/reference/parameters.md",
    ]
    if mode == MASKED and len(parties) < 3:
        lines = [line for line in lines if not line.startswith("verify_counts")]
    text = "\n".join(lines) + "\n"
    parse_plan(text, "the new plan")
    return text


def _members(mode: str, roles: Roles, parties: Sequence[str], receivers: Sequence[str]) -> Iterable[str]:
    if mode == COOPETITIVE:
        yield f"{_line('hub', roles.hub)}  # relays sealed messages, and has no keys of the run"
        yield f"{_line('servers', list(roles.servers or ()))}  # compute on shares; two of them together could read all"
    else:
        yield f"{_line('aggregator', roles.hub)}  # adds the parties' sums, and has no rows"
    yield f"{_line('parties', list(parties))}  # have rows"
    yield f"{_line('receivers', list(receivers))}  # get the model file"


def _line(key: str, value: Any) -> str:
    """One key as TOML, on one line."""
    if isinstance(value, list):
        return f"{key} = [{', '.join(_line('', each).removeprefix(' = ') for each in value)}]"
    if key:
        return write_toml({key: value}).rstrip("\n")
    return " = " + write_toml({"x": value}).rstrip("\n").removeprefix("x = ")
