"""Dates as numbers, by rules that a plan names: every reader gives the same number for the same moment.

A date is a value of a type of dates or moments, or a text as ISO 8601 writes it: 2024-03-01, 2024-03-01T12:30 or
2024-03-01 12:30:05.25, with Z or an offset from UTC such as +02:00 behind it. A moment with an offset, or of a type with a time
zone, is taken in UTC. One without is taken as it is written. Years are 1 to 9999.

No rule gives seconds: float32 holds no two moments apart that are less than two minutes from each other.
"""

from __future__ import annotations

import re

from hansa.data.cells import SPACES, is_text, word
from hansa.data.schema import MISSING_WORDS

_OFFSET = r"[+-](?:0[0-9]|1[0-4])(?::?[0-5][0-9])?"
_CLOCK = r"(?:[01][0-9]|2[0-3]):[0-5][0-9](?::[0-5][0-9](?:\.[0-9]{1,9})?)?"
_WRITTEN = rf"[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}(?:[T ]{_CLOCK}(?:Z|{_OFFSET})?)?"

_NUMBERS = {
    "days": "({moment})::DATE - DATE '1970-01-01'",
    "year": "year({moment})",
    "month": "month({moment})",
    "day": "day({moment})",
    "weekday": "isodow({moment})",
    "hour": "hour({moment})",
}
"""By rule, SQL for the number of a TIMESTAMP; `hansa.data.schema.DATE_RULES` says what each means."""

_MOMENT = re.compile(r"DATE|TIMESTAMP.*")


def is_date(kind: str) -> bool:
    """Whether the values of this DuckDB type are dates or moments."""
    return _MOMENT.fullmatch(kind) is not None


def date_number(column: str, kind: str, rule: str) -> str:
    """SQL for a cell of `column`, of type `kind`, as the float that a rule makes of it: NaN where missing, NULL where it is no date."""
    nan = "'nan'::FLOAT"
    missing = f"{column} IS NULL"
    if is_text(kind):
        missing = f"{missing} OR {word(column)} IN {MISSING_WORDS}"
    moment = _moment(column, kind)
    if moment is None:
        return f"CASE WHEN {missing} THEN {nan} END"
    number = _NUMBERS[rule].format(moment=moment)
    return f"CASE WHEN {missing} THEN {nan} WHEN year({moment}) BETWEEN 1 AND 9999 THEN ({number})::FLOAT END"


def _moment(column: str, kind: str) -> str | None:
    """SQL for a cell as a TIMESTAMP in UTC, NULL where it is none; None where no value of this type is a date."""
    if is_text(kind):
        return _moment_of_text(f"trim({column}::VARCHAR, '{SPACES}')")
    if not is_date(kind):
        return None
    finite = f"CASE WHEN isfinite({column}) THEN {column} END"
    if kind == "TIMESTAMP_NS":  # a cast would round up to the next microsecond
        nanoseconds = f"epoch_ns({finite})"
        return f"make_timestamp(({nanoseconds} - (({nanoseconds} % 1000 + 1000) % 1000)) // 1000)"
    # A cast of a moment with a time zone would follow the zone of the machine.
    if kind == "TIMESTAMP WITH TIME ZONE":
        return f"make_timestamp(epoch_us({finite}))"
    return f"TRY_CAST({finite} AS TIMESTAMP)"


def _moment_of_text(text: str) -> str:
    """Down to the minute, which is finer than any rule and as fine as offsets are."""

    def digits(part: str, first: int) -> str:
        return f"COALESCE(TRY_CAST(substr({part}, {first}, 2) AS INTEGER), 0)"

    zone = f"regexp_extract(substr({text}, 17), '{_OFFSET}')"
    size = f"{digits(zone, 2)} * 60 + COALESCE(TRY_CAST(right(replace({zone}[4:], ':', ''), 2) AS INTEGER), 0)"
    offset = f"(CASE WHEN {zone}[1] = '-' THEN -1 ELSE 1 END) * ({size})"
    minutes = f"{digits(text, 12)} * 60 + {digits(text, 15)} - {offset}"
    moment = f"TRY_CAST(left({text}, 10) AS DATE)::TIMESTAMP + to_minutes(({minutes})::BIGINT)"
    return f"CASE WHEN regexp_full_match({text}, '{_WRITTEN}') THEN {moment} END"
