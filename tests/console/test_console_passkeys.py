"""Passkeys: added, used to sign in and to confirm, removed; and every way to use one that is none of one's own here and now."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from hansa.console.accounts import TRIES, TRIES_S
from hansa.console.book import Book
from hansa.console.passkeys import CHALLENGE_S, MOST_CHALLENGES, MOST_PASSKEYS, Challenges, site_of
from hansa.consortium.approvals import propose, write_proposal
from hansa.consortium.identity import load_identity
from hansa.consortium.versions import read_pinned
from hansa.errors import IdentityError
from hansa.plan import parse_plan
from hansa.service.config import read_service_file
from made_console import PASSWORD, Clock, Desk, csrf, send
from made_consortium import HUB, PLAN, assert_refused, hansa, make_consortium
from soft_passkey import SoftPasskey

NAMED = "http://localhost:7490"
POLICY = {"consortium": "", "least_mode": "federated"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_consortium(tmp_path_factory.mktemp("consortium"))


@pytest.fixture
def desk(folder: Path, tmp_path: Path) -> Desk:
    return Desk(folder, state=str(tmp_path / "state"))


def asked(client: TestClient, begin: str, **fields: str) -> dict[str, Any]:
    """What the console would have the browser ask for."""
    token = {} if begin.startswith("/sign-in") else {"csrf": csrf(client)}
    answer = client.post(begin, data={**token, **fields})
    assert answer.status_code == 200, answer.text
    read: dict[str, Any] = answer.json()
    return read


def added(client: TestClient, name: str = "laptop", password: str = PASSWORD, **changes: Any) -> SoftPasskey:
    """A passkey of whoever is signed in."""
    passkey = SoftPasskey(NAMED, **changes)
    made = passkey.make(asked(client, "/account/passkeys/begin")["create"])
    answer = send(client, "/account/passkeys", name=name, password=password, passkey=made)
    assert answer.status_code == 303, answer.text
    return passkey


def signs_in(desk: Desk, passkey: SoftPasskey) -> TestClient:
    client = desk.client(NAMED)
    answer = client.post(
        "/sign-in/passkey", data={"confirm": passkey.show(asked(client, "/sign-in/passkey/begin")["get"])}
    )
    assert answer.status_code == 303, answer.text
    return client


def confirmation(client: TestClient, path: str) -> dict[str, Any]:
    return asked(client, "/account/confirm", path=path)["get"]


def refused(answer: Any, fragment: str, status: int = 403) -> None:
    assert answer.status_code == status, answer.text
    assert fragment in answer.text.replace("&#39;", "'"), answer.text


def test_a_passkey_is_added_signs_in_confirms_and_is_removed(desk: Desk):
    client = desk.signed_in("officer", "anna", NAMED)
    other = desk.signed_in("officer", "anna", NAMED)
    assert "None." in client.get("/account").text
    passkey = added(client)
    shown = client.get("/account").text
    assert "the passkey laptop is added" in shown
    assert "not used yet" in shown
    assert other.get("/").status_code == 303, "other sessions end where an account is changed"
    assert desk.last() == ("anna", "passkey add", True)

    client = signs_in(desk, passkey)
    assert "anna (officer)" in client.get("/").text
    (action,) = desk.member.book.actions(0, 1)
    assert (action.who, action.what, action.text) == (
        "anna",
        "sign-in",
        "signed in from testclient by the passkey laptop",
    )
    assert "used last" in client.get("/account").text

    # What needs an officer asks for it, every time; what needs an operator does not.
    refused(send(client, "/settings/policy", **POLICY), "confirm this with your passkey")
    assert desk.last() == ("anna", "settings policy", False)
    desk.put(state="running")
    assert send(client, "/runs/a1b2/pause").status_code == 303

    refused(send(client, "/account/passkeys/remove", id="x", password="wrong"), "do not fit", 422)
    refused(send(client, "/account/passkeys/remove", id="x", password=PASSWORD), "no such passkey", 422)
    (own,) = desk.member.book.passkeys("anna")
    assert send(client, "/account/passkeys/remove", id=own.id, password=PASSWORD).status_code == 303
    assert desk.last() == ("anna", "passkey remove", True)
    browser = desk.client(NAMED)
    answer = passkey.show(asked(browser, "/sign-in/passkey/begin")["get"])
    refused(browser.post("/sign-in/passkey", data={"confirm": answer}), "not known here")
    assert desk.last() == ("", "sign-in", False)


def test_an_officer_approves_by_a_passkey_and_not_without(desk: Desk, folder: Path):
    client = desk.signed_in("officer", "anna", NAMED)
    passkey = added(client, "key on the ring")
    identity = load_identity(folder / f"{HUB}.identity")
    path = desk.member.service.state / "p.json"
    write_proposal(path, propose(parse_plan(PLAN, "plan"), read_pinned(folder / "members.toml"), identity))
    plan = send(client, "/plans/bring", path.read_bytes()).headers["location"]
    assert 'data-passkey="/account/confirm">Approve' in client.get(plan).text
    refused(send(client, f"{plan}/approve"), "confirm this with your passkey")
    assert desk.last() == ("anna", "plans approve", False)
    of_another = passkey.show(confirmation(client, f"{plan}/reject"))
    refused(send(client, f"{plan}/approve", confirm=of_another), "was not asked here just now")
    given = passkey.show(confirmation(client, f"{plan}/approve"))
    assert send(client, f"{plan}/approve", confirm=given).status_code == 303
    (action,) = desk.member.book.actions(0, 1)
    assert (action.who, action.what, action.done) == ("anna", "plans approve", True)
    assert action.text.endswith("(confirmed by the passkey key on the ring)")
    # An account without a passkey is not asked for one.
    assert "data-passkey" not in desk.signed_in("officer", "clara").get(plan).text


def test_an_answer_is_taken_once(desk: Desk):
    client = desk.signed_in("officer", "anna", NAMED)
    passkey = added(client)
    browser = desk.client(NAMED)
    answer = passkey.show(asked(browser, "/sign-in/passkey/begin")["get"])
    assert browser.post("/sign-in/passkey", data={"confirm": answer}).status_code == 303
    refused(browser.post("/sign-in/passkey", data={"confirm": answer}), "was not asked here just now")
    given = passkey.show(confirmation(client, "/consortium/invite"))
    refused(send(client, "/consortium/invite", confirm=given), "nobody signs", 422)
    refused(send(client, "/consortium/invite", confirm=given), "was not asked here just now")
    made = SoftPasskey(NAMED).make(asked(client, "/account/passkeys/begin")["create"])
    fields = {"name": "x", "password": PASSWORD, "passkey": made}
    assert send(client, "/account/passkeys", **fields).status_code == 303
    refused(send(client, "/account/passkeys", **fields), "was not asked here just now", 422)


def test_an_answer_is_for_one_session_one_action_and_some_time(desk: Desk):
    client, other = desk.signed_in("officer", "anna", NAMED), desk.client(NAMED)
    passkey = added(client)
    # Of another browser that is about to sign in.
    for browser in (desk.client(NAMED), other):
        asked(other, "/sign-in/passkey/begin")
        answer = passkey.show(asked(desk.client(NAMED), "/sign-in/passkey/begin")["get"])
        refused(browser.post("/sign-in/passkey", data={"confirm": answer}), "was not asked here just now")
    # Of another session of the same account, of another action, and of signing in.
    second = signs_in(desk, passkey)
    for options in (
        confirmation(second, "/consortium/invite"),
        confirmation(client, "/settings/policy"),
        asked(client, "/sign-in/passkey/begin")["get"],
    ):
        answer = passkey.show(options)
        refused(send(client, "/consortium/invite", confirm=answer), "was not asked here just now")
    # Too late.
    options = confirmation(client, "/consortium/invite")
    desk.clock.now += CHALLENGE_S + 1
    refused(send(client, "/consortium/invite", confirm=passkey.show(options)), "was not asked here just now")
    # Not asked at all.
    answer = passkey.show({"challenge": "c29tZXRoaW5n"})
    refused(send(client, "/consortium/invite", confirm=answer), "was not asked here just now")


@pytest.mark.parametrize(
    ("lie", "fragment"),
    [
        ({"origin": "https://evil.example"}, "origin"),
        ({"origin": "http://localhost:7491"}, "origin"),
        ({"origin": "https://localhost:7490"}, "origin"),
        ({"site": "evil.example"}, "RP ID"),
        ({"verifies": False}, "not verified"),
    ],
)
def test_a_passkey_of_elsewhere_or_of_nobody_is_refused(desk: Desk, lie: dict[str, Any], fragment: str):
    client = desk.signed_in("officer", "anna", NAMED)
    passkey = added(client)
    for name, value in lie.items():
        setattr(passkey, name, value)
    browser = desk.client(NAMED)
    answer = passkey.show(asked(browser, "/sign-in/passkey/begin")["get"])
    refused(browser.post("/sign-in/passkey", data={"confirm": answer}), fragment)
    given = passkey.show(confirmation(client, "/consortium/invite"))
    refused(send(client, "/consortium/invite", confirm=given), fragment)
    fresh = SoftPasskey(NAMED)
    for name, value in lie.items():
        setattr(fresh, name, value)
    made = fresh.make(asked(client, "/account/passkeys/begin")["create"])
    answer = send(client, "/account/passkeys", name="x", password=PASSWORD, passkey=made)
    refused(answer, "the passkey is refused", 422)


def test_the_port_is_the_consoles_own_whatever_a_request_says(desk: Desk):
    """A page at another port of this host that passes requests on has an origin of its own."""
    client = desk.signed_in("officer", "anna", NAMED)
    passkey = added(client)
    passkey.origin = "http://localhost:9999"
    between = desk.client("http://localhost:9999")
    answer = passkey.show(asked(between, "/sign-in/passkey/begin")["get"])
    refused(between.post("/sign-in/passkey", data={"confirm": answer}), "origin")


def test_a_counter_that_does_not_grow_is_refused(desk: Desk):
    client = desk.signed_in("officer", "anna", NAMED)
    passkey = added(client)
    for _ in range(3):
        signs_in(desk, passkey)
    for back in (1, 3):  # the next answer says 2 less, or as much as the last one
        passkey.counter = 3 - back
        browser = desk.client(NAMED)
        answer = passkey.show(asked(browser, "/sign-in/passkey/begin")["get"])
        refused(browser.post("/sign-in/passkey", data={"confirm": answer}), "did not grow: there may be a copy of it")
        assert desk.last() == ("", "sign-in", False)
    passkey.counter = 3
    signs_in(desk, passkey)
    # One that does not count says 0, always.
    still = added(client, "phone", counts=False)
    for _ in range(2):
        signs_in(desk, still)
    still.counts, still.counter = True, 6
    signs_in(desk, still)
    still.counts, still.counter = False, 0
    browser = desk.client(NAMED)
    answer = still.show(asked(browser, "/sign-in/passkey/begin")["get"])
    refused(browser.post("/sign-in/passkey", data={"confirm": answer}), "did not grow")


def test_a_passkey_is_of_one_account(desk: Desk):
    anna, bert = desk.signed_in("officer", "anna", NAMED), desk.signed_in("officer", "bert", NAMED)
    annas, berts = added(anna), added(bert)
    given = berts.show(confirmation(anna, "/consortium/invite"))
    refused(send(anna, "/consortium/invite", confirm=given), "is not one of anna's")
    (own,) = desk.member.book.passkeys("bert")
    refused(send(anna, "/account/passkeys/remove", id=own.id, password=PASSWORD), "no such passkey", 422)
    # An authenticator that answers for another account than the key is of.
    annas.handle = berts.handle
    browser = desk.client(NAMED)
    answer = annas.show(asked(browser, "/sign-in/passkey/begin")["get"])
    refused(browser.post("/sign-in/passkey", data={"confirm": answer}), "names another account")
    # A key that is kept cannot be added again, by nobody.
    again = SoftPasskey(NAMED)
    again.id = berts.id
    made = again.make(asked(anna, "/account/passkeys/begin")["create"])
    refused(send(anna, "/account/passkeys", name="x", password=PASSWORD, passkey=made), "kept here already", 422)
    # A signature by another key.
    forged = SoftPasskey(NAMED)
    forged.id, forged.site, forged.handle, forged.counter = berts.id, "localhost", berts.handle, 9
    answer = forged.show(asked(browser, "/sign-in/passkey/begin")["get"])
    refused(browser.post("/sign-in/passkey", data={"confirm": answer}), "signature")
    desk.member.book.remove_account("bert")
    answer = berts.show(asked(browser, "/sign-in/passkey/begin")["get"])
    refused(browser.post("/sign-in/passkey", data={"confirm": answer}), "not known here")


def test_a_stolen_cookie_adds_no_passkey(desk: Desk):
    client = desk.signed_in("officer", "anna", NAMED)
    made = SoftPasskey(NAMED).make(asked(client, "/account/passkeys/begin")["create"])
    refused(send(client, "/account/passkeys", name="thief", password="guess", passkey=made), "do not fit", 422)
    refused(send(client, "/account/passkeys", name="thief", passkey=made), "do not fit", 422)
    assert desk.member.book.passkeys("anna") == ()
    passkey = added(client)
    assert send(client, "/account/password-off", password=PASSWORD).status_code == 303
    options = asked(client, "/account/passkeys/begin")
    thief = SoftPasskey(NAMED)
    answer = send(client, "/account/passkeys", name="thief", passkey=thief.make(options["create"]))
    refused(answer, "confirm this with your passkey", 422)
    options = asked(client, "/account/passkeys/begin")
    fields = {
        "name": "phone",
        "passkey": SoftPasskey(NAMED).make(options["create"]),
        "confirm": passkey.show(options["get"]),
    }
    assert send(client, "/account/passkeys", **fields).status_code == 303


def test_a_password_is_switched_off_only_beside_a_passkey(desk: Desk, tmp_path: Path):
    client = desk.signed_in("officer", "anna", NAMED)
    refused(send(client, "/account/password-off", password=PASSWORD), "only a passkey signs in; add one first", 422)
    passkey = added(client)
    assert send(client, "/account/password-off", password=PASSWORD).status_code == 303
    assert "is switched off" in client.get("/account").text
    assert "Your password" not in client.get("/account").text
    answer = desk.client(NAMED).post("/sign-in", data={"name": "anna", "password": PASSWORD})
    refused(answer, "do not fit")
    refused(desk.client(NAMED).post("/sign-in", data={"name": "anna", "password": ""}), "do not fit")
    client = signs_in(desk, passkey)
    (own,) = desk.member.book.passkeys("anna")
    given = passkey.show(confirmation(client, "/account/passkeys/remove"))
    refused(send(client, "/account/passkeys/remove", id=own.id, confirm=given), "only this passkey signs in", 422)
    file = desk.member.service.path
    listed = hansa("account", "list", "--service", file)
    assert "anna: officer" in listed.output
    assert "signs in by 1 passkeys" in listed.output
    shown = json.loads(hansa("account", "list", "--service", file, "--json").output)
    assert (shown["password"], shown["passkeys"]) == (False, 1)
    # Whoever keeps the machine gives a password again; the passkey stays.
    secret = tmp_path / "password"
    secret.write_text(PASSWORD)
    secret.chmod(0o600)
    made = hansa("account", "set", "anna", "--role", "officer", "--service", file, "--password-file", secret)
    assert made.exit_code == 0, made.output
    assert len(desk.member.book.passkeys("anna")) == 1
    assert desk.client().post("/sign-in", data={"name": "anna", "password": PASSWORD}).status_code == 303
    assert_refused(hansa("account", "remove", "bert", "--service", file), "no account 'bert'")


def test_wrong_passkeys_cannot_be_tried_fast(desk: Desk):
    passkey = added(desk.signed_in("officer", "anna", NAMED))
    browser = desk.client(NAMED)
    for _ in range(TRIES):
        answer = SoftPasskey(NAMED)
        answer.site = "localhost"
        given = answer.show(asked(browser, "/sign-in/passkey/begin")["get"])
        refused(browser.post("/sign-in/passkey", data={"confirm": given}), "not known here")
    given = passkey.show(asked(browser, "/sign-in/passkey/begin")["get"])
    refused(browser.post("/sign-in/passkey", data={"confirm": given}), "too many wrong passkeys")
    desk.clock.now += TRIES_S + 1
    signs_in(desk, passkey)


def test_forms_of_the_account_ask_for_their_sessions_token(desk: Desk):
    client, other = desk.signed_in("officer", "anna", NAMED), desk.signed_in("officer", "bert", NAMED)
    for path in ("/account/passkeys", "/account/passkeys/remove", "/account/password-off"):
        answer = client.post(path, data={"csrf": csrf(other), "password": PASSWORD})
        refused(answer, "of another session")
        assert desk.client(NAMED).post(path).headers["location"] == "/sign-in"
    for path in ("/account/confirm", "/account/passkeys/begin"):
        assert client.post(path, data={"csrf": csrf(other)}).status_code == 403
        assert desk.client(NAMED).post(path).status_code == 403
    assert desk.client(NAMED).get("/account").headers["location"] == "/sign-in"


def test_the_link_of_the_start_has_no_passkeys(desk: Desk):
    client = desk.client(NAMED)
    assert client.get(f"/enter?token={desk.sessions.new_link()}").status_code == 303
    assert "which is no account" in client.get("/account").text
    answer = client.post("/account/passkeys/begin", data={"csrf": csrf(client)})
    refused(answer, "the link of the start has no passkeys")
    refused(send(client, "/account/passkeys", name="x", password=""), "is no account")


def test_a_console_that_is_reached_by_a_number_says_that_passkeys_need_a_name(desk: Desk):
    client = desk.signed_in("officer", "anna")
    assert "http://localhost:7490/" in client.get("/account").text
    assert "http://localhost:7490/" in desk.client().get("/sign-in").text
    answer = client.post("/account/passkeys/begin", data={"csrf": csrf(client)})
    refused(answer, "reached by a name", 422)
    assert "Sign in with a passkey" in desk.client(NAMED).get("/sign-in").text


def test_a_site_is_a_name_of_the_console_at_its_port():
    hosts = {"127.0.0.1", "localhost", "[::1]", "console.aurora.example"}
    named = site_of("Console.Aurora.example:1", hosts, tls=True, port=443)
    assert (named.name, named.origin) == ("console.aurora.example", "https://console.aurora.example")
    assert site_of("localhost", hosts, tls=False, port=80).origin == "http://localhost"
    assert site_of("localhost:7490", hosts, tls=True, port=7490).origin == "https://localhost:7490"
    for host in ("127.0.0.1:7490", "[::1]:7490", "[::1]", "evil.example", "evil.example:7490", ""):
        with pytest.raises(IdentityError, match="reached by a name"):
            site_of(host, hosts, tls=True, port=7490)


def test_passkeys_have_a_bound_and_a_name(desk: Desk):
    client = desk.signed_in("officer", "anna", NAMED)
    for name in ("", "   ", "x" * 61):
        made = SoftPasskey(NAMED).make(asked(client, "/account/passkeys/begin")["create"])
        refused(
            send(client, "/account/passkeys", name=name, password=PASSWORD, passkey=made), "1 to 60 characters", 422
        )
    for number in range(MOST_PASSKEYS):
        added(client, f"<b>{number}</b>")
    assert "<b>" not in client.get("/account").text
    made = SoftPasskey(NAMED).make(asked(client, "/account/passkeys/begin")["create"])
    refused(send(client, "/account/passkeys", name="x", password=PASSWORD, passkey=made), "remove one first", 422)


def test_challenges_are_bounded_and_only_of_their_purpose():
    clock = Clock()
    challenges = Challenges(clock)
    first = challenges.new("sign-in x")
    for _ in range(MOST_CHALLENGES):
        last = challenges.new("sign-in y")
    with pytest.raises(IdentityError, match="was not asked here"):
        challenges.take(first, "sign-in x")
    with pytest.raises(IdentityError, match="was not asked here"):
        challenges.take(last, "sign-in x")
    with pytest.raises(IdentityError, match="was not asked here"):
        challenges.take(last, "sign-in y")  # a wrong try takes it, too
    with pytest.raises(IdentityError, match="was not asked here"):
        challenges.take(b"", "")
    right = challenges.new("a")
    clock.now += CHALLENGE_S
    challenges.take(right, "a")


def test_a_folder_of_a_console_without_passkeys_goes_on(desk: Desk):
    """A file that was made before there were passkeys."""
    desk.signed_in("officer", "anna")
    with sqlite3.connect(desk.member.book.path) as connection:
        connection.execute("DROP TABLE passkeys")
    file = read_service_file(desk.member.service.path, open_keys=False)
    account = Book(file.state).account("anna")
    assert account is not None
    assert account.passkeys == ()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(
    field=st.sampled_from(["id", "rawId", "type", "clientDataJSON", "authenticatorData", "signature", "userHandle"]),
    to=JSON,
)
def test_no_answer_is_a_fault_of_the_console(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, field: str, to: Any
):
    desk = _shared_desk(folder, tmp_path_factory)
    purpose = "sign-in z"
    site = site_of("localhost", {"localhost"}, tls=False, port=7490)
    answer = json.loads(_PASSKEY[0].show(json.loads(bytes(desk.console.passkeys.ask(site, purpose)))))
    holder = answer if field in answer else answer["response"]
    if holder[field] == to:
        return
    holder[field] = to
    with pytest.raises(IdentityError):
        desk.console.passkeys.shown(site, purpose, json.dumps(answer))


_DESK: list[Desk] = []
_PASSKEY: list[SoftPasskey] = []


def _shared_desk(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Desk:
    if not _DESK:
        _DESK.append(Desk(folder, state=str(tmp_path_factory.mktemp("state") / "state")))
        _PASSKEY.append(added(_DESK[0].signed_in("officer", "anna", NAMED)))
    return _DESK[0]
