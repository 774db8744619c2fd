"""Fingerprints and codes as words."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hansa.consortium.words import CODE_WORDS, code_of, read_words, word_list, words_of
from hansa.errors import IdentityError


def test_the_list_is_the_published_one():
    assert len(set(word_list())) == 2048
    assert list(word_list()) == sorted(word_list())
    assert len({word[:4] for word in word_list()}) == 2048
    published = hashlib.sha256("".join(f"{word}\n" for word in word_list()).encode()).hexdigest()
    assert published == "2f5eed53a4727b4bf8880d8f3f199efc90e58503646d9ff8eff3a2ed3b24dbda"


@given(st.binary(min_size=32, max_size=32))
def test_words_are_the_first_88_bits_of_a_hash(key):
    found = words_of(key).split()
    assert len(found) == 8
    bits = "".join(f"{word_list().index(word):011b}" for word in found)
    whole = hashlib.sha256(b"hansa fingerprint words 1\0" + key).digest()
    assert bits == "".join(f"{byte:08b}" for byte in whole)[:88]


@given(st.binary(min_size=32, max_size=32), st.integers(0, 255))
def test_every_bit_of_a_key_counts(key, bit):
    number = int.from_bytes(key, "big") ^ 1 << bit
    assert words_of(number.to_bytes(32, "big")) != words_of(key)


def test_codes_are_read_as_people_type_them():
    code = code_of(bytes(range(32)))
    assert code != code_of(bytes(32))
    assert len(code.split()) == CODE_WORDS
    typed = "  " + "\n".join(word[:4].upper() for word in code.split())
    assert read_words(typed, CODE_WORDS, "the code") == code
    with pytest.raises(IdentityError, match="the code: has 5 words, expected 6"):
        read_words(code.rpartition(" ")[0], CODE_WORDS, "the code")
    with pytest.raises(IdentityError, match="the code: word 2 is none of the list") as caught:
        read_words("abandon xyzzy", 2, "the code")
    assert "xyzzy" not in str(caught.value)
    with pytest.raises(IdentityError, match="word 1 is none"):
        read_words("abandonment", 1, "the code")
