"""The known name that a misspelt one probably means."""

from __future__ import annotations

from collections.abc import Iterable

MOST_CHARACTERS = 60
"""Of a name that are compared: a name of a megabyte must not take minutes."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that differs from `name` in fewest characters; None where none is near. Case and signs do not count.

    Near is one character, or a quarter of the name's where that is more.
    """
    given = _characters(name)
    distances = {other: _edits(given, _characters(other)) for other in known}
    if not distances:
        return None
    near = min(distances, key=distances.__getitem__)
    return near if distances[near] <= max(1, len(given) // 4) else None


def _characters(name: str) -> str:
    return "".join(character for character in name.lower() if character.isalnum())[:MOST_CHARACTERS]


def _edits(a: str, b: str) -> int:
    """Characters to put in, take out or change to make `b` of `a` (Levenshtein)."""
    row = list(range(len(b) + 1))
    for i, own in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, other in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (own != other))
    return row[-1]
