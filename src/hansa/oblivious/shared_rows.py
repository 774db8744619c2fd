"""Rows as shares: what an owner sends to the three servers, once, and the products with it.

A row is shared twice over: its columns of bits C as words of Z_2^32, for sums, and as packed bits under XOR, for routing; and its
label, in Z_2^32. Where rows have weights, so are the weight and the weight times the label (`training.weight_words`). A model of
several outputs has a label and weights for each (of several classes: whether the row is of that class). Two of the three parts of
each are key streams, so only one travels.

*Owner-assisted rows*: an owner that is itself server p gives x_p = PRG(key of S_p and S_{p+2}),
x_{p+1} = C - x_p, x_{p+2} = 0. S_{p+1} sees only x_{p+1}, which x_p masks, and S_{p+2} only x_p. A product with shared v is then

    C v = C (v_p + v_{p+1}) + x_{p+1} v_{p+2} + x_p v_{p+2}

of which S_p takes the first term, in the clear, S_{p+1} the second and S_{p+2} the third: one dense product at each of the other
two servers and none at the owner, where rows that are shared three ways take two at each of the three.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from hansa.errors import DataError, ProtocolError
from hansa.mpc.panels import add_gemm, empty_panels, fill_panels, panel_columns, to_panels
from hansa.mpc.ring import BITS, RING32, Ring, ShareArray, add_code_sums, add_gf2_product, pack_bits, words_for
from hansa.mpc.threads import ALONE, LEAST_ROWS, Threads, by_rows
from hansa.oblivious.candidates import Candidates
from hansa.secure.prg import Algorithm, KeyStream, fresh_key

CHUNK_ROWS = 1024
"""Rows whose columns have a key stream of their own: 4 MB of it at a thousand columns."""

BATCH_ROWS = 2**14
"""Rows that an owner shares at a time: no member ever holds more than one batch's shares twice."""

PURPOSES = ("bits", "labels", "weights")


@dataclass(frozen=True)
class RowShares:
    """What an owner sends to one server. Secret to that server.

    Attributes:
        rows: how many.
        keys: for own and next part: 32 bytes where that part is a key stream, else None.
        parts: for own and next part: (columns uint32 (rows, columns), bits uint64 (rows, words), labels
            uint32 (outputs, rows)) where it travels, else None. Where key and parts are None, the part is zero.
        assisted_by: the server that owns the rows, or None.
        weighted: the rows have weights: parts hold a fourth array, uint32 (outputs, 2, rows).
        outputs: of the model.
    """

    rows: int
    keys: tuple[bytes | None, bytes | None]
    parts: tuple[tuple[ShareArray, ...] | None, tuple[ShareArray, ...] | None]
    assisted_by: int | None
    weighted: bool = False
    outputs: int = 1


def share_rows(
    candidates: Candidates,
    codes: npt.NDArray[np.uint16],
    labels: npt.NDArray[np.uint32],
    algorithm: Algorithm,
    owner: int | None = None,
    weights: npt.NDArray[np.uint32] | None = None,
) -> list[RowShares]:
    """Share an owner's rows: one message for each server.

    Args:
        codes: uint16 (rows, features), secret.
        labels: uint32 (rows,), or (outputs, rows) for several: 0 or 1, or fixed-point words; secret.
        owner: the server that the owner is, for owner-assisted rows; None otherwise.
        weights: uint32 (2, rows), or (outputs, 2, rows) for several, `training.weight_words` of the owner's rows; secret. None
            where rows have none: all owners of a run have weights, or none has.

    Raises:
        DataError: codes out of range, or labels or weights of another shape.
    """
    candidates.check_codes(codes)
    rows, outputs = codes.shape[0], 1 if labels.ndim == 1 else labels.shape[0]
    if labels.shape not in ((rows,), (outputs, rows)):
        raise DataError(f"labels are of shape {labels.shape}; expected ({rows},), or (outputs, {rows})")
    if weights is not None and (weights.dtype != np.uint32 or weights.shape != (*labels.shape[:-1], 2, rows)):
        raise DataError(f"weights are {weights.dtype}{weights.shape}; expected uint32 {(*labels.shape[:-1], 2, rows)}")
    bits = candidates.column_bits(codes)
    words = labels.astype(np.uint32, copy=False).reshape(outputs, rows)
    rest: list[ShareArray] = [bits.astype(np.uint32), pack_bits(bits), words]
    rest += [] if weights is None else [weights.reshape(outputs, 2, rows)]
    # The seeds of parts that are streams: all but the last part, or all but p + 1 and p + 2.
    streams = (0, 1) if owner is None else (owner,)
    explicit = 2 if owner is None else (owner + 1) % 3
    keys = {number: bytes(fresh_key()) for number in streams}
    for key in keys.values():
        masks = _masks(key, candidates, rows, algorithm, weights is not None, outputs)
        rest = [part ^ mask if n == 1 else part - mask for n, (part, mask) in enumerate(zip(rest, masks, strict=True))]
    sent = tuple(rest)
    return [
        RowShares(
            rows,
            (keys.get(server), keys.get((server + 1) % 3)),
            (sent if server == explicit else None, sent if (server + 1) % 3 == explicit else None),
            owner,
            weights is not None,
            outputs,
        )
        for server in range(3)
    ]


def _shapes(candidates: Candidates, rows: int, weighted: bool, outputs: int) -> list[tuple[Any, tuple[int, ...]]]:
    """Dtype and shape of a part's arrays."""
    shapes: list[tuple[Any, tuple[int, ...]]] = [
        (np.dtype(np.uint32), (rows, candidates.n_columns)),
        (np.dtype(np.uint64), (rows, words_for(candidates.n_columns))),
        (np.dtype(np.uint32), (outputs, rows)),
    ]
    return shapes + [(np.dtype(np.uint32), (outputs, 2, rows))] * weighted


def _masks(
    key: bytes, candidates: Candidates, rows: int, algorithm: Algorithm, weighted: bool, outputs: int
) -> tuple[ShareArray, ...]:
    """A part that is a key stream: all its arrays. The columns have a key of their own for every CHUNK_ROWS rows."""
    columns = Regenerated(key, candidates.n_columns, 0, rows, algorithm)
    return (columns.stored(), *_other_masks(key, candidates, rows, algorithm, weighted, outputs))


def _other_masks(
    key: bytes, candidates: Candidates, rows: int, algorithm: Algorithm, weighted: bool, outputs: int
) -> tuple[ShareArray, ...]:
    arrays = tuple(np.empty(shape, dtype) for dtype, shape in _shapes(candidates, rows, weighted, outputs)[1:])
    for purpose, array in zip(PURPOSES, arrays, strict=False):
        stream = KeyStream(_key_for(key, purpose), algorithm, size=array.nbytes)
        stream.words(array.size, array.reshape(-1))
    return arrays


def _key_for(key: bytes, purpose: str) -> bytes:
    return hmac.digest(key, b"hansa shared rows v1 " + purpose.encode(), "sha256")


@dataclass(frozen=True)
class Regenerated:
    """A part of the columns that is a key stream, made anew for every use instead of being stored.

    Attributes:
        key: 32 bytes. Secret to the servers that hold the part.
        n_columns: words a row.
        start, stop: which of the owner's rows.
        algorithm: of the stream.
    """

    key: bytes
    n_columns: int
    start: int
    stop: int
    algorithm: Algorithm

    def __getitem__(self, rows: slice) -> Regenerated:
        start, stop, _ = rows.indices(self.stop - self.start)
        return Regenerated(self.key, self.n_columns, self.start + start, self.start + stop, self.algorithm)

    def chunks(self, scratch: ShareArray) -> Iterator[tuple[int, ShareArray]]:
        """(first row, counted from `start`; uint32 (rows, columns)) in turn. `scratch`: (CHUNK_ROWS, columns), reused."""
        for number in range(self.start // CHUNK_ROWS, -(-self.stop // CHUNK_ROWS)):
            first = number * CHUNK_ROWS
            below = scratch[: min(CHUNK_ROWS, self.stop - first)]
            stream = KeyStream(_key_for(self.key, f"columns {number}"), self.algorithm, size=below.nbytes)
            stream.words32(below.size, below.reshape(-1))
            skipped = max(0, self.start - first)
            yield first + skipped - self.start, below[skipped:]

    def stored(self) -> ShareArray:
        """All of it, uint32 (rows, columns)."""
        out = np.empty((self.stop - self.start, self.n_columns), np.uint32)
        for first, chunk in self.chunks(np.empty((CHUNK_ROWS, self.n_columns), np.uint32)):
            out[first : first + len(chunk)] = chunk
        return out

    def panels(self) -> ShareArray:
        """All of it, as panels."""
        out = empty_panels(self.stop - self.start, self.n_columns)
        for first, chunk in self.chunks(np.empty((CHUNK_ROWS, self.n_columns), np.uint32)):
            fill_panels(chunk, out[:, first : first + len(chunk)])
        return out


Factor = Literal["own", "following", "both"]
"""Which of a server's two parts of v a term multiplies: v_i, v_{i+1}, or their sum."""


@dataclass(frozen=True)
class Term:
    """What a server multiplies, and by which of its parts of the other factor.

    Attributes:
        columns: a part of the columns as panels (`mpc.panels`), or how to make it anew; None at the rows' owner, who sums by
            code, and for rows that are never summed.
        bits: the same part of the packed bits, uint64 (words, rows); at the owner the bits themselves.
        factor: of v.
    """

    columns: ShareArray | Regenerated | None
    bits: ShareArray
    factor: Factor

    def __getitem__(self, rows: slice) -> Term:
        columns = self.columns
        if columns is not None:
            columns = columns[rows] if isinstance(columns, Regenerated) else columns[:, rows]
        return Term(columns, self.bits[:, rows], self.factor)


@dataclass(frozen=True)
class Block:
    """One owner's rows as one server holds them.

    Attributes:
        terms: the local products that make this server's additive part of C v.
        labels: uint32 (2, outputs, rows).
        codes: the plaintext, at the server that owns the rows.
        weights: uint32 (2, outputs, 2, rows): weights, and weights times labels; None where rows have none.
    """

    terms: tuple[Term, ...]
    labels: ShareArray
    codes: npt.NDArray[np.uint16] | None = None
    weights: ShareArray | None = None

    @property
    def rows(self) -> int:
        """Rows of the block."""
        return int(self.labels.shape[-1])

    def __getitem__(self, rows: slice) -> Block:
        return Block(
            tuple(term[rows] for term in self.terms),
            self.labels[..., rows],
            None if self.codes is None else self.codes[rows],
            None if self.weights is None else self.weights[..., rows],
        )

    def without_columns(self) -> Block:
        """The same rows, to be routed and scored but never summed by candidate."""
        terms = tuple(Term(None, term.bits, term.factor) for term in self.terms)
        return Block(terms, self.labels, None, self.weights)


def receive_rows(
    candidates: Candidates,
    server: int,
    message: RowShares,
    algorithm: Algorithm,
    codes: npt.NDArray[np.uint16] | None = None,
    regenerate: bool = False,
) -> Block:
    """A server's block from an owner's message; `codes` where the server itself is that owner.

    With `regenerate`, columns that are a key stream are not stored but made anew for every level: at S_0 that is all of
    them, elsewhere half. `benchmarks/bench_mpc.py --regenerate` measures what it costs.

    Raises:
        ProtocolError: parts of another shape or dtype, or codes without being the owner.
    """
    owner = message.assisted_by
    if (codes is not None) != (owner == server):
        raise ProtocolError(f"server {server}: the owner's codes go with owner-assisted rows of its own")
    regenerate = regenerate or codes is not None
    halves = [_half(candidates, message, number, algorithm, regenerate) for number in range(2)]
    shapes = _shapes(candidates, message.rows, message.weighted, message.outputs)[2:]
    labels, *weights = (
        np.stack([half[1][place + 1] if half else np.zeros(shape, dtype) for half in halves])
        for place, (dtype, shape) in enumerate(shapes)
    )
    factors: tuple[Factor, Factor] = ("both", "own") if owner is None else ("following", "own")
    terms = tuple(
        Term(half[0], np.ascontiguousarray(half[1][0].T), factor)
        for half, factor in zip(halves, factors, strict=True)
        if half is not None
    )
    if codes is not None:
        terms = (Term(None, terms[0].bits ^ terms[1].bits, "both"),)
    return Block(terms, labels, codes, weights[0] if weights else None)


def _half(
    candidates: Candidates, message: RowShares, number: int, algorithm: Algorithm, regenerate: bool
) -> tuple[ShareArray | Regenerated, tuple[ShareArray, ...]] | None:
    """A part: its columns, and bits, labels and weights; None where it is zero."""
    key, parts = message.keys[number], message.parts[number]
    if key is not None:
        columns = Regenerated(key, candidates.n_columns, 0, message.rows, algorithm)
        others = _other_masks(key, candidates, message.rows, algorithm, message.weighted, message.outputs)
        return (columns if regenerate else columns.panels()), others
    if parts is None:
        return None
    shapes = _shapes(candidates, message.rows, message.weighted, message.outputs)
    found = [(part.dtype, part.shape) for part in parts]
    if found != shapes:
        raise ProtocolError(f"an owner's shares are {found}; expected {shapes}")
    return to_panels(parts[0]), parts[1:]


def sums_part(candidates: Candidates, block: Block, vectors: ShareArray, threads: Threads = ALONE) -> ShareArray:
    """This server's additive part of C^T V, in Z_2^32; local.

    Args:
        vectors: shared, uint32 (2, vectors, rows of the block). threads: of the server.

    Returns:
        uint32 (vectors, columns).
    """
    columns = candidates.n_columns
    out = np.zeros((vectors.shape[1], panel_columns(columns)), np.uint32)
    for term in block.terms:
        factor = _factor(vectors, term.factor, RING32)
        if block.codes is None:
            _add_product(term.columns, factor, out, threads)
            continue
        by_code = np.zeros((len(candidates.features), candidates.n_codes, len(factor)), np.uint32)
        _add_code_sums(block.codes, factor, by_code, threads)
        out[:, :columns] += candidates.sums_by_column(by_code)
    return out[:, :columns]


def _factor(pair: ShareArray, factor: Factor, ring: Ring) -> ShareArray:
    """What a term multiplies, of a shared array."""
    match factor:
        case "both":
            return ring.add(pair[0], pair[1])
        case "own":
            return np.ascontiguousarray(pair[0])
        case "following":
            return np.ascontiguousarray(pair[1])


def _add_code_sums(codes: npt.NDArray[np.uint16], factor: ShareArray, by_code: ShareArray, threads: Threads) -> None:
    """Each thread takes features of its own."""
    own = threads if len(codes) >= LEAST_ROWS else ALONE
    own.share(lambda first, last: add_code_sums(codes, factor, by_code, first, last), codes.shape[1])


def _add_product(
    columns: ShareArray | Regenerated | None, vectors: ShareArray, out: ShareArray, threads: Threads
) -> None:
    """out += C^T V for stored columns, regenerated ones, or none."""
    if columns is None:
        return
    if not isinstance(columns, Regenerated):
        add_gemm(columns, vectors, out, threads)
        return
    scratch = np.empty((CHUNK_ROWS, columns.n_columns), np.uint32)
    for first, chunk in columns.chunks(scratch):
        add_gemm(to_panels(chunk), np.ascontiguousarray(vectors[:, first : first + len(chunk)]), out, threads)


def routing_part(block: Block, one_hots: ShareArray, out: npt.NDArray[np.uint8], threads: Threads = ALONE) -> None:
    """XOR parts of <C_i, onehot_n> over GF(2), into bit n of out[i]; local.

    Args:
        one_hots: XOR-shared over the columns, packed, uint64 (2, nodes, words).
        out: uint8 (rows, ceil(nodes / 8)) of zeros.
    """
    for term in block.terms:
        bits, chosen = term.bits, _factor(one_hots, term.factor, BITS)
        by_rows(threads, partial(add_gf2_product, bits, chosen, out), len(out))


def label_words(blocks: list[Block], output: int = 0) -> ShareArray:
    """The labels of all blocks for one output, shared in Z_2^32, (2, rows)."""
    return RING32.reduce(np.concatenate([block.labels[:, output] for block in blocks], axis=1))


def weights_of(blocks: list[Block], output: int = 0) -> ShareArray | None:
    """Weights, and weights times labels, of all blocks for one output, shared in Z_2^32, (2, 2, rows); None where there are none.

    Raises:
        ProtocolError: some owners sent weights and some did not.
    """
    own = [block.weights[:, output] for block in blocks if block.weights is not None]
    if not own:
        return None
    if len(own) < len(blocks):
        raise ProtocolError(
            "some owners sent weights and some did not; rule: the plan says for all whether rows have them"
        )
    return np.concatenate(own, axis=2)
