"""Pages over a real service's folder: what they show, as HTML and as JSON, to whom, and how they change."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec
import pytest

from hansa.cli.main import main
from hansa.console.pages import ACTS, DOWNLOADS, PAGES, api_path
from made_console import Desk, csrf, send
from made_consortium import make_consortium


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_consortium(tmp_path_factory.mktemp("consortium"))


@pytest.fixture
def desk(folder: Path, tmp_path: Path) -> Desk:
    return Desk(folder, state=str(tmp_path / "state"))


def test_home_and_runs_show_what_the_service_keeps(desk: Desk):
    client = desk.signed_in("viewer")
    assert "None." in client.get("/").text
    desk.put(state="running", id="ab" * 32, trees=3, waiting_for=("borealis",), text="waiting for borealis")
    home = client.get("/").text
    assert "waiting for borealis" in home
    assert "waited for" in home
    assert "The service of aurora is not running" in home
    shown = client.get("/api/home").json()
    assert [run["run"] for run in shown["under_way"]] == ["a1b2"]
    assert {each["member"]: each["state"] for each in shown["members"]} == {"borealis": "waited for", "hub": "there"}
    assert "a1b2" in client.get("/runs").text
    assert client.get("/api/runs").json()["paging"] == {"page": 1, "pages": 1, "rows": 1}
    assert "3 of at most 9 rounds" in client.get("/runs/a1b2").text
    assert client.get("/api/runs/a1b2").json()["over"] is False


def test_names_with_markup_are_shown_as_they_are(desk: Desk):
    client = desk.signed_in("viewer")
    desk.put(state="failed", plan='<script>alert("x")</script>', text="a \u202e turned\n<img src=x onerror=y>")
    for page in ("/runs", "/runs/a1b2"):
        text = client.get(page).text
        assert "<script>alert" not in text
        assert "<img" not in text
        assert "\u202e" not in text
        assert "\\u202e" in text


def test_a_list_is_shown_by_pages(desk: Desk):
    for number in range(120):
        desk.put(
            run=f"{number:04x}", state="finished", created=f"2026-01-01T00:{number // 60:02}:{number % 60:02}.000Z"
        )
    client = desk.signed_in("viewer")
    first = client.get("/api/runs").json()
    assert (first["paging"], first["runs"][0]["run"]) == ({"page": 1, "pages": 3, "rows": 120}, "0077")
    assert client.get("/api/runs?page=3").json()["runs"][-1]["run"] == "0000"
    for odd in ("9", "-1", "0", "x", "9" * 40, "%00"):
        assert client.get(f"/api/runs?page={odd}").status_code == 200
    assert 'href="/runs?page=2"' in client.get("/runs").text


def test_nobody_reads_a_page_who_is_not_signed_in(desk: Desk):
    client = desk.client()
    for page in PAGES:
        path = page.path.replace("{run}", "a1b2")
        assert client.get(path).headers["location"] == "/sign-in"
    for path in ("/api/home", "/api/runs", "/api/runs/a1b2", "/live/home", "/live/runs/a1b2"):
        assert client.get(path).status_code == 401


def test_a_run_is_paused_and_resumed_by_an_operator_and_by_no_viewer(desk: Desk):
    desk.put(state="running")
    refused = send(desk.signed_in("viewer"), "/runs/a1b2/pause")
    assert refused.status_code == 403
    assert "needs the role operator" in refused.text
    assert desk.last() == ("viewer-1", "runs pause", False)
    operator = desk.signed_in("operator")
    assert send(operator, "/runs/a1b2/pause").status_code == 303
    assert desk.last() == ("operator-1", "runs pause", True)
    assert desk.member.store.find("a1b2").wanted == "pause"
    assert "cells pauses" in operator.get("/runs/a1b2").text
    assert "cells pauses" not in operator.get("/runs/a1b2").text
    assert "when somebody resumes it" in operator.get("/").text
    assert send(operator, "/runs/a1b2/resume").status_code == 303
    assert desk.member.store.find("a1b2").wanted == ""
    assert send(operator, "/runs/a1b2/stop").status_code == 422
    assert send(operator, "/runs/a1b2/stop", sure="yes").status_code == 303
    again = send(operator, "/runs/a1b2/resume")
    assert "is to stop, which is for good" in again.text
    assert "no run" in send(operator, "/runs/none/pause").text


def test_every_endpoint_is_described_and_answers_as_described(desk: Desk):
    desk.put(state="running")
    client = desk.signed_in("viewer")
    assert desk.client().get("/api/openapi.json").status_code == 401
    found = client.get("/api/openapi.json").json()
    assert found["openapi"] == "3.1.0"
    described = {(path, method) for path, methods in found["paths"].items() for method in methods}
    assert described == {
        *((api_path(page), "get") for page in PAGES),
        *((act.path, "post") for act in ACTS),
        *((each.path, "get") for each in DOWNLOADS),
    }
    for page in PAGES:
        if "{" not in page.path or ("{run}" in page.path and page.path.startswith("/runs")):
            answer = client.get(api_path(page).replace("{run}", "a1b2"))
            assert msgspec.json.decode(answer.content, type=page.shows), page.path
    assert {line.partition("hansa ")[2].split(" -")[0] for line in commands_of()} <= {*known_commands()}


def commands_of() -> list[str]:
    """The commands that pages and actions name."""
    return [each.command for each in (*PAGES, *ACTS, *DOWNLOADS) if each.command]


def known_commands() -> list[str]:
    """All commands, by their whole names."""
    found = []
    for name, command in main.commands.items():
        found += [f"{name} {own}" for own in command.commands] if isinstance(command, click.Group) else [name]
    return found


def test_a_page_that_is_not_there_says_so(desk: Desk):
    client = desk.signed_in("viewer")
    for path in ("/runs/none", "/nothing", "/api/runs/none", "/live/runs/none", "/runs/..%2f..%2fetc%2fpasswd"):
        answer = client.get(path)
        assert answer.status_code == 404, path
    assert client.get("/api/runs/none").json() == {"error": "this member has no run 'none'"}
    assert csrf(client)


def test_the_reference_names_every_page_action_and_file():
    page = (Path(__file__).parents[2] / "docs" / "reference" / "console.md").read_text()
    for each in PAGES:
        assert f"| `{each.path}` | {each.title} | `{api_path(each)}` |" in page, each.path
    for act in ACTS:
        assert f"| `{act.path}` | {act.role} |" in page, act.path
    for download in DOWNLOADS:
        assert f"| `{download.path}` | `{download.command}` |" in page, download.path
