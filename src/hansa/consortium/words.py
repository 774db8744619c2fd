"""Public words for bits that people read to each other: fingerprints of identity keys, and codes of invitations.

The list is BIP-39's English one (2,048 words; the first four characters tell them apart), in `word_list/` with its licence.
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files
from typing import Final

from hansa.errors import IdentityError

BITS_A_WORD: Final = 11
FINGERPRINT_WORDS: Final = 8
"""88 bits: somebody else's key with these words takes 2^88 tries (docs/explanation/security-arguments.md)."""

CODE_WORDS: Final = 6
"""66 bits of an invitation's code."""

_PREFIX = b"hansa fingerprint words 1\0"


@cache
def word_list() -> tuple[str, ...]:
    """The 2,048 words, in their order."""
    return tuple(files("hansa.consortium").joinpath("word_list", "english.txt").read_text(encoding="ascii").split())


def words_of(identity: bytes) -> str:
    """An identity key's fingerprint as eight words: the first 88 bits of a SHA-256 over a prefix and the key."""
    bits = int.from_bytes(hashlib.sha256(_PREFIX + identity).digest(), "big") >> (256 - BITS_A_WORD * FINGERPRINT_WORDS)
    return " ".join(_words(bits, FINGERPRINT_WORDS))


def code_of(secret: bytes) -> str:
    """An invitation's code as six words: the first 66 bits of 32 secret bytes."""
    return " ".join(_words(int.from_bytes(secret, "big") >> (256 - BITS_A_WORD * CODE_WORDS), CODE_WORDS))


def read_words(text: str, count: int, what: str) -> str:
    """Words as a person typed them, in the one way that Hansa writes them. Raises IdentityError naming the first that is none."""
    found = text.lower().split()
    known = {word[:4]: word for word in word_list()}
    for place, word in enumerate(found, 1):
        if known.get(word[:4]) is None or not known[word[:4]].startswith(word):
            raise IdentityError(
                f"{what}: word {place} is none of the list; ask for it again, by its first four characters"
            )
    if len(found) != count:
        raise IdentityError(f"{what}: has {len(found)} words, expected {count}; ask for all of them again")
    return " ".join(known[word[:4]] for word in found)


def _words(bits: int, count: int) -> list[str]:
    known = word_list()
    return [known[bits >> BITS_A_WORD * place & 2047] for place in reversed(range(count))]
