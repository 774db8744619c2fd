"""Passwords of these tests cost little: what Argon2 costs is shown by one test that takes the real one."""

from __future__ import annotations

import pytest
from argon2 import PasswordHasher


@pytest.fixture(autouse=True)
def cheap_passwords(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if "real_passwords" not in request.fixturenames:
        monkeypatch.setattr("hansa.console.accounts.HASHER", PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))


@pytest.fixture
def real_passwords() -> None:
    """Asked for by a test of the real costs."""
