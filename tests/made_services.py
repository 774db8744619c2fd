"""Services of a consortium in a folder, made with the commands that people type: approved plans, services' files, their processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

from hansa.toml import write_toml
from made_consortium import HUB, PARTIES, hansa
from waiting import HANG_S, until

POLICY = {"allow_two_parties": True, "least_party_rows": 0}


def approved(folder: Path, plan: str, name: str = "approved", members: tuple[str, ...] = (HUB, *PARTIES)) -> Path:
    """The file of a plan that all members have approved."""
    (folder / f"{name}.toml").write_text(plan)
    path = folder / f"{name}.json"
    first, *others = members
    pinned = ("--members", folder / "members.toml")
    for command in (
        (
            "plan",
            "propose",
            folder / f"{name}.toml",
            *pinned,
            "--identity",
            folder / f"{first}.identity",
            "--save",
            path,
        ),
        *(("plan", "approve", path, *pinned, "--identity", folder / f"{other}.identity") for other in others),
    ):
        done = hansa(*command)
        assert done.exit_code == 0, done.output
    return path


def write_service(folder: Path, name: str, port: int, **changes: Any) -> Path:
    """A service's file; a change to None leaves its key out."""
    values: dict[str, Any] = {
        "members": "members.toml",
        "identity": f"{name}.identity",
        "hub": f"127.0.0.1:{port}",
        "wait_s": HANG_S,
        "policy": POLICY,
    }
    if name != HUB:
        values["sources"] = [{"table": f"{name}.csv"}]
    kept = {key: value for key, value in (values | changes).items() if value is not None}
    path = folder / f"{name}-service.toml"
    path.write_text(write_toml(kept))
    return path


class ServiceProcess:
    """A service's process."""

    def __init__(self, command: str, path: Path, *options: str, within: tuple[str, ...] = ()) -> None:
        self.command, self.path, self.options, self.within = command, path, options, within
        self.log = path.with_suffix(".log")
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *self.within,
                    sys.executable,
                    "-m",
                    "hansa",
                    self.command,
                    str(self.path),
                    "--service",
                    "--json",
                    *self.options,
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        event = self.line()
        while event["event"] != "service":
            event = self.line()
        self.addresses = event["addresses"]

    def line(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the service ended: {self.process.wait()} {self.log.read_text()}"
        read: dict[str, Any] = json.loads(line)
        return read

    @property
    def port(self) -> int:
        return int(self.addresses[0].rpartition(":")[2])

    def state(self, *states: str, run: str = "") -> dict[str, Any]:
        """The next change of a run to one of these states."""
        while True:
            event = self.line()
            if event["event"] == "run" and event["state"] in states and event["run"].startswith(run):
                return event

    def kill(self) -> None:
        """As a crash would."""
        self.process.kill()
        self.process.communicate()

    def end(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.process.communicate(timeout=HANG_S)
        return self.process.returncode

    def children(self) -> list[int]:
        """Processes of its runs."""
        found = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [int(each) for each in found]


class Services:
    """A consortium's services, the hub's at a port of its own choice."""

    def __init__(self, folder: Path, hub_command: str = "aggregator", **changes: Any) -> None:
        self.folder = folder
        self.hub_command = hub_command
        self.started: dict[str, ServiceProcess] = {}
        hub = self.start(HUB, 0, **changes)
        self.port = hub.port
        write_service(folder, HUB, self.port, **changes)

    def start(self, name: str, port: int | None = None, **changes: Any) -> ServiceProcess:
        command = self.hub_command if name == HUB else "party"
        path = write_service(self.folder, name, self.port if port is None else port, **changes)
        self.started[name] = ServiceProcess(command, path)
        return self.started[name]

    def file(self, name: str) -> Path:
        return self.folder / f"{name}-service.toml"

    def run(self, plan: Path, *names: str) -> str:
        """Give a plan to services; the run's name."""
        for name in names or tuple(self.started):
            given = hansa("run", plan, "--service", self.file(name), "--json")
            assert given.exit_code == 0, given.output
        return str(json.loads(given.stdout)["run"])

    def runs(self, name: str) -> dict[str, dict[str, Any]]:
        listed = hansa("runs", "--service", self.file(name), "--all", "--json")
        assert listed.exit_code == 0, listed.output
        found = [json.loads(line) for line in listed.stdout.splitlines()]
        return {each["run"]: each for each in found}

    def until(self, name: str, run: str, *states: str) -> dict[str, Any]:
        """Wait until a service's run is in one of these states."""
        until(lambda: run in (known := self.runs(name)) and known[run]["state"] in states, f"{run} of {name} {states}")
        return self.runs(name)[run]

    def stop(self) -> None:
        for service in self.started.values():
            if service.process.poll() is None:
                service.end()


def ask(url: str) -> tuple[int, str]:
    """Status and text of an answer over HTTP."""
    try:
        with urllib.request.urlopen(url, timeout=HANG_S) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
