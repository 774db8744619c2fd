"""Every code block of README, the tutorials and the how-to guides runs, in the order of the page, and prints what the page shows."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from hansa.data.source import read_rows
from hansa.node.in_process import train_in_process
from hansa.plan import read_plan

ROOT = Path(__file__).parent.parent
PORT = "7465"
BLOCK = re.compile(r'^```(\w+)(?: title="([\w.-]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
IN_BACKGROUND = ("hansa aggregator", "hansa party")
NUMBER = re.compile(r"\d[\d,.]*(?:e[+-]?\d+)?|[0-9a-f]{64}")

NOTEBOOK, THREE_HOSTS, EACH_MODE = "tutorials/notebook.md", "tutorials/three-hosts.md", "tutorials/each-mode.md"
RUN = [
    NOTEBOOK,
    "tutorials/laundering.md",
    THREE_HOSTS,
    pytest.param(EACH_MODE, marks=pytest.mark.slow),
    pytest.param("tutorials/hospitals.md", marks=pytest.mark.slow),
    "how-to/bring-a-table.md",
    "how-to/from-xgboost.md",
    "how-to/look-before-you-train.md",
    "how-to/serve-the-model.md",
    "how-to/found-a-consortium.md",
    "how-to/approve-a-plan.md",
    pytest.param("how-to/choose-bins-and-leaves.md", marks=pytest.mark.slow),
    pytest.param("how-to/choose-parameters.md", marks=pytest.mark.slow),
]
"""Pages with code. Of each kind, Python and commands, one at least is fast."""

FILES = {
    "how-to/coopetitive-run.md",
    "how-to/deploy.md",
    "how-to/a-process-died.md",
    "how-to/larger-than-memory.md",
    "how-to/many-parties.md",
    "how-to/run-a-service.md",
    "how-to/use-the-console.md",
}
"""Pages whose blocks are files and commands of members that are not there. `test_docs` reads those of the first."""


@dataclass(frozen=True)
class Block:
    kind: str
    title: str
    content: str


def blocks(page: str) -> list[Block]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return [Block(*found) for found in BLOCK.findall(text)]


def commands(page: str) -> list[str]:
    lines = [line for block in blocks(page) if block.kind == "console" for line in block.content.splitlines()]
    assert all(line.startswith("$ ") for line in lines)
    return [line.removeprefix("$ ") for line in lines]


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@dataclass
class Reader:
    """Somebody who does in a folder what a page says. Roles run in the background; anything else waits for them to end."""

    folder: Path
    names: dict[str, Any] = field(default_factory=dict)
    output: dict[str, str] = field(default_factory=dict)
    running: dict[str, subprocess.Popen[str]] = field(default_factory=dict)
    port: str = field(default_factory=free_port)

    def follow(self, page: str) -> None:
        """Run every block; a block of text is what the block before it prints."""
        printed = ""
        for block in blocks(page):
            match block.kind:
                case "console":
                    for line in block.content.splitlines():
                        printed = self.type(line.removeprefix("$ "))
                case "python":
                    self.wait()
                    printed = self.python(block.content, page)
                case "toml":
                    assert block.title, f"{page}: a file without a title"
                    (self.folder / block.title).write_text(block.content.replace(f":{PORT}", f":{self.port}"))
                case "text":
                    assert_like(printed, block.content)
                case "mermaid" | "ini":
                    pass
                case other:
                    raise AssertionError(f"{page}: a block of kind {other!r} is not run")
        self.wait()

    def python(self, code: str, page: str) -> str:
        with contextlib.chdir(self.folder), contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(code, page, "exec"), self.names)
        return printed.getvalue()

    def type(self, command: str) -> str:
        in_background = command.startswith(IN_BACKGROUND)
        if not in_background:
            self.wait()
        bin_folder = str(Path(sys.executable).parent)
        self.running[command] = subprocess.Popen(
            shlex.split(command),
            cwd=self.folder,
            env={
                **os.environ,
                "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
                "COLUMNS": "100",
                "OMP_WAIT_POLICY": "PASSIVE",  # XGBoost's threads must not spin while others work
            },
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        if in_background:
            return ""
        self.wait()
        return self.output[command]

    def wait(self) -> None:
        for command, process in self.running.items():
            self.output[command], _ = process.communicate(timeout=480)
            assert process.returncode == 0, f"$ {command}\n{self.output[command]}"
        self.running = {}

    def stop(self) -> None:
        for process in self.running.values():
            process.kill()
            process.communicate()


def assert_like(printed: str, shown: str) -> None:
    """The lines that a page shows were printed, in their order. Numbers may differ a little; "..." stands for the rest of a line."""

    def lines(text: str) -> list[str]:
        return [
            " ".join(NUMBER.sub("0", re.sub("[━─]+", "-", line)).split()) for line in text.splitlines() if line.strip()
        ]

    rest = iter(lines(printed))
    for line in lines(shown):
        whole = not line.endswith("...")
        found = any(other == line if whole else other.startswith(line.removesuffix("...")) for other in rest)
        assert found, f"not printed, or not in this order: {line!r}; printed:\n{printed}"


def scores(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"\b0\.\d{4}\b", text)]


def made(folder: Path) -> Path:
    """A folder with what a clone has of examples, and the tables that they make."""
    shutil.copytree(ROOT / "examples", folder / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([sys.executable, "examples/make_tables.py", "."], cwd=folder, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def readers(tmp_path_factory) -> Iterator[dict[str, Reader]]:
    """Page -> the reader who followed it; each page is followed once."""
    known: dict[str, Reader] = {}
    yield known
    for reader in known.values():
        reader.stop()


@pytest.fixture
def follow(readers, tmp_path_factory):
    def followed(page: str) -> Reader:
        if page not in readers:
            readers[page] = Reader(made(tmp_path_factory.mktemp("reader")))
            readers[page].follow(page)
        return readers[page]

    return followed


@pytest.mark.parametrize("page", RUN)
def test_every_block_runs_and_prints_what_the_page_shows(page, follow):
    pytest.importorskip("xgboost")
    follow(f"docs/{page}")


def test_every_page_with_code_is_run():
    known = {page if isinstance(page, str) else page.values[0] for page in RUN} | FILES
    for folder in ("tutorials", "how-to"):
        for path in (ROOT / "docs" / folder).glob("*.md"):
            page = f"{folder}/{path.name}"
            assert (page in known) == bool(blocks(f"docs/{page}")), page


def test_readme_runs(tmp_path, capsys):
    reader = Reader(made(tmp_path))
    python = [block for block in blocks("README.md") if block.kind == "python"]
    assert len(python) == 1
    printed = reader.python(python[0].content, "README.md")
    assert "secure-aggregation: 3 parties" in printed
    by_hand = {line for block in by_host() for line in block.content.splitlines()}
    alone = set()
    for command in commands("README.md"):
        if command.startswith("make ") or f"$ {command}" in by_hand:
            continue
        alone.add(command.split()[1])
        assert reader.type(command)
    assert "simulate" in alone, "commands of README that are no part of a longer tour are run here"


def by_host() -> list[Block]:
    """README's commands that are typed at one of two hosts, which the block's title names."""
    return [block for block in blocks("README.md") if block.kind == "console" and block.title]


SENT = {
    2: [("borealis", "borealis.identity/card.toml", "borealis-card.toml")],
    3: [("aurora", "members.toml", "members.toml"), ("aurora", "plan.toml", "plan.toml")],
}
"""What one host sends to the other after so many blocks of README: from where, which file, and as what it is saved."""


def test_two_private_folders_have_a_model_after_ten_commands_of_readme(tmp_path):
    assert sum(len(block.content.splitlines()) for block in by_host()) <= 10
    subprocess.run([sys.executable, ROOT / "examples" / "make_tables.py", tmp_path], check=True, capture_output=True)
    hosts = {name: Reader(tmp_path / name, port=free_port()) for name in ("aurora", "borealis")}
    for name, host in hosts.items():
        host.folder.mkdir(mode=0o700)
        host.port = hosts["aurora"].port
        shutil.move(tmp_path / f"{name}.csv", host.folder)
    for block in blocks("README.md"):
        if block.kind == "toml":
            at = hosts["borealis" if block.title == "borealis.toml" else "aurora"]
            (at.folder / block.title).write_text(block.content.replace(f":{PORT}", f":{at.port}"))
    try:
        for number, block in enumerate(by_host(), 1):
            for line in block.content.splitlines():
                hosts[block.title].type(line.removeprefix("$ "))
            for sender, name, saved in SENT.get(number, ()):
                receiver = hosts["aurora" if sender == "borealis" else "borealis"]
                shutil.copy(hosts[sender].folder / name, receiver.folder / saved)
        for host in hosts.values():
            host.wait()
    finally:
        for host in hosts.values():
            host.stop()
    models = [(host.folder / f"{name}-model.json").read_bytes() for name, host in hosts.items()]
    assert models[0] == models[1] != b""
    assert not list(hosts["borealis"].folder.glob("aurora*"))
    assert {path.name for path in hosts["aurora"].folder.glob("borealis*")} == {"borealis-card.toml"}


def test_three_hosts_leave_the_files_that_the_tutorial_names(follow):
    folder = follow(f"docs/{THREE_HOSTS}").folder
    for name in ("members.toml", "aurora-model.json", "borealis-model.json", "scores.csv", "hub-record.json"):
        assert (folder / name).stat().st_size > 0
    assert not (folder / "cirrus-model.json").exists()


@pytest.mark.slow
def test_a_run_over_tls_gives_the_model_of_a_run_in_one_process(follow):
    folder = follow(f"docs/{THREE_HOSTS}").folder
    plan = read_plan(folder / "plan.toml")
    tables = {
        name: read_rows(folder / f"{name}.csv", plan.schema, label_kind=plan.parameters.label_kind)
        for name in plan.parties
    }
    model = train_in_process(plan, tables).outcome.model
    assert (folder / "aurora-model.json").read_bytes() == model
    assert (folder / "borealis-model.json").read_bytes() == model


@pytest.mark.slow
def test_the_simulation_prints_nearly_the_scores_that_the_tutorial_shows(follow):
    shown = next(block.content for block in blocks(f"docs/{EACH_MODE}") if block.kind == "text")
    output = follow(f"docs/{EACH_MODE}").output
    printed = next(said for command, said in output.items() if command.startswith("hansa simulate"))
    assert scores(printed) == pytest.approx(scores(shown), abs=0.02)
    counts = re.compile(r"\b\d+,\d{3}\b")  # of rows: the same on every host
    assert counts.findall(printed) == counts.findall(shown)
    together, pooled = (
        [cell.strip() for cell in line.split("│")[2:-2]]
        for line in printed.splitlines()
        if line.startswith(("│ together, federated", "│ pooled rows, Hansa"))
    )
    assert together == pooled


def test_a_page_that_shows_what_is_not_printed_is_refused(tmp_path):
    assert_like("a 1.5\nb 2\n", "a 1.4\nb 7\n")
    for shown in ("b 2\na 1.5\n", "a 1.5\nc 2\n"):
        with pytest.raises(AssertionError, match="not printed"):
            assert_like("a 1.5\nb 2\n", shown)
