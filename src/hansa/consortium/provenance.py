"""Where a model file comes from: a statement that each member who has the file signs, beside the model and not in it (`envelopes`).

The statement's subject is the file. Its predicate says which plan, mode and run made it, between which members, and who received it;
and it has the plan's approvals where members signed it. It holds nothing of rows: not their number, and no metric.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from hansa.consortium.approvals import Proposal, check_not_revoked, proposal_of
from hansa.consortium.envelopes import (
    STATEMENT_TYPE,
    Digest,
    EnvelopeJson,
    Hex32,
    InTotoStatement,
    Moment,
    Subject,
    encoded,
    opened,
    read_envelope,
    sealed,
    sign,
    verified,
    written,
)
from hansa.consortium.identity import Identity
from hansa.consortium.members import Members
from hansa.consortium.model_signature import verify_signature
from hansa.errors import IdentityError, PlanError, in_words
from hansa.files import MOST_MODEL_BYTES, read_whole, write_whole
from hansa.plan import Plan

PROVENANCE_TYPE: Final = "urn:hansa:model-provenance:1"

Transcript = Annotated[str, Meta(pattern=r"\A([0-9a-f]{64})?\Z")]
RunId = Annotated[str, Meta(pattern=r"\A[0-9a-f]{16,128}\Z")]


class ProvenancePredicate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a model was made.

    Attributes:
        plan, plan_name, mode: the plan's digest, its name and mode. run: the run's id, the same at every member.
        members: of everybody with a role, the identity key in hex. parties, receivers: names among them.
        member: who says this. hansa: the version that it ran. finished: when.
        transcript: a hash over all that this member sent and received in the run (`transcript_digest`); "" where nothing passed.
        release_key: PEM of the key that made the OpenSSF model signature (`model_signature`); "" where there is none.
        approvals: the proposal that the plan was, with its signatures; None where members signed none.
        left_out: parties that the run went on without, which have no model of it.
    """

    plan: Hex32
    plan_name: str
    mode: str
    run: RunId
    members: dict[str, Hex32]
    parties: tuple[str, ...]
    receivers: tuple[str, ...]
    member: str
    hansa: str
    finished: Moment
    transcript: Transcript
    release_key: Annotated[str, Meta(max_length=1000)]
    approvals: EnvelopeJson | None
    left_out: tuple[str, ...] = ()


class ProvenanceStatement(InTotoStatement, frozen=True, forbid_unknown_fields=True):
    """Where a model comes from. The subject is the model's file."""

    predicate_type: Literal["urn:hansa:model-provenance:1"] = msgspec.field(name="predicateType")
    predicate: ProvenancePredicate


class Verified(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `hansa verify --json` prints.

    Attributes:
        model: the file's SHA-256. plan, plan_name, mode, run, parties, receivers: what all statements say alike.
        vouching: the members whose statements were given, each with when its run finished.
        approved_by: members that signed the plan before the run; empty where it was not signed.
        revoked_since: members whose keys of that time are trusted no more.
        transcripts: by member, as its statement has it. signed_by: whose model signature was checked; "" for none.
        left_out: parties that the run went on without.
    """

    model: str
    plan: str
    plan_name: str
    mode: str
    run: str
    parties: tuple[str, ...]
    receivers: tuple[str, ...]
    vouching: dict[str, datetime]
    approved_by: tuple[str, ...]
    revoked_since: tuple[str, ...]
    transcripts: dict[str, str]
    signed_by: str = ""
    left_out: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """For people."""
        approved = f"signed by {', '.join(self.approved_by)}" if self.approved_by else "not signed before the run"
        return [
            f"model {self.model}",
            f"plan {self.plan_name}, mode {self.mode}, digest {self.plan}: {approved}",
            f"run {self.run} of the parties {', '.join(self.parties)}; received by {', '.join(self.receivers)}",
            *(
                f"{name} vouches for it: finished {at:%Y-%m-%d %H:%M} UTC, transcript {self.transcripts[name] or 'none'}"
                for name, at in sorted(self.vouching.items())
            ),
            *(f"{name}: its key of that time was revoked since" for name in self.revoked_since),
            *([f"from some tree on without {', '.join(self.left_out)}"] if self.left_out else []),
            *([f"OpenSSF model signature by a key of {self.signed_by}: it holds"] if self.signed_by else []),
        ]


@dataclass(frozen=True)
class FinishedRun:
    """What a member knows of a run that gave it a model. `model_sha256`, `run`: hex; `identities`: of everybody with a role."""

    plan: Plan
    identities: dict[str, bytes]
    model_name: str
    model_sha256: str
    run: str
    hansa: str
    proposal: Proposal | None
    transcript: str = ""
    release_key: str = ""
    left_out: tuple[str, ...] = ()


def transcript_digest(transcript: Mapping[str, str]) -> str:
    """One hash, in hex, over the hashes of all frames by "SENDER>RECEIVER"; "" where there are none."""
    if not transcript:
        return ""
    return hashlib.sha256(b"hansa transcript\x00" + msgspec.json.encode(sorted(transcript.items()))).hexdigest()


def write_provenance(path: Path, run: FinishedRun, member: Identity, now: datetime | None = None) -> None:
    """Write the member's signed statement. Raises OutputError."""
    moment = (now or datetime.now(UTC)).replace(microsecond=0)
    plan = run.plan
    predicate = ProvenancePredicate(
        plan=plan.digest().hex(),
        plan_name=plan.name,
        mode=plan.mode,
        run=run.run,
        members={name: own.hex() for name, own in run.identities.items()},
        parties=plan.parties,
        receivers=plan.receivers,
        member=member.name,
        hansa=run.hansa,
        finished=moment,
        transcript=run.transcript,
        release_key=run.release_key,
        approvals=None if run.proposal is None else run.proposal.envelope,
        left_out=run.left_out,
    )
    subject = (Subject(run.model_name, Digest(run.model_sha256)),)
    payload = encoded(ProvenanceStatement(STATEMENT_TYPE, subject, PROVENANCE_TYPE, predicate))
    write_whole(path, written(sealed(payload, {member.public: sign(member, payload)})), private=False)


def verify_model(model: Path, statements: Sequence[Path], members: Members, signature: Path | None = None) -> Verified:
    """Hold a model file to members' statements.

    Args:
        statements: of one or more members, each its own. members: as this reader pinned them.
        signature: an OpenSSF model signature, which must be by the key that the first statement names; None for none.

    Raises:
        PlanError: a statement is none, or of another model, or two disagree. IdentityError: a signature or an identity is wrong.
    """
    try:
        digest = hashlib.sha256(read_whole(model, MOST_MODEL_BYTES)).hexdigest()
    except (OSError, ValueError) as error:
        raise PlanError(f"{model}: cannot be read ({in_words(error)}); name a model file") from error
    vouching: dict[str, datetime] = {}
    transcripts: dict[str, str] = {}
    first: ProvenancePredicate | None = None
    for path in statements:
        predicate = _verified(path, digest, members)
        if first is not None and _common(first) != _common(predicate):
            raise PlanError(
                f"{path}: {predicate.member!r} says another plan, run or members of this model than {first.member!r}: do not use it "
                "before that is explained"
            )
        if predicate.member in vouching:
            raise PlanError(f"{path}: is a second statement of {predicate.member!r}; give one of each member")
        first = first or predicate
        vouching[predicate.member] = predicate.finished
        transcripts[predicate.member] = predicate.transcript
    if first is None:
        raise PlanError("no statement is given: name those that members wrote beside their models (`provenance`)")
    approved: tuple[str, ...] = ()
    if first.approvals is not None:
        proposal = proposal_of(first.approvals, str(statements[0]), members, past=True)
        if proposal.plan.digest().hex() != first.plan:
            raise PlanError(f"{statements[0]}: the approvals in it are of another plan than the model's")
        _check_told(str(statements[0]), first, proposal)
        approved = tuple(sorted(proposal.signatures))
    if signature is not None:
        if not first.release_key:
            raise PlanError(
                f"{statements[0]}: names no key of a model signature; give first the statement of the member whose signature it is"
            )
        verify_signature(model, signature, first.release_key)
    since = tuple(sorted(name for name, key in first.members.items() if members.revoked(bytes.fromhex(key))))
    return Verified(
        digest,
        first.plan,
        first.plan_name,
        first.mode,
        first.run,
        first.parties,
        first.receivers,
        vouching,
        approved,
        since,
        transcripts,
        "" if signature is None else first.member,
        first.left_out,
    )


def _verified(path: Path, digest: str, members: Members) -> ProvenancePredicate:
    """A member's statement, held to the model, its signature and the members file."""
    statement, payload, signatures = opened(read_envelope(path), ProvenanceStatement, str(path))
    predicate, own = statement.predicate, statement.subject[0].digest.sha256
    if own != digest:
        raise PlanError(f"{path}: is of another model (SHA-256 {own[:16]}); this file has {digest[:16]}")
    if predicate.member not in predicate.members:
        raise IdentityError(f"{path}: {predicate.member!r} has no role in the run")
    # Whoever has a revoked key can write any date into a statement: none of its statements counts, of whatever time.
    key = predicate.members[predicate.member]
    check_not_revoked(str(path), {predicate.member: key}, members)
    if not members.had(predicate.member, bytes.fromhex(key)):
        if predicate.member not in members:
            raise IdentityError(f"{path}: {predicate.member!r} is not in the members file")
        raise IdentityError(f"{path}: names another identity of {predicate.member!r} than the members file")
    if not verified(str(path), payload, signatures, {predicate.member: bytes.fromhex(key)}):
        raise IdentityError(f"{path}: is not signed by {predicate.member!r}, whose statement it says to be")
    return predicate


def _check_told(where: str, predicate: ProvenancePredicate, proposal: Proposal) -> None:
    """Raise PlanError where a statement says of the plan what its members did not approve."""
    plan = proposal.plan
    for what, told, approved in (
        ("name", predicate.plan_name, plan.name),
        ("mode", predicate.mode, plan.mode),
        ("parties", predicate.parties, plan.parties),
        ("receivers", predicate.receivers, plan.receivers),
        ("identities", predicate.members, proposal.predicate.members),
    ):
        if told != approved:
            raise PlanError(
                f"{where}: {predicate.member!r} says another {what} than the plan that members approved has; do not trust it",
                rule="a statement says what members approved",
            )


def _common(predicate: ProvenancePredicate) -> object:
    """What the statements of all members have in common."""
    return (
        predicate.plan,
        predicate.plan_name,
        predicate.mode,
        predicate.run,
        predicate.members,
        predicate.parties,
        predicate.left_out,
        predicate.receivers,
    )
