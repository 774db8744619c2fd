"""Types of options: what is wrong with a value is said by `click`, before a command begins, with what was expected."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from hansa.data.parts import is_pattern
from hansa.trees.losses import OBJECTIVES
from hansa.trees.parameters import REFUSED_OBJECTIVES

if TYPE_CHECKING:
    OptionType = click.ParamType[Any]
    Choice = click.Choice[str]
else:  # click 8.1 has them without type arguments
    OptionType, Choice = click.ParamType, click.Choice

PATH = click.Path(path_type=Path)
EXISTING = click.Path(exists=True, dir_okay=False, path_type=Path)


class TablePath(click.Path):
    """A table: a file or a folder that is there, or a pattern of file names."""

    def __init__(self) -> None:
        super().__init__(exists=True, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return Path(value) if is_pattern(Path(value)) else super().convert(value, param, ctx)


class Names(OptionType):
    """Names between commas."""

    name = "NAME,NAME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        if not isinstance(value, str):
            return tuple(value)
        names = tuple(name.strip() for name in value.split(","))
        if "" in names:
            self.fail(f"{value!r}: expected names between commas, such as a,b,c", param, ctx)
        if len(set(names)) < len(names):
            self.fail(f"{value!r} names one twice; name each once", param, ctx)
        return names


class RisingNumbers(OptionType):
    """Whole numbers between commas, each above the one before."""

    name = "N,N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if not isinstance(value, str):
            return tuple(value)
        try:
            numbers = tuple(int(number) for number in value.split(","))
        except ValueError:
            self._refuse(value, param, ctx)
        if numbers[0] < 1 or list(numbers) != sorted(set(numbers)):
            self._refuse(value, param, ctx)
        return numbers

    def _refuse(self, value: str, *place: Any) -> NoReturn:
        self.fail(f"{value!r}: expected rising whole numbers above 0 between commas, such as 10,20", *place)


class Range(OptionType):
    """A lowest and a highest number between a comma."""

    name = "LOWEST,HIGHEST"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, float]:
        if not isinstance(value, str):
            low, high = value
            return low, high
        try:
            low, high = (float(end) for end in value.split(","))
        except ValueError:
            self._refuse(value, param, ctx)
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            self._refuse(value, param, ctx)
        return low, high

    def _refuse(self, value: str, *place: Any) -> NoReturn:
        self.fail(f"{value!r}: expected two finite numbers, the lower first, such as 0,100", *place)


class Setting(OptionType):
    """name=value: the value is read as JSON where it is JSON, else as text; commas make a list of metrics."""

    name = "NAME=VALUE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        if not isinstance(value, str):
            name, parsed = value
            return name, parsed
        name, equals, text = value.partition("=")
        if not equals or not name:
            self.fail(f"{value!r}: expected name=value, such as eta=0.1", param, ctx)
        try:
            parsed = json.loads(text)
        except (ValueError, RecursionError):
            parsed = text
        if name == "eval_metric" and isinstance(parsed, str):
            parsed = parsed.split(",")
        return name, parsed


class DateRule(OptionType):
    """feature=rule: how a feature is made of a date."""

    name = "FEATURE=RULE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        if not isinstance(value, str):
            name, rule = value
            return name, rule
        name, equals, rule = (part.strip() for part in value.partition("="))
        if not equals or not name or not rule:
            self.fail(f"{value!r}: expected FEATURE=RULE, such as month='month of opened'", param, ctx)
        return name, rule


class LeastRows(OptionType):
    """feature=rows: how many rows a level needs."""

    name = "FEATURE=ROWS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        if not isinstance(value, str):
            name, rows = value
            return name, rows
        name, _, rows = (part.strip() for part in value.partition("="))
        if not name or not rows.isdecimal() or not 0 < int(rows) < 2**53:
            self.fail(f"{value!r}: expected FEATURE=ROWS with a whole number above 0, such as employer=20", param, ctx)
        return name, int(rows)


class Search(Setting):
    """name=lowest,highest or name=lowest,highest,log or name=[choice,choice]."""

    name = "NAME=RANGE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        name, parsed = super().convert(value, param, ctx)
        if isinstance(parsed, str):
            ends, log = (parsed[: -len(",log")], ("log",)) if parsed.endswith(",log") else (parsed, ())
            try:
                low, high = json.loads(f"[{ends}]")
            except (ValueError, RecursionError):
                self.fail(f"{value!r}: expected LOWEST,HIGHEST or LOWEST,HIGHEST,log, or [CHOICE,CHOICE]", param, ctx)
            parsed = (low, high, *log)
        return name, parsed


class Objective(Choice):
    """One of Hansa's objectives; for others of XGBoost's, why not, or what to give instead."""

    def __init__(self) -> None:
        super().__init__(OBJECTIVES)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        for kind, why in REFUSED_OBJECTIVES.items():
            if isinstance(value, str) and value.startswith(kind):
                self.fail(f"{value!r} is not supported: {why}", param, ctx)
        return super().convert(value, param, ctx)
