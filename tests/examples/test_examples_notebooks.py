"""Each notebook runs to its end, its asserts hold, and the outputs in the file are those that it gives."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import nbformat
import pytest

from hansa.plan import MODES
from postgresql import USER

EXAMPLES = Path(__file__).parents[2] / "examples"
FOLDER = EXAMPLES / "notebooks"
POSTGRESQL = EXAMPLES / "postgresql.ipynb"
VIEWS, MARIMO = EXAMPLES / "views.ipynb", EXAMPLES / "views_marimo.py"
NUMBER = re.compile(r"-?\d[\d.,]*(?:e[+-]?\d+)?")
AGAIN = "the outputs in the file are old; run: python examples/notebooks/execute.py"


@pytest.fixture(scope="module")
def execution() -> ModuleType:
    spec = importlib.util.spec_from_file_location("execute_notebooks", FOLDER / "execute.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def said(notebook: nbformat.NotebookNode) -> Iterator[tuple[str, list[str]]]:
    """Source of each code cell, and its outputs as words: numbers, spaces and what goes to standard error left out."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            texts = [
                output.text if output.output_type == "stream" else output.data["text/plain"]
                for output in cell.outputs
                if output.get("name") != "stderr"
            ]
            yield cell.source, [" ".join(NUMBER.sub("#", text).split()) for text in texts]


def test_there_is_one_for_each_mode():
    assert {path.stem.replace("_", "-") for path in FOLDER.glob("*.ipynb")} == set(MODES)


@pytest.mark.parametrize(
    "name", ["federated", "secure_aggregation", pytest.param("coopetitive", marks=pytest.mark.slow)]
)
def test_a_notebook_runs_and_its_file_holds_its_outputs(execution, tmp_path, name):
    assert_gives_its_outputs(execution, FOLDER / f"{name}.ipynb", tmp_path)


def test_the_notebook_of_postgresql_runs_on_a_server(postgresql, execution, tmp_path, monkeypatch):
    settings = {"HOST": "127.0.0.1", "PORT": str(postgresql.port), "USER": USER, "DATABASE": "postgres"}
    for name, value in (settings | {"PASSWORD": postgresql.password}).items():
        monkeypatch.setenv(f"PG{name}", value)
    assert_gives_its_outputs(execution, POSTGRESQL, tmp_path)


def test_the_notebook_of_views_shows_tables_and_pictures(execution, tmp_path):
    assert_gives_its_outputs(execution, VIEWS, tmp_path)
    shown = [
        output.data["text/html"]
        for cell in nbformat.read(VIEWS, as_version=4).cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if "text/html" in output.get("data", {})
    ]
    assert len(shown) == 3
    assert ["<svg" in html for html in shown] == [False, True, True]
    assert all("<table" in html for html in shown)
    assert not any(re.search(r"""(src|href)\s*=\s*["']\s*(https?:)?//|<script""", html) for html in shown)


def test_the_marimo_notebook_has_the_cells_of_jupyters(monkeypatch):
    """marimo itself is no dependency: a stand-in runs its cells in order, by the names that they take and give back."""
    cells = []
    app = SimpleNamespace(cell=lambda function: cells.append(function) or function)
    monkeypatch.setitem(sys.modules, "marimo", SimpleNamespace(App=lambda **_: app))
    spec = importlib.util.spec_from_file_location("views_marimo", MARIMO)
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    known: dict[str, Any] = {}
    for cell in cells:
        (node,) = ast.parse(inspect.getsource(cell)).body
        assert isinstance(node, ast.FunctionDef)
        given = node.body[-1]
        assert isinstance(given, ast.Return)
        assert isinstance(given.value, ast.Tuple)
        values = cell(**{name: known[name] for name in inspect.signature(cell).parameters})
        names = [ast.unparse(each) for each in given.value.elts]
        assert not known.keys() & set(names), "marimo refuses a name that two cells give"
        known |= dict(zip(names, values, strict=True))
    assert len(cells) == sum(cell.cell_type == "code" for cell in nbformat.read(VIEWS, as_version=4).cells)
    assert all("<table" in known[name]._repr_html_() for name in ("described", "run", "found"))


def test_from_postgresql_to_a_model_it_is_fifteen_lines():
    cells = [cell.source for cell in nbformat.read(POSTGRESQL, as_version=4).cells if cell.cell_type == "code"]
    (whole,) = [source for source in cells if "hansa.fit" in source]
    assert len([line for line in whole.splitlines() if line.strip()]) <= 15


def assert_gives_its_outputs(execution, notebook: Path, folder: Path) -> None:
    name = notebook.stem
    now = execution.execute(Path(shutil.copy(notebook, folder)))
    kept = nbformat.read(notebook, as_version=4)
    assert any("assert " in cell.source for cell in kept.cells)
    assert [cell.execution_count for cell in kept.cells if cell.cell_type == "code"] == list(
        range(1, len(list(said(kept))) + 1)
    )
    for (source, expected), (_, found) in zip(said(kept), said(now), strict=True):
        assert found == expected, f"{name}.ipynb: {AGAIN}\n{source}"


def test_a_notebook_whose_assert_fails_is_noticed(execution, tmp_path):
    from nbclient.exceptions import CellExecutionError

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("assert 1 + 1 == 3")])
    nbformat.write(notebook, tmp_path / "wrong.ipynb")
    with pytest.raises(CellExecutionError, match="AssertionError"):
        execution.execute(tmp_path / "wrong.ipynb")


@pytest.mark.parametrize("path", sorted(EXAMPLES.rglob("*.ipynb")), ids=lambda path: path.stem)
def test_a_file_names_nothing_of_the_machine_that_ran_it(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert not re.search(r'"[^"]*(?:/home/|/root/|/tmp/|/work/)', path.read_text(encoding="utf-8"))
