"""`hansa predict`: score a table with a model file."""

from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np

from hansa.cli.cores import cores
from hansa.cli.tables import open_relation, read_features
from hansa.errors import DataError, OutputError
from hansa.files import writing
from hansa.trees.xgboost_json import from_json


def predict_table(model_path: Path, table_path: Path, save: Path, margin: bool) -> str:
    """Score every row of a table; columns beyond the model's features are ignored. Returns a sentence for the terminal.

    The column is called prediction; those of a model with several outputs prediction_0, prediction_1 and so on. Categorical columns
    hold levels, where the model tells them, and codes where it does not. A level that the model does not know is of no category.

    Raises DataError naming file and column where the table lacks a feature or a numeric one holds text.
    """
    if save.suffix.lower() not in (".csv", ".parquet"):
        raise DataError(f"{save}: ends in {save.suffix!r}; expected .csv or .parquet")
    ensemble = from_json(model_path.read_bytes())
    relation = open_relation(table_path)
    missing = [name for name in ensemble.feature_names if name not in relation.columns]
    if missing:
        raise DataError(f"{table_path}: no column {missing[0]!r}, which the model {model_path} needs")
    levels = {name: own for name, own in zip(ensemble.feature_names, ensemble.categories, strict=False) if own}
    features, _ = read_features(table_path, relation, ensemble.feature_names, levels, tuple(levels))
    names = ensemble.feature_names
    unknown = sum(int((features[names.index(name)] == len(own)).sum()) for name, own in levels.items())
    scores = ensemble.predict_margin(features, cores()) if margin else ensemble.predict(features, cores())
    connection = duckdb.connect(":memory:")
    columns = {"prediction": scores}
    if ensemble.outputs > 1:
        columns = {f"prediction_{output}": np.ascontiguousarray(own) for output, own in enumerate(scores.T)}
    connection.register("scores", columns)
    result = connection.sql(f"SELECT {', '.join(columns)} FROM scores")
    with writing(save) as partial:
        try:
            if save.suffix.lower() == ".csv":
                result.write_csv(str(partial), header=True)
            else:
                result.write_parquet(str(partial))
        except duckdb.IOException as error:
            partial.with_name(f"tmp_{partial.name}").unlink(missing_ok=True)  # DuckDB's own name for it
            why = str(error).split("{")[0].strip(" :")
            raise OutputError(
                f"{save}: no space is left for it, or its device fails ({why}); free space, then start again",
                retry=True,
            ) from error
    noted = f"; {unknown} cells hold levels that the model does not know" if unknown else ""
    return f"{len(scores)} predictions written to {save}{noted}"
