"""What a party that chooses its rows reads from leaves, in every mode: `benchmarks/bench_chosen_rows.py`, small."""

from __future__ import annotations

import pytest
from benchmarks.bench_chosen_rows import World, attack, plan_of

from hansa.plan import Release

WORLD = World.made(1000)
PERSONS = (7, 23, 77, 140, 251, 678)


def read(copies: int = 60, **given: object) -> tuple[int, int]:
    """Labels read rightly, and wrongly."""
    labels = [attack(plan_of(**given), WORLD, person, copies) for person in PERSONS]
    right = sum(label == WORLD.label[person] for label, person in zip(labels, PERSONS, strict=True))
    return right, sum(label is not None for label in labels) - right


@pytest.mark.parametrize(
    "given", [{}, {"verify_counts": "after"}, {"verify_counts": "after", "min_child_rows": 100}], ids=str
)
def test_neither_masks_nor_verified_counts_nor_larger_leaves_hide_the_label(given):
    right, wrong = read(mode="secure-aggregation", **given)
    assert right >= 4
    assert not wrong


def test_in_federated_mode_the_rule_of_dominance_does():
    assert read(mode="federated")[0] >= 4
    assert read(mode="federated", dominance=True) == (0, 0)


def test_a_coopetitive_release_of_fine_leaves_tells_the_label():
    right, wrong = read(mode="coopetitive", release=Release(least_choices=0))
    assert right >= 4
    assert not wrong


def test_leaves_rounded_to_more_than_one_row_moves_them_do_not():
    """Until the party takes fewer copies, which `min_child_weight` bounds: each row then moves the leaf more."""
    assert read(mode="coopetitive", release=Release(leaf_bits=6)) == (0, 0)
    assert read(mode="federated", release=Release(leaf_bits=6)) == (0, 0)
