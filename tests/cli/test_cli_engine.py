"""A party whose rows are held by an engine, in a run of processes: nobody outside can tell."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, SimpleNamespace

import pytest

from hansa.transport.recording import read_transcript
from made_consortium import PARTIES, Consortium, assert_refused, hansa, parted, refused, write_member
from waiting import HANG_S

AURORA = PARTIES[0]
NOTHING: Mapping[str, object] = MappingProxyType({})
ENGINE = {"kind": "ray", "address": "local", "workers": 2}


@pytest.fixture
def parts(consortium: Consortium) -> Path:
    """Aurora's rows as a folder of three Parquet files."""
    return parted(consortium.folder, 3)


def trained(
    consortium: Consortium, others: Mapping[str, object] = NOTHING, **changes: object
) -> tuple[bytes, dict[str, list[tuple[str, bytes]]]]:
    """The model of a run, and what passed aurora's connection."""
    transcripts = consortium.folder / ("engine" if "engine" in changes else "alone")
    hub, port = consortium.start_hub()
    ends = [
        consortium.start_party(AURORA, port, transcript=transcripts.name, **changes),
        consortium.start_party(PARTIES[1], port, **others),
    ]
    assert [each.end()[0] for each in (*ends, hub)] == [0, 0, 0]
    frames = [(each.direction, bytes(each.frame)) for each in read_transcript(transcripts / f"{AURORA}.frames")]
    return (consortium.folder / f"{AURORA}-model.json").read_bytes(), {"frames": frames}


def test_a_party_of_workers_trains_the_same_model(consortium: Consortium, parts: Path):
    pytest.importorskip("ray")
    model, alone = trained(consortium, table=parts.name)
    again, spread = trained(consortium, table=parts.name, engine=ENGINE)
    assert again == model
    assert len(alone["frames"]) == len(spread["frames"])
    record = json.loads((consortium.folder / f"{AURORA}-record.json").read_text())
    assert (record["state"], record["rows"]) == ("finished", 60)


@pytest.mark.parametrize(
    ("changes", "fragments"),
    [
        ({"workers": 4}, ("engine.workers is 4: expected as many Parquet files at least", "found 3", "fewer workers")),
        ({"workers": 0}, ("engine.workers", "a whole number from 1 to 4096")),
        ({"kind": "spark"}, ("engine.kind", "spark")),
        ({"memory": "8 GB"}, ("engine.memory", 'a size such as "8GB"')),
        ({"cpus": 2}, ("engine", "cpus")),
        ({"folder": "here"}, ('engine.folder goes with engine.kind = "disk" only', "leave it out")),
        ({"workers": None}, ("engine.workers is missing",)),
    ],
)
def test_what_is_wrong_with_an_engine_is_said_before_anything_is_read(
    consortium: Consortium, parts, changes, fragments
):
    engine = {key: value for key, value in (ENGINE | changes).items() if value is not None}
    path = write_member(consortium.folder, AURORA, 1, table=parts.name, engine=engine)
    assert_refused(hansa("party", path), *fragments)


FUNCTION = """
import numpy as np
from pathlib import Path

with (Path(__file__).parent / "ran").open("a") as file:
    file.write("once\\n")


def errors(margins, labels, weights):
    return (margins - labels) * weights, weights
"""


def test_workers_run_a_function_only_where_the_policy_allows_it(consortium: Consortium, parts: Path):
    """Refused, no file is run and no worker starts; allowed, the model is that of rows in one process."""
    pytest.importorskip("ray")
    folder = consortium.folder
    (folder / "errors.py").write_text(FUNCTION)
    sha256 = hashlib.sha256(FUNCTION.encode()).hexdigest()
    custom = f'[custom_objective]\nsha256 = "{sha256}"\ngradient_bound = 8.0\nhessian_bound = 1.0\n'
    own = 'objective = "reg:squarederror"\nbase_score = 0.0\n'
    text = (folder / "plan.toml").read_text()
    text = re.sub(r'objective = "binary:logistic"\n', own, text)
    (folder / "plan.toml").write_text(f"{text}\n{custom}")
    given = {"table": parts.name, "custom_objective": "errors.py"}
    path = write_member(folder, AURORA, 1, engine=ENGINE, **given)
    assert_refused(hansa("party", path), "the custom objective", "(functions)")
    assert not (folder / "ran").exists()
    allowed = {"custom_objective": "errors.py", "policy": {"least_party_rows": 1, "functions": [sha256]}}
    model, _ = trained(consortium, others=allowed, **allowed, table=parts.name)
    again, _ = trained(consortium, others=allowed, **allowed, table=parts.name, engine=ENGINE)
    assert again == model


def test_an_engine_needs_files(consortium: Consortium):
    path = write_member(consortium.folder, AURORA, 1, engine=ENGINE)
    assert_refused(hansa("party", path), "expected as many Parquet files at least", "found none")


# --- codes on disk ----------------------------------------------------------------------------------------------------

DISK = {"kind": "disk", "folder": "codes"}


def test_a_party_with_codes_on_disk_trains_the_same_model(consortium: Consortium, parts: Path):
    folder = consortium.folder / "codes"
    folder.mkdir()
    model, alone = trained(consortium, table=parts.name)
    again, spread = trained(consortium, table=parts.name, engine=DISK, threads=2)
    assert again == model
    assert len(alone["frames"]) == len(spread["frames"])
    assert not list(folder.iterdir())


@pytest.mark.parametrize(
    ("changes", "fragments"),
    [
        ({"engine": {"kind": "disk"}}, ("engine.folder is missing", "name a folder")),
        ({"engine": {"kind": "disk", "folder": "none"}}, ("engine.folder is 'none'", "there is no folder", "make it")),
        ({"engine": DISK | {"workers": 2}}, ('engine.workers goes with engine.kind = "ray" only',)),
        ({"by_column": False}, ('engine.kind = "disk" reads the rows by column', "leave by_column out")),
        ({"table": "aurora.csv"}, ("needs rows in Parquet files, or a source", "write the table as Parquet")),
    ],
)
def test_what_does_not_go_with_codes_on_disk_is_said(consortium: Consortium, parts, changes, fragments):
    (consortium.folder / "codes").mkdir()
    path = write_member(consortium.folder, AURORA, 1, **({"table": parts.name, "engine": DISK} | changes))
    assert_refused(hansa("party", path), *fragments)


def test_check_says_what_memory_and_disk_codes_on_disk_take(consortium: Consortium, parts: Path, monkeypatch):
    (consortium.folder / "codes").mkdir()
    path = write_member(consortium.folder, AURORA, 1, table=parts.name, engine=DISK)
    said = hansa("check", consortium.folder / "plan.toml", "--member", path)
    assert said.exit_code == 0
    assert "This table is read by column, with its codes on disk" in said.stdout
    assert re.search(r'engine\.kind = "disk".* about [\d.]+ MB of memory, and files of 660 B', said.stdout), said.stdout
    assert re.search(
        r"\bmet: the codes and gradients take 660 B in .*codes, which has .* free \(engine\.folder\)", said.stdout
    )
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    full = hansa("check", consortium.folder / "plan.toml", "--member", path)
    assert full.exit_code == 1
    assert "NOT MET: the codes and gradients take" in full.stdout


def test_a_party_of_workers_that_is_ended_gives_its_room_back_and_can_go_on(consortium: Consortium, parts: Path):
    """SIGTERM: the status of other parties, no worker left behind, and a state from which the run goes on to the same model."""
    ray = pytest.importorskip("ray")
    given = consortium.folder / "plan.toml"
    given.write_text(given.read_text().replace("rounds = 3", "rounds = 60"))
    alone, _ = trained(consortium, table=parts.name)
    (consortium.folder / f"{AURORA}-record.json").unlink()
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        engine = ENGINE | {"address": ray.get_runtime_context().gcs_address}
        hub, port = consortium.start_hub()
        other = consortium.start_party(PARTIES[1], port)
        path = write_member(consortium.folder, AURORA, port, table=parts.name, engine=engine)
        aurora = consortium.start("party", path, "--json")
        while aurora.event("tree")["trees"] < 3:
            pass
        assert ray.available_resources().get("CPU", 0) == 0
        aurora.process.send_signal(signal.SIGTERM)
        refused(aurora.end(), "stopped by SIGTERM", status=143)
        assert list((consortium.folder / f"{AURORA}.state").glob("*.sqlite"))
        give_up = time.monotonic() + HANG_S
        while ray.available_resources().get("CPU", 0) < 2:
            assert time.monotonic() < give_up, "the workers' room is still taken"
            time.sleep(0.2)
        again = consortium.start("party", path)
        assert [each.end()[0] for each in (again, other, hub)] == [0, 0, 0]
    finally:
        ray.shutdown()
    assert (consortium.folder / f"{AURORA}-model.json").read_bytes() == alone
