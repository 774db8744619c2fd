"""The documents say what the code does: every name stands in the reference, in the words of the field; links, lines and sizes hold."""

from __future__ import annotations

import ast
import doctest
import html
import importlib
import importlib.util
import inspect
import itertools
import os
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import asdict, fields
from pathlib import Path
from types import ModuleType
from typing import get_args

import click
import msgspec
import pytest

import hansa
import hansa.errors
from declared_keys import KEYS, PLAN_KEYS, REQUIRED, read_policy
from hansa.cli.main import main
from hansa.cli.signals import ENDING, Interrupted
from hansa.consortium.policy import KEYS as POLICY_KEYS
from hansa.consortium.policy import Policy
from hansa.errors import AGAIN, REFUSED, WITHHELD
from hansa.node.events import Ended, Failed, Listening, Noticed
from hansa.node.record import Record, State
from hansa.plan import DEFAULT_MIN_CELL_ROWS, LEAST_MIN_CELL_ROWS, MODES, parse_plan
from hansa.protocol.messages import MESSAGES
from hansa.protocol.session import (
    AGGREGATOR,
    AGGREGATOR_MASKED,
    AGGREGATOR_VERIFYING,
    DESCRIBING_AGGREGATOR,
    DESCRIBING_AGGREGATOR_VERIFYING,
    DESCRIBING_PARTY,
    DESCRIBING_PARTY_VERIFYING,
    HUB,
    LOG_HUB,
    LOG_MEMBER,
    MEMBER,
    PARTY,
    PARTY_MASKED,
    PARTY_VERIFYING,
)
from hansa.roles.run import Binned, Registered, TableDescribed, Trained, TreeGrown
from hansa.service.config import MEMBER_KEYS, ServiceDocument
from hansa.service.health import STATES, metrics_of
from hansa.service.store import ServiceRun
from hansa.service.supervisor import Status
from hansa.transport.notices import Kind, Notice
from hansa.trees.metrics import METRICS
from hansa.trees.parameters import ALIASES, NAMES, WITHOUT_EFFECT, Parameters
from test_words import COINAGES, IDENTIFIERS

ROOT = Path(__file__).parent.parent


def beside_documents(name: str) -> ModuleType:
    """A module of docs/, which is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


generated, root_pages, diagrams = map(beside_documents, ("generated", "root_pages", "diagrams"))
SOURCE = Path(hansa.errors.__file__).parent
DOCUMENTS = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted(ROOT.glob("examples/*/README.md")),
]

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ENTRY = re.compile(r"^\* (`[^`]+`(?:(?:, | or )`[^`]+`)*)(?:, to [^.]*\.)?(?: \((.*?)\))?: (.*)$", re.DOTALL)
LONGEST_LINE = 140
README_WORDS = 1200
ARCHITECTURE_BYTES, SECURITY_BYTES = 10_000, 20_000
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


def items(document: str) -> list[str]:
    """Every item of a list that begins at the margin, on one line."""
    found: list[list[str]] = []
    inside = False
    for line in document.splitlines():
        if line.startswith("* "):
            found.append([line])
            inside = True
        elif inside and line.startswith("  "):
            found[-1].append(line.strip())
        else:
            inside = False
    return [" ".join(lines) for lines in found]


def entries(document: str) -> dict[str, list[str]]:
    """Name -> what stands beside it: rows of tables, and items such as "* `name` (default: 3; allowed: above 0): meaning".

    Of an item these are the parts in parentheses, "default: " and the like taken off, and the meaning.
    """
    found = table_rows(document)
    for item in items(document):
        if match := ENTRY.match(item):
            inside = re.split("; (?=default:|allowed:|fields:|length:)", match[2]) if match[2] else []
            parts = [part.split(": ", 1)[-1] for part in inside]
            for name in names_in(match[1]):
                found[name] = [*parts, match[3]]
    return found


def names_in(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def words(document: str) -> str:
    return " ".join(document.split())


# --- the reference ---------------------------------------------------------------------------------------------------


def commands(group: click.Group = main, before: str = "") -> dict[str, click.Command]:
    """Every command by its words, those of groups too."""
    found: dict[str, click.Command] = {}
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            found |= commands(command, f"{before}{name} ")
        else:
            found[before + name] = command
    return found


COMMANDS = commands()


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_option_of_a_command_is_in_its_section(command):
    part = section(text("docs/reference/commands.md"), f"hansa {command}")
    listed = entries(part)
    options = [p for p in COMMANDS[command].params if isinstance(p, click.Option)]
    assert set(listed) == {max(option.opts, key=len) for option in options}
    for argument in (p for p in COMMANDS[command].params if isinstance(p, click.Argument)):
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
    described = re.findall(r"^## hansa (\S+(?: \S+)?)$", text("docs/reference/commands.md"), re.MULTILINE)
    assert sorted(described) == sorted(COMMANDS)


def test_every_plan_key_is_described():
    keys = {f"{table}.{key}" for table, names in PLAN_KEYS.items() if table for key in names}
    keys |= {key for key in PLAN_KEYS[""] if key not in PLAN_KEYS}
    listed = entries(section(text("docs/reference/plan.md"), "The plan"))
    assert set(listed) == keys
    assert listed["privacy.min_cell_rows"][0] == str(DEFAULT_MIN_CELL_ROWS)
    assert f"at least {LEAST_MIN_CELL_ROWS}" in listed["privacy.min_cell_rows"][1]


def test_the_files_of_a_coopetitive_run_are_read():
    plan_text, member_text = (c for k, c in BLOCK.findall(text("docs/how-to/coopetitive-run.md")) if k == "toml")
    plan = parse_plan(plan_text, "plan.toml")
    member = tomllib.loads(member_text)
    assert set(member) <= set(KEYS)
    assert set(member["servers"]) == set(plan.servers)
    assert plan.coopetitive.server_links == "direct"
    assert plan.schema.levels
    assert plan.parameters.num_class


def test_every_parameter_is_described_with_its_default():
    part = section(text("docs/reference/parameters.md"), "Parameters")
    listed = entries(part)
    assert set(listed) == set(NAMES)
    for field, default in asdict(Parameters()).items():
        said = listed[field.rstrip("_")][0].strip("`")
        assert said == ("none" if default in (None, ()) else str(default))
    assert {*ALIASES, *WITHOUT_EFFECT, *METRICS} <= set(names_in(part))


def test_every_key_of_a_members_file_is_described():
    listed = entries(section(text("docs/reference/member.md"), "A member's own file"))
    assert set(listed) == set(KEYS)
    assert {key for key, cells in listed.items() if cells[0] == "required"} == set(REQUIRED)


def test_every_key_of_a_services_file_is_described():
    page = text("docs/reference/service.md")
    listed = entries(section(page, "A service's file"))
    assert set(listed) == {field.name for field in msgspec.structs.fields(ServiceDocument)} - set(MEMBER_KEYS)
    assert set(MEMBER_KEYS) <= set(names_in(page))
    runs = section(page, "Runs")
    fields = {field.name for field in msgspec.structs.fields(ServiceRun)}
    assert fields | set(STATES) <= set(names_in(runs))
    metrics = {name.removesuffix("_total") for name in names_in(section(page, "Metrics"))}
    assert {family.name for family in metrics_of(Status())} <= metrics


def test_every_key_of_a_policy_is_described():
    part = section(text("docs/reference/member.md"), "A member's policy")
    assert set(POLICY_KEYS) == {
        name for item in items(part) if (match := ENTRY.match(item)) for name in names_in(match[1])
    }
    (example,) = (content for kind, content in BLOCK.findall(part) if kind == "toml")
    assert read_policy(tomllib.loads(example)["policy"], "reference") != Policy()


def test_every_exit_status_is_described():
    rows = re.findall(r"^\| ([\d, ]+) \|", section(text("docs/reference/commands.md"), "Commands"), re.MULTILINE)
    signals = {Interrupted(number).status for number in ENDING}
    assert {int(status) for row in rows for status in row.split(", ")} == {
        0,
        REFUSED,
        WITHHELD,
        click.UsageError.exit_code,
        AGAIN,
        *signals,
    }


def test_everything_that_a_record_holds_is_described():
    part = section(text("docs/reference/member.md"), "A member's record")
    fields = {field.name for kind in get_args(Record) for field in msgspec.structs.fields(kind)}
    assert {"role", *fields, *get_args(State)} <= set(names_in(part))


def test_every_kind_of_notice_is_described():
    row = entries(section(text("docs/reference/commands.md"), "Lines of JSON"))["notice"]
    assert {*get_args(Kind), *(field.name for field in fields(Notice))} <= {
        name for cell in row for name in names_in(cell)
    }


def test_every_event_is_described_with_its_fields():
    listed = entries(section(text("docs/reference/commands.md"), "Lines of JSON"))
    for kind in (Listening, Registered, Binned, TreeGrown, Trained, TableDescribed, Noticed, Ended, Failed):
        fields = [field.name for field in msgspec.structs.fields(kind)]
        assert names_in(listed[kind.__struct_config__.tag][0]) == fields, kind


def test_every_message_is_described_with_its_fields():
    listed = entries(section(text("docs/reference/messages.md"), "Messages"))
    for message in MESSAGES:
        fields = [field.name for field in msgspec.structs.fields(message)]
        assert names_in(listed[message.__name__][1]) == fields, message
    assert {name for name in listed if name[0].isupper()} == {message.__name__ for message in MESSAGES}


def test_every_quantity_that_a_party_contributes_is_described():
    party = ast.parse((SOURCE / "roles" / "summed" / "party.py").read_text(encoding="utf-8"))
    sent = {
        ast.unparse(call.args[0]).strip("f'\"").replace("{name}", "NAME")
        for call in ast.walk(party)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "_contribute"
    }
    listed = entries(section(text("docs/reference/messages.md"), "Messages"))
    assert sent == {name for name in listed if name[0].islower()}


@pytest.mark.parametrize(
    ("tables", "title"),
    [
        ((PARTY, PARTY_MASKED, PARTY_VERIFYING, DESCRIBING_PARTY, DESCRIBING_PARTY_VERIFYING), "A party"),
        (
            (
                *(AGGREGATOR, AGGREGATOR_MASKED, AGGREGATOR_VERIFYING),
                *(DESCRIBING_AGGREGATOR, DESCRIBING_AGGREGATOR_VERIFYING),
            ),
            "The aggregator",
        ),
        ((MEMBER,), "A member of a coopetitive run"),
        ((HUB,), "The hub of a coopetitive run"),
        ((LOG_MEMBER,), "A member that shows its log"),
        ((LOG_HUB,), "The hub that asks for logs"),
    ],
    ids=["party", "aggregator", "member", "hub", "member's log", "hub's logs"],
)
def test_every_state_is_described(tables, title):
    listed = entries(section(text("docs/reference/messages.md"), title))
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


def functions_of(path: Path) -> set[str]:
    """The functions and classes of a module, and the methods of its classes as `Class.method`."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    names = {node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    for node in body:
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{method.name}" for method in node.body if isinstance(method, ast.FunctionDef)}
    return names


def path_of_a_label() -> list[tuple[int, str, list[str]]]:
    """Depth, file and functions of every step."""
    steps: list[tuple[int, str, list[str]]] = []
    for line in section(text("ARCHITECTURE.md"), "The path of one label").splitlines():
        if step := re.match(r"( *)\* `([\w/]+\.py)`: (.*)", line):
            steps.append((len(step[1]) // 4, step[2], names_in(step[3])))
        elif line.startswith("  "):
            steps[-1][2].extend(names_in(line))
    return steps


def imports_of(path: Path) -> set[str]:
    """Modules of hansa that a file imports anywhere, by their files under src/hansa."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("hansa"):
            for module in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names)):
                found.add("/".join(module.split(".")[1:]) + ".py")
    return found


def test_the_path_of_a_label_names_functions_that_exist():
    steps = path_of_a_label()
    assert len(steps) > 25
    for _, file, functions in steps:
        assert functions
        assert set(functions) <= functions_of(SOURCE / file), file


def test_no_step_of_the_path_of_a_label_climbs_back_up():
    above: dict[int, str] = {}
    for depth, file, _ in path_of_a_label():
        above[depth] = file
        if depth:
            assert file in imports_of(SOURCE / above[depth - 1]), f"{above[depth - 1]} does not import {file}"
            assert above[depth - 1] not in imports_of(SOURCE / file), f"{file} imports {above[depth - 1]}"


def test_the_path_of_a_label_begins_at_the_library_and_at_the_command_and_ends_at_the_model():
    files = [file for _, file, _ in path_of_a_label()]
    assert [file for depth, file, _ in path_of_a_label() if depth == 0] == [
        "library/fit.py",
        "cli/main.py",
        "node/run.py",
    ]
    assert {"model.py", "node/model_file.py", "trees/xgboost_json.py"} <= set(files)


def test_what_follows_from_the_code_is_written_anew():
    openings, messages = text("docs/reference/openings.md"), text("docs/reference/messages.md")
    assert openings == generated.openings_page(), "run: python docs/generated.py"
    assert messages == generated.with_diagrams(messages), "run: python docs/generated.py"


def test_the_code_map_is_complete():
    mapped = set(table_rows(text("docs/explanation/code-map.md")))
    there = {str(path.relative_to(SOURCE)) for path in SOURCE.rglob("*.py") if path.name != "__init__.py"}
    assert mapped == there


def test_every_folder_is_in_the_overview():
    folders = {f"{path.name}/" for path in SOURCE.iterdir() if (path / "__init__.py").is_file()}
    listed = table_rows(section(text("ARCHITECTURE.md"), "Code map"))
    assert folders <= set(listed)
    for folder, cells in listed.items():
        for file in names_in(cells[-1]):
            assert (SOURCE / folder / file).is_file(), folder + file


@pytest.mark.parametrize("document", ["ARCHITECTURE.md", "docs/explanation/invariants.md"])
def test_every_invariant_names_a_test_that_exists(document):
    invariants = text(document).split("**Architecture Invariant:**")[1:]
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


CODE_NAME = re.compile(r"(?:\w+\.)*(?:[A-Z][a-z]+[A-Z]\w*|[A-Z]+_[A-Z_]+|_[a-z]\w+|[a-z]+_\w+)")
"""What looks like a name of the code: of a class of two words, a constant, or with an underscore; perhaps with its module."""


def test_every_name_of_the_code_that_is_named_exists():
    sources = [path for part in ("src", "tests", "benchmarks", "docs") for path in (ROOT / part).rglob("*.py")]
    known = set(re.findall(r"\w+", "\n".join(path.read_text(encoding="utf-8") for path in sources)))
    for document in DOCUMENTS:
        for name in re.findall(r"`([\w.]+)`", document.read_text(encoding="utf-8")):
            assert not CODE_NAME.fullmatch(name) or name.split(".")[-1] in known, f"{document.name}: {name}"


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


# --- words ------------------------------------------------------------------------------------------------------------


OF_THE_CODE = ("protection",)
"""Words that are replaced in the code only: in a sentence they are plain English."""


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_documents_speak_the_words_of_the_field(document):
    # Names of tests and of NumPy's functions are their own, and letters of the alphabet are letters.
    prose = re.sub(r"tests/[\w/.:-]+|rng\.beta|(single|lower-case) letters", "", document.read_text(encoding="utf-8"))
    for word, instead in COINAGES.items():
        found = None if word in OF_THE_CODE else re.search(rf"(?i)(?<![\w-])({word})(?![\w-])", prose)
        assert not found, f"write {instead}: {prose[max(0, found.start() - 60) : found.end() + 60]!r}"
    for name, instead in IDENTIFIERS.items():
        assert f"`{name}`" not in prose, f"write {instead}"


def glossary() -> dict[str, list[str]]:
    """Term -> its cells, of every table of the glossary."""
    rows = {}
    for line in text("docs/reference/glossary.md").splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.startswith("| ") and cells[0] not in ("term", "message"):
            rows[cells[0].strip("`")] = cells[1:]
    return rows


def test_every_module_of_the_glossary_exists():
    modules = [names_in(cells[-1])[0] for cells in glossary().values() if len(cells) == 2]
    assert len(modules) > 80
    for module in modules:
        assert (SOURCE / module).is_file(), module


def test_every_message_and_every_role_is_in_the_glossary():
    terms = {term for row in glossary() for term in row.split(", ")}
    assert {message.__name__ for message in MESSAGES} <= terms
    assert {"party", "aggregator", "hub", "owner", "compute server", "receiver", "server", "member"} <= terms
    commands = set(main.commands) & {"aggregator", "party", "hub", "server", "receiver"}
    assert commands <= terms
    assert set(MODES) <= set(names_in(glossary()["mode"][0]))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_line_is_too_long(document):
    for number, line in enumerate(document.read_text(encoding="utf-8").splitlines(), 1):
        assert len(line) <= LONGEST_LINE, f"{document.name}, line {number}: {len(line)} characters"


def test_the_front_door_is_one_page():
    assert len(re.findall(r"\S*\w\S*", text("README.md"))) <= README_WORDS


@pytest.mark.parametrize(
    ("document", "most"), [("ARCHITECTURE.md", ARCHITECTURE_BYTES), ("SECURITY.md", SECURITY_BYTES)]
)
def test_overviews_stay_short(document, most):
    assert len(text(document).encode()) <= most


def test_security_begins_with_the_choice_of_a_mode():
    headings = re.findall(r"^## (.*)$", text("SECURITY.md"), re.MULTILINE)
    assert headings[0] == "Which mode do I need"
    assert set(MODES) <= set(names_in(section(text("SECURITY.md"), headings[0])))


def test_every_decision_has_its_parts_and_is_listed():
    records = sorted((ROOT / "docs" / "decisions").glob("0*.md"))
    assert [int(record.name[:4]) for record in records] == list(range(1, len(records) + 1))
    for record in records:
        content = record.read_text(encoding="utf-8")
        assert re.match(r"# \d+\. .+\n\n\*\d{4}-\d{2}-\d{2}\*\n", content), record.name
        assert re.findall(r"^## (.*)$", content, re.MULTILINE) == ["Context", "Measured", "Decision", "Consequences"]
        assert f"]({record.name})" in text("docs/decisions/index.md")


# --- links, site, Makefile, CI ----------------------------------------------------------------------------------------


def anchors(document: Path) -> set[str]:
    content = re.sub(r"^```.*?^```$", "", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", content, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)]+)\)", document.read_text(encoding="utf-8")):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        linked = (document.parent / file).resolve() if file else document
        assert linked.is_file(), target
        assert not anchor or anchor in anchors(linked), target


def test_a_link_between_documents_is_the_same_on_the_site():
    known = {"README.md": "index.md", "SECURITY.md": "security.md", "examples/a/README.md": "examples/a.md"}
    moved = root_pages.site_links("[x](../../SECURITY.md#y) [z](plan.md)", "docs/reference/commands.md", known)
    assert moved == "[x](../security.md#y) [z](plan.md)"
    assert root_pages.site_links("[x](docs/how-to/deploy.md#a)", "README.md", known) == "[x](how-to/deploy.md#a)"
    assert (
        root_pages.site_links("[x](../../docs/how-to/deploy.md)", "examples/a/README.md", known)
        == "[x](../how-to/deploy.md)"
    )
    assert (
        root_pages.site_links("[x](#here) [y](https://a.b/c.md)", "README.md", known)
        == "[x](#here) [y](https://a.b/c.md)"
    )


def test_every_page_is_in_the_navigation_of_the_site():
    listed = set(re.findall(r"[\w/-]+\.md$", text("mkdocs.yml"), re.MULTILINE))
    there = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    there = {path for path in there if not path.startswith("decisions/0")}
    assert listed >= there
    assert listed - there == set(root_pages.ROOT_PAGES.values())


def test_make_docs_lets_no_warning_pass():
    recipe = text("Makefile").split("\ndocs:")[1].split("\n\n")[0]
    assert "--strict" in recipe
    assert "--quiet" not in recipe, "mkdocs counts no warning then"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built without a warning."""
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    folder = tmp_path_factory.mktemp("site") / "site"
    built = subprocess.run(
        # Not --quiet: it keeps warnings from being counted, and --strict then lets them pass.
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr
    return folder


def test_the_site_has_every_public_name(site):
    api = (site / "reference" / "api.html").read_text(encoding="utf-8")
    for name in set(hansa.__all__) - {"__version__"}:
        assert re.search(rf'id="hansa[\w.]*\.{name}"', api), name


FOREIGN = re.compile(
    r"""<(?:script|link|img|iframe|source|object)\b[^>]*\s(?:src|href|data)=["']?(?:https?:)?//[^>]*>"""
)
IN_STYLE = re.compile(r"(?:@import|url\()\s*[\"']?(?:https?:)?//[^)\s]*")


def foreign(text: str) -> list[str]:
    """What a page takes from another host when it is opened."""
    return [found for found in FOREIGN.findall(text) if 'rel="canonical"' not in found] + IN_STYLE.findall(text)


def test_the_site_takes_nothing_from_another_host(site):
    pages = [*site.rglob("*.html"), *site.rglob("*.css")]
    assert len(pages) > 60
    for page in pages:
        assert foreign(page.read_text(encoding="utf-8")) == [], page


def test_what_is_taken_from_another_host_is_noticed():
    page = '<script defer src="https://a.b/c.js"></script><a href="https://a.b">x</a><link rel=x href=//a.b/c.css>'
    assert len(foreign(page + "<style>@import 'https://a.b'; p { background: url(//a.b/c.png) }</style>")) == 4


def test_diagrams_are_drawn_with_all_that_they_say(site):
    written = 0
    for document in DOCUMENTS:
        for source in re.findall(
            r"^```mermaid\n(.*?)^```$", document.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
        ):
            written += 1
            picture = diagrams.drawn(source)
            texts = " ".join(html.unescape(text) for text in re.findall(r"<text[^>]*>([^<]*)</text>", picture))
            for line in source.splitlines()[1:]:
                states = re.findall(r"\b\w+\b(?= -->)|(?<=--> )\w+", line) if source.startswith("state") else []
                labels = re.findall(r'\["(.+?)"\]|(?: as |: |loop )([^"]+)$', line)
                for label in (*states, *(one or other for one, other in labels)):
                    assert label in texts, (document.name, line)
            width, height = map(float, re.search(r'viewBox="0 0 (\d+) (\d+)"', picture).groups())
            for x in re.findall(r'<text x="([-\d.]+)"', picture):
                assert 0 < float(x) < width
            assert height > 40
    assert written >= 20
    assert (
        sum(page.read_text(encoding="utf-8").count('<svg class="diagram"') for page in site.rglob("*.html")) == written
    )
    with pytest.raises(ValueError, match="a line of a diagram is not understood: 'a ==> b'"):
        diagrams.drawn("stateDiagram-v2\n a ==> b")


def test_search_works_from_a_folder_and_asks_no_other_host(site):
    chromium = shutil.which("chromium")
    sync_api = pytest.importorskip("playwright.sync_api")
    if chromium is None:
        pytest.skip("there is no chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page, asked = browser.new_page(), []
        page.on("request", lambda request: asked.append(request.url))
        page.goto((site / "index.html").as_uri())
        page.keyboard.press("/")
        page.keyboard.type("min_cell_rows")
        found = page.locator(".md-search-result__item a").first
        found.wait_for(timeout=60_000)
        assert (found.get_attribute("href") or "").startswith("file:")
        browser.close()
    assert [url for url in asked if not url.startswith(("file:", "data:", "about:"))] == []


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


# --- Python ------------------------------------------------------------------------------------------------------------


WITH_EXAMPLES = (
    *("library.describe", "library.drift", "data.description", "data.drift", "library.evaluate"),
    *("library.fit", "library.cross_validation", "library.tuning", "library.estimators"),
    *("simulation.evaluation", "simulation.cross_validation", "simulation.tuning"),
    *("model", "node.in_process", "data.schema", "data.source"),
    *(
        "trees.ensemble",
        "trees.parameters",
        "trees.xgboost_json",
        "transport.recording",
        "errors",
        "plan.plan",
        "plan.reading",
        "plan.writing",
    ),
)


@pytest.mark.parametrize("module", [f"hansa.{name}" for name in WITH_EXAMPLES])
def test_every_example_of_the_public_names_runs(module):
    failed, tried = doctest.testmod(importlib.import_module(module), optionflags=doctest.ELLIPSIS)
    assert tried > 0
    assert failed == 0


def test_every_public_name_stands_in_the_reference():
    page = text("docs/reference/api.md")
    told = set(re.findall(r"`(\w+)`", page.split("Rows are frames")[0]))
    assert set(hansa.__all__) - {"__version__"} <= told
    assert all(hasattr(hansa, name) for name in hansa.__all__)
    for place in re.findall(r"^::: (.+)$", page, re.MULTILINE):
        module, _, name = place.rpartition(".")
        assert getattr(importlib.import_module(module), name) is getattr(hansa, name)


@pytest.mark.parametrize("name", sorted(set(hansa.__all__) - {"__version__"}))
def test_every_public_name_has_an_example_and_sections(name):
    told = inspect.getdoc(getattr(hansa, name)) or ""
    assert ">>> " in told
    sections = {"Parameters", "Attributes", "Returns", "Examples"}
    assert {line for line, under in itertools.pairwise(told.splitlines()) if re.fullmatch("-{4,}", under)} & sections
