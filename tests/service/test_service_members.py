"""Members and keys that change while services run: a new member may run, a revoked one is cut off, an older file is refused."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from hansa.consortium.approvals import read_proposal
from hansa.consortium.identity import Identity, load_identity
from hansa.consortium.key_files import Unlocking
from hansa.consortium.versions import (
    Consortium,
    added,
    found,
    read_consortium,
    removed,
    revoked,
    rotated,
    signed,
    write_consortium,
)
from hansa.errors import IdentityError
from hansa.service.config import read_service_file
from hansa.service.seen_members import keep_seen
from made_consortium import HUB, PARTIES, PLAN, assert_refused, cells, hansa, make_consortium, write_table
from made_services import Services, approved, write_service
from waiting import until

NAMES = (HUB, *PARTIES)
LONG = PLAN.replace("rounds = 3", "rounds = 1000")
RULE = "no key with a role was revoked"
OWN = "{name}-members.json"


def identity(folder: Path, name: str) -> Identity:
    return load_identity(folder / f"{name}.identity", Unlocking(None))


def by_all(folder: Path, made: Consortium, *names: str) -> Consortium:
    for name in names:
        made = signed(made, identity(folder, name))
    return made


def found_in(folder: Path) -> Consortium:
    """The consortium's file of the folder's members, each with a copy of its own, and `members.toml` for commands."""
    make_consortium(folder)
    made = by_all(
        folder, found("nordic", [identity(folder, name).card() for name in NAMES], identity(folder, HUB)), *NAMES
    )
    for name in NAMES:
        write_consortium(folder / OWN.format(name=name), made)
    write_consortium(folder / "members.toml", made)
    return made


def new_identity(folder: Path, name: str, place: str) -> Identity:
    made = hansa("init", "--no-passphrase", name, "--folder", folder / f"{place}.identity")
    assert made.exit_code == 0, made.output
    return identity(folder, place)


def take(folder: Path, made: Consortium, *names: str) -> None:
    """These members get another file."""
    for name in names:
        write_consortium(folder / OWN.format(name=name), made)
    write_consortium(folder / "members.toml", made)


def told(services: Services, name: str, text: str, times: int = 1) -> None:
    log = services.started[name].log
    until(lambda: log.read_text().count(text) >= times, f"{text!r} at {name}: {log.read_text()}")


@pytest.fixture
def services(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Services]:
    found_in(tmp_path)
    changes = getattr(request, "param", {})
    made = Services(tmp_path, members=OWN.format(name=HUB), **changes)
    try:
        for name in PARTIES:
            made.start(name, members=OWN.format(name=name), **changes)
        yield made
    finally:
        made.stop()


def put_in_inbox(services: Services, name: str, plan: Path) -> None:
    """As who does not ask `hansa run`."""
    shutil.copy(plan, services.folder / f"{name}-service.service" / "plans" / plan.name)


@pytest.mark.parametrize("services", [{"exchange": HUB}], indirect=True)
def test_a_revoked_member_is_cut_off_in_mid_run_and_what_it_approved_is_refused(services: Services):
    folder = services.folder
    later = approved(folder, PLAN.replace('name = "test"', 'name = "later"'), "later")
    running = services.run(approved(folder, LONG, "long"))
    for name in NAMES:
        until(lambda name=name: services.runs(name).get(running, {}).get("trees", 0) > 1, f"trees at {name}")
        assert services.runs(name)[running]["members_version"] == 1
    held, later_run = read_consortium(folder / "members.toml"), read_proposal(later).digest.hex()[:16]
    take(folder, by_all(folder, revoked(held, "borealis", "stolen", identity(folder, HUB)), "aurora"), HUB, "aurora")
    for name in (HUB, "aurora"):
        ended = services.until(name, running, "failed", "finished", "stopped")
        assert (ended["state"], ended["trees"] < 1000) == ("failed", True)
        assert "'borealis' that was revoked in version 2 of the consortium's file (stolen)" in ended["text"]
        told(services, name, "version 2 of nordic is taken: 2 members")
    told(services, HUB, "rejected peer")  # in the exchange of proposals
    assert (
        "whose key was revoked in version 2 of the consortium's file (stolen)" in services.started[HUB].log.read_text()
    )
    for name in (HUB, "aurora"):
        log = (folder / f"{name}-service.service" / "audit").read_text()
        assert RULE in log or '"kind":"RunStopped"' in log, (
            log
        )  # whose process was the second to look was told by the first
        assert_refused(hansa("run", later, "--service", services.file(name)), "borealis", "revoked in version 2")
        put_in_inbox(services, name, later)
        refused = folder / f"{name}-service.service" / "plans" / "refused" / "later.json.reason"
        until(refused.exists, f"the refusal at {name}")
        assert "revoked in version 2" in refused.read_text()
    assert any(RULE in (folder / f"{name}-service.service" / "audit").read_text() for name in (HUB, "aurora"))
    # Its own service, which has no newer file, is told, and reaches nobody.
    assert services.until("borealis", running, "failed", "finished")["state"] == "failed"
    services.run(later, "borealis")
    until(lambda: services.runs("borealis").get(later_run, {}).get("waiting_for"), "the wait of who was cut off")


def test_who_joins_or_takes_other_keys_takes_part_in_the_next_run_and_a_run_under_way_goes_on(services: Services):
    folder = services.folder
    waits = services.run(approved(folder, PLAN.replace('name = "test"', 'name = "waits"'), "waits"), "aurora")
    until(lambda: services.runs("aurora").get(waits, {}).get("waiting_for"), "a run that did not begin")
    running = services.run(approved(folder, LONG, "long"))
    until(lambda: services.runs("borealis").get(running, {}).get("trees", 0) > 1, "trees at borealis")
    assert hansa("pause", running, "--service", services.file("borealis")).exit_code == 0
    assert services.until("borealis", running, "paused", "finished")["state"] == "paused"
    held, new = read_consortium(folder / "members.toml"), new_identity(folder, "borealis", "borealis-new")
    made = rotated(held, new, [identity(folder, "borealis"), new])
    east = new_identity(folder, "east", "east")
    made = added(made, [east.card()], ["ab" * 32], identity(folder, HUB))
    made = signed(signed(by_all(folder, made, "aurora"), new), east)
    borealis = services.file("borealis")
    take(folder, made, *NAMES)
    told(services, "borealis", "has another card of 'borealis' than")
    borealis.write_text(borealis.read_text().replace("borealis.identity", "borealis-new.identity"))
    told(services, "borealis", "the files can be taken again")
    # What did not begin is of other keys than those of now.
    assert "another identity of borealis" in services.until("aurora", waits, "failed", "stopped")["text"]
    write_table(folder / "east.csv", cells(70, 9))
    write_consortium(folder / OWN.format(name="east"), made)
    services.start("east", members=OWN.format(name="east"))
    more = PLAN.replace('"borealis"]', '"borealis", "east"]').replace('name = "test"', 'name = "more"')
    with_east = services.run(approved(folder, more, "more", (HUB, "aurora", "borealis-new", "east")))
    for name in (*NAMES, "east"):
        found = services.until(name, with_east, "finished", "failed")
        assert (found["state"], found["members_version"]) == ("finished", 3), found
    # What began goes on with the keys that it began with, in a process that reads them anew.
    assert hansa("resume", running, "--service", borealis).exit_code == 0
    for name in NAMES:
        found = services.until(name, running, "finished", "failed")
        assert (found["state"], found["members_version"]) == ("finished", 1), found
    assert services.runs("borealis")[running]["attempts"] > 1
    fetched = hansa("fetch-model", running, "--service", borealis, "--save", folder / "model.json")
    assert fetched.exit_code == 0, fetched.output


def test_an_older_or_a_damaged_file_begins_nothing_and_admits_nobody(services: Services):
    folder = services.folder
    held = read_consortium(folder / "members.toml")
    plan = approved(folder, PLAN, "old")
    take(folder, by_all(folder, revoked(held, "borealis", "stolen", identity(folder, HUB)), "aurora"), "aurora")
    told(services, "aurora", "version 2 of nordic is taken")
    write_consortium(folder / OWN.format(name="aurora"), held)
    told(services, "aurora", "does not go on from version 2")
    assert_refused(hansa("run", plan, "--service", services.file("aurora")), "does not go on from version 2")
    put_in_inbox(services, "aurora", plan)
    services.started["aurora"].end()
    assert_refused(hansa("party", services.file("aurora"), "--service"), "does not go on from version 2")
    assert not (folder / "aurora-service.service" / "runs").exists()
    (folder / OWN.format(name=HUB)).write_text("{")
    told(services, HUB, "so that no run begins")
    put_in_inbox(services, HUB, plan)
    write_consortium(folder / OWN.format(name=HUB), held)
    told(services, HUB, "the files can be taken again")
    until(lambda: [run["state"] for run in services.runs(HUB).values()] == ["running"], "the run")


def test_a_history_that_is_another_is_refused(tmp_path: Path):
    held = found_in(tmp_path)
    service = read_service_file(write_service(tmp_path, "aurora", 1, members=OWN.format(name="aurora")))
    (own,) = service.consortia
    keep_seen(own.members, service.seen_of(own))
    less = by_all(tmp_path, removed(held, "borealis", identity(tmp_path, HUB)), "aurora")
    write_consortium(own.members_path, less)
    (own,) = read_service_file(service.path).consortia
    keep_seen(own.members, service.seen_of(own))
    other = by_all(tmp_path, removed(held, HUB, identity(tmp_path, "borealis")), "aurora")
    for wrong in (held, other):
        write_consortium(own.members_path, wrong)
        with pytest.raises(IdentityError, match="does not go on from version 2") as caught:
            read_service_file(service.path)
        assert caught.value.rule == "a version follows the one that this member holds"
    hansa(
        "members", *(tmp_path / f"{name}.identity" / "card.toml" for name in NAMES), "--save", tmp_path / "cards.toml"
    )
    shutil.copy(tmp_path / "cards.toml", own.members_path)
    with pytest.raises(IdentityError, match="is a members file, which nobody signs, and does not go on"):
        read_service_file(service.path)
    write_consortium(own.members_path, less)
    service.seen_of(own).write_text("{}")
    with pytest.raises(IdentityError, match="restore it from a back-up"):
        read_service_file(service.path)
