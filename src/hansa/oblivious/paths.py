"""Half-path one-hots: the upper and the lower half of each row's path, whose products tell its node.

One-hots of all leaves would take 2^depth words a row; two halves take the root of that. They give the sums of |g| by
node, and each row's leaf value, as products of output size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hansa.mpc.replicated import Address, Program, Server, add_public, multiply, product_part, reshare, together
from hansa.mpc.ring import RING32, ShareArray, add_combinations, cross_dots


@dataclass
class Paths:
    """Shared one-hots of the two halves of each row's path, in Z_2^32; None before their first level."""

    split_at: int
    upper: ShareArray | None = None
    lower: ShareArray | None = None
    weighted: ShareArray | None = None


def upper_levels(depth: int, weighted: bool) -> int:
    """How many levels the upper half-path takes, so that the fewest words a row travel."""

    def words(upper: int) -> int:
        lower = depth - upper
        weight = (2 ** (lower - 1) - 1 if lower else 0) * weighted
        return int(2**upper - 2 + (2 * 2**lower - 2 if lower else 0) + weight)

    return min(range(1, depth + 1), key=words)


def extend_paths(
    server: Server, paths: Paths, left_bit: ShareArray, level: int, depth: int, address: Address
) -> Program[None]:
    """Add a level to the half-path one-hots, and to |g| times the lower one. At most one round."""
    names: list[str] = []
    programs: list[Program[ShareArray]] = []
    in_upper = level < paths.split_at
    current = paths.upper if in_upper else paths.lower
    name = "upper" if in_upper else "lower"
    if current is None:
        other = add_public(server, RING32, np.zeros_like(left_bit) - left_bit, 1)
        setattr(paths, name, np.stack([left_bit, other], axis=1))
    else:
        names.append(name)
        programs.append(_doubled(server, current, left_bit, address.named(name)))
    if not in_upper and paths.weighted is not None and level < depth - 1:
        weighted = paths.weighted if paths.weighted.ndim == 3 else paths.weighted[:, None]
        names.append("weighted")
        programs.append(_doubled(server, weighted, left_bit, address.named("weighted")))
    results = yield from together(*programs)
    for name, result in zip(names, results, strict=True):
        setattr(paths, name, result)


def _doubled(server: Server, x: ShareArray, left_bit: ShareArray, address: Address) -> Program[ShareArray]:
    """(2, n, rows) to (2, 2 n, rows): x left_bit, then x - x left_bit."""
    left = yield from multiply(server, RING32, x, left_bit[:, None], address)
    return np.concatenate([left, x - left], axis=1)


def absolute_sums(paths: Paths, level: int, rows_per_sum: int) -> ShareArray:
    """Additive parts of sum |g_i| [row i in node n] of a level's nodes: uint32 (groups, nodes); local.

    sum_i U[a, i] (|g_i| L[b, i]),  n = a + 2^upper b
    """
    assert paths.weighted is not None
    weighted = paths.weighted if paths.weighted.ndim == 3 else paths.weighted[:, None]
    rows = weighted.shape[2]
    edges = range(0, rows, rows_per_sum)
    if level == 0:
        return np.add.reduceat(weighted[0, 0], list(edges), dtype=np.uint32)[:, None]
    assert paths.upper is not None
    upper = paths.upper
    out = np.zeros((len(edges), weighted.shape[1], upper.shape[1]), np.uint32)
    for group, start in enumerate(edges):
        rest = slice(start, start + rows_per_sum)
        add_dot_parts(weighted[:, :, rest], upper[:, :, rest], out[group])
    return out.reshape(len(edges), -1)


def add_dot_parts(x: ShareArray, y: ShareArray, out: ShareArray) -> None:
    """out[a, b] += this server's additive part of sum_i x[a, i] y[b, i]; shared (2, ., rows); local."""
    cross_dots(np.ascontiguousarray(x[0]), y[0] + y[1], out)
    cross_dots(np.ascontiguousarray(x[1]), np.ascontiguousarray(y[0]), out)


def leaf_of_paths(server: Server, paths: Paths, leaves: ShareArray, address: Address) -> Program[ShareArray]:
    """Each row's leaf value: sum_a U[a, i] sum_b L[b, i] leaf[a + 2^upper b]. At most two rounds."""
    assert paths.upper is not None
    upper = paths.upper
    rows = upper.shape[2]
    if paths.lower is None:
        return (yield from reshare(server, RING32, weighted_part(leaves[:, None], upper)[0], address))
    table = leaves.reshape(2, -1, upper.shape[1])
    inner = weighted_part(table, upper)
    inner_shared = yield from reshare(server, RING32, inner, address.named("upper"))
    total = np.zeros(rows, np.uint32)
    for b in range(inner.shape[0]):
        total += product_part(RING32, inner_shared[:, b], paths.lower[:, b])
    return (yield from reshare(server, RING32, total, address))


def weighted_part(weights: ShareArray, x: ShareArray) -> ShareArray:
    """Additive parts of sum_b weights[a, b] x[b, i], (a, rows) in Z_2^32; local."""
    out = np.zeros((weights.shape[1], x.shape[2]), np.uint32)
    add_combinations(weights[0] + weights[1], np.ascontiguousarray(x[0]), out)
    add_combinations(np.ascontiguousarray(weights[0]), np.ascontiguousarray(x[1]), out)
    return out
