"""`printable.py`: nothing that others write does anything to a terminal."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hansa.printable import MOST_CHARACTERS, printable

HOSTILE = {
    "\x1b[2J": r"\x1b[2J",
    "\x1b]0;title\x07": r"\x1b]0;title\x07",
    "\x9b31m": r"\x9b31m",
    "one\r\ntwo\ttwo\x0bthree": r"one\x0d\x0atwo\x09two\x0bthree",
    "\x00\x08\x7f": r"\x00\x08\x7f",
    "a\u202ecod.exe": r"a\u202ecod.exe",
    "\u2066\u2069\u200f\u061c": r"\u2066\u2069\u200f\u061c",
    "zero\u200bwidth\ufeff": r"zero\u200bwidth\ufeff",
    "\u2028line\u2029paragraph\x85next": r"\u2028line\u2029paragraph\x85next",
    "\ud800 surrogate": r"\ud800 surrogate",
    "\ue000 private": r"\ue000 private",
    "\U000e0041 tag": r"\U000e0041 tag",
    "no-break\xa0space": r"no-break\xa0space",
}


@pytest.mark.parametrize(("text", "shown"), HOSTILE.items(), ids=ascii)
def test_what_is_not_plainly_visible_is_escaped(text, shown):
    assert printable(text) == shown


@pytest.mark.parametrize(
    "text", ["plain", "naïve Größe", "信号强度", "إشارة", "हिन्दी", "a [red]b[/red] :smile:", "5 € ±2 °C"]
)
def test_sealed_messages_and_signs_of_any_script_stay(text):
    assert printable(text) == text


def test_long_text_is_cut_and_says_so():
    shown = printable("x" * (MOST_CHARACTERS + 5))
    assert shown == "x" * MOST_CHARACTERS + "... (5 characters more)"


@given(st.text(max_size=200))
def test_nothing_that_moves_a_cursor_or_turns_the_line_passes(text):
    shown = printable(text)
    assert not {unicodedata.category(c) for c in shown} & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
    assert len(shown.splitlines()) <= 1
