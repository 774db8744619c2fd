"""A service's back-up: an archive of what its runs left, its ledger with the ledger's key, its proposals, approvals that were taken
back, its console's accounts and actions, what was begun there (drafts, invitations, changes of members and keys, reports), and which
version of each members file was taken.

It holds no key of the member, and no state of a run that is not over.

A state folder that is put back asks for what was answered already, and other members refuse it. So a run that was not over when the
back-up was made is given up where that is restored: all members begin it anew, by a new proposal.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import sqlite3
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import msgspec
from msgspec.structs import replace

from hansa.consortium.envelopes import envelope_of
from hansa.consortium.invitations import invitation_of
from hansa.consortium.versions import consortium_of
from hansa.errors import HansaError, OutputError, in_words
from hansa.files import make_folder, read_whole, write_whole, writing
from hansa.service.config import CONSOLE_FILE, Consortium, ServiceFile
from hansa.service.proposals import AWAY_FOLDER
from hansa.service.seen_members import check_goes_on_from
from hansa.service.store import ServiceRun, Store
from hansa.trees.xgboost_json import MOST_BYTES

RUNS, LEDGER, LEDGER_KEY = "runs.json", "ledger", "ledger.key"
KEPT_FILES = ("plan.json", "record.json", "model.json", "model.sig", "model.sig.pem", "provenance.json", "events.jsonl")
"""Of each run's folder. The member's file is made anew by the service."""

MOST_FILES = 1_000_000

PROPOSALS, WITHDRAWALS = "proposals", "withdrawals"
STATEMENT = re.compile(r"[0-9a-f]{64}(-[a-z0-9-]+)?\.json")
"""A proposal, or a rejection of one by a member."""
TAKEN_AWAY = re.compile(r"[0-9a-f]{64}")
TAKEN_BACK = re.compile(r"\w[\w.@ -]*\.json")
"""A withdrawal: its name is the person's who brought it."""

NAME = r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}"
CHANGES, INVITATIONS, MEMBERS = "changes", "invitations", "members"
BESIDE = {
    "drafts": re.compile(rf"drafts/{NAME}\.toml"),
    CHANGES: re.compile(rf"changes/{NAME}\.json"),
    INVITATIONS: re.compile(rf"invitations/{NAME}/{NAME}\.json"),
    MEMBERS: re.compile(rf"members/{NAME}\.json"),
    "reports": re.compile(r"reports/[0-9a-z]+(\.html|-[a-z0-9-]+\.json)"),
}
"""Files that the console, and for `members` the service, keep in the state's folder, by the folder in it."""


def write_backup(service: ServiceFile, store: Store, save: Path) -> int:
    """Write the archive, for its owner only; how many runs it holds. The service may be running. Raises OutputError."""
    runs = store.runs()
    with writing(save) as partial, tarfile.open(partial, "w") as archive:
        _add(archive, RUNS, json.dumps(msgspec.to_builtins(runs)).encode())
        for run in runs:
            for name in KEPT_FILES if run.folder else ():
                path = service.runs / run.folder / name
                if path.is_file():
                    _add(archive, f"runs/{run.folder}/{name}", read_whole(path, MOST_BYTES))
        if (service.state / CONSOLE_FILE).is_file():
            _add(archive, CONSOLE_FILE, _copied(service.state / CONSOLE_FILE))
        for name, path in (
            (LEDGER, service.ledger),
            (LEDGER_KEY, _key_of(service.ledger)),
            *_statements(service),
            *_beside(service),
        ):
            if path.is_file():
                _add(archive, name, read_whole(path, MOST_BYTES))
    return len(runs)


def read_backup(service: ServiceFile, open_store: Callable[[], Store], archive: Path) -> list[str]:
    """Put an archive's content where the service has nothing yet; the runs that are given up by it.

    Raises OutputError where the service has runs already, or the file is no back-up; IdentityError where the members file is older than
    the one that the service had taken. Nothing is written then.
    """
    found = _content(archive)
    try:
        runs = msgspec.json.decode(found.pop(RUNS), type=tuple[ServiceRun, ...])
    except (KeyError, msgspec.DecodeError) as error:
        raise OutputError(f"{archive}: is no back-up of a service: {error}") from error
    if odd := [run.folder for run in runs if run.folder not in ("", run.run) or not run.run.isalnum()]:
        raise OutputError(f"{archive}: is no back-up of a service: a run has the folder {odd[0]!r:.100}")
    taken = [path for path in (service.runs, service.ledger, service.state / CONSOLE_FILE) if path.exists()]
    if taken:
        raise OutputError(
            f"{taken[0]}: is there already; a back-up is restored where a service has nothing yet, so that nothing newer is lost: "
            "move it away first"
        )
    places = {name: _place(service, name, archive) for name in found}
    for name, content in found.items():
        _check(service, name, content, archive)
    store = open_store()
    if store.runs():
        store.close()
        raise OutputError(f"{service.path}: its database has runs already; a back-up is restored into an empty one")
    make_folder(service.runs)
    for name, content in found.items():
        path = places[name]
        # What is there already may be newer: a withdrawal, and which version of a members file was taken.
        if not (name.startswith((f"{WITHDRAWALS}/", f"{MEMBERS}/")) and path.exists()):
            make_folder(path.parent)
            write_whole(path, content)
    lost = []
    for run in runs:
        if not run.over:
            lost.append(run.run)
            text = "a back-up was restored that does not have this run's state; propose the plan anew"
            run = replace(run, state="lost", text=text, waiting_for=())
        store.put(run)
    store.close()
    return lost


def _content(archive: Path) -> dict[str, bytes]:
    """The archive's files, by names that are known. Raises OutputError for any other."""
    found = {}
    try:
        with tarfile.open(archive, "r:") as opened:
            for number, entry in enumerate(opened):
                parts = PurePosixPath(entry.name).parts
                known = (
                    entry.name in (RUNS, LEDGER, LEDGER_KEY, CONSOLE_FILE) or _is_known(parts) or _is_beside(entry.name)
                )
                # A sparse entry of some bytes may say that it is a GiB of zeros.
                whole = entry.isfile() and not entry.issparse() and entry.size <= MOST_BYTES
                file = opened.extractfile(entry) if whole and known else None
                if file is None or number >= MOST_FILES:
                    raise OutputError(f"{archive}: is no back-up of a service: it holds {entry.name!r:.100}")
                found[entry.name] = file.read()
    except (tarfile.TarError, OSError) as error:
        raise OutputError(f"{archive}: is no back-up of a service: {in_words(error)}") from error
    return found


def _is_known(parts: tuple[str, ...]) -> bool:
    """Whether an archive may hold a file of this name in a folder."""
    match parts:
        case ("runs", run, name):
            return run.isalnum() and name in KEPT_FILES
        case ("proposals", _, name):
            return STATEMENT.fullmatch(name) is not None
        case ("proposals", _, folder, name):
            return folder == AWAY_FOLDER and TAKEN_AWAY.fullmatch(name) is not None
        case ("withdrawals", _, name):
            return TAKEN_BACK.fullmatch(name) is not None
    return False


def _is_beside(name: str) -> bool:
    """Whether the console or the service keeps a file of this name in the state's folder."""
    pattern = BESIDE.get(name.partition("/")[0])
    return pattern is not None and pattern.fullmatch(name) is not None


def _beside(service: ServiceFile) -> Iterator[tuple[str, Path]]:
    """What was begun in the console, and which members files were taken: names in an archive, and where they are."""
    for folder in BESIDE:
        for path in sorted((service.state / folder).rglob("*")):
            name = path.relative_to(service.state).as_posix()
            if _is_beside(name):
                yield name, path


def _folder_name(consortium: Consortium) -> str:
    """Of a consortium's files in an archive."""
    return consortium.name or "only"


def _statements(service: ServiceFile) -> Iterator[tuple[str, Path]]:
    """Proposals, rejections, marks of those that were taken away, and withdrawals: names in an archive, and where they are."""
    for consortium in service.consortia:
        own, folder = _folder_name(consortium), service.proposals_of(consortium)
        for path in (*folder.glob("*.json"), *(folder / AWAY_FOLDER).glob("*")):
            yield f"{PROPOSALS}/{own}/{path.relative_to(folder)}", path
        if consortium.withdrawals is not None:
            for path in consortium.withdrawals.glob("*.json"):
                yield f"{WITHDRAWALS}/{own}/{path.name}", path


def _place(service: ServiceFile, name: str, archive: Path) -> Path:
    """Where an archive's file belongs. Raises OutputError where it is of a consortium that the service's file does not have."""
    if name in (LEDGER, LEDGER_KEY):
        return service.ledger if name == LEDGER else _key_of(service.ledger)
    kind, *rest = PurePosixPath(name).parts
    if kind not in (PROPOSALS, WITHDRAWALS):
        return service.state / name
    own = [each for each in service.consortia if _folder_name(each) == rest[0]]
    if not own or (kind == WITHDRAWALS and own[0].withdrawals is None):
        raise OutputError(
            f"{archive}: has {kind} of the consortium {rest[0]!r:.100}, and {service.path} has no place for them: restore with the "
            "service's file as it was when the back-up was made"
        )
    folder = service.proposals_of(own[0]) if kind == PROPOSALS else own[0].withdrawals
    assert folder is not None  # a withdrawal has a folder
    return folder.joinpath(*rest[1:])


def _check(service: ServiceFile, name: str, content: bytes, archive: Path) -> None:
    """Refuse what would be trusted without another look: changes, invitations, and which version of a members file was taken.

    Raises OutputError where a signature or a form is wrong, or it is of another consortium; IdentityError where the members file is
    older than the one that the service had taken.
    """
    kind, *rest = PurePosixPath(name).parts
    if kind not in (CHANGES, INVITATIONS, MEMBERS):
        return
    where = f"{archive}, {name}"
    own = next((each for each in service.consortia if _folder_name(each) == rest[0].removesuffix(".json")), None)
    if own is None:
        raise OutputError(
            f"{where}: is of a consortium that {service.path} does not name: restore with the service's file as it was when the "
            "back-up was made"
        )
    standing = own.members.standing
    if kind == MEMBERS:
        check_goes_on_from(content, own.members, own.members_path, service.seen_of(own))
        return
    try:
        if kind == CHANGES:
            fits = standing is not None and consortium_of(content, where).versions[0].digest == standing.founded
        else:
            told = invitation_of(envelope_of(content, where), where).predicate
            fits = standing is not None and told.consortium == standing.name
            fits = fits and own.members.had(told.inviter, bytes.fromhex(told.identity))
    except HansaError as error:
        raise OutputError(f"{where}: cannot be restored: {error}") from error
    if not fits:
        raise OutputError(
            f"{where}: is of another consortium than {own.members_path}, or of a key that is none of its members'; restore with the "
            "members file of that one"
        )


def _copied(path: Path) -> bytes:
    """A file of SQLite as it is at one moment, though somebody writes it meanwhile. Raises OutputError."""
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=30)) as source:
            return source.serialize()
    except sqlite3.Error as error:
        raise OutputError(f"{path}: {error}; is the file damaged?") from error


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o600
    archive.addfile(entry, io.BytesIO(content))


def _key_of(ledger: Path) -> Path:
    return ledger.with_name(ledger.name + ".key")
