"""Processes that end, over mutual TLS: started again with the same command, the run goes on and gives the same bytes."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from made_consortium import (
    AGAIN,
    HUB,
    PARTIES,
    PLAN,
    Consortium,
    Started,
    make_consortium,
    refused,
    write_member,
)

LONG = PLAN.replace("rounds = 3", "rounds = 1000")
MASKED = LONG.replace("federated", "secure-aggregation").replace(
    "min_cell_rows = 2", "min_cell_rows = 2\nmin_party_rows = 0"
)
POLICY = {"allow_two_parties": True, "least_party_rows": 0}


class Run:
    """The members' processes of one run; `again` starts a member with the command that it was started with."""

    def __init__(self, consortium: Consortium, plan: str) -> None:
        self.consortium = consortium
        self.folder = consortium.folder
        (self.folder / "plan.toml").write_text(plan)
        hub, self.port = consortium.start_hub()
        write_member(self.folder, HUB, self.port)
        self.members = {HUB: hub}
        masked = plan == MASKED
        for name in PARTIES:
            more = {"ledger": f"{name}-ledger.jsonl", "policy": POLICY} if masked else {}
            write_member(self.folder, name, self.port, **more)
            self.again(name)

    def again(self, name: str) -> None:
        role = "aggregator" if name == HUB else "party"
        self.members[name] = self.consortium.start(role, self.folder / f"{name}.toml", "--json")

    def kill(self, *names: str) -> None:
        for name in names:
            self.members[name].kill()

    def model(self) -> bytes:
        """What all receivers hold, once everybody has ended well."""
        for name, member in self.members.items():
            status, _, text = member.end()
            assert status == 0, (name, text)
        models = {path.read_bytes() for path in self.consortium.models()}
        assert len(models) == 1
        assert len(self.consortium.models()) == len(PARTIES)
        for path in self.consortium.models():
            path.unlink()
        assert not list(self.folder.glob("*.state")), "nothing of a run stays when it is over"
        return models.pop()


def undisturbed(consortium: Consortium, plan: str) -> bytes:
    return Run(consortium, plan).model()


def test_a_killed_party_is_started_again_and_the_model_is_the_same(consortium: Consortium):
    expected = undisturbed(consortium, LONG)
    run = Run(consortium, LONG)
    run.members["borealis"].event("tree")
    run.kill("borealis")
    state = run.folder / "borealis.state"
    assert state.stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in state.iterdir())
    run.again("borealis")
    assert run.members["borealis"].event("resumed")["epoch"] == 1
    assert run.members[HUB].event("paused")["waiting_for"] == ["borealis"]
    assert run.members["aurora"].event("paused")["waiting_for"] == ["borealis"]
    assert run.model() == expected


@pytest.mark.slow
@pytest.mark.parametrize("plan", [LONG, MASKED], ids=["federated", "secure-aggregation"])
@pytest.mark.parametrize("victims", [(HUB,), ("aurora",), PARTIES, (HUB, "borealis"), (HUB, *PARTIES)], ids=str)
def test_whoever_is_killed_the_model_is_the_same(consortium: Consortium, plan: str, victims: tuple[str, ...]):
    expected = undisturbed(consortium, plan)
    run = Run(consortium, plan)
    run.members[HUB].event("tree")
    run.kill(*victims)
    for name in victims:
        run.again(name)
    assert run.model() == expected
    if plan == MASKED:  # one line a run, whatever happened to its processes
        assert len((run.folder / "aurora-ledger.jsonl").read_text().splitlines()) == 3


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["registered", "binned", "trained"])
def test_a_party_killed_in_set_up_or_release(consortium: Consortium, stage: str):
    expected = undisturbed(consortium, LONG)
    record = consortium.folder / "aurora-record.json"
    record.unlink()
    run = Run(consortium, LONG)
    run.members[HUB].event(stage)
    run.kill("aurora")
    if record.exists() and json.loads(record.read_text())["state"] == "finished":
        del run.members["aurora"]  # its run was over, and the same command would begin another one
    else:
        run.again("aurora")
    assert run.model() == expected


@pytest.mark.slow
def test_a_stopped_party_is_waited_for(consortium: Consortium):
    """SIGTERM, as from a system that restarts it."""
    expected = undisturbed(consortium, LONG)
    run = Run(consortium, LONG)
    run.members[HUB].event("tree")
    run.members["aurora"].process.send_signal(signal.SIGTERM)
    assert run.members["aurora"].end()[0] == 143
    run.again("aurora")
    assert run.model() == expected


@pytest.mark.slow
def test_a_full_disk_stops_its_member_alone_before_the_answer_leaves(consortium: Consortium):
    expected = undisturbed(consortium, LONG)
    run = Run(consortium, LONG)
    run.kill("borealis")
    full = Started.__new__(Started)
    full.process = subprocess.Popen(
        [sys.executable, "-m", "hansa", "party", str(run.folder / "borealis.toml"), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000)),
    )
    refused(full.end(), "the state of the run cannot be kept", "free space", status=AGAIN)
    assert run.members[HUB].event("paused")["waiting_for"] == ["borealis"]
    run.again("borealis")
    assert run.model() == expected


@pytest.mark.slow
def test_a_state_folder_has_one_process(consortium: Consortium):
    run = Run(consortium, LONG.replace("rounds = 1000", "rounds = 100000"))
    run.members["aurora"].event("tree")
    second = consortium.start("party", run.folder / "aurora.toml")
    refused(second.end(), "another process uses this state folder")


@pytest.mark.slow
def test_nobody_comes_back_and_everybody_says_who_is_missing(tmp_path: Path):
    consortium = Consortium(make_consortium(tmp_path))
    try:
        (tmp_path / "plan.toml").write_text(LONG.replace("rounds = 1000", "rounds = 100000"))
        hub, port = consortium.start_hub(wait_s=30, reconnect_timeout_s=0.5)
        parties = {
            name: consortium.start("party", write_member(tmp_path, name, port, wait_s=30, reconnect_timeout_s=0.5))
            for name in PARTIES
        }
        hub.event("tree")
        parties["borealis"].kill()
        status, out, text = hub.end()
        assert status == AGAIN, text
        failed = json.loads(out.splitlines()[-1])
        assert failed["event"] == "error"
        assert "borealis" in failed["text"]
        status, _, text = parties["aurora"].end()
        assert status == AGAIN, text
        assert "the run pauses, and waits for borealis" in text
    finally:
        consortium.stop()
