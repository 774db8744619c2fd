"""Proposals at two consoles: brought, read, approved, rejected, given to the service; and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from hansa.console.plans import LEARNS
from hansa.consortium.approvals import approve, propose, read_proposal
from hansa.consortium.envelopes import written
from hansa.consortium.identity import load_identity, save_identity
from hansa.consortium.versions import read_pinned
from hansa.plan import parse_plan
from made_console import Desk, send
from made_consortium import HUB, PLAN, hansa, make_consortium
from made_services import approved

MASKED = PLAN.replace("federated", "secure-aggregation").replace(
    "min_cell_rows = 2", "min_cell_rows = 2\nmin_party_rows = 0"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_consortium(tmp_path_factory.mktemp("consortium"))


def desk_of(folder: Path, name: str, tmp_path: Path, **changes: object) -> Desk:
    return Desk(folder, name, state=str(tmp_path / f"{name}-state"), **changes)


def proposed(folder: Path, text: str = PLAN) -> bytes:
    """The file of a proposal by the hub."""
    made = propose(
        parse_plan(text, "the plan"), read_pinned(folder / "members.toml"), load_identity(folder / f"{HUB}.identity")
    )
    return written(made.envelope)


def digest_at(answer: object) -> str:
    """The proposal of the page that an answer leads to."""
    return str(answer.headers["location"]).rpartition("/")[2]  # type: ignore[attr-defined]


def test_two_officers_approve_a_plan_and_give_it_to_their_services(folder: Path, tmp_path: Path):
    aurora, borealis = (desk_of(folder, name, tmp_path) for name in ("aurora", "borealis"))
    first, second = aurora.signed_in(), borealis.signed_in()
    answer = send(first, "/plans/bring", proposed(folder))
    assert answer.status_code == 303, answer.text
    digest = digest_at(answer)
    page = first.get(f"/plans/{digest}").text
    for words in ("still to approve: aurora, borealis", "each party&#39;s sums; the model", "least_mode", "Approve"):
        assert words in page
    assert "read it, and approve or reject it" in first.get("/").text
    assert "all have approved" not in page
    approved_here = send(first, f"/plans/{digest}/approve")
    assert approved_here.status_code == 303, approved_here.text
    assert aurora.last() == ("officer-1", "plans approve", True)
    assert "has approved this plan already" in send(first, f"/plans/{digest}/approve").text
    assert "did not approve this plan" in send(first, f"/plans/{digest}/give").text
    saved = first.get(f"/plans/{digest}/file")
    assert re.fullmatch(r'attachment; filename="test-[0-9a-f]{8}\.json"', saved.headers["content-disposition"])
    assert send(second, "/plans/bring", saved.content).status_code == 303
    assert send(second, f"/plans/{digest}/approve").status_code == 303
    assert send(second, f"/plans/{digest}/give").status_code == 303
    whole = second.get(f"/plans/{digest}/file").content
    assert read_proposal(borealis.member.service.plans / f"{digest[:16]}.json").missing == ()
    assert send(first, "/plans/bring", whole).status_code == 303
    assert "give it to the service" in first.get("/").text
    assert send(first, f"/plans/{digest}/give").status_code == 303
    assert [path.name for path in aurora.member.service.plans.glob("*.json")] == [f"{digest[:16]}.json"]


def test_a_viewer_and_an_operator_cannot_approve(folder: Path, tmp_path: Path):
    desk = desk_of(folder, "aurora", tmp_path)
    digest = digest_at(send(desk.signed_in("operator"), "/plans/bring", proposed(folder)))
    for role in ("viewer", "operator"):
        client = desk.signed_in(role)  # type: ignore[arg-type]
        page = client.get(f"/plans/{digest}").text
        assert "/approve" not in page
        assert "/reject" not in page
        answer = send(client, f"/plans/{digest}/approve")
        assert answer.status_code == 403
        assert desk.last() == (f"{role}-1", "plans approve", False)
    assert send(desk.signed_in("viewer"), "/plans/bring", proposed(folder)).status_code == 403
    assert (
        "aurora"
        not in read_proposal(desk.member.proposals(desk.member.service.consortia[0]) / f"{digest}.json").signatures
    )


def test_a_file_that_was_changed_is_refused(folder: Path, tmp_path: Path):
    import base64

    desk = desk_of(folder, "aurora", tmp_path)
    client = desk.signed_in()
    envelope = json.loads(proposed(folder))
    payload = base64.b64decode(envelope["payload"])
    plan = payload.replace(b"rounds = 3", b"rounds = 4")
    assert plan != payload
    envelope["payload"] = base64.b64encode(plan).decode()
    answer = send(client, "/plans/bring", json.dumps(envelope).encode())
    assert answer.status_code == 422
    assert "names another plan than the one that it holds" in answer.text
    assert desk.last() == ("officer-1", "plans bring", False)
    digest = json.loads(payload)["subject"][0]["digest"]["sha256"]
    other = parse_plan(PLAN.replace("rounds = 3", "rounds = 4"), "x").digest().hex()
    envelope["payload"] = base64.b64encode(plan.replace(digest.encode(), other.encode())).decode()
    answer = send(client, "/plans/bring", json.dumps(envelope).encode())
    assert "the file was changed after it was signed" in answer.text
    for odd in (b"", b"{}", b"\xff" * 1000, b"[" * 100_000):
        assert send(client, "/plans/bring", odd).status_code == 422
    assert client.get("/api/plans").json() == {"plans": [], "refused": []}


def test_a_plan_that_the_policy_refuses_is_not_signed(folder: Path, tmp_path: Path):
    desk = desk_of(folder, "aurora", tmp_path, policy={"least_mode": "secure-aggregation"})
    client = desk.signed_in()
    digest = digest_at(send(client, "/plans/bring", proposed(folder)))
    page = client.get(f"/plans/{digest}").text
    assert "not met" in page
    assert "cannot be approved here" in page
    answer = send(client, f"/plans/{digest}/approve")
    assert answer.status_code == 422
    assert "does not allow this plan" in answer.text
    assert "least_mode" in answer.text


def test_a_rejection_is_signed_goes_to_the_others_and_ends_the_plan(folder: Path, tmp_path: Path):
    aurora = desk_of(folder, "aurora", tmp_path)
    borealis = desk_of(folder, "borealis", tmp_path, withdrawals=str(tmp_path / "withdrawals"))
    first, second = aurora.signed_in(), borealis.signed_in()
    file = proposed(folder)
    digest = digest_at(send(first, "/plans/bring", file))
    send(second, "/plans/bring", file)
    send(second, f"/plans/{digest}/approve")
    refused = send(first, f"/plans/{digest}/reject", reason=" ").text
    assert "give a reason" in refused
    assert "what you typed is still there" in refused
    assert send(first, f"/plans/{digest}/reject", reason="too <many> rounds").status_code == 303
    page = first.get(f"/plans/{digest}").text
    assert "too &lt;many&gt; rounds" in page
    sent = first.get(f"/plans/{digest}/rejections/aurora")
    assert sent.status_code == 200
    assert first.get(f"/plans/{digest}/rejections/borealis").status_code == 404
    assert send(second, "/plans/bring", sent.content).status_code == 303
    assert (tmp_path / "withdrawals" / f"{digest}-aurora.json").exists()
    assert "a member rejected this plan" in send(second, f"/plans/{digest}/approve").text
    # Who approved it has something to do; who rejected it has not.
    (task,) = second.get("/api/home").json()["tasks"]
    assert task == {
        "text": "test: aurora does not approve it; read why, and take it away",
        "page": f"/plans/{digest}",
    }
    assert first.get("/api/home").json()["tasks"] == []
    changed = sent.content.replace(b'"sig": "', b'"sig": "AAAA')
    assert send(second, "/plans/bring", changed).status_code == 422
    assert send(first, f"/plans/{digest}/take-away").status_code == 303
    assert first.get(f"/plans/{digest}").status_code == 404
    assert first.get("/api/plans").json()["plans"] == []


def test_an_approval_is_taken_back(folder: Path, tmp_path: Path):
    desk = desk_of(folder, "aurora", tmp_path)
    client = desk.signed_in()
    digest = digest_at(send(client, "/plans/bring", approved(folder, PLAN, "whole").read_bytes()))
    assert send(client, f"/plans/{digest}/reject", reason="a mistake").status_code == 303
    assert "the approval is taken back" in client.get("/").text
    assert "does not approve this plan any more" in send(client, f"/plans/{digest}/give").text


def test_encrypted_keys_ask_for_their_passphrase_and_keep_none(folder: Path, tmp_path: Path, monkeypatch):
    monkeypatch.delenv("HANSA_PASSPHRASE", raising=False)
    secret = "planted-passphrase-1234"
    save_identity(load_identity(folder / "aurora.identity"), tmp_path / "encrypted", secret.encode())
    desk = desk_of(folder, "aurora", tmp_path, identity=str(tmp_path / "encrypted"))
    client = desk.signed_in()
    digest = digest_at(send(client, "/plans/bring", proposed(folder)))
    assert "Passphrase of aurora" in client.get(f"/plans/{digest}").text
    assert "type their passphrase" in send(client, f"/plans/{digest}/approve").text
    wrong = send(client, f"/plans/{digest}/approve", passphrase="not-this-passphrase")
    assert "does not open this key" in wrong.text
    assert "not-this-passphrase" not in wrong.text
    assert send(client, f"/plans/{digest}/approve", passphrase=secret).status_code == 303
    for path in (tmp_path / "aurora-state").rglob("*"):
        if path.is_file():
            assert secret.encode() not in path.read_bytes(), path


def test_what_differs_from_the_last_plan_is_shown(folder: Path, tmp_path: Path):
    desk = desk_of(folder, "aurora", tmp_path)
    client = desk.signed_in()
    before = approved(folder, PLAN.replace("rounds = 3", "rounds = 7"), "before")
    run = read_proposal(before).digest.hex()
    (desk.member.service.runs / run[:16]).mkdir(parents=True)
    (desk.member.service.runs / run[:16] / "plan.json").write_bytes(before.read_bytes())
    desk.put(run=run[:16], proposal=run, plan="test", folder=run[:16], state="finished")
    digest = digest_at(send(client, "/plans/bring", proposed(folder)))
    changes = client.get(f"/api/plans/{digest}").json()["review"]["changes"]
    assert changes == [{"key": "parameters.rounds", "before": 7, "after": 3}]
    assert "<td>7</td><td>3</td>" in client.get(f"/plans/{digest}").text
    # Lists and truth values are told in a plan's words, and not in Python's.
    other = PLAN.replace('"borealis"]\n', '"borealis"]\nreceivers = ["aurora"]\n').replace(
        "[privacy]", "[release]\nstatistics = false\n\n[privacy]"
    )
    assert "receivers" in other
    digest = digest_at(send(client, "/plans/bring", proposed(folder, other)))
    page = client.get(f"/plans/{digest}").text
    for cells in ("<td>aurora, borealis</td><td>aurora</td>", "<td>true</td><td>false</td>"):
        assert cells in page


def test_a_run_that_failed_waits_for_somebody_until_its_plan_is_taken_away(folder: Path, tmp_path: Path):
    desk = desk_of(folder, "aurora", tmp_path)
    client = desk.signed_in()
    digest = digest_at(send(client, "/plans/bring", approved(folder, PLAN, "failing").read_bytes()))
    for state, waits in (("running", False), ("failed", True), ("refused", True), ("finished", False), ("lost", True)):
        desk.put(run=digest[:16], proposal=digest, plan="test", state=state)
        tasks = client.get("/api/home").json()["tasks"]
        told = {"text": f"test: its run ended, {state}; read why", "page": f"/runs/{digest[:16]}"}
        assert tasks == ([told] if waits else [])
    assert "read why" in client.get("/").text
    assert send(client, f"/plans/{digest}/take-away").status_code == 303
    assert client.get("/api/home").json()["tasks"] == []


def test_another_consortiums_proposal_is_refused(folder: Path, tmp_path: Path):
    others = make_consortium(tmp_path / "others") if (tmp_path / "others").mkdir() is None else folder
    answer = send(desk_of(folder, "aurora", tmp_path).signed_in(), "/plans/bring", proposed(others))
    assert "names other identities than" in answer.text


def test_who_learns_what_is_told_in_the_words_of_the_security_page():
    page = (Path(__file__).parents[2] / "SECURITY.md").read_text()
    table = page.partition("## What each mode shows to whom")[2].partition("\n## ")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line.startswith("| ")
    ]
    modes = [cell.strip("`") for cell in rows[0][1:]]
    written_there = {
        mode: tuple((row[0], row[place]) for row in rows[1:] if row[0] != "`--describe`")
        for place, mode in enumerate(modes, 1)
    }
    assert written_there == LEARNS


def test_a_plan_of_the_protected_mode_is_approved_as_well(folder: Path, tmp_path: Path):
    made = propose(
        parse_plan(MASKED, "x"), read_pinned(folder / "members.toml"), load_identity(folder / f"{HUB}.identity")
    )
    signed = approve(made, load_identity(folder / "borealis.identity"))
    client = desk_of(folder, "aurora", tmp_path).signed_in()
    digest = digest_at(send(client, "/plans/bring", written(signed.envelope)))
    assert send(client, f"/plans/{digest}/approve").status_code == 303
    assert "all have approved it" in client.get(f"/plans/{digest}").text


def test_the_command_lists_a_services_plans_as_the_console_does(folder: Path, tmp_path: Path):
    """Of a proposal that waits, one that is rejected, one that became a run, and a file that does not hold."""
    aurora = desk_of(folder, "aurora", tmp_path)
    client, service = aurora.signed_in(), str(aurora.member.service.path)
    assert hansa("plan", "list", "--service", service).stdout.strip() == "no plan"
    texts = [PLAN.replace('name = "test"', f'name = "{name}"') for name in ("waits", "no", "runs")]
    waits, no, runs = (digest_at(send(client, "/plans/bring", proposed(folder, text))) for text in texts)
    assert send(client, f"/plans/{no}/reject", reason="too many trees").status_code == 303
    signed = read_proposal(
        aurora.member.service.proposals_of(aurora.member.service.consortia[0]) / f"{runs}.json", None
    )
    for name in ("aurora", "borealis"):
        signed = approve(signed, load_identity(folder / f"{name}.identity"))
    send(client, "/plans/bring", written(signed.envelope))
    assert "all have approved" in client.get("/").text
    kept = aurora.member.service.proposals_of(aurora.member.service.consortia[0])
    forged = json.loads((kept / f"{waits}.json").read_text())
    forged["signatures"][0]["sig"] = forged["signatures"][0]["sig"][::-1]
    (kept / "forged.json").write_text(json.dumps(forged))
    told = json.loads(hansa("plan", "list", "--service", service, "--json").stdout)
    assert told == client.get("/api/plans").json()
    assert {each["proposal"]["name"]: each["mine"] for each in told["plans"]} == {
        "waits": "waits", "no": "rejected", "runs": "approved",
    }  # fmt: skip
    shown = hansa("plan", "list", "--service", service).stdout
    for words in ("REFUSED", "forged.json", "rejected by aurora", "approved; give", "waits for this member"):
        assert words in shown, shown
    aurora.put(run=runs[:16], plan="runs", state="running")
    assert f"run {runs[:16]}" in hansa("plan", "list", "--service", service).stdout


@pytest.mark.parametrize(
    "given", [(), ("--members", "members.toml", "--service", "aurora.toml"), (".", "--service", "aurora.toml")]
)
def test_a_list_is_of_a_folder_or_of_a_service(folder: Path, monkeypatch: pytest.MonkeyPatch, given: tuple[str, ...]):
    monkeypatch.chdir(folder)
    (folder / "aurora.toml").touch()
    refused = hansa("plan", "list", *given)
    assert refused.exit_code == 2
    assert "--service alone for those of a service" in " ".join(refused.stderr.split())
