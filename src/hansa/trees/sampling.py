"""Rows and columns drawn for a tree, by counters hashed under the plan's seed.

The draws are public by design (everybody knows the seed), so this is no secret randomness. Columns are the same at every member.
Where parties know their rows' contents these decide which are drawn, so that the model does not depend on how rows are spread: equal
rows are drawn together or not at all. Servers that hold shares know positions only, and draw by these.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt
from numba import njit


@njit(cache=True, nogil=True, error_model="numpy")
def _uniforms(key, count, values):  # type: ignore[no-untyped-def]
    for i in range(count):
        x = np.uint64(key) + np.uint64(i + 1) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        values[i] = np.float64((x ^ (x >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53


def _draw(count: int, *key: object) -> npt.NDArray[np.float64]:
    """`count` numbers in [0, 1) by splitmix64 (Steele, Lea & Flood 2014) under a hash of `key`."""
    digest = hashlib.sha256("\x1f".join(map(str, key)).encode()).digest()
    values = np.empty(count)
    _uniforms(np.uint64(int.from_bytes(digest[:8], "little")), count, values)
    return values


def draw_of(columns: npt.NDArray[np.uint32], share: float, *key: object) -> npt.NDArray[np.uint32]:
    """max(1, floor(share k)) of k columns, in their order, drawn under a key of public words and numbers; uint32."""
    if share >= 1:
        return columns
    count = max(1, int(share * len(columns)))
    order = np.argsort(_draw(len(columns), *key), kind="stable")
    return columns[np.sort(order[:count])]


def draw_columns(n_features: int, share: float, seed: int, tree: int) -> npt.NDArray[np.uint32]:
    """The features of one tree: max(1, floor(share * n_features)) of them, ascending, uint32."""
    return draw_of(np.arange(n_features, dtype=np.uint32), share, "columns", seed, tree)


@njit(cache=True, nogil=True, error_model="numpy")
def _uniforms_of(hashes, key, values):  # type: ignore[no-untyped-def]
    for i in range(hashes.shape[0]):
        x = hashes[i] ^ np.uint64(key)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        values[i] = np.float64((x ^ (x >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53


def draw_by_contents(hashes: npt.NDArray[np.uint64], share: float, seed: int, tree: int) -> npt.NDArray[np.bool_]:
    """Which rows one tree uses: each with chance `share`, rows of one hash together; bool (rows,). hashes: uint64 (rows,).

    Draws of two shares do not depend on each other: were the smaller one within the larger, sums of two runs, or trials, of nearly the
    same share would differ by a few rows.
    """
    digest = hashlib.sha256("\x1f".join(map(str, ("contents", seed, tree, float(share)))).encode()).digest()
    values = np.empty(len(hashes))
    _uniforms_of(hashes, np.uint64(int.from_bytes(digest[:8], "little")), values)
    return np.asarray(values < share)


def draw_rows(rows: int, share: float, seed: int, tree: int, member: str) -> npt.NDArray[np.bool_]:
    """Which of a party's rows one tree uses, by their positions: each with chance `share`, bool (rows,)."""
    return np.asarray(_draw(rows, "rows", seed, tree, member) < share)
