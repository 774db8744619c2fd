"""What a cell says: the words for missing, true and false, and which texts are numbers.

A number is written with the digits 0 to 9, at most one decimal point, and at most one sign; an exponent may follow. Spaces around it
do not count. Everything else that looks like a number, a date or a time is recognised here, so that it is refused with a cure and
never taken for a category.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from hansa.data.schema import MISSING_WORDS

SPACES = " \t\n\r\v\f"
"""What may stand around a number or a word."""

_NUMERIC = re.compile(r"U?(TINYINT|SMALLINT|INTEGER|BIGINT|HUGEINT)|FLOAT|DOUBLE|BOOLEAN|DECIMAL\(.*\)")


def is_numeric(kind: str) -> bool:
    """Whether every value of this DuckDB type is a number; true and false are 1 and 0."""
    return _NUMERIC.fullmatch(kind) is not None


def is_text(kind: str) -> bool:
    """Whether the values of this DuckDB type are texts, which are read as a CSV file's cells are."""
    return kind == "VARCHAR" or kind.startswith("ENUM(")


def word(column: str) -> str:
    """SQL for a cell as the words for missing, true and false are compared: without spaces around it, in lower case."""
    return f"lower(trim({column}::VARCHAR, '{SPACES}'))"


def number(column: str, kind: str, result: Literal["FLOAT", "DOUBLE"], decimal: str, odd: bool = True) -> str:
    """SQL for a cell of `column`, of type `kind`: a number, NaN where missing, NULL where the cell is no float32 number (or double).

    Through double, since that is what other readers round from. `odd`: whether texts may hold `_` or `+-`.
    """
    nan = f"'nan'::{result}"
    if is_numeric(kind):
        return (
            f"COALESCE(TRY_CAST(TRY_CAST({column} AS DOUBLE) AS {result}), CASE WHEN {column} IS NULL THEN {nan} END)"
        )
    if not is_text(kind):
        return f"CASE WHEN {column} IS NULL THEN {nan} END"
    text = column if kind == "VARCHAR" else f"{column}::VARCHAR"
    # DuckDB's cast takes 1_000 for 1000, +-5 for -5 and -nan for NaN.
    strange = [f"contains({text}, '_')", f"contains({text}, '+-')"] if odd else []
    digits = text
    if decimal != ".":
        strange.append(f"contains({text}, '.')")
        digits = f"replace({text}, '{decimal}', '.')"
    cast = f"NULLIF(TRY_CAST(TRY_CAST({digits} AS DOUBLE) AS {result}), {nan})"
    missing = " ".join(f"WHEN '{missing}' THEN {nan}" for missing in MISSING_WORDS)
    words = f"CASE {word(text)} {missing} WHEN 'true' THEN 1::{result} WHEN 'false' THEN 0::{result} END"
    read = f"COALESCE({cast}, CASE WHEN {text} IS NULL THEN {nan} ELSE {words} END)"
    return f"CASE WHEN {' OR '.join(strange)} THEN NULL ELSE {read} END" if strange else read


@dataclass(frozen=True)
class Disguise:
    """Why a text that means a number, a date or a time is not read as one.

    Attributes:
        what: such as "a number with thousands separators".
        cure: what to write instead.
    """

    what: str
    cure: str


_TIME = r"\d{1,3}:\d{2}(?::\d{2}(?:[.,]\d+)?)?(?:\s*[ap]\.?m\.?)?"
_ZONE = r"\s*(?:Z|UTC|GMT|[A-Z]{3,4}|[+\-]\d{2}:?(?:\d{2})?)?(?:\[[\w/+\-]+\])?"
_CLOCK = rf"(?:(?:[T ]|,\s*)\s*{_TIME}{_ZONE})?"
_MONTH = (
    r"(?:jan(?:uary|uar)?|feb(?:ruary|ruar)?|mar(?:ch)?|märz?|apr(?:il)?|ma[yi]|june?|juni|july?|juli|aug(?:ust)?|sept?(?:ember)?"
    r"|o[ck]t(?:ober)?|nov(?:ember)?|de[cz](?:ember)?)\.?"
)
_WEEKDAY = r"(?:(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*\.?,?\s+)?"
_ORDINAL = r"(?:st|nd|rd|th|\.)?"
_DATE_OR_TIME = re.compile(
    "|".join(
        (
            rf"\d{{4}}[-/.]\d{{1,2}}[-/.]\d{{1,2}}{_CLOCK}",
            rf"\d{{1,2}}([-/.])\s?\d{{1,2}}\1\s?(?:\d{{4}}|\d{{2}}){_CLOCK}",
            r"\d{4}[-/](?:0?[1-9]|1[0-2])|(?:0?[1-9]|1[0-2])[-/]\d{4}",
            rf"{_TIME}{_ZONE}",
            rf"{_WEEKDAY}(?:\d{{1,2}}{_ORDINAL}[-/. ]*)?{_MONTH}[-/., ]*\d{{1,4}}{_ORDINAL}(?:,?[-/ ]+\d{{2,4}})?{_CLOCK}",
            rf"{_WEEKDAY}{_MONTH}\s+\d{{1,2}}\s+{_TIME}{_ZONE}\s+\d{{4}}",
            r"\d{4}[-/ ]?[QW]\d{1,2}(?:-\d)?|Q[1-4][-/ ]?\d{4}",
            r"\d{8}T\d{4,6}(?:\.\d+)?Z?",
            r"P(?=[\dT])(?:\d+[YMWD])*(?:T(?:\d+(?:\.\d+)?[HMS])+)?",
        )
    ),
    re.IGNORECASE,
)
_OTHER_BASE = re.compile(r"[+\-]?0(?:x[0-9a-f]+|b[01]+|o[0-7]+)|[+\-]?0x[0-9a-f]*\.?[0-9a-f]*p[+\-]?\d+", re.IGNORECASE)
_CURRENCY = (
    r"(?:[A-Z]{0,3}[CURRENCY]|EUR|USD|GBP|CHF|JPY|CNY|RMB|INR|RUB|BRL|CAD|AUD|NZD|SEK|NOK|DKK|ISK|PLN|CZK|HUF|RON|BGN|TRY|ILS|ZAR"
    r"|MXN|KRW|SGD|HKD|AED|SAR|Kč|zł|Ft|lei|kr\.?|Rs\.?|Fr\.?)"
).replace(
    "CURRENCY", "".join(re.escape(sign) for sign in map(chr, range(0x3000)) if unicodedata.category(sign) == "Sc")
)
_SIGNS = "+\\-\u2212\u2010-\u2015\ufe63\uff0d"
_GROUP = ",.'\u2019\u02bc_\\s\u066c"
_EXPONENT = rf"(?:\s?(?:[eE]|[x×*]\s?10\^)[{_SIGNS}]*\d+)?"
_WRITTEN = re.compile(
    rf"(?P<open>\()?\s*(?P<before>[{_SIGNS}\s]*)(?P<currency>{_CURRENCY}\s*)?(?P<inner>[{_SIGNS}\s]*)"
    rf"(?P<digits>(?:(?:\d{{1,3}}(?P<group>[{_GROUP}])\d{{3}}(?:(?P=group)\d{{3}})*|\d{{1,2}}(?:,\d{{2}})+,\d{{3}}|\d{{1,4}}(?:_\d+)+"
    rf"|\d+)(?:[.,\u066b]\d*)?|[.,\u066b]\d+){_EXPONENT})"
    rf"\s*(?P<behind>[{_SIGNS}]?)\s*(?P<unit>(?:[%‰٪]|{_CURRENCY})?)\s*(?P<close>\))?",
    re.IGNORECASE,
)
_PLAIN = re.compile(r"[+\-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+\-]?[0-9]+)?")

_NOT_A_NUMBER = re.compile(
    r"[+\-]nan|[+\-]?\d\.#(?:IND|QNAN|SNAN|INF)\d*|#(?:N/A|DIV/0!|VALUE!|REF!|NAME\?|NUM!|NULL!)", re.IGNORECASE
)

WHOLE_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.0*)?")
"""A whole number as a category is written that is a number: 007 is a text."""

SAY_DECIMAL = 'say decimal = "," (in a plan: in [schema]; for `hansa simulate` and `hansa predict`: --decimal ,)'

_DATE = Disguise(
    "a date or time",
    "write it as 2024-03-06 and name a rule for the column (in a plan: schema.dates), or write a number in its place, such as days or "
    "hours since a moment that all parties agree on",
)


def disguise(text: str, decimal: str = ".") -> Disguise | None:
    """Why a text that `number` does not take means a number, a date or a time all the same; None where it means none."""
    body = "".join(sign for sign in text if unicodedata.category(sign) not in ("Cc", "Cf") or sign in SPACES).strip()
    if body != text.strip(SPACES) and _PLAIN.fullmatch(body.replace(decimal, ".")):
        return Disguise("a number with a space or a sign that is not seen", "write the digits without it")
    if _DATE_OR_TIME.fullmatch(body):
        return _DATE
    if _NOT_A_NUMBER.fullmatch(body):
        return Disguise("what programs write for no number", "leave the cell empty where the value is missing")
    if _PLAIN.fullmatch(body.translate({ord("."): decimal, ord(decimal): "."})):
        return Disguise("a number beyond float32", "write a number of at most 3.4e38")
    if _OTHER_BASE.fullmatch(body):
        return Disguise("a number that is not decimal", "write it in decimal digits")
    written = _WRITTEN.fullmatch(body)
    if written is None:
        if body in ("\u221e", "+\u221e", "-\u221e", "\u2212\u221e"):
            return Disguise("an infinite number", "write a finite number, or leave a feature empty")
        if len(body) == 1 and unicodedata.category(body) in ("No", "Nl"):
            return Disguise("a number in one sign", "write it in the digits 0 to 9")
        return None
    if written["currency"] or re.search(r"[^\d%‰٪]", written["unit"]):
        return Disguise("a number with a currency sign", "write the number alone")
    if written["unit"]:
        return Disguise("a number with a percent sign", "write the number alone, in all rows and at all parties alike")
    digits = written["digits"]
    if not digits.isascii() and any(sign.isdigit() and not sign.isascii() for sign in digits):
        return Disguise("a number in other digits than 0 to 9", "write it in the digits 0 to 9")
    if written["open"] or written["close"] or written["behind"]:
        return Disguise("a negative number in another form", "write a hyphen before the digits")
    sign = written["before"] + written["inner"]
    if len(sign) > 1 or (sign and sign not in "+-"):
        return Disguise(
            "a number with a sign that is no hyphen", "write a hyphen before the digits of a negative number"
        )
    if "_" in digits:
        return Disguise("a number with underscores", "write the digits alone")
    other = "," if decimal == "." else "."
    if digits.count(other) == 1 and _PLAIN.fullmatch(digits.replace(other, ".")):
        return _other_sign(digits, other)
    if written["group"] is not None or "," in digits:
        return Disguise("a number with thousands separators", "write the number without thousands separators")
    return Disguise("a number in another form", "write it in the digits 0 to 9, with at most one decimal sign")


_MEASURED = re.compile(
    r"[+\-]?(?:[0-9]+(?:[.,][0-9]+)?|[.,][0-9]+)\s?(?P<unit>[^\W\d_][^\d,;:]{0,11}|[°µμΩ][^\d,;:]{0,11})"
)
_FEWEST_MEASURED = 20
"""Different texts of numbers and units that are no categories: 2G, 3G, 4G and 5G are some."""
_MOST_UNITS = 5


_TRUTHS = (
    "true false t f yes no y n on off wahr falsch ja nein j vrai faux oui non verdadero verdadeiro vero falso si sí sì sim não waar "
    "onwaar nee sant falskt nej prawda fałsz tak nie истина ложь да нет ναι όχι 真 假 是 否"
)
TRUTHS = frozenset(_TRUTHS.split())
"""Words that spreadsheets and people write for true and false, in lower case."""


def truth_in_words(text: str) -> Disguise | None:
    """Why a text where a number is expected means true or false; None where it does not. (true and false themselves are read.)"""
    if text.strip().lower() not in TRUTHS:
        return None
    return Disguise(
        "a truth value in other words",
        "write true and false, or 1 and 0, in all rows and at all parties, or list the texts as levels ([categories] in the plan)",
    )


_UNIT = "a number with a unit"
_NO_UNIT = "write the number alone, of one unit in all rows and at all parties"


def with_unit(text: str) -> Disguise | None:
    """Why a text where a number is expected, which is none and no `disguise`, means one all the same; None where it does not."""
    if _MEASURED.fullmatch(text.strip(SPACES)) is None:
        return None
    return Disguise(_UNIT, f"{_NO_UNIT}; list the texts as levels ([categories] in the plan) where they are categories")


def plain_form(text: str) -> str:
    """A text without the spaces around it, and in one case: what differs in these alone is probably meant to be the same."""
    return " ".join(text.split()).casefold()


def measured(texts: Iterable[str]) -> Disguise | None:
    """Why the texts of a column, none of which is a number or a `disguise`, mean numbers all the same: many numbers, each before one of
    few units (4.2ms, 17 ms); None where they do not.
    """
    different = set(texts)
    found = [match for match in (_MEASURED.fullmatch(text.strip(SPACES)) for text in different) if match is not None]
    if len(different) < _FEWEST_MEASURED or len(found) < len(different):
        return None
    if len({match["unit"].strip() for match in found}) > _MOST_UNITS:
        return None
    return Disguise(
        _UNIT,
        f"{_NO_UNIT}; for categories name the column (--categorical, categorical=)",
    )


def _other_sign(digits: str, other: str) -> Disguise:
    grouped = re.fullmatch(r"[0-9]{1,3}[,.][0-9]{3}", digits) is not None
    if other == ".":
        return Disguise(
            'a number with a point, where decimal is ","', "write a decimal comma, and no thousands separators"
        )
    what = "a number with a thousands separator or a decimal comma" if grouped else "a number with a decimal comma"
    return Disguise(what, f"write a decimal point and no thousands separators, or {SAY_DECIMAL}")
