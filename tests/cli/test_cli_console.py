"""`hansa console` and `hansa account`: where a console listens, what it asks for over a network, accounts, and the service's own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from hansa.console.book import Book
from hansa.service.config import read_service_file
from made_console import PASSWORD
from made_consortium import AGAIN, HUB, assert_refused, hansa, make_consortium
from made_services import write_service
from waiting import HANG_S, until


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_consortium(tmp_path_factory.mktemp("consortium"))


def password_file(folder: Path, text: str = PASSWORD) -> Path:
    path = folder / "password"
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_accounts_are_made_listed_changed_and_removed(folder: Path, tmp_path: Path):
    file = write_service(folder, "aurora", 7465, state=str(tmp_path / "state"))
    given = ("--service", file, "--password-file", password_file(tmp_path))
    made = hansa("account", "set", "anna", "--role", "officer", *given)
    assert made.output.strip() == "anna: officer"
    listed = hansa("account", "list", "--service", file, "--json")
    assert [(each["name"], each["role"]) for each in map(json.loads, listed.output.splitlines())] == [
        ("anna", "officer")
    ]
    assert "hashed" not in listed.output
    assert hansa("account", "set", "anna", "--role", "viewer", *given).output.strip() == "anna: viewer"
    assert hansa("account", "remove", "anna", "--service", file).output.strip() == "anna: removed"
    assert_refused(hansa("account", "remove", "anna", "--service", file), "there is no account 'anna'")
    told = hansa("account", "actions", "--service", file)
    assert next(line.split()[2:5] for line in told.output.splitlines()) == ["command:", "account", "set"]
    book = Book(read_service_file(file, open_keys=False).state)
    assert [action.what for action in book.actions(0, 9)] == ["account remove", "account set", "account set"]


def test_actions_that_were_altered_are_told(folder: Path, tmp_path: Path):
    file = write_service(folder, "aurora", 7465, state=str(tmp_path / "state"))
    book = Book(read_service_file(file, open_keys=False).state)
    for number in range(3):
        book.note("anna", "plans approve", str(number), "signed", done=True)
    assert len(hansa("account", "actions", "--service", file, "--json").output.splitlines()) == 3
    with contextlib.closing(sqlite3.connect(book.path)) as connection, connection:
        connection.execute("DELETE FROM actions WHERE number = 2")
    assert_refused(hansa("account", "actions", "--service", file), "action 2 was altered")


def test_a_password_comes_from_a_private_file_and_is_long(folder: Path, tmp_path: Path):
    file = write_service(folder, "aurora", 7465, state=str(tmp_path / "state"))
    given = ("account", "set", "anna", "--role", "officer", "--service", file)
    assert_refused(hansa(*given), "nobody can be asked for the password")
    short = password_file(tmp_path, "short")
    assert_refused(hansa(*given, "--password-file", short), "has 5 characters")
    short.chmod(0o644)
    assert_refused(hansa(*given, "--password-file", short), "others can read this password")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--listen", "0.0.0.0:0"), "needs --tls-certificate and --tls-key"),
        (("--listen", "7490"), "write an address and a port"),
        (("--listen", "127.0.0.1:99999"), "write an address and a port"),
        (("--tls-key", "KEY"), "go together"),
        (("--listen", "0.0.0.0:0", "--tls-certificate", "KEY", "--tls-key", "KEY"), "needs accounts"),
    ],
)
def test_a_console_over_a_network_needs_tls_and_accounts(
    folder: Path, tmp_path: Path, options: tuple[str, ...], words: str
):
    file = write_service(folder, "aurora", 7465, state=str(tmp_path / "state"))
    key = tmp_path / "key.pem"
    key.write_text("none")
    given = [str(key) if option == "KEY" else option for option in options]
    assert_refused(hansa("console", file, *given), words)


def test_missing_packages_are_named(folder: Path, monkeypatch: pytest.MonkeyPatch):
    file = write_service(folder, "aurora", 7465)
    monkeypatch.setitem(sys.modules, "hansa.console.server", None)
    monkeypatch.setitem(sys.modules, "hansa.console.accounts", None)
    assert_refused(hansa("console", file), "pip install 'hansa[console]'")
    given = ("--role", "viewer", "--service", file)
    assert_refused(hansa("account", "set", "anna", *given), "pip install 'hansa[console]'")


def test_an_address_that_cannot_be_taken_is_told(folder: Path, tmp_path: Path):
    file = write_service(folder, "aurora", 7465, state=str(tmp_path / "state"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert_refused(hansa("console", file, "--listen", f"127.0.0.1:{port}"), "cannot listen at", status=AGAIN)


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1 and its key, signed by itself."""
    from ipaddress import ip_address

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "console")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "console.pem", folder / "console.key"
    paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return paths


def test_a_console_is_reached_by_tls_and_ends_with_a_signal(folder: Path, tmp_path: Path):
    file = write_service(folder, "aurora", 7465, state=str(tmp_path / "state"))
    hansa("account", "set", "anna", "--role", "viewer", "--service", file, "--password-file", password_file(tmp_path))
    public, secret = certificate(tmp_path)
    options = (
        "--listen",
        "0.0.0.0:0",
        "--name",
        "console.example",
        "--tls-certificate",
        str(public),
        "--tls-key",
        str(secret),
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "hansa", "console", str(file), "--json", *options], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        assert ready["link"] == ""
        port = ready["address"].rpartition(":")[2].strip("/")
        context = ssl.create_default_context(cafile=str(public))
        request = urllib.request.Request(f"https://127.0.0.1:{port}/sign-in", headers={"Host": "console.example"})
        with urllib.request.urlopen(request, timeout=HANG_S, context=context) as answer:
            assert answer.status == 200
            assert answer.headers["Strict-Transport-Security"]
            assert answer.headers["Server"] is None
    finally:
        process.terminate()
        assert process.wait(HANG_S) == 128 + signal.SIGTERM


def test_a_service_shows_its_console_beside_it_and_ends_it(folder: Path, tmp_path: Path):
    file = write_service(folder, HUB, 0, state=str(tmp_path / "state"), console="127.0.0.1:0")
    log = tmp_path / "log"
    with log.open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "hansa", "aggregator", str(file), "--service"], stdout=subprocess.PIPE, stderr=err
        )
    try:
        until(lambda: "enter?token=" in log.read_text(), "the console's link")
        link = next(word for word in log.read_text().split() if "enter?token=" in word)
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        with opener.open(link, timeout=HANG_S) as answer:
            page = answer.read().decode()
        assert "link (operator)" in page
        assert "is not running" not in page
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    finally:
        process.terminate()
        process.communicate(timeout=HANG_S)
    for child in children:
        with pytest.raises(ProcessLookupError):
            os.kill(int(child), 0)
