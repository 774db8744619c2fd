"""Members of a coopetitive run as people start them: files in a folder, and a process for each."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from made_consortium import cells, hansa, write_table
from waiting import HANG_S

N_ROWS = 240

PLAN = """
name = "test"
mode = "coopetitive"

[members]
hub = "post"
servers = ["aurora", "vault", "cirrus"]
server_links = "LINKS"
parties = ["aurora", "borealis", "cirrus"]
receivers = ["borealis", "reader"]
on_dropout = "abort"

[schema]
features = ["load", "rsrp", "alarms"]
label = "fault"

[privacy]
min_cell_rows = 5

[parameters]
rounds = ROUNDS
max_depth = 2
max_bin = 8
"""

COMMANDS = {
    "post": "hub", "aurora": "party", "borealis": "party", "cirrus": "party", "vault": "server", "reader": "receiver",
}  # fmt: skip


PARTIES = ("aurora", "borealis", "cirrus")

THREE = PLAN.replace('hub = "post"', 'hub = "aurora"').replace('"vault"', '"borealis"').replace('"reader"', '"aurora"')
"""Three parties, who are the servers, and nobody else."""

COMMANDS_OF_THREE = {"aurora": "hub", "borealis": "party", "cirrus": "party"}


def toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml(item)}" for key, item in value.items()) + "}"
    return json.dumps(value)


class Hand:
    """Members' processes, each started by the command that its file is for."""

    def __init__(
        self,
        folder: Path,
        rounds: int,
        links: str,
        three: bool = False,
        waits: bool = False,
        more: str = "",
        made: bool = False,
        **changes: object,
    ) -> None:
        self.folder = folder
        self.commands = COMMANDS_OF_THREE if three else COMMANDS
        self.hub = "aurora" if three else "post"
        dialled = ("borealis", "cirrus") if three else ("aurora", "vault", "cirrus")
        self.receivers = ("borealis", "aurora") if three else ("borealis", "reader")
        self.servers: dict[str, str] = {}
        if links == "direct":
            with contextlib.ExitStack() as stack:
                taken = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in dialled]
                ports = [each.getsockname()[1] for each in taken]
            self.servers = {n: f"127.0.0.1:{port}" for n, port in zip(dialled, ports, strict=True)}
        self.processes: dict[str, subprocess.Popen[str]] = {}
        self.port = 0
        self.changes = changes
        if not made:
            self._make(rounds, links, three, waits, more)
        for name in self.commands:
            self.write(name, **changes)

    def _make(self, rounds: int, links: str, three: bool, waits: bool, more: str) -> None:
        """Identities, members file, plan and tables."""
        folder, cards = self.folder, []
        for name in self.commands:
            assert hansa("init", "--no-passphrase", name, "--folder", folder / f"{name}.identity").exit_code == 0
            cards.append(folder / f"{name}.identity" / "card.toml")
        assert hansa("members", *cards, "--save", folder / "members.toml").exit_code == 0
        plan = THREE if three else PLAN
        plan = plan.replace('"abort"', '"wait"') if waits else plan
        (folder / "plan.toml").write_text(plan.replace("ROUNDS", str(rounds)).replace("LINKS", links) + more)
        columns = cells(N_ROWS, 5)
        for i, name in enumerate(PARTIES):
            write_table(folder / f"{name}.csv", {key: column[i::3] for key, column in columns.items()})

    def write(self, name: str, **changes: object) -> None:
        values: dict[str, object] = {
            "plan": "plan.toml",
            "members": "members.toml",
            "identity": f"{name}.identity",
            "hub": f"127.0.0.1:{self.port}",
            "record": f"{name}-record.json",
            "wait_s": HANG_S,
        }
        if name in PARTIES:
            values |= {"table": f"{name}.csv", "ledger": f"{name}-ledger.jsonl"}
        if name in self.receivers:
            values["model"] = f"{name}-model.json"
        if name in self.servers:
            values["servers"] = self.servers
        lines = [f"{key} = {toml(value)}\n" for key, value in (values | changes).items()]
        (self.folder / f"{name}.toml").write_text("".join(lines))

    def start(self, *names: str) -> None:
        for name in names:
            self.processes[name] = self._started(name)
            if name == self.hub:
                self.port = self.event(name, "listening")["port"]
                for other in self.commands:
                    self.write(other, **self.changes)

    def event(self, name: str, kind: str) -> dict[str, Any]:
        """A process's next event of this kind; what comes before it is passed over."""
        stdout = self.processes[name].stdout
        assert stdout is not None
        for line in stdout:
            event: dict[str, Any] = json.loads(line)
            if event["event"] == kind:
                return event
        raise AssertionError(f"{name} ended before {kind}: {self.processes[name].communicate()}")

    def start_again(self, *names: str) -> None:
        """Start members with the commands that they were started with; the hub's file has its port by now."""
        for name in names:
            self.processes[name] = self._started(name)

    def _started(self, name: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "hansa", self.commands[name], f"{name}.toml", "--json"],
            cwd=self.folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def kill(self, *names: str) -> None:
        """End processes as crashes would."""
        for name in names:
            self.processes[name].kill()
            self.processes[name].communicate()

    def wait_for_tree(self, server: str, trees: int) -> None:
        for line in self.processes[server].stdout:
            if json.loads(line).get("trees") == trees:
                return
        raise AssertionError(f"{server} ended before tree {trees}")

    def ended(self) -> dict[str, tuple[int, str, str]]:
        """Member -> its status, output and errors."""
        found = {}
        for name, process in self.processes.items():
            # Whoever finds nobody any more gives up after its own wait_s.
            out, errors = process.communicate(timeout=2 * HANG_S)
            found[name] = (process.returncode, out, errors)
        return found
