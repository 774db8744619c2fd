"""Approvals of a plan: signed by every member with a role, checked by DSSE's own verifier too, and nothing else passes."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError

from hansa.consortium.approvals import (
    Proposal,
    approve,
    is_proposal,
    joined,
    propose,
    read_proposal,
    read_rejection,
    reject,
    require_approved,
    write_proposal,
)
from hansa.consortium.envelopes import PAYLOAD_TYPE, key_of, written
from hansa.consortium.identity import create_identity
from hansa.consortium.members import members_of
from hansa.errors import HansaError, IdentityError, PlanError
from hansa.plan import Plan, parse_plan, write_plan

TEXT = """
name = "cells"
mode = "secure-aggregation"
[members]
aggregator = "hub"
parties = ["aurora", "borealis", "cirrus"]
receivers = ["aurora"]
[schema]
features = ["load", "rsrp"]
label = "fault"
[parameters]
rounds = 5
"""
PLAN = parse_plan(TEXT)
IDENTITIES = {name: create_identity(name) for name in ("hub", "aurora", "borealis", "cirrus", "stranger")}
MEMBERS = members_of([own.card() for own in IDENTITIES.values()])
WITH_A_ROLE = ("hub", "aurora", "borealis", "cirrus")


def approved(plan: Plan = PLAN, by: tuple[str, ...] = WITH_A_ROLE) -> Proposal:
    proposal = propose(plan, MEMBERS, IDENTITIES[by[0]])
    for name in by[1:]:
        proposal = approve(proposal, IDENTITIES[name])
    return proposal


WHOLE = approved()


def filed(tmp_path, proposal: Proposal):
    path = tmp_path / "proposal.json"
    write_proposal(path, proposal)
    return path


def forged(tmp_path, change):
    """The whole proposal's envelope after `change` of its JSON."""
    document = json.loads(written(WHOLE.envelope))
    change(document)
    path = tmp_path / "forged.json"
    path.write_text(json.dumps(document))
    return path


def with_payload(document, edit):
    """Change the statement, keep the signatures."""
    statement = json.loads(base64.b64decode(document["payload"]))
    edit(statement)
    text = json.dumps(statement, sort_keys=True, separators=(",", ":"))
    document["payload"] = base64.b64encode(text.encode()).decode()


def test_a_proposal_collects_approvals_and_is_read_back(tmp_path):
    proposal = propose(PLAN, MEMBERS, IDENTITIES["aurora"])
    assert proposal.missing == ("borealis", "cirrus", "hub") or set(proposal.missing) == {"hub", "borealis", "cirrus"}
    for name in proposal.missing:
        path = filed(tmp_path, proposal)
        with pytest.raises(PlanError, match=f"{name}.* did not approve"):
            require_approved(read_proposal(path, MEMBERS), "proposal.json")
        proposal = approve(read_proposal(path, MEMBERS), IDENTITIES[name])
    path = filed(tmp_path, proposal)
    read = read_proposal(path, MEMBERS)
    assert read == proposal
    assert read.plan == PLAN
    assert is_proposal(path.read_bytes())
    assert not is_proposal(TEXT.encode())
    require_approved(read, "proposal.json")


def test_the_verifier_of_dsse_accepts_it_and_counts_signatures():
    envelope = Envelope.from_dict(json.loads(written(WHOLE.envelope)))
    keys = [key_of(IDENTITIES[name].public) for name in WITH_A_ROLE]
    assert envelope.payload_type == PAYLOAD_TYPE
    assert len(envelope.verify(keys, threshold=4)) == 4
    three = Envelope.from_dict(json.loads(written(approved(by=WITH_A_ROLE[:3]).envelope)))
    with pytest.raises(VerificationError):
        three.verify(keys, threshold=4)
    statement = json.loads(envelope.payload)
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["subject"] == [{"name": "cells", "digest": {"sha256": PLAN.digest().hex()}}]


def test_copies_are_joined_and_other_proposals_are_not():
    first = propose(PLAN, MEMBERS, IDENTITIES["hub"])
    copies = [approve(first, IDENTITIES[name]) for name in WITH_A_ROLE[1:]]
    assert not joined(*copies).missing
    with pytest.raises(PlanError, match="two proposals"):
        joined(first, propose(PLAN, MEMBERS, IDENTITIES["hub"]))


def receiver_added(document):
    plan = replace(PLAN, receivers=("aurora", "cirrus"))

    def edit(statement):
        statement["predicate"]["plan"] = write_plan(plan)
        statement["subject"][0]["digest"]["sha256"] = plan.digest().hex()

    with_payload(document, edit)


def approval_of_another(document):
    """Borealis's approval of another proposal of the same plan."""
    other = json.loads(written(approved(by=("borealis",)).envelope))
    own = other["signatures"][0]
    document["signatures"] = [s if s["keyid"] != own["keyid"] else own for s in document["signatures"]]


def signed_by_a_stranger(document):
    stranger = approve(
        replace(WHOLE, predicate=replace_members(WHOLE, "stranger"), signatures={}), IDENTITIES["stranger"]
    )
    document["signatures"] += json.loads(written(stranger.envelope))["signatures"]


def replace_members(proposal, name):
    import msgspec

    members = proposal.predicate.members | {name: IDENTITIES[name].public.hex()}
    return msgspec.structs.replace(proposal.predicate, members=members)


FORGERIES = {
    "a receiver added later": (receiver_added, "does not verify"),
    "a plan of another digest": (
        lambda d: with_payload(d, lambda s: s["predicate"].update(plan=write_plan(replace(PLAN, name="other")))),
        "another plan than the one that it holds",
    ),
    "a longer time": (
        lambda d: with_payload(d, lambda s: s["predicate"].update(expires="2099-01-01T00:00:00Z")),
        "does not verify",
    ),
    "a time without a zone": (
        lambda d: with_payload(d, lambda s: s["predicate"].update(expires="2099-01-01T00:00:00")),
        "another kind, or damaged",
    ),
    "approval of another proposal": (approval_of_another, "signature of 'borealis' does not verify"),
    "a stranger": (signed_by_a_stranger, "of no member with a role"),
    "signed twice": (lambda d: d["signatures"].append(d["signatures"][0]), "signed twice"),
    "a member more": (
        lambda d: with_payload(d, lambda s: s["predicate"]["members"].update(stranger="00" * 32)),
        "other members than the plan",
    ),
    "another payload type": (lambda d: d.update(payloadType="text/plain"), "holds 'text/plain'"),
    "a field more": (lambda d: d.update(more=1), "is no signed statement"),
    "a statement's field more": (lambda d: with_payload(d, lambda s: s.update(more=1)), "another kind, or damaged"),
    "another statement": (
        lambda d: with_payload(d, lambda s: s.update(predicateType="urn:hansa:plan-rejection:1")),
        "another kind, or damaged",
    ),
    "no base64": (lambda d: d.update(payload="%%%"), "another kind, or damaged"),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_what_was_changed_is_refused(tmp_path, name):
    change, said = FORGERIES[name]
    with pytest.raises(HansaError, match=said):
        read_proposal(forged(tmp_path, change), MEMBERS)


@given(st.data())
def test_no_byte_of_an_approved_plan_can_change(tmp_path_factory, data):
    content = bytearray(written(WHOLE.envelope))
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    path = tmp_path_factory.mktemp("altered") / "altered.json"
    path.write_bytes(content)
    try:
        read = read_proposal(path, MEMBERS)
    except (PlanError, IdentityError):
        return
    # Space between the fields of the envelope is no part of what is signed.
    assert read == WHOLE


def test_a_key_that_the_members_file_no_longer_has_approves_nothing(tmp_path):
    path = filed(tmp_path, WHOLE)
    renewed = members_of(
        [own.card() for name, own in IDENTITIES.items() if name != "aurora"] + [create_identity("aurora").card()]
    )
    with pytest.raises(IdentityError, match="another identity of aurora"):
        read_proposal(path, renewed)
    with pytest.raises(IdentityError, match="another key of 'borealis'"):
        approve(propose(PLAN, MEMBERS, IDENTITIES["hub"]), create_identity("borealis"))


def test_who_has_no_role_neither_proposes_nor_approves():
    with pytest.raises(PlanError, match="'stranger' has no role"):
        propose(PLAN, MEMBERS, IDENTITIES["stranger"])
    with pytest.raises(PlanError, match="'stranger' has no role"):
        approve(WHOLE, IDENTITIES["stranger"])
    few = members_of([IDENTITIES[name].card() for name in ("hub", "aurora")])
    with pytest.raises(IdentityError, match="'borealis' is not in the members file"):
        propose(PLAN, few, IDENTITIES["hub"])


def test_a_proposal_has_its_time():
    now = datetime.now(UTC)
    proposal = propose(PLAN, MEMBERS, IDENTITIES["hub"], days=1, now=now)
    later, earlier = now + timedelta(days=2), now - timedelta(days=1)
    for moment, said in ((later, "was open until"), (earlier, "clock")):
        with pytest.raises(PlanError, match=said):
            approve(proposal, IDENTITIES["aurora"], moment)
        with pytest.raises(PlanError, match=said):
            require_approved(
                WHOLE if moment is earlier else replace(proposal, signatures=WHOLE.signatures), "x", moment
            )
    with pytest.raises(PlanError, match="1 to 365 days"):
        propose(PLAN, MEMBERS, IDENTITIES["hub"], days=0)


def test_a_rejection_is_signed_and_of_one_proposal(tmp_path):
    path = tmp_path / "no.json"
    path.write_bytes(reject(WHOLE, IDENTITIES["cirrus"], "too many bins"))
    found = read_rejection(path, WHOLE)
    assert (found.member, found.reason) == ("cirrus", "too many bins")
    with pytest.raises(PlanError, match="another proposal"):
        read_rejection(path, approved())
    with pytest.raises(HansaError, match="another kind"):
        read_proposal(path, MEMBERS)
    document = json.loads(path.read_text())
    with_payload(document, lambda s: s["predicate"].update(member="aurora"))
    path.write_text(json.dumps(document))
    with pytest.raises(HansaError, match=r"no member with a role|not signed"):
        read_rejection(path, WHOLE)
    with pytest.raises(PlanError, match="at most 1000"):
        reject(WHOLE, IDENTITIES["cirrus"], "x" * 1001)


def test_a_signature_of_another_purpose_is_no_approval(tmp_path):
    """Identities sign cards, keys and broadcasts too, under another prefix."""
    other = IDENTITIES["aurora"].sign("plan", WHOLE.payload)
    path = filed(tmp_path, replace(WHOLE, signatures={**WHOLE.signatures, "aurora": other}))
    with pytest.raises(IdentityError, match="signature of 'aurora' does not verify"):
        read_proposal(path, MEMBERS)
