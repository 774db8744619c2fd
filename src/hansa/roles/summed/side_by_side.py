"""How many trees of a round grow side by side: one request a level asks for the histograms of all.

All trees of a round take the gradients of the margins at its start, so none waits for another; what limits them is memory. Both sides
work the number out from what is public, and a party refuses another.
"""

from __future__ import annotations

from collections.abc import Sequence

from hansa.plan import Plan

Shape = tuple[int, int, int]
"""Of a tree's histograms that are asked for at a level: nodes, planes and cells."""

HISTOGRAM_BYTES = 2**29
"""Of the histograms of all nodes of the trees side by side, which the aggregator keeps; a level at a party is about a quarter of it."""

ROW_BYTES = 2**28
"""Of what a party keeps of its rows for the trees side by side: packed gradients, which row stands where, leaves that wait."""

COLLECTED_BYTES = 2**31
"""Of all sums that a collector makes at a time, and of what it keeps of its parties before it is told of them."""

MOST_TREES = 64
"""What a message says of so many trees beside their data stays far below `messages.ENVELOPE_BYTES`."""


def row_bytes(planes: int) -> int:
    """Bytes that a row takes at its party for a tree."""
    return 8 * planes + 4 + 2


def trees_at_once(plan: Plan, cells: int, planes: int, rows: int) -> int:
    """Trees of a round that grow side by side, at least 1; the last of a round may be fewer.

    Trees that grow where the gain is largest, and those whose leaves are refitted, grow one by one.

    Args:
        cells: codes of all features. planes: int64 words of a sum of gradients. rows: of the party that has the most of those that
            began the run, held-out ones included.
    """
    parameters = plan.parameters
    if parameters.grow_policy != "depthwise" or parameters.quantiles:
        return 1
    nodes: int = min(2**parameters.most_depth, 2 * parameters.most_leaves) - 1
    each = planes + (len(plan.parties) if plan.dominance else 0)
    most = min(
        HISTOGRAM_BYTES // (8 * nodes * each * cells), ROW_BYTES // (max(rows, 1) * row_bytes(planes)), MOST_TREES
    )
    if plan.collectors:  # which keep one answer of each of their parties at most, beside what is said of it
        parties = max(len(own) for _, own in plan.collectors)
        built = max((nodes + 1) // 4, 1)
        most = min(most, COLLECTED_BYTES // (2 * parties) // (8 * built * planes * cells))
    found: int = max(1, min(most, parameters.trees_per_round))
    return found


def whole_nodes(shapes: Sequence[Shape], first: int, words: int) -> list[tuple[int, int, int]]:
    """Which nodes so many words are the histograms of, from node `first` on, where trees' nodes stand one behind the other.

    Returns:
        (place of the tree in `shapes`, its first node, how many) by tree; none unless these are words of whole nodes asked for.
    """
    found = []
    for place, (nodes, planes, cells) in enumerate(shapes):
        begin = min(first, nodes)
        count = min(nodes - begin, words // (planes * cells))
        first, words = first - begin, words - count * planes * cells
        if count:
            found.append((place, begin, count))
        if begin + count < nodes:
            break
    return [] if words else found


def nodes_expected(shapes: Sequence[Shape], expected: int, first: int, words: int) -> str:
    """Why a fragment of so many words, from node `first` on, is not what is expected from node `expected` on."""
    sizes = sorted({planes * cells for _, planes, cells in shapes})
    nodes = sum(nodes for nodes, _, _ in shapes)
    return (
        f"{words} words from node {first} on; expected whole nodes from {expected} of {nodes}, of "
        f"{', '.join(map(str, sizes))} words each"
    )


def words_before(shapes: Sequence[Shape], node: int) -> int:
    """Words of all nodes before this one."""
    words = 0
    for nodes, planes, cells in shapes:
        own = min(node, nodes)
        node, words = node - own, words + own * planes * cells
    return words
