"""A party that chooses its rows: how many labels of known persons it reads from the leaves of an honest run.

    python -m benchmarks.bench_chosen_rows [--quick] [--json]

The party knows three of four features of a person at another party, and the plan. It holds copies of that person, with label 1, and
next to them rows that differ in the last bit of one feature, with label 0. So the first tree makes a leaf of the copies and the
person: the leaf's value, less the copies, tells the person's label. Nobody departs from the protocol, and the attack reads nothing but
the model and the party's own rows. A label counts as read where exactly one stranger fits the leaf, and it is of this label.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from rich.table import Table

from benchmarks.machine import console, described, machine
from hansa.data.schema import Schema
from hansa.data.source import Rows
from hansa.node.in_process import share_in_process, train_in_process
from hansa.plan import COOPETITIVE, Coopetitive, Plan, Release
from hansa.roles.summed.statistics import rounded_leaf_bits
from hansa.trees.ensemble import Ensemble, Tree
from hansa.trees.parameters import parse_parameters
from hansa.trees.xgboost_json import from_json

FEATURES = ("x1", "x2", "x3", "x4")
PARTIES = ("aurora", "borealis", "mallory")
KNOWN = 3
COPIES = 60
LIKE_THE_PERSON = 6
"""Times COPIES: rows with the person's own values."""

MOST_REJECTED_PEERS = 8
ETA, LAMBDA = 0.3, 1.0
FLOAT_ERROR = 1e-5
"""Of a leaf's value that is not rounded, in relation to itself: the margin that p follows from is a float32."""


@dataclass(frozen=True)
class World:
    """Rows of two honest parties, dealt in turn: float32 (features, rows) and (rows,)."""

    features: np.ndarray
    label: np.ndarray

    @classmethod
    def made(cls, rows: int, seed: int = 2) -> World:
        draw = np.random.Generator(np.random.PCG64(seed))
        features = draw.standard_normal((len(FEATURES), rows), dtype=np.float32)
        signal = features[0] + features[1] * features[2] + draw.logistic(size=rows)
        return cls(features, (signal > 0).astype(np.float32))

    def tables(self, person: int, copies: int) -> dict[str, Rows]:
        """Every party's rows, where the third is after one person."""
        honest = [Rows(np.ascontiguousarray(self.features[:, i::2]), self.label[i::2], None) for i in range(2)]
        return dict(zip(PARTIES, [*honest, around(self.features[:KNOWN, person], copies)], strict=True))


def around(person: np.ndarray, copies: int) -> Rows:
    """Rows like the person with label 1, and with label 0 such as differ in the last bit of one feature; the unknown feature is 0."""
    groups = [(person, 1.0, LIKE_THE_PERSON * copies)]
    for feature, end in itertools.product(range(KNOWN), (-np.inf, np.inf)):
        other = person.copy()
        other[feature] = np.nextafter(other[feature], np.float32(end))
        groups.append((other, 0.0, copies))
    known = np.concatenate([np.repeat(values[:, None], count, 1) for values, _, count in groups], axis=1)
    label = np.concatenate([np.full(count, own) for _, own, count in groups])
    return Rows(
        np.concatenate([known, np.zeros((1, known.shape[1]))]).astype(np.float32), label.astype(np.float32), None
    )


def leaf_of(tree: Tree, row: np.ndarray) -> int:
    """The leaf that a row without missing values falls into."""
    node = 0
    while tree.left_children[node] >= 0:
        left = row[tree.split_indices[node]] < tree.split_conditions[node]
        node = int((tree.left_children if left else tree.right_children)[node])
    return node


def read_label(model: Ensemble, mine: Rows, error: float) -> float | None:
    """The label of the one stranger that fits the leaf of the copies; None where none does, or strangers of both labels.

    Args:
        error: how far the leaf's value may be from what its rows give, beside float32's own.
    """
    tree = model.trees[0]
    leaf = leaf_of(tree, mine.features[:, 0])
    inside = np.array([leaf_of(tree, mine.features[:, i]) == leaf for i in range(mine.n_rows)])
    ones, zeros = int((inside & (mine.label == 1)).sum()), int((inside & (mine.label == 0)).sum())
    p, value = model.base_scores[0], float(tree.split_conditions[leaf])
    fitting = []
    for extra in itertools.product(range(MOST_REJECTED_PEERS), repeat=2):  # with label 0, with label 1
        a, b = ones + extra[1], zeros + extra[0]
        implied = -ETA * (a * (p - 1) + b * p) / ((a + b) * p * (1 - p) + LAMBDA)
        if abs(implied - value) <= FLOAT_ERROR * max(abs(value), 1e-3) + error:
            fitting.append(extra)
    # The fewest strangers: the leaf was made for one.
    fewest = min((sum(extra) for extra in fitting), default=0)
    likely = [extra for extra in fitting if sum(extra) == fewest]
    if len(likely) != 1 or fewest != 1:
        return None
    return float(likely[0] == (0, 1))


def plan_of(mode: str, **given: Any) -> Plan:
    """The plan of the honest run; `given` are fields of the plan."""
    shared = mode == COOPETITIVE
    parameters = parse_parameters(
        {"rounds": 1, "max_depth": 8, "eta": ETA, "max_bin": 64 if shared else 32, "min_child_weight": 20}
    )
    plan = Plan(
        "chosen-rows", mode, "" if shared else "hub", PARTIES, ("mallory",) if shared else PARTIES, len(PARTIES),
        Schema(FEATURES, "y"), parameters,
        coopetitive=Coopetitive("hub", ("aurora", "borealis", "server"), missing=()) if shared else None,
    )  # fmt: skip
    return replace(plan, **given)


def attack(plan: Plan, world: World, person: int, copies: int = COPIES) -> float | None:
    """The label that the third party reads of a person, in one honest run."""
    tables = world.tables(person, copies)
    shared = plan.coopetitive is not None
    run = share_in_process(plan, tables).members if shared else train_in_process(plan, tables).parties
    document = run["mallory"].model
    assert document is not None  # the third party is a receiver
    model = from_json(document)
    bits = rounded_leaf_bits(plan, sum(own.n_rows for own in tables.values()), model.base_scores[0], 1.0)
    # On shares leaves are rounded at random, and to 14 bits at least.
    error = 2.0 ** -min(bits or 14, 14) if shared else 0.0 if bits is None else 2.0 ** -(bits + 1)
    return read_label(model, tables["mallory"], error)


CASES: Mapping[str, Mapping[str, Any]] = {
    "federated": {"mode": "federated"},
    "federated, min_child_rows 100": {"mode": "federated", "min_child_rows": 100},
    "federated, leaf_bits 8": {"mode": "federated", "release": Release(leaf_bits=8)},
    "federated, dominance": {"mode": "federated", "dominance": True},
    "secure-aggregation": {"mode": "secure-aggregation"},
    "secure-aggregation, verify_counts": {"mode": "secure-aggregation", "verify_counts": "after"},
    "secure-aggregation, verify_counts, min_child_rows 100": {
        "mode": "secure-aggregation", "verify_counts": "after", "min_child_rows": 100,
    },
    "coopetitive": {"mode": COOPETITIVE},
    "coopetitive, least_choices 0": {"mode": COOPETITIVE, "release": Release(least_choices=0)},
    "coopetitive, leaf_bits 8": {"mode": COOPETITIVE, "release": Release(leaf_bits=8)},
    "coopetitive, leaf_bits 8, 15 copies": {"mode": COOPETITIVE, "release": Release(leaf_bits=8), "copies": 15},
    "coopetitive, leaf_bits 4, 15 copies": {"mode": COOPETITIVE, "release": Release(leaf_bits=4), "copies": 15},
}  # fmt: skip


def measure(rows: int, persons: int, names: tuple[str, ...]) -> dict[str, Any]:
    """Labels read, right and wrong, of each case."""
    world = World.made(rows)
    chosen = np.random.Generator(np.random.PCG64(3)).choice(rows, persons, replace=False).tolist()
    lines = []
    for name in names:
        case = dict(CASES[name])
        copies = case.pop("copies", COPIES)
        plan = plan_of(**case)
        read = [attack(plan, world, person, copies) for person in chosen]
        right = sum(label == world.label[person] for label, person in zip(read, chosen, strict=True))
        lines.append({"case": name, "right": right, "wrong": sum(label is not None for label in read) - right})
    return {"machine": machine(), "rows": rows, "persons": persons, "copies": COPIES, "lines": lines}


def show(result: dict[str, Any]) -> None:
    """Print one table."""
    table = Table(
        "plan",
        "labels read rightly",
        "wrongly",
        title=f"{result['rows']:,} rows of two honest parties, {result['persons']} known persons, {result['copies']} copies, "
        f"min_child_weight 20\n{described(result['machine'])}",
        title_justify="left",
    )
    for line in result["lines"]:
        table.add_row(line["case"], f"{line['right']} of {result['persons']}", str(line["wrong"]))
    console().print(table)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rows, persons and plans: does it work?")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    names = tuple(CASES)
    result = measure(1_000, 2, (names[0], names[-1])) if options.quick else measure(6_000, 20, names)
    if options.json:
        print(json.dumps(result))
    else:
        show(result)


if __name__ == "__main__":
    main()
