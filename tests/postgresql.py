"""A PostgreSQL server for tests: started in a new folder on a free port, stopped by its own process.

Tests that ask for it are skipped, visibly, where PostgreSQL is not installed. initdb refuses root: there it is another account's.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from waiting import HANG_S, until

USER = "hansa"
ACCOUNTS = ("postgres", "nobody")
"""Whose the server is where the tests run as root."""


def programs() -> Path | None:
    """The folder of initdb and postgres, of the newest version; None where there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3].split(".")[0]))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).resolve().parent if on_path else None


def why_not() -> str | None:
    """Why no server can be started here; None where one can."""
    if programs() is None:
        return "PostgreSQL is not installed (Debian: apt-get install postgresql)"
    try:
        import adbc_driver_postgresql.dbapi  # noqa: F401
    except ImportError:
        return "adbc-driver-postgresql is not installed"
    return None


@dataclass(frozen=True)
class Server:
    """A running server with an account that may do everything.

    Attributes:
        port: on 127.0.0.1. password: of the account `USER`.
    """

    port: int
    password: str = field(repr=False)

    @property
    def url(self) -> str:
        """As a member's file names it."""
        return f"postgresql://{USER}@127.0.0.1:{self.port}/postgres"

    def connect(self, **options: Any) -> Any:
        """A connection (ADBC's dbapi)."""
        from adbc_driver_postgresql import dbapi

        return dbapi.connect(self.url.replace(f"{USER}@", f"{USER}:{self.password}@"), **options)

    def run(self, *statements: str) -> None:
        """Run statements, and commit them."""
        with self.connect() as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            connection.commit()

    def load(self, name: str, table: Any) -> None:
        """Put an Arrow table into a new table of this name."""
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.adbc_ingest(name, table, mode="replace")
            connection.commit()


@contextmanager
def running() -> Iterator[Server]:
    """A server, while the block runs."""
    folder = Path(tempfile.mkdtemp(prefix="hansa-postgresql-"))
    try:
        with _running_in(folder) as server:
            yield server
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _running_in(folder: Path) -> Iterator[Server]:
    bin_folder = programs()
    assert bin_folder is not None
    account = _account()
    password = f"planted-{secrets.token_hex(8)}"
    data, secret = folder / "data", folder / "password"
    data.mkdir(mode=0o700)
    secret.write_text(password)
    options: dict[str, Any] = {"cwd": "/", "env": {"PATH": "/usr/bin:/bin", "LC_ALL": "C"}}
    if account is not None:
        folder.chmod(0o711)
        for path in (data, secret):
            os.chown(path, account.pw_uid, account.pw_gid)
        options |= {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    made = [bin_folder / "initdb", "-D", data, "-U", USER, f"--pwfile={secret}", "--auth=scram-sha-256", "--no-sync"]
    subprocess.run([*made, "--encoding=UTF8", "--locale=C"], check=True, capture_output=True, **options)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = ("listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off", "full_page_writes=off")
    command = [bin_folder / "postgres", "-D", data, "-p", str(port)]
    for setting in settings:
        command += ["-c", setting]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, **options)
        try:
            server = Server(port, password)
            until(lambda: _answers(server, process, folder / "log"), "the server's start")
            yield server
        finally:
            process.send_signal(signal.SIGINT)  # PostgreSQL's fast shutdown
            process.wait(HANG_S)


def _account() -> pwd.struct_passwd | None:
    """Whose the server is to be, where this process is root's."""
    if os.getuid():
        return None
    known = {each.pw_name: each for each in pwd.getpwall()}
    return next(known[name] for name in ACCOUNTS if name in known)


def _answers(server: Server, process: subprocess.Popen[bytes], log: Path) -> bool:
    assert process.poll() is None, f"the server did not start: {log.read_text(errors='replace')[-2000:]}"
    try:
        server.connect().close()
    except Exception:  # the driver's own kinds; the driver may not be imported before it is known to be there
        return False
    return True


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Server]:
    """The server that all tests of this process share; they leave each other's tables alone."""
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    with running() as server:
        yield server
