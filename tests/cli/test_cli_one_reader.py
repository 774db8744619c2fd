"""Every command reads a table by the same code: what one of them takes or refuses, all of them take or refuse."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import Result

from hansa import errors
from hansa.plan import parse_plan
from hansa.trees.xgboost_json import from_json
from made_consortium import hansa

SOURCE = Path(errors.__file__).parent

PLAN = """
mode = "federated"

[members]
aggregator = "hub"
parties = ["a", "b", "c"]

[schema]
features = FEATURES
label = "y"
"""


def write(path: Path, header: str, cells: list[str], rest: str = "") -> Path:
    """A table of one feature, a label and a party column; every other row has label 1."""
    rows = [f"{cell}{rest},{row % 2},{'abc'[row % 3]}" for row, cell in enumerate(cells * (24 // len(cells) + 1))]
    path.write_text("\n".join([f"{header},y,op", *rows]) + "\n")
    return path


def simulate(path: Path, *options: str | Path) -> Result:
    return hansa(
        "simulate", path, "--label", "y", "--party-column", "op", "--in-process", "--rounds", "2", "--min-cell-rows", "2", "--json",
        *options,
    )  # fmt: skip


def check(path: Path, features: str) -> Result:
    """`hansa check` of the same table without its party column."""
    plan = path.with_suffix(".toml")
    plan.write_text(PLAN.replace("FEATURES", features))
    lines = [line.rsplit(",", 1)[0] for line in path.read_text().splitlines()]
    table = path.with_name(f"own-{path.name}")
    table.write_text("\n".join(lines) + "\n")
    return hansa("check", plan, table)


def test_no_other_module_opens_a_table():
    """DuckDB and pyarrow are imported where files are opened and databases asked; commands get at tables through `open_table`."""
    importers = set()
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.split(".")[0] in ("duckdb", "pyarrow") for name in names):
                importers.add(str(path.relative_to(SOURCE)))
    assert importers == {"data/files.py", "data/database.py"}


def test_a_label_of_texts_is_simulated_by_its_classes(tmp_path):
    table = write(tmp_path / "t.csv", "a", [str(row) for row in range(24)])
    named = tmp_path / "named.csv"
    named.write_text(table.read_text().replace(",0,", ",no,").replace(",1,", ",yes,"))
    numbers = simulate(table)
    texts = simulate(named, "--classes", "no,yes")
    assert texts.exit_code == 0, texts.output
    assert json.loads(texts.stdout)["metrics"] == json.loads(numbers.stdout)["metrics"]
    assert "expected one of the 2 classes 'no', 'maybe'" in simulate(named, "--classes", "no,maybe").stderr
    assert "schema.classes names 3 classes" in simulate(named, "--classes", "no,yes,perhaps").stderr


TRAPS = {
    "thousands": (['"1,234.50"', "7", "8"], "row 1", "a number with thousands separators"),
    "a column of decimal commas": (['"1,5"', '"2,5"'], "row 1", "a decimal comma"),
    "dates": (["31.01.2026", "01.02.2026"], "row 1", "a date or time"),
    "percent": (["5", "6%"], "row 2", "a percent sign"),
    "hex": (["1", "0x10"], "row 2", "a number that is not decimal"),
    "underscores": (["1", "1_000"], "row 2", "a number with underscores"),
    "infinite": (["1", "inf"], "row 2", "a finite number"),
    "beyond float32": (["1", "1e39"], "row 2", "a number beyond float32"),
}


@pytest.mark.parametrize("trap", TRAPS)
def test_what_one_command_refuses_all_refuse_with_the_same_words(tmp_path, trap):
    cells, row, words = TRAPS[trap]
    good = write(tmp_path / "good.csv", "x", ["1", "2", "3"])
    assert simulate(good, "--save", tmp_path / "model.json").exit_code == 0
    bad = write(tmp_path / "bad.csv", "x", cells)
    for result in (
        simulate(bad),
        simulate(good, "--test", bad),
        hansa("predict", tmp_path / "model.json", bad, "--save", tmp_path / "out.csv"),
        check(bad, '["x"]'),
    ):
        assert result.exit_code == 1, result.output
        text = result.stdout + result.stderr
        for part in (row, "column 'x'", words):
            assert part in text, text
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (["true", "FALSE", "NA"], [1, 0, None]),
        ([" 1 ", "+2", "1e1"], [1, 2, 10]),
        (["NaN", "null", "3"], [None, None, 3]),
    ],
)
def test_what_one_command_takes_all_take_with_the_same_meaning(tmp_path, cells, values):
    path = write(tmp_path / "t.csv", "x", cells)
    numbers = write(tmp_path / "n.csv", "x", ["" if value is None else str(value) for value in values])
    models = []
    for table in (path, numbers):
        result = simulate(table, "--save", tmp_path / "model.json")
        assert result.exit_code == 0, result.output
        assert hansa("predict", tmp_path / "model.json", table, "--save", table.with_suffix(".out.csv")).exit_code == 0
        assert check(table, '["x"]').exit_code == 0
        models.append((tmp_path / "model.json").read_bytes())
    assert models[0] == models[1]
    assert path.with_suffix(".out.csv").read_bytes() == numbers.with_suffix(".out.csv").read_bytes()


@pytest.mark.parametrize(
    ("header", "named"), [("x,x", "column 'x': expected one column of this name"), ("a[0],b", "XGBoost takes no")]
)
def test_repeated_names_and_those_that_xgboost_refuses_are_refused(tmp_path, header, named):
    path = write(tmp_path / "t.csv", header, ["1", "2", "3"], ",5")
    result = simulate(path)
    assert result.exit_code == 1
    assert named in result.stderr
    own = check(path, json.dumps(sorted(set(header.split(",")))))
    assert own.exit_code == 1
    assert named in own.stdout + own.stderr


def test_names_that_are_numbers_or_differ_by_case_stay_what_they_are(tmp_path):
    for header, names in (("0,1", ("0", "1")), ("RSRP,rsrp", ("RSRP", "rsrp"))):
        path = write(tmp_path / "t.csv", header, ["1", "2", "3", "4"], ",5")
        assert simulate(path, "--save", tmp_path / "model.json").exit_code == 0
        assert from_json((tmp_path / "model.json").read_bytes()).feature_names == names
        assert hansa("predict", tmp_path / "model.json", path, "--save", tmp_path / "out.csv").exit_code == 0
        assert check(path, json.dumps(names)).exit_code == 0


@pytest.mark.parametrize("mode", ["federated", "coopetitive"])
def test_texts_are_categories_that_xgboost_keeps_and_scores(tmp_path, mode):
    xgboost = pytest.importorskip("xgboost")
    path = write(tmp_path / "t.csv", "x", ["south", "north", "east", "south"])
    result = simulate(path, "--mode", mode, "--save", tmp_path / "model.json")
    assert result.exit_code == 0, result.output
    assert "column" not in result.stderr
    assert json.loads(result.stdout)["categories"] == {"x": 3}
    booster = xgboost.Booster(model_file=str(tmp_path / "model.json"))
    booster.save_model(tmp_path / "again.json")
    ensemble = from_json((tmp_path / "again.json").read_bytes())
    assert ensemble.categories == (("east", "north", "south"),)
    other = write(tmp_path / "new.csv", "x", ["east", "north", "south", "west"])
    out = tmp_path / "out.csv"
    scored = hansa("predict", tmp_path / "again.json", other, "--save", out)
    assert scored.exit_code == 0, scored.output
    assert "column 'x': 7 cells hold levels that the model does not know; they are of no category" in scored.stderr
    codes = np.array([[0, 1, 2, 3] * 7], np.float32).T[:28]
    expected = booster.predict(xgboost.DMatrix(codes, feature_names=["x"], feature_types=["c"]))
    np.testing.assert_allclose([float(line) for line in out.read_text().split()[1:]], expected, atol=1e-6)


def test_digits_that_are_texts_and_dates_that_are_typed_in_parquet(tmp_path):
    columns = {"x": ["1", "10", "9", "2"] * 6, "y": [0, 1] * 12, "op": list("abc") * 8}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    texts = write(tmp_path / "t.csv", "x", ["1", "10", "9", "2"])
    texts.write_text("\n".join(texts.read_text().splitlines()[:25]) + "\n")
    models = [json.loads(simulate(path).stdout)["model_sha256"] for path in (tmp_path / "t.parquet", texts)]
    assert models[0] == models[1]
    pq.write_table(pa.table(columns | {"x": pa.array(range(24), pa.int32()).cast(pa.date32())}), tmp_path / "t.parquet")
    result = simulate(tmp_path / "t.parquet")
    assert result.exit_code == 1
    assert "(of type DATE)" in result.stderr
    assert "cast the column to numbers" in result.stderr


def test_a_decimal_comma_is_read_where_the_option_or_the_plan_says_it(tmp_path):
    comma, point = (
        write(tmp_path / "c.csv", "x", ['"1,5"', '"2,5"', '"3,5"']),
        write(tmp_path / "p.csv", "x", ["1.5", "2.5", "3.5"]),
    )
    models = []
    for path, options in ((comma, ("--decimal", ",")), (point, ())):
        assert simulate(path, *options, "--save", tmp_path / "model.json").exit_code == 0
        models.append((tmp_path / "model.json").read_bytes())
        scored = hansa("predict", tmp_path / "model.json", path, *options, "--save", path.with_suffix(".out.csv"))
        assert scored.exit_code == 0, scored.output
    assert models[0] == models[1]
    assert comma.with_suffix(".out.csv").read_bytes() == point.with_suffix(".out.csv").read_bytes()
    assert check(comma, '["x"]\ndecimal = ","').exit_code == 0
    plain = PLAN.replace("FEATURES", '["x"]')
    assert parse_plan(plain).digest() == parse_plan(plain + 'decimal = "."\n').digest()
    assert parse_plan(plain).digest() != parse_plan(plain + 'decimal = ","\n').digest()


def test_identifiers_bring_a_warning_in_every_command(tmp_path):
    path = write(tmp_path / "t.csv", "x", ["16777217", "16777219", "16777221"])
    words = "column 'x': float32 cannot hold its values apart: 16777217 in row 1 becomes 16777216"
    result = simulate(path, "--save", tmp_path / "model.json")
    assert words in result.stderr
    assert words in json.loads(result.stdout)["warnings"][0]
    assert words in hansa("predict", tmp_path / "model.json", path, "--save", tmp_path / "out.csv").stderr
    assert words in check(path, '["x"]').stdout
