"""Do words look as if drawn uniformly? What a mask must make of any sums."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

LEAST_EXPECTED = 60
"""Times that each byte is expected at least, for the test to mean something."""


def chi_square(content: bytes) -> float:
    """Of the bytes' frequencies, in standard deviations from what uniform bytes give (chi-square, 255 degrees)."""
    counts = np.bincount(np.frombuffer(content, np.uint8), minlength=256)
    expected = len(content) / 256
    assert expected >= LEAST_EXPECTED, "too few bytes to test"
    return float((((counts - expected) ** 2 / expected).sum() - 255) / np.sqrt(2 * 255))


def looks_uniform(words: Iterable[np.ndarray]) -> bool:
    """Bytes, each byte's place in a word, and differences of neighbouring words: all as uniform words have them.

    Six standard deviations: uniform bytes fail once in some hundred million tests.
    """
    kept = list(words)
    contents = [b"".join(w.tobytes() for w in kept), b"".join((w[1:] - w[:-1]).tobytes() for w in kept)]
    for size in (4, 8):
        places = np.frombuffer(b"".join(w.tobytes() for w in kept if w.itemsize == size), np.uint8).reshape(-1, size)
        if len(places) >= LEAST_EXPECTED * 256:
            contents += [places[:, k].tobytes() for k in range(size)]
    return all(abs(chi_square(content)) < 6 for content in contents)


def sixteen_bit_chi_square(content: bytes) -> float:
    """As `chi_square`, of the frequencies of 16-bit words: 65535 degrees."""
    words = np.frombuffer(content[: len(content) // 2 * 2], np.uint16)
    expected = len(words) / 65536
    assert expected >= 8, "too few words to test"
    counts = np.bincount(words, minlength=65536)
    return float((((counts - expected) ** 2 / expected).sum() - 65535) / np.sqrt(2 * 65535))
