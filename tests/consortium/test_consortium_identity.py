"""Identities: what they sign, how they are kept, what their certificates may do."""

from __future__ import annotations

import stat
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from hansa.consortium.identity import (
    CERTIFICATE_FILE,
    IDENTITY_KEY_FILE,
    TLS_KEY_FILE,
    check_name,
    create_identity,
    load_identity,
    renew_identity,
    save_identity,
    verify,
    verify_card,
)
from hansa.errors import IdentityError

NORTH = create_identity("north")


@given(st.text(min_size=1, max_size=9), st.text(min_size=1, max_size=9), st.binary(max_size=9))
def test_a_signature_verifies_for_its_purpose_only(purpose, other, message):
    signature = NORTH.sign(purpose, message)
    verify(NORTH.public, purpose, message, signature)
    if purpose != other:
        with pytest.raises(IdentityError, match="another purpose"):
            verify(NORTH.public, other, message, signature)


def test_purpose_and_message_cannot_be_moved_into_each_other():
    signature = NORTH.sign("plan", b"-A")
    with pytest.raises(IdentityError):
        verify(NORTH.public, "plan-A", b"", signature)
    with pytest.raises(IdentityError):
        verify(NORTH.public, "pla", b"n-A", signature)


def test_other_keys_messages_and_damaged_signatures_are_refused():
    signature = NORTH.sign("plan", b"message")
    for identity, message, given_signature in [
        (create_identity("south").public, b"message", signature),
        (NORTH.public, b"massage", signature),
        (NORTH.public, b"message", signature[:-1]),
        (NORTH.public, b"message", b""),
        (NORTH.public[:-1], b"message", signature),
    ]:
        with pytest.raises(IdentityError, match="does not verify"):
            verify(identity, "plan", message, given_signature)


@pytest.mark.parametrize("purpose", ["", "x" * 65536])
def test_purposes_have_a_length_that_fits_their_prefix(purpose):
    with pytest.raises(IdentityError, match="1 to 65535 bytes"):
        NORTH.sign(purpose, b"message")


@pytest.mark.parametrize("name", ["", "-north", "North", "north pole", "nörth", "n" * 64, "north\n", "a/b", "a.b"])
def test_names_that_cannot_name_a_member(name):
    with pytest.raises(IdentityError, match="cannot name a member"):
        create_identity(name)


@pytest.mark.parametrize("name", ["a", "0", "north-2", "n" * 63])
def test_names_that_can(name):
    assert check_name(name) == name


def test_the_certificate_is_a_leaf_for_signatures_and_nothing_else():
    now = datetime(2030, 1, 1, tzinfo=UTC)
    certificate = x509.load_der_x509_certificate(create_identity("north", days=7, now=now).certificate)
    assert certificate.subject.rfc4514_string() == certificate.issuer.rfc4514_string() == "CN=north"
    constraints, usage = certificate.extensions
    assert (constraints.critical, constraints.value.ca) == (True, False)
    assert (usage.critical, usage.value.digital_signature, usage.value.key_cert_sign) == (True, True, False)
    assert certificate.not_valid_after_utc == now + timedelta(days=7)
    assert now - timedelta(hours=2) < certificate.not_valid_before_utc < now
    certificate.verify_directly_issued_by(certificate)


@pytest.mark.parametrize("days", [0, -1, 3651])
def test_validity_has_bounds(days):
    with pytest.raises(IdentityError, match="1 to 3650 days"):
        create_identity("north", days=days)


def test_identity_and_tls_keys_differ_and_are_not_printed():
    assert NORTH.identity_key.public_key() != NORTH.tls_key.public_key()
    assert repr(NORTH) == "Identity(name='north')"


def test_renewal_keeps_the_identity_and_changes_the_rest():
    renewed = renew_identity(NORTH)
    assert (renewed.name, renewed.public) == (NORTH.name, NORTH.public)
    assert renewed.certificate != NORTH.certificate
    assert renewed.tls_key.public_key() != NORTH.tls_key.public_key()
    verify_card(renewed.card())


def test_save_and_load(tmp_path):
    folder = tmp_path / "keys" / "north"
    save_identity(NORTH, folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    loaded = load_identity(folder)
    assert loaded.card() == NORTH.card()
    assert loaded.tls_key.private_bytes_raw() == NORTH.tls_key.private_bytes_raw()


def test_an_identity_is_never_overwritten(tmp_path):
    save_identity(NORTH, tmp_path / "n")
    before = {path: path.read_bytes() for path in (tmp_path / "n").iterdir()}
    with pytest.raises(IdentityError, match=r"holds identity_key\.pem"):
        save_identity(create_identity("north"), tmp_path / "n")
    assert before == {path: path.read_bytes() for path in (tmp_path / "n").iterdir()}


def test_keys_are_not_written_where_others_can_look(tmp_path):
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o755)
    with pytest.raises(IdentityError, match="chmod 700"):
        save_identity(NORTH, folder)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("file", [IDENTITY_KEY_FILE, TLS_KEY_FILE])
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o644])
def test_keys_that_others_can_read_are_refused(tmp_path, file, mode):
    save_identity(NORTH, tmp_path / "n")
    (tmp_path / "n" / file).chmod(mode)
    with pytest.raises(IdentityError, match=rf"{file}: mode {mode:04o} .*chmod 600"):
        load_identity(tmp_path / "n")


@pytest.mark.parametrize("file", [IDENTITY_KEY_FILE, TLS_KEY_FILE, CERTIFICATE_FILE])
def test_missing_and_damaged_files_are_named(tmp_path, file):
    save_identity(NORTH, tmp_path / "n")
    path = tmp_path / "n" / file
    path.write_bytes(b"noise")
    with pytest.raises(IdentityError, match=rf"{file}: not a .*restore"):
        load_identity(tmp_path / "n")
    path.unlink()
    with pytest.raises(IdentityError, match=rf"{file}: No such file"):
        load_identity(tmp_path / "n")
    with pytest.raises(IdentityError, match="null byte"):
        load_identity(tmp_path / "n\0")


def test_files_of_two_identities_do_not_mix(tmp_path):
    save_identity(NORTH, tmp_path / "n")
    save_identity(create_identity("south"), tmp_path / "s")
    (tmp_path / "n" / TLS_KEY_FILE).write_bytes((tmp_path / "s" / TLS_KEY_FILE).read_bytes())
    with pytest.raises(IdentityError, match="belongs to another key"):
        load_identity(tmp_path / "n")


def test_keys_of_another_kind_are_refused(tmp_path):
    save_identity(NORTH, tmp_path / "n")
    other = generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "n" / IDENTITY_KEY_FILE).write_bytes(other)
    with pytest.raises(IdentityError, match="not an Ed25519 key"):
        load_identity(tmp_path / "n")
