"""What a hostile member may try with plans, signatures and keys: every honest member refuses it, and says which rule was broken.

A state folder that was put back is tried in `test_cli_survival.py` and `tests/node/`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hansa.consortium.approvals import ProposalStatement, read_proposal
from hansa.consortium.envelopes import EnvelopeJson, encoded, opened, sealed, sign, written
from hansa.consortium.identity import load_identity
from hansa.node.events import Failed, read_line
from hansa.plan import parse_plan, write_plan
from made_consortium import ABORTING, HUB, PARTIES, PLAN, Consortium, hansa, make_consortium, refused, write_member

ALL = (HUB, *PARTIES)
ROLE = {HUB: "aggregator", **dict.fromkeys(PARTIES, "party")}
LATER = PLAN.replace('"borealis"]\n', '"borealis"]\nreceivers = ["aurora"]\n', 1)


@pytest.fixture
def consortium(tmp_path: Path):
    """A signed consortium, and a plan with one receiver that all have approved."""
    made = Consortium(make_consortium(tmp_path, LATER))
    keys = {name: ("--identity", tmp_path / f"{name}.identity") for name in ALL}
    cards = [tmp_path / f"{name}.identity" / "card.toml" for name in PARTIES]
    file = tmp_path / "consortium.json"
    members = ("--members", file)
    assert hansa("consortium", "create", "nordic", *cards, *keys[HUB], "--save", file).exit_code == 0
    for name in PARTIES:
        assert hansa("consortium", "sign", *keys[name], "--consortium", file).exit_code == 0
    proposed = ("--save", tmp_path / "plan.json")
    assert hansa("plan", "propose", tmp_path / "plan.toml", *members, *keys[HUB], *proposed).exit_code == 0
    for name in PARTIES:
        assert hansa("plan", "approve", tmp_path / "plan.json", *members, *keys[name]).exit_code == 0
    yield made
    made.stop()


def own_file(consortium: Consortium, name: str, **changes: Any) -> Path:
    """An honest member's own file."""
    honest: dict[str, Any] = {"plan": "plan.json", "members": "consortium.json"}
    policy = {"approved_plans_only": True, "signed_members_only": True}
    return write_member(consortium.folder, name, 1, **(honest | {"policy": policy, "wait_s": 0.01} | changes))


def rule_of(consortium: Consortium, name: str, **changes: Any) -> Failed:
    """How a member refuses, by the event that its command prints; nobody is dialled, and no model is written."""
    done = hansa(ROLE[name], own_file(consortium, name, **changes), "--json")
    assert done.exit_code == 1, done.output
    event = read_line(done.stdout.splitlines()[-1])
    assert isinstance(event, Failed)
    assert not consortium.models()
    return event


def rewritten(consortium: Consortium, change: Callable[[dict[str, Any]], None]) -> None:
    """The approved plan's file with another content."""
    path = consortium.folder / "plan.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def statement_of(consortium: Consortium) -> ProposalStatement:
    envelope = msgspec.json.decode((consortium.folder / "plan.json").read_bytes(), type=EnvelopeJson)
    return opened(envelope, ProposalStatement, "it")[0]


def with_plan(consortium: Consortium, text: str) -> bytes:
    """The statement with another plan in it, which names that plan's digest."""
    statement = statement_of(consortium)
    digest = msgspec.structs.replace(statement.subject[0].digest, sha256=parse_plan(text).digest().hex())
    subject = (msgspec.structs.replace(statement.subject[0], digest=digest),)
    predicate = msgspec.structs.replace(statement.predicate, plan=write_plan(parse_plan(text)))
    return encoded(msgspec.structs.replace(statement, subject=subject, predicate=predicate))


def test_honest_members_would_run(consortium: Consortium):
    policy = {"approved_plans_only": True, "signed_members_only": True}
    own = {"plan": "plan.json", "members": "consortium.json", "policy": policy}
    hub, port = consortium.start_hub(**own)
    parties = [
        consortium.start_party(PARTIES[0], port, **own),
        consortium.start_party(PARTIES[1], port, model=None, **own),
    ]
    assert [each.end()[0] for each in (*parties, hub)] == [0, 0, 0]


@pytest.mark.parametrize("name", ALL)
def test_a_plan_that_nobody_signed(consortium: Consortium, name):
    assert rule_of(consortium, name, plan="plan.toml").rule == "approved_plans_only"


@pytest.mark.parametrize("name", ALL)
def test_a_plan_that_one_member_did_not_sign(consortium: Consortium, name):
    rewritten(consortium, lambda document: document["signatures"].pop())
    assert rule_of(consortium, name).rule == "every member with a role has approved"


@pytest.mark.parametrize("name", ALL)
def test_a_plan_that_was_changed_after_it_was_approved(consortium: Consortium, name):
    def change(document: dict[str, Any]) -> None:
        document["payload"] = base64.b64encode(
            with_plan(consortium, LATER.replace("rounds = 3", "rounds = 4"))
        ).decode()

    rewritten(consortium, change)
    assert rule_of(consortium, name).rule == "a signature is its member's, over these bytes"


@pytest.mark.parametrize("name", ALL)
def test_a_receiver_that_was_added_later(consortium: Consortium, name):
    """The one who adds it signs the changed statement itself; the others' signatures are of the plan that they approved."""
    payload = with_plan(consortium, PLAN)
    signatures = {own.keyid: own.sig for own in statement_signatures(consortium)}
    attacker = load_identity(consortium.folder / "borealis.identity")

    def change(document: dict[str, Any]) -> None:
        own = sealed(payload, {attacker.public: sign(attacker, payload)}).signatures[0]
        document["payload"] = base64.b64encode(payload).decode()
        document["signatures"] = [
            {"keyid": key, "sig": sig} for key, sig in (signatures | {own.keyid: own.sig}).items()
        ]

    rewritten(consortium, change)
    assert rule_of(consortium, name).rule == "a signature is its member's, over these bytes"


def statement_signatures(consortium: Consortium):
    return msgspec.json.decode((consortium.folder / "plan.json").read_bytes(), type=EnvelopeJson).signatures


@pytest.mark.parametrize("name", ALL)
def test_approvals_that_are_replayed_for_another_proposal(consortium: Consortium, name):
    """Of the very same plan even: what was approved was the first proposal of it."""
    before = json.loads((consortium.folder / "plan.json").read_text())["signatures"]
    keys = ("--members", consortium.folder / "consortium.json", "--identity", consortium.folder / f"{HUB}.identity")
    again = ("--save", consortium.folder / "plan.json")
    assert hansa("plan", "propose", consortium.folder / "plan.toml", *keys, *again).exit_code == 0

    def change(document: dict[str, Any]) -> None:
        there = {own["keyid"] for own in document["signatures"]}
        document["signatures"] += [own for own in before if own["keyid"] not in there]

    rewritten(consortium, change)
    assert rule_of(consortium, name).rule == "a signature is its member's, over these bytes"


@pytest.mark.parametrize("name", ALL)
def test_a_signature_of_somebody_without_a_role(consortium: Consortium, name):
    assert hansa("init", "dune", "--folder", consortium.folder / "dune.identity", "--no-passphrase").exit_code == 0
    dune = load_identity(consortium.folder / "dune.identity")
    payload = read_proposal(consortium.folder / "plan.json").payload
    more = sealed(payload, {dune.public: sign(dune, payload)}).signatures[0]
    rewritten(consortium, lambda document: document["signatures"].append(msgspec.to_builtins(more)))
    assert rule_of(consortium, name).rule == "only members with a role sign"


@pytest.mark.parametrize("name", ALL)
def test_a_proposal_that_names_another_key_of_a_member(consortium: Consortium, name):
    """The attacker puts a key of its own under aurora's name, and signs for it."""
    folder = consortium.folder
    assert hansa("init", "aurora", "--folder", folder / "posing.identity", "--no-passphrase").exit_code == 0
    posing, hub = load_identity(folder / "posing.identity"), load_identity(folder / f"{HUB}.identity")
    borealis = load_identity(folder / "borealis.identity")
    statement = statement_of(consortium)
    predicate = msgspec.structs.replace(
        statement.predicate, members={**statement.predicate.members, "aurora": posing.public.hex()}
    )
    payload = encoded(msgspec.structs.replace(statement, predicate=predicate))
    signers = (hub, borealis, posing)
    content = written(sealed(payload, {own.public: sign(own, payload) for own in signers}))
    (folder / "plan.json").write_bytes(content)
    assert rule_of(consortium, name).rule == "a proposal names the keys that this member pins"


@pytest.mark.parametrize("name", [HUB, PARTIES[0]])
def test_a_plan_with_a_revoked_key(consortium: Consortium, name):
    keys = (
        "--identity",
        consortium.folder / "borealis.identity",
        "--consortium",
        consortium.folder / "consortium.json",
    )
    assert hansa("consortium", "revoke", "borealis", "--reason", "laptop stolen", *keys).exit_code == 0
    found = rule_of(consortium, name)
    assert (found.rule, found.member) == ("no key with a role was revoked", "borealis")
    approve = ("--members", consortium.folder / "consortium.json", "--identity", consortium.folder / f"{name}.identity")
    done = hansa("plan", "approve", consortium.folder / "plan.json", *approve)
    assert done.exit_code == 1
    assert "revoked in version 2" in done.stderr


@pytest.mark.parametrize("name", PARTIES)
def test_one_line_that_a_policy_does_not_allow(consortium: Consortium, name):
    strict = {"approved_plans_only": True, "most_rounds": 2}
    assert rule_of(consortium, name, policy=strict).rule == "most_rounds"
    assert rule_of(consortium, name, policy=strict | {"most_rounds": 3, "receivers": ["borealis"]}).rule == "receivers"


def test_a_member_without_a_role_dials_with_a_plan_of_its_own(consortium: Consortium):
    """Real processes: the hub turns it away, and runs with the others."""
    folder = consortium.folder
    file = folder / "consortium.json"
    assert hansa("init", "dune", "--folder", folder / "dune.identity", "--no-passphrase").exit_code == 0
    invited = folder / "i.json"
    hub_keys = ("--identity", folder / f"{HUB}.identity", "--consortium", file)
    code = hansa("consortium", "invite", "dune", *hub_keys, "--save", invited).stdout.splitlines()[1]
    dune = ("--identity", folder / "dune.identity")
    assert hansa("consortium", "join", invited, *dune, "--code", code, "--save", folder / "a.json").exit_code == 0
    assert hansa("consortium", "add", folder / "a.json", *hub_keys).exit_code == 0
    for name in (*PARTIES, "dune"):
        assert (
            hansa("consortium", "sign", "--identity", folder / f"{name}.identity", "--consortium", file).exit_code == 0
        )
    (folder / "dune.csv").write_bytes((folder / "aurora.csv").read_bytes())
    (folder / "dune-plan.toml").write_text(ABORTING.replace('"borealis"]', '"borealis", "dune"]'))
    policy = {"approved_plans_only": True, "signed_members_only": True}
    own = {"plan": "plan.json", "members": "consortium.json", "policy": policy}
    hub, port = consortium.start_hub(**own)
    intruder = consortium.start_party("dune", port, plan="dune-plan.toml", members="consortium.json")
    refused(intruder.end(), "member 'dune' is not expected in this run")
    parties = [
        consortium.start_party(PARTIES[0], port, **own),
        consortium.start_party(PARTIES[1], port, model=None, **own),
    ]
    assert [each.end()[0] for each in parties] == [0, 0]
    status, _, log = hub.end()
    assert status == 0
    assert "'dune' is not expected in this run" in log


def test_a_revoked_key_opens_no_connection(consortium: Consortium):
    """Real processes: borealis has taken another key, and whoever has the old one dials with the old papers."""
    folder = consortium.folder
    old = folder / "old.json"
    old.write_bytes((folder / "consortium.json").read_bytes())
    assert hansa("init", "borealis", "--folder", folder / "new.identity", "--no-passphrase").exit_code == 0
    file = ("--consortium", folder / "consortium.json")
    keys = ("--identity", folder / "borealis.identity", *file)
    assert hansa("consortium", "rotate", "--new", folder / "new.identity", *keys).exit_code == 0
    key = base64.b64encode(load_identity(folder / "borealis.identity").public).decode()
    new = ("--identity", folder / "new.identity", *file)
    assert hansa("consortium", "revoke", "borealis", "--key", key, "--reason", "stolen", *new).exit_code == 0
    honest = {"plan": "plan.toml", "members": "consortium.json"}
    hub, port = consortium.start_hub(**honest)
    thief = consortium.start(
        "party", write_member(folder, "borealis", port, plan="plan.toml", members="old.json", model=None)
    )
    refused(thief.end(), "certificate")
    parties = [
        consortium.start_party("aurora", port, **honest),
        consortium.start_party("borealis", port, identity="new.identity", model=None, **honest),
    ]
    assert [each.end()[0] for each in parties] == [0, 0]
    status, _, log = hub.end()
    assert status == 0
    assert "rejected peer" in log
