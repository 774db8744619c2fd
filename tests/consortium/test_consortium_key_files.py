"""Keys in files: encrypted ones are what OpenSSL reads, and open with their passphrase alone."""

from __future__ import annotations

import shutil
import stat
import subprocess

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from hansa.consortium.identity import create_identity, load_identity, save_identity
from hansa.consortium.key_files import (
    PASSPHRASE_VARIABLE,
    Unlocking,
    check_passphrase,
    make_key_file,
    private_pem,
    read_key_file,
)
from hansa.errors import IdentityError

KEY = Ed25519PrivateKey.generate()
PASSPHRASE = b"six words drawn by dice"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.delenv(PASSPHRASE_VARIABLE, raising=False)
    save_identity(create_identity("north"), tmp_path / "n", PASSPHRASE)
    return tmp_path / "n"


def test_another_implementation_reads_what_is_written():
    pem = private_pem(KEY, PASSPHRASE)
    assert load_pem_private_key(pem, PASSPHRASE).private_bytes_raw() == KEY.private_bytes_raw()  # type: ignore[union-attr]
    with pytest.raises(ValueError):
        load_pem_private_key(pem, b"another passphrase")
    assert private_pem(KEY, PASSPHRASE) != pem
    assert KEY.private_bytes_raw() not in pem


@pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl")
def test_openssl_reads_what_is_written_and_how(tmp_path):
    (tmp_path / "key.pem").write_bytes(private_pem(KEY, PASSPHRASE))
    command = [
        "openssl",
        "pkey",
        "-in",
        tmp_path / "key.pem",
        "-passin",
        f"pass:{PASSPHRASE.decode()}",
        "-outform",
        "DER",
    ]
    assert subprocess.run(command, capture_output=True, check=True).stdout.endswith(KEY.private_bytes_raw())
    parsed = subprocess.run(
        ["openssl", "asn1parse", "-in", tmp_path / "key.pem"], capture_output=True, check=True
    ).stdout
    assert all(word in parsed for word in (b":PBES2", b":scrypt", b":aes-256-cbc", b"INTEGER           :4000"))


def test_no_file_of_an_encrypted_identity_holds_a_key(folder):
    loaded = load_identity(folder, Unlocking(ask=lambda _: PASSPHRASE.decode()))
    secret = (loaded.identity_key.private_bytes_raw(), loaded.tls_key.private_bytes_raw())
    for path in folder.iterdir():
        content = path.read_bytes()
        assert not any(key in content for key in secret)
        assert path.suffix == ".toml" or b"BEGIN PRIVATE KEY" not in content
    assert stat.S_IMODE((folder / "tls_key.pem").stat().st_mode) == 0o600


def test_the_passphrase_comes_from_file_environment_or_person_in_this_order(folder, tmp_path, monkeypatch):
    asked: list[str] = []

    def ask(question: str) -> str:
        asked.append(question)
        return PASSPHRASE.decode()

    with pytest.raises(IdentityError, match=r"nobody can be asked .*key_file.*HANSA_PASSPHRASE"):
        load_identity(folder)
    load_identity(folder, Unlocking(ask=ask))
    assert len(asked) == 1  # once for both keys
    monkeypatch.setenv(PASSPHRASE_VARIABLE, "not this passphrase")
    with pytest.raises(IdentityError, match="passphrase does not open this key"):
        load_identity(folder, Unlocking(ask=ask))
    key_file = tmp_path / "key"
    key_file.write_bytes(PASSPHRASE + b"\n")
    key_file.chmod(0o600)
    load_identity(folder, Unlocking(key_file, ask))
    assert len(asked) == 1


def test_a_wrong_passphrase_is_not_quoted_and_has_a_cure(folder):
    with pytest.raises(IdentityError, match=r"identity_key\.pem: the passphrase does not open this key") as caught:
        load_identity(folder, Unlocking(ask=lambda _: "surely not this one"))
    assert "surely" not in str(caught.value)
    assert "key file" in caught.value.cure


def test_key_files_are_private_long_enough_and_kept(tmp_path):
    path = tmp_path / "north.key"
    make_key_file(path)
    first = read_key_file(path)
    assert len(first) == 44
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    make_key_file(path)
    assert read_key_file(path) == first
    path.chmod(0o644)
    with pytest.raises(IdentityError, match=r"north\.key: mode 0644 .*passphrase; run `chmod 600"):
        read_key_file(path)
    path.chmod(0o600)
    path.write_text("short")
    with pytest.raises(IdentityError, match="has 5 bytes, expected at least 12"):
        read_key_file(path)
    with pytest.raises(IdentityError, match="No such file"):
        read_key_file(tmp_path / "none")


def test_a_key_file_for_keys_in_the_clear_is_refused(tmp_path):
    save_identity(create_identity("north"), tmp_path / "n")
    make_key_file(tmp_path / "key")
    with pytest.raises(IdentityError, match="the keys are not encrypted"):
        load_identity(tmp_path / "n", Unlocking(tmp_path / "key"))


def test_short_passphrases_protect_no_new_keys():
    assert check_passphrase(PASSPHRASE) == PASSPHRASE
    with pytest.raises(IdentityError, match=r"has 11 bytes.*at least 12"):
        check_passphrase(b"12345678901")
