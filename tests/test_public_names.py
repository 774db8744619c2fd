"""The names that `import hansa` gives."""

from __future__ import annotations

import subprocess
import sys

import pytest

import hansa


def test_every_public_name_has_one_module():
    named = [name for names in hansa._NAMES.values() for name in names]
    assert sorted([*named, "__version__"]) == sorted(hansa.__all__)


@pytest.mark.parametrize("name", hansa.__all__)
def test_every_public_name_is_there(name):
    assert name in dir(hansa)
    assert getattr(hansa, name) is not None


def test_a_name_that_is_none_is_refused():
    with pytest.raises(AttributeError, match="'hansa' has no attribute 'train'"):
        _ = hansa.train  # type: ignore[attr-defined]


@pytest.mark.parametrize("module", ["hansa", "hansa.cli.main"])
def test_nothing_is_loaded_before_it_is_needed(module):
    """A command that only prints must not wait for kernels: each of these takes a quarter of a second and more."""
    heavy = ("numba", "duckdb", "xgboost", "pandas", "sklearn", "scipy", "cryptography")
    code = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"
