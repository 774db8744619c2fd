"""The ledger of which people a party's rows have met."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import stat
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hansa.consortium.ledger import Entry, Ledger, Met, Spent, spent_under, split_under
from hansa.consortium.policy import Policy
from hansa.data.holdout import HoldOut, held_out
from hansa.errors import OutputError, PlanError
from hansa.trees.parameters import parse_parameters
from made_tables import plan as made_plan

THREE = ("aurora", "borealis", "cirrus")


def columns(seed: int = 0, n: int = 40) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(3, n)).astype(np.float32)
    features[1, ::7] = np.nan
    return features, (np.arange(n) < 9 + seed).astype(np.float32)


def entry(
    ledger: Ledger,
    names=THREE,
    rows=90,
    keys: dict[str, str] | None = None,
    *,
    seed: int = 0,
    mode="secure-aggregation",
):
    met = tuple(Met(name, (keys or {}).get(name, name.encode().hex()), rows, 10) for name in names)
    return Entry(ledger.columns(*columns(seed)), mode, met, "ab" * 32)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger.jsonl")


# --- what rows are known by -------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=20)
@given(st.permutations(range(40)), st.permutations(range(3)))
def test_the_order_of_rows_and_columns_makes_nothing_new(tmp_path_factory, rows, order):
    ledger = Ledger(tmp_path_factory.getbasetemp() / "order.jsonl")
    features, label = columns()
    moved = np.ascontiguousarray(features[np.ix_(order, rows)])
    assert ledger.columns(moved, label[rows], None) == ledger.columns(features, label, None)


def test_any_other_value_is_another_column(ledger):
    features, label = columns()
    known = set(ledger.columns(features, label))
    assert len(known) == 4
    for at in ((0, 3), (2, 39), (1, 0)):
        other = features.copy()
        other[at] = 5
        assert len(set(ledger.columns(other, label)) & known) == 3
    assert known < set(ledger.columns(features, label, np.full(40, 2, np.float32)))


def test_a_ledger_without_its_key_does_not_tell_how_many_labels_are_one(ledger, tmp_path):
    """Who reads the file tries every number of ones under the hash that it names; without a key one of them fits."""
    _, label = columns()
    ledger.admit(entry(ledger), Policy())
    content = ledger.path.read_text()
    for ones in range(41):
        guess = (np.arange(40) >= 40 - ones).astype(np.float32)
        head = b"hansa column\x00" + repr((guess.dtype.str, guess.shape)).encode()
        assert hashlib.sha256(head + guess.tobytes()).hexdigest() not in content
    assert ledger.columns([], label) != Ledger(tmp_path / "another.jsonl").columns([], label)


def test_the_ledger_holds_no_value_of_a_row(ledger):
    features, _ = columns()
    ledger.admit(entry(ledger), Policy())
    content = ledger.path.read_bytes()
    for value in features[0]:
        assert value.tobytes() not in content
        assert str(float(value)).encode() not in content


# --- whom they meet ---------------------------------------------------------------------------------------------------


def lines(ledger: Ledger) -> list[dict]:
    return [json.loads(line) for line in ledger.path.read_text().splitlines()[1:]]


def test_rows_meet_the_same_people_as_often_as_they_like_and_each_run_is_written_down(ledger):
    for _ in range(3):
        ledger.admit(entry(ledger), Policy())
    assert [[met["name"] for met in line["parties"]] for line in lines(ledger)] == [list(THREE)] * 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"names": THREE[:2]}, "then aurora, borealis, cirrus; now aurora, borealis"),
        ({"names": (*THREE, "dune")}, "now aurora, borealis, cirrus, dune"),
        ({"keys": {"cirrus": "ff"}}, "member 'cirrus' has another identity key"),
        ({"rows": 1}, "member 'aurora' claimed 90 and 10 held out rows then, and 1 and 10 held out now"),
        ({"names": THREE[:2], "mode": "coopetitive"}, "now aurora, borealis"),
    ],
)
def test_other_people_or_counts_are_refused_and_nothing_is_written(ledger, change, words):
    ledger.admit(entry(ledger), Policy())
    before = ledger.path.read_bytes()
    with pytest.raises(PlanError, match=words) as caught:
        ledger.admit(entry(ledger, **change), Policy())
    assert str(ledger.path) in str(caught.value)
    assert "allow_other_rosters" in str(caught.value)
    assert ledger.path.read_bytes() == before
    ledger.admit(entry(ledger, **change), Policy(allow_other_rosters=True))
    # From then on no set is the only one that the rows have met.
    for own in ({}, change):
        with pytest.raises(PlanError, match="other people or counts"):
            ledger.admit(entry(ledger, **own), Policy())


def test_one_column_in_common_is_enough(ledger):
    """A later plan that leaves features out, or has another label: the label counts alone would tell a party's part."""
    features, label = columns()
    ledger.admit(entry(ledger, (*THREE, "dune")), Policy())
    for part in (ledger.columns(features[:1]), ledger.columns([], label), ledger.columns(features[2:], 1 - label)):
        later = Entry(part, "secure-aggregation", entry(ledger).parties, "cd" * 32)
        with pytest.raises(PlanError, match="dune"):
            ledger.admit(later, Policy())


def test_other_rows_may_meet_other_people(ledger):
    ledger.admit(entry(ledger), Policy())
    ledger.admit(entry(ledger, (*THREE, "dune"), seed=1), Policy())
    assert len(lines(ledger)) == 2


def test_runs_on_the_same_rows_are_counted(ledger):
    for _ in range(2):
        ledger.admit(entry(ledger), Policy(most_runs=2))
    with pytest.raises(PlanError, match="trained on 2 times; this party's policy allows 2"):
        ledger.admit(entry(ledger), Policy(most_runs=2))
    ledger.admit(entry(ledger, seed=1), Policy(most_runs=2))


def test_trees_and_leaves_of_all_runs_on_the_same_rows_are_counted(ledger):
    run = msgspec.structs.replace(entry(ledger), trees=100, leaves=6400)
    policy = Policy(most_trees=250, most_leaves=100_000)
    for _ in range(2):
        ledger.admit(run, policy)
    with pytest.raises(
        PlanError, match=r"told of by 200 trees so far, and this run may have 100 more; .* allows 250 \(most_trees"
    ):
        ledger.admit(run, policy)
    assert len(lines(ledger)) == 2
    ledger.admit(msgspec.structs.replace(run, trees=50, leaves=0), policy)
    with pytest.raises(PlanError, match="12800 leaves so far") as caught:
        ledger.check(
            run.columns, {met.name: met.identity for met in run.parties}, Policy(most_leaves=12_800), Spent(1, 1)
        )
    assert caught.value.rule == "most_leaves"
    ledger.admit(msgspec.structs.replace(entry(ledger, seed=1), trees=250, leaves=0), policy)


def test_lines_of_earlier_releases_are_read_and_count_no_trees(ledger):
    ledger.admit(entry(ledger), Policy())
    head, line = ledger.path.read_text().splitlines()
    old = {key: value for key, value in json.loads(line).items() if key not in ("trees", "leaves")}
    ledger.path.write_text(f"{head}\n{json.dumps(old)}\n")
    ledger.admit(msgspec.structs.replace(entry(ledger), trees=3, leaves=6), Policy(most_trees=3, most_leaves=6))


def test_what_a_run_may_tell_follows_from_its_plan():
    changes = {"rounds": 10, "num_parallel_tree": 3, "max_depth": 4, "max_leaves": 9}
    plan = SimpleNamespace(parameters=parse_parameters(changes))
    assert spent_under(plan) == Spent(30, 270)


def _admit_from(path: str, name: str, start, answers) -> None:
    ledger = Ledger(Path(path))
    own = entry(ledger, (*THREE[:2], name))
    start.wait()
    try:
        ledger.admit(own, Policy())
    except PlanError:
        answers.put((name, False))
    else:
        answers.put((name, True))


def test_of_many_processes_at_once_with_other_people_one_set_is_admitted(ledger):
    context = multiprocessing.get_context("fork")
    names = [f"party{i}" for i in range(6)]
    start, answers = context.Barrier(len(names)), context.Queue()
    processes = [context.Process(target=_admit_from, args=(str(ledger.path), name, start, answers)) for name in names]
    for process in processes:
        process.start()
    found = dict(answers.get(timeout=120) for _ in names)
    for process in processes:
        process.join()
    assert sum(found.values()) == 1
    assert len(lines(ledger)) == 1


# --- the files --------------------------------------------------------------------------------------------------------


def test_the_ledger_and_its_key_are_for_their_owner_alone(ledger):
    ledger.admit(entry(ledger), Policy())
    for path in (ledger.path, ledger.path.with_name("ledger.jsonl.key")):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    ledger.path.chmod(0o644)
    Ledger(ledger.path)
    assert stat.S_IMODE(ledger.path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "content", ["not json\n", "{}\n", "[]\n", "\n", "5\n", '{"rows": ["abc"], "parties": ["a"]}\n']
)
def test_a_ledger_that_cannot_be_read_is_refused_not_begun_anew(ledger, content):
    ledger.path.write_text(content)
    with pytest.raises(PlanError, match=r"not a ledger.*restore it"):
        Ledger(ledger.path)
    assert ledger.path.read_text() == content


@pytest.mark.parametrize("line", ["{}", "5", '{"columns": ["a"], "mode": "m", "parties": [], "run": "r", "more": 1}'])
def test_a_line_that_is_none_is_refused(ledger, line):
    with ledger.path.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(PlanError, match="not a ledger"):
        Ledger(ledger.path)


def test_a_ledger_cut_off_in_its_last_line_is_refused(ledger):
    ledger.admit(entry(ledger), Policy())
    ledger.path.write_bytes(ledger.path.read_bytes()[:-20])
    with pytest.raises(PlanError, match="cut off"):
        ledger.admit(entry(ledger), Policy())


def test_an_emptied_ledger_whose_key_is_there_is_refused(ledger):
    ledger.path.write_bytes(b"")
    with pytest.raises(PlanError, match="restore the ledger"):
        Ledger(ledger.path)


def test_a_ledger_with_another_key_or_none_is_refused(ledger, tmp_path):
    key = tmp_path / "ledger.jsonl.key"
    kept = key.read_bytes()
    key.write_bytes(kept[::-1])
    with pytest.raises(PlanError, match="not made with the key"):
        Ledger(ledger.path)
    key.write_bytes(kept[:-1])
    with pytest.raises(PlanError, match="expected 32 bytes, found 31"):
        Ledger(ledger.path)
    key.unlink()
    with pytest.raises(PlanError, match="cannot be read"):
        Ledger(ledger.path)
    key.write_bytes(kept)
    Ledger(ledger.path)


def test_a_ledger_that_is_no_file_is_refused(tmp_path):
    with pytest.raises(OutputError, match="cannot be written"):
        Ledger(tmp_path)


def test_a_line_that_does_not_fit_the_disk_leaves_the_ledger_as_it_was(ledger, monkeypatch):
    ledger.admit(entry(ledger), Policy())
    before = ledger.path.read_bytes()
    import os

    write = os.write

    def full(file: int, content: memoryview) -> int:
        if len(content) > 40:
            return write(file, content[:40])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hansa.consortium.ledger.os.write", full)
    with pytest.raises(OutputError, match="No space left") as caught:
        ledger.admit(entry(ledger), Policy())
    assert caught.value.retry
    assert ledger.path.read_bytes() == before


# --- folds --------------------------------------------------------------------------------------------------------------


def test_two_ways_to_fold_the_same_rows_are_refused(ledger):
    """Three rows are in the first of 300 folds and not in the first of 301: the difference of both sums would be theirs."""
    features, label = columns(n=100_000)
    first = [held_out(features, label, HoldOut(0.0, 0, folds, 0)) for folds in (300, 301)]
    apart = np.count_nonzero(first[0] ^ first[1])
    assert 0 < apart <= 3
    assert min(np.count_nonzero(own) for own in first) > 250  # each is enough for a batch

    def of(split: str) -> Entry:
        return msgspec.structs.replace(entry(ledger), split=split)

    plan = replace(made_plan(THREE, mode="secure-aggregation"), folds=300, fold=0)
    ledger.admit(of(split_under(plan)), Policy())
    ledger.admit(of(split_under(replace(plan, fold=1))), Policy())
    ledger.admit(of(split_under(replace(plan, fold=None, folds=0))), Policy())  # a training on all rows may follow
    seeded = replace(plan, parameters=replace(plan.parameters, seed=7))
    of_less = replace(plan, schema=replace(plan.schema, features=plan.schema.features[:-1]))
    for other in (replace(plan, folds=301), seeded, of_less):
        with pytest.raises(PlanError, match="folded in another way"):
            ledger.admit(of(split_under(other)), Policy())
        people = {name: name.encode().hex() for name in THREE}
        with pytest.raises(PlanError, match="folded in another way"):
            ledger.check(of("").columns, people, Policy(), Spent(0, 0), split_under(other))
    ledger.admit(of(split_under(replace(plan, folds=301))), Policy(allow_other_rosters=True))
