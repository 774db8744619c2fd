"""Proposals between services over the hub's port. First what is refused: the hub and every member may send what they like."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from hansa.consortium import approvals
from hansa.consortium.approvals import (
    Proposal,
    approve,
    joined,
    propose,
    read_proposal,
    reject,
    withdraw,
    write_proposal,
)
from hansa.consortium.envelopes import written
from hansa.consortium.identity import create_identity, load_identity
from hansa.consortium.members import members_of, write_members
from hansa.consortium.versions import found, removed, signed
from hansa.errors import HansaError, IdentityError, PlanError, TransportError
from hansa.plan import read_plan
from hansa.service import config, exchange, proposals
from hansa.service.config import Consortium, read_service_file
from hansa.service.exchange import MOST_FRAMES, VERSION, WINDOW_S, Budget, Exchange, Outbox, route_of_exchange
from hansa.service.proposals import forget_proposal, keep_proposal, take
from hansa.transport.credentials import Credentials
from hansa.transport.tcp import listen
from hansa.transport.tls import TlsChannel
from hansa.transport.tls_hub import TlsHub
from made_consortium import HUB, PARTIES, PLAN, assert_refused, hansa, make_consortium
from made_services import Services, write_service
from waiting import HANG_S, until

NAMES = (HUB, *PARTIES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_consortium(tmp_path_factory.mktemp("exchange"))


def identity(folder: Path, name: str) -> Any:
    return load_identity(folder / f"{name}.identity")


def consortium_of(folder: Path, name: str, state: str = "", **changes: Any) -> Consortium:
    file = write_service(folder, name, 7465, exchange=HUB, state=state or f"{name}-exchange", **changes)
    return read_service_file(file).consortia[0]


def proposed(folder: Path, name: str = "test", by: str = HUB, **given: Any) -> Proposal:
    (folder / f"{name}.toml").write_text(PLAN.replace('name = "test"', f'name = "{name}"'))
    members = consortium_of(folder, HUB).members
    return propose(read_plan(folder / f"{name}.toml"), members, identity(folder, by), **given)


def sent(proposal: Proposal) -> bytes:
    return written(proposal.envelope)


def contents(place: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in place.glob("*.json")}


# What is refused


def test_what_is_changed_forged_or_of_others_is_refused_and_nothing_is_kept(folder: Path, tmp_path: Path):
    at = consortium_of(folder, "aurora")
    whole = proposed(folder)

    def refused(content: bytes, kind: type[HansaError], text: str) -> None:
        with pytest.raises(kind, match=text):
            take(tmp_path, at, content, "hub")
        assert contents(tmp_path) == {}

    envelope = json.loads(sent(whole))
    changed = base64.b64decode(envelope["payload"]).replace(b"rounds = 3", b"rounds = 9")
    refused(json.dumps({**envelope, "payload": base64.b64encode(changed).decode()}).encode(), PlanError, "another plan")
    signed_by_another = {**envelope["signatures"][0], "sig": base64.b64encode(bytes(64)).decode()}
    refused(json.dumps({**envelope, "signatures": [signed_by_another]}).encode(), IdentityError, "does not verify")
    refused(sent(replace(whole, signatures={})), PlanError, "whose proposal it says to be, did not sign it")
    late = proposed(folder, days=1, now=datetime.now(UTC) - timedelta(days=3))
    refused(sent(late), PlanError, "was open until")
    stranger = create_identity(HUB)
    cards = [stranger.card(), *(at.members[name] for name in PARTIES)]
    other = propose(whole.plan, members_of(cards), stranger)
    refused(sent(other), IdentityError, "another identity of hub")
    refused(reject(whole, identity(folder, "borealis"), "no"), PlanError, "rejects a proposal that is not here")
    for content in (b"", b"{", b"[]", b"\x00" * 100, b'{"payload": 1}'):
        refused(content, PlanError, "is no proposal")


def test_a_member_without_a_role_is_not_shown_the_plan_and_takes_none(folder: Path, tmp_path: Path):
    cards = [*consortium_of(folder, HUB).members.values(), create_identity("cirrus").card()]
    at = replace(consortium_of(folder, "aurora"), members=members_of(cards), identity=cards[-1])
    whole = proposed(folder)
    with pytest.raises(PlanError, match="gives 'cirrus' no role"):
        take(tmp_path, at, sent(whole), "hub")
    keep_proposal(tmp_path, consortium_of(folder, HUB), whole)
    box = Outbox(tmp_path)
    assert box.due("cirrus") == []
    assert box.due("aurora") == [sent(whole)]


def test_replayed_and_old_statements_change_nothing(folder: Path, tmp_path: Path):
    at = consortium_of(folder, "aurora")
    whole = proposed(folder)
    both = approve(whole, identity(folder, "borealis"))
    assert "was proposed by hub" in take(tmp_path, at, sent(both), "hub")
    before = contents(tmp_path)
    assert take(tmp_path, at, sent(whole), "hub") == take(tmp_path, at, sent(both), "hub") == ""
    assert contents(tmp_path) == before
    told = take(tmp_path, at, sent(approve(whole, identity(folder, "aurora"))), "hub")
    assert told == "test is approved by aurora; all have approved"
    first = reject(whole, identity(folder, "borealis"), "first")
    assert "rejected by borealis: first" in take(tmp_path, at, first, "hub")
    before = contents(tmp_path)
    assert take(tmp_path, at, reject(whole, identity(folder, "borealis"), "second"), "hub") == ""
    assert contents(tmp_path) == before
    forget_proposal(tmp_path, whole.digest.hex())
    assert take(tmp_path, at, sent(both), "hub") == ""
    assert contents(tmp_path) == {}
    keep_proposal(tmp_path, at, both)  # a person brings it after all
    assert take(tmp_path, at, sent(joined(both, approve(whole, identity(folder, "aurora")))), "hub")


def test_no_member_takes_the_room_of_all(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(proposals, "MOST_OF_ONE", 2)
    at = consortium_of(folder, "aurora")
    for _ in range(2):
        assert take(tmp_path, at, sent(proposed(folder, by="borealis")), "hub")
    with pytest.raises(PlanError, match="'borealis' has 2 proposals here already, as many as one member may"):
        take(tmp_path, at, sent(proposed(folder, by="borealis")), "hub")
    assert take(tmp_path, at, sent(proposed(folder)), "hub")
    monkeypatch.setattr(proposals, "MOST_FILES", 3)
    with pytest.raises(PlanError, match="3 proposals are kept here already"):
        take(tmp_path, at, sent(proposed(folder)), "hub")


def test_a_peers_frames_and_bytes_are_bounded():
    now = [0.0]
    budget = Budget(lambda: now[0])
    assert all(budget.takes(1) for _ in range(MOST_FRAMES))
    assert not budget.takes(1)
    assert budget.spent
    now[0] = WINDOW_S
    assert not budget.spent
    assert budget.takes(1)
    assert not budget.takes(exchange.MOST_BYTES)


def test_a_service_file_that_names_a_stranger_as_hub_is_refused(folder: Path):
    with pytest.raises(PlanError, match="exchange names 'nobody', who is no member"):
        read_service_file(write_service(folder, "aurora", 7465, exchange="nobody"))


# The hub's process and members, over TLS in this process


class Ends:
    """The hub's exchange, and channels of members that send what a test likes."""

    def __init__(self, folder: Path, place: Path) -> None:
        self.folder, self.place = folder, place
        self.exchange = Exchange(consortium_of(folder, HUB), identity(folder, HUB), place)
        self.hub = TlsHub.listen(self.exchange.credentials, "127.0.0.1", 0, open_listener=listen)

    def credentials(self, name: str) -> Credentials:
        return Exchange(consortium_of(self.folder, name), identity(self.folder, name), self.place).credentials

    def connect(self, credentials: Credentials) -> TlsChannel:
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(1) as pool:
            dialled = pool.submit(TlsChannel.connect, credentials, HUB, "127.0.0.1", self.hub.port, timeout_s=HANG_S)
            while not dialled.done():
                self.exchange.turn(self.hub, 0.01)
            return dialled.result()


@pytest.fixture
def ends(folder: Path, tmp_path: Path) -> Iterator[Ends]:
    made = Ends(folder, tmp_path / "hub")
    made.place.mkdir()
    yield made
    made.hub.close()


def test_two_consortia_of_one_name_and_the_same_members_have_routes_of_their_own(folder: Path):
    """A hub that serves both would hand the members of one to the other's exchange."""
    own = consortium_of(folder, HUB)
    now = datetime.now(UTC)
    first, second = (
        found("north", own.members.values(), identity(folder, HUB), now + timedelta(minutes=n)) for n in range(2)
    )
    later = first
    for name in PARTIES:
        later = signed(later, identity(folder, name))
    later = removed(later, PARTIES[-1], identity(folder, HUB))
    routes = [
        route_of_exchange(replace(own, members=replace(own.members, standing=each.standing())))
        for each in (first, second, later)
    ]
    assert routes[0] != routes[1]
    assert routes[0] == routes[2], "members find the exchange whatever version each of them has"


def test_an_outsider_reaches_nobody(ends: Ends):
    stranger = create_identity("aurora")
    certificates = {**consortium_of(ends.folder, HUB).members.certificates(), "aurora": stranger.certificate}
    route = route_of_exchange(consortium_of(ends.folder, HUB))
    outsider = Credentials("aurora", stranger.certificate, stranger.tls_key, certificates, (VERSION,), route)
    with pytest.raises(TransportError):
        ends.connect(outsider)
    assert ends.hub.joined == frozenset()


def test_the_hub_passes_on_what_is_new_and_hears_out_who_sends_rubbish(ends: Ends):
    aurora = ends.connect(ends.credentials("aurora"))
    borealis = ends.connect(ends.credentials("borealis"))
    whole = proposed(ends.folder, by="aurora")
    aurora.send(b"rubbish")
    aurora.send(sent(whole))
    until(lambda: (ends.exchange.turn(ends.hub, 0.01), contents(ends.place))[1], "the proposal at the hub")
    ends.exchange.turn(ends.hub, 0.01)
    assert bytes(borealis.receive(HANG_S)) == sent(whole)
    assert ends.hub.joined == {"aurora", "borealis"}
    borealis.send(reject(whole, identity(ends.folder, "borealis"), "no"))
    until(lambda: (ends.exchange.turn(ends.hub, 0.01), len(contents(ends.place)) == 2)[1], "the rejection")
    ends.exchange.turn(ends.hub, 0.01)
    got = [bytes(aurora.receive(HANG_S)) for _ in range(2)]  # its own proposal, and what came of it
    assert b"signatures" in got[1]
    assert got[1] in contents(ends.place).values()
    for channel in (aurora, borealis):
        channel.close()


def test_a_peer_that_sends_without_end_is_dropped(ends: Ends, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(exchange, "MOST_FRAMES", 3)
    aurora = ends.connect(ends.credentials("aurora"))
    for _ in range(5):
        aurora.send(b"rubbish")
    until(lambda: (ends.exchange.turn(ends.hub, 0.01), not ends.hub.joined)[1], "the end of the connection")
    aurora.close()


@pytest.mark.parametrize("of_service", [True, False])
def test_an_approval_that_comes_while_one_is_signed_is_kept(tmp_path: Path, monkeypatch, of_service: bool):
    """The command had read the service's copy, and wrote over what the hub had brought meanwhile."""
    folder = make_consortium(tmp_path)
    at = consortium_of(folder, "borealis", "at")
    first = proposed(folder, by="aurora")
    place = folder / "at" / "proposals" / "only"
    take(place, at, sent(first), "x")
    path = place / f"{first.digest.hex()}.json"

    def slow(read: Proposal, own: Any) -> Proposal:
        take(place, at, sent(approve(first, identity(folder, HUB))), "x")
        return approve(read, own)

    monkeypatch.setattr(approvals, "approve", slow)
    given = ["--members", folder / "members.toml", "--identity", folder / "borealis.identity"]
    if of_service:
        given += ["--service", folder / "borealis-service.toml"]
    done = hansa("plan", "approve", path, *given)
    assert done.exit_code == 0, done.output
    assert "all have approved" in done.output
    assert not read_proposal(path).missing


def test_an_approval_is_kept_though_the_file_was_written_anew_after_it(tmp_path: Path, monkeypatch):
    """The exchange had joined a copy before the command wrote, and wrote after it: the approval was lost, and nobody was told."""
    folder = make_consortium(tmp_path)
    at = consortium_of(folder, "borealis", "at")
    first = proposed(folder, by="aurora")
    place = folder / "at" / "proposals" / "only"
    take(place, at, sent(first), "x")
    path = place / f"{first.digest.hex()}.json"
    by_hub = approve(first, identity(folder, HUB))

    def late(*rest: Any, **given: Any) -> Any:
        write_proposal(path, by_hub)
        return read_service_file(*rest, **given)

    monkeypatch.setattr(config, "read_service_file", late)
    given = ("--members", folder / "members.toml", "--identity", folder / "borealis.identity")
    assert hansa("plan", "approve", path, *given, "--service", folder / "borealis-service.toml").exit_code == 0
    assert not read_proposal(path).missing


def test_a_file_that_is_written_twice_at_one_time_is_sent_again(folder: Path, tmp_path: Path):
    first = proposed(folder, by="aurora")
    path = tmp_path / f"{first.digest.hex()}.json"
    outbox = Outbox(tmp_path)
    for proposal in (first, approve(first, identity(folder, HUB))):
        write_proposal(path, proposal)
        os.utime(path, ns=(1, 1))
        assert outbox.due("borealis") == [sent(proposal)]
    assert outbox.due("borealis") == []


# Real services


def test_a_plan_goes_from_proposal_to_run_over_the_hub_and_a_withdrawal_stops_the_next(tmp_path: Path):
    folder = make_consortium(tmp_path)
    services = Services(folder, exchange=HUB)
    try:
        for name in PARTIES:
            services.start(name, exchange=HUB)
        (folder / "over.toml").write_text(PLAN.replace('name = "test"', 'name = "over"'))

        def place(name: str) -> Path:
            return folder / f"{name}-service.service" / "proposals" / "only"

        def signing(name: str) -> tuple[str | Path, ...]:
            own = ("--members", folder / "members.toml", "--identity", folder / f"{name}.identity")
            return (*own, "--service", services.file(name))

        made = hansa("plan", "propose", folder / "over.toml", *signing("aurora"), "--save", folder / "over.json")
        assert made.exit_code == 0, made.output
        assert place("aurora").parents[1].stat().st_mode & 0o777 == 0o700
        name = f"{read_proposal(folder / 'over.json').digest.hex()}.json"
        for other in (HUB, "borealis"):
            until(lambda other=other: (place(other) / name).exists(), f"the proposal at {other}")
            assert hansa("plan", "approve", place(other) / name, *signing(other)).exit_code == 0
        for each in NAMES:
            until(lambda each=each: not read_proposal(place(each) / name).missing, f"all approvals at {each}")
        assert "all have approved" in (folder / "hub-service.log").read_text()
        back = hansa("plan", "withdraw", place("borealis") / name, *signing("borealis"), "--reason", "changed",
                     "--save", folder / "back.json")  # fmt: skip
        assert back.exit_code == 0, back.output
        aurora = folder / "aurora-service.service" / "withdrawals" / "only"
        until(lambda: list(aurora.glob("*-borealis.json")), "the withdrawal at aurora")
        run = services.run(place("aurora") / name, "aurora")
        assert "borealis" in services.until("aurora", run, "refused", "failed")["text"]
    finally:
        services.stop()


def test_a_proposal_that_the_service_does_not_know_is_not_handed_over(folder: Path, tmp_path: Path):
    stranger = create_identity("stranger")
    write_members(
        tmp_path / "members.toml", members_of([stranger.card(), *consortium_of(folder, HUB).members.values()])
    )
    path = tmp_path / "p.json"
    write_proposal(path, withdrawn := proposed(folder))
    service = write_service(folder, "aurora", 7465, exchange=HUB, state="handing")
    given = ("--members", folder / "members.toml", "--identity", folder / "aurora.identity", "--service", service)
    assert hansa("plan", "approve", path, *given).exit_code == 0
    kept = read_proposal(folder / "handing" / "proposals" / "only" / f"{withdrawn.digest.hex()}.json")
    assert kept.missing == ("borealis",)
    assert withdraw(kept, identity(folder, "aurora"), "x")
    other = make_consortium(tmp_path / "other") if (tmp_path / "other").mkdir() is None else tmp_path
    foreign = write_service(other, "aurora", 7465, state="foreign")
    assert_refused(hansa("plan", "approve", path, *given[:-1], foreign), "names other identities than")
