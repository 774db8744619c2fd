"""Models that this member received: what training said of them, what they are on this member's own rows, their files, and two compared.

Of rows only sums are shown, and only to this member's own people.
"""

from __future__ import annotations

import functools
import math
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from hansa.console.actions import Offered
from hansa.console.member import LEAST_ROWS, PAGE_ROWS, Asked, Member, NotThere, Paging, first_row, shown_run
from hansa.console.runs import curves_of, run_of, shap_of
from hansa.consortium.approvals import read_proposal
from hansa.consortium.model_signature import key_file
from hansa.consortium.provenance import verify_model
from hansa.errors import HansaError
from hansa.files import read_whole
from hansa.plan import Plan
from hansa.prediction import read_model
from hansa.service.config import SIGNATURE_FILE
from hansa.service.models import checked_model
from hansa.service.store import ServiceRun
from hansa.simulation.evaluation import (
    CalibrationBin,
    Comparison,
    Evaluation,
    Question,
    compare_models,
    evaluate_model,
    model_views,
    question_of,
)
from hansa.simulation.own_model import advice_of, compare_with_own
from hansa.views.chart import View

MOST_TABLE_BYTES = 2**29
"""Of a table that a page is made of; larger ones are for the command line."""

MOST_TRAINED_BYTES = 2**26
"""Of a table that a page trains a model of."""

THRESHOLDS = tuple(percent / 100 for percent in (5, 10, 20, 30, 40, 50, 60, 70, 80, 90))
"""That a page offers."""


class ModelsView(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A page of the runs that gave this member a model, the newest first."""

    runs: tuple[ServiceRun, ...]
    paging: Paging


class ModelView(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One model.

    Attributes:
        run: that gave it. objective, rounds, outputs, features: of the model. parties, receivers: of the plan.
        provenance: what the member's signed statement says, line by line; empty where there is none, or where it does not hold.
        fault: why the statement does not hold; empty where it does, or where there is none.
        signed: whether the model's OpenSSF signature is here; what `provenance` says then holds of it too.
        own_rows: whether this member has a table to hold the model to. held_out: whether the plan held rows
            out. others: runs with models of the same kind, to compare.
        views: learning curves, importance, and the plan's summary of SHAP values.
    """

    run: ServiceRun
    objective: str
    rounds: int
    outputs: int
    features: tuple[str, ...]
    parties: tuple[str, ...]
    receivers: tuple[str, ...]
    provenance: tuple[str, ...]
    fault: str
    signed: bool
    own_rows: bool
    held_out: bool
    others: tuple[ServiceRun, ...]
    views: tuple[View, ...]


class ModelOnRows(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One model on this member's own rows.

    Attributes:
        run: that gave it. found: what it is there. facts: the same in a sentence. thresholds: others to choose. views: part by part.
    """

    run: ServiceRun
    found: Evaluation
    facts: str
    thresholds: tuple[float, ...]
    views: tuple[View, ...]


class ModelsCompared(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Two models on this member's own rows: those of `run` and of `against`, which is the second."""

    run: ServiceRun
    against: ServiceRun
    found: Comparison
    facts: str
    views: tuple[View, ...]


class ModelAndOwn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The common model of `run`, and one that is trained on this member's own rows only. advice: where that one is better."""

    run: ServiceRun
    found: Comparison
    facts: str
    advice: str
    views: tuple[View, ...]


def models(member: Member, asked: Asked) -> ModelsView:
    """A page of the list."""
    paging = asked.paging(member.store.count(models=True))
    found = member.store.page(first_row(paging), PAGE_ROWS, models=True)
    return ModelsView(runs=tuple(map(shown_run, found)), paging=paging)


def model(member: Member, asked: Asked) -> ModelView:
    """One model, and what training said of it. Raises NotThere, OutputError where its file was changed."""
    run, path = _model_of(member, asked.get("run"))
    ensemble, plan = read_model(path), _plan_of(member, run)
    provenance, fault = _provenance(member, run, path)
    others = (each for each in member.store.page(0, PAGE_ROWS, models=True) if each.run != run.run)
    return ModelView(
        run=run,
        objective=ensemble.objective,
        rounds=ensemble.rounds,
        outputs=ensemble.outputs,
        features=ensemble.feature_names,
        parties=plan.parties,
        receivers=plan.receivers,
        provenance=provenance,
        fault=fault,
        signed=path.with_name(SIGNATURE_FILE).is_file(),
        own_rows=_table_of(member, plan) is not None,
        held_out=plan.evaluation_fraction > 0,
        others=tuple(map(shown_run, others)),
        views=(*curves_of(member, run), *model_views(ensemble), *shap_of(member, run)),
    )


def on_rows(member: Member, asked: Asked) -> ModelOnRows:
    """One model on this member's own held-out rows. Raises NotThere, DataError where the table does not fit."""
    run, path = _model_of(member, asked.get("run"))
    plan, table = _rows_of(member, run)
    threshold = _threshold(asked.get("threshold"))
    found = without_single_rows(_evaluated(Stamp.of(path), Stamp.of(table), _question(plan, threshold)))
    return ModelOnRows(run=run, found=found, facts=_facts(found), thresholds=THRESHOLDS, views=found.views())


def compared(member: Member, asked: Asked) -> ModelsCompared:
    """Two models on this member's own rows: those that the plan of the first held out. Raises as `on_rows`."""
    run, path = _model_of(member, asked.get("run"))
    against, other = _model_of(member, asked.get("against"))
    plan, table = _rows_of(member, run)
    found = _both(_compared(Stamp.of(path), Stamp.of(other), Stamp.of(table), _question(plan, 0.5)))
    return ModelsCompared(run=run, against=against, found=found, facts=found.facts(), views=found.views())


def alone(member: Member, asked: Asked) -> ModelAndOwn:
    """One model beside one of this member's own rows only, which is trained here, one at a time. Raises NotThere, HansaError."""
    run, path = _model_of(member, asked.get("run"))
    plan, table = _rows_of(member, run, MOST_TRAINED_BYTES)
    if not plan.evaluation_fraction:
        raise NotThere(f"plan {plan.name!r} held no rows out to compare on")
    known = Stamp.of(path), Stamp.of(table), _question(plan, 0.5)
    if not _training.acquire(blocking=False):
        raise NotThere("a model of own rows is being trained here; load this page again when that one is there")
    try:
        found = _both(_beside_own(*known))
    finally:
        _training.release()
    return ModelAndOwn(run=run, found=found, facts=found.facts(), advice=advice_of(found), views=found.views())


def model_file(member: Member, asked: Asked) -> Offered:
    """The model, as XGBoost reads it."""
    run, path = _model_of(member, asked.get("run"))
    return Offered(name=f"model-{run.run}.json", kind="application/json", content=checked_model(path, run))


def provenance_file(member: Member, asked: Asked) -> Offered:
    """The statement on where the model comes from, which this member signed."""
    run, path = _model_of(member, asked.get("run"))
    statement = path.with_name("provenance.json")
    if not statement.is_file():
        raise NotThere(f"run {run.run} has no statement of provenance at this member")
    return Offered(name=f"provenance-{run.run}.json", kind="application/json", content=read_whole(statement))


def signature_file(member: Member, asked: Asked) -> Offered:
    """The model's OpenSSF signature."""
    run, path = _model_of(member, asked.get("run"))
    return _beside(run, path.with_name(SIGNATURE_FILE), f"model-{run.run}.sig", "application/json")


def signature_key(member: Member, asked: Asked) -> Offered:
    """The public key of that signature, which the statement of provenance names."""
    run, path = _model_of(member, asked.get("run"))
    return _beside(run, key_file(path.with_name(SIGNATURE_FILE)), f"model-{run.run}.sig.pem", "application/x-pem-file")


def _beside(run: ServiceRun, path: Path, name: str, kind: str) -> Offered:
    """A file beside a run's model. Raises NotThere."""
    if not path.is_file():
        raise NotThere(f"run {run.run} has no signed model at this member")
    return Offered(name=name, kind=kind, content=read_whole(path))


# What they are made of


class Stamp(msgspec.Struct, frozen=True):
    """A file as it is now: what was found of it counts until it changes."""

    path: str
    bytes: int
    changed: int

    @classmethod
    def of(cls, path: Path) -> Stamp:
        """That of a file. Raises NotThere."""
        try:
            now = path.stat()
        except OSError:
            raise NotThere(f"{path.name} is not there any more") from None
        return cls(str(path), now.st_size, now.st_mtime_ns)


@dataclass(frozen=True)
class _Known:
    """A question that is told apart by its plan's digest and its threshold."""

    plan: bytes
    threshold: float
    question: Question = field(compare=False)


@functools.lru_cache(maxsize=16)
def _evaluated(model: Stamp, table: Stamp, known: _Known) -> Evaluation:
    return evaluate_model(read_model(Path(model.path)), table.path, known.question)


@functools.lru_cache(maxsize=16)
def _compared(first: Stamp, second: Stamp, table: Stamp, known: _Known) -> Comparison:
    models = read_model(Path(first.path)), read_model(Path(second.path))
    return compare_models(*models, (table.path, table.path), known.question)


_training = threading.Lock()
"""Held while a model of own rows is trained: one at a time."""


@functools.lru_cache(maxsize=16)
def _beside_own(model: Stamp, table: Stamp, known: _Known) -> Comparison:
    return compare_with_own(read_model(Path(model.path)), Path(table.path), known.question)


def _model_of(member: Member, name: str) -> tuple[ServiceRun, Path]:
    """A run and its model's file, which is what the run gave. Raises NotThere, OutputError."""
    run = run_of(member, name)
    if not run.model_sha256:
        raise NotThere(f"run {run.run} gave this member no model: it is {run.state}")
    path = member.service.runs / run.folder / "model.json"
    checked_model(path, run)
    return run, path


def _plan_of(member: Member, run: ServiceRun) -> Plan:
    consortium = member.service.consortium(run.consortium)
    return read_proposal(member.service.runs / run.folder / "plan.json", consortium.members, past=True).plan


def _provenance(member: Member, run: ServiceRun, path: Path) -> tuple[tuple[str, ...], str]:
    """What the member's own statement says, and why it does not hold."""
    statement = path.with_name("provenance.json")
    if not statement.is_file():
        return (), ""
    try:
        signature = path.with_name(SIGNATURE_FILE)
        members = member.service.consortium(run.consortium).members
        found = verify_model(path, [statement], members, signature if signature.is_file() else None)
    except HansaError as error:
        return (), str(error)
    return tuple(found.lines()), ""


def _table_of(member: Member, plan: Plan) -> Path | None:
    """This member's table for a plan; None where it has none that is a file."""
    source = member.service.source_of(plan)
    if source is None or source.table is None or member.name not in plan.parties:
        return None
    return member.service.path.parent.absolute() / source.table


def _rows_of(member: Member, run: ServiceRun, most: int = MOST_TABLE_BYTES) -> tuple[Plan, Path]:
    plan = _plan_of(member, run)
    table = _table_of(member, plan)
    if table is None:
        raise NotThere(f"this member has no table that is a file for plan {plan.name!r}; use `hansa evaluate`")
    if not table.is_file() or table.stat().st_size > most:
        raise NotThere(f"{table.name} is no single file of at most {most:,} bytes; use `hansa evaluate`")
    return plan, table


def _question(plan: Plan, threshold: float) -> _Known:
    """Rows that the plan held out, or all where it held none out."""
    asked = question_of((), None, plan, decimal=".", base_margin=(), threshold=threshold, bins=10)
    return _Known(plan.digest(), threshold, asked if plan.evaluation_fraction else replace(asked, plan=None))


def _threshold(text: str) -> float:
    """The nearest one that a page offers: between two that are close to each other there may be a single row."""
    try:
        asked = float(text or "0.5")
    except ValueError:
        asked = math.nan
    return 0.5 if math.isnan(asked) else min(THRESHOLDS, key=lambda own: abs(own - asked))


def without_single_rows(found: Evaluation) -> Evaluation:
    """What a model is on rows, without what a part of the calibration with fewer than `LEAST_ROWS` rows has: who can compute a row's
    prediction would read its label there."""

    def shown(own: CalibrationBin) -> CalibrationBin:
        return own if own.rows >= LEAST_ROWS else msgspec.structs.replace(own, predicted=None, found=None)

    replaced = msgspec.structs.replace
    parts = (replaced(each, bins=tuple(map(shown, each.bins))) for each in found.calibration)
    return replaced(found, calibration=tuple(parts))


def _both(found: Comparison) -> Comparison:
    first, second = map(without_single_rows, (found.first, found.second))
    return msgspec.structs.replace(found, first=first, second=second)


def _facts(found: Evaluation) -> str:
    trained = "" if found.held_out else ". The plan held no rows out: the model was trained on these, which flatters it"
    return found.facts() + trained
