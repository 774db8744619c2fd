"""Values held to declared types, with a sentence that names the key, what was found, what was expected, and a near name.

The types are those of msgspec: a table of a file is a `Struct`, and a value with a narrower range is `Annotated[type, Meta(...)]`.
`Meta(description=...)` says in words what is expected. Types are strict: true is no number, 2.0 is no whole number, "2" is neither.
"""

from __future__ import annotations

import functools
import re
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, TypeVar, Union

import msgspec
from msgspec import Meta

from hansa.errors import HansaError
from hansa.spelling import nearest

Declared = TypeVar("Declared", bound=msgspec.Struct)

SHOWN_CHARACTERS = 200
"""Of a value that is refused."""

ONE = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
MANY = {bool: "true or false", int: "whole numbers", float: "numbers", str: "texts"}

CHOICES = "choices"

SECRET = {"secret": True}
"""`Meta(extra=SECRET)`: what may hold a password, which no error quotes."""


def one_of(*names: str) -> Meta:
    """What narrows `str` to one of these names."""
    pattern = rf"\A(?:{'|'.join(map(re.escape, names))})\Z"
    return Meta(pattern=pattern, description=f"one of {', '.join(names)}", extra={CHOICES: names})


def shown(value: object) -> str:
    """A value as an error quotes it, shortened."""
    text = repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 3] + "..."


def keys_of(table: type[msgspec.Struct]) -> tuple[str, ...]:
    """The keys of a table, in the order of its declaration."""
    return tuple(field.encode_name for field in msgspec.structs.fields(table))


def decode(
    document: Mapping[str, Any],
    table: type[Declared],
    where: str,
    refuse: type[HansaError],
    renamed: Mapping[str, str] | None = None,
    within: str = "",
) -> Declared:
    """A document as a struct of its declared types.

    Args:
        document: as a TOML file gives it.
        where: the file, for the error.
        refuse: the kind of error.
        renamed: keys of old files -> their names today.
        within: the table that the document is in its file; empty where it is the whole file.

    Raises:
        HansaError: of kind `refuse`, naming file, key, what was found and expected, and the cure.
    """
    fault = first_fault(document, table, within, renamed or {})
    if fault is not None:
        raise refuse(f"{where}: {fault}")
    try:
        return msgspec.convert(document, table, strict=True)
    except msgspec.ValidationError as error:  # of a rule that no single key breaks
        raise refuse(f"{where}: {error}") from error


def first_fault(value: object, kind: Any, key: str, renamed: Mapping[str, str] | None = None) -> str | None:
    """What is wrong with the value of a key, in one sentence; None where it is of its declared type."""
    if value is None and types.NoneType in typing.get_args(kind):
        return None
    kind = _given(kind)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return _fault_of_table(value, kind, key, renamed or {})
    if typing.get_origin(kind) is dict and isinstance(value, dict):
        _, item = typing.get_args(kind)
        faults = (first_fault(each, item, f"{key}.{name}") for name, each in value.items())
        return next((fault for fault in faults if fault is not None), None)
    try:
        msgspec.convert(value, kind, strict=True)
    except msgspec.ValidationError:
        if any(meta.extra == SECRET for meta in _metas(kind)):
            return (
                f"{key} is not of its kind (it is not shown, as it may hold a password); expected {expected(kind, key)}"
            )
        return f"{key} is {shown(value)}; expected {expected(kind, key)}{_guess(value, _choices(kind))}"
    return None


def fault_of_fields(instance: object, key_of: Mapping[str, str]) -> str | None:
    """The first fault of an object made in Python: attributes -> keys are held to the types that its class declares."""
    owner: type = type(instance)
    kinds = _kinds(owner)
    faults = (first_fault(getattr(instance, name), kinds[name], key) for name, key in key_of.items())
    return next((fault for fault in faults if fault is not None), None)


def unknown_keys(
    given: Iterable[str], known: Iterable[str], table: str = "", renamed: Mapping[str, str] | None = None
) -> str:
    """The sentence that refuses keys that a table does not have, each with the name that was probably meant."""
    names, others = list(known), list(given)
    place = f"[{table}]: " if table else ""
    for name in others:
        if renamed and name in renamed:
            return f"{place}key {name!r} is called {renamed[name]!r} now; rename it"
    hinted = [(shown(name), nearest(name, names)) for name in others]
    said = ", ".join(name if near is None else f"{name} (did you mean {near!r}?)" for name, near in hinted)
    are = f"key {said} is" if len(others) == 1 else f"keys {said} are"
    listed = f"one of {', '.join(names)}" if names else "none"
    return f"{place}{are} not known; expected {listed}"


def expected(kind: Any, key: str = "") -> str:
    """What a declared type takes, in words."""
    kind = _given(kind)
    for meta in _metas(kind):
        if meta.description is not None:
            return meta.description
    kind = _bare(kind)
    if typing.get_origin(kind) is tuple:
        return f"a list of {MANY.get(_bare(typing.get_args(kind)[0]), 'values')}"
    if typing.get_origin(kind) is dict:
        return f"a table [{key}]"
    return ONE.get(kind, "another value")


def _fault_of_table(value: object, table: type[msgspec.Struct], key: str, renamed: Mapping[str, str]) -> str | None:
    if not isinstance(value, Mapping):
        return f"{key} is {shown(value)}; expected a table [{key}]"
    fields = {field.encode_name: field for field in msgspec.structs.fields(table)}
    unknown = [name for name in value if name not in fields]
    if unknown:
        return unknown_keys(unknown, fields, key, renamed)
    for name, field in fields.items():
        path = f"{key}.{name}" if key else name
        if name not in value:
            if field.required:
                return f"{path} is missing; add it ({expected(field.type, path)})"
            continue
        fault = first_fault(value[name], field.type, path)
        if fault is not None:
            return fault
    return None


@functools.cache
def _kinds(owner: type) -> dict[str, Any]:
    return typing.get_type_hints(owner, include_extras=True)


def _given(kind: Any) -> Any:
    """A type without the None of a key that may be left out."""
    if typing.get_origin(kind) in (Union, types.UnionType):
        others = [each for each in typing.get_args(kind) if each is not types.NoneType]
        return others[0] if len(others) == 1 else kind
    return kind


def _bare(kind: Any) -> Any:
    kind = _given(kind)
    return typing.get_args(kind)[0] if typing.get_origin(kind) is Annotated else kind


def _metas(kind: Any) -> tuple[Meta, ...]:
    if typing.get_origin(kind) is not Annotated:
        return ()
    return tuple(each for each in typing.get_args(kind)[1:] if isinstance(each, Meta))


def _choices(kind: Any) -> tuple[str, ...]:
    return next((meta.extra[CHOICES] for meta in _metas(kind) if meta.extra and CHOICES in meta.extra), ())


def _guess(value: object, choices: Iterable[str]) -> str:
    near = nearest(value, choices) if isinstance(value, str) else None
    return "" if near is None else f"; did you mean {near!r}?"
