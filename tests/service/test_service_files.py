"""A service's file, the database of its runs, its inbox without processes, and its back-up."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import msgspec
import pytest

import postgresql
from hansa.console.book import Book
from hansa.consortium.approvals import read_proposal
from hansa.consortium.identity import load_identity
from hansa.consortium.invitations import invite
from hansa.consortium.key_files import Unlocking
from hansa.consortium.model_signature import sign_model, verify_signature
from hansa.consortium.versions import found, removed, signed, write_consortium
from hansa.errors import HansaError, IdentityError, OutputError, PlanError, StateError
from hansa.node.config import read_member_file
from hansa.plan import read_plan
from hansa.service import backup, inbox
from hansa.service.config import read_service_file
from hansa.service.inbox import arrivals, clear, submit, write_member_file
from hansa.service.models import fetch
from hansa.service.seen_members import keep_seen
from hansa.service.store import ServiceRun, Store
from hansa.service.supervisor import held
from made_consortium import HUB, PLAN, assert_refused, hansa, make_consortium
from made_services import POLICY, approved, write_service

MASKED = PLAN.replace("federated", "secure-aggregation").replace(
    "min_cell_rows = 2", "min_cell_rows = 2\nmin_party_rows = 0"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_consortium(tmp_path_factory.mktemp("consortium"))


def test_a_run_gets_a_members_file_of_its_own_with_whole_paths(folder: Path):
    plan = approved(folder, MASKED, "masked")
    service = read_service_file(
        write_service(
            folder, "aurora", 7465, state="aurora-files", threads=2, transcripts=True, proxy="http://10.0.0.9:3128"
        )
    )
    assert submit(service, plan).plan == "test"
    (arrival,) = arrivals(service, "party", frozenset())
    assert (arrival.run.state, arrival.run.mode, arrival.run.rounds) == ("waiting", "secure-aggregation", 3)
    own = service.runs / arrival.run.folder
    assert own.is_absolute()
    assert own.stat().st_mode & 0o777 == 0o700
    member = read_member_file(own / "member.toml")
    assert (member.table, member.threads, member.port) == (folder.absolute() / "aurora.csv", 2, 7465)
    assert (member.model, member.state, member.transcript) == (own / "model.json", own / "state", own / "transcript")
    assert member.ledger == service.ledger
    assert member.policy.least_party_rows == POLICY["least_party_rows"]
    assert member.proposal is not None
    clear(arrival, service)
    assert not list(service.plans.glob("*.json"))
    submit(service, plan)
    assert arrivals(service, "party", frozenset([arrival.run.run])) == []
    assert not list(service.plans.glob("*.json"))


def refusal(folder: Path, plan: Path, command: Any, name: str = "aurora", **changes: Any) -> str:
    """Why a service refuses a plan."""
    service = read_service_file(write_service(folder, name, 7465, state=f"{name}-refusing", **changes))
    submit(service, plan)
    for file in service.plans.glob("*.json"):
        os.utime(file, (0, 0))  # long there
    (arrival,) = arrivals(service, command, frozenset())
    clear(arrival, service)
    assert arrival.run.state == "refused"
    assert (service.plans / "refused" / f"{plan.stem}.json.reason").exists() or list(service.plans.glob("refused/*"))
    return arrival.run.text


def test_plans_that_do_not_fit_this_member_are_refused(folder: Path):
    plan = approved(folder, PLAN.replace('name = "test"', 'name = "wards"'), "wards")
    assert "is for `hansa party`, and this service was started by" in refusal(folder, plan, "aggregator")
    assert "no table of [[sources]] has rows" in refusal(folder, plan, "party", sources=None)
    other = [{"plans": ["cells-*"], "table": "aurora.csv"}]
    assert "no table of [[sources]] has rows for the plan 'wards'" in refusal(folder, plan, "party", sources=other)
    assert "least_mode" in refusal(folder, plan, "party", policy={"least_mode": "secure-aggregation"})


def test_a_service_takes_no_plan_with_collectors_and_plays_none(folder: Path, tmp_path: Path):
    """It dials the consortium's hub, and a party's collector is elsewhere."""
    apart = make_consortium(tmp_path)
    text = PLAN.replace('["aurora", "borealis"]', '["aurora"]\ncollectors = { borealis = ["aurora"] }', 1)
    plan = approved(apart, text.replace('name = "test"', 'name = "collected"'), "collected")
    assert "'collected' has members.collectors, and a service dials" in refusal(apart, plan, "party")
    assert_refused(hansa("collector", apart / "plan.toml", "--service"), "a service runs no collector")


def test_the_first_source_that_fits_a_plans_name_is_taken(folder: Path):
    sources = [{"plans": ["cells-*", "te?t"], "table": "borealis.csv"}, {"table": "aurora.csv"}]
    service = read_service_file(write_service(folder, "aurora", 1, sources=sources))
    plan = read_plan_of(folder)
    found = service.source_of(plan)
    assert found is not None
    assert found.table == "borealis.csv"


def read_plan_of(folder: Path) -> Any:
    return read_plan(folder / "plan.toml")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"members": None}, "members is missing"),
        ({"identity": None}, "identity is missing"),
        ({"hub": None}, "hub is missing"),
        ({"hub": "here:99999"}, "port of at most"),
        ({"consortia": {"a": {"members": "members.toml"}}}, "members and consortia are both given"),
        ({"database_password_file": "none"}, "database_password_file goes with database only"),
        ({"most_runs": 0}, "most_runs"),
        ({"planz": "x"}, "planz"),
        ({"traces": "collector"}, "traces"),
        ({"health": "7480"}, "health"),
    ],
)
def test_a_service_file_that_is_wrong_is_refused_by_key(folder: Path, changes: dict[str, Any], text: str):
    with pytest.raises(PlanError, match=text):
        read_service_file(write_service(folder, "aurora", 7465, **changes))


def test_several_consortia_have_members_files_and_policies_of_their_own(folder: Path, tmp_path: Path):
    others = make_consortium(tmp_path)
    consortia = {
        "telecom": {"members": "members.toml"},
        "wards": {
            "members": str(others / "members.toml"),
            "identity": str(others / "aurora.identity"),
            "hub": "127.0.0.1:9",
            "policy": {**POLICY, "least_mode": "secure-aggregation"},
        },
    }
    path = write_service(folder, "aurora", 7465, members=None, consortia=consortia, state="several")
    service = read_service_file(path)
    assert [each.name for each in service.consortia] == ["telecom", "wards"]
    plans = [approved(folder, PLAN, "of-telecom"), approved(others, MASKED, "of-wards")]
    assert [submit(service, plan).consortium for plan in plans] == ["telecom", "wards"]
    found = {each.run.consortium: each.run for each in arrivals(service, "party", frozenset())}
    member = read_member_file(service.runs / found["wards"].folder / "member.toml")
    assert (member.port, member.policy.least_mode) == (9, "secure-aggregation")
    assert member.members_path == (others / "members.toml").absolute()
    alone = read_service_file(write_service(folder, "aurora", 7465, state="several"))
    with pytest.raises(IdentityError, match="names other identities than"):
        submit(alone, plans[1])
    with pytest.raises(PlanError, match="no consortium 'wards' any more"):
        alone.consortium("wards")


RUN = ServiceRun(run="a1b2", proposal="a1b2c3", plan="cells", mode="federated", folder="a1b2")


def kept_and_wanted(kept: Store, other: Store) -> None:
    """What the tests of both databases do."""
    assert kept.runs() == ()
    first = kept.put(RUN)
    assert first.created == first.updated != ""
    assert kept.find("a1") == kept.find("cells") == first
    assert other.runs() == ()
    second = kept.put(ServiceRun(run="ff00", plan="cells", waiting_for=("a", "b"), due=3.5))
    assert kept.runs() == (first, second)
    with pytest.raises(PlanError, match="names 2 runs of this service; expected one of a1b2, ff00"):
        kept.find("cells")
    assert kept.want("ff00", "stop").wanted == "stop"
    assert kept.put(ServiceRun(run="ff00", state="stopped", created=second.created)).wanted == "stop"
    assert [run.run for run in kept.runs(every=False)] == ["a1b2"]
    with pytest.raises(PlanError, match="is over: stopped"):
        kept.want("ff00", "stop")
    with pytest.raises(PlanError, match="no run 'none'"):
        kept.want("none", "stop")


def test_runs_are_kept_in_sqlite(tmp_path: Path):
    kept, other = Store("north", tmp_path / "state"), Store("south", tmp_path / "state")
    kept_and_wanted(kept, other)
    assert (tmp_path / "state" / "service.sqlite").stat().st_mode & 0o777 == 0o600
    kept.close()
    assert [run.run for run in Store("north", tmp_path / "state").runs()] == ["a1b2", "ff00"]


@pytest.mark.skipif(postgresql.why_not() is not None, reason=str(postgresql.why_not()))
def test_runs_are_kept_in_postgresql_and_a_server_that_is_away_may_come_back(tmp_path: Path):
    with postgresql.running() as server:
        secret = tmp_path / "db.pass"
        secret.write_text(server.password)
        secret.chmod(0o600)
        folder = make_consortium(tmp_path)
        given = {"database": server.url, "database_password_file": "db.pass"}
        url = read_service_file(write_service(folder, HUB, 1, **given)).database
        kept = Store("north", tmp_path, url)
        kept_and_wanted(kept, Store("south", tmp_path, url))
        assert not list(tmp_path.glob("*.sqlite"))
    with pytest.raises(OutputError, match="is it there") as away:
        kept.runs()
    assert away.value.retry
    assert server.password not in str(away.value)
    with pytest.raises(PlanError, match="needs a URL with an account"):
        read_service_file(write_service(folder, HUB, 1, **given | {"database": "postgresql://host/db"}))


def test_a_database_of_an_unknown_kind_is_refused(tmp_path: Path):
    with pytest.raises(PlanError, match="cannot be opened"):
        Store("north", tmp_path, "nothing://u:planted@host/db")


def finished(folder: Path) -> tuple[Any, Store, ServiceRun]:
    """A service of aurora with a finished run and one that is not over, without any process."""
    service = read_service_file(write_service(folder, "aurora", 1, state="to-keep"))
    kept = Store(service.name, service.state, service.database)
    for name, text in (("done", PLAN), ("open", PLAN.replace("test", "open"))):
        submit(service, approved(folder, text, f"keep-{name}"))
    for arrival in arrivals(service, "party", frozenset()):
        own = service.runs / arrival.run.folder
        run = arrival.run
        if run.plan == "test":
            (own / "model.json").write_bytes(b"a model")
            (own / "provenance.json").write_bytes(b"{}")
            sign_model(own / "model.json", own / "model.sig")
            sha256 = hashlib.sha256(b"a model").hexdigest()
            run = ServiceRun(
                **{**{f: getattr(run, f) for f in run.__struct_fields__}, "state": "finished", "model_sha256": sha256}
            )
        else:
            (own / "state").mkdir()
            (own / "state" / "x.sqlite").write_bytes(b"state")
        kept.put(run)
        clear(arrival, service)
    service.ledger.write_text("[]\n")
    service.ledger.with_name(service.ledger.name + ".key").write_text("key")
    return service, kept, kept.find("test")


def test_a_back_up_is_restored_without_the_states_of_runs(tmp_path: Path):
    folder = make_consortium(tmp_path)
    service, kept, run = finished(folder)
    kept.close()
    Book(service.state).note("anna", "sign-in", "", "in", done=True)
    archive = tmp_path / "aurora.tar"
    done = hansa("backup", "--service", service.path, "--save", archive)
    assert done.exit_code == 0, done.output
    assert "2 runs" in done.stdout
    assert archive.stat().st_mode & 0o777 == 0o600
    with tarfile.open(archive) as opened:
        names = opened.getnames()
    assert not [name for name in names if "state" in name or "identity" in name]
    assert_refused(hansa("restore", archive, "--service", service.path), "is there already", "nothing newer is lost")
    service.state.rename(tmp_path / "lost")
    restored = hansa("restore", archive, "--service", service.path)
    assert restored.exit_code == 0, restored.output
    assert "given up, as their state is not in a back-up" in restored.stdout
    kept = Store(service.name, service.state, service.database)
    assert {each.plan: each.state for each in kept.runs()} == {"test": "finished", "open": "lost"}
    assert service.ledger.read_text() == "[]\n"
    assert [action.who for action in Book(service.state).actions(0, 9)] == ["anna"]
    assert (service.state / "console.sqlite").stat().st_mode & 0o777 == 0o600
    model = tmp_path / "again.json"
    assert fetch(service, kept.find("test"), model, tmp_path / "statement.json").sha256 == run.model_sha256
    assert model.read_bytes() == b"a model"
    fetch(service, kept.find("test"), model, signature=tmp_path / "signature")
    verify_signature(model, tmp_path / "signature", (tmp_path / "signature.pem").read_text())
    (service.runs / run.folder / "model.sig").unlink()
    with pytest.raises(PlanError, match="did not sign its model; write model_signatures = true"):
        fetch(service, kept.find("test"), model, signature=tmp_path / "signature")
    with pytest.raises(PlanError, match="has no model: it is lost"):
        fetch(service, kept.find("open"), model)
    (service.runs / run.folder / "model.json").write_bytes(b"another")
    with pytest.raises(OutputError, match="is not the model of run"):
        fetch(service, kept.find("test"), model)


@pytest.mark.parametrize(
    "entry",
    [
        "../x", "runs/a/b/plan.json", "runs/../member.toml", "/etc/passwd", "runs/a1/key.pem", "proposals/only/key.pem",
        "proposals/only/../" + 64 * "a" + ".json", f"proposals/only/away/{64 * 'a'}.json", "withdrawals/only/.json",
        "withdrawals/only/a/b.json", "withdrawals/b.json", "drafts/.toml", "drafts/../x.toml", "drafts/a/b.toml", "changes/only/a.json",
        "changes/a.key", "invitations/a.json", "invitations/../a.json", "reports/a1.pdf", "reports/../../a.html", "reports/a/b.html",
        "members/key.pem", "members/only/a.json",
    ],
)  # fmt: skip
def test_a_back_up_with_other_files_is_refused_and_nothing_is_written(tmp_path: Path, entry: str):
    service = read_service_file(write_service(make_consortium(tmp_path), "aurora", 1))
    archive = tmp_path / "bad.tar"
    with tarfile.open(archive, "w") as opened:
        backup._add(opened, "runs.json", b"[]")
        backup._add(opened, entry, b"x")
    with pytest.raises(OutputError, match="is no back-up of a service"):
        backup.read_backup(service, lambda: Store(service.name, service.state), archive)
    assert not service.state.exists()


def test_a_back_up_whose_files_are_holes_is_refused_before_they_are_read(tmp_path: Path, monkeypatch):
    """Some kilobytes that say they are many times 900 MiB of zeros."""
    service = read_service_file(write_service(make_consortium(tmp_path), "aurora", 1))
    hole, archive = tmp_path / "runs.json", tmp_path / "bad.tar"
    with hole.open("wb") as file:
        file.truncate(900 * 2**20)
    subprocess.run(["tar", "--sparse", "-cf", archive, "-C", tmp_path, "runs.json"], check=True)
    assert archive.stat().st_size < 2**15
    read = []
    monkeypatch.setattr(tarfile.ExFileObject, "read", lambda *_: read.append(1) or b"")
    with pytest.raises(OutputError, match=r"is no back-up of a service: it holds 'runs\.json'"):
        backup.read_backup(service, lambda: Store(service.name, service.state), archive)
    assert not read


def test_a_back_up_has_what_was_proposed_and_what_was_taken_back(tmp_path: Path):
    """A restored service would run a plan again whose approval was taken back."""
    folder = make_consortium(tmp_path)
    service, kept, _ = finished(folder)
    kept.close()
    back = folder / "taken-back"
    (consortium,) = service.consortia
    own = service.proposals_of(consortium)
    for path in (
        own / f"{64 * 'a'}.json",
        own / f"{64 * 'a'}-borealis.json",
        own / "away" / (64 * "b"),
        back / "of borealis.json",
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(path.name)
    (own / "lock").touch()
    service = read_service_file(write_service(folder, "aurora", 1, state=service.state.name, withdrawals=str(back)))
    archive = tmp_path / "aurora.tar"
    done = hansa("backup", "--service", service.path, "--save", archive)
    assert done.exit_code == 0, done.output
    service.state.rename(tmp_path / "lost")
    (back / "of borealis.json").write_text("newer")
    restored = hansa("restore", archive, "--service", service.path)
    assert restored.exit_code == 0, restored.output
    assert sorted(str(path.relative_to(own)) for path in own.rglob("*") if path.is_file()) == [
        f"{64 * 'a'}-borealis.json", f"{64 * 'a'}.json", f"away/{64 * 'b'}",
    ]  # fmt: skip
    assert (own / "away" / (64 * "b")).read_text() == 64 * "b"
    assert (back / "of borealis.json").read_text() == "newer"
    (back / "of borealis.json").unlink()
    service.state.rename(tmp_path / "lost again")
    assert hansa("restore", archive, "--service", service.path).exit_code == 0
    assert (back / "of borealis.json").read_text() == "of borealis.json"
    service.state.rename(tmp_path / "lost a third time")
    without = write_service(folder, "aurora", 1, state=service.state.name)
    assert_refused(hansa("restore", archive, "--service", without), "withdrawals of the consortium", "has no place")
    assert not service.state.exists()


def test_a_back_up_has_what_was_begun_in_the_console_and_changes_are_checked(tmp_path: Path):
    """A change of keys that others have signed would have to be signed by all of them anew."""
    folder = make_consortium(tmp_path)
    own = {name: load_identity(folder / f"{name}.identity", Unlocking(None)) for name in (HUB, "aurora", "borealis")}
    begun = found("nordic", [each.card() for each in own.values()], own[HUB])
    held = signed(signed(begun, own["aurora"]), own["borealis"])
    write_consortium(folder / "c.json", held)
    service = read_service_file(write_service(folder, "aurora", 1, members="c.json"))
    (consortium,) = service.consortia
    keep_seen(consortium.members, service.seen_of(consortium))
    service.change_of(consortium).parent.mkdir()
    write_consortium(service.change_of(consortium), removed(held, HUB, own["aurora"]))
    service.invitations_of(consortium).mkdir(parents=True)
    invitation, _ = invite(held, "east", own["aurora"])
    (service.invitations_of(consortium) / "east.json").write_bytes(invitation)
    for name in ("drafts/Cells_2.toml", "reports/a1b2.html", "reports/a1b2-borealis.json"):
        path = service.state / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
    kept = {path: path.read_bytes() for path in service.state.rglob("*") if path.is_file() and path.suffix != ".sqlite"}
    assert len(kept) == 6
    for name in ("changes/.only.json.partial", "drafts/notes.txt"):
        (service.state / name).write_text(name)
    archive = tmp_path / "aurora.tar"
    assert hansa("backup", "--service", service.path, "--save", archive).exit_code == 0
    service.state.rename(tmp_path / "lost")
    restored = hansa("restore", archive, "--service", service.path)
    assert restored.exit_code == 0, restored.output
    for path, content in kept.items():
        assert (path.read_bytes(), path.stat().st_mode & 0o777) == (content, 0o600), path
    assert not (service.state / "drafts/notes.txt").exists()
    assert [path.name for path in (service.state / "changes").iterdir()] == ["only.json"]
    # What was changed in the archive, or is of another consortium, is refused, and nothing is written.
    service.state.rename(tmp_path / "lost again")
    other = found("nordic", [own["borealis"].card()], own["aurora"])
    write_consortium(tmp_path / "other.json", removed(signed(other, own["borealis"]), "aurora", own["borealis"]))
    for name, content, text in (
        ("changes/only.json", (tmp_path / "other.json").read_bytes(), "another consortium"),
        (
            "changes/only.json",
            kept[service.change_of(consortium)].replace(b'"payload": "e', b'"payload": "f', 1),
            "cannot be restored",
        ),
        ("invitations/only/east.json", invitation[:-40] + b"}", "cannot be restored"),
        ("members/only.json", b"{}", "is damaged"),
        ("members/only.json", b'{"version":2,"digest":"' + b"ab" * 32 + b'"}', "does not go on from version 2"),
        ("changes/else.json", kept[service.change_of(consortium)], "does not name"),
    ):
        bad = tmp_path / "bad.tar"
        with tarfile.open(bad, "w") as opened:
            backup._add(opened, "runs.json", b"[]")
            backup._add(opened, name, content)
        assert_refused(hansa("restore", bad, "--service", service.path), text)
        assert not service.state.exists()


def test_a_folder_has_one_service_and_is_its_owners(tmp_path: Path):
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    with held(state), pytest.raises(StateError, match="another process serves this folder"), held(state):
        pass
    state.chmod(0o755)
    with pytest.raises(StateError, match="others can read this folder"), held(state):
        pass


def test_a_service_without_its_packages_says_what_to_install(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    with pytest.raises(HansaError, match=r"pip install 'hansa\[service\]'"):
        Store("north", tmp_path)


def test_a_service_that_signs_models_does_not_begin_without_the_package(folder: Path, monkeypatch):
    path = write_service(folder, "aurora", 1, state="signing", model_signatures=True)
    monkeypatch.setitem(sys.modules, "model_signing", None)
    assert_refused(hansa("party", path, "--service"), "pip install 'hansa[signing]'")
    assert not (folder / "signing").exists()


def test_service_does_not_go_with_describe(folder: Path):
    path = write_service(folder, "aurora", 1)
    said = hansa("party", path, "--service", "--describe", folder / "d.json")
    assert_refused(said, "--service goes without --describe")


def test_a_file_that_is_exchanged_while_it_is_read_becomes_no_run_of_another_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    """The first reading gives one approved plan, every later one another: what runs is what was checked."""
    service = read_service_file(write_service(folder, "aurora", 7465, state="exchanged"))
    first = approved(folder, PLAN.replace('name = "test"', 'name = "finished"'), "exchanged-first")
    second = approved(folder, PLAN.replace('name = "test"', 'name = "second"'), "exchanged-second")
    finished = submit(service, first)
    (file,) = service.plans.glob("*.json")
    whole = inbox.read_whole

    def exchanging(path: Path, *rest: Any) -> bytes:
        content = whole(path, *rest)
        if path == file:
            file.write_bytes(second.read_bytes())
        return content

    monkeypatch.setattr(inbox, "read_whole", exchanging)
    assert [each.run.state for each in arrivals(service, "party", frozenset([finished.run]))] == []
    for own in service.runs.glob("*/plan.json"):
        assert read_proposal(own).digest.hex().startswith(own.parent.name)


def test_a_plan_that_was_exchanged_in_the_runs_folder_is_not_started(folder: Path):
    service = read_service_file(write_service(folder, "aurora", 7465, state="exchanged-later"))
    submit(service, approved(folder, PLAN, "exchanged-third"))
    (arrival,) = arrivals(service, "party", frozenset())
    other = approved(folder, PLAN.replace('name = "test"', 'name = "other"'), "exchanged-fourth")
    (service.runs / arrival.run.folder / "plan.json").write_bytes(other.read_bytes())
    with pytest.raises(PlanError, match="is not the plan of run"):
        write_member_file(service, arrival.run)


def test_what_is_no_file_in_the_inbox_ends_no_service(folder: Path):
    service = read_service_file(write_service(folder, "aurora", 7465, state="aurora-odd"))
    service.plans.mkdir(parents=True)
    (service.plans / "gone.json").symlink_to(folder / "there-is-none")
    (service.plans / "folder.json").mkdir()
    os.mkfifo(service.plans / "pipe.json")
    os.utime(service.plans / "folder.json", (0, 0))
    os.utime(service.plans / "pipe.json", (0, 0))
    assert arrivals(service, "party", frozenset()) == []  # and a pipe without a writer is not waited for


@pytest.mark.parametrize("folder_of_run", ["../../elsewhere", "/etc", "b2", "."])
def test_a_back_up_whose_runs_have_other_folders_is_refused(tmp_path: Path, folder_of_run: str):
    folder = make_consortium(tmp_path)
    service = read_service_file(write_service(folder, "aurora", 1, state="from-afar"))
    runs = msgspec.json.encode([msgspec.structs.replace(RUN, folder=folder_of_run, state="finished")])
    archive = tmp_path / "made.tar"
    with tarfile.open(archive, "w") as opened:
        backup._add(opened, backup.RUNS, runs)
    with pytest.raises(OutputError, match="is no back-up of a service"):
        backup.read_backup(service, lambda: Store(service.name, service.state), archive)
    assert not service.state.exists()
