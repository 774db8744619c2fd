"""Fixtures: three servers with fresh keys, and a place to draw at."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

# Before the imports of the tests: the naive twins lie a folder up, and the benchmarks beside that folder.
sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1]))

from three_servers import make_servers

from hansa.mpc.replicated import Address


@pytest.fixture
def servers():
    return make_servers()


@pytest.fixture
def place():
    return Address(0, 0, 0, "test")
