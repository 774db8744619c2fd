"""Rows in actors of a Ray cluster: the same model to the byte, whichever process is killed. Real processes on this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import duckdb
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conversation import Conversation
from engine_runs import OWN_FILES, OWN_HASHES, with_own_functions
from hansa.data.query import Parts
from hansa.data.source import Rows
from hansa.engines import ray_workers
from hansa.engines.ray_workers import RayWorkers, connect
from hansa.engines.settings import RaySettings
from hansa.engines.shard import ShardSource
from hansa.engines.sharded_rows import ShardedRows
from hansa.errors import DataError, PlanError
from hansa.plan import Plan
from hansa.roles.summed.custom import NO_FUNCTIONS, FunctionFile, FunctionFiles
from hansa.roles.summed.rows_in_memory import RowsInMemory
from hansa.trees.worker_pool import ALONE
from made_tables import FEATURES, NAMES, OPEN, plan, spread, table, take
from waiting import HANG_S

PARTIES = NAMES[:2]
SETTINGS = RaySettings(address="local", workers=3)


@pytest.fixture(scope="module")
def cluster():
    """Ray, started for these tests alone."""
    ray = pytest.importorskip("ray")
    ray.init(address="local", num_cpus=6, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield ray
    ray.shutdown()


def write(folder: Path, rows: Rows, files: int) -> tuple[Path, ...]:
    """The rows in so many Parquet files."""
    folder.mkdir()
    paths = []
    for number in range(files):
        own = take(rows, np.arange(number, rows.n_rows, files))
        columns = dict(zip(FEATURES, own.features, strict=True)) | {"y": own.label}
        columns |= {} if own.weight is None else {"w": own.weight}
        named = ", ".join(f"unnest($c{at}) AS {name}" for at, name in enumerate(columns))
        values = {
            f"c{at}": [None if np.isnan(value) else float(value) for value in column]
            for at, column in enumerate(columns.values())
        }
        path = folder / f"part-{number}.parquet"
        duckdb.execute(f"COPY (SELECT {named}) TO '{path}' (FORMAT parquet)", values)
        paths.append(path)
    return tuple(paths)


def sources(given: Plan, owner: str, files: tuple[Path, ...], workers: int = 3) -> list[ShardSource]:
    return [
        ShardSource(given, owner, Parts(files[0].parent, files[number::workers]), given.schema, None, 1, False)
        for number in range(workers)
    ]


def processes(workers: RayWorkers) -> list[int]:
    """Of the actors that hold the rows."""
    return [workers._ray.get(actor.__ray_call__.remote(lambda _: os.getpid())) for actor in workers._actors]


@pytest.mark.parametrize("kills", [(40,), pytest.param((6, 40, 61), marks=pytest.mark.slow)], ids=["one", "three"])
def test_actors_hold_the_rows_and_nobody_can_tell_whichever_are_killed(cluster, tmp_path, kills):
    """Killed in a tree, and also before the cuts and in a later tree."""
    given = plan(PARTIES, weighted=True, evaluation=0.2, subsample=0.8, eval_metric=["logloss"], rounds=4)
    rows = table(600, weighted=True)
    tables = spread(rows, np.arange(rows.n_rows) % 2)
    alone = Conversation(given, tables)
    alone.finish()
    workers = RayWorkers(SETTINGS, sources(given, "aurora", write(tmp_path / "aurora", tables["aurora"], 5)))
    held = ShardedRows(workers, "aurora")
    assert held.n_rows == tables["aurora"].n_rows

    def hold(*arguments):
        return held if arguments[1] == "aurora" else RowsInMemory(*arguments)

    talk = Conversation(given, tables, hold=hold)
    first = processes(workers)
    steps = 0
    while talk.up or talk.down:
        at = talk.up or talk.down
        (talk.submit if at is talk.up else talk.deliver)(*at.popleft())
        steps += 1
        if steps in kills:
            os.kill(processes(workers)[steps % 3], signal.SIGKILL)
    assert len(set(first) & set(processes(workers))) < 3
    assert talk.aggregator.outcome.model == alone.aggregator.outcome.model
    workers.close()
    workers.close()


def test_sums_are_added_in_pairs_where_the_parts_are(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_workers, "ADD_IN_PAIRS", 1)
    given = plan(PARTIES)
    own = table(90)
    workers = RayWorkers(SETTINGS, sources(given, "aurora", write(tmp_path / "rows", own, 3)))
    here = RowsInMemory(given, "aurora", own, ALONE, NO_FUNCTIONS, False)
    held = ShardedRows(workers, "aurora")
    np.testing.assert_array_equal(held.count_magnitudes(), here.count_magnitudes())
    assert held.label_counts() == here.label_counts()
    os.kill(processes(workers)[1], signal.SIGKILL)
    np.testing.assert_array_equal(held.count_magnitudes(), here.count_magnitudes())
    workers.close()


def test_workers_run_the_files_of_functions_themselves(cluster, tmp_path):
    """They get the files, for a function of such a file cannot be pickled."""
    given = plan(PARTIES, objective="reg:squarederror", base_score=0.0, evaluation=0.2, eval_metric=["rmse"])
    given = with_own_functions(given)
    rows = table(240, "reg:squarederror")
    tables = spread(rows, np.arange(rows.n_rows) % 2)
    options = {"functions": OWN_FILES.functions(), "policy": msgspec.structs.replace(OPEN, functions=OWN_HASHES)}
    alone = Conversation(given, tables, **options)
    alone.finish()
    files = write(tmp_path / "aurora", tables["aurora"], 3)
    told = [replace(source, functions=OWN_FILES) for source in sources(given, "aurora", files)]
    workers = RayWorkers(SETTINGS, told)
    held = ShardedRows(workers, "aurora")

    def hold(*arguments):
        return held if arguments[1] == "aurora" else RowsInMemory(*arguments)

    talk = Conversation(given, tables, hold=hold, **options)
    talk.finish()
    assert talk.aggregator.outcome.model == alone.aggregator.outcome.model
    workers.close()


def test_a_file_of_a_function_that_fails_at_a_worker_is_told(cluster, tmp_path):
    given = with_own_functions(plan(PARTIES, objective="reg:squarederror", base_score=0.0, evaluation=0.2))
    files = write(tmp_path / "rows", table(60, "reg:squarederror"), 3)
    broken = FunctionFiles(FunctionFile("custom_objective", "flat.py", b"1 / 0"), OWN_FILES.metric)
    workers = RayWorkers(SETTINGS, [replace(source, functions=broken) for source in sources(given, "aurora", files)])
    with pytest.raises(PlanError, match=r"flat\.py: the file cannot be run: ZeroDivisionError"):
        ShardedRows(workers, "aurora")
    workers.close()


def test_what_is_wrong_with_a_file_is_told_with_file_row_and_column(cluster, tmp_path):
    given = plan(PARTIES)
    files = write(tmp_path / "rows", table(60), 3)
    duckdb.execute(
        f"COPY (SELECT 1.0 AS a, 1.0 AS b, 1.0 AS c, 1.0 AS d, 1.0 AS e, 7.0 AS y) TO '{files[1]}' (FORMAT parquet)"
    )
    workers = RayWorkers(SETTINGS, sources(given, "aurora", files))
    with pytest.raises(DataError, match=r"part-1\.parquet.*'y'.*expected label 0 or 1, found '7.0'"):
        ShardedRows(workers, "aurora")
    workers.close()


def test_a_cluster_without_room_is_refused(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_workers, "START_S", 0.5)
    given = plan(PARTIES)
    files = write(tmp_path / "rows", table(60), 2)
    with pytest.raises(
        PlanError,
        match=r"^party 'aurora': the Ray cluster at 'local' has no room for 2 workers of 64 CPUs each.*it has 6 CPUs.* ask",
    ):
        RayWorkers(replace(SETTINGS, threads=64), sources(given, "aurora", files, 2))


def fake(hosts: int):
    """Ray with so many hosts."""
    nodes = [{"Alive": True, "NodeManagerAddress": f"10.0.0.{host}"} for host in range(hosts)]
    return SimpleNamespace(
        is_initialized=lambda: True,
        nodes=lambda: [*nodes, {"Alive": False, "NodeManagerAddress": "x"}],
        shutdown=pytest.fail,
    )


@pytest.mark.parametrize(
    ("hosts", "tls", "mode", "lacking"),
    [
        (1, "0", "disabled", ""),
        (3, "1", "token", ""),
        (3, "0", "token", "TLS"),
        (3, "1", "disabled", "a token"),
        (2, "1", "", "a token"),
        (2, "0", "", "TLS .* and without a token"),
    ],
)
def test_rows_cross_a_network_protected_or_not_at_all(monkeypatch, hosts, tls, mode, lacking):
    monkeypatch.setenv("RAY_USE_TLS", tls)
    monkeypatch.setenv("RAY_AUTH_MODE", mode)
    monkeypatch.setattr(ray_workers.importlib, "import_module", lambda name: fake(hosts))
    if not lacking:
        assert connect(SETTINGS, "aurora")[1] is False  # whoever used Ray before goes on with it
        return
    with pytest.raises(PlanError, match=rf"has {hosts} hosts, and rows would cross its network without {lacking}"):
        connect(SETTINGS, "aurora")


def test_without_ray_the_extra_is_named(monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(ray_workers.importlib, "import_module", missing)
    with pytest.raises(PlanError, match=r"Ray is not installed; install hansa\[ray\]"):
        connect(SETTINGS, "aurora")


TOLD = {
    "no token": (
        "[W] gcs_client.cc: Unauthenticated: RPC error: InvalidAuthToken: Authentication token is missing or incorrect\nFailed",
        r"does not take this process: it refuses this process's token \(InvalidAuthToken.*incorrect\); give .*RAY_AUTH_MODE",
    ),
    "other versions": (
        "Version mismatch: The cluster was started with:\n    Ray: 2.40.0\n    Python: 3.12.1",
        "it runs other versions .*install the same versions of Ray and Python",
    ),
    "other TLS": (
        "Handshake failed: SSL_ERROR_SSL: error:100000f7",
        "one end speaks TLS and the other does not.*RAY_USE_TLS",
    ),
    "nobody": (
        "Could not find any running Ray instance.",
        "no Ray cluster answers there .Could not find any.*ray start --head",
    ),
    "silent": (None, r"no Ray cluster answers there in 45 s; start one \(`ray start --head`\), mend the address"),
}


@pytest.mark.parametrize("case", TOLD)
def test_a_cluster_that_does_not_take_this_process_is_told_with_party_address_and_cure(monkeypatch, case):
    told, expected = TOLD[case]

    def run(command, **how):
        assert command[-1] == "10.0.0.9:6379"
        if told is None:
            raise subprocess.TimeoutExpired(command, how["timeout"], stderr=b"[W] rpc_client.h: no answer\n")
        return SimpleNamespace(returncode=1, stderr=told.encode())

    ray = SimpleNamespace(is_initialized=lambda: False, init=lambda **_: pytest.fail("tried here too"))
    monkeypatch.setattr(ray_workers.importlib, "import_module", lambda _: ray)
    monkeypatch.setattr(ray_workers.subprocess, "run", run)
    with pytest.raises(
        PlanError, match=f"^party 'aurora': engine.address is '10.0.0.9:6379', and.*{expected}"
    ) as caught:
        connect(RaySettings(2, address="10.0.0.9:6379"), "aurora")
    assert caught.value.member == "aurora"
    assert "\n" not in str(caught.value)


def test_an_address_where_nobody_answers_is_told_in_time(monkeypatch):
    """Ray itself tries again for many minutes."""
    pytest.importorskip("ray")
    monkeypatch.setattr(ray_workers.importlib, "import_module", lambda _: SimpleNamespace(is_initialized=lambda: False))
    monkeypatch.setattr(ray_workers, "ANSWER_S", 4.0)
    with pytest.raises(PlanError, match=r"engine.address is '127.0.0.1:9', and no Ray cluster answers there in 4 s"):
        connect(RaySettings(2, address="127.0.0.1:9"), "aurora")


def test_what_ends_this_process_stays_its_own(monkeypatch):
    """Ray's handler of SIGTERM ends a process at once, with a status of its own, and leaves actors and room behind."""
    got: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: got.append(number))
    try:
        for ends in (False, True):
            with ray_workers._own_signals():
                signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))
                if ends:
                    signal.raise_signal(signal.SIGTERM)
            assert got == [signal.SIGTERM] * ends
    finally:
        signal.signal(signal.SIGTERM, before)


def all_free(cluster) -> None:
    """Wait until no worker has room of the cluster."""
    give_up = time.monotonic() + HANG_S
    while cluster.available_resources().get("CPU") != cluster.cluster_resources()["CPU"]:
        assert time.monotonic() < give_up, "the room is still taken"
        time.sleep(0.1)


def test_room_is_given_back_where_a_signal_comes_while_workers_start(cluster, tmp_path, monkeypatch):
    given = plan(PARTIES)
    files = write(tmp_path / "rows", table(60), 3)

    def interrupted(_):
        raise KeyboardInterrupt

    all_free(cluster)
    monkeypatch.setattr(ray_workers, "_Actor", None)
    monkeypatch.setattr(cluster, "remote", interrupted)
    with pytest.raises(KeyboardInterrupt):
        RayWorkers(SETTINGS, sources(given, "aurora", files))
    all_free(cluster)


@pytest.mark.slow
def test_three_thousand_features_with_masks_give_the_same_model(cluster, tmp_path):
    names = tuple(f"f{number}" for number in range(3000))
    given = plan(NAMES[:3], mode="secure-aggregation", rounds=2)
    given = replace(given, schema=replace(given.schema, features=names, label="y", weight=None))
    cells = np.random.default_rng(4).normal(size=(3000, 900)).astype(np.float32)
    whole = Rows(cells, (cells[7] + cells[2999] > 0).astype(np.float32), None)
    tables = {name: take(whole, np.arange(at, 900, 3)) for at, name in enumerate(NAMES[:3])}
    alone = Conversation(given, tables)
    alone.finish()
    own, files = tables["aurora"], []
    for number in range(3):
        part = take(own, np.arange(number, own.n_rows, 3))
        files.append(tmp_path / f"part-{number}.parquet")
        pq.write_table(pa.table({**dict(zip(names, part.features, strict=True)), "y": part.label}), files[-1])
    workers = RayWorkers(SETTINGS, sources(given, "aurora", tuple(files)))
    held = ShardedRows(workers, "aurora")

    def hold(*arguments):
        return held if arguments[1] == "aurora" else RowsInMemory(*arguments)

    talk = Conversation(given, tables, hold=hold)
    talk.finish()
    assert talk.aggregator.outcome.model == alone.aggregator.outcome.model
    workers.close()
