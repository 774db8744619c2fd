"""TOML: how each of the files that people hold is read and written."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import tomli_w

from hansa.errors import HansaError
from hansa.files import read_text

MOST_LEVELS = 16
"""Of tables and lists in each other; the files of Hansa have three. What is deeper could not even be quoted in an error."""

_MOST_WRITTEN_BITS = 10_000
"""Python writes no longer numbers in digits, though `tomllib` reads them."""


def parse_toml(text: str, where: str, refuse: type[HansaError]) -> dict[str, Any]:
    """TOML text as tables. Raises an error of kind `refuse` with the line of the fault, such as a key that is given twice."""
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # more than TOMLDecodeError: endless digits, arrays in arrays
        raise refuse(f"{where}: not TOML: {error}") from error
    level: list[tuple[str, Any]] = [("", document)]
    for _ in range(MOST_LEVELS):
        level = [item for key, each in level for item in _items(key, each)]
        for key, value in level:
            if isinstance(value, int) and not -(2**63) <= value < 2**63:
                text = str(value) if value.bit_length() < _MOST_WRITTEN_BITS else hex(value)
                raise refuse(
                    f"{where}: {key:.80} is {text:.40}...; expected a number of at most 64 bits, as TOML has them"
                )
    if level:
        raise refuse(
            f"{where}: tables or lists stand in each other more than {MOST_LEVELS} deep; is it the right file?"
        )
    return document


def _items(key: str, value: Any) -> Iterable[tuple[str, Any]]:
    """What stands in a table or a list, each under its key, or the list's."""
    if isinstance(value, dict):
        return ((f"{key}.{name}" if key else name, item) for name, item in value.items())
    return ((key, item) for item in value) if isinstance(value, list) else ()


def read_toml(path: Path, refuse: type[HansaError], cure: str) -> dict[str, Any]:
    """A file of TOML. Raises an error of kind `refuse` with the file, the fault and, where the file cannot be read, the cure."""
    try:
        text = read_text(path)
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, too large, or a NUL in the path
        reason = error.strerror or error if isinstance(error, OSError) else error
        raise refuse(f"{path}: cannot be read: {reason}; {cure}") from error
    return parse_toml(text, str(path), refuse)


def write_toml(document: Mapping[str, Any], heading: str = "") -> str:
    """Tables as TOML text, keys and tables in the order given; `heading` comes first, as lines of a comment."""
    comment = "".join(f"# {line}".rstrip() + "\n" for line in heading.splitlines())
    return comment + tomli_w.dumps(document)
