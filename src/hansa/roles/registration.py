"""How whoever holds the hub brings a run's members together: joins, then everybody's keys and their confirmations, before them
commitments to keys where these draw a graph. No I/O.

Nothing here is secret: the hub passes on public keys that members signed, and proofs that it cannot make.
"""

from __future__ import annotations

from collections.abc import Mapping

from hansa.errors import ProtocolError
from hansa.protocol.messages import (
    PROTOCOL_VERSION,
    AnnounceKey,
    CommitKey,
    ConfirmKeys,
    ExchangeKeys,
    Join,
    KeysCommitted,
    KeysConfirmed,
)
from hansa.roles.run import PURPOSE, Roster
from hansa.trees.parameters import MOST_CLASSES

MOST_BATCHES = 2 * (MOST_CLASSES + 1)
"""Batches that a plan can have: training and held-out rows, all and of each class."""

MOST_PARTS = 128
"""Digests that a member may send in its `Join`, beside one for each member."""

SHOWN_PARTS = 8

OTHER_PURPOSE = (
    "means another kind of run: one of the two would train a model, the other only describe the pooled table"
)
SAME_PURPOSE = "all members mean the same kind of run"
SAME_COMMAND = "start all members with --describe, or none"


class Registration:
    """What members have sent before a run begins.

    Args:
        members: everybody who takes part. with_rows: those that have rows; the others have none.
        agreement: what all must hold alike (`run.agreement`). parts: what it is made of (`run.agreement_parts`).
        with_some: whether each member shares keys with some others alone, its neighbours in a drawn graph.

    Attributes:
        joins, commitments, keys, tags: what has come, by member.
    """

    def __init__(
        self,
        members: tuple[str, ...],
        with_rows: tuple[str, ...],
        agreement: bytes,
        parts: Mapping[str, bytes],
        with_some: bool = False,
    ) -> None:
        self.joins: dict[str, Join] = {}
        self.commitments: dict[str, bytes] = {}
        self.keys: dict[str, AnnounceKey] = {}
        self.tags: dict[str, ConfirmKeys] = {}
        self._members = members
        self._with_rows = with_rows
        self._agreement = agreement
        self._parts = parts
        self._with_some = with_some

    @property
    def roster(self) -> Roster:
        """Who has joined."""
        return tuple(
            (name, join.nonce, join.rows, join.evaluation_rows, join.enough)
            for name, join in sorted(self.joins.items())
        )

    def join(self, member: str, message: Join) -> bool:
        """Take a member's first word; whether all have joined. Raises ProtocolError naming it and the rule."""
        if message.version != PROTOCOL_VERSION:
            raise ProtocolError(
                f"member {member!r} speaks protocol version {message.version}, this hub {PROTOCOL_VERSION}; "
                "install the same release of Hansa everywhere",
                member=member,
                rule=f"protocol version {PROTOCOL_VERSION}",
                cure="install the same release of Hansa everywhere",
            )
        if message.plan != self._agreement or message.parts != self._parts:
            other_purpose = message.parts.get(PURPOSE) != self._parts[PURPOSE] and PURPOSE in message.parts
            cure = SAME_COMMAND if other_purpose else "give every member the same plan file and members file"
            difference = OTHER_PURPOSE if other_purpose else self._difference(message.parts)
            raise ProtocolError(
                f"member {member!r} {difference}; {cure}",
                member=member,
                rule=SAME_PURPOSE if other_purpose else "all members hold the same plan and members file",
                cure=cure,
            )
        if member in self.joins:
            raise ProtocolError(f"member {member!r} joined twice", member=member)
        if len(message.nonce) != 32:
            raise ProtocolError(
                f"member {member!r} joined with a nonce of {len(message.nonce)} bytes; expected 32", member=member
            )
        rows = message.rows + message.evaluation_rows
        if min(message.rows, message.evaluation_rows) < 0 or (rows > 0) != (member in self._with_rows):
            owner = "without rows, or with fewer than none" if member in self._with_rows else f"with {rows} rows"
            raise ProtocolError(
                f"member {member!r} joined {owner}; the plan's parties have rows, others none", member=member
            )
        if 8 * len(message.enough) >= MOST_BATCHES + 8 or (message.enough and member not in self._with_rows):
            raise ProtocolError(
                f"member {member!r} joined with {len(message.enough)} bytes of batches, which the plan does not have",
                member=member,
            )
        self.joins[member] = message
        return len(self.joins) == len(self._members)

    def _difference(self, theirs: Mapping[str, bytes]) -> str:
        """In what another agreement differs. Names are shown only where this hub knows them too: others are unknown text."""
        differ = sorted(name for name, part in self._parts.items() if theirs.get(name) != part and name != "plan")
        if (
            not differ
            or len(theirs) > MOST_PARTS + len(self._members)
            or any(len(part) > 32 for part in theirs.values())
        ):
            return "holds another plan or members file, and does not say in what it differs"
        more = f" and {len(differ) - SHOWN_PARTS} more" if len(differ) > SHOWN_PARTS else ""
        what = f"different: {', '.join(differ[:SHOWN_PARTS])}{more}"
        if theirs.get("plan") == self._parts["plan"]:
            return f"holds another members file ({what})"
        return (
            f"holds another plan ({what}; its digest is {theirs.get('plan', b'').hex() or 'not told'}, "
            f"the hub's {self._parts['plan'].hex()})"
        )

    def committed(self, member: str, message: CommitKey) -> KeysCommitted | None:
        """Take what binds a member to its key; everybody's, once all are here. Raises ProtocolError on a second one."""
        if member in self.commitments:
            raise ProtocolError(f"member {member!r} committed to two keys", member=member)
        self.commitments[member] = message.commitment
        if len(self.commitments) < len(self._members):
            return None
        return KeysCommitted(dict(sorted(self.commitments.items())))

    def announced(self, member: str, message: AnnounceKey) -> ExchangeKeys | None:
        """Take a member's key; everybody's, once all are here. Raises ProtocolError on a second one."""
        if member in self.keys:
            raise ProtocolError(f"member {member!r} announced two keys", member=member)
        self.keys[member] = message
        if len(self.keys) < len(self._members):
            return None
        return ExchangeKeys(
            tuple((name, key.public_key, key.algorithm, key.signature) for name, key in sorted(self.keys.items()))
        )

    def confirmed(self, member: str, message: ConfirmKeys) -> dict[str, KeysConfirmed]:
        """Take a member's proofs; what each member is told of the others', once all are here. Raises ProtocolError."""
        others = set(self._members) - {member}
        right = set(message.tags) <= others if self._with_some else set(message.tags) == others
        if member in self.tags or not right:
            raise ProtocolError(
                f"member {member!r} confirmed its keys twice, or not with each of {', '.join(sorted(others)[:SHOWN_PARTS])}",
                member=member,
            )
        self.tags[member] = message
        if len(self.tags) < len(self._members):
            return {}
        return {
            name: KeysConfirmed({peer: self._tag(peer, name) for peer in sorted(self.tags[name].tags)})
            for name in self._members
        }

    def _tag(self, peer: str, name: str) -> bytes:
        """The proof of `peer` for `name`, which has one for it."""
        tag = self.tags[peer].tags.get(name)
        if tag is None:
            raise ProtocolError(
                f"member {name!r} confirmed a key with {peer!r}, which did not: one of the two drew another graph of masks",
                suspects=tuple(sorted((name, peer))),
            )
        return tag
