"""Sums over parties that are filled as parts arrive."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


class PooledSum:
    """A sum over parties that is filled as parts arrive, in Z_2^64 (int64) or Z_2^32 (uint32)."""

    def __init__(self, parties: tuple[str, ...], shape: tuple[int, ...], dtype: type[np.generic]) -> None:
        self.values = np.zeros(shape, dtype)
        self.largest = np.zeros(shape, dtype)
        self.zero = 0
        self.waiting = set(parties)

    @property
    def cancels(self) -> bool:
        """Whether the masks, if any, cancelled: the parts' zero words sum to zero in the ring."""
        modulus: int = 1 << 8 * self.values.dtype.itemsize
        return self.zero % modulus == 0

    @property
    def complete(self) -> bool:
        return not self.waiting

    def add(self, member: str, part: npt.NDArray[Any], zero: int) -> bool:
        """Add a member's part and its zero word; False where it has given one before."""
        if member not in self.waiting:
            return False
        self.waiting.remove(member)
        self.values += part
        np.maximum(self.largest, part, out=self.largest)
        self.zero += zero
        return True


class PooledSums:
    """The sums that a step awaits, by quantity, and what came in of all sums so far.

    Args:
        masked: whether parts come masked.

    Attributes:
        awaited: of the step at hand. masked_bytes, clear_bytes: that came in masked, and as they are.
    """

    def __init__(self, *, masked: bool) -> None:
        self.awaited: dict[str, PooledSum] = {}
        self.masked_bytes = 0
        self.clear_bytes = 0
        self._masked = masked

    @property
    def complete(self) -> bool:
        """Whether all parts of all sums are there."""
        return all(sums.complete for sums in self.awaited.values())

    @property
    def waiting(self) -> set[str]:
        """Whose parts are missing."""
        return set().union(*(sums.waiting for sums in self.awaited.values()))

    @property
    def totals(self) -> dict[str, npt.NDArray[Any]]:
        """The sums so far."""
        return {quantity: sums.values for quantity, sums in self.awaited.items()}

    def owed(self, member: str) -> list[str]:
        """The quantities whose parts of this member are missing."""
        return [quantity for quantity, sums in self.awaited.items() if member in sums.waiting]

    def expect(
        self, parties: tuple[str, ...], shapes: dict[str, tuple[int, ...]], dtype: type[np.generic] = np.int64
    ) -> None:
        """Await these sums in place of those before."""
        self.awaited = {}
        self.expect_too(parties, shapes, dtype)

    def expect_too(
        self, parties: tuple[str, ...], shapes: dict[str, tuple[int, ...]], dtype: type[np.generic] = np.int64
    ) -> None:
        """Await these sums beside those before."""
        self.awaited |= {quantity: PooledSum(parties, shape, dtype) for quantity, shape in shapes.items()}

    def count_bytes(self, size: int) -> None:
        """A part of so many bytes came."""
        if self._masked:
            self.masked_bytes += size
        else:
            self.clear_bytes += size
