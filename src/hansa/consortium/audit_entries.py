"""What a member's audit log holds: frozen structs in one way of writing, a line of JSON each.

A log has two kinds of lines. *Entries* are the leaves of a Merkle tree (RFC 9162: a leaf's hash begins with 0x00, a node's with 0x01).
*Heads* are no leaves: each says how many entries there are, the root over them, and is signed. Nothing of a row, and no content of a
message, stands in an entry: messages are told by kind, sender, receiver, number and size.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from hansa.consortium.envelopes import Hex32

Signature = Annotated[str, Meta(pattern=r"\A[0-9a-f]{128}\Z")]
Hex = Annotated[str, Meta(pattern=r"\A([0-9a-f]{2})*\Z")]
Time = Annotated[str, Meta(pattern=r"\A\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\Z")]
Count = Annotated[int, Meta(ge=0)]
Phase = Literal["opening", "closing"]

State = Literal["finished", "withheld", "failed", "interrupted"]
"""How a run ended at a member. "withheld": the metric that the plan names was not reached, so nobody has the model."""


class _Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="line"):
    """Of every entry; at: when it was written, UTC."""

    at: Time


class LogBegun(_Entry, frozen=True, kw_only=True, tag="log-begun"):
    """The first entry. Its leaf's hash is the log's name.

    member, identity: whose log, and the key that signs its heads. nonce: what tells it from another log of the same member.
    """

    member: str
    identity: Hex32
    nonce: Hex32


class IdentityReplaced(_Entry, frozen=True, kw_only=True, tag="identity-replaced"):
    """The log's member took another key, which signs from here on. identity: the key. The consortium's file says that it may."""

    identity: Hex32


class RunBegun(_Entry, frozen=True, kw_only=True, tag="run-begun"):
    """All members joined, or a later epoch began.

    run, epoch: of the run. plan, mode, purpose: the plan's digest, its mode, and what the run is for. hub: who relays.
    roster: (member, training rows, rows held out), in epoch 0. members: of everybody with a role, the identity key.
    proposal, approved_by: the digest of the proposal that the plan is of, and who signed it; empty where it is of none.
    left_out: parties that this epoch goes on without.
    """

    run: Hex32
    epoch: Count
    plan: Hex32
    mode: str
    purpose: str
    hub: str
    hansa: str
    members: dict[str, Hex32]
    roster: tuple[tuple[str, Count, Count], ...]
    proposal: Hex
    approved_by: tuple[str, ...]
    left_out: tuple[str, ...] = ()


class Counted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Messages of one kind from one member to another: how many, and bytes in all. A sealed one is told as "Relay"."""

    sender: str
    receiver: str
    kind: str
    messages: Count
    bytes: Count


class MessagesCounted(_Entry, frozen=True, kw_only=True, tag="messages"):
    """What passed this member since the entry of this kind before, in one epoch of a run (-1: after the model was made)."""

    run: Hex
    epoch: int
    counts: tuple[Counted, ...]


class CheckpointJson(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A log's checkpoint as its member signed it: the log's name, its size and root. See `signed_checkpoint`."""

    log: Hex32
    size: Annotated[int, Meta(ge=1)]
    root: Hex32
    signature: Signature


class CheckpointsSeen(_Entry, frozen=True, kw_only=True, tag="checkpoints-seen"):
    """What members showed of their logs at one end of a run, this member's own included. session: what it was signed for."""

    phase: Phase
    session: Hex32
    shown: dict[str, CheckpointJson]


class CheckpointCountersigned(_Entry, frozen=True, kw_only=True, tag="countersigned"):
    """Others' signatures over the same `shown` of the same session, so that all saw the same."""

    phase: Phase
    session: Hex32
    digest: Hex32
    signatures: dict[str, Signature]


class CheckpointRefused(_Entry, frozen=True, kw_only=True, tag="checkpoint-refused"):
    """A member showed a log that does not extend the one that it showed before.

    shown: as it signed it, for this phase of this session. before: the checkpoint of that member that this one held, whose signature
    stands in an earlier `CheckpointsSeen`. Of one size, or the later one the smaller, they prove to anybody that the member rewrote its
    log, or lost it; else this member's word does, who was shown what does not extend the earlier one.
    """

    member: str
    phase: Phase
    session: Hex32
    shown: CheckpointJson
    before: CheckpointJson


class LogReplaced(_Entry, frozen=True, kw_only=True, tag="log-replaced"):
    """A member showed another log than before, and this member's policy allowed that (`policy.new_logs`)."""

    member: str
    before: Hex32
    after: Hex32


class RunRefused(_Entry, frozen=True, kw_only=True, tag="refused"):
    """A run was refused or stopped: the kind of error, the rule that was broken, and by whom, as far as that is known."""

    run: Hex
    kind: str
    rule: str
    member: str
    suspects: tuple[str, ...]


class ModelReleased(_Entry, frozen=True, kw_only=True, tag="released"):
    """The model that a run made, by its digest, and who receives it."""

    run: Hex32
    model: Hex32
    receivers: tuple[str, ...]


class RunOver(_Entry, frozen=True, kw_only=True, tag="run-over"):
    """A run, or an epoch of it, ended at this member.

    transcript: by "SENDER>RECEIVER" the hash over all frames from one to the other in this epoch, in order, which is the same at both
    ends (`FrameTally`).
    """

    run: Hex
    epoch: int
    state: State
    transcript: dict[str, Hex32]


class Head(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="line", tag="head"):
    """No entry: the size of the log and the root over its entries, signed by its member. Ends what was written at once."""

    size: Annotated[int, Meta(ge=1)]
    root: Hex32
    signature: Signature


Entry = (
    LogBegun
    | IdentityReplaced
    | RunBegun
    | MessagesCounted
    | CheckpointsSeen
    | CheckpointCountersigned
    | CheckpointRefused
    | LogReplaced
    | RunRefused
    | ModelReleased
    | RunOver
)
Line = Entry | Head

_LINE: msgspec.json.Decoder[Line] = msgspec.json.Decoder(Line, strict=True)


def written_line(line: Line) -> bytes:
    """The one way in which a line is written, its end not included."""
    return msgspec.json.encode(line, order="sorted")


def read_line(content: bytes) -> Line:
    """The line that was written so. Raises ValueError: it is none, or not written in that way."""
    try:
        line = _LINE.decode(content)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(str(error)) from error
    if written_line(line) != content:
        raise ValueError("it is not written as Hansa writes it")
    return line
