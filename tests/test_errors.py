"""What errors say."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import hansa.errors
from hansa.errors import in_words

SOURCE = Path(hansa.errors.__file__).parent


def raw_texts(tree: ast.AST) -> Iterator[int]:
    """Lines of f-strings that hold an error of the system as it is, "[Errno 2] ...", where a handler caught one."""
    for handler in ast.walk(tree):
        if isinstance(handler, ast.ExceptHandler) and handler.type and "OSError" in ast.unparse(handler.type):
            for node in ast.walk(ast.Module(handler.body, [])):
                if isinstance(node, ast.FormattedValue) and ast.unparse(node.value) == handler.name:
                    yield node.lineno


def test_a_fault_of_the_system_is_told_in_its_words():
    assert in_words(FileNotFoundError(2, "No such file or directory", "a.toml")) == "No such file or directory"
    assert in_words(OSError("without a number")) == "without a number"
    assert in_words(ValueError("a text")) == "a text"


def test_no_message_holds_an_error_of_the_system_as_it_is():
    assert list(raw_texts(ast.parse("try: ...\nexcept (OSError, ValueError) as e: print(f'no: {e}')"))) == [2]
    found = {path: list(raw_texts(ast.parse(path.read_text("utf-8")))) for path in sorted(SOURCE.rglob("*.py"))}
    assert len(found) > 200
    assert {str(path): lines for path, lines in found.items() if lines} == {}
