"""Where a model comes from: members' signed statements, held to the file, the members file and each other."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
from securesystemslib.dsse import Envelope
from test_consortium_approvals import IDENTITIES, MEMBERS, PLAN, WHOLE, WITH_A_ROLE, approved

from hansa.consortium.envelopes import key_of
from hansa.consortium.identity import create_identity
from hansa.consortium.members import members_of
from hansa.consortium.provenance import FinishedRun, verify_model, write_provenance
from hansa.consortium.versions import Consortium, found, read_pinned, revoked, rotated, signed, write_consortium
from hansa.errors import HansaError, IdentityError, PlanError
from hansa.files import MOST_MODEL_BYTES, MOST_READ_BYTES
from hansa.node.record import file_sha256
from hansa.trees.xgboost_json import MOST_BYTES

MODEL = b'{"learner": {}}'
RUN = FinishedRun(
    plan=PLAN,
    identities={name: IDENTITIES[name].public for name in WITH_A_ROLE},
    model_name="model.json",
    model_sha256=hashlib.sha256(MODEL).hexdigest(),
    run="ab" * 32,
    hansa="0.1.0",
    proposal=WHOLE,
)


def model(tmp_path):
    path = tmp_path / "model.json"
    path.write_bytes(MODEL)
    return path


def statement(tmp_path, name, run=RUN):
    path = tmp_path / f"{name}-provenance.json"
    write_provenance(path, run, IDENTITIES[name])
    return path


def test_members_vouch_for_a_model(tmp_path):
    statements = [statement(tmp_path, name) for name in ("aurora", "hub")]
    found = verify_model(model(tmp_path), statements, MEMBERS)
    assert set(found.vouching) == {"aurora", "hub"}
    assert found.approved_by == tuple(sorted(WITH_A_ROLE))
    assert (found.plan, found.mode, found.run) == (PLAN.digest().hex(), PLAN.mode, RUN.run)
    told = "\n".join(found.lines())
    assert "aurora vouches for it" in told
    assert "signed by aurora, borealis, cirrus, hub" in told
    assert (
        verify_model(model(tmp_path), [statement(tmp_path, "hub", replace(RUN, proposal=None))], MEMBERS).approved_by
        == ()
    )


def test_the_verifier_of_dsse_accepts_it(tmp_path):
    envelope = Envelope.from_dict(json.loads(statement(tmp_path, "aurora").read_text()))
    assert len(envelope.verify([key_of(IDENTITIES["aurora"].public)], threshold=1)) == 1
    subject = json.loads(envelope.payload)["subject"][0]
    assert subject == {"name": "model.json", "digest": {"sha256": RUN.model_sha256}}


def test_another_file_is_not_vouched_for(tmp_path):
    path = model(tmp_path)
    path.write_bytes(MODEL + b" ")
    with pytest.raises(PlanError, match="of another model"):
        verify_model(path, [statement(tmp_path, "aurora")], MEMBERS)
    with pytest.raises(PlanError, match="cannot be read"):
        verify_model(tmp_path / "none.json", [statement(tmp_path, "aurora")], MEMBERS)


def test_a_large_model_is_vouched_for_too(tmp_path):
    """Of more than 64 MiB, which a plan may have: its run ended in an error when all was done, and nobody could verify it."""
    path = tmp_path / "model.json"
    with path.open("wb") as file:
        file.truncate(MOST_READ_BYTES + 1)
    digest = file_sha256(path)
    assert len(digest) == 64
    assert verify_model(path, [statement(tmp_path, "aurora", replace(RUN, model_sha256=digest))], MEMBERS).vouching
    assert MOST_MODEL_BYTES == MOST_BYTES


@pytest.mark.parametrize(
    "change",
    [
        {"run": "cd" * 32},
        {"plan": replace(PLAN, receivers=("aurora", "cirrus")), "proposal": None},
        {"identities": {**RUN.identities, "cirrus": IDENTITIES["stranger"].public}},
    ],
    ids=["run", "plan", "members"],
)
def test_members_that_say_something_else_are_found(tmp_path, change):
    statements = [statement(tmp_path, "aurora"), statement(tmp_path, "borealis", replace(RUN, **change))]
    with pytest.raises(PlanError, match="'borealis' says another plan, run or members of this model than 'aurora'"):
        verify_model(model(tmp_path), statements, MEMBERS)


def test_a_statement_is_of_who_signed_it(tmp_path):
    path = statement(tmp_path, "aurora")
    document = json.loads(path.read_text())
    payload = json.loads(base64.b64decode(document["payload"]))
    payload["predicate"]["member"] = "borealis"
    text = json.dumps(payload, sort_keys=True, separators=(",", ":"))
    document["payload"] = base64.b64encode(text.encode()).decode()
    path.write_text(json.dumps(document))
    with pytest.raises(HansaError, match="no member with a role"):
        verify_model(model(tmp_path), [path], MEMBERS)
    document["signatures"] = []
    path.write_text(json.dumps(document))
    with pytest.raises(IdentityError, match="is not signed by 'borealis'"):
        verify_model(model(tmp_path), [path], MEMBERS)


def test_who_is_not_in_the_members_file_vouches_for_nothing(tmp_path):
    path = statement(tmp_path, "aurora")
    others = [own.card() for name, own in IDENTITIES.items() if name != "aurora"]
    with pytest.raises(IdentityError, match="not in the members file"):
        verify_model(model(tmp_path), [path], members_of(others))
    with pytest.raises(IdentityError, match="another identity of 'aurora'"):
        verify_model(model(tmp_path), [path], members_of([*others, create_identity("aurora").card()]))
    stranger = statement(tmp_path, "stranger")
    with pytest.raises(IdentityError, match="'stranger' has no role"):
        verify_model(model(tmp_path), [stranger], MEMBERS)


def test_approvals_of_another_plan_are_found(tmp_path):
    other = approved(replace(PLAN, name="other"))
    path = statement(tmp_path, "aurora", replace(RUN, proposal=other))
    with pytest.raises(PlanError, match="approvals in it are of another plan"):
        verify_model(model(tmp_path), [path], MEMBERS)


@pytest.mark.parametrize(
    ("plan", "identities"),
    [
        ({"name": "other"}, {}),
        ({"mode": "coopetitive"}, {}),
        ({"parties": ("aurora", "borealis")}, {}),
        ({"receivers": ("aurora", "borealis", "cirrus", "hub")}, {}),
        ({}, {"cirrus": IDENTITIES["stranger"].public}),
    ],
    ids=["name", "mode", "parties", "receivers", "members"],
)
def test_a_statement_says_of_the_plan_what_its_members_approved(tmp_path, plan, identities):
    """The digest of a plan that all signed, and beside it another mode, or others who took part."""
    told = {name: getattr(PLAN, name) for name in ("name", "mode", "parties", "receivers")} | plan
    lie = SimpleNamespace(digest=PLAN.digest, **told)
    path = statement(tmp_path, "aurora", replace(RUN, plan=lie, identities={**RUN.identities, **identities}))
    with pytest.raises(PlanError, match=r"'aurora' says another .* than the plan that members approved"):
        verify_model(model(tmp_path), [path], MEMBERS)


def test_one_statement_of_each_member(tmp_path):
    path = statement(tmp_path, "aurora")
    with pytest.raises(PlanError, match="second statement of 'aurora'"):
        verify_model(model(tmp_path), [path, path], MEMBERS)
    with pytest.raises(PlanError, match="no statement"):
        verify_model(model(tmp_path), [], MEMBERS)


def consortium() -> Consortium:
    """A file that all with a role signed."""
    made = found("nordic", [IDENTITIES[name].card() for name in WITH_A_ROLE], IDENTITIES["hub"])
    for name in WITH_A_ROLE:
        made = signed(made, IDENTITIES[name])
    return made


def pinned(tmp_path, made: Consortium):
    write_consortium(tmp_path / "consortium.json", made)
    return read_pinned(tmp_path / "consortium.json")


def test_a_key_that_was_rotated_since_still_vouches(tmp_path):
    new = create_identity("aurora")
    members = pinned(tmp_path, rotated(consortium(), new, [IDENTITIES["aurora"], new]))
    statements = [statement(tmp_path, name) for name in ("aurora", "hub")]
    shown = verify_model(model(tmp_path), statements, members)
    assert set(shown.vouching) == {"aurora", "hub"}
    assert shown.approved_by == tuple(sorted(WITH_A_ROLE))
    assert shown.revoked_since == ()


def test_a_revoked_key_vouches_for_nothing_whatever_date_it_writes(tmp_path):
    members = pinned(tmp_path, revoked(consortium(), "aurora", "stolen", IDENTITIES["aurora"]))
    with pytest.raises(IdentityError, match=r"revoked in version 2 of the consortium's file \(stolen\)") as caught:
        verify_model(model(tmp_path), [statement(tmp_path, "aurora")], members)
    assert (caught.value.member, caught.value.rule) == ("aurora", "no key with a role was revoked")
    shown = verify_model(model(tmp_path), [statement(tmp_path, "hub")], members)
    assert shown.revoked_since == ("aurora",)
    assert "aurora: its key of that time was revoked since" in shown.lines()


def test_a_former_key_that_was_revoked_vouches_for_nothing_either(tmp_path):
    new = create_identity("aurora")
    turned = rotated(consortium(), new, [IDENTITIES["aurora"], new])
    members = pinned(tmp_path, revoked(turned, "aurora", "disk sold", new, key=IDENTITIES["aurora"].public))
    with pytest.raises(IdentityError, match="disk sold"):
        verify_model(model(tmp_path), [statement(tmp_path, "aurora")], members)
    other = replace(RUN, identities={**RUN.identities, "aurora": create_identity("aurora").public}, proposal=None)
    with pytest.raises(IdentityError, match="names another identity of 'aurora'"):
        verify_model(model(tmp_path), [statement(tmp_path, "aurora", other)], members)
