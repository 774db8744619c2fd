"""A service's back-up: an archive of what its runs left, its ledger with the ledger's key, and its console's accounts and actions.

It holds no key of the member, and no state of a run that is not over.

A state folder that is put back asks for what was answered already, and other members refuse it. So a run that was not over when the
back-up was made is given up where that is restored: all members begin it anew, by a new proposal.
"""

from __future__ import annotations

import contextlib
import io
import json
import sqlite3
import tarfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import msgspec
from msgspec.structs import replace

from hansa.errors import OutputError
from hansa.files import make_folder, read_whole, write_whole, writing
from hansa.service.config import CONSOLE_FILE, ServiceFile
from hansa.service.store import ServiceRun, Store
from hansa.trees.xgboost_json import MOST_BYTES

RUNS, LEDGER, LEDGER_KEY = "runs.json", "ledger", "ledger.key"
KEPT_FILES = ("plan.json", "record.json", "model.json", "model.sig", "model.sig.pem", "provenance.json", "events.jsonl")
"""Of each run's folder. The member's file is made anew by the service."""

MOST_FILES = 1_000_000


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
        for name, path in ((LEDGER, service.ledger), (LEDGER_KEY, _key_of(service.ledger))):
            if path.is_file():
                _add(archive, name, read_whole(path, MOST_BYTES))
    return len(runs)


def read_backup(service: ServiceFile, open_store: Callable[[], Store], archive: Path) -> list[str]:
    """Put an archive's content where the service has nothing yet; the runs that are given up by it.

    Raises OutputError where the service has runs already, or the file is no back-up; nothing is written then.
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
    store = open_store()
    if store.runs():
        store.close()
        raise OutputError(f"{service.path}: its database has runs already; a back-up is restored into an empty one")
    make_folder(service.runs)
    for name, content in found.items():
        if name in (LEDGER, LEDGER_KEY):
            path = service.ledger if name == LEDGER else _key_of(service.ledger)
        else:
            path = service.state / name
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
                known = entry.name in (RUNS, LEDGER, LEDGER_KEY, CONSOLE_FILE) or (
                    len(parts) == 3 and parts[0] == "runs" and parts[1].isalnum() and parts[2] in KEPT_FILES
                )
                file = opened.extractfile(entry) if entry.isfile() and known and entry.size <= MOST_BYTES else None
                if file is None or number >= MOST_FILES:
                    raise OutputError(f"{archive}: is no back-up of a service: it holds {entry.name!r:.100}")
                found[entry.name] = file.read()
    except (tarfile.TarError, OSError) as error:
        raise OutputError(f"{archive}: is no back-up of a service: {error}") from error
    return found


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
