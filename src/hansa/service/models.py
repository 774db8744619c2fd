"""A finished run's model, from the service's folder to where a person or a program wants it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from hansa.consortium.approvals import read_proposal
from hansa.consortium.model_signature import key_file
from hansa.errors import OutputError, PlanError, in_words
from hansa.files import check_outputs, read_whole, write_whole
from hansa.service.config import SIGNATURE_FILE, ServiceFile
from hansa.service.store import ServiceRun
from hansa.trees.xgboost_json import MOST_BYTES


class Fetched(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was fetched: the run, the model's file and its SHA-256."""

    run: str
    model: str
    sha256: str


def fetch(
    service: ServiceFile, run: ServiceRun, save: Path, provenance: Path | None = None, signature: Path | None = None
) -> Fetched:
    """Copy a run's model, and its statement of provenance and its OpenSSF signature with the key where they are asked for.

    Raises PlanError where the run is not finished or not signed, or this member no receiver; OutputError where the model
    is not the run's any more.
    """
    if run.state != "finished":
        raise PlanError(f"run {run.run} has no model: it is {run.state} ({run.text})")
    folder, consortium = service.runs / run.folder, service.consortium(run.consortium)
    plan = read_proposal(folder / "plan.json", consortium.members, past=True).plan
    name = consortium.identity.name
    if name not in plan.receivers:
        raise PlanError(
            f"run {run.run}: the plan gives its model to {', '.join(plan.receivers)}, and not to {name!r}; a new plan must name it",
            rule="only receivers get the model",
        )
    check_outputs({"--save": save, "--provenance": provenance, "--signature": signature}, {})
    signed = folder / SIGNATURE_FILE
    if signature is not None and not signed.is_file():
        raise PlanError(
            f"run {run.run}: this service did not sign its model; write model_signatures = true into {service.path} before the next "
            "run, or leave --signature out",
            cure="write model_signatures = true into the service's file",
        )
    content = checked_model(folder / "model.json", run)
    write_whole(save, content)
    if provenance is not None:
        write_whole(provenance, read_whole(folder / "provenance.json"), private=False)
    if signature is not None:
        write_whole(signature, read_whole(signed), private=False)
        write_whole(key_file(signature), read_whole(key_file(signed)), private=False)
    return Fetched(run=run.run, model=str(save), sha256=run.model_sha256)


def checked_model(path: Path, run: ServiceRun) -> bytes:
    """The bytes of a run's model. Raises OutputError where they cannot be read, or are not what the run gave."""
    try:
        content = read_whole(path, MOST_BYTES)
    except (OSError, ValueError) as error:
        raise OutputError(f"{path}: the model cannot be read: {in_words(error)}") from error
    if hashlib.sha256(content).hexdigest() != run.model_sha256:
        raise OutputError(f"{path}: is not the model of run {run.run} any more; restore it from a back-up")
    return content
