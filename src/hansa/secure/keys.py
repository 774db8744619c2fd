"""Keys of one run between every two members: X25519, signed, confirmed, and erased at the end.

Each member draws a fresh X25519 key (RFC 7748) for a run, signs it with its pinned identity, and derives from
each peer's key

    K_ij = HKDF-SHA256(X25519(private_i, public_j), salt = plan hash,
                       info = purpose | run id | epoch | lower id | its key | higher id | its key)

(RFC 5869). Only members i and j hold K_ij. Masks and sealed messages take their own keys from it
(HKDF-Expand). A hub that swaps a key cannot sign it; one that shows members different rosters fails the key
confirmation.

Python copies bytes where it likes, so erasing is best effort: the buffers held here are zeroed, OpenSSL
zeroes its own, and short-lived copies that Python made are left to the allocator.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from hansa.errors import IdentityError, ProtocolError
from hansa.secure.prg import KEY_BYTES, Algorithm, fresh_key

HASH_BYTES = 32
SIGNING_PURPOSE = "hansa run key v1"

Sign = Callable[[str, bytes], bytes]
"""(purpose, message) -> signature under this member's pinned identity."""
Verify = Callable[[bytes, str, bytes, bytes], None]
"""(identity's public key, purpose, message, signature); raises IdentityError unless it is right."""


def encode_fields(purpose: str, *fields: bytes | str | int) -> bytes:
    """Canonical bytes of a purpose and fields, for hashing, signing and deriving keys.

    Injective: the number of fields stands first, and a type and a length before each, so that no two
    different lists of fields have the same bytes. Integers lie in [0, 2^64).
    """
    # Thousands of keys and messages are named in a second: one pass, and no call for each field.
    encoded = [_LENGTH.pack(len(fields) + 1)]
    for field in (purpose, *fields):
        if isinstance(field, str):
            body = field.encode()
            encoded += (_HEAD.pack(b"s", len(body)), body)
        elif isinstance(field, int):
            encoded.append(_HEAD.pack(b"i", 8) + field.to_bytes(8, "little"))
        else:
            encoded += (_HEAD.pack(b"b", len(field)), field)
    return b"".join(encoded)


_LENGTH = struct.Struct("<I")
_HEAD = struct.Struct("<cQ")


@dataclass(frozen=True, slots=True)
class RunNames:
    """What all keys of a run are bound to. All public.

    Attributes:
        plan_hash: 32 bytes, the hash of the plan's canonical bytes.
        run_id: 32 bytes, from `roles.run.run_id`.
        epoch: 0 at the start; one more each time that a member lost its state and all drew fresh keys.
    """

    plan_hash: bytes
    run_id: bytes
    epoch: int = 0

    def __post_init__(self) -> None:
        _check_hash("plan hash", self.plan_hash)
        _check_hash("run id", self.run_id)
        if not 0 <= self.epoch < 2**63:
            raise ProtocolError(f"an epoch is a number from 0 to 2^63 - 1, not {self.epoch}")


def _check_hash(name: str, value: bytes) -> None:
    if not isinstance(value, bytes) or len(value) != HASH_BYTES:
        raise ProtocolError(f"{name}: {HASH_BYTES} bytes expected, not {value!r}")


class RunKeyPair:
    """One member's X25519 key of one run. The private half never leaves this object."""

    __slots__ = ("_private", "public_key")

    def __init__(self, private: bytes | bytearray) -> None:
        """Take 32 secret bytes (`fresh_key_pair` draws them; only tests and vectors choose them)."""
        if len(private) != KEY_BYTES:
            raise ProtocolError(f"an X25519 private key has {KEY_BYTES} bytes, not {len(private)}")
        self._private: bytearray | None = bytearray(private)
        self.public_key: bytes = X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()

    def exchange(self, member: str, public_key: bytes) -> bytearray:
        """X25519 with `member`'s public key: 32 secret bytes. Refuses keys that give an all-zero secret."""
        if self._private is None:
            raise ProtocolError("this run's key was erased: erased keys are not used again; start a new run")
        return _exchange(self._private, member, public_key)

    def erase(self) -> None:
        """Zero the private key. The pair refuses further use; calling twice is safe."""
        if self._private is not None:
            self._private[:] = bytes(len(self._private))
            self._private = None


def fresh_key_pair() -> RunKeyPair:
    """A new key pair from the operating system's randomness."""
    private = fresh_key()
    pair = RunKeyPair(private)
    private[:] = bytes(KEY_BYTES)
    return pair


def _exchange(private: bytes | bytearray, member: str, public_key: bytes) -> bytearray:
    if len(public_key) != KEY_BYTES:
        raise ProtocolError(f"member {member!r}: a run key has {KEY_BYTES} bytes, not {len(public_key)}", member=member)
    secret = X25519PrivateKey.from_private_bytes(private)
    try:
        shared = bytearray(secret.exchange(X25519PublicKey.from_public_bytes(public_key)))
    except ValueError as error:
        raise _small_order(member) from error
    # The library refuses this already; a release that stopped doing so must not let it through.
    if hmac.compare_digest(shared, bytes(KEY_BYTES)):
        raise _small_order(member)
    return shared


def _small_order(member: str) -> ProtocolError:
    return ProtocolError(
        f"member {member!r}: its run key is all-zero or of small order, so anybody knows the shared secret;"
        " rule: an all-zero shared secret is refused. Do not go on with this member",
        member=member,
        rule="an all-zero shared secret is refused",
        cure="do not go on with this member",
    )


@dataclass(frozen=True, slots=True)
class Announcement:
    """A member's signed key for one run. All public.

    Attributes:
        member: the member's name.
        public_key: 32 bytes, X25519.
        algorithm: the stream cipher that the member's machine prefers.
        signature: of (plan hash, run id, epoch, member, key, algorithm) under the pinned identity.
    """

    member: str
    public_key: bytes
    algorithm: Algorithm
    signature: bytes


def announce(pair: RunKeyPair, run: RunNames, member: str, algorithm: Algorithm, sign: Sign) -> Announcement:
    """Sign `member`'s public key for one run with its pinned identity."""
    signature = sign(SIGNING_PURPOSE, announced_bytes(run, member, pair.public_key, algorithm))
    return Announcement(member, pair.public_key, algorithm, signature)


def announced_bytes(run: RunNames, member: str, public_key: bytes, algorithm: Algorithm) -> bytes:
    """The bytes that a member signs (under `SIGNING_PURPOSE`) to announce its key."""
    return encode_fields(SIGNING_PURPOSE, run.plan_hash, run.run_id, run.epoch, member, public_key, algorithm.value)


def commitment(run: RunNames, member: str, public_key: bytes, algorithm: Algorithm) -> bytes:
    """32 bytes by which a member is bound to its key before it shows it; a fresh key cannot be guessed from them.

    The member's name is in them: a commitment that another member repeats opens to nothing.
    """
    announced = announced_bytes(run, member, public_key, algorithm)
    return hashlib.sha256(encode_fields("hansa key commitment v1", announced)).digest()


def check_commitments(
    announcements: Iterable[Announcement], run: RunNames, commitments: Mapping[str, bytes]
) -> dict[str, Announcement]:
    """Check keys against what their members were bound to; the keys by member, sorted by name. No signature is checked here.

    Raises ProtocolError: a key that is not the one committed to; a member that is missing, unknown or comes twice; one key twice.
    """
    given = list(announcements)
    names = sorted(announcement.member for announcement in given)
    if names != sorted(commitments):
        raise ProtocolError(
            f"run keys came of {names[:8]}; expected one of each member that committed to one: {sorted(commitments)[:8]}",
            suspects=tuple(sorted({*names} ^ {*commitments}))[:8],
            rule="every member takes part in the set-up",
        )
    for announcement in given:
        member = announcement.member
        expected = commitment(run, member, announcement.public_key, announcement.algorithm)
        if not hmac.compare_digest(expected, commitments[member]):
            raise ProtocolError(
                f"member {member!r}: its run key is not the one that it committed to before it saw the others'; rule: nobody chooses"
                " a key once others' are known, since keys draw who masks with whom",
                member=member,
                rule="a key is the one committed to",
            )
    checked = {announcement.member: announcement for announcement in given}
    _check_distinct(checked)
    return {member: checked[member] for member in names}


def check_announcements(
    announcements: Iterable[Announcement], run: RunNames, identities: Mapping[str, bytes], verify: Verify
) -> dict[str, Announcement]:
    """Check signed keys against the list of members that everyone holds; the keys by member, sorted by name.

    Args:
        announcements: what the hub relayed, in any order.
        run: the run that the keys must be for.
        identities: pinned 32-byte Ed25519 public keys of exactly the members that take part.
        verify: checks one signature.

    Raises:
        IdentityError: a key that the member did not sign for this run and epoch; an unlisted member.
        ProtocolError: a member that is missing or comes twice; an all-zero or small-order key; one key twice.
    """
    checked: dict[str, Announcement] = {}
    for announcement in announcements:
        if announcement.member in checked:
            raise ProtocolError(
                f"member {announcement.member!r}: two run keys were announced; rule: one key a run and member",
                member=announcement.member,
                rule="one key a run and member",
            )
        _check_announcement(announcement, run, identities, verify)
        checked[announcement.member] = announcement
    missing = sorted(set(identities) - set(checked))
    if missing:
        raise ProtocolError(
            f"no run key of member(s) {', '.join(missing)}; rule: every member takes part in the set-up",
            rule="every member takes part in the set-up",
        )
    _check_distinct(checked)
    return {member: checked[member] for member in sorted(checked)}


def _check_announcement(
    announcement: Announcement, run: RunNames, identities: Mapping[str, bytes], verify: Verify
) -> None:
    member = announcement.member
    if member not in identities:
        raise IdentityError(f"member {member!r} announced a run key but does not take part in this run", member=member)
    if announcement.algorithm not in list(Algorithm):
        raise ProtocolError(f"member {member!r}: unknown stream cipher {announcement.algorithm!r}", member=member)
    algorithm = Algorithm(announcement.algorithm)
    message = announced_bytes(run, member, announcement.public_key, algorithm)
    try:
        verify(identities[member], SIGNING_PURPOSE, message, announcement.signature)
    except IdentityError as error:
        raise IdentityError(
            f"member {member!r}: its pinned identity did not sign this key for this plan, run and epoch;"
            " rule: keys are signed. Somebody may have put another key in its place",
            member=member,
            rule="keys are signed",
        ) from error
    # The secret is the same all-zero string for every scalar, so any scalar finds a small-order key.
    _exchange(bytes(KEY_BYTES), member, announcement.public_key)


def _check_distinct(announcements: Mapping[str, Announcement]) -> None:
    owners: dict[bytes, str] = {}
    for member, announcement in announcements.items():
        other = owners.setdefault(announcement.public_key, member)
        if other != member:
            raise ProtocolError(
                f"members {other!r} and {member!r} announced the same run key; rule: keys are fresh",
                suspects=(other, member),
                rule="keys are fresh",
            )


def roster_hash(run: RunNames, announcements: Mapping[str, Announcement]) -> bytes:
    """32 bytes that name the run, its members and their keys; part of every label and key confirmation."""
    fields: list[bytes | str | int] = [run.plan_hash, run.run_id, run.epoch]
    for member in sorted(announcements):
        announcement = announcements[member]
        fields += [member, announcement.public_key, announcement.algorithm.value]
    return hashlib.sha256(encode_fields("hansa roster v1", *fields)).digest()


class PairKey:
    """K_ij, held by `member` for its `peer`. Gives out derived keys only; zeroed by `erase`."""

    __slots__ = ("_claimed", "_key", "_keyed", "member", "peer")

    def __init__(self, key: bytes | bytearray, member: str, peer: str) -> None:
        if len(key) != KEY_BYTES or member == peer:
            raise ProtocolError(
                f"a pair key has {KEY_BYTES} bytes and two members, not {len(key)}, {member!r}, {peer!r}"
            )
        self._key: bytearray | None = bytearray(key)
        self._keyed = HMAC(self._key, SHA256())
        self._claimed: set[str] = set()
        self.member = member
        self.peer = peer

    def expand(self, info: bytes) -> bytearray:
        """HKDF-Expand(K_ij, info, 32 bytes) (RFC 5869, section 2.3): a secret only the pair can derive.

        32 bytes are its first block, HMAC-SHA256(K_ij, info | 1), here of a state that holds the key already.
        """
        if self._key is None:
            raise ProtocolError(f"the key shared with member {self.peer!r} was erased: erased keys are not used again")
        keyed = self._keyed.copy()
        keyed.update(info + b"\x01")
        return bytearray(keyed.finalize())

    def claim(self, use: str) -> None:
        """Let one object have a use of this key: two would repeat masks or nonces. Raises ProtocolError."""
        if use in self._claimed:
            raise ProtocolError(
                f"the key shared with member {self.peer!r} is in use for {use} already; rule: one masker,"
                " sealer and opener a peer and epoch. Fresh keys need a new epoch",
                rule="one masker, sealer and opener a peer and epoch",
                cure="fresh keys need a new epoch",
            )
        self._claimed.add(use)

    def erase(self) -> None:
        """Zero the key. The object refuses further use; calling twice is safe."""
        if self._key is not None:
            self._key[:] = bytes(len(self._key))
            self._key = None
            del self._keyed  # OpenSSL zeroes it


def derive_pair_keys(
    own: RunKeyPair, member: str, announcements: Mapping[str, Announcement], run: RunNames
) -> dict[str, PairKey]:
    """`member`'s key with every other one, by peer.

    Args:
        own: this member's key pair.
        member: this member's name.
        announcements: what `check_announcements` returned; it must hold this member's own key.
        run: what the keys are bound to.

    Raises ProtocolError naming the member whose key is wrong.
    """
    if member not in announcements or announcements[member].public_key != own.public_key:
        raise ProtocolError(
            f"member {member!r}: the roster does not hold the run key that this member announced", member=member
        )
    return {peer: _derive_pair_key(own, member, peer, announcements, run) for peer in announcements if peer != member}


def _derive_pair_key(
    own: RunKeyPair, member: str, peer: str, announcements: Mapping[str, Announcement], run: RunNames
) -> PairKey:
    low, high = sorted((member, peer))
    info = encode_fields(
        "hansa pair key v1",
        run.run_id,
        run.epoch,
        low,
        announcements[low].public_key,
        high,
        announcements[high].public_key,
    )
    shared = own.exchange(peer, announcements[peer].public_key)
    key = HKDF(SHA256(), KEY_BYTES, salt=run.plan_hash, info=info).derive(shared)
    shared[:] = bytes(len(shared))
    return PairKey(key, member, peer)


def confirmation(pair: PairKey, roster: bytes) -> bytes:
    """32 bytes that prove to the peer that this member holds K_ij and saw this roster (`roster_hash`)."""
    return _confirmation(pair, pair.member, pair.peer, roster)


def check_confirmation(pair: PairKey, roster: bytes, tag: bytes) -> None:
    """Check the peer's proof. Raises ProtocolError naming the peer; one's own tag sent back fails too."""
    if not hmac.compare_digest(_confirmation(pair, pair.peer, pair.member, roster), tag):
        raise ProtocolError(
            f"member {pair.peer!r}: its key confirmation is wrong; rule: both ends hold the same key and"
            " roster. The hub may have shown it other members or keys",
            member=pair.peer,
            rule="both ends hold the same key and roster",
        )


def _confirmation(pair: PairKey, sender: str, receiver: str, roster: bytes) -> bytes:
    _check_hash("roster hash", roster)
    key = pair.expand(encode_fields("hansa key confirmation v1", sender, receiver))
    return hmac.digest(key, roster, "sha256")
