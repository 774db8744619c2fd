"""A consortium in a folder, made with the commands that people type, and members' processes to run in it."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
from click.testing import CliRunner, Result

from hansa.cli.main import main
from waiting import HANG_S

PARTIES = ("aurora", "borealis")
HUB = "hub"
FEATURES = ("load", "rsrp", "alarms")

PLAN = """
name = "test"
mode = "federated"

[members]
aggregator = "hub"
parties = ["aurora", "borealis"]

[schema]
features = ["load", "rsrp", "alarms"]
label = "fault"

[privacy]
min_cell_rows = 2

[parameters]
objective = "binary:logistic"
rounds = 3
max_depth = 2
max_bin = 16
"""


ABORTING = PLAN.replace('"borealis"]\n', '"borealis"]\non_dropout = "abort"\n', 1)
"""The run ends with the first process that does."""

LOG_LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (DEBUG|INFO|WARNING|ERROR) \S.*")
AGAIN = 75


def hansa(*arguments: str | Path) -> Result:
    """Run `hansa ARGUMENTS` in this process."""
    return runner().invoke(main, [str(argument) for argument in arguments])


def runner() -> CliRunner:
    """One that keeps both streams apart, which click did not by itself before 8.2."""
    apart = "mix_stderr" in inspect.signature(CliRunner).parameters
    return CliRunner(mix_stderr=False) if apart else CliRunner()


def assert_refused(result: Result, *fragments: str, status: int = 1) -> None:
    """A status, one sentence on standard error after the lines of the log, and no traceback."""
    assert isinstance(result.exception, SystemExit), repr(result.exception)
    refused((result.exit_code, "", result.stderr), *fragments, status=status)


def write_table(path: Path, columns: Mapping[str, Sequence[object] | np.ndarray]) -> Path:
    """A CSV file; None and NaN are empty fields."""
    rows = zip(*columns.values(), strict=True)
    lines = [",".join("" if v is None or v != v else str(v) for v in row) for row in rows]
    path.write_text("\n".join([",".join(columns), *lines]) + "\n")
    return path


def cells(n_rows: int, seed: int) -> dict[str, np.ndarray]:
    """A party's rows: three features, one with missing values, and a label that depends on them."""
    draw = np.random.Generator(np.random.PCG64(seed))
    load = draw.normal(size=n_rows).astype(np.float32)
    rsrp = np.round(draw.normal(-95, 8, n_rows), 1).astype(np.float32)
    alarms = draw.integers(0, 4, n_rows).astype(np.float32)
    fault = (load + alarms + draw.logistic(size=n_rows) > 2).astype(np.int64)
    rsrp[draw.random(n_rows) < 0.2] = np.nan
    return {"load": load, "rsrp": rsrp, "alarms": alarms, "fault": fault}


def parted(folder: Path, files: int) -> Path:
    """The first party's rows as a folder of so many Parquet files."""
    parts = folder / f"{PARTIES[0]}-rows"
    parts.mkdir()
    numbered = f"SELECT *, row_number() OVER () AS n FROM '{folder}/{PARTIES[0]}.csv'"
    for number in range(files):
        duckdb.execute(
            f"COPY (SELECT * EXCLUDE n FROM ({numbered}) WHERE n % {files} = {number}) "
            f"TO '{parts}/part-{number}.parquet' (FORMAT parquet)"
        )
    return parts


def make_consortium(folder: Path, plan: str = PLAN) -> Path:
    """Identities, members file, plan, tables; members' own files are written by `write_member`."""
    for name in (HUB, *PARTIES):
        made = hansa("init", "--no-passphrase", name, "--folder", folder / f"{name}.identity")
        assert made.exit_code == 0, made.output
    cards = [folder / f"{name}.identity" / "card.toml" for name in (HUB, *PARTIES)]
    joined = hansa("members", *cards, "--save", folder / "members.toml")
    assert joined.exit_code == 0, joined.output
    (folder / "plan.toml").write_text(plan)
    for seed, name in enumerate(PARTIES):
        write_table(folder / f"{name}.csv", cells(60 + 20 * seed, seed))
    return folder


def write_member(folder: Path, name: str, port: int, **changes: Any) -> Path:
    """A member's own file; a change to None leaves its key out, `policy`, `engine` and `source` are tables."""
    values: dict[str, Any] = {
        "plan": "plan.toml",
        "members": "members.toml",
        "identity": f"{name}.identity",
        "hub": f"127.0.0.1:{port}",
        "record": f"{name}-record.json",
        "wait_s": HANG_S,
    }
    if name != HUB:
        values |= {"table": f"{name}.csv", "model": f"{name}-model.json"}
    kept = {key: value for key, value in (values | changes).items() if value is not None}
    path = folder / f"{name}.toml"
    tables = {"policy": kept.pop("policy", {})} | ({"engine": kept.pop("engine")} if "engine" in kept else {})
    source = kept.pop("source", None)
    lines = [f"{key} = {json.dumps(value)}" for key, value in kept.items()]
    for table, values in tables.items():
        inner = ", ".join(f"{key} = {json.dumps(value)}" for key, value in values.items())
        lines.append(f"{table} = {{ {inner} }}")
    if source is not None:
        files = source.get("files")
        lines += ["[source]", *(f"{key} = {json.dumps(value)}" for key, value in source.items() if key != "files")]
        if files is not None:
            lines += ["[source.files]", *(f"{json.dumps(key)} = {json.dumps(value)}" for key, value in files.items())]
    path.write_text("\n".join(lines) + "\n")
    return path


class Started:
    """A member's process."""

    def __init__(
        self,
        role: str,
        path: Path,
        *options: str,
        command: Sequence[str] = ("-m", "hansa"),
        before: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.process = subprocess.Popen(
            [*before, sys.executable, *command, role, str(path), *options],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def event(self, kind: str) -> dict[str, Any]:
        """The next event of this kind on standard output; what comes before it is passed over. A hang ends with pytest's limit."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            event: dict[str, Any] = json.loads(line)
            if event["event"] == kind:
                return event
        raise AssertionError(f"the process ended before {kind}: {self.end()}")

    def end(self) -> tuple[int, str, str]:
        """Exit status, the rest of standard output, and standard error, once it has ended."""
        out, err = self.process.communicate(timeout=HANG_S)
        return self.process.returncode, out, err

    def kill(self) -> None:
        """End it as a crash would, if it runs."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


class Consortium:
    """A folder and the processes started in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._started: list[Started] = []

    def start(self, role: str, path: Path, *options: str, **how: Any) -> Started:
        started = Started(role, path, *options, **how)
        self._started.append(started)
        return started

    def start_hub(self, **changes: Any) -> tuple[Started, int]:
        """The aggregator's process, and the port where it listens."""
        hub = self.start("aggregator", write_member(self.folder, HUB, 0, **changes), "--json")
        return hub, hub.event("listening")["port"]

    def start_party(self, name: str, port: int, **changes: Any) -> Started:
        return self.start("party", write_member(self.folder, name, port, **changes))

    def stop(self) -> None:
        for started in self._started:
            started.kill()

    def models(self) -> list[Path]:
        """Model files that were written."""
        return sorted(self.folder.glob("*-model.json"))


def refused(end: tuple[int, str, str], *fragments: str, status: int = 1) -> None:
    """A process's end: a status, one sentence with these fragments after the lines of the log, no traceback."""
    got, _, text = end
    assert got == status, end
    *logged, said = text.strip().splitlines()
    assert all(LOG_LINE.fullmatch(line) for line in logged), text
    assert said.startswith("hansa: "), text
    for fragment in fragments:
        assert fragment in said, text


def logged(text: str, *levels: str) -> list[str]:
    """What the lines of a log say, without their times: those of these levels, or all."""
    lines = [line.split(" ", 2)[1:] for line in text.splitlines() if LOG_LINE.fullmatch(line)]
    return [said for level, said in lines if level in levels or not levels]
