"""Members and keys that change while services run: a new member may run, a revoked one is cut off, an older file is refused."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hansa.cli.service_run import OTHER_FILE
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
from hansa.errors import AGAIN, IdentityError, PlanError
from hansa.service.config import read_service_file
from hansa.service.inbox import arrivals, submit, write_member_file
from hansa.service.seen_members import keep_seen
from hansa.transport.routing import local_pair
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
    try:
        until(lambda: log.read_text().count(text) >= times, f"{text!r} at {name}")
    except AssertionError as error:
        raise AssertionError(f"{error}: {log.read_text()}") from error


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
    aurora, own = services.started["aurora"], folder / OWN.format(name="aurora")
    half = revoked(held, "borealis", "stolen", identity(folder, HUB))
    write_consortium(own, half)
    told(services, "aurora", "version 2 of nordic still lacks the signature of")
    write_consortium(own, held)
    told(services, "aurora", "the files can be taken again")
    whole = by_all(folder, half, "aurora")
    take(folder, whole, "aurora")
    told(services, "aurora", "version 2 of nordic is taken")
    content = own.read_bytes()
    own.write_bytes(content[: len(content) // 2])
    told(services, "aurora", "so that no run begins", 2)
    assert_refused(hansa("run", plan, "--service", services.file("aurora")), OWN.format(name="aurora"))
    own.write_bytes(content)
    told(services, "aurora", "the files can be taken again", 2)
    write_consortium(own, held)
    told(services, "aurora", "does not go on from version 2")
    assert_refused(hansa("run", plan, "--service", services.file("aurora")), "does not go on from version 2")
    put_in_inbox(services, "aurora", plan)
    # Without the mark of what was taken it is refused all the same, by the service that took it.
    mark = folder / "aurora-service.service" / "members" / "only.json"
    kept = mark.read_bytes()
    mark.unlink()
    own.touch()
    told(services, "aurora", "which was read before")
    mark.write_bytes(kept)
    assert aurora.end() == 128 + signal.SIGTERM
    assert_refused(hansa("party", services.file("aurora"), "--service"), "does not go on from version 2")
    assert not (folder / "aurora-service.service" / "runs").exists()
    (folder / OWN.format(name=HUB)).write_text("{")
    told(services, HUB, "so that no run begins")
    put_in_inbox(services, HUB, plan)
    write_consortium(folder / OWN.format(name=HUB), held)
    told(services, HUB, "the files can be taken again")
    until(lambda: [run["state"] for run in services.runs(HUB).values()] == ["running"], "the run")


def test_a_file_that_is_written_bit_by_bit_while_runs_begin_fails_none(services: Services):
    """As `cp` does it: between two writes there is half a file, which nobody signed."""
    folder, ends = services.folder, threading.Event()
    content = (folder / "members.toml").read_bytes()

    def rewrite() -> None:
        paths = [folder / OWN.format(name=name) for name in NAMES]
        while not ends.is_set():
            for path in paths:
                with path.open("wb", buffering=0) as file:
                    for place in range(0, len(content), len(content) // 4):
                        file.write(content[place : place + len(content) // 4])
                        time.sleep(0.05)
            ends.wait(2.0)

    plans = [approved(folder, PLAN.replace('name = "test"', f'name = "t{n}"'), f"t{n}") for n in range(3)]
    writer = threading.Thread(target=rewrite)
    writer.start()
    try:
        for plan in plans:
            for name in NAMES:
                put_in_inbox(services, name, plan)
        for plan in plans:
            run = read_proposal(plan).digest.hex()[:16]
            for name in NAMES:
                assert services.until(name, run, "finished", "failed", "refused")["state"] == "finished"
    finally:
        ends.set()
        writer.join()


def test_a_runs_process_that_finds_another_file_than_the_service_took_does_not_begin(tmp_path: Path):
    held = found_in(tmp_path)
    service = read_service_file(write_service(tmp_path, "aurora", 1, members=OWN.format(name="aurora")))
    submit(service, approved(tmp_path, PLAN, "plan"))
    (arrival,) = arrivals(service, "party", frozenset())
    path = write_member_file(service, arrival.run)
    taken = service.consortia[0].members.state()
    # Put there between the service's look and the process's: a version in which every key of the plan is as it was.
    east = new_identity(tmp_path, "east", "east")
    more = by_all(
        tmp_path, added(held, [east.card()], ["ab" * 32], identity(tmp_path, HUB)), "aurora", "borealis", "east"
    )
    write_consortium(service.consortia[0].members_path, more)
    ours, theirs = local_pair()
    words = (theirs.fileno(), path, "party", arrival.run.run, "", 0, taken, "text", "info")
    ended = subprocess.run(
        [sys.executable, "-m", "hansa.cli.service_run", *map(str, words)],
        pass_fds=[theirs.fileno()], capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    ours.close()
    theirs.close()
    told = json.loads(ended.stdout)
    assert (ended.returncode, told["event"], told["retry"]) == (AGAIN, "error", True)
    assert OTHER_FILE in told["text"]


@given(cut=st.floats(0, 1), tail=st.booleans())
@settings(max_examples=60, deadline=None)
def test_no_half_of_a_file_is_taken(cut: float, tail: bool, two_versions: tuple[Path, bytes, bytes]):
    """The first bytes of the newer file, alone or with the last ones of the older: what is read while it is written."""
    path, old, new = two_versions
    place = int(cut * (len(new) - 1))
    content = new[:place] + (old[place:] if tail else b"")
    if content in (old, new) or content.rstrip() == new.rstrip():
        return
    path.with_name(OWN.format(name="aurora")).write_bytes(content)
    with pytest.raises((IdentityError, PlanError)):
        read_service_file(path, open_keys=False)


@pytest.fixture(scope="module")
def two_versions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes, bytes]:
    """A service's file, and two versions of its members file."""
    folder = tmp_path_factory.mktemp("halves")
    held = found_in(folder)
    path = write_service(folder, "aurora", 1, members=OWN.format(name="aurora"))
    own = folder / OWN.format(name="aurora")
    old = own.read_bytes()
    write_consortium(own, by_all(folder, revoked(held, "borealis", "stolen", identity(folder, HUB)), "aurora"))
    return path, old, own.read_bytes()


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
