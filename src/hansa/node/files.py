"""What every process of a member does with its files: refuses bad outputs early, keeps the ledger, puts the model."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path

from hansa.consortium.ledger import Entry, Ledger, Met, spent_under, split_under
from hansa.data.query import DatabaseQuery, Query, paths_of
from hansa.engines.settings import DiskSettings
from hansa.errors import PlanError, in_words
from hansa.files import check_folder, check_outputs, check_place, read_whole, temporary_folder
from hansa.node import logs
from hansa.node.config import MemberFile
from hansa.node.model_file import check_ending, save_model
from hansa.plan import Plan
from hansa.roles.batches import Admit, admit_all
from hansa.roles.run import Roster
from hansa.trees.xgboost_json import MOST_BYTES

ANSWER_S = 3600.0
"""Seconds that the aggregator waits for any party's next frame before it gives the run up."""


def warn(sentences: Iterable[str]) -> None:
    """Log what is allowed but probably not meant."""
    for sentence in sentences:
        logs.note(logging.WARNING, sentence)


def check_files(member: MemberFile) -> None:
    """Refuse outputs that could not be written at the end of the run. Raises OutputError.

    A transcript that is there already is that of an earlier epoch where the run has a state: the next one gets a number.
    """
    outputs = {
        key: getattr(member, key) for key in ("model", "record", "provenance", "model_signature", "audit", "ledger")
    }
    inputs: dict[str, Path] = {
        **paths_of(member.table),
        "plan": member.plan_path,
        "members": member.members_path,
        **({} if member.start_model is None else {"start_model": member.start_model}),
        "the member's own file": member.path,
    }
    check_outputs({f"{member.path}: {key}": path for key, path in outputs.items()}, inputs, keys=member.folder)
    if survives(member):
        check_folder(f"{member.path}: state", member.state, (), {**outputs, **inputs}, keys=member.folder)
    if member.transcript is not None:
        name = member.identity.name
        ends = {name, hub_end(member.plan)} if name == member.plan.hub else {name}
        if name in dict(member.plan.collectors):
            ends |= {f"{name}.hub"}
        what, names = f"{member.path}: transcript", [f"{end}.frames" for end in sorted(ends)]
        if survives(member) and member.state.exists():
            names = []
        check_folder(what, member.transcript, names, {**outputs, **inputs}, keys=member.folder)
    check_ending(f"{member.path}: model", member.model)
    if isinstance(member.engine, DiskSettings):
        check_place(f"{member.path}: engine.folder", member.engine.folder)
    if isinstance(member.table, Query | DatabaseQuery) or member.model_signature is not None:
        temporary_folder()


def hub_end(plan: Plan) -> str:
    """The name of the hub's transcript: its member's, and `NAME.hub` where that is the transcript of the roles it has beside."""
    return f"{plan.hub}.hub" if plan.hub in plan.participants else plan.hub


def survives(member: MemberFile) -> bool:
    """Whether this member's run survives its processes, and so has a state folder."""
    return member.plan.on_dropout != "abort"


def transcript_name(folder: Path, end: str) -> str:
    """What this epoch's transcript of an end is called in its folder: its name, and a number where that is taken."""
    name, number = end, 1
    while (folder / f"{name}.frames").exists():
        number += 1
        name = f"{end}.{number}"
    return name


def read_start_model(member: MemberFile) -> bytes | None:
    """The model file that this member's run goes on from, where its own file names one. Raises PlanError."""
    if member.start_model is None:
        return None
    try:
        return read_whole(member.start_model, MOST_BYTES)
    except (OSError, ValueError) as error:
        raise PlanError(f"{member.path}: start_model {member.start_model} cannot be read: {in_words(error)}") from error


def put_model(member: MemberFile, model: bytes | None) -> None:
    """Write the model where this member's file says, where it has one and the file says so. Raises OutputError."""
    if model is None or member.model is None:
        return
    others = {path.parent for path in (member.record, member.path) if path is not None} - {member.model.parent}
    save_model(member.model, model, sorted(others), member.wait_s)


def admission(member: MemberFile, columns_in: Callable[[Ledger], tuple[str, ...]]) -> Admit:
    """What writes a run down in the party's ledger before anything leaves, in the protected modes; in federated mode nothing.

    columns_in: what a ledger knows the party's rows by.

    Raises PlanError where the member's file names no ledger, or one that cannot be read.
    """
    plan = member.plan
    if plan.mode == "federated":
        return admit_all
    if member.ledger is None:
        raise PlanError(
            f"{member.path}: ledger is missing; name a file that keeps count of which people these rows have met",
            cure="name a file as ledger",
        )
    ledger = Ledger(member.ledger)
    columns, spent = columns_in(ledger), spent_under(plan)

    def admit(run: bytes, roster: Roster) -> None:
        # The folds of a cross-validation are runs over the same rows of the same people.
        counts = {
            name: (training, held) if plan.fold is None else (training + held, 0)
            for name, _, training, held, _ in roster
        }
        parties = tuple(
            Met(name, member.members[name].identity.hex(), *own) for name, own in counts.items() if name in plan.parties
        )
        entry = Entry(columns, plan.mode, parties, run.hex(), spent.trees, spent.leaves, split_under(plan))
        ledger.admit(entry, member.policy)

    return admit
