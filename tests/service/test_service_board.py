"""The board for Grafana names metrics that a service has, and no others."""

from __future__ import annotations

import json
import re
from pathlib import Path

from hansa.service.health import metrics_of
from hansa.service.store import ServiceRun
from hansa.service.supervisor import Status

BOARD = Path(__file__).parents[2] / "deploy" / "grafana" / "hansa.json"
OF_OTHERS = {"up", "process_resident_memory_bytes"}
"""Of Prometheus itself, and of its collector of processes."""


def exported() -> dict[str, set[str]]:
    """Metric, as Prometheus has it -> names of its labels."""
    found: dict[str, set[str]] = {}
    for family in metrics_of(Status(runs=(ServiceRun(run="a1"),))):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def test_every_metric_of_the_board_is_exported_and_every_label_is_one():
    board, known = json.loads(BOARD.read_text(encoding="utf-8")), exported()
    assert len(known) == 9
    used = set()
    for panel in board["panels"]:
        for target in panel["targets"]:
            expression = re.sub(r"\{[^}]*\}|\[[^\]]*\]", "", target["expr"])
            names = set(re.findall(r"\b(?:hansa_|process_|up\b)\w*", expression))
            assert names
            assert names <= known.keys() | OF_OTHERS, panel["title"]
            used |= names
            labels = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) - {"instance"}
            own = set.union(set(), *(known[name] for name in names & known.keys()))
            assert labels <= own, panel["title"]
    assert used - OF_OTHERS == known.keys()
    (variable,) = (own for own in board["templating"]["list"] if own["type"] == "query")
    assert re.findall(r"hansa_\w+", variable["query"]) == ["hansa_runs"]


def test_panels_lie_beside_each_other():
    panels = json.loads(BOARD.read_text(encoding="utf-8"))["panels"]
    taken = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
    assert len({panel["id"] for panel in panels}) == len(panels)
