"""The documents say what the code does: every name stands in the reference, every command of README runs."""

from __future__ import annotations

import ast
import doctest
import importlib
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tomllib
from dataclasses import asdict, fields
from pathlib import Path
from typing import get_args

import click
import msgspec
import pytest

import hansa
import hansa.errors
from hansa.cli.main import AGAIN, REFUSED, main
from hansa.cli.signals import ENDING, Interrupted
from hansa.consortium.policy import KEYS as POLICY_KEYS
from hansa.consortium.policy import Policy, read_policy
from hansa.data.source import read_rows
from hansa.node.config import KEYS, REQUIRED
from hansa.node.events import Ended, Failed, Listening, Noticed
from hansa.node.in_process import train_in_process
from hansa.node.record import Record, State
from hansa.plan import DEFAULT_MIN_CELL_ROWS, LEAST_MIN_CELL_ROWS, MODES, PLAN_KEYS, parse_plan, read_plan
from hansa.protocol.messages import MESSAGES
from hansa.protocol.session import (
    AGGREGATOR,
    AGGREGATOR_MASKED,
    AGGREGATOR_VERIFYING,
    HUB,
    MEMBER,
    PARTY,
    PARTY_MASKED,
    PARTY_VERIFYING,
    diagram,
)
from hansa.roles.run import Binned, Registered, Trained, TreeGrown
from hansa.transport.notices import Kind, Notice
from hansa.trees.metrics import METRICS
from hansa.trees.parameters import ALIASES, NAMES, WITHOUT_EFFECT, Parameters

ROOT = Path(__file__).parent.parent
SOURCE = Path(hansa.errors.__file__).parent
PORT = "7465"
OPERATORS = ("aurora", "borealis", "cirrus")
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TITLED_TOML = re.compile(r"`([\w.-]+\.toml)`[^\n]*:\n\n```toml\n(.*?)^```$", re.MULTILINE | re.DOTALL)
IN_BACKGROUND = ("hansa aggregator", "hansa party")
NO_INPUT_OR_OUTPUT = {
    *("socket", "ssl", "select", "selectors", "asyncio", "threading", "multiprocessing", "subprocess"),
    *("os", "io", "pathlib", "time", "datetime", "tempfile", "shutil", "sys", "logging"),
}


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def section(document: str, title: str) -> str:
    """What stands under the heading `title`, down to the next heading of its rank or above."""
    heading = re.search(rf"^(#+) {re.escape(title)}$", document, re.MULTILINE)
    assert heading, f"no heading {title!r}"
    rest = document[heading.end() :]
    following = re.search(rf"^#{{1,{len(heading[1])}}} ", rest, re.MULTILINE)
    return rest[: following.start()] if following else rest


def table_rows(document: str) -> dict[str, list[str]]:
    """First cell (its backticks taken off) -> the other cells, of every table row that begins with a name in backticks."""
    rows = {}
    for line in document.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.startswith("|") and re.fullmatch(r"`[^`]+`", cells[0]):
            rows[cells[0].strip("`")] = cells[1:]
    return rows


def names_in(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def readme_commands() -> list[str]:
    blocks = [content for kind, content in BLOCK.findall(text("README.md")) if kind == "console"]
    lines = [line for block in blocks for line in block.splitlines()]
    assert all(line.startswith("$ ") for line in lines)
    return [line.removeprefix("$ ") for line in lines]


# --- the reference ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", sorted(main.commands))
def test_every_option_of_a_command_is_in_its_section(command):
    part = section(text("docs/reference.md"), f"hansa {command}")
    listed = table_rows(part)
    options = [p for p in main.commands[command].params if isinstance(p, click.Option)]
    assert set(listed) == {max(option.opts, key=len) for option in options}
    for argument in (p for p in main.commands[command].params if isinstance(p, click.Argument)):
        assert re.search(rf"`hansa {command} [^`]*{argument.name.upper()}", part)
    for option in options:
        said = listed[max(option.opts, key=len)][0].strip("`")
        if option.required:
            assert said == "required"
        elif isinstance(option.default, int | float | str | Path) and not isinstance(option.default, bool):
            assert said == f"{option.default:g}" if isinstance(option.default, float) else said == str(option.default)
        elif option.is_flag:
            assert said == "off"


def test_no_command_is_described_that_is_not_there():
    described = re.findall(r"^### hansa (\S+)$", text("docs/reference.md"), re.MULTILINE)
    assert sorted(described) == sorted(main.commands)


def test_every_plan_key_is_described():
    keys = {f"{table}.{key}" for table, names in PLAN_KEYS.items() if table for key in names}
    keys |= {key for key in PLAN_KEYS[""] if key not in PLAN_KEYS}
    listed = table_rows(section(text("docs/reference.md"), "The plan"))
    assert set(listed) == keys
    assert listed["privacy.min_cell_rows"][0] == str(DEFAULT_MIN_CELL_ROWS)
    assert f"at least {LEAST_MIN_CELL_ROWS}" in listed["privacy.min_cell_rows"][1]


def test_the_coopetitive_files_of_the_reference_are_read():
    plan_text, member_text = (
        c for k, c in BLOCK.findall(section(text("docs/reference.md"), "A coopetitive run")) if k == "toml"
    )
    plan = parse_plan(plan_text, "plan.toml")
    member = tomllib.loads(member_text)
    assert set(member) <= set(KEYS)
    assert set(member["servers"]) == set(plan.servers)
    assert plan.coopetitive.server_links == "direct"
    assert plan.schema.levels
    assert plan.parameters.num_class


def test_every_parameter_is_described_with_its_default():
    part = section(text("docs/reference.md"), "Parameters")
    listed = table_rows(part)
    assert set(listed) == set(NAMES)
    for field, default in asdict(Parameters()).items():
        said = listed[field.rstrip("_")][0].strip("`")
        assert said == ("none" if default in (None, ()) else str(default))
    assert {*ALIASES, *WITHOUT_EFFECT, *METRICS} <= set(names_in(part))


def test_every_parameter_and_metric_is_in_readme():
    assert {*NAMES, *METRICS} - {"objective"} <= set(names_in(section(text("README.md"), "Parameters")))


def test_every_key_of_a_members_file_is_described():
    listed = table_rows(section(text("docs/reference.md"), "A member's own file"))
    assert set(listed) == set(KEYS)
    assert {key for key, cells in listed.items() if cells[0] == "required"} == set(REQUIRED)


def test_every_key_of_a_policy_is_described():
    part = section(text("docs/reference.md"), "A member's policy")
    assert set(POLICY_KEYS) == {
        name for line in part.splitlines() if line.startswith("| `") for name in names_in(line.split("|")[1])
    }
    (example,) = (content for kind, content in BLOCK.findall(part) if kind == "toml")
    assert read_policy(tomllib.loads(example)["policy"], "reference") != Policy()


def test_every_exit_status_is_described():
    rows = re.findall(r"^\| ([\d, ]+) \|", section(text("docs/reference.md"), "Commands"), re.MULTILINE)
    signals = {Interrupted(number).status for number in ENDING}
    assert {int(status) for row in rows for status in row.split(", ")} == {
        0,
        REFUSED,
        click.UsageError.exit_code,
        AGAIN,
        *signals,
    }


def test_everything_that_a_record_holds_is_described():
    part = section(text("docs/reference.md"), "A member's record")
    fields = {field.name for kind in get_args(Record) for field in msgspec.structs.fields(kind)}
    assert {"role", *fields, *get_args(State)} <= set(names_in(part))


def test_every_kind_of_notice_is_described():
    row = table_rows(section(text("docs/reference.md"), "Lines of JSON"))["notice"]
    assert {*get_args(Kind), *(field.name for field in fields(Notice))} <= {
        name for cell in row for name in names_in(cell)
    }


def test_every_event_is_described_with_its_fields():
    rows = [line.split("|") for line in section(text("docs/reference.md"), "Lines of JSON").splitlines() if "|" in line]
    for kind in (Listening, Registered, Binned, TreeGrown, Trained, Noticed, Ended, Failed):
        fields = {field.name for field in msgspec.structs.fields(kind)}
        (row,) = [row for row in rows if f"`{kind.__struct_config__.tag}`" in row[1]]
        assert set(names_in(row[2])) == fields, kind


def test_every_message_is_described_with_its_fields():
    listed = table_rows(section(text("docs/reference.md"), "Messages"))
    for message in MESSAGES:
        fields = [field.name for field in msgspec.structs.fields(message)]
        assert names_in(listed[message.__name__][1]) == fields
    assert {name for name in listed if name[0].isupper()} == {message.__name__ for message in MESSAGES}


def test_every_quantity_that_a_party_contributes_is_described():
    party = ast.parse((SOURCE / "roles" / "party.py").read_text(encoding="utf-8"))
    sent = {
        ast.unparse(call.args[0]).strip("f'\"").replace("{name}", "NAME")
        for call in ast.walk(party)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "_contribute"
    }
    listed = table_rows(section(text("docs/reference.md"), "Messages"))
    assert sent == {name for name in listed if name[0].islower()}


@pytest.mark.parametrize(
    ("tables", "title"),
    [
        ((PARTY, PARTY_MASKED, PARTY_VERIFYING), "a party is"),
        ((AGGREGATOR, AGGREGATOR_MASKED, AGGREGATOR_VERIFYING), "the aggregator is"),
        ((MEMBER,), "a member is"),
        ((HUB,), "the hub is"),
    ],
    ids=["party", "aggregator", "member", "hub"],
)
def test_every_state_is_described(tables, title):
    part = section(text("docs/reference.md"), "States")
    listed = table_rows(part.split(f"| {title} |")[1].split("\n\n")[0])
    assert set(listed) == {state for table in tables for state in table}
    for state in listed:
        legal = [message.__name__ for table in tables for message in table.get(state, ())]
        said = set(names_in(listed[state][0])) & {message.__name__ for message in MESSAGES}
        assert said == set(legal) - {"Abort"}


def test_modes_are_what_the_plan_says():
    rows = table_rows(section(text("README.md"), "Modes"))
    assert set(rows) == set(MODES)
    assert {mode for mode, cells in rows.items() if cells[-1].startswith("yes")} == set(MODES)
    assert all(mode in text("SECURITY.md") for mode in rows)


# --- the architecture ------------------------------------------------------------------------------------------------


def test_the_diagrams_are_those_of_the_tables():
    drawn = [content for kind, content in BLOCK.findall(text("ARCHITECTURE.md")) if kind == "mermaid"]
    tables = (PARTY, AGGREGATOR, PARTY_MASKED, AGGREGATOR_MASKED, PARTY_VERIFYING, AGGREGATOR_VERIFYING, MEMBER, HUB)
    assert drawn == [diagram(table) for table in tables]


def test_the_code_map_is_complete():
    mapped = {name for name in table_rows(section(text("ARCHITECTURE.md"), "Code map")) if name.endswith(".py")}
    there = {str(path.relative_to(SOURCE)) for path in SOURCE.rglob("*.py") if path.name != "__init__.py"}
    assert mapped == there


def test_every_invariant_names_a_test_that_exists():
    invariants = text("ARCHITECTURE.md").split("**Architecture Invariant:**")[1:]
    assert len(invariants) >= 10
    for invariant in invariants:
        named = re.search(r"\(`(tests/\S+\.py)::(test_\w+)`\)", invariant.split("\n\n")[0])
        assert named, f"no test is named: {invariant[:80]}"
        functions = ast.walk(ast.parse(text(named[1])))
        assert named[2] in {node.name for node in functions if isinstance(node, ast.FunctionDef)}, named[0]


def test_every_test_and_file_that_is_named_exists():
    for document in DOCUMENTS:
        content = document.read_text(encoding="utf-8")
        for file, name in re.findall(r"`((?:tests|benchmarks|examples)/[\w/*-]+\.py)(?:::(test_\w+))?", content):
            assert list(ROOT.glob(file)), f"{document.name}: {file}"
            assert not name or f"def {name}(" in text(file), f"{document.name}: {file}::{name}"


@pytest.mark.parametrize("part", ["roles", "protocol"])
def test_roles_and_protocol_do_no_input_or_output(part):
    for path in sorted((SOURCE / part).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            imported = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                imported = [str(node.module)]
            assert not {name.split(".")[0] for name in imported} & NO_INPUT_OR_OUTPUT, path
            called = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
            assert called not in ("open", "print", "input"), path


# --- links, Makefile, CI ---------------------------------------------------------------------------------------------


def anchors(document: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)]+)\)", document.read_text(encoding="utf-8")):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        linked = (document.parent / file).resolve() if file else document
        assert linked.is_file(), target
        assert not anchor or anchor in anchors(linked), target


def test_every_target_that_is_named_is_in_the_makefile():
    targets = set(re.findall(r"^([\w-]+):", text("Makefile"), re.MULTILINE))
    named = {
        name
        for document in DOCUMENTS
        for name in re.findall(r"[`$] ?make (?:PYTHON=\S+ )?([\w-]+)", document.read_text(encoding="utf-8"))
    }
    assert {"demo", "test", "check", "bench", "docs"} <= named <= targets
    assert {"install", "test-all", "clean"} <= targets


def test_the_gate_checks_and_tests():
    gate = ROOT / ".ci" / "run"
    assert os.access(gate, os.X_OK)
    assert {"make check", "make test"} <= set(re.findall(r"make \w+", gate.read_text()))
    subprocess.run(["bash", "-n", str(gate)], check=True)


# --- README, typed as it stands --------------------------------------------------------------------------------------


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


class Terminals:
    """Runs commands in a folder: roles in the background, and any other only once those have ended."""

    def __init__(self, folder: Path) -> None:
        bin_folder = str(Path(sys.executable).parent)
        self.folder = folder
        self.environment = {
            **os.environ,
            "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
            "COLUMNS": "100",
            "OMP_WAIT_POLICY": "PASSIVE",  # XGBoost's threads must not spin while others work
        }
        self.output: dict[str, str] = {}
        self.running: dict[str, subprocess.Popen[str]] = {}

    def type(self, command: str) -> None:
        if not command.startswith(IN_BACKGROUND):
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
        if not command.startswith(IN_BACKGROUND):
            self.wait()

    def wait(self) -> None:
        for command, process in self.running.items():
            self.output[command], _ = process.communicate(timeout=480)
            assert process.returncode == 0, f"$ {command}\n{self.output[command]}"
        self.running = {}

    def stop(self) -> None:
        for process in self.running.values():
            process.kill()
            process.communicate()


@pytest.fixture(scope="module")
def tour(tmp_path_factory):
    """README followed to the letter, but for the port and for `make`, in a folder of its own."""
    folder = tmp_path_factory.mktemp("tour")
    shutil.copytree(ROOT / "examples", folder / "examples")
    port = free_port()
    for name, content in TITLED_TOML.findall(text("README.md")):
        (folder / name).write_text(content.replace(f":{PORT}", f":{port}"), encoding="utf-8")
    terminals = Terminals(folder)
    try:
        for command in readme_commands():
            if not command.startswith("make "):
                terminals.type(command)
        terminals.wait()
    finally:
        terminals.stop()
    return terminals


def test_every_file_that_the_tour_needs_stands_in_readme():
    assert len(TITLED_TOML.findall(text("README.md"))) == text("README.md").count("```toml")
    assert {"python", "hansa", "make"} == {command.split()[0] for command in readme_commands()}


def test_every_command_of_readme_works(tour):
    assert set(tour.output) == {command for command in readme_commands() if not command.startswith("make ")}
    for name in (
        "model.json",
        "members.toml",
        "aurora-model.json",
        "borealis-model.json",
        "scores.csv",
        "hub-record.json",
    ):
        assert (tour.folder / name).stat().st_size > 0
    assert not (tour.folder / "cirrus-model.json").exists()


def test_the_simulation_prints_what_readme_shows(tour):
    shown = next(content for kind, content in BLOCK.findall(text("README.md")) if kind == "text")
    printed = next(output for command, output in tour.output.items() if command.startswith("hansa simulate"))

    def cells(content: str) -> list[list[str]]:
        lines = [line for line in content.splitlines() if line.startswith(("│", "┃"))]
        return [[cell.strip() for cell in re.split("[│┃]", line)[1:-1]] for line in lines]

    # Counts are the same on every host. Scores may move a little: the simulator uses the host's mathematics library.
    expected, got = cells(shown), cells(printed)
    assert expected[0] == got[0]
    assert len(expected) == len(got)
    for row, other in zip(expected, got, strict=True):
        same = 3 if row[0] in OPERATORS else 1
        assert row[:same] == other[:same]
        assert scores(other) == pytest.approx(scores(row), abs=0.02)
    together, pooled = got[-3:-1]
    assert together[1:-1] == pooled[1:-1]


def scores(row: list[str]) -> list[float]:
    """The cells that are numbers of four digits after the point."""
    return [float(cell) for cell in row if re.fullmatch(r"\d+\.\d{4}", cell)]


def test_a_run_over_tls_gives_the_model_of_a_run_in_one_process(tour):
    plan = read_plan(tour.folder / "plan.toml")
    tables = {
        name: read_rows(tour.folder / f"{name}.csv", plan.schema, label_kind=plan.parameters.label_kind)
        for name in plan.parties
    }
    model = train_in_process(plan, tables).outcome.model
    assert (tour.folder / "aurora-model.json").read_bytes() == model
    assert (tour.folder / "borealis-model.json").read_bytes() == model


def test_xgboost_loads_the_model_as_readme_says(tour):
    pytest.importorskip("xgboost")
    scripts = [content for kind, content in BLOCK.findall(text("README.md")) if kind == "python"]
    scripts = [script for script in scripts if "DMatrix(" in script]
    assert len(scripts) == 1
    printed = subprocess.run(
        [sys.executable, "-c", scripts[0]], cwd=tour.folder, check=True, capture_output=True, text=True
    ).stdout
    loaded = [float(number) for number in printed.strip("[]\n").split()]
    ours = [float(line) for line in (tour.folder / "scores.csv").read_text().split()[1:4]]
    assert loaded == pytest.approx(ours, abs=1e-6)


def test_the_readmes_python_runs(tmp_path, monkeypatch, capsys):
    block = re.search(r"```python\n(.*?)```", text("README.md"), re.DOTALL)
    assert block is not None
    subprocess.run([sys.executable, ROOT / "examples" / "make_tables.py", str(tmp_path)], check=True)
    monkeypatch.chdir(tmp_path)
    exec(compile(block[1], "README.md", "exec"), {})
    assert "secure-aggregation: 3 parties" in capsys.readouterr().out


@pytest.mark.parametrize("module", ["hansa.fit", "hansa.model", "hansa.estimators"])
def test_every_example_of_the_public_names_runs(module):
    failed, tried = doctest.testmod(importlib.import_module(module))
    assert tried > 0
    assert failed == 0


def test_every_public_name_stands_in_the_reference():
    told = set(re.findall(r"`(\w+)`", section(text("docs/reference.md"), "Python").split("Rows are frames")[0]))
    assert set(hansa.__all__) - {"__version__"} <= told
    assert all(hasattr(hansa, name) for name in hansa.__all__)
