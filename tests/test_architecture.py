"""Which part may import which, and what nobody may import at all. Read from the source by `ast`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import hansa.errors

SOURCE = Path(hansa.errors.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))

ALLOWED: dict[str, tuple[str, ...]] = {
    "errors": (),
    "files": ("errors",),
    "views": ("errors", "printable"),
    "data": ("errors", "files", "views"),
    "spelling": (),
    "declared": ("errors", "spelling"),
    "toml": ("errors", "files"),
    "trees": ("errors", "spelling"),
    "transport": ("errors", "files"),
    "secure": ("errors",),
    "consortium": ("errors", "files", "declared", "toml", "plan", "secure"),
    "mpc": ("errors", "secure"),
    "oblivious": ("errors", "secure", "mpc", "data.quantiles"),
    "protocol": ("errors",),
    "plan": ("errors", "declared", "toml", "data.schema", "trees.losses", "trees.parameters"),
    "roles": ("errors", "plan", "data", "trees", "protocol", "transport", "secure", "mpc", "oblivious", "consortium"),
    "engines": ("errors", "files", "declared", "plan", "data", "trees", "consortium.ledger", "roles.summed"),
    "printable": (),
    "version": (),
    "exposure": ("plan", "mpc.openings", "secure.mask_graph", "trees.losses"),
    "node": (
        "errors",
        "files",
        "declared",
        "toml",
        "plan",
        "data",
        "trees",
        "protocol",
        "transport",
        "secure",
        "mpc",
        "oblivious",
        "consortium",
        "roles",
        "engines",
        "printable",
        "exposure",
        "version",
        "views",
    ),
    "service": (
        "errors",
        "files",
        "declared",
        "toml",
        "plan",
        "trees.xgboost_json",
        "transport",
        "consortium",
        "roles.run",
        "node",
        "version",
    ),
    "console": (
        "errors",
        "files",
        "declared",
        "toml",
        "plan",
        "data",
        "trees",
        "consortium",
        "roles.run",
        "node",
        "service",
        "simulation",
        "prediction",
        "views",
        "printable",
        "exposure",
        "version",
    ),
    "simulation": (
        "errors",
        "files",
        "toml",
        "plan",
        "data",
        "trees",
        "transport",
        "consortium",
        "roles",
        "node",
        "printable",
        "views",
    ),
    "cli": (
        "errors",
        "files",
        "printable",
        "plan",
        "data",
        "trees.ensemble",
        "trees.losses",
        "trees.parameters",
        "consortium",
        "roles.run",
        "node",
        "service",
        "console",
        "simulation",
        "transport.routing",
        "prediction",
        "mlflow",
        "views",
        "demo",
    ),
}
"""Part -> what it may import of the other parts. Parts that are not listed sit on top."""

TOP = ("cli", "demo", "__main__")
"""Imported by nobody but each other."""

BANNED = ("pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "random")
SEEDED = ("demo", "simulation/tables.py")
"""Where seeded draws are wanted: made-up tables, and the split of a table that one person simulates with."""

GENERATORS = ("Generator", "PCG64", "SeedSequence", "default_rng")
OPTIONAL = (
    "xgboost",
    "sklearn",
    "matplotlib",
    "pyarrow",
    "pandas",
    "shap",
    "jinja2",
    "mlflow",
    "sqlalchemy",
    "optuna",
    "model_signing",
    "psycopg",
    "prometheus_client",
    "starlette",
    "uvicorn",
    "argon2",
    "webauthn",
    "opentelemetry",
)


def part_of(path: Path) -> str:
    """The part of the package that a file belongs to: a subpackage or a top-level module."""
    return path.relative_to(SOURCE).with_suffix("").parts[0]


def imported(tree: ast.AST, package: str = "hansa") -> Iterator[tuple[str, int]]:
    """(module, line) of every import under `tree`; names taken from a package count as modules of it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import; write the whole name"
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def top_level(tree: ast.Module) -> Iterator[ast.AST]:
    """Statements that run when the module is imported: everything outside functions."""
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        yield node
        waiting.extend(ast.iter_child_nodes(node))


def is_numpy_random(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Attribute)
        and node.attr == "random"
        and isinstance(node.value, ast.Name)
        and node.value.id in ("np", "numpy")
    )


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def under(module: str, prefix: str) -> bool:
    return module == prefix or module.startswith(prefix + ".")


def violations(path: Path, tree: ast.Module) -> list[str]:
    """Imports of `path` that its part is not allowed."""
    part = part_of(path)
    if part == "__init__":
        return []
    found = []
    for module, line in imported(tree):
        if not under(module, "hansa") or module == "hansa.__version__":
            continue
        target = module.removeprefix("hansa.")
        own = target.split(".")[0] == part
        above = part not in TOP and any(under(target, top) for top in TOP)
        if own:
            continue
        if part in ALLOWED:
            fine = not above and any(under(target, allowed) for allowed in ALLOWED[part])
        else:
            fine = part in TOP or not any(under(target, top) for top in TOP)
        if not fine:
            found.append(f"{path.relative_to(SOURCE)}:{line}: {part} may not import {module}")
    return found


def test_the_source_was_found():
    assert {part_of(path) for path in FILES} >= {*ALLOWED, "demo"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_parts_import_only_what_lies_below_them(path):
    assert violations(path, parse(path)) == []


def test_no_call_climbs_back_up():
    """Parts can be stacked: whoever follows an argument from `hansa.fit` or from a command goes down only."""
    below: list[str] = []
    left = {part: {other.split(".")[0] for other in allowed} & {*ALLOWED} for part, allowed in ALLOWED.items()}
    while left:
        ready = sorted(part for part, others in left.items() if others <= {*below})
        assert ready, f"{sorted(left)} need each other"
        below += ready
        left = {part: others for part, others in left.items() if part not in ready}
    assert below.index("node") < below.index("simulation") < below.index("cli")


def test_benchmarks_and_examples_do_not_need_the_command_line():
    for folder in ("benchmarks", "examples"):
        for path in (SOURCE.parents[1] / folder).rglob("*.py"):
            assert not [module for module, _ in imported(parse(path)) if under(module, "hansa.cli")], path


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_no_pickle_and_no_predictable_randomness(path):
    tree = parse(path)
    modules = [(module, line) for module, line in imported(tree)]
    banned = [entry for entry in modules if any(under(entry[0], name) for name in BANNED)]
    assert banned == []
    random = [node for node in ast.walk(tree) if is_numpy_random(node)]
    drawn = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Attribute) and node.value in random
    ]
    assert [line for module, line in modules if under(module, "numpy.random")] == []
    loads = [
        keyword.value.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg == "allow_pickle"
    ]
    assert loads == []
    if str(path.relative_to(SOURCE)).startswith(SEEDED):
        assert len(drawn) == len(random)
        assert {node.attr for node in drawn} <= {*GENERATORS}
    else:
        assert [node.lineno for node in random] == []


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_optional_packages_are_imported_where_they_are_used(path):
    if part_of(path) in ("demo", "console") or path.stem == "estimators":
        return
    eager = [
        (module, node.lineno)
        for node in top_level(parse(path))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for module, _ in imported(node)
        if any(under(module, name) for name in OPTIONAL)
    ]
    assert eager == []


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("data/a.py", "from hansa.trees import objective"),
        ("trees/a.py", "import hansa.data.source"),
        ("protocol/a.py", "from hansa import plan"),
        ("transport/a.py", "def f():\n    from hansa.protocol.messages import Join"),
        ("plan/a.py", "from hansa.data.source import Rows"),
        ("roles/a.py", "from hansa.cli.main import main"),
        ("estimators.py", "from hansa.demo import report"),
    ],
)
def test_a_wrong_import_is_noticed(file, text):
    assert len(violations(SOURCE / file, ast.parse(text))) == 1


def test_imports_in_a_class_or_condition_count_as_eager():
    tree = ast.parse("if x:\n    import pandas\nclass A:\n    import sklearn\ndef f():\n    import xgboost\n")
    eager = [m for node in top_level(tree) if isinstance(node, ast.Import) for m, _ in imported(node)]
    assert sorted(eager) == ["pandas", "sklearn"]


TYPED = ("node", "simulation", "cli", "roles", "console")
"""Parts whose public signatures and fields say what each value is."""

FREE_FORM = {("node/plan_report.py", "values")}
"""Where values really are of any kind: the keys of a plan, each with a value of its own."""


def untyped(path: Path) -> Iterator[tuple[str, str]]:
    """(file, name) of every public function that takes or gives, and every public field that holds, a dict of anything."""
    place = str(path.relative_to(SOURCE))
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.FunctionDef) and (not node.name.startswith("_") or node.name == "__init__"):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            given = [a.annotation for a in arguments if a.annotation is not None]
            named = [(node.name, note) for note in [*given, *([] if node.returns is None else [node.returns])]]
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            fields = (each for each in node.body if isinstance(each, ast.AnnAssign))
            named = [(ast.unparse(each.target), each.annotation) for each in fields]
        elif isinstance(node, ast.Assign):
            named = [(ast.unparse(node.targets[0]), node.value)]  # the name of a type
        else:
            continue
        for name, note in named:
            if any(
                kind in ast.unparse(note) for kind in ("dict[str, Any]", "Mapping[str, Any]", "dict[Any", "list[Any]")
            ):
                yield place, name


@pytest.mark.parametrize("part", TYPED)
def test_what_crosses_a_boundary_has_a_struct(part):
    found = {each for path in FILES if part_of(path) == part for each in untyped(path)}
    assert found <= FREE_FORM


def test_a_dict_of_anything_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr("test_architecture.SOURCE", tmp_path)
    path = tmp_path / "a.py"
    path.write_text(
        "Report = Callable[[dict[str, Any]], None]\n"
        "class A:\n    x: Mapping[str, Any]\n    def f(self, a: int, *, b: dict[str, Any]) -> None: ...\n"
        "def g() -> dict[str, Any]: ...\ndef _h() -> dict[str, Any]: ...\nclass _B:\n    y: dict[str, Any]\n"
    )
    assert sorted(name for _, name in untyped(path)) == ["Report", "f", "g", "x"]
