"""`hansa predict`: a table scored with a model file, the same as XGBoost scores it."""

from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from made_consortium import assert_refused, cells, hansa, write_table

xgboost = pytest.importorskip("xgboost")

FEATURES = ["load", "rsrp", "alarms"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A model that XGBoost itself made, and a table with missing values and a column that it does not use."""
    folder = tmp_path_factory.mktemp("predict")
    columns = cells(300, 2)
    matrix = xgboost.DMatrix(np.stack([columns[n] for n in FEATURES], 1), columns["fault"], feature_names=FEATURES)
    options = {"objective": "binary:logistic", "max_depth": 3, "nthread": 1}
    booster = xgboost.train(options, matrix, 5)
    for name in ("model.json", "model.ubj", "model"):
        booster.save_model(folder / name)
    fresh = cells(120, 3)
    write_table(folder / "cells.csv", {"site": np.arange(120), **{n: fresh[n] for n in reversed(FEATURES)}})
    return folder


def expected(folder: Path, margin: bool) -> np.ndarray:
    fresh = cells(120, 3)
    matrix = xgboost.DMatrix(np.stack([fresh[n] for n in FEATURES], 1), feature_names=FEATURES)
    return xgboost.Booster(model_file=str(folder / "model.json")).predict(matrix, output_margin=margin)


@pytest.mark.parametrize("model", ["model.json", "model.ubj", "model"])
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("margin", [False, True])
def test_predictions_are_xgboosts(folder, tmp_path, suffix, margin, model):
    out = tmp_path / f"predictions{suffix}"
    options = ["--margin"] if margin else []
    result = hansa("predict", folder / model, folder / "cells.csv", "--save", out, *options)
    assert result.exit_code == 0, result.output
    assert "120 predictions written to" in result.stdout
    written = duckdb.sql(f"SELECT prediction FROM '{out}'").fetchnumpy()["prediction"]
    np.testing.assert_allclose(written, expected(folder, margin), rtol=0, atol=1e-6)


def test_rows_of_a_members_own_query_are_scored_as_it_gives_them(folder, tmp_path):
    """The same rows in the order of the query, which is made once: an id that is kept stays beside its prediction."""
    own, out, plain = tmp_path / "own.toml", tmp_path / "own.csv", tmp_path / "plain.csv"
    own.write_text(
        f"""[source]
files = {{ cells = "{folder / "cells.csv"}" }}
query = "SELECT site, load::DOUBLE AS load, rsrp, alarms FROM cells ORDER BY hash(site)"
"""
    )
    scored = hansa("predict", folder / "model.json", "--member", own, "--keep", "site", "--save", out)
    assert scored.exit_code == 0, scored.output
    assert (
        hansa("predict", folder / "model.json", folder / "cells.csv", "--keep", "site", "--save", plain).exit_code == 0
    )
    first, second = (sorted(path.read_text().splitlines()) for path in (out, plain))
    assert first == second
    assert out.read_text() != plain.read_text()
    for given in ((), (folder / "cells.csv", "--member", own)):
        made = hansa("predict", folder / "model.json", *given, "--save", out)
        assert (made.exit_code, "give TABLE, or --member" in made.stderr) == (2, True)
    (tmp_path / "hub.toml").write_text('hub = "127.0.0.1:1"\n')
    refused = hansa("predict", folder / "model.json", "--member", tmp_path / "hub.toml", "--save", out)
    assert_refused(refused, "table is missing")


@pytest.mark.parametrize("margin", [False, True])
def test_several_outputs_are_a_column_each(folder, tmp_path, margin):
    columns, out = cells(300, 2), tmp_path / "predictions.csv"
    labels = np.digitize(columns["load"], np.quantile(columns["load"], [0.3, 0.8]))[:, None] == np.arange(3)
    matrix = xgboost.DMatrix(np.stack([columns[n] for n in FEATURES], 1), labels, feature_names=FEATURES)
    booster = xgboost.train({"objective": "binary:logistic", "max_depth": 3, "nthread": 1}, matrix, 4)
    booster.save_model(tmp_path / "classes.json")
    result = hansa("predict", tmp_path / "classes.json", folder / "cells.csv", "--save", out, *["--margin"] * margin)
    assert result.exit_code == 0, result.output
    assert "120 predictions written to" in result.stdout
    relation = duckdb.read_csv(str(out))
    assert relation.columns == ["prediction_0", "prediction_1", "prediction_2"]
    written = np.stack([relation.fetchnumpy()[name] for name in relation.columns], axis=1)
    fresh = cells(120, 3)
    rows = xgboost.DMatrix(np.stack([fresh[n] for n in FEATURES], 1), feature_names=FEATURES)
    np.testing.assert_allclose(written, booster.predict(rows, output_margin=margin), rtol=0, atol=1e-6)


def test_a_parquet_table_gives_the_same(folder, tmp_path):
    duckdb.sql(f"SELECT * FROM '{folder / 'cells.csv'}'").write_parquet(str(tmp_path / "cells.parquet"))
    outs = []
    for table in (folder / "cells.csv", tmp_path / "cells.parquet"):
        outs.append(tmp_path / f"{table.suffix[1:]}.csv")
        assert hansa("predict", folder / "model.json", table, "--save", outs[-1]).exit_code == 0
    assert outs[0].read_text() == outs[1].read_text()


def test_a_missing_column_is_named(folder, tmp_path):
    table = write_table(tmp_path / "less.csv", {"load": [1.0], "alarms": [0]})
    result = hansa("predict", folder / "model.json", table, "--save", tmp_path / "out.csv")
    assert_refused(result, "less.csv", "no column 'rsrp'", "model.json")
    assert not (tmp_path / "out.csv").exists()


def test_text_where_a_number_belongs_is_named(folder, tmp_path):
    table = write_table(tmp_path / "text.csv", {"load": ["high"], "rsrp": [-90], "alarms": [0]})
    result = hansa("predict", folder / "model.json", table, "--save", tmp_path / "out.csv")
    assert_refused(result, "text.csv", "row 1", "'load'", "found 'high'")


def test_another_kind_of_output_is_refused(folder, tmp_path):
    result = hansa("predict", folder / "model.json", folder / "cells.csv", "--save", tmp_path / "out.xlsx")
    assert_refused(result, "'.xlsx'", "expected .csv or .parquet")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"learner": 1}', "{L", "binf\0\0", "\x80"])
def test_what_is_no_model_is_refused(folder, tmp_path, text):
    model = tmp_path / "broken.json"
    model.write_text(text)
    result = hansa("predict", model, folder / "cells.csv", "--save", tmp_path / "out.csv")
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit), repr(result.exception)
    assert result.stderr.startswith(f"hansa: {model}: XGBoost model: ")


@pytest.mark.parametrize("name", ["frame.json", "frame.ubj"])
def test_a_model_of_a_data_frame_scores_the_texts_that_it_was_trained_on(tmp_path, name):
    pandas = pytest.importorskip("pandas")
    rng = np.random.default_rng(1)
    vendors, sites = np.array(["nokia", "ericsson", "other"]), np.array([101, 7, 40])
    columns = {
        "vendor": vendors[rng.integers(0, 3, 200)],
        "load": rng.random(200),
        "site": sites[rng.integers(0, 3, 200)],
    }
    frame = pandas.DataFrame(columns)
    frame["vendor"] = pandas.Categorical(frame["vendor"], categories=vendors)
    frame["site"] = pandas.Categorical(frame["site"], categories=sites)
    label = (columns["vendor"] == "nokia") | (columns["site"] == 7) & (columns["load"] > 0.5)
    matrix = xgboost.DMatrix(frame, label, enable_categorical=True)
    booster = xgboost.train({"objective": "binary:logistic", "max_cat_to_onehot": 9, "nthread": 1}, matrix, 4)
    booster.save_model(tmp_path / name)
    table, out = write_table(tmp_path / "t.csv", columns), tmp_path / "out.csv"
    result = hansa("predict", tmp_path / name, table, "--save", out)
    assert result.exit_code == 0, result.output
    written = duckdb.read_csv(str(out)).fetchnumpy()["prediction"]
    np.testing.assert_allclose(written, booster.predict(matrix), rtol=0, atol=1e-6)


def test_a_folder_and_a_pattern_score_as_one_file_does_and_take_no_output(folder, tmp_path):
    parts = tmp_path / "parts"
    parts.mkdir()
    for place, rows in enumerate(("LIMIT 50", "LIMIT 70 OFFSET 50")):
        duckdb.sql(f"COPY (SELECT * FROM '{folder / 'cells.csv'}' {rows}) TO '{parts / f'{place}.parquet'}'")
    one, other = tmp_path / "one.csv", tmp_path / "other.csv"
    assert hansa("predict", folder / "model.json", folder / "cells.csv", "--save", one).exit_code == 0
    for table in (parts, parts / "*.parquet", f"{parts}/[01].p*"):
        result = hansa("predict", folder / "model.json", table, "--save", other)
        assert result.exit_code == 0, result.output
        assert other.read_bytes() == one.read_bytes()
        within = hansa("predict", folder / "model.json", table, "--save", parts / "1.parquet")
        assert_refused(within, "--save", "lies among the files of TABLE")
    assert_refused(hansa("predict", folder / "model.json", parts / "x*", "--save", other), "no file that this pattern")


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_kept_columns_come_before_the_predictions_with_the_cells_and_types_that_they_had(folder, tmp_path, suffix):
    fresh, out = cells(120, 3), tmp_path / f"out{suffix}"
    columns = {n: fresh[n] for n in FEATURES}
    names = [None if i == 5 else f'cell "{i}", x' for i in range(120)]
    numbers = pa.array([None if i == 7 else 2**60 + i for i in range(120)], pa.int64())
    table = pa.table({"id": numbers, **columns, "the name": pa.array(names)})
    pq.write_table(table, tmp_path / "t.parquet")
    result = hansa(
        "predict", folder / "model.json", tmp_path / "t.parquet", "--save", out, "--keep", "id", "--keep", "the name"
    )
    assert result.exit_code == 0, result.output
    written = duckdb.sql(f"SELECT * FROM '{out}'")
    assert written.columns == ["id", "the name", "prediction"]
    assert [str(kind) for kind in written.types[:2]] == ["BIGINT", "VARCHAR"]
    found = written.fetchall()
    assert [row[:2] for row in found] == list(zip(numbers.to_pylist(), names, strict=True))
    np.testing.assert_allclose([row[2] for row in found], expected(folder, False), rtol=0, atol=1e-6)


def test_a_column_that_cannot_be_kept_is_refused_by_name(folder, tmp_path):
    out = tmp_path / "out.csv"
    assert_refused(
        hansa("predict", folder / "model.json", folder / "cells.csv", "--save", out, "--keep", "none"),
        "no column 'none', which is to be kept; found 'site'",
    )
    table = tmp_path / "t.csv"
    table.write_text("prediction," + (folder / "cells.csv").read_text().partition(",")[2])
    assert_refused(
        hansa("predict", folder / "model.json", table, "--save", out, "--keep", "prediction"),
        "column 'prediction' is to be kept beside predictions of this name; rename it",
    )
    assert not out.exists()


def test_rows_start_at_their_base_margins(tmp_path):
    rng = np.random.default_rng(3)
    table = pd.DataFrame({"a": rng.normal(size=60).astype(np.float32), "start": rng.normal(size=60).astype(np.float32)})
    table.to_csv(tmp_path / "t.csv", index=False)
    matrix = xgboost.DMatrix(table[["a"]], rng.integers(0, 2, 60), base_margin=table["start"])
    booster = xgboost.train({"objective": "binary:logistic"}, matrix, 3)
    booster.save_model(tmp_path / "m.json")
    out = tmp_path / "scores.csv"
    result = hansa("predict", tmp_path / "m.json", tmp_path / "t.csv", "--save", out, "--base-margin", "start")
    assert result.exit_code == 0, result.output
    np.testing.assert_allclose(pd.read_csv(out)["prediction"], booster.predict(matrix), atol=1e-6)
    two = hansa(
        "predict",
        tmp_path / "m.json",
        tmp_path / "t.csv",
        "--save",
        out,
        "--base-margin",
        "start",
        "--base-margin",
        "a",
    )
    assert two.exit_code != 0
    assert "2 columns of base margins; expected one for each of the model's 1 outputs" in two.stderr
