"""Follows the README of an example project to the letter, in a copy of its folder.

A block of kind `console` holds commands, each behind `$ `. A block of kind `python` is run as it stands; all of one README share their
names. A block of kind `text` says what the block before it prints.
"""

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
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from waiting import HANG_S

EXAMPLES = Path(__file__).parents[2] / "examples"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PORT = ":7465"
MEMBERS = ("hansa aggregator", "hansa party", "hansa hub", "hansa server", "hansa receiver")
"""Commands that wait for others: those of one block run beside each other, and what follows waits for their ends."""

NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
NEAR = 0.03
"""How far a score may lie from what the README says: made-up tables use the host's mathematics library."""


@dataclass
class Walkthrough:
    """One README, followed.

    Attributes:
        folder: where. names: what its Python blocks defined. printed: by command, and for each Python block under its number.
    """

    folder: Path
    names: dict[str, object] = field(default_factory=dict)
    printed: dict[str, str] = field(default_factory=dict)


def follow(project: str, folder: Path, sections: Sequence[str] | None = None) -> Walkthrough:
    """Copy the project and run every block of its README, or those under these headings; asserts that each succeeds.

    Args:
        project: name of its folder. folder: an empty one. sections: headings, without `#`.
    """
    shutil.copytree(EXAMPLES / project, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    _give_free_port(folder)
    walk = Walkthrough(folder)
    terminals = _Terminals(folder)
    readme = (EXAMPLES / project / "README.md").read_text(encoding="utf-8")
    last = ""
    try:
        for kind, content in _blocks(readme, sections):
            if kind == "text":
                shown = walk.printed.get(last, terminals.printed.get(last, ""))
                _assert_printed(content, shown, f"{project}/README.md")
            elif kind == "console":
                for line in content.splitlines():
                    assert line.startswith("$ "), f"{project}/README.md: {line!r} is no command"
                    last = line.removeprefix("$ ")
                    terminals.type(last)
                terminals.wait()
            elif kind == "python":
                last = f"python block {len(walk.printed) + 1}"
                walk.printed[last] = _run(content, f"{project}/README.md", walk)
            else:
                assert kind in ("toml", "mermaid"), f"{project}/README.md: nobody runs a block of kind {kind!r}"
    finally:
        terminals.stop()
    walk.printed |= terminals.printed
    return walk


def headings(project: str) -> list[str]:
    """The headings of a project's README, below its title."""
    readme = (EXAMPLES / project / "README.md").read_text(encoding="utf-8")
    return re.findall(r"^## (.+)$", BLOCK.sub("", readme), re.MULTILINE)


def _blocks(readme: str, sections: Sequence[str] | None) -> list[tuple[str, str]]:
    if sections is None:
        return BLOCK.findall(readme)
    parts = {part.partition("\n")[0]: part for part in re.split(r"^## ", readme, flags=re.MULTILINE)}
    return [block for title in sections for block in BLOCK.findall(parts[title])]


def _give_free_port(folder: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for path in folder.rglob("*.toml"):
        path.write_text(path.read_text(encoding="utf-8").replace(PORT, f":{port}"), encoding="utf-8")


def _run(source: str, where: str, walk: Walkthrough) -> str:
    printed = io.StringIO()
    with contextlib.chdir(walk.folder), contextlib.redirect_stdout(printed):
        exec(compile(source, where, "exec"), walk.names)
    return printed.getvalue()


def _assert_printed(expected: str, printed: str, where: str) -> None:
    """Every line that is shown was printed, in this order: the same words, and numbers as near as `NEAR`, or a hundredth of them."""
    lines = iter(printed.splitlines())
    for line in filter(str.strip, expected.splitlines()):
        assert any(_alike(line, other) for other in lines), f"{where}: not printed: {line!r}\n{printed}"


def _alike(line: str, other: str) -> bool:
    if NUMBER.sub("#", line).split() != NUMBER.sub("#", other).split():
        return False
    pairs = zip(NUMBER.findall(line), NUMBER.findall(other), strict=True)
    values = [(float(a.replace(",", "")), float(b.replace(",", ""))) for a, b in pairs]
    return all(abs(a - b) <= max(NEAR, 0.01 * abs(a)) for a, b in values)


class _Terminals:
    """Runs commands in a folder, as several terminals would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.printed: dict[str, str] = {}
        self.running: dict[str, subprocess.Popen[str]] = {}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.environment = {**os.environ, "PATH": path, "COLUMNS": "100", "OMP_WAIT_POLICY": "PASSIVE"}

    def type(self, command: str) -> None:
        beside = command.startswith(MEMBERS)
        if not beside:
            self.wait()
        self.running[command] = subprocess.Popen(
            shlex.split(command),
            cwd=self.folder,
            env=self.environment,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        if not beside:
            self.wait()

    def wait(self) -> None:
        for command, process in self.running.items():
            self.printed[command], _ = process.communicate(timeout=HANG_S)
            assert process.returncode == 0, f"$ {command}\n{self.printed[command]}"
        self.running = {}

    def stop(self) -> None:
        for process in self.running.values():
            process.kill()
            process.communicate()
