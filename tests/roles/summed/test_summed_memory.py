"""What a party keeps of a large table is at most a byte and a half a row and feature, at 256 bins."""

from __future__ import annotations

from dataclasses import fields, is_dataclass

import numpy as np
import pytest

from hansa.data.source import Rows
from hansa.node import in_process
from hansa.node.in_process import train_in_process
from hansa.roles.summed.party import Party
from hansa.trees.row_chunks import CHUNK_ROWS
from made_tables import plan as made_plan

N, FEATURES = CHUNK_ROWS + 5000, 30


class LargeRows(Rows):
    """Rows that are few, for which memory counts all the same."""

    large = property(lambda self: True)


def rows(kind=Rows, missing=False):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(FEATURES, N)).astype(np.float32)
    if missing:
        features[:, ::50] = np.nan
    return kind(features, (features[0] + rng.normal(size=N) > 0).astype(np.float32), None)


def kept_of_rows(thing, seen=None):
    """By the identity of their memory, the bytes of all arrays that `thing` holds and that have something of each row."""
    seen = {} if seen is None else seen
    if id(thing) in seen:
        return {}
    seen[id(thing)] = thing
    if isinstance(thing, np.ndarray):
        while isinstance(thing.base, np.ndarray):
            thing = thing.base
        return {id(thing): thing.nbytes} if set(thing.shape) & {N, -(-N // 8)} else {}
    inner = []
    if isinstance(thing, dict):
        inner = list(thing.values())
    elif isinstance(thing, tuple | list):
        inner = list(thing)
    elif is_dataclass(thing):
        inner = [getattr(thing, field.name) for field in fields(thing)]
    elif (isinstance(thing, Party) or type(thing).__module__.startswith("hansa.")) and hasattr(thing, "__dict__"):
        inner = list(vars(thing).values())
    found = {}
    for each in inner:
        found |= kept_of_rows(each, seen)
    return found


def trained(monkeypatch, given, **parameters):
    """The model of one party's rows, and the bytes a row and feature that the party keeps at the end."""
    parties = []

    class Watched(Party):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            parties.append(self)

    monkeypatch.setattr(in_process, "Party", Watched)
    names = tuple(f"f{i:02}" for i in range(FEATURES))
    plan = made_plan(("north",), **({"rounds": 2, "max_depth": 3, "max_bin": 256} | parameters))
    schema = type(plan.schema)(names, "y")
    plan = type(plan)(**{field.name: getattr(plan, field.name) for field in fields(plan)} | {"schema": schema})
    model = train_in_process(plan, {"north": given}).outcome.model
    return model, sum(kept_of_rows(parties[0]).values()) / (N * FEATURES)


def test_a_large_table_takes_a_byte_and_a_half_a_row_and_feature(monkeypatch):
    model, spared = trained(monkeypatch, rows(LargeRows))
    expected, plain = trained(monkeypatch, rows())
    assert model == expected
    assert spared <= 1.5
    assert spared > 1  # the codes are among what is counted
    assert plain > 2  # codes twice


@pytest.mark.parametrize(
    "parameters",
    [
        {"evaluation": 0.2, "subsample": 0.7},
        {"num_parallel_tree": 2, "subsample": 0.7},
        {"histogram_bits": 64, "objective": "reg:squarederror"},
    ],
    ids=["held out and drawn", "forest", "wide"],
)
def test_the_model_of_a_large_table_is_the_one_of_a_small_one(monkeypatch, parameters):
    given = {"max_bin": 64} | parameters
    assert trained(monkeypatch, rows(LargeRows, True), **given)[0] == trained(monkeypatch, rows(Rows, True), **given)[0]
