"""Folders in which a consortium is set up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from made_consortium import Consortium, make_consortium


@pytest.fixture
def consortium(tmp_path: Path) -> Iterator[Consortium]:
    """Two parties and a hub, ready to be started; whoever still runs afterwards is killed."""
    made = Consortium(make_consortium(tmp_path))
    yield made
    made.stop()
