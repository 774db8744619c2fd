"""Records: logs are verified, compared with another member's log and report, reported, and what people did is chained."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from hansa.console.book import Book
from hansa.console.records import REPORT_POLICY
from hansa.consortium.audit_checks import check_log
from hansa.consortium.audit_entries import Counted, MessagesCounted, RunBegun, RunOver
from hansa.consortium.audit_log import AuditLog, now
from hansa.consortium.audit_page import check_page, export_run
from hansa.consortium.identity import load_identity
from hansa.consortium.versions import read_pinned
from made_console import Desk, send
from made_consortium import HUB, PARTIES, assert_refused, hansa, make_consortium

RUN = "ab" * 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_consortium(tmp_path_factory.mktemp("consortium"))


def write_log(folder: Path, name: str, path: Path, rows: int = 60) -> Path:
    """A log with one run in it, as a member of it keeps it."""
    identity, members = load_identity(folder / f"{name}.identity"), read_pinned(folder / "members.toml")
    log = AuditLog(path, identity)
    log.append(
        RunBegun(
            at=now(),
            run=RUN,
            epoch=0,
            plan="cd" * 32,
            mode="federated",
            purpose="train",
            hub=HUB,
            hansa="0",
            members={own: card.identity.hex() for own, card in members.items()},
            roster=(("aurora", rows, 0), ("borealis", 80, 0)),
            proposal="ef" * 32,
            approved_by=(HUB, *PARTIES),
        ),
        MessagesCounted(at=now(), run=RUN, epoch=0, counts=(Counted("aurora", HUB, "Sum", 3, 900),)),
        RunOver(at=now(), run=RUN, epoch=0, state="finished", transcript={}),
    )
    log.close()
    return path


@pytest.fixture
def desk(folder: Path, tmp_path: Path) -> Desk:
    desk = Desk(folder, state=str(tmp_path / "state"))
    write_log(folder, "aurora", desk.member.service.audit)
    desk.put(state="finished", id=RUN)
    return desk


def test_a_log_is_verified_and_what_was_altered_is_found(desk: Desk):
    client = desk.signed_in("viewer")
    assert "Not checked since it grew" in client.get("/records").text
    assert send(client, "/records/verify").status_code == 303
    assert "None of its 4 entries was altered" in client.get("/records").text
    page = client.get("/records/a1b2").text
    assert "aurora 60 rows" in page
    path = desk.member.service.audit
    path.write_bytes(path.read_bytes().replace(b'"aurora",60', b'"aurora",61'))
    assert "the log was altered or is damaged" in send(client, "/records/verify").text
    assert desk.last() == ("viewer-1", "records verify", False)
    assert "the log was altered or is damaged" in client.get("/records/a1b2").text


def test_a_run_is_reported_in_one_signed_page_that_others_check(desk: Desk, folder: Path):
    client = desk.signed_in()
    assert client.get("/records/a1b2/report").status_code == 404
    assert send(desk.signed_in("operator"), "/records/a1b2/report").status_code == 403
    assert send(client, "/records/a1b2/report").status_code == 303
    shown = client.get("/records/a1b2/report")
    assert shown.headers["content-security-policy"] == REPORT_POLICY
    assert "content-disposition" not in shown.headers
    saved = client.get("/records/a1b2/report-file")
    assert "attachment" in saved.headers["content-disposition"]
    assert check_page(saved.content, "x", read_pinned(folder / "members.toml")).run == RUN
    path = desk.member.reports() / "a1b2.html"
    path.write_bytes(path.read_bytes().replace(b"aurora 60 rows", b"aurora 66 rows"))
    assert client.get("/records/a1b2/report").status_code == 422


@pytest.mark.parametrize("whole", [True, False])
def test_two_members_are_compared_by_log_or_by_report(desk: Desk, folder: Path, tmp_path: Path, whole: bool):
    client = desk.signed_in("viewer")
    for rows, words in ((60, "aurora and borealis agree"), (61, "aurora and borealis disagree")):
        path = write_log(folder, "borealis", tmp_path / f"borealis-{rows}", rows)
        content = path.read_bytes()
        if not whole:
            log, moment = check_log(path), read_pinned(folder / "members.toml")
            from datetime import UTC, datetime

            content = export_run(
                log, RUN, load_identity(folder / "borealis.identity"), datetime(2026, 1, 1, tzinfo=UTC)
            )
            assert moment
        answer = send(client, "/records/a1b2/compare", content)
        assert answer.status_code == 303, answer.text
        assert words in client.get("/records/a1b2").text
    (found,) = client.get("/api/records/a1b2").json()["comparisons"]
    assert [(each["first"], each["second"]) for each in found["disagreements"]] == [
        ("60 and 0 held out", "61 and 0 held out")
    ]


def test_what_is_no_other_members_record_is_refused(desk: Desk, folder: Path, tmp_path: Path):
    client = desk.signed_in()
    own = desk.member.service.audit.read_bytes()
    assert "is a log of" in send(client, "/records/a1b2/compare", own).text
    send(client, "/records/a1b2/report")
    report = client.get("/records/a1b2/report-file").content
    assert "is an export of" in send(client, "/records/a1b2/compare", report).text
    assert (
        "the page shows something else"
        in send(client, "/records/a1b2/compare", report.replace(b"60 rows", b"61 rows")).text
    )
    others = make_consortium(tmp_path)
    foreign = write_log(others, "borealis", tmp_path / "foreign").read_bytes()
    assert "under another identity" in send(client, "/records/a1b2/compare", foreign).text
    for odd in (b"", b"x", b"<!doctype html>", b"\xff" * 100):
        assert send(client, "/records/a1b2/compare", odd).status_code == 422


def test_the_command_compares_with_a_report_as_well(desk: Desk, folder: Path, tmp_path: Path):
    borealis = write_log(folder, "borealis", tmp_path / "borealis.log")
    page, members = tmp_path / "borealis.html", folder / "members.toml"
    exported = hansa(
        "audit", "export", borealis, "--run", RUN, "--out", page, "--identity", folder / "borealis.identity"
    )
    assert exported.exit_code == 0, exported.output
    given = ("audit", "compare", desk.member.service.audit, page, "--run", RUN)
    assert "they agree" in hansa(*given, "--members", members).output
    assert_refused(hansa(*given), "is held to the members file")


def test_a_run_that_did_not_begin_has_no_record(desk: Desk):
    desk.put(run="ff00", state="refused")
    client = desk.signed_in("viewer")
    assert client.get("/records/ff00").status_code == 404
    assert "ff00" not in client.get("/records").text


def test_an_action_that_was_altered_or_taken_out_is_noticed(tmp_path: Path):
    book = Book(tmp_path)
    for number in range(5):
        book.note("anna", "plans approve", f"{number}", "signed", done=True)
    assert book.broken_at() == 0
    assert (tmp_path / "console.sqlite").stat().st_mode & 0o777 == 0o600
    connection = sqlite3.connect(book.path)
    with connection:
        connection.execute("UPDATE actions SET who = 'bert' WHERE number = 3")
    assert book.broken_at() == 3
    with connection:
        connection.execute("UPDATE actions SET who = 'anna' WHERE number = 3")
        connection.execute("DELETE FROM actions WHERE number = 2")
    assert book.broken_at() == 2
    connection.close()


def test_actions_are_listed(desk: Desk):
    client = desk.signed_in("viewer")
    assert "signed in from testclient" in client.get("/actions").text
    assert "The chain of 1 actions holds" in client.get("/actions").text
