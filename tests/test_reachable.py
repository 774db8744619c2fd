"""No dead twins: every definition of `src/` is reached from the public names or from a command, or a test says why not.

A definition that only tests use certifies something that no run does. Found by reading the source (`ast`), so a name that is built
from text at run time counts as unused; there is none.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import hansa
import hansa.errors

SOURCE = Path(hansa.errors.__file__).parent

ENTRIES = {("hansa.cli.main", "main"), ("hansa.__main__", "main")}
"""Where a process begins, beside the names that the package exports."""

BY_OTHERS: dict[str, str] = {}
"""Methods that something outside the project calls, or a protocol of Python's: name -> by whom."""

Definition = tuple[str, str]
"""(module, name); a method's name is `Class.method`."""


def module_of(path: Path, source: Path = SOURCE) -> str:
    parts = ("hansa", *path.relative_to(source).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


class Source:
    """All definitions of a source tree, and what each one names.

    Attributes:
        definitions: (module, name) -> the statement. roots: definitions and statements that run whatever happens.
    """

    def __init__(self, modules: dict[str, ast.Module]) -> None:
        self.definitions: dict[Definition, list[ast.AST]] = {}
        self.methods: dict[str, list[Definition]] = {}
        self.imports: dict[str, dict[str, str]] = {}
        self.statements: dict[str, list[ast.stmt]] = {}
        self.modules = modules
        for module, tree in modules.items():
            self.imports[module] = dict(imported_names(tree))
            self.statements[module] = []
            for statement in flat(tree.body):
                self._note(module, statement)

    def _note(self, module: str, statement: ast.stmt) -> None:
        match statement:
            case ast.FunctionDef(name=name):
                if not name.startswith("__"):
                    self.definitions.setdefault((module, name), []).append(statement)
                else:
                    self.statements[module].append(statement)
            case ast.ClassDef(name=name):
                self.definitions.setdefault((module, name), []).append(statement)
                for part in statement.body:
                    if isinstance(part, ast.FunctionDef) and not part.name.startswith("__"):
                        self.definitions.setdefault((module, f"{name}.{part.name}"), []).append(part)
                        self.methods.setdefault(part.name, []).append((module, f"{name}.{part.name}"))
            case ast.Assign(targets=targets):
                for target in targets:
                    for node in ast.walk(target):
                        if isinstance(node, ast.Name) and not node.id.startswith("__"):
                            self.definitions.setdefault((module, node.id), []).append(statement)
            case ast.AnnAssign(target=ast.Name(id=name)):
                self.definitions.setdefault((module, name), []).append(statement)
            case ast.Import() | ast.ImportFrom():
                pass
            case _:
                self.statements[module].append(statement)

    def public_methods(self, place: Definition) -> Iterator[Definition]:
        """Methods of a class that is exported, and of the classes of this source that it is made of."""
        module, name = place
        for node in self.definitions.get(place, ()):
            if isinstance(node, ast.ClassDef):
                yield from (
                    found for found in self.definitions if found[0] == module and found[1].startswith(f"{name}.")
                )
                for base in node.bases:
                    if isinstance(base, ast.Name):
                        for found in self._resolve(module, base.id):
                            yield from self.public_methods(found)

    def _is_called_from_outside(self, module: str, node: ast.ClassDef) -> bool:
        """Whether a class is made of one that is not of this source, whose owner may call any method: click's, logging's."""
        bases = [base for base in node.bases if isinstance(base, ast.Name | ast.Attribute)]
        names = [ast.unparse(base) for base in bases]
        outside = [name for name in names if not any(self._resolve(module, name)) and name not in PLAIN_BASES]
        return bool(outside)

    def reached(self, entries: set[Definition]) -> set[Definition]:
        """Every definition that `entries`, registered commands and statements at import lead to."""
        waiting = [found for entry in entries for found in self._resolve(*entry)]
        waiting += [method for place in tuple(waiting) for method in self.public_methods(place)]
        for module, statements in self.statements.items():
            for statement in statements:
                waiting.extend(self._named(module, statement))
        for place, nodes in self.definitions.items():
            if any(registers(node) for node in nodes):
                waiting.append(place)
        seen: set[Definition] = set()
        held: set[Definition] = set()  # methods that are called by name, of classes that nothing has made yet
        while waiting:
            place = waiting.pop()
            module, name = place
            if place in seen:
                continue
            if "." in name and (module, name.split(".")[0]) not in seen:
                held.add(place)
                continue
            seen.add(place)
            waiting += [method for method in held if method[0] == module and method[1].startswith(f"{name}.")]
            for node in self.definitions[place]:
                waiting.extend(self._named(module, node))
        return seen

    def _named(self, module: str, node: ast.AST) -> Iterator[Definition]:
        """What the code of a definition names. The methods of a class count on their own, its other parts with it."""
        skipped = set()
        if isinstance(node, ast.ClassDef):
            skipped = {
                part for part in node.body if isinstance(part, ast.FunctionDef) and not part.name.startswith("__")
            }
            called = self._is_called_from_outside(module, node)
            for part in skipped:
                if called or any(not is_plain(decorator) for decorator in part.decorator_list):
                    yield module, f"{node.name}.{part.name}"
        local = dict(imported_names(node))
        if isinstance(node, ast.ClassDef):
            used = {part.id for part in walk(node, skipped) if isinstance(part, ast.Name)}
            yield from ((module, f"{node.name}.{part.name}") for part in skipped if part.name in used)
        for part in walk(node, skipped):
            match part:
                case ast.Name(id=used, ctx=ast.Load()):
                    if used in local:
                        yield from self._resolve(*local[used].rsplit(".", 1)) if "." in local[used] else ()
                    else:
                        yield from self._resolve(module, used)
                case ast.Attribute(value=value, attr=used):
                    yield from self.methods.get(used, ())
                    if isinstance(value, ast.Name):
                        target = local.get(value.id) or self.imports[module].get(value.id)
                        if target in self.modules:
                            yield from self._resolve(target, used)
                case ast.Call(func=ast.Name(id="getattr"), args=[_, ast.Constant(value=str(used)), *_]):
                    yield from self.methods.get(used, ())

    def _resolve(self, module: str, name: str) -> Iterator[Definition]:
        """Where a name that a module knows is defined, through any number of modules that pass it on."""
        for _ in range(10):
            if (module, name) in self.definitions:
                yield module, name
                return
            target = self.imports.get(module, {}).get(name)
            if target is None or "." not in target:
                return
            module, name = target.rsplit(".", 1)


def flat(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements at the top of a module, those under `if` and `try` too."""
    for statement in body:
        if isinstance(statement, ast.If | ast.Try):
            for part in ("body", "orelse", "finalbody"):
                yield from flat(getattr(statement, part, []))
        else:
            yield statement


def walk(node: ast.AST, skipped: set[ast.AST]) -> Iterator[ast.AST]:
    yield node
    for child in ast.iter_child_nodes(node):
        if child not in skipped:
            yield from walk(child, skipped)


def imported_names(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """(name here, whole name there) of every import under `tree`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.asname or alias.name.split(".")[0], alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((alias.asname or alias.name, f"{node.module}.{alias.name}") for alias in node.names)


PLAIN = ("property", "staticmethod", "classmethod", "cached_property", "contextmanager", "njit", "overload", "intrinsic", "cache",
         "dataclass", "lru_cache", "abstractmethod", "wraps", "runtime_checkable")  # fmt: skip


PLAIN_BASES = (
    "Protocol",
    "Exception",
    "NamedTuple",
    "ConnectionError",
    "msgspec.Struct",
    "Enum",
    "StrEnum",
    "ValueError",
    "Generic",
)
"""Classes that call no method of those made of them."""


def is_plain(decorator: ast.expr) -> bool:
    """Whether a decorator only changes what it stands on; others hand it to somebody who calls it (click, jinja2, numba)."""
    target = decorator.func if isinstance(decorator, ast.Call) else decorator
    name = target.attr if isinstance(target, ast.Attribute) else getattr(target, "id", "")
    return name in PLAIN


def registers(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef) and any(not is_plain(decorator) for decorator in node.decorator_list)


def read_source() -> Source:
    return Source(
        {module_of(path): ast.parse(path.read_text(encoding="utf-8")) for path in sorted(SOURCE.rglob("*.py"))}
    )


def unreached(source: Source, entries: set[Definition]) -> list[str]:
    reached = source.reached(entries)
    return sorted(
        f"{module}: {name}"
        for module, name in source.definitions
        if (module, name) not in reached and name.rsplit(".", 1)[-1] not in BY_OTHERS
    )


def test_nothing_in_the_source_is_there_for_tests_only():
    source = read_source()
    exported = {("hansa", name) for name in hansa.__all__ if name != "__version__"}
    estimators = {("hansa.estimators", name) for name in ("HansaClassifier", "HansaRegressor")}
    assert unreached(source, ENTRIES | exported | estimators) == []


def test_what_nobody_reaches_is_found():
    dead = """
LIMIT = 3
SPARE = 4
def used(): return _helper(LIMIT)
def _helper(x): return x
def unused(): return SPARE
class Kept:
    def asked(self): return 1
    def never(self): return 2
def main(): return used(), Kept().asked()
"""
    source = Source({"hansa.a": ast.parse(dead)})
    assert unreached(source, {("hansa.a", "main")}) == ["hansa.a: Kept.never", "hansa.a: SPARE", "hansa.a: unused"]
