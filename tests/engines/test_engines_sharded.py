"""Rows spread over workers: the same frames to the byte as rows in one process, whichever workers die."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from conversation import Conversation
from engine_runs import PARTIES, SETTINGS, Listening, same, talked
from hansa.data.source import Rows
from hansa.engines.shard import Shard
from hansa.engines.sharded_rows import MOST_LOSSES, ShardedRows, WorkerLost, added
from hansa.errors import HansaError, RowsLost
from hansa.roles.summed.custom import NO_FUNCTIONS
from hansa.roles.summed.party_rows import PartyRows
from hansa.roles.summed.rows_in_memory import RowsInMemory
from made_tables import FEATURES, plan, spread, table, take


@dataclass
class Here:
    """Workers in this process, some of which die at calls that are given by their numbers."""

    make: list[Any]
    deaths: frozenset[int] = frozenset()
    calls: int = 0
    restarts: int = 0
    alive: list[Shard | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.alive = [make() for make in self.make]

    def __len__(self) -> int:
        return len(self.make)

    def ask(self, worker: int, method: str, arguments: tuple[Any, ...]) -> Any:
        self.calls += 1
        if self.calls in self.deaths:
            self.alive[worker] = None
        return worker, method, arguments

    def answer(self, call: Any) -> Any:
        worker, method, arguments = call
        shard = self.alive[worker]
        if shard is None:
            raise WorkerLost(f"worker {worker} was killed")
        return shard.call(method, arguments)

    def total(self, calls: Any) -> Any:
        return added([self.answer(call) for call in calls])

    def restart(self, worker: int) -> None:
        self.restarts += 1
        self.alive[worker] = self.make[worker]()

    def close(self) -> None:
        self.alive = [None] * len(self.make)


def parts(rows: Rows, count: int) -> list[Rows]:
    """The rows of a party, dealt out to so many shards."""
    return [
        replace(take(rows, np.arange(first, rows.n_rows, count)), dictionaries=rows.dictionaries)
        for first in range(count)
    ]


def held_by(count: int, deaths: frozenset[int] = frozenset(), seen: list[Here] | None = None):
    """`HoldRows` over so many workers."""

    def hold(given, owner, rows, pool, functions, describes):
        make = [(lambda own=own: Shard(given, owner, own, 1, functions, describes)) for own in parts(rows, count)]
        workers = Here(make, deaths)
        if seen is not None:
            seen.append(workers)
        return ShardedRows(workers, owner)

    return hold


@pytest.fixture(scope="module")
def alone() -> dict[str, Listening]:
    """By setting, the run of rows in one process."""
    return {setting: talked(setting) for setting in SETTINGS}


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("setting", SETTINGS)
def test_nobody_can_tell_how_many_workers_hold_the_rows(alone, setting, count):
    assert same(talked(setting, held_by(count)), alone[setting], setting)


@pytest.mark.parametrize("seed", range(20))
def test_workers_that_die_at_any_moment_change_nothing(alone, seed):
    draw = random.Random(seed)
    setting = list(SETTINGS)[seed % len(SETTINGS)]
    deaths = frozenset(draw.sample(range(8, 200), 3))
    seen: list[Here] = []
    talk = talked(setting, held_by(3, deaths, seen))
    assert same(talk, alone[setting], setting)
    assert sum(workers.restarts for workers in seen) >= len(deaths)


def test_rows_that_changed_while_a_worker_was_dead_are_refused():
    rows = spread(table(300), np.arange(300) % 3)
    reads: list[int] = []

    def make() -> Shard:
        reads.append(1)
        own = parts(rows["aurora"], 2)[1]
        if len(reads) > 1:
            own.features[0, 0] += 1
        return Shard(given, "aurora", own, 1, NO_FUNCTIONS, False)

    given = plan(PARTIES)
    first = parts(rows["aurora"], 2)[0]
    workers = Here([lambda: Shard(given, "aurora", first, 1, NO_FUNCTIONS, False), make], frozenset([60]))

    def hold(_plan, owner, own, pool, functions, describes):
        return (
            ShardedRows(workers, owner)
            if owner == "aurora"
            else RowsInMemory(_plan, owner, own, pool, functions, describes)
        )

    talk = Conversation(given, rows, hold=hold)
    with pytest.raises(RowsLost, match=r"'aurora': shard 2 of 2 was read again .* not what they were; keep the files"):
        talk.finish()


def test_workers_that_die_again_and_again_end_the_run():
    seen: list[Here] = []
    with pytest.raises(HansaError, match=rf"{MOST_LOSSES} workers died in this run.*give each more memory"):
        talked("masked", held_by(1, frozenset(range(5, 2000)), seen))


def test_a_shard_takes_no_other_call():
    own = spread(table(60), np.arange(60) % 3)["aurora"]
    shard = Shard(plan(PARTIES), "aurora", own, 1, NO_FUNCTIONS, False)
    for method in ("__init__", "_labels", "close", "histograms"):
        with pytest.raises(ValueError, match="takes no call"):
            shard.call(method, ())


def test_every_call_of_the_seam_is_taken():
    asked = {name for name, value in vars(PartyRows).items() if callable(value) and not name.startswith("_")}
    shard = Shard(plan(PARTIES), "aurora", spread(table(60), np.arange(60) % 3)["aurora"], 1, NO_FUNCTIONS, False)
    assert asked - {"histograms"} == set(shard.taken) - {"built_histograms", "checksum", "levels", "sizes"}


def test_a_shard_without_a_text_of_a_union_has_no_level_of_its_own():
    """The codes of each shard are of its own dictionary, which may be empty; the model is that of rows in one process."""
    given = plan(PARTIES[:2], subsample=0.8, evaluation=0.2)
    given = replace(given, schema=replace(given.schema, union=(FEATURES[1],)))
    rows = table(300)
    texts = np.where(np.arange(300) % 6 < 4, rows.features[1], np.nan).astype(np.float32)
    features = rows.features.copy()
    features[1] = texts
    levels = ("none", "one", "two")
    tables = {
        name: replace(own, dictionaries={FEATURES[1]: levels})
        for name, own in spread(replace(rows, features=features), np.arange(300) % 2).items()
    }

    def shard_of(own: Rows, which: np.ndarray) -> Rows:
        part = take(own, which)
        known = sorted({int(code) for code in part.features[1] if not np.isnan(code)})
        part.features[1] = [np.nan if np.isnan(code) else known.index(int(code)) for code in part.features[1]]
        return replace(part, dictionaries={FEATURES[1]: tuple(levels[code] for code in known)})

    def hold(agreed, owner, own, pool, functions, describes):
        places = np.arange(own.n_rows) % 3
        shards = [shard_of(own, np.flatnonzero(places == number)) for number in range(3)]
        assert [len(part.dictionaries[FEATURES[1]]) for part in shards] == [3, 3, 0]
        make = [(lambda part=part: Shard(agreed, owner, part, 1, functions, describes)) for part in shards]
        return ShardedRows(Here(make), owner)

    alone, talk = Conversation(given, tables), Conversation(given, tables, hold=hold)
    alone.finish()
    talk.finish()
    assert talk.aggregator.outcome.model == alone.aggregator.outcome.model
