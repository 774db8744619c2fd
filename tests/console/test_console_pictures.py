"""Every page of the console has a picture in the documents, or a reason why not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from benchmarks.bench_console import NOT_PICTURED, PICTURES
from starlette.routing import Route

from hansa.console.pages import DOWNLOADS, PAGES, api_path, live_path
from made_console import Desk
from made_consortium import make_consortium

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "docs" / "images" / "console"
GUIDE = ROOT / "docs" / "how-to" / "use-the-console.md"
LOOKS = tuple(f"{scheme}-{width}" for scheme in ("light", "dark") for width in (1280, 390))


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Routes that a browser can ask for, without the JSON and the events of pages, and the files that are saved."""
    desk = Desk(make_consortium(tmp_path_factory.mktemp("consortium")))
    routes = (each for each in desk.console.routes if isinstance(each, Route))
    asked = {each.path for each in routes if "GET" in (each.methods or ("GET",))}
    saved = {each.path for each in DOWNLOADS if each.kind != "text/html"}
    return asked - {api_path(page) for page in PAGES} - {live_path(page) for page in PAGES} - saved


def test_every_page_has_a_picture_or_a_reason_why_not(shown: set[str]):
    pictured = {each.route for each in PICTURES.values()}
    assert shown - pictured - NOT_PICTURED.keys() == set(), "add it to PICTURES of benchmarks/bench_console.py"
    assert pictured | NOT_PICTURED.keys() <= shown, "this is no page of the console any more"
    assert not pictured & NOT_PICTURED.keys()
    assert all(NOT_PICTURED.values())


def test_every_picture_is_there_in_four_looks_and_shown():
    wanted = {f"{name}-{look}.png" for name in PICTURES for look in LOOKS}
    assert {path.name for path in IMAGES.iterdir()} == wanted
    linked = re.findall(r"images/console/([a-z0-9-]+\.png)", GUIDE.read_text())
    assert set(linked) == wanted
