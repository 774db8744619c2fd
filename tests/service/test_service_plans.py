"""The plans of a service: who still has to approve, and what became of each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hansa.consortium.approvals import read_proposal
from hansa.service.config import read_service_file
from hansa.service.inbox import arrivals, clear, submit
from hansa.service.proposals import keep_proposal
from hansa.service.store import Store
from made_consortium import HUB, PLAN, hansa, make_consortium
from made_services import approved, write_service


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_consortium(tmp_path_factory.mktemp("plans"))


def listed(service: Path) -> dict[str, dict]:
    done = hansa("plan", "list", "--service", service, "--json")
    assert done.exit_code == 0, done.output
    return {each["proposal"]["name"]: each for each in json.loads(done.stdout)["plans"]}


def test_the_plans_of_a_service_with_who_is_waited_for_and_what_became_of_each(folder: Path):
    path = write_service(folder, "aurora", 1)
    nothing = hansa("plan", "list", "--service", path)
    assert (nothing.exit_code, nothing.stdout.strip()) == (0, "no proposals")
    service = read_service_file(path)
    (consortium,) = service.consortia
    names = {
        "open": (HUB,),
        "agreed": (HUB, "aurora", "borealis"),
        "back": (HUB, "borealis"),
        "ran": (HUB, "aurora", "borealis"),
    }
    for name, signers in names.items():
        plan = approved(folder, PLAN.replace('name = "test"', f'name = "{name}"'), name, signers)
        keep_proposal(service.proposals_of(consortium), consortium, read_proposal(plan, consortium.members))
    own = ("--members", folder / "members.toml", "--identity", folder / "borealis.identity", "--service", path)
    back = hansa(
        "plan", "withdraw", folder / "back.json", *own, "--reason", "changed", "--save", folder / "back-w.json"
    )
    assert back.exit_code == 0, back.output
    submit(service, folder / "ran.json")
    store = Store(service.name, service.state)
    for arrival in arrivals(service, "party", frozenset()):
        store.put(arrival.run)
        clear(arrival, service)
    store.close()
    found = listed(path)
    assert {name: (each["proposal"]["state"], each["mine"]) for name, each in found.items()} == {
        "open": ("open", "waits"),
        "agreed": ("approved", "approved"),
        "back": ("withdrawn", "waits"),
        "ran": ("approved", "approved"),
    }
    assert found["open"]["proposal"]["missing"] == ["aurora", "borealis"]
    assert found["ran"]["run"]["state"] == "waiting"
    assert found["agreed"]["run"] is None
    text = " ".join(hansa("plan", "list", "--service", path).stdout.split())
    assert "still to approve" in text
    for name in names:
        assert name in text
    broken = service.proposals_of(consortium) / f"{64 * 'a'}.json"
    broken.write_text((folder / "open.json").read_text().replace('"sig": "', '"sig": "AAAA', 1))
    assert "REFUSED" in hansa("plan", "list", "--service", path).stdout
    for wrong in (("--service", path, "--members", folder / "members.toml"), ()):
        assert hansa("plan", "list", *wrong).exit_code == 2
