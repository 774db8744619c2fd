"""The members file lets in exactly those whose cards are in order, and says what is wrong with the others."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hansa.consortium.identity import (
    CARD_FILE,
    Card,
    Identity,
    card_toml,
    create_identity,
    renew_identity,
    save_identity,
)
from hansa.consortium.members import members_of, read_members, write_members
from hansa.errors import IdentityError

NOW = datetime.now(UTC)
NORTH, SOUTH = create_identity("north"), create_identity("south")


def forged(
    *,
    common_name: str = "north",
    ca: bool = False,
    constrained: bool = True,
    constraints_critical: bool = True,
    usage: tuple[str, ...] = ("digital_signature",),
    usage_critical: bool = True,
    extra: x509.ExtensionType | None = None,
    issuer_key: Ed25519PrivateKey | None = None,
    unit: str | None = None,
) -> Card:
    """North's card, properly signed by its identity, over a certificate that is not what it should be."""
    key = Ed25519PrivateKey.generate()
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
    if unit:
        attributes.append(x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit))
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name(attributes))
        .issuer_name(x509.Name(attributes))
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW - timedelta(hours=1))
        .not_valid_after(NOW + timedelta(days=1))
    )
    if constrained:
        builder = builder.add_extension(x509.BasicConstraints(ca, None), constraints_critical)
    if usage:
        builder = builder.add_extension(key_usage(usage), usage_critical)
    if extra:
        builder = builder.add_extension(extra, critical=False)
    certificate = builder.sign(issuer_key or key, None).public_bytes(Encoding.DER)
    return Identity("north", NORTH.identity_key, key, certificate).card()


def key_usage(allowed: tuple[str, ...]) -> x509.KeyUsage:
    names = [
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
    ]
    names += ["key_cert_sign", "crl_sign", "encipher_only", "decipher_only"]
    return x509.KeyUsage(**{name: name in allowed for name in names})


def elliptic() -> Card:
    key = generate_private_key(SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "north")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, NOW, NOW + timedelta(days=1))
    certificate = builder.sign(key, SHA256()).public_bytes(Encoding.DER)
    return Identity("north", NORTH.identity_key, NORTH.tls_key, certificate).card()


def one_key() -> Card:
    """Identity and TLS key are the same."""
    card = forged()
    key = Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "north")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, NOW, NOW + timedelta(days=1))
    for extension in x509.load_der_x509_certificate(card.certificate).extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    return Identity("north", key, key, builder.sign(key, None).public_bytes(Encoding.DER)).card()


def test_what_the_forger_makes_is_sound_unless_told_otherwise():
    assert members_of([forged()])["north"].name == "north"


@pytest.mark.parametrize(
    ("card", "message"),
    [
        (forged(ca=True), "CA:FALSE"),
        (forged(constrained=False), "CA:FALSE"),
        (forged(constraints_critical=False), "CA:FALSE"),
        (forged(usage=("digital_signature", "key_cert_sign")), "keyUsage"),
        (forged(usage=("key_agreement",)), "keyUsage"),
        (forged(usage=()), "keyUsage"),
        (forged(usage_critical=False), "keyUsage"),
        (forged(extra=x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])), "extendedKeyUsage"),
        (
            forged(extra=x509.SubjectAlternativeName([x509.DNSName("north")])),
            r"unexpected extensions 2\.5\.29\.17",
        ),
        (forged(common_name="south"), "names 'CN=south', expected 'CN=north'"),
        (forged(unit="more"), "expected 'CN=north'"),
        (forged(issuer_key=Ed25519PrivateKey.generate()), "damaged or not self-signed"),
        (elliptic(), "not Ed25519"),
        (one_key(), "one and the same"),
        (replace(NORTH.card(), certificate=b"noise"), "damaged"),
        (replace(NORTH.card(), certificate=NORTH.certificate[:-1]), "damaged"),
        (replace(NORTH.card(), identity=SOUTH.public), "not signed by its identity key"),
        (replace(NORTH.card(), identity=b"short"), "has 5 bytes, expected 32"),
        (replace(NORTH.card(), signature=SOUTH.card().signature), "not signed by its identity key"),
        (replace(NORTH.card(), signature=b""), "not signed by its identity key"),
        (
            replace(NORTH.card(), certificate=renew_identity(NORTH).certificate),
            "not signed by its identity key",
        ),
    ],
)
def test_cards_out_of_order_are_refused_by_name(card, message):
    with pytest.raises(IdentityError, match=rf"^member 'north'.*{message}"):
        members_of([SOUTH.card(), card])


def doubled(y: int) -> int:
    """y of the double of a point of edwards25519 (RFC 8032, section 5.1): -x^2 + y^2 = 1 + d x^2 y^2."""
    p = 2**255 - 19
    d = -121665 * pow(121666, -1, p) % p
    x_squared = (y * y - 1) * pow(d * y * y + 1, -1, p) % p
    return (y * y + x_squared) * pow(1 - d * x_squared * y * y, -1, p) % p


SMALL_ORDER = [
    "0000000000000000000000000000000000000000000000000000000000000000",  # order 4
    "0100000000000000000000000000000000000000000000000000000000000000",  # order 1
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",  # order 8
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",  # order 8
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",  # p - 1: order 2
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",  # p, which is 0: order 4
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",  # p + 1, which is 1: order 1
]
"""The points of small order as libsodium lists them (`ge25519_has_small_order`): every y, in every form that 255 bits allow."""


@pytest.mark.parametrize("sign", [0, 0x80])
@pytest.mark.parametrize("listed", SMALL_ORDER)
def test_identity_keys_of_small_order_are_refused(listed, sign):
    key = bytearray.fromhex(listed)
    assert doubled(doubled(doubled(int.from_bytes(key, "little") % (2**255 - 19)))) == 1
    key[31] |= sign
    with pytest.raises(IdentityError, match="'north': anybody can sign"):
        members_of([replace(NORTH.card(), identity=bytes(key))])


@pytest.mark.parametrize("y", [2, 3, 2**255 - 19 - 2, 2**255 - 19 - 3])
def test_identity_keys_beside_those_of_small_order_are_judged_by_their_signature(y):
    with pytest.raises(IdentityError, match="the card is not signed by its identity key"):
        members_of([replace(NORTH.card(), identity=y.to_bytes(32, "little"))])


def test_a_card_under_another_name_is_refused():
    with pytest.raises(IdentityError, match=r"^member 'west': the certificate names"):
        members_of([replace(NORTH.card(), name="west")])
    with pytest.raises(IdentityError, match="cannot name a member"):
        members_of([replace(NORTH.card(), name="../north")])


def test_dates_are_checked_at_both_ends():
    identity = create_identity("north", days=10, now=NOW)
    assert members_of([identity.card()], NOW + timedelta(days=9))
    with pytest.raises(
        IdentityError, match=r"'north': the certificate expired at .* renews its identity.*this machine's clock"
    ):
        members_of([identity.card()], NOW + timedelta(days=11))
    with pytest.raises(IdentityError, match=r"'north': the certificate is not valid before .* clock"):
        members_of([identity.card()], NOW - timedelta(days=1))


def test_no_two_members_share_anything():
    twin = Identity("twin", NORTH.identity_key, SOUTH.tls_key, create_identity("twin").certificate).card()
    with pytest.raises(IdentityError, match="'north' and 'north' have the same name"):
        members_of([NORTH.card(), renew_identity(NORTH).card()])
    with pytest.raises(IdentityError, match="'north' and 'twin' have the same identity key"):
        members_of([NORTH.card(), twin])
    with pytest.raises(IdentityError, match="the same name"):
        members_of([NORTH.card(), NORTH.card()])


def test_no_two_members_share_a_tls_key():
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "twin")])
    builder = x509.CertificateBuilder(name, name, NORTH.tls_key.public_key(), 1, NOW, NOW + timedelta(days=1))
    for extension in x509.load_der_x509_certificate(NORTH.certificate).extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    certificate = builder.sign(NORTH.tls_key, None).public_bytes(Encoding.DER)
    twin = Identity("twin", SOUTH.identity_key, NORTH.tls_key, certificate).card()
    with pytest.raises(IdentityError, match="'north' and 'twin' have the same TLS key"):
        members_of([NORTH.card(), twin], NOW + timedelta(minutes=1))


def test_members_are_a_mapping_that_does_not_change():
    circle = members_of([SOUTH.card(), NORTH.card()])
    assert list(circle) == ["north", "south"]
    assert circle["north"] == NORTH.card()
    assert circle.certificates() == {"north": NORTH.certificate, "south": SOUTH.certificate}
    with pytest.raises(TypeError):
        circle.cards["west"] = NORTH.card()


def test_write_and_read(tmp_path):
    circle = members_of([SOUTH.card(), NORTH.card()])
    write_members(tmp_path / "members.toml", circle)
    assert read_members(tmp_path / "members.toml") == circle


def test_card_files_joined_make_a_members_file_with_the_same_digest(tmp_path):
    for identity in (SOUTH, NORTH):
        save_identity(identity, tmp_path / identity.name)
    joined = "# ours\n\n" + "\n\n".join((tmp_path / n / CARD_FILE).read_text() for n in ("south", "north"))
    (tmp_path / "members.toml").write_text(joined.replace(" = ", "   =   "))
    circle = members_of([NORTH.card(), SOUTH.card()])
    assert read_members(tmp_path / "members.toml").digest() == circle.digest()
    assert len(circle.digest()) == 32


def test_the_digest_covers_every_field_of_every_member():
    circle = members_of([NORTH.card(), SOUTH.card()])
    card = NORTH.card()
    others = [
        replace(circle, cards={"north": card}),
        *(
            replace(
                circle,
                cards={**circle.cards, "north": replace(card, **{field: getattr(card, field) + more})},
            )
            for field, more in [("identity", b"x"), ("certificate", b"x"), ("signature", b"x")]
        ),
        replace(circle, cards={"west": card, "south": SOUTH.card()}),
        # A byte moved from one field to the next.
        replace(
            circle,
            cards={
                **circle.cards,
                "north": replace(card, identity=card.identity + card.certificate[:1], certificate=card.certificate[1:]),
            },
        ),
    ]
    assert len({each.digest() for each in [circle, *others]}) == 7


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected .*member.* tables"),
        ("member = 3", "expected .*member.* tables"),
        ("member = [3]", "member 1 is not a"),
        ("colour = 'red'\n" + card_toml(NORTH.card()), "found colour"),
        ("[[member]]\nname = 'north'", "member 1 .'north'.: identity is missing; add it"),
        (
            card_toml(NORTH.card()) + "note = 'x'\n",
            "key 'note' is not known; expected one of name, identity, certificate, signature",
        ),
        (card_toml(NORTH.card()).replace('"north"', "7"), "name is 7; expected a text"),
        (
            card_toml(NORTH.card()).replace('identity = "', 'identity = "*'),
            r"\('north'\): identity is '[*][^']*'; expected base64; ask that member for a new card",
        ),
        ("[[member", "not TOML"),
        (card_toml(NORTH.card()) * 2, "the same name"),
    ],
    ids=lambda text: (
        text if len(text) < 50 else "card"
    ),  # a card holds fresh keys, and names of tests are alike in every process
)
def test_files_out_of_order_are_refused_with_their_name(tmp_path, text, message):
    path = tmp_path / "members.toml"
    path.write_text(text)
    with pytest.raises(IdentityError, match=rf"members\.toml: (?s:.)*{message}"):
        read_members(path)


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe",
        b"a = \0",
        b"a = " + b"[" * 100_000,
        b"a = " + b"9" * 10_000,
        b"a = 0x" + b"f" * 10_000,
        b"a." * 5000 + b"a = 1",
    ],
    ids=["no UTF-8", "NUL", "arrays in arrays", "endless digits", "endless hex", "a long key"],
)
def test_whatever_is_no_members_file_is_refused_in_words(tmp_path, content):
    path = tmp_path / "members.toml"
    path.write_bytes(content)
    with pytest.raises(
        IdentityError, match=r"members\.toml: (not TOML|cannot be read|tables or lists|a is 0x|expected \[\[member\]\])"
    ):
        read_members(path)
    with pytest.raises(IdentityError, match="null byte"):
        read_members(tmp_path / "a\0b.toml")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(
        IdentityError, match=r"none\.toml: cannot be read: No such file or directory; name the members file"
    ):
        read_members(tmp_path / "none.toml")
    (tmp_path / "noise.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(IdentityError, match=r"noise.toml: cannot be read: .utf-8. codec"):
        read_members(tmp_path / "noise.toml")


def test_cards_one_after_another_are_a_members_file(tmp_path):
    """However short a card is: a writer of TOML may choose to put short tables on one line."""
    texts = [card_toml(Card(name, b"i", b"c", b"s")) for name in ("north", "south")]
    read = tomllib.loads("".join(texts))
    assert [table["name"] for table in read["member"]] == ["north", "south"]
    assert read["member"][0] == {"name": "north", "identity": "aQ==", "certificate": "Yw==", "signature": "cw=="}
