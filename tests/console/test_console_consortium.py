"""Members and keys are changed from the pages: by officers, signed by whom the change needs, and never half of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from hansa.consortium.approvals import approve, propose
from hansa.consortium.envelopes import written
from hansa.consortium.identity import load_identity
from hansa.consortium.versions import read_consortium, read_pinned, revoked, signed, write_consortium
from hansa.plan import parse_plan
from made_console import Desk, send
from made_consortium import HUB, PLAN, hansa, make_consortium

NAMES = (HUB, "aurora", "borealis")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A consortium whose file all members signed, a copy of it at each; cirrus has keys, and is no member."""
    folder = make_consortium(tmp_path)
    cards = [folder / f"{name}.identity" / "card.toml" for name in NAMES[1:]]
    whole = folder / "consortium.json"
    done(hansa("consortium", "create", "nordic", *cards, "--identity", folder / f"{HUB}.identity", "--save", whole))
    for name in NAMES[1:]:
        done(hansa("consortium", "sign", "--consortium", whole, "--identity", folder / f"{name}.identity"))
    for name in NAMES:
        (folder / f"{name}.json").write_bytes(whole.read_bytes())
    done(hansa("init", "--no-passphrase", "cirrus", "--folder", folder / "cirrus.identity"))
    return folder


def done(result: Any) -> str:
    assert result.exit_code == 0, result.output
    return str(result.output)


def desk(folder: Path, name: str, tmp_path: Path) -> Desk:
    return Desk(folder, name, members=f"{name}.json", state=str(tmp_path / f"state-{name}"))


def shown(client: TestClient) -> dict[str, Any]:
    (own,) = client.get("/api/consortium").json()["consortia"]
    return dict(own)


def did(answer: Any, client: TestClient, *fragments: str) -> None:
    """It was done, and says who is next."""
    assert answer.status_code == 303, answer.text
    text = client.get("/consortium").text
    for fragment in fragments:
        assert fragment in text, text


def refused(answer: Any, fragment: str, status: int = 422) -> None:
    assert answer.status_code == status, answer.text
    assert fragment in answer.text.replace("&#39;", "'"), answer.text


def carried(client: TestClient, to: TestClient) -> Any:
    """One member's file is brought at another."""
    return send(to, "/consortium/bring", client.get("/consortium/only/file").content, consortium="")


def test_a_member_is_invited_added_and_signed_by_all(folder: Path, tmp_path: Path):
    desks = {name: desk(folder, name, tmp_path) for name in NAMES}
    clients = {name: own.signed_in() for name, own in desks.items()}
    aurora = clients["aurora"]
    invited = send(aurora, "/consortium/invite", consortium="", name="cirrus", days="7")
    assert invited.status_code == 303
    code = aurora.get("/consortium").text.partition("shown this once: ")[2].partition("<")[0].strip()
    invitation, answer = tmp_path / "invitation.json", tmp_path / "answer.json"
    invitation.write_bytes(aurora.get("/consortium/invitations/cirrus").content)
    identity = ("--identity", folder / "cirrus.identity")
    done(hansa("consortium", "join", invitation, *identity, "--code", code, "--save", answer))

    refused(
        send(clients["borealis"], "/consortium/add", answer.read_bytes(), consortium=""), "only that member can take it"
    )
    before = (folder / "aurora.json").read_bytes()
    added = send(aurora, "/consortium/add", answer.read_bytes(), consortium="")
    did(added, aurora, "cirrus is to be a member", "still to sign: borealis, cirrus, hub", "A change is under way")
    assert desks["aurora"].last() == ("officer-1", "consortium add", True)
    assert (folder / "aurora.json").read_bytes() == before, "a file that lacks a signature is read by nobody"
    change = shown(aurora)["change"]
    assert (change["kind"], change["members"], change["signs"]) == ("added", ["cirrus"], False)
    assert [own["name"] for own in change["cards"]] == ["cirrus"]
    refused(
        send(aurora, "/consortium/add", answer.read_bytes(), consortium=""), "a change of members or keys is under way"
    )

    # The others read, compare and sign; one copy goes from one to the next, and comes back.
    did(carried(aurora, clients["borealis"]), clients["borealis"], "A change is under way", "Sign the change")
    refused(send(clients["borealis"], "/consortium/sign", consortium=""), "tick that you are sure")
    signed = send(clients["borealis"], "/consortium/sign", consortium="", sure="yes")
    did(signed, clients["borealis"], "still to sign: cirrus, hub")
    copy = tmp_path / "copy.json"
    copy.write_bytes(clients["borealis"].get("/consortium/only/file").content)
    done(hansa("consortium", "sign", "--consortium", copy, *identity))
    did(send(clients[HUB], "/consortium/bring", copy.read_bytes(), consortium=""), clients[HUB], "still to sign: hub")
    last = send(clients[HUB], "/consortium/sign", consortium="", sure="yes")
    did(last, clients[HUB], "all that must have signed", "The service takes it now")
    assert "cirrus" in read_pinned(folder / f"{HUB}.json")
    for name in ("aurora", "borealis"):
        did(carried(clients[HUB], clients[name]), clients[name], "all that must have signed")
        assert read_pinned(folder / f"{name}.json") == read_pinned(folder / f"{HUB}.json")
        assert shown(clients[name])["change"] is None
        assert "cirrus" in [own["name"] for own in shown(clients[name])["members"]]
    refused(carried(clients[HUB], aurora), "no version and no signature that is not here")


def test_a_member_is_removed_and_a_key_revoked(folder: Path, tmp_path: Path):
    aurora, hub = (desk(folder, name, tmp_path).signed_in() for name in ("aurora", HUB))
    refused(send(aurora, "/consortium/remove", consortium="", member="borealis"), "tick that you are sure")
    did(
        send(aurora, "/consortium/remove", consortium="", member="borealis", sure="yes"),
        aurora,
        "borealis is to be a member no more; still to sign: hub",
    )
    did(send(aurora, "/consortium/drop", consortium=""), aurora, "the change is dropped here")
    assert shown(aurora)["change"] is None
    refused(send(aurora, "/consortium/sign", consortium="", sure="yes"), "no change of members or keys", 404)
    refused(send(aurora, "/consortium/drop", consortium=""), "no change of members or keys", 404)
    revoke = {"consortium": "", "member": "borealis", "sure": "yes"}
    refused(send(aurora, "/consortium/revoke", **revoke, reason=""), "a reason has 1 to")
    did(
        send(aurora, "/consortium/revoke", **revoke, reason="its <b>disk</b> was lost"),
        aurora,
        "a key of borealis is to be trusted no more; still to sign: borealis; or hub",
    )
    assert "borealis" in read_pinned(folder / "aurora.json")
    carried(aurora, hub)
    did(send(hub, "/consortium/sign", consortium="", sure="yes"), hub, "all that must have signed")
    carried(hub, aurora)
    for client in (aurora, hub):
        assert [own["member"] for own in shown(client)["revoked"]] == ["borealis"]
        assert "<b>" not in client.get("/consortium").text
    assert "borealis" not in read_pinned(folder / "aurora.json")


@pytest.mark.parametrize("renewed", [False, True])
def test_a_member_takes_other_keys(folder: Path, tmp_path: Path, renewed: bool):
    own = desk(folder, "aurora", tmp_path)
    client = own.signed_in()
    before = read_pinned(folder / "aurora.json")["aurora"]
    rotate = {"consortium": "", "folder": "aurora-2.identity", "sure": "yes"}
    refused(send(client, "/consortium/rotate", **rotate), "holds no other keys of aurora", 404)
    more = ("--renew", folder / "aurora.identity") if renewed else ()
    done(hansa("init", "--no-passphrase", "aurora", "--folder", folder / "aurora-2.identity", *more))
    (offered,) = shown(client)["new_keys"]
    assert (offered["folder"], offered["renewed"]) == ("aurora-2.identity", renewed)
    for other in ("borealis.identity", "..", "aurora.identity", "x", "../" + folder.name + "/aurora-2.identity"):
        refused(send(client, "/consortium/rotate", **{**rotate, "folder": other}), "holds no other keys", 404)
    did(
        send(client, "/consortium/rotate", **rotate),
        client,
        "aurora has other keys: write identity = &#39;aurora-2.identity&#39; into the service&#39;s file",
        "all that must have signed",
    )
    assert own.last() == ("officer-1", "consortium rotate", True)
    now = read_pinned(folder / "aurora.json")["aurora"]
    assert now != before
    assert (now.identity == before.identity) == renewed
    assert read_consortium(folder / "aurora.json").head.change.kind == ("renewed" if renewed else "rotated")
    assert shown(client)["new_keys"] == []


def test_a_former_key_is_revoked_and_its_member_stays(folder: Path, tmp_path: Path):
    client = desk(folder, "aurora", tmp_path).signed_in()
    (former,) = [own["fingerprint"] for own in shown(client)["members"] if own["own"]]
    done(hansa("init", "--no-passphrase", "aurora", "--folder", folder / "aurora-2.identity"))
    send(client, "/consortium/rotate", consortium="", folder="aurora-2.identity", sure="yes")
    revoke = {"consortium": "", "member": "aurora", "key": former, "reason": "it may be known", "sure": "yes"}
    did(send(client, "/consortium/revoke", **revoke), client, "a key of aurora is to be trusted no more")
    assert "aurora" in read_pinned(folder / "aurora.json")
    assert [own["fingerprint"] for own in shown(client)["revoked"]] == [former]
    refused(send(client, "/consortium/revoke", **{**revoke, "key": "nonsense"}), "fingerprint")


@pytest.mark.parametrize("role", ["viewer", "operator"])
def test_a_viewer_and_an_operator_change_nothing(folder: Path, tmp_path: Path, role: Any):
    own = desk(folder, "aurora", tmp_path)
    officer, client = own.signed_in("officer"), own.signed_in(role)
    send(officer, "/consortium/remove", consortium="", member="borealis", sure="yes")
    kept = {
        path: path.read_bytes() for path in (folder / "aurora.json", own.member.service.state / "changes" / "only.json")
    }
    for what in ("invite", "add", "remove", "revoke", "rotate", "bring", "sign", "drop"):
        answer = send(client, f"/consortium/{what}", consortium="", member="borealis", sure="yes", reason="x")
        refused(answer, "this needs the role officer", 403)
        assert own.last() == (f"{role}-1", f"consortium {what}", False)
        assert f"/consortium/{what}" not in client.get("/consortium").text
    assert {path: path.read_bytes() for path in kept} == kept
    # What is public they may read: the change, and the file.
    assert "A change is under way" in client.get("/consortium").text
    assert client.get("/consortium/only/file").status_code == 200
    assert client.get("/consortium/other/file").status_code == 404


def test_a_file_that_does_not_go_on_from_ones_own_is_refused(folder: Path, tmp_path: Path):
    clients = {name: desk(folder, name, tmp_path).signed_in() for name in NAMES}
    aurora, borealis, hub = clients["aurora"], clients["borealis"], clients[HUB]
    refused(send(aurora, "/consortium/bring", b"{}", consortium=""), "is no consortium")
    refused(send(aurora, "/consortium/bring", b"", consortium=""), "no file came")
    refused(send(aurora, "/consortium/add", b"", consortium=""), "no file came")
    refused(send(aurora, "/consortium/add", b"\x00", consortium=""), "the file")
    # Two changes of one version: who brings the second is told.
    send(aurora, "/consortium/remove", consortium="", member="borealis", sure="yes")
    send(hub, "/consortium/remove", consortium="", member="aurora", sure="yes")
    refused(carried(hub, aurora), "these are two histories")
    carried(aurora, borealis)
    assert shown(borealis)["change"]["signs"] is False, "who is removed has no say"
    changed = aurora.get("/consortium/only/file").content
    refused(
        send(borealis, "/consortium/bring", changed.replace(b'"payload": "ey', b'"payload": "ez'), consortium=""),
        "the file",
    )
    # Another consortium of the same members.
    cards = [folder / f"{name}.identity" / "card.toml" for name in NAMES]
    other = tmp_path / "other.json"
    done(hansa("consortium", "create", "other", *cards, "--identity", folder / f"{HUB}.identity", "--save", other))
    refused(send(borealis, "/consortium/bring", other.read_bytes(), consortium=""), "two histories")


def test_members_of_a_file_that_nobody_signs_are_changed_by_hand(tmp_path: Path):
    own = Desk(make_consortium(tmp_path), state=str(tmp_path / "state"))
    client = own.signed_in()
    for what in ("invite", "add", "remove", "revoke", "rotate", "bring", "sign", "drop"):
        refused(
            send(client, f"/consortium/{what}", b"x", consortium="", member="hub", sure="yes"), "which nobody signs"
        )
    assert client.get("/consortium/only/file").status_code == 404
    assert "Change members and keys" not in client.get("/consortium").text


def test_a_console_takes_a_file_that_others_put_there_and_none_that_is_older_or_half(folder: Path, tmp_path: Path):
    """It holds approvals to the members of now: what a revoked key signed counts no more, and an older copy does not bring it back."""
    aurora = desk(folder, "aurora", tmp_path)
    client, path = aurora.signed_in(), folder / "aurora.json"
    members = read_pinned(path)
    signed_by = {name: load_identity(folder / f"{name}.identity") for name in NAMES}
    made = approve(propose(parse_plan(PLAN, "x"), members, signed_by[HUB]), signed_by["borealis"])
    assert send(client, "/plans/bring", written(made.envelope)).status_code == 303
    digest = made.digest.hex()
    old, held = path.read_bytes(), read_consortium(path)
    stolen = signed(revoked(held, "borealis", "stolen", signed_by[HUB]), signed_by["aurora"])
    write_consortium(path, stolen)
    assert len(shown(client)["revoked"]) == 1
    assert {each["member"] for each in client.get("/api/home").json()["members"]} == {HUB}
    refused(send(client, f"/plans/{digest}/approve"), "revoked in version 2")
    assert client.get("/api/plans").json()["plans"] == []
    new = path.read_bytes()
    for wrong, text in ((old, "does not go on from version 2"), (new[: len(new) // 2], "aurora.json")):
        path.write_bytes(wrong)
        assert len(shown(client)["revoked"]) == 1
        told = client.get("/api/home").json()["fault"]
        assert text in told, told
        assert "No run begins" in client.get("/").text
        refused(send(client, f"/plans/{digest}/approve"), "revoked in version 2")
    path.write_bytes(new)
    assert client.get("/api/home").json()["fault"] == ""


def test_a_change_that_was_swapped_in_another_tab_is_not_signed(folder: Path, tmp_path: Path):
    """An officer reads who is to be a member no more; another officer drops that and begins another change; nothing of it is signed."""
    aurora, hub = (desk(folder, name, tmp_path).signed_in() for name in ("aurora", HUB))
    send(aurora, "/consortium/revoke", consortium="", member="borealis", reason="its disk was lost", sure="yes")
    carried(aurora, hub)
    read = shown(hub)["shown"]
    assert f'name="shown" value="{read}"' in hub.get("/consortium").text
    did(send(hub, "/consortium/drop", consortium=""), hub, "the change is dropped here")
    loaded = shown(hub)["shown"]
    send(aurora, "/consortium/drop", consortium="")
    send(aurora, "/consortium/revoke", consortium="", member="borealis", reason="another reason", sure="yes")
    carried(aurora, hub)
    for stale in (read, loaded, ""):
        for what in ("sign", "drop"):
            answer = send(hub, f"/consortium/{what}", consortium="", sure="yes", shown=stale)
            refused(answer, "are others than this page showed")
    assert shown(hub)["change"]["missing"] != []
    did(send(hub, "/consortium/sign", consortium="", sure="yes"), hub, "all that must have signed")
    for what in ("remove", "revoke", "rotate"):
        given = {"member": "aurora", "folder": "x", "reason": "x", "sure": "yes", "shown": loaded}
        refused(send(hub, f"/consortium/{what}", consortium="", **given), "are others than this page showed")
