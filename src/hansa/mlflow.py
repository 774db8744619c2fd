"""`hansa.log_run` and `hansa mlflow`: runs and models in MLflow, with parameters, metrics by round, signature and provenance.

MLflow sends what is logged to the tracking server that is set, and nothing of it to others: its own telemetry is turned off here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import UNSET

from hansa.consortium.model_signature import key_file
from hansa.errors import DataError, HansaError, PlanError, in_words
from hansa.files import MOST_MODEL_BYTES, read_whole, temporary
from hansa.library.fit import Run
from hansa.model import Model
from hansa.node.record import read_record
from hansa.plan import Plan

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

Points = Mapping[str, Sequence[tuple[int, float | None]]]
"""Metric -> (rounds, value)."""

NEEDED = "pip install 'hansa[mlflow]'"


def log_run(run: Run, *, name: str = "model") -> str:
    """Log a run to MLflow: into the run that is active there, or a new one, at the tracking server that is set.

    Parameters
    ----------
    run : Run
        What `fit` gave.
    name : str
        Of the logged model.

    Returns
    -------
    str
        The model's URI, for `mlflow.xgboost.load_model`.

    Raises
    ------
    HansaError
        MLflow or XGBoost is not installed.

    Examples
    --------
    >>> run = hansa.fit(parties, label="fault", rounds=20)  # doctest: +SKIP
    >>> hansa.log_run(run)  # doctest: +SKIP
    'models:/m-4b1c...'
    """
    steps = run.plan.opened_steps
    history: dict[str, list[tuple[int, float | None]]] = {}
    for metric, values in run.history.items():
        rounds = steps if len(steps) >= len(values) else range(1, len(values) + 1)
        history[f"held_out.{metric}"] = list(zip(rounds, values, strict=False))
    ends = {
        f"{member}.{kind}.{metric}": value
        for member, own in run.members.items()
        for kind, scores in (("together", own.together), ("alone", own.alone))
        for metric, value in scores.items()
    }
    return _log(run.model.to_json(), run.plan, history, ends, {}, {"exposure.txt": "\n".join(run.exposure)}, name)


def log_files(
    model: Path,
    *,
    plan: Plan | None = None,
    record: Path | None = None,
    provenance: Path | None = None,
    signature: Path | None = None,
    name: str = "model",
) -> str:
    """Log a model file and what a member has beside it; the model's URI.

    Args:
        record: a member's record, whose metrics by round are logged where it has them. provenance, signature: files that are logged as
            they are, with the model's own bytes, which they are of.

    Raises DataError, OutputError, HansaError where MLflow or XGBoost is not installed.
    """
    content = Model.load(model).to_json()
    files = {"model/" + model.name: read_whole(model, MOST_MODEL_BYTES)}
    for path in (provenance, signature, None if signature is None else key_file(signature)):
        if path is not None:
            files["model/" + path.name] = read_whole(path)
    return _log(content, plan, {} if record is None else _history(record), {}, files, {}, name)


def _history(path: Path) -> dict[str, list[tuple[int, float | None]]]:
    try:
        record = read_record(path)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: is no record of a run: {in_words(error)}; give the file that `record` names"
        ) from error
    history = getattr(record, "history", UNSET)
    if history is UNSET:
        return {}
    return {
        f"held_out.{metric}": [
            (value[0], value[1]) if isinstance(value, tuple) else (at, value) for at, value in enumerate(values, 1)
        ]
        for metric, values in history.items()
    }


def _log(
    model: bytes,
    plan: Plan | None,
    history: Points,
    ends: Mapping[str, float | None],
    files: Mapping[str, bytes],
    texts: Mapping[str, str],
    name: str,
) -> str:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when it is imported
    try:
        import mlflow
        import mlflow.xgboost
    except ImportError:
        raise HansaError(f"logging to MLflow needs mlflow-skinny and XGBoost: {NEEDED}", cure=NEEDED) from None
    made = Model(model)
    booster = made.to_xgboost()
    parent = mlflow.active_run()
    run = parent or mlflow.start_run(run_name=None if plan is None else plan.name)
    try:
        if plan is not None:
            mlflow.log_params(_params(plan))
            mlflow.set_tags({"hansa.plan": plan.digest().hex(), "hansa.mode": plan.mode})
        for metric, points in history.items():
            for at, value in points:
                if value is not None:
                    mlflow.log_metric(_plain(metric), value, step=at)
        for metric, value in ends.items():
            if value is not None:
                mlflow.log_metric(_plain(metric), value)
        for file, text in texts.items():
            mlflow.log_text(text, f"hansa/{file}")
        with temporary() as folder:
            for file, content in files.items():
                path = folder / Path(file).name
                path.write_bytes(content)
                mlflow.log_artifact(str(path), f"hansa/{Path(file).parent.as_posix()}")
        found = mlflow.xgboost.log_model(
            booster, name=name, model_format="json", signature=_inputs(made), pip_requirements=_requirements()
        )
    except Exception:
        if parent is None:
            mlflow.end_run("FAILED")
        raise
    if parent is None:
        mlflow.end_run()
    assert run is not None
    return str(found.model_uri)


def _params(plan: Plan) -> dict[str, Any]:
    """The plan's parameters, and what else says how a model was made; texts of at most 6,000 characters, as MLflow takes them."""
    own = {name.rstrip("_"): value for name, value in asdict(plan.parameters).items() if value not in (None, ())}
    made = {
        "mode": plan.mode,
        "parties": len(plan.parties),
        "label": ", ".join(plan.schema.labels),
        "features": len(plan.schema.features),
        "min_cell_rows": plan.min_cell_rows,
        "evaluation_fraction": plan.evaluation_fraction,
    }
    return {name: str(value)[:6000] for name, value in (own | made).items()}


def _plain(name: str) -> str:
    """A metric's name in the characters that MLflow takes."""
    return "".join(each if each.isalnum() or each in "_-./ :" else "_" for each in name)


def _inputs(model: Model) -> ModelSignature | None:
    """The columns that the model takes; None where some are categories, which MLflow's types do not have."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    if any(own is not None for own in model.ensemble.categories):
        return None
    columns: list[Any] = [ColSpec("float", name) for name in model.feature_names]
    return ModelSignature(inputs=Schema(columns), outputs=Schema([ColSpec("float")]))


def _requirements() -> list[str]:
    import xgboost

    return [f"xgboost-cpu=={xgboost.__version__}"]


def check_tracking(uri: str | None, experiment: str | None) -> None:
    """Set the tracking server and the experiment of what is logged from here on. Raises PlanError where MLflow refuses one."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    try:
        import mlflow
    except ImportError:
        raise HansaError(f"logging to MLflow needs mlflow-skinny: {NEEDED}", cure=NEEDED) from None
    try:
        if uri is not None:
            mlflow.set_tracking_uri(uri)
        if experiment is not None:
            mlflow.set_experiment(experiment)
    except mlflow.exceptions.MlflowException as error:
        raise PlanError(f"MLflow refused {uri or experiment!r}: {str(error).splitlines()[0]}") from error
