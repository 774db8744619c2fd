"""How many trees of a round grow side by side: one request a level asks for the histograms of all.

All trees of a round take the gradients of the margins at its start, so none waits for another; what limits them is memory. Both sides
work the number out from what is public, and a party refuses another.
"""

from __future__ import annotations

from hansa.plan import Plan

HISTOGRAM_BYTES = 2**29
"""Of the histograms of all nodes of the trees side by side, which the aggregator keeps; a level at a party is about a quarter of it."""

ROW_BYTES = 2**28
"""Of what a party keeps of its rows for the trees side by side: packed gradients, which row stands where, leaves that wait."""

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
    most = min(HISTOGRAM_BYTES // (8 * nodes * each * cells), ROW_BYTES // (rows * row_bytes(planes)), MOST_TREES)
    found: int = max(1, min(most, parameters.trees_per_round))
    return found
