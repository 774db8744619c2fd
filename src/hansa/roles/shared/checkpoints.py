"""From where a coopetitive run goes on after a process ended: what members claim, what they agree on, and what all of them sign.

A *checkpoint* is a place between two rounds of boosting: 0 once all members joined, 1 with the cuts, 1 + r with the r-th round, and
`last_checkpoint` once training is over. What stands there are shares, so no member can say all of it: its *chain* is a hash over the
run's id, the start, and for each round the commitments to its three parts (`mpc.refresh`). Servers claim the chain at their last two
checkpoints; owners and receivers, who hold nothing of the rounds, that of the start.

`Claim.now` is the last checkpoint that a server knows all three to have kept: the one before its last, or its last one where they told
each other so. They do before anything is opened of a round.

An *epoch* is what lies between two starts, as in the other modes (`roles.summed.checkpoints`). Rules, each checked by every member:

1. The run, its roster and its plan stay. The number of the epoch rises.
2. The epoch goes on from the last checkpoint that all three servers have. Each keeps two, and writes one only when the others show that
   they have the shares of it: so whoever has neither has a folder that was put back.
3. No server is behind a checkpoint that another one knows it to have kept: nothing that was opened after a round is opened again for
   that round grown anew.
4. A member that signed a later epoch, or a server that signed a later checkpoint, than it claims has a folder that was put back.

No I/O. Nothing here is secret.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Set

from hansa.errors import ProtocolError, StateError
from hansa.mpc.refresh import Commitments
from hansa.plan import Plan
from hansa.protocol.messages import Claim, Mark
from hansa.roles.summed.checkpoints import RESTORE, Agreed, SignedCheckpoint
from hansa.secure.keys import encode_fields

JOINED, STARTED = 0, 1
"""The first two checkpoints."""


def last_checkpoint(plan: Plan) -> int:
    """The checkpoint where training is over, after however many rounds."""
    return plan.parameters.rounds + STARTED + 1


def start_of_chain(run: bytes) -> Mark:
    """Where all members have joined."""
    return Mark(JOINED, run)


def first_claim(run: bytes) -> Claim:
    """Of a member that has joined, and kept nothing yet."""
    return Claim(run, 0, JOINED, None, start_of_chain(run), start_of_chain(run))


def started(run: bytes, setup: bytes) -> Mark:
    """Where the start is known: `setup` is the encoded `TrainingSetup`."""
    digest = hashlib.sha256(setup).digest()
    return Mark(STARTED, hashlib.sha256(encode_fields("hansa shared start v1", run, digest)).digest())


def round_kept(mark: Mark, commitments: Commitments) -> Mark:
    """One round after `mark`."""
    chained = encode_fields("hansa shared round v1", mark.chain, mark.number + 1, *commitments)
    return Mark(mark.number + 1, hashlib.sha256(chained).digest())


def trained(plan: Plan, mark: Mark, rounds: int) -> Mark:
    """Where training is over, behind its last round; `rounds` of it are released."""
    chained = encode_fields("hansa shared model v1", mark.chain, rounds)
    return Mark(last_checkpoint(plan), hashlib.sha256(chained).digest())


def agree(plan: Plan, agreement: bytes, run: bytes, epoch: int, claims: Mapping[str, Claim]) -> Agreed:
    """The checkpoint that these claims lead to; `claims` has all of `Plan.participants`.

    Raises StateError naming a member whose claim does not fit the others', or two where it is one's word against another's.
    """
    for member, claim in claims.items():
        if claim.run != run:
            raise StateError(
                f"member {member!r} has the state of run {claim.run.hex()[:8]}, the others of {run.hex()[:8]}; {RESTORE}",
                member=member,
                rule="all members go on with one run",
                cure=RESTORE,
            )
        _check_form(plan, member, claim)
    last_epoch = max(claim.epoch for claim in claims.values())
    if epoch != last_epoch + 1:
        raise ProtocolError(f"epoch {epoch} is begun; expected {last_epoch + 1}")
    least = min(plan.servers, key=lambda name: (claims[name].checkpoint, name))
    mark = claims[least].head
    ahead: dict[str, int] = {}
    for member, claim in claims.items():
        known = claim.now.number if member in plan.servers else claim.checkpoint
        behind = known if known > mark.number else None
        if member in plan.servers and claim.head.number != mark.number:
            before = claim.before
            if before is None or before.number != mark.number:
                behind = claim.checkpoint
            elif before != mark:
                raise _different(least, member, mark.number)
        elif member in plan.servers and claim.head != mark:
            raise _different(least, member, mark.number)
        if behind is not None:
            ahead[member] = behind
    if ahead:
        raise _behind(least, mark.number, ahead, {*plan.servers} - {least})
    return Agreed(agreement, run, epoch, mark.number, mark, tuple(sorted(claims.items())))


def _check_form(plan: Plan, member: str, claim: Claim) -> None:
    """Raise ProtocolError where no run has what is claimed."""
    marks = [mark for mark in (claim.before, claim.head) if mark is not None]
    numbers = [mark.number for mark in marks]
    most = last_checkpoint(plan) if member in plan.servers else STARTED
    if (
        claim.checkpoint != claim.head.number
        or not 0 <= claim.checkpoint <= most
        or (claim.before is None) != (claim.checkpoint == JOINED)
        or sorted(set(numbers)) != numbers
        or claim.now not in (start_of_chain(claim.run), *marks)
        or min(claim.epoch, *numbers) < 0
    ):
        raise ProtocolError(f"member {member!r} claims a state that no run has", member=member)


def _behind(least: str, checkpoint: int, ahead: Mapping[str, int], others: Set[str]) -> StateError:
    """The error for a server behind what others know it to have kept; `ahead`: who knows, and where each is.

    Of three servers one may lie. So both others' word convicts the third; that of one of them, or of an owner, may be the lie.
    """
    member, behind = next(iter(ahead.items()))
    convicted = others <= {*ahead}
    why = (
        "the folder was put back to an earlier state"
        if convicted
        else (f"the folder was put back to an earlier state, or {member!r} claims what was not")
    )
    return StateError(
        f"the state folder of server {least!r} is at checkpoint {checkpoint}, and member {member!r} knows that all servers kept a "
        f"later one (it is at {behind}): {why}. {RESTORE}",
        member=least if convicted else "",
        suspects=() if convicted else tuple(sorted({least, *ahead})),
        rule="no server is more than one checkpoint behind",
        cure=RESTORE,
    )


def _different(one: str, other: str, checkpoint: int) -> StateError:
    return StateError(
        f"the state folders of servers {one!r} and {other!r} differ at checkpoint {checkpoint}, which both have: one of them computed "
        "other things, or its folder is damaged; begin a new run",
        suspects=tuple(sorted({one, other})),
        rule="all servers hold shares of the same",
    )


def check_before(plan: Plan, agreed: Agreed, before: SignedCheckpoint | None) -> None:
    """Refuse claims that fall behind what their members signed at the start of an earlier epoch. Raises StateError naming one."""
    if before is None:
        return
    signed = before.agreed
    for member, claim in agreed.claims:
        if claim.epoch < signed.epoch or (member in plan.servers and claim.checkpoint < signed.checkpoint):
            raise StateError(
                f"member {member!r} claims epoch {claim.epoch} and checkpoint {claim.checkpoint}, but signed epoch {signed.epoch} from "
                f"checkpoint {signed.checkpoint}: its state folder was put back to an earlier state; {RESTORE}",
                member=member,
                rule="no member goes back behind what it signed",
                cure=RESTORE,
            )
