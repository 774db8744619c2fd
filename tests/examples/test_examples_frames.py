"""The script that trains from frames of every library and from arrays."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "examples" / "frames.py"


def test_the_script_gets_one_model_from_pandas_polars_arrow_and_numpy(tmp_path):
    done = subprocess.run([sys.executable, str(SCRIPT)], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("pandas, polars, Arrow, NumPy: the same model of ")


def test_the_part_that_trains_is_about_ten_lines():
    statements = ast.parse(SCRIPT.read_text(encoding="utf-8")).body
    first = next(
        node
        for node in statements
        if isinstance(node, ast.AnnAssign | ast.Assign) and ast.unparse(node.targets[0]) == "models"
    )
    lines = {
        line for node in statements if node.lineno >= first.lineno for line in range(node.lineno, node.end_lineno + 1)
    }
    assert len(lines) <= 10
