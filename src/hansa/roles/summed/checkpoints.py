"""From where a run goes on after a process ended: what members claim, what they agree on, and what all of them sign.

A *checkpoint* is a place between two trees: 0 once all members joined, 1 with the cuts, one more with every tree, or all that grew side
by side (`side_by_side`: those of a round at most). What stands there is the list of all broadcasts of the run so far, chained by a hash
from the run's id. Everything that a party knows follows from that list and its rows, and so does the model: so members that hold one
chain hold one state.

An *epoch* is what lies between two starts. A new one begins where a process, or a line, was lost: every member claims how far its own
state folder is, all compute the same checkpoint from the claims, and all sign it with the number of the epoch. Rules, each checked by
every party by itself:

1. The run, its roster and its plan stay. The number of the epoch rises.
2. The epoch goes on from the last checkpoint that all have. No member is more than one ahead of it: whoever is, was there with the
   others, so somebody's folder was put back to an earlier state.
3. A member that signed a later epoch or checkpoint than it claims has a folder that was put back.
4. What was answered after the checkpoint is asked for again word for word. Another request in its place is refused: two answers to two
   requests would show more than one.

No I/O. Nothing here is secret.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from hansa.consortium.identity import verify
from hansa.errors import IdentityError, ProtocolError, StateError
from hansa.plan import Plan
from hansa.protocol.messages import Claim, Mark
from hansa.roles.key_setup import Signer
from hansa.secure.keys import encode_fields

SIGNING_PURPOSE = "hansa checkpoint v1"

RESTORE = "restore the folder as it was, or have every member remove its own and begin a new run"


def signers_of(plan: Plan) -> tuple[str, ...]:
    """The members who sign a checkpoint, sorted: the aggregator and all parties."""
    return tuple(sorted({plan.aggregator, *plan.parties}))


def left_out(plan: Plan, names: tuple[str, ...], remaining: tuple[str, ...]) -> tuple[str, ...]:
    """The parties that an epoch of these members goes on without, where the plan allows it.

    Args:
        names: who claims, sorted. remaining: the parties that there were before: whoever was left out then stays so.

    Raises ProtocolError: others than the plan's, or too few.
    """
    everybody = signers_of(plan)
    gone = tuple(sorted({*everybody} - {*names}))
    known = {plan.aggregator, *remaining}
    if tuple(sorted({*names})) != names or not {*names} <= known or plan.aggregator not in names:
        raise ProtocolError(
            f"claims came of {list(names)[:8]}; expected those of all members, sorted: {sorted(known)[:8]}"
        )
    if gone and (plan.on_dropout != "continue" or len(names) - 1 < plan.minimum_parties):
        raise ProtocolError(
            f"an epoch begins without {', '.join(gone)}; the plan has on_dropout = {plan.on_dropout!r} and at least "
            f"{plan.minimum_parties} parties",
            rule="nobody is left out against the plan",
        )
    return gone


def start_of_chain(run: bytes) -> Mark:
    """Before the first broadcast of a run."""
    return Mark(0, run)


def link(mark: Mark, kind: str, frame: bytes | memoryview) -> Mark:
    """The place after one more broadcast: of this kind, with these bytes."""
    digest = hashlib.sha256(frame).digest()
    return Mark(mark.number + 1, hashlib.sha256(encode_fields("hansa chain v1", mark.chain, kind, digest)).digest())


class Agreed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What all members sign at the start of a later epoch.

    Attributes:
        agreement: 32 bytes, what all hold alike (`roles.run.agreement`). run, epoch: which. checkpoint, mark: from where it goes on.
        claims: of every member, sorted.
    """

    agreement: bytes
    run: bytes
    epoch: int
    checkpoint: int
    mark: Mark
    claims: tuple[tuple[str, Claim], ...]

    def signed_bytes(self) -> bytes:
        """What is signed under `SIGNING_PURPOSE`."""
        claims = hashlib.sha256(msgspec.msgpack.encode(self.claims)).digest()
        return encode_fields(
            SIGNING_PURPOSE,
            self.agreement,
            self.run,
            self.epoch,
            self.checkpoint,
            self.mark.number,
            self.mark.chain,
            claims,
        )

    def start(self) -> bytes:
        """H(checkpoint | epoch): 32 bytes that the transcript of the epoch begins from."""
        return hashlib.sha256(encode_fields("hansa epoch v1", self.signed_bytes())).digest()


class SignedCheckpoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The record of an epoch's start that a member keeps: what all agreed on, and everybody's signature."""

    agreed: Agreed
    signatures: dict[str, bytes]


def agree(agreement: bytes, run: bytes, epoch: int, claims: Mapping[str, Claim]) -> Agreed:
    """The checkpoint that these claims lead to.

    Raises StateError naming a member whose claim does not fit the others'.
    """
    for member, claim in claims.items():
        if claim.run != run:
            raise StateError(
                f"member {member!r} has the state of run {claim.run.hex()[:8]}, the others of {run.hex()[:8]}; {RESTORE}",
                member=member,
                rule="all members go on with one run",
                cure=RESTORE,
            )
        marks = [mark for mark in (claim.before, claim.head, claim.now) if mark is not None]
        numbers = [mark.number for mark in marks]
        if sorted(numbers) != numbers or (claim.before is None) != (claim.checkpoint == 0) or claim.checkpoint < 0:
            raise ProtocolError(f"member {member!r} claims a state that no run has", member=member)
    last_epoch = max(claim.epoch for claim in claims.values())
    if epoch != last_epoch + 1:
        raise ProtocolError(f"epoch {epoch} is begun; expected {last_epoch + 1}")
    checkpoint = min(claim.checkpoint for claim in claims.values())
    least = min(claims, key=lambda name: (claims[name].checkpoint, name))
    ahead = max(claims, key=lambda name: claims[name].checkpoint)
    if claims[ahead].checkpoint > checkpoint + 1:
        raise StateError(
            f"the state folder of member {least!r} is {claims[ahead].checkpoint - checkpoint} checkpoints behind that of {ahead!r}; "
            f"nobody can be more than one behind: it was put back to an earlier state. {RESTORE}",
            member=least,
            rule="no member is more than one checkpoint behind",
            cure=RESTORE,
        )
    marks_there = {
        name: claim.head if claim.checkpoint == checkpoint else claim.before for name, claim in claims.items()
    }
    mark = marks_there[least]
    assert mark is not None  # its own head
    for name, own in marks_there.items():
        if own != mark:
            raise StateError(
                f"the state folders of members {least!r} and {name!r} differ at checkpoint {checkpoint}, which both have: one of them "
                f"was told other things, or its folder is damaged; begin a new run",
                suspects=tuple(sorted({least, name})),
                rule="all members received the same broadcasts",
            )
    return Agreed(agreement, run, epoch, checkpoint, mark, tuple(sorted(claims.items())))


def check_before(agreed: Agreed, before: SignedCheckpoint | None) -> None:
    """Refuse claims that fall behind what their members signed at the start of an earlier epoch. Raises StateError naming one."""
    if before is None:
        return
    for member, claim in agreed.claims:
        signed = before.agreed
        if claim.epoch < signed.epoch or claim.checkpoint < signed.checkpoint:
            raise StateError(
                f"member {member!r} claims epoch {claim.epoch} and checkpoint {claim.checkpoint}, but signed epoch {signed.epoch} from "
                f"checkpoint {signed.checkpoint}: its state folder was put back to an earlier state; {RESTORE}",
                member=member,
                rule="no member goes back behind what it signed",
                cure=RESTORE,
            )


def check_signatures(agreed: Agreed, signatures: Mapping[str, bytes], signer: Signer) -> SignedCheckpoint:
    """The record of the epoch's start, every signature checked against the pinned identities.

    Raises IdentityError naming the member whose signature is wrong or missing.
    """
    members = [member for member, _ in agreed.claims]
    if sorted(signatures) != members:
        raise ProtocolError(f"checkpoint signatures came of {sorted(signatures)[:8]}; expected {', '.join(members)}")
    for member in members:
        check_signature(agreed, member, signatures[member], signer)
    return SignedCheckpoint(agreed, dict(signatures))


def check_signature(agreed: Agreed, member: str, signature: bytes, signer: Signer) -> None:
    """Raise IdentityError naming the member unless it signed this checkpoint."""
    try:
        verify(signer.identities[member], SIGNING_PURPOSE, agreed.signed_bytes(), signature)
    except IdentityError as error:
        raise IdentityError(
            f"member {member!r}: its pinned identity did not sign this checkpoint, epoch and roster", member=member
        ) from error


@dataclass
class Promises:
    """What the broadcasts of a new epoch must be, as far as members answered them before.

    Args:
        agreed: from where the epoch goes on.
    """

    agreed: Agreed

    def __post_init__(self) -> None:
        self._due: dict[int, list[tuple[str, bytes]]] = {}
        for member, claim in self.agreed.claims:
            for mark in (claim.before, claim.head, claim.now):
                if mark is not None and mark.number > self.agreed.mark.number:
                    self._due.setdefault(mark.number, []).append((member, mark.chain))

    def check(self, mark: Mark, aggregator: str) -> None:
        """Refuse a broadcast that leads to another chain than one that a member answered. Raises ProtocolError."""
        for member, chain in self._due.pop(mark.number, ()):
            if chain != mark.chain:
                raise rewound(aggregator, mark.number, f"member {member!r}")


def rewound(aggregator: str, number: int, who: str) -> ProtocolError:
    """The error where an aggregator asks for something else in place of what was answered."""
    return ProtocolError(
        f"member {aggregator!r} (aggregator) sent another broadcast {number} than the one that {who} answered in an earlier epoch; "
        "rule: what was answered is asked for again word for word, since answers to two requests show more than one",
        member=aggregator,
        rule="what was answered is asked for again word for word",
        cure="do not go on with this aggregator before it has explained this",
    )
