"""Services over mutual TLS, one port at the hub: plans come by inboxes, runs are played by processes of their own."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from hansa.consortium.model_signature import sign_model
from made_consortium import HUB, PARTIES, PLAN, assert_refused, hansa, make_consortium
from made_services import ServiceProcess, Services, alive, approved
from waiting import until

MASKED = PLAN.replace("federated", "secure-aggregation").replace(
    "min_cell_rows = 2", "min_cell_rows = 2\nmin_party_rows = 0"
)
LONG = PLAN.replace("rounds = 3", "rounds = 200")


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    folder = tmp_path_factory.mktemp("services")
    made = Services(make_consortium(folder))
    try:
        for name in PARTIES:
            made.start(name, model_signatures=name == "aurora")
        yield made
    finally:
        made.stop()


def renamed(plan: str, name: str) -> str:
    return plan.replace('name = "test"', f'name = "{name}"')


def for_aurora(plan: str) -> str:
    """Only aurora gets the model."""
    return plan.replace(
        'parties = ["aurora", "borealis"]\n', 'parties = ["aurora", "borealis"]\nreceivers = ["aurora"]\n'
    )


def test_a_run_whose_model_is_withheld_says_so_and_nobody_can_fetch_one(services: Services):
    condition = '[evaluation]\nfraction = 0.3\n[release]\nmetric = "logloss"\nat_most = 0.0\n'
    run = services.run(approved(services.folder, renamed(PLAN, "strict") + condition))
    for name in services.started:
        found = services.until(name, run, "finished", "failed", "withheld")
        assert (found["state"], found["model_sha256"]) == ("withheld", "")
        assert "nobody has the model" in found["text"]
    fetched = hansa("fetch-model", run, "--service", services.file("aurora"), "--save", services.folder / "no.json")
    assert_refused(fetched, "withheld")


def test_a_service_plays_the_folds_of_a_cross_validation(services: Services):
    run = services.run(approved(services.folder, renamed(PLAN, "folded") + "[evaluation]\nfolds = 2\n"))
    for name in services.started:
        assert services.until(name, run, "finished", "failed")["state"] == "finished"
    record = json.loads((services.folder / f"{HUB}-service.service" / "runs" / run / "record.json").read_text())
    assert record["cross_validation"]["folds"] == 2
    watched = hansa("watch", run, "--service", services.file(HUB))
    best = record["cross_validation"]["best_round"]
    mean = record["cross_validation"]["history"]["logloss"]["mean"][best - 1]
    assert f"2 folds. Mean ± standard deviation over folds after {best} rounds" in watched.stdout
    assert f"{mean:.4f}"[:5] in watched.stdout
    assert "2 folds" not in hansa("watch", run, "--service", services.file("aurora")).stdout


def test_a_plan_that_all_approved_is_run_once_and_its_receiver_fetches_the_model(services: Services):
    plan = approved(services.folder, for_aurora(PLAN))
    run = services.run(plan)
    for name in services.started:
        assert services.until(name, run, "finished", "failed")["state"] == "finished"
    assert len({services.runs(name)[run]["id"] for name in services.started}) == 1
    model = services.folder / "fetched.json"
    fetched = hansa("fetch-model", run[:6], "--service", services.file("aurora"), "--save", model, "--json")
    assert fetched.exit_code == 0, fetched.output
    assert json.loads(fetched.stdout)["sha256"] == services.runs("aurora")[run]["model_sha256"]
    assert model.stat().st_mode & 0o777 == 0o600
    beside = ("--provenance", services.folder / "told.json", "--signature", services.folder / "fetched.sig")
    again = hansa("fetch-model", run, "--service", services.file("aurora"), "--save", model, *beside)
    assert again.exit_code == 0, again.output
    verify = ("verify", model, services.folder / "told.json", "--members", services.folder / "members.toml")
    verified = hansa(*verify, "--signature", services.folder / "fetched.sig")
    assert "model signature by a key of aurora: it holds" in " ".join(verified.stdout.split()), verified.output
    sign_model(model, services.folder / "another.sig")
    assert_refused(hansa(*verify, "--signature", services.folder / "another.sig"), "is no signature of")
    for name in (HUB, "borealis"):
        other = hansa("fetch-model", run, "--service", services.file(name), "--save", services.folder / "none.json")
        assert_refused(other, f"gives its model to aurora, and not to '{name}'")
        assert not (services.folder / f"{name}-service.service" / "runs" / run / "model.json").exists()
    watched = hansa("watch", "test", "--service", services.file("aurora"), "--json")
    assert watched.exit_code == 0, watched.output
    events = [json.loads(line) for line in watched.stdout.splitlines()]
    assert {event["run"] for event in events} == {run}
    assert [event["state"] for event in events if event["event"] == "run"] == ["waiting", "running", "finished"]
    assert {"registered", "record"} <= {event["event"] for event in events}
    assert f"[{run}] training is over" in services.started["aurora"].log.read_text()
    attempts = services.runs("aurora")[run]["attempts"]
    services.run(plan, "aurora")
    inbox = services.folder / "aurora-service.service" / "plans"
    until(lambda: not list(inbox.glob("*.json")), "the second copy's end")
    assert services.runs("aurora")[run] | {"attempts": attempts} == services.runs("aurora")[run]


def test_what_not_all_approved_is_refused_however_it_comes(services: Services):
    folder = services.folder
    (folder / "alone.toml").write_text(renamed(PLAN, "alone"))
    path = folder / "alone.json"
    given = ("--members", folder / "members.toml", "--identity", folder / "hub.identity", "--save", path)
    assert hansa("plan", "propose", folder / "alone.toml", *given).exit_code == 0
    assert_refused(hansa("run", path, "--service", services.file("aurora")), "aurora, borealis did not approve")
    inbox = folder / "aurora-service.service" / "plans"
    shutil.copy(path, inbox / "alone.json")
    (inbox / "broken.json").write_text("{")
    until(lambda: len(list((inbox / "refused").glob("*.reason"))) == 2, "the refusals")
    assert "did not approve this plan" in (inbox / "refused" / "alone.json.reason").read_text()
    refused = [run for run in services.runs("aurora").values() if run["state"] == "refused"]
    assert {run["plan"] for run in refused} == {"alone.json", "broken.json"}
    assert not list(inbox.glob("*.json"))


def test_a_run_that_was_over_when_its_process_and_its_service_died_is_not_begun_anew(services: Services):
    folder = services.folder
    run = services.run(approved(folder, renamed(LONG, "over"), "over"))
    services.until("borealis", run, "running")
    borealis = services.started["borealis"]
    borealis.process.send_signal(signal.SIGSTOP)  # it takes in no end of a run any more
    kept = folder / "borealis-service.service" / "runs" / run
    until(lambda: (kept / "record.json").exists() and "finished" in (kept / "record.json").read_text(), "the run's end")
    until(lambda: (kept / "provenance.json").exists(), "the provenance")
    borealis.kill()
    told = json.loads((kept / "provenance.json").read_text())
    (kept / "provenance.json").unlink()  # as if the process had died before it wrote it
    services.started["borealis"] = ServiceProcess("party", services.file("borealis"))
    for name in services.started:
        found = services.until(name, run, "finished", "failed")
        assert (found["state"], found["trees"]) == ("finished", 200), (name, found)
    assert services.runs("borealis")[run]["model_sha256"] == services.runs("aurora")[run]["model_sha256"]
    assert facts_of(json.loads((kept / "provenance.json").read_text())) == facts_of(told)
    assert not (kept / "state").exists()


def facts_of(envelope: dict[str, Any]) -> dict[str, Any]:
    """What a provenance says, but when it was written."""
    statement = json.loads(base64.b64decode(envelope["payload"]))
    return {name: value for name, value in statement.items() if name != "predicate"} | {
        name: value for name, value in statement["predicate"].items() if name != "finished"
    }


@pytest.mark.slow
def test_runs_at_once_outlive_their_processes_and_services(services: Services):
    """Two runs of one plan in words, and a masked one; a run's process and a whole service are killed on the way."""
    folder = services.folder
    plans = [approved(folder, renamed(LONG, "long"), f"long-{number}") for number in (1, 2)]
    plans.append(approved(folder, renamed(MASKED, "masked"), "masked"))
    runs = [services.run(plan) for plan in plans]
    until(lambda: services.runs("borealis").get(runs[0], {}).get("trees", 0) > 2, "some trees")
    borealis = services.started["borealis"]
    children = borealis.children()
    assert len(children) >= 1
    os.kill(children[0], signal.SIGKILL)
    until(lambda: not alive(children[0]), "the end of one process")
    borealis.kill()
    until(lambda: not any(alive(child) for child in children), "the end of the service's processes")
    services.started["borealis"] = ServiceProcess("party", services.file("borealis"))
    for name in services.started:
        for run in runs:
            found = services.until(name, run, "finished", "failed")
            assert found["state"] == "finished", (name, found)
    told = services.runs("aurora")
    assert told[runs[0]]["model_sha256"] == told[runs[1]]["model_sha256"]
    assert services.runs("borealis")[runs[0]]["attempts"] + services.runs("borealis")[runs[1]]["attempts"] > 2
    assert told[runs[2]]["mode"] == "secure-aggregation"


def test_a_policy_that_is_saved_reaches_the_running_service(services: Services):
    aurora = services.file("aurora")
    before = aurora.read_text()
    aurora.write_text(before.replace("[policy]\n", '[policy]\nleast_mode = "coopetitive"\n'))
    until(lambda: "the policy was changed" in services.started["aurora"].log.read_text(), "the new policy")
    run = services.run(approved(services.folder, renamed(PLAN, "too-open"), "too-open"), "aurora")
    assert "least_mode" in services.until("aurora", run, "refused", "waiting", "running")["text"]
    aurora.write_text(before)
    until(lambda: services.started["aurora"].log.read_text().count("the policy was changed") == 2, "the old policy")


def test_a_run_is_paused_at_one_member_and_goes_on_where_it_was(services: Services):
    run = services.run(approved(services.folder, renamed(LONG, "paused")))
    aurora = services.file("aurora")
    services.until("aurora", run, "running")
    paused = hansa("pause", run, "--service", aurora)
    assert paused.exit_code == 0, paused.output
    found = services.until("aurora", run, "paused", "finished", "failed")
    assert (found["state"], found["text"]) == ("paused", "paused by its operator; `hansa resume` has it go on")
    assert services.runs("borealis")[run]["state"] == "running"
    assert hansa("resume", run, "--service", aurora, "--json").exit_code == 0
    for name in services.started:
        assert services.until(name, run, "finished", "failed")["state"] == "finished"
    assert_refused(hansa("pause", run, "--service", aurora), "is over: finished")


def test_a_run_waits_until_all_have_it_and_can_be_stopped(services: Services):
    run = services.run(approved(services.folder, renamed(PLAN, "waits"), "waits"), "aurora")
    until(lambda: services.runs("aurora").get(run, {}).get("waiting_for") == [HUB], "the wait for the hub")
    assert "does not take part in this run" in services.runs("aurora")[run]["text"]
    listed = hansa("runs", "--service", services.file("aurora"))
    assert "waits" in listed.stdout
    assert "looking for hub" in " ".join(listed.stdout.split())
    stopped = hansa("stop", "waits", "--service", services.file("aurora"))
    assert stopped.exit_code == 0, stopped.output
    assert services.until("aurora", run, "stopped", "failed")["state"] == "stopped"
    assert_refused(hansa("stop", run, "--service", services.file("aurora")), "is over: stopped")
    assert_refused(hansa("stop", "none", "--service", services.file("aurora")), "'none' names no run of this service")


def test_a_service_that_is_ended_pauses_its_runs_and_takes_them_up(services: Services):
    run = services.run(approved(services.folder, renamed(LONG, "paused"), "paused"))
    until(lambda: services.runs("aurora").get(run, {}).get("trees", 0) > 2, "some trees")
    assert services.started[HUB].end() == 143
    assert services.runs(HUB)[run]["state"] == "paused"
    services.started[HUB] = ServiceProcess("aggregator", services.file(HUB))
    for name in services.started:
        assert services.until(name, run, "finished", "failed")["state"] == "finished"
    assert services.runs(HUB)[run]["attempts"] == 2
