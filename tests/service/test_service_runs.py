"""Services over mutual TLS, one port at the hub: plans come by inboxes, runs are played by processes of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from made_consortium import HUB, PARTIES, PLAN, make_consortium
from made_services import Services, approved


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    made = Services(make_consortium(tmp_path))
    try:
        for name in PARTIES:
            made.start(name)
        yield made
    finally:
        made.stop()


def test_a_plan_that_all_approved_is_run_once(services: Services):
    run = services.run(approved(services.folder, PLAN))
    for name in services.started:
        assert services.until(name, run, "finished", "failed")["state"] == "finished"
