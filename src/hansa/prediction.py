"""`hansa predict`: score a table with a model file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from hansa.data.coding import read_coded, read_texts, unknown_texts
from hansa.data.files import open_table, quoted, writing_table
from hansa.data.query import Source
from hansa.errors import DataError
from hansa.files import read_whole, writing
from hansa.node.cores import cores
from hansa.trees.ensemble import Ensemble, Unseen
from hansa.trees.xgboost_json import MOST_BYTES, from_model_file


def read_model(path: Path) -> Ensemble:
    """The model in a file, JSON or UBJSON. Raises DataError naming the file, and the field that is wrong or not supported."""
    try:
        content = read_whole(path, MOST_BYTES)
    except ValueError as error:
        raise DataError(f"{path}: {error}; expected a model") from error
    try:
        return from_model_file(content)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def predict_table(
    model_path: Path,
    source: Source,
    save: Path,
    margin: bool,
    decimal: str = ".",
    keep: Sequence[str] = (),
    base_margin: Sequence[str] = (),
    unseen: Unseen | None = None,
) -> tuple[str, list[str]]:
    """Score every row of a table; columns beyond the model's features are ignored. Returns a sentence for the terminal, and warnings.

    The columns of the table that `keep` names come first, as they are. That of scores is called prediction; those of a model with
    several outputs prediction_0, prediction_1 and so on, of several labels prediction_NAME. Categorical columns hold levels, where the
    model tells them, and codes where it does not. A level that the model does not know is refused where the model's plan said so, and
    else of no category.

    Args:
        source: where the rows are; a query is made once, so that cells that are kept and predictions are of the same rows.
        base_margin: columns where rows start in place of the model's base score, one for each output; none for the base score.
        unseen: what becomes of levels that the model does not know, in place of what its plan said.

    Raises DataError naming file and column where the table lacks a feature or a numeric one holds text.
    """
    if save.suffix.lower() not in (".csv", ".parquet"):
        raise DataError(f"{save}: ends in {save.suffix!r}; expected .csv or .parquet")
    ensemble = read_model(model_path)
    if base_margin and len(base_margin) != ensemble.outputs:
        raise DataError(
            f"{len(base_margin)} columns of base margins; expected one for each of the model's {ensemble.outputs} outputs "
            f"({model_path})"
        )
    outputs = ensemble.reading.labels or range(ensemble.outputs)
    names = [f"prediction_{output}" for output in outputs] if ensemble.outputs > 1 else ["prediction"]
    levels = {name: own for name, own in zip(ensemble.feature_names, ensemble.categories, strict=False) if own}
    with open_table(source) as table:
        for name in keep:
            if name in names:
                raise DataError(
                    f"{table.file}: column {name!r} is to be kept beside predictions of this name; rename it"
                )
        kept = read_texts(table, keep)
        read = read_coded(
            table,
            ensemble.feature_names,
            known=levels,
            base_margin=base_margin,
            needs=f"which the model {model_path} needs",
            decimal=decimal,
            dates=dict(ensemble.reading.dates),
            unseen=unseen or ensemble.reading.unseen,
            other=ensemble.reading.other,
        )
    features = read.features
    given = features, cores(), read.base_margin
    scores = ensemble.predict_margin(*given) if margin else ensemble.predict(*given)
    each = scores.T if ensemble.outputs > 1 else scores[np.newaxis]
    columns = {name: np.ascontiguousarray(own) for name, own in zip(names, each, strict=True)}
    kind: Literal["csv", "parquet"] = "csv" if save.suffix.lower() == ".csv" else "parquet"
    texts = {f"k{place}": values for place, (values, _) in enumerate(kept.values())}
    chosen = [f"CAST(k{place} AS {kind}) AS {quoted(name)}" for place, (name, (_, kind)) in enumerate(kept.items())]
    with writing(save) as partial, writing_table(partial, kind) as (connection, write):
        arrays = {f"p{place}": own for place, own in enumerate(columns.values())}
        connection.register("scores", {**texts, **arrays})
        chosen += [f"{place} AS {quoted(name)}" for place, name in zip(arrays, columns, strict=True)]
        write(f"SELECT {', '.join(chosen)} FROM scores")
    unknown = sum(read.unknown.values())
    noted = f"; {unknown} cells hold levels that the model does not know" if unknown else ""
    return f"{len(scores)} predictions written to {save}{noted}", [*read.warnings, *unknown_texts(read)]
