"""How members' processes end: signals, full disks, wrong paths; what each says, its status, and what its record holds."""

from __future__ import annotations

import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from click.testing import CliRunner

import hansa as package
from hansa.cli.main import main
from hansa.consortium.identity import fingerprint, load_identity
from hansa.consortium.members import read_members
from hansa.errors import OutputError
from hansa.node import model_file
from hansa.node.config import read_member_file
from hansa.plan import read_plan
from hansa.protocol import messages
from hansa.transport.resumable import ResumableHub
from made_consortium import (
    ABORTING,
    AGAIN,
    HUB,
    PARTIES,
    PLAN,
    Consortium,
    assert_refused,
    hansa,
    refused,
    write_member,
)
from waiting import HANG_S

ENDLESS = ABORTING.replace("rounds = 3", "rounds = 100000")
INTERRUPTED = "its operator stopped its process"


def record(consortium: Consortium, name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((consortium.folder / f"{name}-record.json").read_text())
    return content


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


# --- signals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stopped", "number"),
    [
        (HUB, signal.SIGTERM),
        ("borealis", signal.SIGINT),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                (HUB, signal.SIGINT),
                (HUB, signal.SIGHUP),
                ("borealis", signal.SIGTERM),
                ("borealis", signal.SIGHUP),
            )
        ),
    ],
)
def test_a_signal_closes_the_connection_and_nobody_waits(consortium: Consortium, number: signal.Signals, stopped: str):
    """The reconnect timeout is an hour: whoever waited for the one that left would not end in this test."""
    (consortium.folder / "plan.toml").write_text(ENDLESS)
    hub, port = consortium.start_hub(reconnect_timeout_s=3600)
    members = {name: consortium.start_party(name, port, reconnect_timeout_s=3600) for name in PARTIES} | {HUB: hub}
    hub.event("tree")
    members[stopped].process.send_signal(number)
    refused(members[stopped].end(), f"stopped by {number.name}", status=128 + number)
    for name in {*members} - {stopped}:
        refused(members[name].end(), f"{stopped!r}", INTERRUPTED, status=AGAIN)
        assert record(consortium, name)["state"] == "failed"
        assert record(consortium, name)["error"]["retry"] is True
    own = record(consortium, stopped)
    assert own["state"] == "interrupted"
    assert number.name in own["error"]["text"]
    assert not consortium.models()


def test_a_member_that_is_stopped_before_the_others_join_ends_at_once(consortium: Consortium):
    hub, _ = consortium.start_hub(wait_s=3600)
    hub.process.send_signal(signal.SIGTERM)
    refused(hub.end(), "stopped by SIGTERM", status=143)
    assert record(consortium, HUB)["state"] == "interrupted"
    assert record(consortium, HUB)["run"] is None


def test_signals_that_are_ignored_stay_so(consortium: Consortium):
    """As under `nohup`."""
    script = "import signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN); from hansa.cli.main import main; main()"
    path = write_member(consortium.folder, HUB, 0, wait_s=3600)
    process = subprocess.Popen(
        [sys.executable, "-c", script, "aggregator", str(path), "--json"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["event"] == "listening"
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
        assert process.returncode == 143
    finally:
        process.kill()


def test_a_simulation_that_is_stopped_leaves_no_process_behind(consortium: Consortium, tmp_path: Path):
    table = tmp_path / "rows.csv"
    rows = [f"{place % 7},{place % 3},{int(place % 5 > 2)},{'ab'[place % 2]}" for place in range(400)]
    table.write_text("\n".join(["x,z,y,whose", *rows]))
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "hansa", "simulate", str(table), "--label", "y", "--party-column", "whose"),
            *("--rounds", "100000", "--set", "max_depth=2", "--set", "max_bin=16"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        # The process that all are forked from, multiprocessing's own tracker, the aggregator and two parties.
        while process.poll() is None and len(started := psutil.Process(process.pid).children(recursive=True)) < 5:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, text = process.communicate(timeout=60)
        refused((process.returncode, "", text), "stopped by SIGTERM", status=143)
        _, left = psutil.wait_procs(started, timeout=HANG_S)
        assert not left
    finally:
        process.kill()


def test_a_simulation_whose_folder_is_full_is_one_sentence(tmp_path: Path, small_disk: Path):
    table = tmp_path / "rows.csv"
    rows = [f"{place},{place * 7 % 1009},{int(place % 5 > 2)},{'ab'[place % 2]}" for place in range(60_000)]
    table.write_text("\n".join(["x,z,y,whose", *rows]))
    (small_disk / "filler").write_bytes(bytes(900_000))  # enough for keys and plan, not for the tables
    done = subprocess.run(
        [
            *(sys.executable, "-m", "hansa", "simulate", str(table), "--label", "y", "--party-column", "whose"),
            *("--rounds", "1"),
        ],
        env={**os.environ, "TMPDIR": str(small_disk)},
        capture_output=True,
        text=True,
        check=False,
    )
    refused((done.returncode, "", done.stderr), ".parquet: no space is left for it", "free space", status=AGAIN)


def test_predictions_that_fill_the_disk_leave_the_old_file(tmp_path: Path, small_disk: Path):
    tree = {"x": np.arange(100_000, dtype=np.float32)[None, :]}
    model = tmp_path / "model.json"
    table = tmp_path / "rows.csv"
    labels = [int(place % 10 > 4) for place in range(200)]
    table.write_text("\n".join(["x,y,whose", *(f"{place % 10},{label},a" for place, label in enumerate(labels))]))
    made = hansa(
        *(
            "simulate",
            table,
            "--label",
            "y",
            "--party-column",
            "whose",
            "--in-process",
            "--rounds",
            "1",
            "--save",
            model,
        )
    )
    assert made.exit_code == 0, made.output
    assert mode(model) == 0o600
    table.write_text("\n".join(["x", *map(str, tree["x"][0])]))
    for save in (small_disk / "scores.csv", small_disk / "scores.parquet"):
        save.write_text("old")
        assert mode(save) != 0o600
    (small_disk / "filler").write_bytes(bytes(900_000))
    assert_refused(
        hansa("predict", model, table, "--save", small_disk / "scores.csv"),
        "scores.csv",
        "no space is left",
        status=AGAIN,
    )
    assert (small_disk / "scores.csv").read_text() == "old"
    assert sorted(path.name for path in small_disk.iterdir()) == ["filler", "scores.csv", "scores.parquet"]
    (small_disk / "filler").unlink()
    table.write_text("x\n1\n2\n")
    for save in (small_disk / "scores.csv", small_disk / "scores.parquet"):
        assert hansa("predict", model, table, "--save", save).exit_code == 0
        assert mode(save) == 0o600


# --- records ---------------------------------------------------------------------------------------------------------


def test_a_finished_run_leaves_records_that_say_which_run_and_which_files(consortium: Consortium):
    hub, port = consortium.start_hub(transcript="frames")
    for party in [consortium.start_party(name, port, transcript="frames") for name in PARTIES]:
        assert party.end()[0] == 0
    assert hub.end()[0] == 0
    plan, members = read_plan(consortium.folder / "plan.toml"), read_members(consortium.folder / "members.toml")
    records = {name: record(consortium, name) for name in (HUB, *PARTIES)}
    assert len({own["run"] for own in records.values()}) == 1
    for name, own in records.items():
        assert own["state"] == "finished"
        assert own["error"] is None
        assert own["hansa"] == package.__version__
        assert own["plan"] == plan.digest().hex()
        assert own["plan_file"] in hansa("plan", "show", consortium.folder / "plan.toml").stdout
        assert own["members"] == members.digest().hex()
        assert own["identity"] == fingerprint(load_identity(consortium.folder / f"{name}.identity").public)
        assert len(bytes.fromhex(own["run"])) == 32
        assert own["started"] < own["ended"]
        assert own["started"].endswith("Z")
        assert own["trees"] == 3
        assert own["clear_bytes"] == own["bytes_up"] > 0
    files = [*consortium.models(), *consortium.folder.glob("*-record.json"), *consortium.folder.glob("frames/*")]
    assert {mode(path) for path in files} == {0o600}
    assert len(files) == 2 + 3 + 3
    assert mode(consortium.folder / "frames") == 0o700


def test_an_old_record_is_never_left_to_look_current(consortium: Consortium):
    path = consortium.folder / "aurora-record.json"
    for changes, kind in (
        ({"table": "none.csv"}, "DataError"),
        ({"wait_s": 0.2}, "TransportError"),
    ):
        path.write_text('{"state": "finished", "run": "of last year"}')
        path.chmod(0o644)
        result = hansa("party", write_member(consortium.folder, "aurora", 1, **changes))
        own = record(consortium, "aurora")
        assert (own["state"], own["error"]["kind"], own["run"]) == ("failed", kind, None)
        assert own["error"]["text"] in result.stderr
        assert own["error"]["retry"] == (result.exit_code == AGAIN)
        assert mode(path) == 0o600


def test_a_killed_process_leaves_a_record_that_does_not_say_finished(consortium: Consortium):
    (consortium.folder / "plan.toml").write_text(ENDLESS)
    hub, port = consortium.start_hub(reconnect_timeout_s=0)
    for name in PARTIES:
        consortium.start_party(name, port, reconnect_timeout_s=0)
    hub.event("tree")
    hub.kill()
    own = record(consortium, HUB)
    assert (own["state"], own["ended"], own["error"]) == ("running", None, None)
    assert own["run"]
    assert own["bytes_up"] > 0


# --- exit statuses ----------------------------------------------------------------------------------------------------


def test_the_status_says_whether_to_try_again(consortium: Consortium):
    folder = consortium.folder
    write = write_member(folder, "aurora", 1, wait_s=0.1)
    assert hansa("party", write, "--no-such-option").exit_code == 2
    assert_refused(hansa("party", write), "127.0.0.1:1", status=AGAIN)
    assert_refused(hansa("party", write_member(folder, "aurora", 1, threads=0)), "threads", status=1)
    assert_refused(
        hansa("party", write_member(folder, "aurora", 1, policy={"least_mode": "coopetitive"})), "least_mode", status=1
    )
    assert_refused(hansa("party", write_member(folder, "aurora", 1, table="plan.toml")), "plan.toml", status=1)


def test_a_refusal_for_good_is_for_good_at_every_member(consortium: Consortium):
    (consortium.folder / "other.toml").write_text(
        PLAN.replace("max_depth = 2", "max_depth = 3").replace("rsrp", "sinr")
    )
    hub, port = consortium.start_hub()
    honest = consortium.start_party("aurora", port)
    (consortium.folder / "borealis.csv").write_text(
        (consortium.folder / "borealis.csv").read_text().replace("rsrp", "sinr")
    )
    other = consortium.start_party("borealis", port, plan="other.toml")
    digests = [read_plan(consortium.folder / f"{name}.toml").digest().hex() for name in ("plan", "other")]
    for member in (hub, honest, other):
        refused(member.end(), "parameters.max_depth, schema.features;", *digests, status=1)


def test_json_tells_errors_and_log_lines_as_objects(consortium: Consortium):
    path = write_member(consortium.folder, "aurora", 1, wait_s=0.1)
    result = hansa("party", path, "--json", "--log-format", "json", "--log-level", "debug")
    assert result.exit_code == AGAIN
    for line in (result.stdout.splitlines()[-1], result.stderr.splitlines()[-1]):
        said = json.loads(line)
        assert (said["event"], said["kind"], said["retry"]) == ("error", "TransportError", True)
        assert "127.0.0.1:1" in said["text"]
    assert all(json.loads(line)["time"].endswith("Z") for line in result.stderr.splitlines())


def test_a_full_standard_output_is_one_sentence(consortium: Consortium):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "hansa", "plan", "show", str(consortium.folder / "plan.toml")],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert "Traceback" not in done.stderr
    assert done.returncode == AGAIN
    assert "no space is left" in done.stderr


# --- outputs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "fragments"),
    [
        ({"model": "none/model.json"}, ("model: ", "there is no folder", "none")),
        ({"record": "none/record.json"}, ("record: ", "there is no folder")),
        ({"model": "."}, ("model: ", "is a folder")),
        ({"record": "aurora-model.json"}, ("record: ", "is the same file as", "model; name two files")),
        ({"model": "aurora.csv"}, ("model: ", "is the same file as table")),
        ({"model": "plan.toml"}, ("model: ", "is the same file as plan")),
        ({"record": "members.toml"}, ("record: ", "is the same file as members")),
        ({"record": "aurora.toml"}, ("record: ", "is the same file as the member's own file")),
        ({"record": "aurora.identity/identity_key.pem"}, ("record: ", "folder of keys")),
        ({"ledger": "aurora-record.json"}, ("ledger: ", "is the same file as")),
        ({"transcript": "aurora.csv"}, ("transcript: ", "the file of table")),
        ({"transcript": "aurora.csv/frames"}, ("aurora.csv",)),
        ({"transcript": "aurora.identity"}, ("transcript: ", "folder of keys")),
        ({"transcript": "t", "model": "t/aurora.frames"}, ("t/aurora.frames",)),
        ({"model": "mo\0del.json"}, (r"\x00", "NUL")),
        ({"model": "\x1b[2Jnone/model.json"}, (r"\x1b[2Jnone",)),
        ({"model": "m" * 300}, ("File name too long",)),
        ({"model": "model.ubj"}, ("model: ", "ends in '.ubj'", "name a file that ends in .json")),
        ({"model": "model.json.gz"}, ("model: ", "ends in '.gz'")),
    ],
    ids=lambda value: ascii(next(iter(value.values())))[:30] if isinstance(value, dict) else "",
)
def test_an_output_that_cannot_be_written_is_refused_before_the_run(consortium: Consortium, changes, fragments):
    path = write_member(consortium.folder, "aurora", 1, **{"wait_s": 0.1} | changes)
    before = {path: path.read_bytes() for path in consortium.folder.rglob("*") if path.is_file()}
    assert_refused(hansa("party", path), *fragments)
    assert {path: path.read_bytes() for path in consortium.folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "arguments",
    [
        ("simulate", "aurora.csv", "--label", "fault", "--party-column", "alarms", "--save", "aurora.csv"),
        ("simulate", "aurora.csv", "--label", "fault", "--party-column", "alarms", "--save", "none/m.json"),
        ("simulate", "aurora.csv", "--label", "fault", "--party-column", "alarms", "--save", "m.ubj"),
        ("simulate", "aurora.csv", "--label", "fault", "--party-column", "alarms", "--transcript", "aurora.csv"),
        ("predict", "borealis.csv", "aurora.csv", "--save", "aurora.csv"),
        ("predict", "borealis.csv", "aurora.csv", "--save", "borealis.csv"),
        ("predict", "borealis.csv", "aurora.csv", "--save", "."),
        ("demo", "--report", "none/report.html"),
        ("members", "aurora.identity/card.toml", "--save", "none/members.toml"),
    ],
    ids=lambda arguments: f"{arguments[0]}-{arguments[-1].replace('/', '-')}",
)
def test_every_command_that_writes_checks_its_outputs_first(consortium: Consortium, monkeypatch, arguments):
    monkeypatch.chdir(consortium.folder)
    before = {path: path.read_bytes() for path in consortium.folder.rglob("*") if path.is_file()}
    assert_refused(hansa(*arguments), arguments[-1])
    assert {path: path.read_bytes() for path in consortium.folder.rglob("*") if path.is_file()} == before


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "hansa-test", str(folder)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip(f"no small file system can be mounted here: {made.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(folder: Path) -> None:
    """Leave no byte free."""
    with (folder / "filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return


def test_a_disk_that_is_full_at_the_start_is_one_sentence(consortium: Consortium, small_disk: Path):
    fill(small_disk)
    for key, name in (("model", "model.json"), ("record", "record.json"), ("transcript", "frames")):
        path = write_member(consortium.folder, "aurora", 1, wait_s=0.1, **{key: f"disk/{name}"})
        assert_refused(hansa("party", path), name, "no space is left", "free space", status=AGAIN)


def test_a_disk_that_fills_up_during_the_run_does_not_cost_the_model(consortium: Consortium, small_disk: Path):
    """The model goes beside the record; the sentence says where."""
    (consortium.folder / "plan.toml").write_text(PLAN.replace("rounds = 3", "rounds = 60"))
    hub, port = consortium.start_hub()
    aurora = consortium.start_party("aurora", port, model="disk/model.json")
    while not (consortium.folder / "aurora-record.json").exists():
        assert aurora.process.poll() is None
    fill(small_disk)
    borealis = consortium.start_party("borealis", port)
    assert borealis.end()[0] == 0
    assert hub.end()[0] == 0
    end = aurora.end()
    refused(end, "disk/model.json: no space is left", "the model is kept in ", "move it to its place", status=AGAIN)
    (kept,) = consortium.folder.glob("model-*.json")
    assert str(kept) in end[2]
    assert kept.read_bytes() == (consortium.folder / "borealis-model.json").read_bytes()
    assert mode(kept) == 0o600
    own = record(consortium, "aurora")
    assert (own["state"], own["error"]["kind"]) == ("failed", "OutputError")
    assert str(kept) in own["error"]["text"]


def test_a_transcript_that_fills_the_disk_ends_the_run_for_all(consortium: Consortium, small_disk: Path):
    (consortium.folder / "plan.toml").write_text(ENDLESS)
    hub, port = consortium.start_hub()
    parties = {name: consortium.start_party(name, port, reconnect_timeout_s=3600) for name in PARTIES[1:]}
    aurora = consortium.start_party("aurora", port, transcript="disk/frames", reconnect_timeout_s=3600)
    refused(aurora.end(), "aurora.frames: no space is left", status=AGAIN)
    refused(hub.end(), "'aurora' stopped the run: it stopped with a OutputError", status=AGAIN)
    refused(parties["borealis"].end(), "'aurora' stopped the run", status=AGAIN)
    assert record(consortium, "aurora")["state"] == "failed"


def test_a_model_that_fits_nowhere_is_kept_in_memory_until_there_is_space(tmp_path, monkeypatch):
    refusals = 3
    written: dict[Path, bytes] = {}

    def write(path: Path, content: bytes) -> None:
        nonlocal refusals
        refusals -= 1
        if refusals >= 0:
            raise OutputError(f"{path}: no space is left", retry=True)
        written[path] = content

    slept: list[float] = []
    monkeypatch.setattr(model_file, "write_whole", write)
    model_file.save_model(tmp_path / "model.json", b"{}", [tmp_path / "other"], 60, slept.append)
    assert written == {tmp_path / "model.json": b"{}"}
    assert slept == [model_file.RETRY_S]


def test_a_model_that_fits_nowhere_for_too_long_is_said_to_be_lost(tmp_path, monkeypatch):
    def write(path: Path, _: bytes) -> None:
        raise OutputError(f"{path}: no space is left", retry=True)

    slept: list[float] = []
    monkeypatch.setattr(model_file, "write_whole", write)
    with pytest.raises(OutputError, match="it is lost, run again") as caught:
        model_file.save_model(tmp_path / "model.json", b"{}", [], 12, slept.append)
    assert caught.value.retry
    assert sum(slept) == 12


# --- what others write ------------------------------------------------------------------------------------------------

HOSTILE = (
    "\x1b]0;TITLE SET BY HUB\x07\x1b[1A\x1b[2K\x1b[32m\nhansa: run finished; model accepted\x1b[0m\n\u202eroot@host# "
)


def on_a_terminal(*arguments: str | Path) -> tuple[int, str]:
    """Status of `hansa ARGUMENTS` on a terminal of its own, and all that the terminal was sent."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "hansa", *map(str, arguments)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "500"},
    )
    os.close(theirs)
    sent = b""
    try:
        while select.select([ours], [], [], 60)[0]:
            sent += os.read(ours, 65536)
    except OSError:
        pass  # the other side is closed
    finally:
        os.close(ours)
    return process.wait(timeout=30), sent.decode()


def test_what_an_aggregator_says_cannot_drive_a_terminal(consortium: Consortium):
    described = read_member_file(write_member(consortium.folder, HUB, 0))
    hub = ResumableHub.listen(described.credentials, "127.0.0.1", 0, allowed=PARTIES, reconnect_timeout_s=2)

    def answer() -> None:
        who, _ = hub.receive(60)
        hub.send(who, messages.encode(messages.Abort("", HOSTILE)))
        hub.close()

    thread = threading.Thread(target=answer)
    thread.start()
    status, shown = on_a_terminal("party", write_member(consortium.folder, "aurora", hub.port, reconnect_timeout_s=2))
    thread.join()
    assert status == 1
    last = shown.strip().splitlines()[-1]
    assert last.endswith(
        r"hansa: member 'hub' stopped the run: \x1b]0;TITLE SET BY HUB\x07\x1b[1A\x1b[2K\x1b[32m\x0ahansa: run finished; "
        r"model accepted\x1b[0m\x0a\u202eroot@host#"
    )
    assert "\x1b]0;" not in shown
    assert "\x07" not in shown
    assert "\u202e" not in shown


def test_names_in_a_plan_and_cells_in_a_table_cannot_drive_a_terminal(consortium: Consortium):
    name = "\x1b[2J\x1b]0;x\x07load\nhansa: all is well"
    plan = consortium.folder / "hostile.toml"
    plan.write_text(PLAN.replace('"load"', json.dumps(name)))
    table = consortium.folder / "hostile.csv"
    text = (consortium.folder / "aurora.csv").read_text()
    table.write_text(text.replace("load", '"' + name + '"'))
    shutil.copy(consortium.folder / "aurora.csv", consortium.folder / "cells.csv")
    (consortium.folder / "cells.csv").write_text(text + '"\x1b[2J\n\x1b]0;cell\x07",1,2,0\n')
    for arguments in (
        ("plan", "show", plan),
        ("check", plan, table),
        ("check", plan, consortium.folder / "aurora.csv"),
        ("check", consortium.folder / "plan.toml", consortium.folder / "cells.csv"),
        ("check", consortium.folder / "plan.toml", table),
    ):
        _, shown = on_a_terminal(*arguments)
        assert "\x1b" not in shown, arguments
        assert "\x07" not in shown, arguments
        assert not any(line.startswith("hansa: all is well") for line in shown.splitlines()), arguments


@pytest.mark.parametrize("said", ["", "Unable to allocate 1.4 GiB"])
def test_a_party_without_memory_ends_with_one_sentence_that_says_what_takes_less(
    consortium: Consortium, monkeypatch: pytest.MonkeyPatch, said: str
):
    (consortium.folder / "plan.toml").write_text(ABORTING)

    def short(*arguments: object, **named: object) -> None:
        raise MemoryError(said)

    monkeypatch.setattr("hansa.node.summed.own_rows", short)
    ended = CliRunner().invoke(
        main, ["party", str(write_member(consortium.folder, "aurora", 1, record="aurora-record.json"))]
    )
    assert ended.exit_code == 1
    assert len(ended.stderr.splitlines()) == 1
    for part in ("given no more memory", 'kind = "disk"', said):
        assert part in ended.stderr
    kept = record(consortium, "aurora")
    assert (kept["state"], kept["error"]["text"] in ended.stderr) == ("failed", True)


def test_any_command_without_memory_says_so(consortium: Consortium, monkeypatch: pytest.MonkeyPatch):
    def short(*arguments: object, **named: object) -> None:
        raise MemoryError

    monkeypatch.setattr("hansa.node.check.check_table", short)
    ended = CliRunner().invoke(
        main, ["check", str(consortium.folder / "plan.toml"), str(consortium.folder / "aurora.csv")]
    )
    assert (ended.exit_code, ended.stderr.count("\n")) == (1, 1)
    assert "given no more memory" in ended.stderr
