"""Splits under the rule of dominance, against a search that is written out."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from hansa.trees import histogram
from hansa.trees.dominance import Contributors
from hansa.trees.growth import Buffers, Grower
from hansa.trees.node_columns import NodeColumns
from hansa.trees.objective import Scales
from hansa.trees.parameters import parse_parameters
from made_tables import no_rules


def naive(parts, offsets, has_missing, least, lambda_=1.0):
    """(gain, feature, bin, missing left) of the best split whose children hold `least` without their largest contributor.

    parts: (parties, cells, 2), sums of g and h.
    """
    whole = parts[:, offsets[0] : offsets[1]].sum(axis=1)

    def score(sums):
        return sums[0] ** 2 / (sums[1] + lambda_)

    best = (0.0, -1, 0, 0)
    for f in range(len(offsets) - 1):
        cells = parts[:, offsets[f] : offsets[f + 1]]
        present = cells[:, :-1] if has_missing[f] else cells
        missing = cells[:, -1] if has_missing[f] else np.zeros((len(parts), 2), np.int64)
        for side in range(2 if missing[:, 1].sum() > 0 else 1):
            for b in range(present.shape[1]):
                left = present[:, : b + 1].sum(axis=1) + side * missing
                right = whole - left
                if any(each[:, 1].sum() - each[:, 1].max() < least for each in (left, right)):
                    continue
                gain = score(left.sum(axis=0)) + score(right.sum(axis=0)) - score(whole.sum(axis=0))
                if gain > best[0] + 1e-9:
                    best = (gain, f, b, side)
    return best


@settings(max_examples=60, deadline=None)
@given(
    parties=st.integers(2, 4),
    least=st.integers(1, 30),
    planes=st.sampled_from([1, 2]),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_best_split_is_that_of_the_rule_for_the_root_and_for_both_children(parties, least, planes, seed):
    rng = np.random.default_rng(seed)
    has_missing = np.array([False, True])
    codes = np.array([3, 4])
    offsets = np.concatenate([[0], np.cumsum(codes)]).astype(np.int64)
    rows = [np.stack([rng.integers(0, 3, n), rng.integers(0, 4, n)]) for n in rng.integers(1, 40, parties)]
    g = [rng.integers(-9, 10, table.shape[1]) for table in rows]
    layout = histogram.layout_of(offsets, np.arange(2, dtype=np.uint32))
    parameters = parse_parameters({"max_depth": 3, "min_child_weight": least, "lambda": 1.0, "gamma": 0.0})
    rules = no_rules(2)
    columns = NodeColumns(layout.columns, 0, 0, 1.0, 1.0, rules.interactions)
    grower = Grower(
        parameters, Scales(1.0, 1.0, planes), layout, has_missing, Buffers(), rules, columns, contributors=parties
    )

    def sums_of(party, inside):
        part = np.zeros((7, 2), np.int64)
        for f in range(2):
            np.add.at(
                part,
                offsets[f] + rows[party][f][inside],
                np.stack([g[party][inside], np.ones(inside.sum(), np.int64)], 1),
            )
        return part

    def packed(part):
        return part.T.copy() if planes == 2 else (part[:, 0] * 2**32 + part[:, 1])[None]

    everybody = [np.ones(table.shape[1], np.bool_) for table in rows]
    for party in rng.permutation(parties):
        grower.add(0, packed(sums_of(party, everybody[party]))[None], parties, int(party))
    parts = np.stack([sums_of(party, everybody[party]) for party in range(parties)])
    expected = naive(parts, offsets, has_missing, least)
    level = grower.decide()
    assert level.feature[0] == expected[1] or np.isclose(grower._gains[0], expected[0])
    if level.feature[0] < 0:
        assert expected[0] <= 1e-6
        return
    assert np.isclose(grower._gains[0], expected[0])
    f, b = level.feature[0], level.bin[0]
    goes_left = [
        np.where(has_missing[f] & (table[f] == codes[f] - 1), level.missing_left[0] == 1, table[f] <= b)
        for table in rows
    ]
    if level.last:
        return
    grower.go_on()
    side = goes_left if level.build_left[0] else [~each for each in goes_left]
    for party in range(parties):
        grower.add(0, packed(sums_of(party, side[party]))[None], parties, party)
    grower.decide()
    for child, inside in enumerate((goes_left, [~each for each in goes_left])):
        parts = np.stack([sums_of(party, inside[party]) for party in range(parties)])
        assert np.isclose(max(grower._gains[child], 0.0), naive(parts, offsets, has_missing, least)[0])


def test_contributors_keep_who_gave_what_from_level_to_level():
    layout = histogram.layout_of(np.array([0, 2], np.int64), np.zeros(1, np.uint32))
    kept = Contributors(2, layout)
    kept.add(1, np.array([0]), np.array([[[5, 7]]], np.int64))
    kept.add(0, np.array([0]), np.array([[[1, 2]]], np.int64))
    assert kept.nodes[:, 0].tolist() == [[1, 3], [5, 12]]
    above = kept.nodes
    kept.start_level(2, above)
    assert kept.parents is above
    assert kept.nodes.shape == (2, 2, 2)
    Contributors(0, layout).add(
        0, np.array([0]), np.array([[[5, 7]]], np.int64)
    )  # nothing is kept where the rule does not hold
