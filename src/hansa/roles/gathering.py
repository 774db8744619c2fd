"""How whoever holds the hub brings a run's members together: joins, then everybody's keys and their confirmations. No I/O.

Nothing here is secret: the hub passes on public keys that members signed, and proofs that it cannot make.
"""

from __future__ import annotations

from hansa.errors import ProtocolError
from hansa.protocol.messages import (
    PROTOCOL_VERSION,
    AnnounceKey,
    ConfirmKeys,
    ExchangeKeys,
    Join,
    KeysConfirmed,
)
from hansa.roles.run import Roster
from hansa.trees.parameters import MOST_CLASSES

MOST_BATCHES = 2 * (MOST_CLASSES + 1)
"""Batches that a plan can have: training and held-out rows, all and of each class."""


class Gathering:
    """What members have said before a run begins.

    Args:
        members: everybody who takes part. with_rows: those that have rows; the others have none.
        agreement: what all must hold alike (`run.agreement`).

    Attributes:
        joins, keys, tags: what has come, by member.
    """

    def __init__(self, members: tuple[str, ...], with_rows: tuple[str, ...], agreement: bytes) -> None:
        self.joins: dict[str, Join] = {}
        self.keys: dict[str, AnnounceKey] = {}
        self.tags: dict[str, ConfirmKeys] = {}
        self._members = members
        self._with_rows = with_rows
        self._agreement = agreement

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
                "install the same release of Hansa everywhere"
            )
        if message.plan != self._agreement:
            raise ProtocolError(
                f"member {member!r} holds another plan or members file (digest {message.plan.hex()[:16]}, the hub's is "
                f"{self._agreement.hex()[:16]}); give every member the same plan file and members file"
            )
        if member in self.joins:
            raise ProtocolError(f"member {member!r} joined twice")
        if len(message.nonce) != 32:
            raise ProtocolError(f"member {member!r} joined with a nonce of {len(message.nonce)} bytes; expected 32")
        rows = message.rows + message.evaluation_rows
        if min(message.rows, message.evaluation_rows) < 0 or (rows > 0) != (member in self._with_rows):
            owner = "without rows, or with fewer than none" if member in self._with_rows else f"with {rows} rows"
            raise ProtocolError(f"member {member!r} joined {owner}; the plan's parties have rows, others none")
        if 8 * len(message.enough) >= MOST_BATCHES + 8 or (message.enough and member not in self._with_rows):
            raise ProtocolError(
                f"member {member!r} joined with {len(message.enough)} bytes of batches, which the plan does not have"
            )
        self.joins[member] = message
        return len(self.joins) == len(self._members)

    def announced(self, member: str, message: AnnounceKey) -> ExchangeKeys | None:
        """Take a member's key; everybody's, once all are here. Raises ProtocolError on a second one."""
        if member in self.keys:
            raise ProtocolError(f"member {member!r} announced two keys")
        self.keys[member] = message
        if len(self.keys) < len(self._members):
            return None
        return ExchangeKeys(
            tuple((name, key.public_key, key.algorithm, key.signature) for name, key in sorted(self.keys.items()))
        )

    def confirmed(self, member: str, message: ConfirmKeys) -> dict[str, KeysConfirmed]:
        """Take a member's proofs; what each member is told of the others', once all are here. Raises ProtocolError."""
        others = set(self._members) - {member}
        if member in self.tags or set(message.tags) != others:
            raise ProtocolError(
                f"member {member!r} confirmed its keys twice, or not with each of {', '.join(sorted(others))}"
            )
        self.tags[member] = message
        if len(self.tags) < len(self._members):
            return {}
        return {
            name: KeysConfirmed({peer: self.tags[peer].tags[name] for peer in self._members if peer != name})
            for name in self._members
        }
