"""What a server keeps of the rounds of boosting to go on after its process ended: its shares, and what was opened, as plain bytes.

A snapshot is one server's: it holds one of three parts of each value twice over, and tells nothing by itself. It is sealed before it is
written (`secure.at_rest`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

import msgspec
import numpy as np

from hansa.errors import StateError
from hansa.mpc.refresh import refresh
from hansa.mpc.replicated import Address, Program, Server
from hansa.mpc.ring import BITS, BYTES, RING32, RING64, Ring, ShareArray
from hansa.oblivious.growth import TreeShares
from hansa.oblivious.training import Halfway
from hansa.roles.shared.evaluation import Judged

T = TypeVar("T", bound=msgspec.Struct)


class KeptArray(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A shared array: numpy's name of the dtype, the shape, and the bytes."""

    dtype: str
    shape: tuple[int, ...]
    content: bytes

    @classmethod
    def of(cls, array: ShareArray) -> KeptArray:
        """An array as plain bytes."""
        return cls(array.dtype.str, array.shape, np.ascontiguousarray(array).tobytes())

    def array(self) -> ShareArray:
        """As it was. Raises StateError where it is none."""
        try:
            return np.frombuffer(self.content, np.dtype(self.dtype)).reshape(self.shape).copy()
        except (TypeError, ValueError) as error:
            raise StateError(f"an array of the state folder is none: {error}") from error


class KeptRound(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The trees of one round, of each output its levels' packed splits, leaves and covers; and the flags of rows out of range."""

    trees: tuple[tuple[tuple[KeptArray, ...], int, KeptArray, KeptArray | None], ...]
    flags: tuple[KeptArray, ...]

    @classmethod
    def of(cls, trees: Iterable[TreeShares], flags: Iterable[ShareArray]) -> KeptRound:
        """Splits packed eight to a byte."""
        found = [
            (
                tuple(KeptArray.of(_packed(level)) for level in tree.splits),
                tree.splits[0].shape[-1],
                KeptArray.of(tree.leaves),
                None if tree.covers is None else KeptArray.of(tree.covers),
            )
            for tree in trees
        ]
        return cls(tuple(found), tuple(KeptArray.of(own) for own in flags))

    def shares(self) -> tuple[list[TreeShares], list[ShareArray]]:
        """As they were."""
        trees = [
            TreeShares(
                tuple(_unpacked(level.array(), width) for level in levels),
                leaves.array(),
                None if covers is None else covers.array(),
            )
            for levels, width, leaves, covers in self.trees
        ]
        return trees, [own.array() for own in self.flags]


class KeptMargins(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Right after a round, before anything was opened of it: margins of each output, and what evaluation had come to before it.

    held, best: shares; best is None before there is one. The others are public: fields of `evaluation.Judged`, and the history of
    metrics: name -> (rounds, value).
    """

    margins: tuple[KeptArray, ...]
    held: KeptArray
    best: KeptArray | None
    best_rounds: int | None
    asked: dict[str, bool]
    without_value: dict[str, str]
    openings: tuple[str, ...]
    history: dict[str, tuple[tuple[int, float | None], ...]]


class KeptModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Training is over: how many rounds are released, why not more, what was opened, and the history of metrics.

    metric, metric_share: see `evaluation.ReleaseMetric`: what decides on the release is kept before anybody learns the decision.
    """

    rounds: int
    cut: str
    openings: tuple[str, ...]
    history: dict[str, tuple[tuple[int, float | None], ...]]
    without_value: dict[str, str]
    metric: float | None
    metric_share: KeptArray | None


def encode(kept: msgspec.Struct) -> bytes:
    """A struct of this module as bytes."""
    return msgspec.msgpack.encode(kept)


def decode(content: bytes, kind: type[T]) -> T:
    """A struct of this module. Raises StateError."""
    try:
        return msgspec.msgpack.decode(content, type=kind)
    except msgspec.DecodeError as error:
        raise StateError(f"a state folder holds what is no {kind.__name__}: {error}; restore it") from error


@dataclass(frozen=True)
class RoundShares:
    """All shares of a checkpoint, as arrays.

    Attributes:
        trees, flags: of all rounds so far, round by round. margins: of each output; empty once training is over.
        held: see `KeptMargins`. best: the same; once training is over, the metric that the release depends on.
    """

    trees: list[TreeShares]
    flags: list[list[ShareArray]]
    margins: list[ShareArray]
    held: ShareArray | None
    best: ShareArray | None

    def halfway(self) -> Halfway:
        """Where training goes on; the last round is evaluated again."""
        return Halfway(self.margins, self.trees, self.flags)

    def judged(self, kept: KeptMargins) -> Judged:
        """What evaluation had come to."""
        held = self.held if self.held is not None else np.zeros((2, 0), np.uint32)
        return Judged(held, self.best, kept.best_rounds, kept.asked, kept.without_value, list(kept.openings))

    def arrays(self) -> dict[Ring, list[ShareArray]]:
        """All of them by ring, in one order."""
        words = [*self.margins, *(tree.leaves for tree in self.trees)]
        words += [tree.covers for tree in self.trees if tree.covers is not None]
        words += [] if self.held is None else [self.held]
        return {
            RING32: words,
            RING64: [] if self.best is None else [self.best],
            BITS: [own for of_round in self.flags for own in of_round],
            BYTES: [_packed(level) for tree in self.trees for level in tree.splits],
        }

    def of(self, arrays: dict[Ring, list[ShareArray]]) -> RoundShares:
        """The same shares with other arrays, as `arrays` gives them."""
        words, bits, levels = iter(arrays[RING32]), iter(arrays[BITS]), iter(arrays[BYTES])
        margins = [next(words) for _ in self.margins]
        leaves = [next(words) for _ in self.trees]
        covers = [next(words) if tree.covers is not None else None for tree in self.trees]
        trees = [
            TreeShares(tuple(_unpacked(next(levels), level.shape[-1]) for level in tree.splits), own, cover)
            for tree, own, cover in zip(self.trees, leaves, covers, strict=True)
        ]
        held = None if self.held is None else next(words)
        best = None if self.best is None else arrays[RING64][0]
        return RoundShares(trees, [[next(bits) for _ in own] for own in self.flags], margins, held, best)

    def refreshed(self, server: Server, address: Address) -> Program[RoundShares]:
        """The same values in new parts (`mpc.refresh`). One round."""
        fresh = yield from refresh(server, self.arrays(), address)
        return self.of(fresh)


def _packed(level: ShareArray) -> ShareArray:
    """Bits, one to a byte, as eight to a byte: uint8 (..., ceil(n / 8))."""
    return np.packbits(level, axis=-1, bitorder="little")


def _unpacked(packed: ShareArray, width: int) -> ShareArray:
    """The inverse: uint8 (..., width). What masks bring into the bits behind belongs to no value."""
    return np.unpackbits(packed, axis=-1, count=width, bitorder="little")
