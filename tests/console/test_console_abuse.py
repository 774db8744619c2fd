"""What is refused at a console: other sites' posts, other names of the host, stolen cookies, guessed passwords, odd paths, floods."""

from __future__ import annotations

import resource
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hansa.console import accounts
from hansa.console.accounts import IDLE_S, LONGEST_S, TRIES, TRIES_S, Sessions, account_of
from hansa.console.app import STATIC
from hansa.console.book import Book, Role
from hansa.console.guard import BURST, HEADERS, MOST_BODY, MOST_SIGN_IN, PER_SECOND, Pace
from hansa.console.live import MOST_STREAMS, Streams
from hansa.console.pages import ACTS, DOWNLOADS, PAGES, Act
from hansa.errors import IdentityError
from hansa.service.store import ServiceRun
from made_console import ADDRESS, PASSWORD, Clock, Desk, csrf, put_many, send
from made_consortium import make_consortium


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_consortium(tmp_path_factory.mktemp("consortium"))


@pytest.fixture
def desk(folder: Path, tmp_path: Path) -> Desk:
    desk = Desk(folder, state=str(tmp_path / "state"))
    desk.put(state="running")
    return desk


def test_a_post_of_another_sites_page_does_nothing(desk: Desk):
    client = desk.signed_in()
    token = csrf(client)
    for headers in (
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": ADDRESS + "0"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
    ):
        answer = client.post("/runs/a1b2/pause", data={"csrf": token}, headers=headers)
        assert answer.status_code == 403, headers
    assert desk.member.store.find("a1b2").wanted == ""
    good = {"Origin": ADDRESS, "Sec-Fetch-Site": "same-origin"}
    assert client.post("/runs/a1b2/pause", data={"csrf": token}, headers=good).status_code == 303


def test_every_action_asks_for_the_token_of_its_session(desk: Desk):
    client, other = desk.signed_in("officer"), desk.signed_in("officer", "officer-2")
    for act in ACTS:
        path = act.path.replace("{run}", "a1b2").replace("{proposal}", "ab" * 32).replace("{draft}", "x")
        for token in ("", "x", csrf(other)):
            answer = client.post(path, data={"csrf": token})
            assert answer.status_code == 403, path
            assert "of another session" in answer.text
    assert client.post("/sign-out", data={"csrf": csrf(other)}).status_code == 403
    assert client.get("/").status_code == 200


def test_every_page_is_only_for_who_is_signed_in(desk: Desk):
    client = desk.client()
    for page in PAGES:
        path = page.path.replace("{run}", "a1b2").replace("{proposal}", "ab" * 32).replace("{draft}", "x")
        assert client.get(path).headers["location"] == "/sign-in"
        assert client.get("/api/home" if path == "/" else f"/api{path}").status_code == 401
    for each in DOWNLOADS:
        path = each.path.replace("{run}", "a1b2").replace("{proposal}", "ab" * 32).replace("{member}", "x")
        assert client.get(path).headers["location"] == "/sign-in"
    for act in ACTS:
        path = act.path.replace("{run}", "a1b2").replace("{proposal}", "ab" * 32).replace("{draft}", "x")
        assert client.post(path).headers["location"] == "/sign-in"
    assert desk.member.store.find("a1b2").wanted == ""


def test_another_name_of_the_host_is_refused(desk: Desk):
    client = desk.signed_in()
    for host in ("evil.example", "evil.example:7490", "127.0.0.1.evil.example", "", "[::1]", "127.0.0.1:7490, x"):
        assert client.get("/", headers={"Host": host}).status_code == 421, host
    assert client.get("/", headers={"Host": "127.0.0.1:9"}).status_code == 200


def test_a_stolen_cookie_is_worth_nothing_after_sign_out(desk: Desk):
    client = desk.signed_in()
    stolen = dict(client.cookies)
    thief = desk.client()
    thief.cookies.update(stolen)
    assert thief.get("/").status_code == 200
    assert client.post("/sign-out", data={"csrf": csrf(client)}).status_code == 303
    assert thief.get("/").headers["location"] == "/sign-in"
    assert thief.get("/api/home").status_code == 401


def test_a_cookie_is_for_this_site_alone_and_for_no_script(desk: Desk):
    desk.member.book.put_account(account_of("anna", "viewer", PASSWORD))
    answer = desk.client().post("/sign-in", data={"name": "anna", "password": PASSWORD})
    cookie = answer.headers["set-cookie"]
    for words in ("HttpOnly", "SameSite=strict", "Path=/"):
        assert words in cookie
    token = cookie.partition("=")[2].partition(";")[0]
    for path in (desk.member.service.state).rglob("*"):
        if path.is_file():
            assert token.encode() not in path.read_bytes()
            assert PASSWORD.encode() not in path.read_bytes()


def test_a_session_ends_by_itself_and_with_its_account(desk: Desk):
    client = desk.signed_in("officer")
    desk.clock.now += IDLE_S - 1
    assert client.get("/").status_code == 200
    desk.clock.now += IDLE_S + 1
    assert client.get("/").status_code == 303
    again = desk.signed_in("officer")
    for _ in range(int(LONGEST_S / IDLE_S) + 1):
        desk.clock.now += IDLE_S - 1
        left = again.get("/").status_code
    assert left == 303
    third = desk.signed_in("officer")
    desk.member.book.put_account(account_of("officer-1", "viewer", PASSWORD))
    assert third.get("/").status_code == 303
    fourth = desk.signed_in("officer")
    desk.member.book.remove_account("officer-1")
    assert fourth.get("/").status_code == 303


def test_passwords_cannot_be_guessed_fast(desk: Desk):
    desk.member.book.put_account(account_of("anna", "officer", PASSWORD))
    client = desk.client()
    for _ in range(TRIES):
        answer = client.post("/sign-in", data={"name": "anna", "password": "guess"})
        assert "do not fit" in answer.text
    right = client.post("/sign-in", data={"name": "anna", "password": PASSWORD})
    assert "too many wrong passwords" in right.text
    assert desk.last() == ("anna", "sign-in", False)
    desk.clock.now += TRIES_S + 1
    assert client.post("/sign-in", data={"name": "anna", "password": PASSWORD}).status_code == 303
    unknown = client.post("/sign-in", data={"name": "nobody", "password": PASSWORD})
    assert "do not fit" in unknown.text


def test_the_link_of_the_start_signs_in_an_operator_once(desk: Desk):
    token = desk.sessions.new_link()
    client = desk.client()
    assert client.get("/enter?token=x").status_code == 403
    assert client.get(f"/enter?token={token}").status_code == 303
    assert "link (operator)" in client.get("/").text
    assert send(client, f"/plans/{'ab' * 32}/approve").status_code == 403
    assert "was used before" in desk.client().get(f"/enter?token={token}").text


@pytest.mark.parametrize("name", ["", "link", "a b", "<b>", "x" * 64, "../x"])
def test_an_odd_name_is_no_account(name: str):
    with pytest.raises(IdentityError, match="cannot name an account"):
        account_of(name, "viewer", PASSWORD)


def test_a_password_is_kept_by_argon2(real_passwords: None):
    assert account_of("anna", "viewer", PASSWORD).hashed.startswith("$argon2id$v=19$m=65536,t=3,p=4$")


def test_a_short_password_is_no_password():
    with pytest.raises(IdentityError, match="has 5 characters") as refused:
        account_of("anna", "viewer", "short")
    assert "short" not in str(refused.value)


def test_every_answer_carries_the_policy_and_nothing_is_inline(desk: Desk):
    client = desk.signed_in()
    assert "unsafe" not in HEADERS["Content-Security-Policy"]
    for path in (
        "/",
        "/runs",
        "/plans",
        "/records",
        "/consortium",
        "/settings",
        "/actions",
        "/new-plan",
        "/nothing",
        "/api/runs",
    ):
        answer = client.get(path)
        for name, value in HEADERS.items():
            assert answer.headers[name] == value, (path, name)
        text = answer.text
        for word in (" style=", "<style", " onclick", "javascript:", "http://", "https://"):
            assert word not in text, (path, word)
        assert "<script>" not in text
    assert client.get("/", headers={"Host": "evil"}).headers["content-security-policy"]


ODD_PATHS = (
    "/static/x/../../app.py",
    "/static/x/%2e%2e%2fapp.py",
    "/static/x/console.css",
    "/runs/..%2f..%2f..%2fetc%2fpasswd",
    "/records/..%2fx/report",
    "/plans/..%2f..%2fx",
    f"/plans/{'AB' * 32}",
    f"/plans/{'ab' * 32}/rejections/..%2fx",
    "/drafts/..%2fx",
    "/drafts/x.toml",
    "/consortium/invitations/..%2f..%2fx",
    "/%00",
    "/runs/%00",
    "/runs/\u202e",
)


@pytest.mark.parametrize("path", ODD_PATHS)
def test_paths_lead_nowhere_else(desk: Desk, path: str):
    answer = desk.signed_in().get(path)
    assert answer.status_code == 404
    assert "root:" not in answer.text


@settings(max_examples=20, deadline=None)
@given(name=st.text(min_size=1, max_size=40))
def test_no_name_is_a_fault_of_the_console(reading: Desk, name: str):
    from urllib.parse import quote

    client = reading.signed_in()
    for path in ("/runs/", "/plans/", "/records/", "/drafts/", "/consortium/invitations/", "/api/runs/", "/live/runs/"):
        status = client.get(path + quote(name, safe="")).status_code
        assert status in (303, 401, 404, 422, 429), (path, name, status)


@pytest.fixture(scope="module")
def reading(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Desk:
    return Desk(folder, state=str(tmp_path_factory.mktemp("state")))


def test_large_posts_and_other_methods_are_refused(desk: Desk):
    client = desk.signed_in()
    assert client.post("/plans/bring", headers={"Content-Length": str(MOST_BODY + 1)}).status_code == 413

    form = {"Content-Type": "application/x-www-form-urlencoded"}

    def endless():
        for _ in range(MOST_BODY // 2**20 + 2):
            yield bytes(2**20)

    assert client.post("/plans/bring", content=endless(), headers=form).status_code == 413
    assert client.post("/plans/bring", data={f"f{i}": "x" for i in range(600)}).status_code == 400
    assert client.post("/sign-in", data={"name": "x" * MOST_SIGN_IN}).status_code == 413
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
        assert client.request(method, "/").status_code == 405
    assert client.post("/").status_code == 405
    assert client.get("/sign-out").status_code == 405


def test_one_address_cannot_ask_without_end():
    clock = Clock()
    pace = Pace(clock)
    assert sum(pace.takes("a") for _ in range(int(BURST) + 100)) == int(BURST)
    assert pace.takes("b")
    clock.now += 1
    assert sum(pace.takes("a") for _ in range(200)) == int(PER_SECOND)


def test_static_files_are_those_of_the_package_and_named_by_content(desk: Desk):
    client = desk.client()
    text = client.get("/sign-in").text
    for name in ("console.css", "htmx.min.js", "htmx-sse.min.js"):
        address = text.partition("/static/")[2]
        assert name in text
        assert address
    address = "/static/" + text.partition('href="/static/')[2].partition('"')[0]
    answer = client.get(address)
    assert answer.status_code == 200
    assert "immutable" in answer.headers["cache-control"]
    assert set(STATIC) >= {"console.css", "htmx.min.js", "htmx-sse.min.js", "LICENSE-htmx"}


def test_two_hundred_streams_are_served_and_make_each_text_once():
    """Streams of one name look together, a slow one misses what was between, and those above the limit are refused."""
    made = 0

    def make() -> str:
        nonlocal made
        made += 1
        return f"text {made}\nand more"

    async def read(streams: Streams, got: list[bytes]) -> None:
        looks = iter(range(3))
        got += [event async for event in streams.stream("/runs/x", make, lambda: next(looks, None) is not None)]

    async def main() -> list[list[bytes]]:
        streams = Streams(look_s=0.01)
        found: list[list[bytes]] = [[] for _ in range(200)]
        async with anyio.create_task_group() as group:
            for got in found:
                group.start_soon(read, streams, got)
        assert streams.count == 0
        assert not streams.full
        return found

    found = anyio.run(main)
    assert all(1 <= len(got) <= 3 for got in found)
    assert found[0][0] == b"data: text 1\ndata: and more\n\n"
    assert made < 200
    assert MOST_STREAMS >= 200


def test_a_stream_ends_with_its_session(desk: Desk):
    client = desk.signed_in()
    with client.stream("GET", "/live/runs/a1b2") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        desk.sessions.end(client.cookies["hansa-7490"])
        text = "".join(answer.iter_text())
    assert "of at most 9 rounds" in text or text == ""


def test_streams_above_the_limit_are_refused(desk: Desk, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("hansa.console.live.MOST_STREAMS", 0)
    assert desk.signed_in().get("/live/home").status_code == 503


def test_sessions_are_bounded_and_the_oldest_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("hansa.console.accounts.MOST_SESSIONS", 3)
    sessions = Sessions(Book(tmp_path))
    cookies = [sessions.enter(sessions.new_link(), "") for _ in range(5)]
    assert [sessions.find(cookie) is not None for cookie in cookies] == [False, False, True, True, True]


def test_ten_thousand_runs_are_shown_page_by_page_in_flat_memory(desk: Desk):
    put_many(
        desk.member.store,
        (
            ServiceRun(
                run=f"{number:08x}",
                plan="cells",
                state="finished",
                created=f"2026-01-{number // 1000 + 1:02}T{number // 60 % 24:02}:{number % 60:02}:00.000Z",
                id="ab" * 32,
            )
            for number in range(10_000)
        ),
    )
    client = desk.signed_in()
    for path in ("/", "/runs", "/runs?page=200", "/records", "/plans", "/settings"):
        assert len(client.get(path).content) < 300_000, path
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for page in range(1, 12):
        client.get(f"/api/runs?page={page * 15}")
        client.get("/api/home")
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 30_000
    assert client.get("/api/runs?page=201").json()["paging"]["rows"] == 10_001


def test_who_tries_without_end_is_not_looked_at_and_fills_no_disk(desk: Desk):
    """Of an address that failed too often nothing is written down, by link or by password."""
    client = desk.client()
    for number in range(30):
        client.get(f"/enter?token=wrong-{number}")
        answer = client.post("/sign-in", data={"name": f"nobody-{number}", "password": "x"})
    assert answer.status_code == 403
    assert "too many wrong passwords" in answer.text
    assert desk.member.book.count_actions() == TRIES


def test_passwords_are_looked_at_one_after_another(desk: Desk, monkeypatch: pytest.MonkeyPatch):
    """Argon2 takes 64 MiB a look: many at once are not let in, and of one address no more than are allowed to fail."""
    at_once, most = 0, 0

    def slow(hashed: str, password: str) -> bool:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        time.sleep(0.02)
        at_once -= 1
        return False

    monkeypatch.setattr(accounts, "_fits", slow)

    def attempt(number: int) -> str:
        with pytest.raises(IdentityError) as caught:
            desk.sessions.sign_in(f"nobody-{number}", "x", "10.0.0.9")
        return type(caught.value).__name__

    with ThreadPoolExecutor(16) as pool:
        kinds = list(pool.map(attempt, range(32)))
    assert most == 1
    assert kinds.count("IdentityError") == TRIES
    assert kinds.count("TooManyTries") == 32 - TRIES


def path_of(act: Act) -> str:
    """Where a form goes, with something in place of what stands in braces."""
    return act.path.replace("{run}", "a1b2").replace("{proposal}", "ab" * 32).replace("{draft}", "cells")


@pytest.mark.parametrize("role", ["viewer", "operator"])
def test_no_action_is_done_for_who_may_not(desk: Desk, role: Role):
    client = desk.signed_in(role)
    token, may = csrf(client), {"viewer": {"viewer"}, "operator": {"viewer", "operator"}}[role]
    forbidden = [act for act in ACTS if act.role not in may]
    assert len(forbidden) > 10
    for act in forbidden:
        answer = client.post(path_of(act), data={"csrf": token, "sure": "yes"}, files={"file": ("file", b"{}")})
        assert answer.status_code == 403, act.path
        assert f"this needs the role {act.role}" in answer.text
        assert desk.last() == (f"{role}-1", act.name, False)
    assert desk.member.store.find("a1b2").wanted == ""


ODD_TEXTS = (
    "",
    "<b>x</b>",
    '"><img src=x onerror=alert(1)>',
    "../../etc/passwd",
    "\x00",
    "x" * 20_000,
    "{{7*7}}",
    "９",
    "\u202ex",
)


@pytest.mark.parametrize("text", ODD_TEXTS)
def test_what_is_typed_is_shown_as_text_and_breaks_nothing(desk: Desk, text: str):
    client = desk.signed_in()
    for act in ACTS:
        fields = dict.fromkeys((name for name in act.fields if name != "consortium"), text)
        answer = send(client, path_of(act), text.encode() if act.file else None, **fields)
        assert answer.status_code in (303, 404, 422), (act.path, answer.text)
        for page in (answer.text, client.get("/actions").text, client.get("/account").text):
            for markup in ("<b>x</b>", "<img", "\u202e", "\x00"):
                assert markup not in page, (act.path, markup)
