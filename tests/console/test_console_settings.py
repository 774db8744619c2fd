"""Settings, Consortium and new plans: what a policy would have refused, how it is saved, invitations, and drafts."""

from __future__ import annotations

import tomllib
from pathlib import Path

import msgspec
import pytest

from hansa.console.policy import MEANINGS, policy_of, with_table
from hansa.consortium.policy import Policy
from hansa.consortium.words import words_of
from hansa.service.config import read_service_file
from made_console import Desk, send
from made_consortium import HUB, PARTIES, PLAN, hansa, make_consortium
from made_services import approved


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_consortium(tmp_path)


def form_of(desk: Desk, **changes: str) -> dict[str, str]:
    """The policy of a console's member as its form has it."""
    (shown,) = desk.signed_in().get("/api/settings").json()["policies"]
    return {rule["key"]: rule["value"] for rule in shown["rules"]} | {"shown": shown["shown"]} | changes


def test_every_rule_of_a_policy_has_a_line_and_comes_back_from_its_form():
    assert set(MEANINGS) == set(msgspec.structs.asdict(Policy()))
    policy = policy_of(
        {
            "least_mode": "secure-aggregation",
            "allow_two_parties": "yes",
            "receivers": "aurora, borealis",
            "most_rounds": "20",
            "least_min_child_weight": "1.5",
            "functions": "ab" * 32,
        }
    )
    assert policy == Policy(
        least_mode="secure-aggregation",
        allow_two_parties=True,
        receivers=("aurora", "borealis"),
        most_rounds=20,
        least_min_child_weight=1.5,
        functions=("ab" * 32,),
    )


def test_a_policy_is_tried_on_known_plans_and_saved(folder: Path):
    desk = Desk(folder)
    client = desk.signed_in()
    send(client, "/plans/bring", approved(folder, PLAN).read_bytes())
    path = desk.member.service.path
    path.write_text("# kept\n" + path.read_text() + "\n# kept too\n")
    values = form_of(desk, most_rounds="2")
    tried = client.get("/settings", params={"try": "only", **values}).text
    assert "would have refused 1 of 1 plans" in tried
    assert "rounds 3 (allowed: at most 2)" in tried
    assert read_service_file(path, open_keys=False).consortia[0].policy.most_rounds is None
    assert send(desk.signed_in("operator"), "/settings/policy", **values).status_code == 403
    answer = send(client, "/settings/policy", **values)
    assert answer.status_code == 303, answer.text
    assert read_service_file(path).consortia[0].policy == Policy(
        allow_two_parties=True, least_party_rows=0, most_rounds=2
    )
    assert "# kept\n" in path.read_text()
    assert desk.last() == ("officer-1", "settings policy", True)
    assert "most_rounds = 2" in client.get("/settings").text
    assert "not met" in client.get(f"/plans/{client.get('/api/plans').json()['plans'][0]['proposal']['proposal']}").text


def test_a_value_that_is_no_policy_is_refused_by_key(folder: Path):
    desk = Desk(folder)
    client = desk.signed_in()
    for changes, words in (
        ({"most_rounds": "many"}, "most_rounds is"),
        ({"most_rounds": "0"}, "most_rounds"),
        ({"least_mode": "none"}, "least_mode"),
        ({"plans": "abc"}, "plans"),
    ):
        values = form_of(desk, **changes)
        shown = client.get("/api/settings", params={"try": "only", **values}).json()["policies"][0]
        assert words in shown["fault"]
        assert words in send(client, "/settings/policy", **values).text


@pytest.mark.parametrize(
    ("text", "table", "expected"),
    [
        ('a = 1\n', "policy", {"a": 1, "policy": {"most_rounds": 2}}),
        ('a = 1\n[policy]\nx = 1\ny = 2\n', "policy", {"a": 1, "policy": {"most_rounds": 2}}),
        ('a = 1\n[policy] # why\nx = 1\n[[sources]]\nb = 1\n', "policy", {"a": 1, "policy": {"most_rounds": 2}, "sources": [{"b": 1}]}),
        ('[consortia.n]\na = 1\n', "consortia.n.policy", {"consortia": {"n": {"a": 1, "policy": {"most_rounds": 2}}}}),
    ],
)  # fmt: skip
def test_a_table_is_put_in_place_and_the_rest_stays(text: str, table: str, expected: dict[str, object]):
    assert tomllib.loads(with_table(text, table, Policy(most_rounds=2))) == expected


def test_a_policy_that_is_written_inline_is_left_to_an_editor(folder: Path):
    desk = Desk(folder)
    path = desk.member.service.path
    head, _, _ = path.read_text().partition("[policy]")
    path.write_text("policy = { allow_two_parties = true, least_party_rows = 0 }\n" + head.replace("policy", "xpolicy"))
    before = path.read_text()
    answer = send(desk.signed_in(), "/settings/policy", **form_of(desk, most_rounds="2"))
    assert "in a way that this page does not change" in answer.text
    assert path.read_text() == before


def test_members_are_shown_with_the_words_that_people_compare(folder: Path):
    desk = Desk(folder)
    shown = desk.signed_in("viewer").get("/api/consortium").json()["consortia"][0]
    members = desk.member.service.consortia[0].members
    assert {each["name"]: each["words"] for each in shown["members"]} == {
        name: words_of(card.identity) for name, card in members.items()
    }
    assert "compare every fingerprint by telephone" in desk.signed_in("viewer").get("/consortium").text
    assert "is a members file, which nobody signs" in send(desk.signed_in(), "/consortium/invite", name="dora").text


def test_a_member_is_invited_and_the_code_is_told_once(folder: Path):
    signed = folder / "consortium.json"
    cards = [folder / f"{name}.identity" / "card.toml" for name in (HUB, "borealis")]
    found = hansa("consortium", "create", "north", *cards, "--identity", folder / "aurora.identity", "--save", signed)
    assert found.exit_code == 0, found.output
    for name in (HUB, "borealis"):
        done = hansa("consortium", "sign", "--consortium", signed, "--identity", folder / f"{name}.identity")
        assert done.exit_code == 0, done.output
    desk = Desk(folder, members="consortium.json")
    client = desk.signed_in()
    assert "All members signed this file" in client.get("/consortium").text
    assert send(client, "/consortium/invite", name="dora", days="7").status_code == 303
    page = client.get("/consortium").text
    code = page.partition("shown this once: ")[2].partition("<")[0]
    assert len(code.split()) == 6
    assert code not in client.get("/consortium").text
    assert code not in client.get("/actions").text
    invitation = client.get("/consortium/invitations/dora")
    (folder / "invitation.json").write_bytes(invitation.content)
    assert invitation.status_code == 200
    assert client.get("/consortium/invitations/emil").status_code == 404
    assert client.get("/consortium/invitations/..%2f..%2fx").status_code == 404


def test_a_plan_is_written_from_a_table_changed_and_proposed(folder: Path):
    desk = Desk(folder)
    client = desk.signed_in()
    form = client.get("/new-plan").text
    for words in ("aurora.csv", "secure-aggregation", *PARTIES, HUB):
        assert words in form
    fields = {
        "name": "cells",
        "source": "0",
        "label": "fault",
        "mode": "federated",
        "hub": HUB,
        "objective": "binary:logistic",
        "rounds": "5",
    }
    assert "no column" in send(client, "/new-plan/write", **fields | {"label": "nothing"}).text
    assert "cannot name a plan" in send(client, "/new-plan/write", **fields | {"name": "../x"}).text
    assert "choose a table" in send(client, "/new-plan/write", **fields | {"source": "9"}).text
    assert send(client, "/new-plan/write", **fields).status_code == 303
    draft = client.get("/api/drafts/cells").json()
    assert (draft["fault"], draft["mode"]) == ("", "federated")
    assert 'label = "fault"' in draft["text"]
    broken = draft["text"].replace("rounds = 5", "rounds = 0")
    assert send(client, "/drafts/cells/save", text=broken).status_code == 303
    assert "This is no plan yet" in client.get("/drafts/cells").text
    assert send(client, "/drafts/cells/propose", days="7").status_code == 422
    changed = draft["text"].replace("rounds = 5", "rounds = 6\r\nmax_depth = 2")
    assert send(client, "/drafts/cells/save", text=changed).status_code == 303
    assert send(desk.signed_in("operator"), "/drafts/cells/propose", days="7").status_code == 403
    answer = send(client, "/drafts/cells/propose", days="7")
    assert answer.status_code == 303, answer.text
    page = client.get(answer.headers["location"]).text
    assert "proposed by aurora" in page
    assert "still to approve: borealis, hub" in page or "still to approve: hub, borealis" in page
    assert send(client, "/drafts/cells/take-away").status_code == 303
    assert client.get("/drafts/cells").status_code == 404


def test_a_draft_has_the_objective_that_the_label_looks_like_and_says_so(folder: Path):
    client = Desk(folder).signed_in("operator")
    page = client.get("/new-plan").text
    assert '<option value="">what the label looks like</option>' in page
    assert 'name="union"' in page
    fields = {"source": "0", "label": "fault", "mode": "federated", "hub": HUB, "rounds": "5", "objective": ""}
    for name, ticked in (("cells", {}), ("cells-2", {"union": "yes"})):
        written = send(client, "/new-plan/write", name=name, **fields, **ticked)
        assert written.status_code == 303
        assert "the objective is binary:logistic" in client.get(written.headers["location"]).text
        draft = client.get(f"/api/drafts/{name}").json()
        assert (draft["fault"], 'objective = "binary:logistic"' in draft["text"]) == ("", True)


def test_a_draft_that_was_changed_in_another_tab_is_neither_proposed_nor_written_over(folder: Path):
    """An officer reads a draft; an operator changes it; what the officer sends then signs nothing."""
    desk = Desk(folder)
    officer, operator = desk.signed_in(), desk.signed_in("operator")
    fields = {"name": "cells", "source": "0", "label": "fault", "mode": "secure-aggregation", "hub": HUB}
    assert send(operator, "/new-plan/write", objective="binary:logistic", rounds="5", **fields).status_code == 303
    read = officer.get("/api/drafts/cells").json()
    assert f'name="shown" value="{read["shown"]}"' in officer.get("/drafts/cells").text
    other = read["text"].replace("secure-aggregation", "federated")
    assert send(operator, "/drafts/cells/save", text=other).status_code == 303
    for stale in (read["shown"], ""):
        refused = send(officer, "/drafts/cells/propose", days="7", shown=stale)
        assert (refused.status_code, "was changed since this page was loaded" in refused.text) == (422, True)
        assert send(officer, "/drafts/cells/save", text="mine", shown=stale).status_code == 422
    assert officer.get("/api/plans").json()["plans"] == []
    assert officer.get("/api/drafts/cells").json()["text"] == other
    assert send(officer, "/drafts/cells/propose", days="7").status_code == 303


def test_a_policy_that_another_officer_saved_is_not_put_back(folder: Path):
    """One officer loads Settings; another demands a stronger mode; what the first one saves then would take that back."""
    desk = Desk(folder)
    first, second = desk.signed_in(), desk.signed_in("officer", "officer-2")
    (loaded,) = first.get("/api/settings").json()["policies"]
    values = form_of(desk, most_rounds="50")
    assert send(second, "/settings/policy", **form_of(desk, least_mode="coopetitive")).status_code == 303
    tried = first.get("/settings", params={"try": "only", **values}).text
    assert "the policy was changed since this page was loaded" in tried
    assert "Save this policy" not in tried
    for stale in (loaded["shown"], ""):
        refused = send(first, "/settings/policy", **{**values, "shown": stale})
        assert (refused.status_code, "was changed since" in refused.text) == (422, True)
    held = read_service_file(desk.member.service.path, open_keys=False).consortia[0].policy
    assert (held.least_mode, held.most_rounds) == ("coopetitive", None)
