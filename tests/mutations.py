"""Bytes that nearly are what a decoder expects: valid examples with bits flipped, parts cut, lengths changed, values replaced.

Every draw comes from the given generator, so that a number of its seed gives the same bytes again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any

import msgspec

NUMBERS = (0, -1, 2**31, 2**63 - 1, -(2**63), 2**64 - 1, 10**40, 1e308, -0.5, 5e-324)
TEXTS = (
    "",
    "\0",
    "a" * 5000,
    "é\ud800",
    "0001-01-01T00:00:00Z",
    "9999-12-31T23:59:59.999999-12:00",
    "1" * 5000,
    "ab" * 32,
)
MARKS = {
    "@deep@": (b"[" * 3000 + b"]" * 3000, b"\x91" * 3000 + b"\xc0"),
    "@open@": (b'{"a":' * 3000, b"\x81\xa1a" * 3000),
    "@many@": (b"9" * 5000, b"\xcf" + b"\xff" * 8),
    "@utf8@": (b'"\xff\xfe"', b"\xa2\xff\xfe"),
    "@half@": (b'"\\ud800"', b"\xa3\xed\xa0\x80"),
    "@size@": (b"1e999999", b"\xdf\xff\xff\xff\xff"),
}
"""Texts that stand for what no encoder writes: in JSON, and in MessagePack."""

HOSTILE: tuple[Any, ...] = (*NUMBERS, *TEXTS, *MARKS, None, True, [], {}, [[]], {"": None}, [0] * 3000)
"""Values in the place of other values."""

RAW = (
    *(token * 3000 for token in (b"[", b"{", b'{"a":', b"\x91", b"\x81\xa1a", b"9", b"[[", b"a.")),
    *(
        b"1e999999",
        b"0x" + b"f" * 5000,
        b"NaN",
        b"-Infinity",
        b"\\ud800",
        b"\xff",
        b"\xed\xa0\x80",
        b"\xef\xbb\xbf",
        b"\0",
    ),
    *(b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff\xff\xff\xff\xff", b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff"),
    *(
        b"\xc6\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"[$L#L\x7f\xff\xff\xff\xff\xff\xff\xff",
        b"[#L\0\0\0\0\x7f\xff\xff\xff",
    ),
)
"""Bytes between or over other bytes."""

IN_TOML = (
    *(b"-1", b"9223372036854775807", b"1e308", b"nan", b"inf", b"true", b'""', b"[]", b"{}", b'["a", 1]', b"{ a = 1 }"),
    *(b"0x" + b"f" * 5000, b"9" * 5000, b"1979-05-27T07:32:00Z", b"[" * 2000, b'"\\u0000"', b'"' + b"x" * 9000 + b'"'),
)
_ASSIGNED = re.compile(rb"^([^\n=#]+= ?)([^\n]*)$", re.MULTILINE)

Change = Callable[[Random, bytes], bytes]


def mutated(draw: Random, seeds: Sequence[bytes]) -> bytes:
    """One of the seeds, changed in one to three ways; now and then a seed as it is."""
    content = draw.choice(seeds)
    for _ in range(draw.randrange(4)):
        if draw.randrange(8) == 0:
            other = draw.choice(seeds)
            content = content[: _place(draw, content)] + other[_place(draw, other) :]
        else:
            content = draw.choice(CHANGES)(draw, content)
    return content


def _place(draw: Random, content: bytes) -> int:
    return draw.randrange(len(content) + 1)


def _flip(draw: Random, content: bytes) -> bytes:
    if not content:
        return b"\0"
    at = draw.randrange(len(content))
    return content[:at] + bytes([content[at] ^ 1 << draw.randrange(8)]) + content[at + 1 :]


def _cut(draw: Random, content: bytes) -> bytes:
    return content[: _place(draw, content)]


def _leave_out(draw: Random, content: bytes) -> bytes:
    first, last = sorted((_place(draw, content), _place(draw, content)))
    return content[:first] + content[last:]


def _repeat(draw: Random, content: bytes) -> bytes:
    first, last = sorted((_place(draw, content), _place(draw, content)))
    return content[:last] + content[first:]


def _put(draw: Random, content: bytes) -> bytes:
    """A hostile token, between bytes or over as many."""
    token, at = draw.choice(RAW), _place(draw, content)
    return content[:at] + token + content[at + (len(token) if draw.randrange(2) else 0) :]


def _resize(draw: Random, content: bytes) -> bytes:
    """Other bytes where a length or a count may stand."""
    width, at = draw.choice((1, 2, 4, 8)), _place(draw, content)
    number = draw.choice((0, 1, 2 ** (8 * width) - 1, 2 ** (8 * width - 1) - 1, len(content), len(content) + 1))
    order = draw.choice(("big", "little"))
    return content[:at] + (number % 2 ** (8 * width)).to_bytes(width, order) + content[at + width :]


def _value_of_toml(draw: Random, content: bytes) -> bytes:
    found = list(_ASSIGNED.finditer(content))
    if not found:
        return _put(draw, content)
    line = draw.choice(found)
    return content[: line.start(2)] + draw.choice(IN_TOML) + content[line.end(2) :]


def _value_of_json(draw: Random, content: bytes) -> bytes:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return _value_of_lines(draw, content)
    text = json.dumps(_replaced(draw, value), sort_keys=content[:2] == b'{"', separators=(",", ":"), ensure_ascii=False)
    return _unmarked(text.encode("utf-8", "surrogatepass"))


def _value_of_lines(draw: Random, content: bytes) -> bytes:
    """The same in one line of several."""
    lines = content.split(b"\n")
    at = draw.randrange(len(lines))
    try:
        value = json.loads(lines[at])
    except (ValueError, RecursionError):
        return _flip(draw, content)
    lines[at] = _unmarked(json.dumps(_replaced(draw, value)).encode())
    return b"\n".join(lines)


def _value_of_msgpack(draw: Random, content: bytes) -> bytes:
    try:
        changed = msgspec.msgpack.encode(_replaced(draw, msgspec.msgpack.decode(content)))
    except (ValueError, TypeError, OverflowError, RecursionError, msgspec.MsgspecError):
        return _resize(draw, content)
    for mark, (_, bytes_of) in MARKS.items():
        changed = changed.replace(b"\xa6" + mark.encode(), bytes_of)
    return changed


def _unmarked(text: bytes) -> bytes:
    """JSON with what the marks in it stand for."""
    for mark, (json_of, _) in MARKS.items():
        text = text.replace(b'"' + mark.encode() + b'"', json_of)
    return text


def _replaced(draw: Random, value: Any) -> Any:
    """The value with one value in it replaced, left out or doubled."""
    places = list(_places(value))
    if not places:
        return draw.choice(HOSTILE)
    holder, key = draw.choice(places)
    match draw.randrange(6):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder["unheard-of"] = holder[key]
        case 1:
            holder.insert(key, holder[key])
        case 2 if isinstance(holder[key], str) and holder[key]:
            at = draw.randrange(len(holder[key]))
            holder[key] = holder[key][:at] + draw.choice(("0", "é", "\0", "")) + holder[key][at + 1 :]
        case _:
            holder[key] = draw.choice(HOSTILE)
    return value


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """(object or array, key or position) of everything inside."""
    if isinstance(value, dict | list):
        for key, inner in list(value.items() if isinstance(value, dict) else enumerate(value)):
            yield value, key
            yield from _places(inner)


CHANGES: tuple[Change, ...] = (
    *(_flip, _cut, _leave_out, _repeat, _put, _resize),
    *(_value_of_toml, _value_of_json, _value_of_json, _value_of_json, _value_of_msgpack, _value_of_msgpack),
)
