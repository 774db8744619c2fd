"""UBJSON as XGBoost writes it (`Booster.save_model("x.ubj")`), read strictly into what `json.loads` would give.

This is the part of draft 12 that XGBoost has: lengths and counts are int64 behind `L`, numbers are big-endian, arrays may have one
type (`$`) and a count (`#`). Every byte of a file is accounted for. What is read takes at most a fixed multiple of the file's memory.

Format: https://ubjson.org/ and XGBoost's `src/common/json.cc`.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from hansa.errors import DataError

MOST_NESTED = 64
"""Objects and arrays within each other; a model has 8."""

NUMBERS = {"i": ">i1", "U": ">u1", "I": ">i2", "l": ">i4", "L": ">i8", "d": ">f4", "D": ">f8"}
"""Markers of numbers, and their dtypes."""

CONSTANTS = {"T": True, "F": False, "Z": None}


def decode(document: bytes) -> Any:
    """The value of a document: objects as dict, arrays as list, numbers as int or float.

    Raises:
        DataError: naming the byte where it is no UBJSON, an object has a key twice, or values are nested too deeply.
    """
    reader = _Reader(document)
    value = reader.value(reader.marker(), 0)
    if reader.at != len(document):
        raise reader.wrong("the end of the file")
    return value


class _Reader:
    """A position in a document."""

    def __init__(self, document: bytes) -> None:
        self.at = 0
        self._document = document

    def wrong(self, expected: str) -> DataError:
        return DataError(f"not a UBJSON document: byte {self.at}: expected {expected}")

    def take(self, count: int, what: str) -> bytes:
        taken = self._document[self.at : self.at + count]
        if count < 0 or len(taken) != count:
            raise self.wrong(f"{count} bytes of {what}")
        self.at += count
        return taken

    def marker(self) -> str:
        return self.take(1, "a marker").decode("latin-1")

    def value(self, marker: str, depth: int) -> Any:
        if marker in NUMBERS:
            return self._numbers(marker, 1)[0]
        if marker in CONSTANTS:
            return CONSTANTS[marker]
        if marker == "S":
            return self._text()
        if marker not in "{[":
            self.at -= 1
            raise self.wrong(f"a marker, one of {' '.join([*NUMBERS, *CONSTANTS, 'S', '{', '['])}")
        if depth == MOST_NESTED:
            raise self.wrong(f"at most {MOST_NESTED} objects and arrays within each other")
        return self._object(depth + 1) if marker == "{" else self._array(depth + 1)

    def _numbers(self, marker: str, count: int) -> list[Any]:
        dtype = np.dtype(NUMBERS[marker])
        return list(np.frombuffer(self.take(count * dtype.itemsize, "numbers"), dtype).tolist())

    def _length(self) -> int:
        if self.marker() != "L":
            self.at -= 1
            raise self.wrong("a length or a closing }")
        (length,) = struct.unpack(">q", self.take(8, "a length"))
        return int(length)

    def _text(self) -> str:
        octets = self.take(self._length(), "text")
        try:
            return octets.decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.wrong("text in UTF-8 before it") from error

    def _object(self, depth: int) -> dict[str, Any]:
        members: dict[str, Any] = {}
        while self.marker() != "}":
            self.at -= 1
            key = self._text()
            if key in members:
                raise self.wrong(f"another key than {key!r:.80}, which the object has already")
            members[key] = self.value(self.marker(), depth)
        return members

    def _array(self, depth: int) -> list[Any]:
        marker = self.marker()
        if marker == "$":
            kind = self.marker()
            if kind not in NUMBERS or self.marker() != "#":
                raise self.wrong(f"an array's type, one of {' '.join(NUMBERS)}, and # before it")
            return self._numbers(kind, self._length())
        if marker == "#":
            # Not range(count): a count may be any number, and each value takes a byte at least.
            count = self._length()
            if not 0 <= count <= len(self._document) - self.at:
                raise self.wrong(f"{count} values")
            return [self.value(self.marker(), depth) for _ in range(count)]
        items = []
        while marker != "]":
            items.append(self.value(marker, depth))
            marker = self.marker()
        return items
