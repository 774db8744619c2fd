"""What a public host reads (workflows, hooks, templates) fits the Makefile, pyproject.toml and the documents."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).parents[1]
GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
MAJOR = re.compile(r"[\w.-]+/[\w./-]+@(v\d+|release/v\d+)")
WRITES = {"docs.yml": {"pages", "id-token"}, "release.yml": {"contents", "id-token"}}
"""Workflow -> what any job of it may write."""


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def jobs(workflow: Path) -> dict[str, Any]:
    return read(workflow)["jobs"]


def steps(workflow: Path) -> list[dict[str, Any]]:
    return [step for job in jobs(workflow).values() for step in job["steps"]]


def targets() -> set[str]:
    return set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def test_the_workflows_are_there():
    assert {path.name for path in WORKFLOWS} == {"ci.yml", "docs.yml", "release.yml"}


@pytest.mark.parametrize("path", sorted(p for p in GITHUB.rglob("*.yml")), ids=lambda path: path.name)
def test_every_file_of_yaml_is_read(path):
    assert isinstance(read(path), dict)


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_every_target_that_a_workflow_makes_is_in_the_makefile(workflow):
    made = {name for step in steps(workflow) for name in re.findall(r"\bmake ([\w-]+)", step.get("run", ""))}
    assert made
    assert made <= targets()


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_by_major_version_and_keep_no_credentials(workflow):
    used = [step for step in steps(workflow) if "uses" in step]
    assert used
    assert [step["uses"] for step in used if not MAJOR.fullmatch(step["uses"])] == []
    for step in used:
        if step["uses"].startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_may_only_read_but_for_the_jobs_that_publish(workflow):
    assert read(workflow)["permissions"] == {"contents": "read"}
    written = {
        scope
        for job in jobs(workflow).values()
        for scope, access in job.get("permissions", {}).items()
        if access != "read"
    }
    assert written == WRITES.get(workflow.name, set())
    assert all("timeout-minutes" in job for job in jobs(workflow).values())


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_no_text_of_others_is_pasted_into_a_command(workflow):
    for step in steps(workflow):
        assert "${{" not in step.get("run", ""), step


def test_the_matrix_begins_with_the_lowest_python_that_pyproject_allows():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lowest = re.fullmatch(r">=(\d+\.\d+)", project["requires-python"])
    assert lowest is not None
    matrix = jobs(GITHUB / "workflows" / "ci.yml")["test"]["strategy"]["matrix"]
    versions = [tuple(map(int, version.split("."))) for version in matrix["python"]]
    first = tuple(map(int, lowest[1].split(".")))
    assert versions == [(3, minor) for minor in range(first[1], versions[-1][1] + 1)]
    assert versions[-1] >= (3, 14)
    named = {
        str(step["with"]["python-version"])
        for workflow in WORKFLOWS
        for step in steps(workflow)
        if step.get("uses", "").startswith("actions/setup-python@")
    }
    assert named == {lowest[1], "${{ matrix.python }}"}


def test_a_release_has_the_hashed_constraints_and_the_bill_of_materials_and_stores_no_token():
    text = (GITHUB / "workflows" / "release.yml").read_text(encoding="utf-8")
    assert "make sbom" in text
    assert "cp sbom.json constraints.txt attached/" in text
    assert "--hash=sha256:" in (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert "secrets." not in text
    version = re.search(r"^__version__ = \"(.+)\"$", (ROOT / "src/hansa/version.py").read_text(), re.MULTILINE)
    assert version is not None, "release.yml reads the version from this line"


def test_the_hooks_are_the_tools_of_the_environment():
    (repository,) = read(ROOT / ".pre-commit-config.yaml")["repos"]
    assert repository["repo"] == "local"
    assert {hook["id"] for hook in repository["hooks"]} == {"ruff-format", "ruff", "mypy"}
    for hook in repository["hooks"]:
        assert hook["language"] == "system"
        assert hook["entry"].startswith(".venv/bin/")


def test_a_security_problem_is_sent_to_the_page_that_says_how_to_report_it():
    assert "SECURITY.md" in (GITHUB / "ISSUE_TEMPLATE" / "security.md").read_text(encoding="utf-8")
    assert "SECURITY.md" in (GITHUB / "ISSUE_TEMPLATE" / "bug.yml").read_text(encoding="utf-8")
    assert "## Reporting a vulnerability" in (ROOT / "SECURITY.md").read_text(encoding="utf-8")


def test_every_path_that_contributing_names_exists():
    named = set(re.findall(r"`((?:src|tests|docs|examples|\.github)/[^`\s]*)`", (ROOT / "CONTRIBUTING.md").read_text()))
    assert len(named) > 20
    assert [path for path in sorted(named) if not list(ROOT.glob(path.rstrip("/")))] == []
