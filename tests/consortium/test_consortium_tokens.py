"""Identity keys in a token: made by SoftHSM in a temporary folder, used for signatures, and never outside."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hansa.consortium.envelopes import sign
from hansa.consortium.identity import IDENTITY_KEY_FILE, TOKEN_FILE, load_identity, verify, verify_card
from hansa.consortium.members import read_members
from hansa.errors import IdentityError
from made_consortium import assert_refused, hansa, refused

MODULE = next(
    (
        path
        for path in map(Path, ("/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/softhsm/libsofthsm2.so"))
        if path.exists()
    ),
    None,
)
PIN, LABEL = "648219", "north"

pytestmark = pytest.mark.skipif(
    MODULE is None or shutil.which("softhsm2-util") is None, reason="needs SoftHSM (apt install softhsm2)"
)


@pytest.fixture(scope="module")
def token(tmp_path_factory):
    """A token in a folder of its own. SoftHSM reads its configuration once a process: one token for all tests."""
    pytest.importorskip("pkcs11")
    folder = tmp_path_factory.mktemp("softhsm")
    (folder / "tokens").mkdir()
    (folder / "softhsm2.conf").write_text(f"directories.tokendir = {folder / 'tokens'}\nobjectstore.backend = file\n")
    os.environ["SOFTHSM2_CONF"] = str(folder / "softhsm2.conf")
    command = ["softhsm2-util", "--init-token", "--free", "--label", LABEL, "--pin", PIN, "--so-pin", "5550000"]
    subprocess.run(command, check=True, capture_output=True)
    yield folder / "tokens"
    del os.environ["SOFTHSM2_CONF"]


@pytest.fixture
def pin(monkeypatch):
    monkeypatch.setenv("HANSA_PKCS11_PIN", PIN)


def made(folder: Path, name: str = "north", *options: str | Path):
    return hansa("init", name, "--folder", folder, "--no-passphrase", "--pkcs11", MODULE, "--token", LABEL, *options)


def test_an_identity_in_a_token_signs_and_its_key_is_in_no_file(tmp_path, token, pin):
    result = made(tmp_path / "id", "north", "--json")
    assert result.exit_code == 0, result.output
    assert not (tmp_path / "id" / IDENTITY_KEY_FILE).exists()
    assert (tmp_path / "id" / TOKEN_FILE).stat().st_mode & 0o077 == 0
    north = load_identity(tmp_path / "id")
    verify(north.public, "purpose", b"message", north.sign("purpose", b"message"))
    verify_card(north.card())
    assert read_members(tmp_path / "id" / "card.toml")["north"].identity == north.public
    assert len(sign(north, b"{}")) == 64
    assert PIN not in (tmp_path / "id" / TOKEN_FILE).read_text()
    shown = json.loads(result.stdout)
    assert shown["member"] == "north"


def test_the_token_does_not_give_the_key_away(tmp_path, token, pin):
    import pkcs11

    assert made(tmp_path / "id").exit_code == 0
    key = load_identity(tmp_path / "id").identity_key.private
    with pytest.raises(pkcs11.exceptions.AttributeSensitive):
        key[pkcs11.Attribute.VALUE]
    assert not key[pkcs11.Attribute.EXTRACTABLE]


def test_a_renewed_identity_keeps_its_key_in_the_token(tmp_path, token, pin):
    assert made(tmp_path / "old").exit_code == 0
    renewed = hansa("init", "north", "--folder", tmp_path / "new", "--renew", tmp_path / "old", "--no-passphrase")
    assert renewed.exit_code == 0, renewed.output
    old, new = load_identity(tmp_path / "old"), load_identity(tmp_path / "new")
    assert old.public == new.public
    assert old.certificate != new.certificate


def test_the_pin_may_stand_in_a_file_that_only_its_owner_reads(tmp_path, token, monkeypatch):
    monkeypatch.delenv("HANSA_PKCS11_PIN", raising=False)
    file = tmp_path / "north.pin"
    file.write_text(PIN + "\n")
    file.chmod(0o644)
    assert_refused(made(tmp_path / "id", "north", "--pin-file", file), "lets other accounts at a PIN")
    file.chmod(0o600)
    assert made(tmp_path / "id", "north", "--pin-file", file).exit_code == 0
    assert load_identity(tmp_path / "id").name == "north"


def test_what_cannot_be_is_refused(tmp_path, token, monkeypatch):
    monkeypatch.delenv("HANSA_PKCS11_PIN", raising=False)
    assert_refused(made(tmp_path / "id"), "there is no PIN", "HANSA_PKCS11_PIN")
    monkeypatch.setenv("HANSA_PKCS11_PIN", PIN)
    assert_refused(
        hansa("init", "north", "--no-passphrase", "--folder", tmp_path / "id", "--pkcs11", MODULE, "--token", "south"),
        "no token of this label",
    )
    assert_refused(hansa("init", "north", "--no-passphrase", "--token", LABEL), "--pkcs11 and --token go together")
    assert_refused(made(tmp_path / "id", "north", "--renew", tmp_path), "leave --pkcs11 and --token out")
    assert not (tmp_path / "id").exists()


def test_another_key_than_the_file_names_is_refused(tmp_path, token, pin):
    assert made(tmp_path / "one").exit_code == 0
    assert made(tmp_path / "two").exit_code == 0
    one, two = ((tmp_path / name / TOKEN_FILE).read_text().splitlines() for name in ("one", "two"))
    mixed = [other if line.startswith("id") else line for line, other in zip(one, two, strict=True)]
    (tmp_path / "one" / TOKEN_FILE).write_text("\n".join(mixed))
    with pytest.raises(IdentityError, match="holds another key under this id"):
        load_identity(tmp_path / "one")
    (tmp_path / "two" / TOKEN_FILE).write_text(
        "\n".join("id = 'ab'" if line.startswith("id") else line for line in two)
    )
    with pytest.raises(IdentityError, match="does not hold this member's key"):
        load_identity(tmp_path / "two")


def test_a_wrong_pin_is_refused_and_not_quoted(tmp_path, token, monkeypatch):
    """In a process of its own: one that is logged in is asked no more."""
    monkeypatch.setenv("HANSA_PKCS11_PIN", "000000")
    options = ["--no-passphrase", "--folder", tmp_path / "id", "--pkcs11", MODULE, "--token", LABEL]
    command = [sys.executable, "-m", "hansa", "init", "north", *map(str, options)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    refused((ended.returncode, ended.stdout, ended.stderr), "the PIN is wrong")
    assert "000000" not in ended.stdout + ended.stderr
    assert not (tmp_path / "id").exists()
