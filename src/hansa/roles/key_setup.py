"""One member's side of the set-up of a run's keys: announce, check, confirm. Used by every mode that has keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from hansa.consortium.identity import verify
from hansa.errors import ProtocolError
from hansa.protocol.messages import AnnounceKey, ConfirmKeys, ExchangeKeys, KeysConfirmed
from hansa.secure.keys import (
    Announcement,
    PairKey,
    RunNames,
    announce,
    check_announcements,
    check_confirmation,
    confirmation,
    derive_pair_keys,
    fresh_key_pair,
    roster_hash,
)
from hansa.secure.prg import Algorithm, agreed_algorithm, preferred_algorithm


@dataclass(frozen=True)
class Signer:
    """A member's own signature, and the identities that all members pinned.

    Attributes:
        sign: (purpose, message) -> signature under the member's identity.
        identities: name -> Ed25519 public key (32 bytes), of every member of the plan.
    """

    sign: Callable[[str, bytes], bytes]
    identities: Mapping[str, bytes]


class KeySetup:
    """The keys that one member shares with every other one in one run.

    Args:
        member: this member. run: plan, run and epoch. signer: see `Signer`. members: everybody who takes part.

    Attributes:
        keys: the pair keys by peer, once exchanged. roster: 32 bytes that name run, members and keys. algorithm: agreed.
        confirmed: whether every other member proved that it holds the same key and roster.
    """

    def __init__(self, member: str, run: RunNames, signer: Signer, members: tuple[str, ...]) -> None:
        self.keys: dict[str, PairKey] = {}
        self.roster = b""
        self.algorithm: Algorithm = preferred_algorithm()
        self.confirmed = False
        self.run = run
        self._member = member
        self._signer = signer
        self._members = members
        self._pair = fresh_key_pair()

    def announcement(self) -> AnnounceKey:
        """This member's signed key for the run."""
        own = announce(self._pair, self.run, self._member, self.algorithm, self._signer.sign)
        return AnnounceKey(own.public_key, own.algorithm.value, own.signature)

    def exchange(self, message: ExchangeKeys) -> ConfirmKeys:
        """Check everybody's signed key against the pinned identities; derive the pair keys; prove that we hold them.

        Raises IdentityError or ProtocolError naming the member whose key is wrong.
        """
        given = [
            Announcement(member, key, _algorithm(member, algorithm), signature)
            for member, key, algorithm, signature in message.keys
        ]
        pinned = {member: self._signer.identities[member] for member in self._members}
        announcements = check_announcements(given, self.run, pinned, verify)
        self.keys = derive_pair_keys(self._pair, self._member, announcements, self.run)
        self._pair.erase()
        self.roster = roster_hash(self.run, announcements)
        self.algorithm = agreed_algorithm([a.algorithm for a in announcements.values()])
        return ConfirmKeys({peer: confirmation(key, self.roster) for peer, key in self.keys.items()})

    def confirm(self, message: KeysConfirmed) -> None:
        """Check that every other member holds the same key and roster. Raises ProtocolError naming the one that does not."""
        if set(message.tags) != set(self.keys):
            raise ProtocolError(
                f"key confirmations came from {sorted(message.tags)}; expected one from each of {sorted(self.keys)}",
                suspects=tuple(sorted({*message.tags} ^ {*self.keys})),
            )
        for peer, key in self.keys.items():
            check_confirmation(key, self.roster, message.tags[peer])
        self.confirmed = True

    def erase(self) -> None:
        """Zero all keys."""
        self._pair.erase()
        for key in self.keys.values():
            key.erase()


def _algorithm(member: str, name: str) -> Algorithm:
    try:
        return Algorithm(name)
    except ValueError as error:
        raise ProtocolError(f"member {member!r}: unknown stream cipher {name[:40]!r}", member=member) from error
