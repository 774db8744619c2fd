"""One member's side of the set-up of a run's keys: commit where that is due, announce, check, confirm. Used by every mode with keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from hansa.consortium.identity import verify
from hansa.errors import ProtocolError
from hansa.protocol.messages import AnnounceKey, CommitKey, ConfirmKeys, ExchangeKeys, KeysCommitted, KeysConfirmed
from hansa.secure.keys import (
    HASH_BYTES,
    Announcement,
    PairKey,
    RunNames,
    announce,
    check_announcements,
    check_commitments,
    check_confirmation,
    commitment,
    confirmation,
    derive_pair_keys,
    fresh_key_pair,
    roster_hash,
)
from hansa.secure.mask_graph import neighbours
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
        drawn: whether keys draw a graph (`secure.mask_graph`), and so are committed to before anybody shows one.
        with_all: whether a drawn graph's member shares keys with all others, and not with its neighbours alone.

    Attributes:
        neighbours: the peers in the graph, all others where none is drawn; once exchanged.
        keys: the pair keys by peer, once exchanged. roster: 32 bytes that name run, members and keys. algorithm: agreed.
        confirmed: whether every other member proved that it holds the same key and roster.
    """

    def __init__(
        self,
        member: str,
        run: RunNames,
        signer: Signer,
        members: tuple[str, ...],
        drawn: bool = False,
        with_all: bool = True,
    ) -> None:
        self.neighbours: tuple[str, ...] = ()
        self.keys: dict[str, PairKey] = {}
        self.roster = b""
        self.algorithm: Algorithm = preferred_algorithm()
        self.confirmed = False
        self.run = run
        self._member = member
        self._signer = signer
        self._members = members
        self._pair = fresh_key_pair()
        self._drawn, self._with_all = drawn, with_all
        self._commitments: dict[str, bytes] = {}

    def commitment(self) -> CommitKey:
        """What binds this member to its key, where a graph is drawn."""
        return CommitKey(commitment(self.run, self._member, self._pair.public_key, self.algorithm))

    def committed(self, message: KeysCommitted) -> AnnounceKey:
        """Keep what everybody is bound to; only then show this member's own key. Raises ProtocolError."""
        if not self._drawn:
            raise ProtocolError("commitments to keys came in a run that draws no graph of masks")
        if sorted(message.commitments) != sorted(self._members):
            raise ProtocolError(
                f"commitments to keys came of {sorted(message.commitments)[:8]}; expected one of each of {len(self._members)} members",
                suspects=tuple(sorted({*message.commitments} ^ {*self._members}))[:8],
            )
        wrong = [member for member, given in sorted(message.commitments.items()) if len(given) != HASH_BYTES]
        if wrong:
            raise ProtocolError(
                f"member {wrong[0]!r}: a commitment to a key has {HASH_BYTES} bytes, not {len(message.commitments[wrong[0]])}",
                member=wrong[0],
            )
        if message.commitments[self._member] != self.commitment().commitment:
            raise ProtocolError(f"member {self._member!r} is shown as bound to another key than its own")
        self._commitments = dict(message.commitments)
        return self.announcement()

    def announcement(self) -> AnnounceKey:
        """This member's signed key for the run. Raises ProtocolError before all are bound to theirs, where a graph is drawn."""
        if self._drawn and not self._commitments:
            raise ProtocolError("a key would be shown before the others are bound to theirs")
        own = announce(self._pair, self.run, self._member, self.algorithm, self._signer.sign)
        return AnnounceKey(own.public_key, own.algorithm.value, own.signature)

    def exchange(self, message: ExchangeKeys) -> ConfirmKeys:
        """Check everybody's signed key against the pinned identities; derive the pair keys; prove that we hold them.

        Where a graph is drawn, all keys are checked against what their members were bound to, and the signatures of those with whom
        this member shares a key. These prove that they saw the same keys; each checks the signatures of its own.

        Raises IdentityError or ProtocolError naming the member whose key is wrong.
        """
        given = [
            Announcement(member, key, _algorithm(member, algorithm), signature)
            for member, key, algorithm, signature in message.keys
        ]
        if self._drawn:
            if not self._commitments:
                raise ProtocolError(
                    "keys came before commitments to them; rule: nobody chooses a key once others' are known"
                )
            announcements = check_commitments(given, self.run, self._commitments)
            self.neighbours = neighbours(self._member, self._members, roster_hash(self.run, announcements))
        else:
            self.neighbours = tuple(sorted({*self._members} - {self._member}))
        peers = self.neighbours if self._drawn and not self._with_all else self._members
        shared = {*peers, self._member}
        pinned = {member: self._signer.identities[member] for member in self._members if member in shared}
        of_peers = [each for each in given if not self._drawn or each.member in shared]
        checked = check_announcements(of_peers, self.run, pinned, verify)
        announcements = announcements if self._drawn else checked
        self.keys = derive_pair_keys(self._pair, self._member, checked, self.run)
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
