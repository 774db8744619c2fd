"""`hansa init`: encrypted keys, a key file for services, fingerprints as words; the earlier name is refused."""

from __future__ import annotations

import json

import pytest

from hansa.consortium.identity import load_identity
from hansa.consortium.key_files import PASSPHRASE_VARIABLE, Unlocking, is_encrypted
from hansa.consortium.words import words_of
from made_consortium import HUB, PARTIES, Consortium, assert_refused, hansa, write_member

PASSPHRASE = "six words drawn by dice"


@pytest.fixture(autouse=True)
def no_passphrase(monkeypatch):
    monkeypatch.delenv(PASSPHRASE_VARIABLE, raising=False)


def test_the_earlier_name_is_refused_with_the_new_one():
    done = hansa("identity", "aurora")
    assert done.exit_code == 2
    assert "`hansa identity` is `hansa init` now" in done.stderr


def test_keys_are_encrypted_unless_it_is_said_visibly(tmp_path, monkeypatch):
    folder = tmp_path / "aurora.identity"
    assert_refused(hansa("init", "aurora", "--folder", folder), "nobody can be asked", PASSPHRASE_VARIABLE)
    assert not folder.exists()
    monkeypatch.setenv(PASSPHRASE_VARIABLE, "too short")
    assert_refused(hansa("init", "aurora", "--folder", folder), "at least 12")
    monkeypatch.setenv(PASSPHRASE_VARIABLE, PASSPHRASE)
    made = json.loads(hansa("init", "aurora", "--folder", folder, "--json").stdout)
    assert made["encrypted"] is True
    assert all(is_encrypted((folder / name).read_bytes()) for name in ("identity_key.pem", "tls_key.pem"))
    assert made["words"] == words_of(load_identity(folder).public)
    plain = hansa("init", "aurora", "--folder", tmp_path / "plain", "--no-passphrase")
    assert "not encrypted" in plain.stderr
    assert words_of(load_identity(tmp_path / "plain").public) in plain.stdout


def test_a_renewal_encrypts_keys_that_lay_in_the_clear(tmp_path):
    old, new, key = tmp_path / "old", tmp_path / "new", tmp_path / "key"
    assert hansa("init", "aurora", "--folder", old, "--no-passphrase").exit_code == 0
    done = hansa("init", "aurora", "--renew", old, "--folder", new, "--key-file", key)
    assert done.exit_code == 0, done.output
    assert load_identity(new, Unlocking(key)).public == load_identity(old).public
    wrong = tmp_path / "none"
    refused = hansa("init", "aurora", "--renew", new, "--folder", tmp_path / "x", "--key-file", wrong)
    assert_refused(refused, "no such file")
    assert not wrong.exists()
    again = hansa("init", "aurora", "--renew", new, "--folder", tmp_path / "x", "--key-file", key)
    assert again.exit_code == 0, again.output
    assert_refused(hansa("init", "a", "--key-file", key, "--no-passphrase"), "exclude each other")


def test_members_run_with_encrypted_keys_and_nobody_at_the_terminal(consortium: Consortium):
    folder = consortium.folder
    for name in (HUB, *PARTIES):
        own = folder / f"{name}.encrypted"
        key = folder / f"{name}.key"
        assert hansa("init", name, "--folder", own, "--key-file", key).exit_code == 0
    cards = [folder / f"{name}.encrypted" / "card.toml" for name in (HUB, *PARTIES)]
    shown = hansa("members", *cards, "--save", folder / "members.toml").stdout
    assert words_of(load_identity(folder / "hub.encrypted", Unlocking(folder / "hub.key")).public) in shown
    hub, port = consortium.start_hub(identity="hub.encrypted", key_file="hub.key")
    parties = [
        consortium.start_party(name, port, identity=f"{name}.encrypted", key_file=f"{name}.key") for name in PARTIES
    ]
    assert [party.end()[0] for party in (*parties, hub)] == [0, 0, 0]
    path = write_member(folder, "aurora", 1, identity="aurora.encrypted")
    assert_refused(hansa("party", path), "encrypted", "key_file")
    path = write_member(folder, "aurora", 1, identity="aurora.encrypted", key_file="borealis.key")
    assert_refused(hansa("party", path), "passphrase does not open this key")
    path = write_member(folder, "aurora", 1, identity="aurora.encrypted", key_file="none.key")
    assert_refused(hansa("party", path), "none.key: No such file")
