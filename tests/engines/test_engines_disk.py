"""Codes in a file: the same frames and model to the byte as codes in memory, in less memory than the codes take."""

from __future__ import annotations

import errno
import logging
import os
import re
import stat
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import naive_trees as naive
from conversation import Conversation
from engine_runs import PARTIES, SETTINGS, Listening, same, talked
from hansa.data.binning import bin_rows
from hansa.data.quantiles import ALL_ROWS, Cuts
from hansa.data.schema import Schema
from hansa.data.source import Rows
from hansa.engines import disk_codes
from hansa.engines.disk_codes import CodesOnDisk, DiskFolder
from hansa.errors import OutputError
from hansa.roles.summed.row_codes import CodesInMemory, code_in_memory
from hansa.roles.summed.rows_in_memory import RowsInMemory
from hansa.trees.histogram import add_chunk, layout_of
from hansa.trees.level import NO_CHILD_LEAVES, Level
from hansa.trees.losses import LOSSES
from hansa.trees.row_chunks import CHUNK_ROWS, part, spans
from hansa.trees.worker_pool import WorkerPool
from made_tables import plan, spread, table

DATA = Path(__file__).parents[2] / "../shared/data"


def on_disk(folder: Path, threads: int = 1):
    """`HoldRows` with codes in a file."""
    made = DiskFolder(folder, "aurora")

    def hold(agreed, owner, rows, _pool, functions, describes):
        return RowsInMemory(agreed, owner, rows, WorkerPool(threads), functions, describes, made.code)

    return hold


# --- the law ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("setting", SETTINGS)
def test_nobody_can_tell_that_codes_are_on_disk(tmp_path, setting):
    assert same(talked(setting, on_disk(tmp_path, threads=2)), talked(setting), setting)


@st.composite
def jobs(draw):
    objective = draw(st.sampled_from(sorted(set(LOSSES) - {"reg:quantileerror"})))
    given = {
        "objective": objective,
        "weighted": draw(st.booleans()),
        "evaluation": draw(st.sampled_from([0.0, 0.3])),
        "mode": draw(st.sampled_from(["federated", "secure-aggregation"])),
        "rounds": draw(st.integers(1, 3)),
        "max_depth": draw(st.integers(1, 4)),
        "max_bin": draw(st.sampled_from([2, 7, 32, 300])),
        "colsample_bytree": draw(st.sampled_from([1.0, 0.6])),
        "histogram_bits": draw(st.sampled_from(["auto", 64])),
        "subsample": draw(st.sampled_from([1.0, 0.7])),
    }
    if draw(st.booleans()):
        given |= {"grow_policy": "lossguide", "max_leaves": draw(st.integers(2, 9))}
    return given, draw(st.integers(60, 200)), draw(st.integers(0, 1000)), draw(st.integers(1, 3))


@settings(deadline=None, max_examples=8)
@given(job=jobs())
def test_codes_on_disk_give_the_same_model(tmp_path_factory, job):
    given, n_rows, seed, threads = job
    rows = table(n_rows, given["objective"], weighted=given["weighted"], seed=seed)
    agreed, tables = plan(PARTIES, **given), spread(rows, np.arange(n_rows) % 3)
    talks = [
        Conversation(agreed, tables, **hold)
        for hold in ({}, {"hold": on_disk(tmp_path_factory.mktemp("codes"), threads)})
    ]
    for talk in talks:
        talk.finish()
    assert talks[0].aggregator.outcome.model == talks[1].aggregator.outcome.model


@pytest.mark.parametrize("mode", ["federated", "secure-aggregation"])
def test_rows_of_several_chunks_of_a_real_table(tmp_path, mode):
    """What is left of the last chunk is shorter than a chunk, and threads share chunks out."""
    path = DATA / "higgs.csv.gz"
    if not path.exists():
        pytest.skip("the real tables are not here")
    columns = duckdb.sql(f"SELECT * FROM '{path}'").fetchnumpy()
    label = np.tile(np.asarray(columns["signal"], np.float32), 20)
    names = tuple(f"f{number}" for number in range(1, 7))
    features = np.tile(np.stack([np.asarray(columns[name], np.float32) for name in names]), 20)
    features[0] += np.arange(len(label), dtype=np.float32) % 11
    rows = Rows(features, label, None)
    agreed = plan(PARTIES, mode=mode, evaluation=0.1, rounds=2, max_depth=4, max_bin=256)
    agreed = replace(agreed, schema=Schema(names, "signal"))
    owner = np.minimum(np.arange(len(label)) % 20, 2)[::-1]
    assert (owner == 2).sum() > 2 * CHUNK_ROWS
    talks = [Listening(agreed, spread(rows, owner), **hold) for hold in ({}, {"hold": on_disk(tmp_path, threads=2)})]
    for talk in talks:
        talk.finish()
    assert talks[0].aggregator.outcome.model == talks[1].aggregator.outcome.model


# --- kernels and passes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("planes", [1, 2], ids=["narrow", "wide"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_sums_of_a_chunk_are_the_naive_ones_and_add_up(planes, dtype):
    rng = np.random.default_rng(0)
    sizes, n_rows, before = [7, 300 if dtype == np.uint16 else 256, 1, 40], 500, 90
    codes = np.stack([rng.integers(0, size, n_rows) for size in sizes]).astype(dtype)
    packed = rng.integers(-(2**40), 2**40, (planes, before + n_rows)).astype(np.int64)
    rows = rng.permutation(n_rows).astype(np.uint16)
    starts, ends = np.array([0, 200, 200]), np.array([200, 200, 460])
    columns = np.array([0, 1, 3], np.uint32)
    layout = layout_of(np.concatenate([[0], np.cumsum(sizes)]), columns)
    out = np.full((3, planes, layout.cells), 5, np.int64)
    scratch = np.empty(n_rows, np.int64)
    add_chunk(codes, columns, layout.offsets, rows, starts, ends, packed, before, scratch, out)
    for node in range(3):
        own = rows[starts[node] : ends[node]].tolist()
        expected = naive.build_histogram(codes.T, columns.tolist(), sizes, own, packed[:, before:])
        np.testing.assert_array_equal(out[node] - 5, expected)


def made(folder: Path, n_rows: int, threads: int = 1) -> tuple[CodesInMemory, CodesOnDisk, Cuts]:
    """The same rows, held both ways."""
    rng = np.random.default_rng(1)
    features = rng.normal(size=(3, n_rows)).astype(np.float32)
    features[1, ::5] = np.nan
    values = np.linspace(-2, 2, 21, dtype=np.float32)
    cuts = Cuts(np.array([0, 7, 14, 21]), np.tile(values[:7], 3), np.array([False, True, False]))
    none = np.zeros(3, np.int32)
    given: Any = [(0, features)], n_rows, cuts, none, ALL_ROWS, True, WorkerPool(threads)
    memory, disk = code_in_memory(*given), DiskFolder(folder, "aurora").code(*given)
    assert isinstance(memory, CodesInMemory)
    assert isinstance(disk, CodesOnDisk)
    binned = bin_rows(features, cuts)
    for (_, first, end), block in zip(disk.spans, disk.arrays(), strict=True):
        np.testing.assert_array_equal(block, binned.codes_by_feature[:, first:end])
    return memory, disk, cuts


SPLIT = Level(
    np.array([1], np.int32),
    np.array([3], np.int32),
    np.array([1], np.uint8),
    np.zeros(1, np.float32),
    np.array([1], np.uint8),
    NO_CHILD_LEAVES,
)
LEAVES = Level(
    np.array([-1, -1], np.int32),
    np.zeros(2, np.int32),
    np.zeros(2, np.uint8),
    np.array([0.5, -0.25], np.float32),
    np.zeros(0, np.uint8),
    NO_CHILD_LEAVES,
)


def test_a_tree_that_is_followed_first_has_the_same_histograms_afterwards(tmp_path):
    """A run that is resumed follows trees without histograms; then some are asked for, in several frames."""
    n_rows = CHUNK_ROWS + 700
    memory, disk, cuts = made(tmp_path, n_rows, threads=2)
    layout = layout_of(cuts.code_offsets, np.arange(3, dtype=np.uint32))
    packed = np.random.default_rng(2).integers(-99, 99, (1, n_rows)).astype(np.int64)
    found = []
    for codes in (memory, disk):
        inside, outside = part(n_rows, lambda first, end: np.arange(first, end) % 7 > 0, np.empty(n_rows, np.uint16))
        margins = np.zeros(n_rows, np.float32)
        tree, kept = codes.start_tree(inside, outside, margins), codes.pack(1)
        for _, first, end in spans(n_rows):
            kept.write(first, end, partial(np.copyto, src=packed[:, first:end]))
        counts = tree.move(SPLIT)
        tree.follow(SPLIT)
        out = np.empty((2, 1, layout.cells), np.int64)
        tree.histograms(layout, np.array([0]), kept, out[:1])
        tree.histograms(layout, np.array([1]), kept, out[1:])
        tree.move(LEAVES)
        tree.follow(LEAVES)
        found.append((counts, out, margins))
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)
    assert (found[0][2] != 0).all()


def test_a_level_is_one_pass(tmp_path, monkeypatch):
    passes: list[int] = []
    pass_over = disk_codes._TreeOnDisk._pass

    def counted(self, level, positions):
        passes.append(len(positions))
        return pass_over(self, level, positions)

    monkeypatch.setattr(disk_codes._TreeOnDisk, "_pass", counted)
    agreed = plan(("aurora",), rounds=2, max_depth=3, evaluation=0.2)
    rows = table(400)
    Conversation(agreed, {"aurora": rows}, hold=on_disk(tmp_path)).finish()
    assert passes == [1, 1, 2, 0] * 2  # the root's; with each level those of the next; leaves take no histograms


def test_long_passes_tell_how_far_they_are(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(disk_codes, "TOLD_EVERY_S", 0.0)
    with caplog.at_level(logging.INFO, "hansa.engines"):
        Conversation(plan(("aurora",), rounds=1), {"aurora": table(100)}, hold=on_disk(tmp_path)).finish()
    assert "party 'aurora': features coded: 3 of 5" in caplog.text
    assert "party 'aurora': blocks of rows passed: 1 of 1" in caplog.text


# --- the file ---------------------------------------------------------------------------------------------------------


def test_the_file_has_no_name_and_is_its_owners_alone(tmp_path, monkeypatch):
    seen: list[os.stat_result] = []
    reserve = disk_codes._reserve

    def watched(file, size):
        seen.append(os.fstat(file.fileno()))
        assert not list(tmp_path.iterdir())
        reserve(file, size)

    monkeypatch.setattr(disk_codes, "_reserve", watched)
    made(tmp_path, 100)
    assert [(stat.S_IMODE(own.st_mode), own.st_nlink) for own in seen] == [(0o600, 0)]
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_told_before_anything_is_coded(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OutputError, match=r"engine\.folder needs 300 bytes .*no space is left.*free space") as caught:
        made(tmp_path, 100)
    assert caught.value.retry


def test_a_file_that_is_let_go_takes_no_room(tmp_path):
    folder = DiskFolder(tmp_path, "aurora")
    none = np.zeros(1, np.int32)
    cuts = Cuts(np.array([0, 1]), np.zeros(1, np.float32), np.array([False]))
    codes = folder.code([(0, np.zeros((1, 50), np.float32))], 50, cuts, none, ALL_ROWS, True, WorkerPool(1))
    assert isinstance(codes, CodesOnDisk)
    folder.close()
    assert codes.closed


FAULT = """
import os, resource, sys
from pathlib import Path
import numpy as np
from hansa.data.quantiles import ALL_ROWS, Cuts
from hansa.engines.disk_codes import DiskFolder
from hansa.errors import OutputError
from hansa.trees.histogram import layout_of
from hansa.trees.row_chunks import part, spans
from hansa.trees.worker_pool import WorkerPool

way, folder, rows = sys.argv[1], Path(sys.argv[2]), 3 << 16
cuts = Cuts(np.array([0, 1]), np.zeros(1, np.float32), np.array([False]))
coded = []


def groups():
    coded.append(0)
    yield 0, np.zeros((1, rows), np.float32)


if way == "size":
    resource.setrlimit(resource.RLIMIT_FSIZE, (rows - 1, rows - 1))
try:
    codes = DiskFolder(folder, "aurora").code(groups(), rows, cuts, np.zeros(1, np.int32), ALL_ROWS, True, WorkerPool(2))
    if way == "gradients":
        resource.setrlimit(resource.RLIMIT_FSIZE, (rows, rows))
    packed = codes.pack(1)
    for _, first, end in spans(rows):
        packed.write(first, end, lambda room: room.fill(1))
    if way == "cut":
        for name in os.listdir("/proc/self/fd"):
            held = f"/proc/self/fd/{name}"
            if os.path.lexists(held) and os.readlink(held).startswith(str(folder)):
                os.truncate(f"/proc/self/fd/{name}", 100)
    tree = codes.start_tree(*part(rows, None, np.empty(rows, np.uint16)), np.zeros(rows, np.float32))
    layout = layout_of(cuts.code_offsets, np.arange(1, dtype=np.uint32))
    tree.histograms(layout, np.zeros(1, np.int64), packed, np.empty((1, 1, layout.cells), np.int64))
except OutputError as error:
    print(len(coded), error)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux names open files in /proc")
@pytest.mark.parametrize(
    ("way", "told"),
    [
        ("size", r"0 engine\.folder needs 196,608 bytes for this party's codes: .*no space is left"),
        ("gradients", r"1 engine\.folder needs 1,572,864 bytes for this party's gradients: .*no space is left"),
        (
            "cut",
            r"1 engine\.folder, .*: the file of this party's (codes|gradients) cannot be read \(.*\); mend the disk",
        ),
    ],
)
def test_a_disk_that_is_full_or_fails_ends_with_a_sentence(tmp_path, way, told):
    """A real process: files that grow no further, before anything is coded; and a file whose end is lost, which a map would answer with
    a signal."""
    ended = subprocess.run([sys.executable, "-c", FAULT, way, str(tmp_path)], capture_output=True, text=True)
    assert ended.returncode == 0, ended
    assert re.match(told, ended.stdout), ended.stdout


def test_an_error_of_the_device_is_told_by_name(tmp_path, monkeypatch):
    _, disk, _ = made(tmp_path, 100)

    def fails(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "preadv", fails)
    with pytest.raises(OutputError, match=r"this party's codes cannot be read \(Input/output error\)") as caught:
        disk.of_rows(np.array([3, 99]))
    assert caught.value.retry


def test_only_the_blocks_of_features_that_are_used_are_read(tmp_path, monkeypatch):
    _, disk, cuts = made(tmp_path, 100)
    read: list[list[int]] = []
    codes_of = CodesOnDisk.codes_of
    monkeypatch.setattr(
        CodesOnDisk, "codes_of", lambda own, chunk, used=None: read.append(list(used)) or codes_of(own, chunk, used)
    )
    monkeypatch.setattr(disk_codes, "FEATURES_AT_ONCE", 1)
    tree = disk.start_tree(*part(100, None, np.empty(100, np.uint16)), np.zeros(100, np.float32))
    packed = disk.pack(1)
    packed.write(0, 100, lambda room: room.fill(1))
    layout = layout_of(cuts.code_offsets, np.array([0, 2], np.uint32))
    out = np.empty((1, 1, layout.cells), np.int64)
    tree.histograms(layout, np.zeros(1, np.int64), packed, out)
    assert out.sum() == 200
    tree.move(SPLIT)
    tree.move(LEAVES)
    assert read == [[0], [2], [1], [0], [2], []]


# --- memory -----------------------------------------------------------------------------------------------------------

CAPPED = """
import resource, sys
from pathlib import Path
import numpy as np
from hansa.data.quantiles import ALL_ROWS, Cuts
from hansa.engines.disk_codes import DiskFolder
from hansa.roles.summed.row_codes import code_in_memory
from hansa.trees.histogram import layout_of
from hansa.trees.level import Level
from hansa.trees.row_chunks import part, spans
from hansa.trees.worker_pool import WorkerPool

way, folder, n_rows, n_features, room = sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:])


def cuts_of(count):
    values = np.tile(np.arange(1, 8, dtype=np.float32), count)
    return Cuts(np.arange(0, 7 * count + 1, 7), values, np.zeros(count, np.bool_))


def groups(count, rows):
    for feature in range(count):
        yield feature, (np.arange(rows) * (feature + 1) % 8).astype(np.float32)[None]


def train(rows, count, code):
    cuts = cuts_of(count)
    codes = code(groups(count, rows), rows, cuts, np.zeros(count, np.int32), ALL_ROWS, True, WorkerPool(2))
    layout = layout_of(cuts.code_offsets, np.arange(count, dtype=np.uint32))
    packed, none = codes.pack(1), np.zeros(0, np.float32)
    for _, first, end in spans(rows):
        packed.write(first, end, lambda room: room.fill(1))
    tree = codes.start_tree(*part(rows, None, np.empty(rows, np.uint16)), np.zeros(rows, np.float32))
    out = np.empty((1, 1, layout.cells), np.int64)
    tree.histograms(layout, np.zeros(1, np.int64), packed, out)
    assert out.sum() == rows * count
    kinds = np.int32, np.int32, np.uint8, np.float32, np.uint8
    tree.move(Level(*(np.array([given], kind) for given, kind in zip((0, 3, 0, 0, 1), kinds)), none))
    tree.histograms(layout, np.zeros(1, np.int64), packed, out)
    assert out.sum() == rows // 2 * count


code = code_in_memory if way == "memory" else DiskFolder(folder, "aurora").code
train(1000, 2, code)
held = int(next(line for line in open("/proc/self/status") if line.startswith("VmData")).split()[1]) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (held + room, held + room))
try:
    train(n_rows, n_features, code)
except MemoryError:
    sys.exit(3)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux counts data as this test needs it")
@pytest.mark.parametrize(("way", "status"), [("disk", 0), ("memory", 3)])
def test_memory_stays_below_what_the_codes_take(tmp_path, way, status):
    """Of 98 MB of codes, with 50 MB of memory more than the process takes anyhow; in memory there is no room for them."""
    given = [way, str(tmp_path), str(3 * CHUNK_ROWS), "500", str(48 << 20)]
    ended = subprocess.run([sys.executable, "-c", CAPPED, *given], capture_output=True, text=True)
    assert ended.returncode == status, ended.stderr
