"""A misspelt name is taken for the nearest known one, where one is near."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hansa import spelling
from hansa.spelling import nearest

KNOWN = ("max_depth", "eta", "reconnect_timeout_s", "members")


@pytest.mark.parametrize(
    ("name", "near"),
    [("maxdepth", "max_depth"), ("max_dept", "max_depth"), ("Eta", "eta"), ("etaa", "eta"), ("reconect_timeout", "reconnect_timeout_s"),
     ("member", "members"), ("colour", None), ("", None)],
)  # fmt: skip
def test_one_letter_or_a_quarter_of_them_may_be_wrong(name, near):
    assert nearest(name, KNOWN) == near


def test_where_nothing_is_known_nothing_is_near():
    assert nearest("eta", ()) is None


@given(st.sampled_from(KNOWN), st.text(min_size=1, max_size=1), st.integers(0, 30))
def test_a_letter_too_many_is_seen_through(name, letter, place):
    assert nearest(name[:place] + letter + name[place:], KNOWN) == name


def test_of_a_name_of_a_megabyte_only_the_beginning_is_compared(monkeypatch):
    compared = []

    def edits(a, b):
        compared.extend((len(a), len(b)))
        return 99

    monkeypatch.setattr(spelling, "_edits", edits)
    assert nearest("x" * 2**20, [*KNOWN, "y" * 2**20]) is None
    assert max(compared) == spelling.MOST_CHARACTERS
