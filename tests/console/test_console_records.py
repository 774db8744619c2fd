"""Records: logs are verified, compared with another member's log and report, reported, and what people did is chained."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hansa.console.book import Book
from hansa.console.checked_logs import FULL_S, TIP_BYTES, CheckedLogs
from hansa.console.records import REPORT_POLICY
from hansa.consortium.audit_checks import CheckedLog, LogCheck, check_log, checked
from hansa.consortium.audit_entries import Counted, MessagesCounted
from hansa.consortium.audit_log import AuditLog, now
from hansa.consortium.audit_page import check_page, export_run
from hansa.consortium.identity import load_identity
from hansa.consortium.members import members_of
from hansa.consortium.versions import read_pinned
from hansa.errors import IdentityError, OutputError, StateError
from made_console import RUN, Clock, Desk, send, write_log
from made_consortium import HUB, assert_refused, hansa, make_consortium


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_consortium(tmp_path_factory.mktemp("consortium"))


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


def more(folder: Path, path: Path) -> None:
    """The member's own process adds to its log."""
    log = AuditLog(path, load_identity(folder / "aurora.identity"))
    log.append(MessagesCounted(at=now(), run=RUN, epoch=0, counts=(Counted(HUB, "aurora", "Level", 3, 900),)))
    log.close()


def altered(path: Path, old: bytes = b'"federated"', new: bytes = b'"federateD"') -> None:
    """One byte far below the end is another one, in the same file."""
    content = path.read_bytes()
    place = content.index(old)
    with path.open("r+b") as file:
        file.seek(place)
        file.write(new)


def test_a_record_page_checks_only_what_was_added(desk: Desk, folder: Path):
    client, logs, path = desk.signed_in("viewer"), desk.member.logs, desk.member.service.audit
    first = client.get(f"/api/records/{RUN[:4]}").status_code
    assert first == 404
    run = f"/api/records/{desk.member.store.runs()[0].run}"
    entries = client.get(run).json()["entries"]
    for _ in range(3):
        assert client.get(run).json()["entries"] == entries
    assert (logs.full, logs.added) == (1, 0)
    for number in range(1, 4):
        more(folder, path)
        assert len(client.get(run).json()["entries"]) == len(entries) + number
        assert (logs.full, logs.added) == (1, number)
    # It is the log that a check of the whole finds.
    kept = logs.look(path, desk.member.service.consortia[0].members)
    again = check_log(path, desk.member.service.consortia[0].members)
    assert kept.entries == again.entries
    assert kept.root_of(len(kept.entries)) == again.root_of(len(again.entries))
    assert kept.identity == again.identity


def damage_in_place(path: Path, folder: Path) -> None:
    altered(path)


def damage_and_rename(path: Path, folder: Path) -> None:
    other = path.with_suffix(".new")
    other.write_bytes(path.read_bytes().replace(b'"federated"', b'"federateD"'))
    other.chmod(0o600)
    other.rename(path)


def cut_off(path: Path, folder: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-2]))


def cut_off_and_longer(path: Path, folder: Path) -> None:
    """Another end, which is longer than the one that was checked."""
    lines = path.read_bytes().splitlines(keepends=True)
    with path.open("r+b") as file:
        file.seek(len(b"".join(lines[:-1])))
        file.write(lines[-1].replace(b'"size":', b'"size" :') + lines[-1])


@pytest.mark.parametrize("damage", [damage_in_place, damage_and_rename, cut_off, cut_off_and_longer])
def test_a_log_that_was_rewritten_is_found_at_the_next_look(
    desk: Desk, folder: Path, damage: Callable[[Path, Path], None]
):
    client, logs = desk.signed_in("viewer"), desk.member.logs
    run = f"/api/records/{desk.member.store.runs()[0].run}"
    assert client.get(run).status_code == 200
    damage(desk.member.service.audit, folder)
    for _ in range(2):  # nothing is kept of it
        answer = client.get(run)
        assert answer.status_code == 422
        assert "the log was altered or is damaged" in answer.json()["error"]
    assert logs.full == 3


def test_a_byte_below_what_was_checked_is_found_at_the_next_check_of_the_whole(desk: Desk, folder: Path):
    """It was altered and added to between two looks: the end is as it was, and the file grew, as it does."""
    client, clock, path = desk.signed_in("officer"), Clock(), desk.member.service.audit
    desk.member.logs.clock = clock
    name = desk.member.store.runs()[0].run
    run = f"/api/records/{name}"
    members = desk.member.service.consortia[0].members

    while path.stat().st_size < 2 * TIP_BYTES:
        more(folder, path)

    def alter_and_add() -> None:
        assert client.get(run).status_code == 200
        more(folder, path)
        altered(path)

    alter_and_add()
    assert client.get(run).status_code == 200, "what this look did not read"
    with pytest.raises(StateError, match="the log was altered"):
        check_log(path, members)
    # Whoever asks for it, or has it signed, has all of it checked.
    for what in ("/records/verify", f"/records/{name}/report"):
        assert "the log was altered" in send(client, what, consortium="").text
        altered(path, b'"federateD"', b'"federated"')
        alter_and_add()
        assert client.get(run).status_code == 200
    # And so has whoever looks, once an hour.
    clock.now += FULL_S + 1
    assert "the log was altered" in client.get(run).json()["error"]
    altered(path, b'"federateD"', b'"federated"')
    assert client.get(run).status_code == 200


def test_another_members_file_has_the_log_checked_anew(desk: Desk, folder: Path):
    logs, path = CheckedLogs(), desk.member.service.audit
    members = desk.member.service.consortia[0].members
    logs.look(path, members)
    fewer = members_of([card for name, card in members.items() if name != "borealis"])
    logs.look(path, fewer)
    assert (logs.full, logs.added) == (2, 0)
    with pytest.raises(IdentityError, match="under another identity than the members file has"):
        logs.look(path, members_of([members["borealis"]]))
    with pytest.raises(OutputError, match="cannot be read"):
        logs.look(path.with_name("none"), members)


@settings(max_examples=40, deadline=None)
@given(parts=st.lists(st.integers(1, 4), min_size=1, max_size=6), where=st.floats(0, 0.999))
def test_a_check_part_by_part_finds_what_a_check_of_the_whole_finds(
    tmp_path_factory: pytest.TempPathFactory, folder: Path, parts: list[int], where: float
):
    """Part by part, the same log; with a byte that was altered before it was read, the same refusal."""
    path = tmp_path_factory.mktemp("log") / "aurora"
    write_log(folder, "aurora", path)
    ends = [path.stat().st_size]
    for count in parts:
        for _ in range(count):
            more(folder, path)
        ends.append(path.stat().st_size)
    content, members = path.read_bytes(), read_pinned(folder / "members.toml")

    def by_parts(content: bytes) -> CheckedLog:
        check = LogCheck(path, members)
        for start, end in itertools.pairwise([0, *ends]):
            check.take(content[start:end])
        return check.log()

    assert by_parts(content).entries == checked(content, path, members).entries
    place = int(where * len(content))
    wrong = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
    for look in (by_parts, lambda content: checked(content, path, members)):
        with pytest.raises((StateError, IdentityError)):
            look(wrong)
