"""The plans of a service: approvals that were taken back, and plans of keys that members had before."""

from __future__ import annotations

import json
from pathlib import Path

from hansa.consortium.approvals import read_proposal
from hansa.consortium.identity import load_identity
from hansa.consortium.key_files import Unlocking
from hansa.consortium.versions import found, revoked, rotated, signed, write_consortium
from hansa.service.config import read_service_file
from hansa.service.plan_list import plans_of
from hansa.service.proposals import keep_proposal
from hansa.service.store import ServiceRun, Store
from made_consortium import HUB, PLAN, hansa, make_consortium
from made_services import approved, write_service

NAMES = (HUB, "aurora", "borealis")


def listed(service: Path) -> dict:
    done = hansa("plan", "list", "--service", service, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_an_approval_that_was_taken_back_is_told_from_a_rejection(tmp_path: Path):
    folder = make_consortium(tmp_path)
    path = write_service(folder, "aurora", 1)
    service = read_service_file(path)
    (consortium,) = service.consortia
    plan = approved(folder, PLAN, "back", (HUB, "borealis"))
    keep_proposal(service.proposals_of(consortium), consortium, read_proposal(plan, consortium.members))
    own = ("--members", folder / "members.toml", "--service", path, "--reason", "changed")
    for name, command in (("borealis", "withdraw"), ("aurora", "reject")):
        words = ("plan", command, plan, "--identity", folder / f"{name}.identity", "--save", folder / f"{name}-no.json")
        done = hansa(*words, *own)
        assert done.exit_code == 0, done.output
    (each,) = listed(path)["plans"]
    assert each["proposal"]["state"] == "withdrawn"
    store = Store(service.name, service.state)
    assert plans_of(service, store).plans[0].state == "rejected by aurora; withdrawn by borealis"
    store.close()


def test_a_plan_that_ran_is_listed_after_a_key_of_it_was_rotated_or_revoked_and_others_are_refused(tmp_path: Path):
    folder = make_consortium(tmp_path)
    own = {name: load_identity(folder / f"{name}.identity", Unlocking(None)) for name in NAMES}
    held = found("nordic", [each.card() for each in own.values()], own[HUB])
    held = signed(signed(held, own["aurora"]), own["borealis"])
    write_consortium(folder / "members.toml", held)
    path = write_service(folder, "aurora", 1)
    service = read_service_file(path)
    (consortium,) = service.consortia
    store = Store(service.name, service.state)
    for name in ("ran", "waits", "lied"):
        plan = approved(folder, PLAN.replace('name = "test"', f'name = "{name}"'), name, NAMES)
        proposal = read_proposal(plan, consortium.members)
        keep_proposal(service.proposals_of(consortium), consortium, proposal)
        digest = proposal.digest.hex()
        if name != "waits":  # a run that was refused, or is of another proposal, vouches for none
            kept = digest if name == "ran" else "ab" * 32
            run = {"run": digest[:16], "command": "party", "consortium": "", "plan": name, "mode": "federated"}
            store.put(ServiceRun(**run, proposal=kept, state="finished", folder=digest[:16], created="", updated=""))
    store.close()
    assert {each["proposal"]["name"] for each in listed(path)["plans"]} == {"ran", "waits", "lied"}
    made = hansa("init", "--no-passphrase", "borealis", "--folder", folder / "new.identity")
    assert made.exit_code == 0, made.output
    new = load_identity(folder / "new.identity", Unlocking(None))
    later = rotated(held, new, [own["borealis"], new])
    stolen = signed(revoked(held, "borealis", "stolen", own[HUB]), own["aurora"])
    for now, text in ((later, "another identity of borealis"), (stolen, "revoked in version 2")):
        write_consortium(folder / "members.toml", now)
        found_now = listed(path)
        assert [each["proposal"]["name"] for each in found_now["plans"]] == ["ran"]
        assert len(found_now["refused"]) == 2
        assert all(text in each["text"] for each in found_now["refused"])
