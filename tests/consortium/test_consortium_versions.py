"""A consortium's signed file: who must sign which change, that versions are chained, and what of keys follows from it."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hansa.consortium.envelopes import EnvelopeJson, encoded, opened, sealed, sign
from hansa.consortium.identity import create_identity, renew_identity
from hansa.consortium.members import members_of, read_members, write_members
from hansa.consortium.versions import (
    Consortium,
    VersionStatement,
    added,
    found,
    is_consortium,
    merged,
    read_consortium,
    read_pinned,
    removed,
    revoked,
    rotated,
    signed,
    without_pending,
    write_consortium,
)
from hansa.errors import HansaError, IdentityError

NAMES = ("north", "south", "west")
IDENTITIES = {name: create_identity(name) for name in (*NAMES, "east")}
NORTH, SOUTH, WEST, EAST = (IDENTITIES[name] for name in (*NAMES, "east"))
INVITATION = "ab" * 32


def by_all(consortium: Consortium, *names: str) -> Consortium:
    for name in names:
        consortium = signed(consortium, IDENTITIES[name])
    return consortium


BEGUN = found("nordic", [SOUTH.card(), WEST.card()], NORTH)
FOUNDED = by_all(BEGUN, "south", "west")


def written(consortium: Consortium, folder) -> Consortium:
    """As another member reads it."""
    write_consortium(folder / "c.json", consortium)
    return read_consortium(folder / "c.json")


def test_a_founded_consortium_holds_once_all_have_signed(tmp_path):
    assert BEGUN.head.missing == ("south", "west")
    write_consortium(tmp_path / "c.json", BEGUN)
    with pytest.raises(IdentityError, match="still lacks the signature of south, west") as caught:
        read_pinned(tmp_path / "c.json")
    assert caught.value.rule == "every version is signed as it must be"
    assert written(FOUNDED, tmp_path) == FOUNDED
    members = read_pinned(tmp_path / "c.json")
    assert dict(members) == dict(members_of(IDENTITIES[name].card() for name in NAMES))
    assert members.standing is not None
    assert members.standing.signers == {IDENTITIES[name].public for name in NAMES}
    assert (members.standing.version, members.standing.digest) == (1, FOUNDED.head.digest)


def test_a_members_file_is_read_too_and_has_no_standing(tmp_path):
    write_members(tmp_path / "m.toml", members_of([NORTH.card(), SOUTH.card()]))
    assert not is_consortium(tmp_path / "m.toml")
    assert read_pinned(tmp_path / "m.toml") == read_members(tmp_path / "m.toml")
    assert read_pinned(tmp_path / "m.toml").standing is None


def test_who_must_sign_each_change(tmp_path):
    more = added(FOUNDED, [EAST.card()], [INVITATION], NORTH)
    assert more.head.change.kind == "added"
    assert more.head.missing == ("east", "south", "west")
    more = by_all(more, *IDENTITIES)
    less = removed(more, "east", WEST)
    assert (less.head.change.kind, less.head.missing) == ("removed", ("north", "south"))
    by_others = revoked(more, "east", "laptop stolen", NORTH)
    assert by_others.head.missing in (("south", "west"), ("east",))
    assert by_all(by_others, "south", "west").head.missing == ()
    by_itself = revoked(more, "east", "laptop stolen", EAST)
    assert by_itself.head.missing == ()
    new = create_identity("south")
    turned = rotated(more, new, [SOUTH, new])
    assert (turned.head.change.kind, turned.head.missing) == ("rotated", ())
    alone = rotated(more, new, [new])
    assert alone.head.missing == ("south (earlier key)",)
    assert by_all(alone, "north", "west", "east").head.missing == ()
    renewed = rotated(more, renew_identity(SOUTH), [SOUTH])
    assert (renewed.head.change.kind, renewed.head.missing) == ("renewed", ())
    for made in (more, by_all(less, "north", "south"), by_itself, turned, renewed):
        assert written(made, tmp_path) == made


def test_an_old_key_cannot_add_remove_or_revoke_others():
    new = create_identity("south")
    turned = rotated(FOUNDED, new, [SOUTH, new])
    with pytest.raises(IdentityError, match="does not name this identity's key of 'south'"):
        removed(turned, "west", SOUTH)
    with pytest.raises(IdentityError, match="does not name this identity's key of 'east'"):
        added(FOUNDED, [create_identity("dune").card()], [INVITATION], EAST)
    assert removed(FOUNDED, "west", SOUTH).head.missing == ("north",)


def test_a_key_alone_does_not_vouch_for_its_successor():
    alone = found("solo", [], NORTH)
    new = create_identity("north")
    assert rotated(alone, new, [new]).head.missing == ("north (earlier key)",)


def test_a_revoked_key_is_never_taken_again_and_a_former_one_can_be_revoked():
    gone = revoked(FOUNDED, "west", "stolen", WEST)
    standing = gone.standing()
    assert standing.revoked[WEST.public].member == "west"
    with pytest.raises(IdentityError, match=r"revoked in version 2 \(stolen\)") as caught:
        added(gone, [WEST.card()], [INVITATION], NORTH)
    assert caught.value.rule == "a revoked key is never taken again"
    new = create_identity("south")
    turned = rotated(FOUNDED, new, [SOUTH, new])
    assert turned.standing().earlier == {SOUTH.public: "south"}
    assert gone.standing().former == {
        WEST.certificate: "of 'west', whose key was revoked in version 2 of the consortium's file (stolen)"
    }
    assert turned.standing().former == {SOUTH.certificate: "that 'south' had before; it is to use its present keys"}
    assert list(removed(FOUNDED, "west", NORTH).standing().former.values()) == ["of 'west', who is no member any more"]
    later = revoked(turned, "south", "disk sold", new, key=SOUTH.public)
    assert later.head.missing == ()
    assert set(later.head.members) == set(NAMES)
    assert later.standing().revoked[SOUTH.public].reason == "disk sold"
    with pytest.raises(IdentityError, match="never had the key"):
        revoked(turned, "south", "x", new, key=EAST.public)
    with pytest.raises(IdentityError, match="never had the key"):
        revoked(later, "south", "x", new, key=SOUTH.public)


def test_an_earlier_versions_members_are_read_with_what_is_known_since(tmp_path):
    """A run goes on with the members that it began with; a key that was revoked since is trusted no more all the same."""
    new, renewed = create_identity("south"), renew_identity(NORTH)
    made = rotated(rotated(FOUNDED, new, [SOUTH, new]), renewed, [NORTH])
    path = tmp_path / "c.json"
    write_consortium(path, made)
    first = read_pinned(path, version=1)
    assert (first["south"], first["north"]) == (SOUTH.card(), NORTH.card())
    assert first.digest() == members_of(IDENTITIES[name].card() for name in NAMES).digest()
    assert first.standing is not None
    assert first.standing.digests == tuple(own.digest for own in made.versions)
    assert first.had("south", new.public)
    assert set(first.keys_of("south")) == {SOUTH.public, new.public}
    assert set(first.former_certificates()) == {new.certificate, renewed.certificate}
    assert read_pinned(path, version=3) == read_pinned(path)
    write_consortium(path, revoked(made, "west", "stolen", WEST))
    since = read_pinned(path, version=1)
    assert since["west"] == WEST.card()
    assert set(since.certificates()) == {"north", "south"}
    assert "revoked in version 4" in since.former_certificates()[WEST.certificate]
    with pytest.raises(IdentityError, match="has 4 versions, and version 5 is asked for"):
        read_pinned(path, version=5)
    write_members(tmp_path / "m.toml", members_of([NORTH.card()]))
    with pytest.raises(IdentityError, match="which has no versions"):
        read_pinned(tmp_path / "m.toml", version=1)


def test_a_key_is_one_members_for_ever():
    left = by_all(removed(FOUNDED, "west", NORTH), "south")
    other = create_identity("dune")
    posing = type(other)("dune", WEST.identity_key, other.tls_key, other.certificate)
    with pytest.raises(IdentityError, match="the key of 'dune' was that of 'west'"):
        added(left, [posing.card()], [INVITATION], NORTH)


def test_refusals_that_people_meet():
    with pytest.raises(IdentityError, match="'south' is a member already"):
        added(FOUNDED, [SOUTH.card()], [INVITATION], NORTH)
    with pytest.raises(IdentityError, match="'east' is no member of nordic; its members are north, south, west"):
        removed(FOUNDED, "east", NORTH)
    with pytest.raises(IdentityError, match="cannot name a consortium"):
        found("No Name", [], NORTH)
    with pytest.raises(IdentityError, match="'east' is no member of nordic, so there is nothing to change"):
        rotated(FOUNDED, EAST, [EAST])
    with pytest.raises(IdentityError, match="a reason has 1 to 1000"):
        revoked(FOUNDED, "west", "", NORTH)
    with pytest.raises(IdentityError, match="changes nothing"):
        rotated(FOUNDED, SOUTH, [SOUTH])
    with pytest.raises(IdentityError, match="no member left"):
        removed(found("solo", [], NORTH), "north", NORTH)
    used = by_all(added(FOUNDED, [EAST.card()], [INVITATION], NORTH), *IDENTITIES)
    with pytest.raises(IdentityError, match="was used before") as caught:
        added(used, [create_identity("dune").card()], [INVITATION], NORTH)
    assert caught.value.rule == "an invitation is used once"
    pending = removed(FOUNDED, "west", NORTH)
    with pytest.raises(IdentityError, match="still lacks the signature of south"):
        removed(pending, "south", NORTH)
    assert without_pending(pending) == FOUNDED
    with pytest.raises(IdentityError, match="never signed by all of its founders"):
        without_pending(found("nordic", [SOUTH.card()], NORTH))


def test_copies_are_merged_and_two_histories_are_not():
    copies = [by_all(BEGUN, name) for name in ("south", "west")]
    assert merged(BEGUN, *copies) == FOUNDED
    longer = removed(FOUNDED, "west", NORTH)
    assert merged(longer, *copies) == longer == merged(FOUNDED, longer)
    other = removed(FOUNDED, "south", NORTH)
    with pytest.raises(IdentityError, match=r"two histories of nordic: their versions 2 differ"):
        merged(longer, other)


def test_clocks_differ_and_versions_still_follow(tmp_path):
    early = datetime.now(UTC) - timedelta(days=2)
    made = removed(FOUNDED, "west", NORTH, now=early)
    assert made.head.predicate.created == FOUNDED.head.predicate.created
    assert written(made, tmp_path) == made


def test_an_expired_certificate_keeps_nobody_from_renewing_it(tmp_path):
    old = create_identity("north", days=1, now=datetime.now(UTC) - timedelta(days=3))
    made = found("solo", [], old)
    write_consortium(tmp_path / "c.json", made)
    with pytest.raises(IdentityError, match=r"c\.json: member 'north': the certificate expired"):
        read_pinned(tmp_path / "c.json")
    new = renew_identity(old)
    write_consortium(tmp_path / "c.json", rotated(read_consortium(tmp_path / "c.json"), new, [new]))
    assert read_pinned(tmp_path / "c.json")["north"].certificate == new.certificate


LONG = revoked(by_all(added(FOUNDED, [EAST.card()], [INVITATION], NORTH), *IDENTITIES), "east", "stolen", EAST)


@pytest.fixture(scope="module")
def content(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("c") / "c.json"
    write_consortium(path, LONG)
    return path.read_bytes()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(data=st.data())
def test_no_byte_can_be_changed(content, tmp_path, data):
    """In a payload or a signature, that is: JSON has layouts that mean the same."""
    read = json.loads(content)
    envelope = data.draw(st.sampled_from(read["versions"]))
    place = data.draw(st.sampled_from([envelope, *envelope["signatures"]]))
    key = "payload" if place is envelope else "sig"
    raw = bytearray(base64.b64decode(place[key]))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    place[key] = base64.b64encode(raw).decode()
    (tmp_path / "c.json").write_text(json.dumps(read))
    with pytest.raises(HansaError):
        read_consortium(tmp_path / "c.json")


@pytest.mark.parametrize("left", [0, 1, (0, 1), "swapped"])
def test_versions_cannot_be_left_out_or_exchanged(content, tmp_path, left):
    read = json.loads(content)
    versions = read["versions"]
    if left == "swapped":
        versions[0], versions[1] = versions[1], versions[0]
    else:
        out = left if isinstance(left, tuple) else (left,)
        read["versions"] = [own for place, own in enumerate(versions) if place not in out]
    (tmp_path / "c.json").write_text(json.dumps(read))
    with pytest.raises(IdentityError, match="does not follow the version before it"):
        read_consortium(tmp_path / "c.json")


def forged(tmp_path, held: Consortium, *signers, subject=None, **changes) -> None:
    """Put a statement with other fields, signed by these, in place of the last version's."""
    write_consortium(tmp_path / "c.json", held)
    read = json.loads((tmp_path / "c.json").read_bytes())
    envelope = msgspec.convert(read["versions"][-1], EnvelopeJson)
    statement, _, _ = opened(envelope, VersionStatement, "it")
    predicate = msgspec.structs.replace(statement.predicate, **changes)
    payload = encoded(
        msgspec.structs.replace(statement, predicate=predicate, **({} if subject is None else {"subject": subject}))
    )
    made = sealed(payload, {identity.public: sign(identity, payload) for identity in signers})
    read["versions"][-1] = msgspec.to_builtins(made)
    (tmp_path / "c.json").write_text(json.dumps(read))
    read_consortium(tmp_path / "c.json")


def test_what_is_forged_is_refused_though_it_is_signed(tmp_path):
    everybody = (NORTH, SOUTH, WEST)
    lost = removed(FOUNDED, "west", NORTH)
    subject = opened(FOUNDED.head.envelope, VersionStatement, "it")[0].subject
    with pytest.raises(IdentityError, match="another subject"):
        forged(tmp_path, lost, NORTH, SOUTH, subject=subject)
    with pytest.raises(IdentityError, match="of no member with a role"):
        forged(tmp_path, FOUNDED, NORTH, SOUTH, WEST, EAST)
    with pytest.raises(IdentityError, match="does not follow"):
        forged(tmp_path, lost, *everybody, previous="0" * 64)
    with pytest.raises(IdentityError, match="does not follow"):
        forged(tmp_path, lost, *everybody, consortium="other")
    with pytest.raises(IdentityError, match="does not follow"):
        forged(tmp_path, lost, *everybody, created=datetime(2020, 1, 1, tzinfo=UTC))
    cards = lost.head.predicate.members
    with pytest.raises(IdentityError, match="in the order of their names"):
        forged(tmp_path, lost, *everybody, members=tuple(reversed(cards)))
    with pytest.raises(IdentityError, match="more than one thing"):
        forged(tmp_path, lost, *everybody, members=cards[:1])
    gone = revoked(FOUNDED, "west", "stolen", WEST)
    key = msgspec.structs.replace(gone.head.predicate.revoked[0], member="south")
    with pytest.raises(IdentityError, match="does not say whose key it revokes"):
        forged(tmp_path, gone, *everybody, revoked=(key,))
    back = removed(gone, "south", NORTH)
    with pytest.raises(IdentityError, match="revoked before"):
        forged(tmp_path, back, *everybody, revoked=())


def test_a_version_cannot_follow_one_that_was_not_signed(tmp_path):
    write_consortium(tmp_path / "c.json", LONG)
    read = json.loads((tmp_path / "c.json").read_bytes())
    read["versions"][1]["signatures"].pop()
    (tmp_path / "c.json").write_text(json.dumps(read))
    with pytest.raises(IdentityError, match=r"version 2 lacks the signature of \w+, and another follows"):
        read_consortium(tmp_path / "c.json")


def test_other_files_are_refused_in_words(tmp_path):
    for noise in (b"{", b"{}", b'{"versions": []}', b"\xff"):
        (tmp_path / "c.json").write_bytes(noise)
        with pytest.raises(IdentityError, match=r"c\.json: is no consortium's file"):
            read_consortium(tmp_path / "c.json")
