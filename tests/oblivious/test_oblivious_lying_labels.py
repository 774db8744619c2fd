"""What SECURITY.md says that a lying server can still do: training is not verified, so it reads a known row's label from the model.

These tests hold the page to the truth. A step that verifies training makes them fail, and changes both.
"""

from __future__ import annotations

import numpy as np
import pytest

from hansa.oblivious import leaves, split_finding
from hansa.oblivious.split_finding import group_sizes
from hansa.oblivious.training import BoostingSettings
from naive_mpc import leaf_of_codes
from three_servers import make_table, train_openly

DEPTH, CUTS = 6, 15


def isolating_path(candidates, codes, row):
    """By level the candidate that leaves fewest rows beside a known one, and whether the row goes left; how many rows are left."""
    number = {(c.feature, c.cut): n + 1 for n, c in enumerate(candidates.all)}
    own, alive, path = codes[row].astype(int), np.ones(len(codes), np.bool_), []
    for _ in range(DEPTH):
        ways = [(f, cut) for f in range(codes.shape[1]) for cut in (own[f] - 1, own[f]) if 0 <= cut < CUTS]
        sides = [(codes[:, f] <= cut) == (own[f] <= cut) for f, cut in ways]
        best = int(np.argmin([(alive & side).sum() for side in sides]))
        alive &= sides[best]
        feature, cut = ways[best]
        path.append((number[feature, cut], bool(own[feature] <= cut)))
    return path, int(alive.sum())


def forcing(liar, candidates, path):
    """`sign_part` and `signs` as the liar computes them: its candidate wins on the row's path, and no leaf is too light."""
    sign_part, signs = split_finding.sign_part, leaves.signs
    items, nodes = len(candidates.all) + 1, [0]
    for level, (_, left) in enumerate(path):
        nodes.append(nodes[-1] + (0 if left else 1 << level))

    def lying_sign_part(server, ring, part, address, *more):
        if server.index == liar and "/tournament/" in address.tensor and address.tensor.endswith("/sign"):
            match, depth = int(address.tensor.split("/tournament/")[1].split("/")[0]), address.step
            sizes, winner, contenders = group_sizes(items), path[address.step][0], items
            for size in sizes[:match]:
                winner //= size
                contenders = -(-contenders // size)
            size = sizes[match]
            groups = -(-contenders // size)
            pairs = split_finding._pairs(size)
            part = part.reshape(len(pairs), -1, groups).copy()
            for number, (first, second) in enumerate(pairs):
                # Negative: the second wins.
                if winner % size in (first, second):
                    favour = np.uint64(2**62) if winner % size == first else np.uint64(2**64 - 2**62)
                    part[number, nodes[depth] : nodes[depth] + 1, winner // size] += favour
            part = part.reshape(-1)
        return (yield from sign_part(server, ring, part, address, *more))

    def lying_signs(server, ring, part, address):
        if server.index == liar and address.tensor.endswith("conditions"):
            part = part.reshape(-1, 1 << DEPTH).copy()
            part[-3] += np.uint64(2**50)
            part = part.reshape(-1)
        return (yield from signs(server, ring, part, address))

    return lying_sign_part, lying_signs


@pytest.mark.parametrize("liar", [0, 1, 2])
def test_a_lying_server_reads_a_known_rows_label_from_the_released_model(liar, monkeypatch):
    """In spite of min_child_weight 20, which no leaf of so few rows has."""
    candidates, codes, labels = make_table(1500, 8, CUTS, seed=7)
    settings = BoostingSettings("binary:logistic", rounds=1, max_depth=DEPTH, min_child_weight=20.0, base_margin=0.0)
    honest = train_openly(candidates, codes, labels, settings, owners=(0, 1, 2))[0]
    _, sizes = np.unique(leaf_of_codes(candidates, honest, codes), return_counts=True)
    # A row weighs a quarter in the first tree.
    assert sizes.min() >= 80
    for row in np.random.default_rng(1).choice(len(codes), 3, replace=False).tolist():
        path, alone = isolating_path(candidates, codes, row)
        assert alone == 1
        with monkeypatch.context() as patched:
            sign_part, signs = forcing(liar, candidates, path)
            patched.setattr(split_finding, "sign_part", sign_part)
            patched.setattr(leaves, "signs", signs)
            tree = train_openly(candidates, codes, labels, settings, owners=(0, 1, 2))[0]
        value = leaf_of_codes(candidates, tree, codes[row : row + 1])[0]
        assert (value > 0) == labels[row]
