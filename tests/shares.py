"""A coopetitive run that a test can meddle with: any frame at the hub, and anything that a member says before it is sealed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from conversation import check_blame, identity
from hansa.data.schema import Schema
from hansa.data.source import Rows
from hansa.errors import HansaError, ProtocolError
from hansa.plan import Coopetitive, Plan, Release
from hansa.protocol.messages import Abort, Message, Relay, decode, encode
from hansa.roles.key_setup import Signer
from hansa.roles.shared.compute_server import RoundMessage
from hansa.roles.shared.member import SharedMember
from hansa.roles.shared.relay import RelayHub
from hansa.trees.parameters import parse_parameters
from made_tables import FEATURES, NAMES, OPEN, spread, table

HUB = "post"
SERVERS = ("aurora", "borealis", "cirrus")
CUTS = ((-1.0, -0.3, 0.3, 1.0), (1.0, 2.0), (-0.75, 0.05, 0.75), (0.0,), (0.0,))

Meddler = Callable[[str, bytes], list[bytes]]
Twist = Callable[[str, Any], Any]


def shared_plan(
    parties: tuple[str, ...] = NAMES[:4],
    *,
    servers: tuple[str, ...] = SERVERS,
    receivers: tuple[str, ...] = ("aurora", "dune"),
    hub: str = HUB,
    given: bool = True,
    objective: str = "binary:logistic",
    weight_limit: float | None = None,
    held: float = 0.0,
    steps: tuple[int, ...] = (),
    **parameters: Any,
) -> Plan:
    """A plan over made tables; `given`: it gives cuts and base score, so that servers search for nothing.

    Leaves are as fine as shares allow: made tables are small, and tests compare with other ways to train.
    """
    squared = objective == "reg:squarederror"
    values = {"rounds": 2, "max_depth": 3, "max_bin": 16, "objective": objective}
    values |= {"base_score": 0.0 if squared else 0.5} if given else {}
    return Plan(
        name="shared",
        mode="coopetitive",
        aggregator="",
        parties=parties,
        receivers=receivers,
        minimum_parties=len(parties),
        schema=Schema(FEATURES, "y", None if weight_limit is None else "w"),
        parameters=parse_parameters(values | parameters),
        min_cell_rows=5,
        evaluation_fraction=held,
        min_party_rows=0,
        release=Release(least_choices=0),
        coopetitive=Coopetitive(
            hub,
            servers,
            label_range=(-300.0, 300.0) if squared else None,
            cuts=CUTS if given else None,
            missing=("d", "e") if given else None,
            weight_limit=weight_limit,
            steps=steps,
        ),
    )


def shared_tables(
    rows: int = 400, parties: int = 4, *, objective: str = "binary:logistic", seed: int = 0
) -> dict[str, Rows]:
    """Made rows dealt to parties."""
    return spread(table(rows, objective, seed=seed), np.arange(rows) % parties)


def signer(plan: Plan, name: str) -> Signer:
    """A member's signature and what it pinned."""
    return Signer(identity(name).sign, {member: identity(member).public for member in plan.members})


class SharedTalk:
    """A hub and members, their frames in queues.

    Args:
        up, down: what becomes of a frame of a member on its way to the hub, and of the hub's on its way to a member.
        twists: member -> what becomes of what it says to another, before it is sealed: (to, said) -> said, or None for nothing.

    Attributes:
        error: what stopped the run, and who raised it, or None. seen: frames at the hub, by (from, to), in order.
    """

    def __init__(
        self,
        plan: Plan,
        tables: Mapping[str, Rows],
        *,
        up: Meddler = lambda _, frame: [frame],
        down: Meddler = lambda _, frame: [frame],
        twists: Mapping[str, Twist] | None = None,
        **options: Any,
    ) -> None:
        self.plan = plan
        self.members = {
            name: SharedMember(
                plan,
                name,
                tables.get(name),
                nonce=bytes([i]) * 32,
                signer=signer(plan, name),
                **({"policy": OPEN} | options),
            )
            for i, name in enumerate(plan.participants)
        }
        for name, twist in (twists or {}).items():
            twisted(self.members[name], twist)
        self.hub = RelayHub(plan, signer(plan, plan.hub).identities)
        self.error: HansaError | None = None
        self.raised_by = ""
        self.seen: list[tuple[str, Message]] = []
        self._up, self._down = up, down
        self.waiting: deque[tuple[str, bytes]] = deque()

    def run(self) -> SharedTalk:
        """Run until nothing is left to do, or somebody refuses: then everybody hears of it, as drivers see to."""
        try:
            for name, member in self.members.items():
                self._offer(name, list(member.opening()))
            while self.waiting:
                name, frame = self.waiting.popleft()
                self.seen.append((name, decode(name, frame)))
                self.raised_by = self.plan.hub
                for to, answer in list(self.hub.handle(name, memoryview(frame))):
                    for changed in self._down(to, bytes(answer)):
                        self.raised_by = to
                        self._offer(to, [bytes(f) for f in self.members[to].handle(memoryview(changed))])
                        self.raised_by = self.plan.hub
        except HansaError as error:
            if isinstance(error, ProtocolError):
                check_blame(error)
            self.error = error
            self.stop(str(error))
        return self

    def _offer(self, name: str, frames: list[bytes]) -> None:
        for frame in frames:
            self.waiting.extend((name, changed) for changed in self._up(name, frame))

    def stop(self, reason: str) -> None:
        """Tell everybody who has not refused that the run is stopped."""
        frame = encode(Abort("", reason))
        for member in self.members.values():
            if member._session.state not in ("aborted", "finished"):
                try:
                    list(member.handle(memoryview(frame)))
                except HansaError:
                    continue

    @property
    def models(self) -> dict[str, bytes]:
        """What each member holds of the model."""
        return {name: member.model for name, member in self.members.items() if member.model is not None}

    def assert_failed_closed(self) -> None:
        """Nobody has a model or goes on, and every key is erased."""
        assert self.error is not None
        assert self.models == {}
        for member in self.members.values():
            assert member._session.state == "aborted"
            assert not member.done
            if member._keys is not None:
                assert all(key._key is None for key in member._keys.keys.values())
            if member._secure_channel is not None:
                ends = [*member._secure_channel._sealers.values(), *member._secure_channel._openers.values()]
                assert all(end._aead is None and not any(end._key) for end in ends)


def twisted(member: SharedMember, twist: Twist) -> None:
    """Let a member say other things than its roles do."""
    post = member._post

    def say(to: str, said: Message | RoundMessage):
        changed = twist(to, said)
        return iter(()) if changed is None else post(to, changed)

    member._post = say


def nth(kind: type, number: int, change: Callable[[Any], Any], to: str | None = None) -> Twist:
    """Change the number-th thing of this kind that is said (to this member)."""
    count = 0

    def twist(receiver: str, said: Any) -> Any:
        nonlocal count
        if not isinstance(said, kind) or to not in (None, receiver):
            return said
        count += 1
        return change(said) if count == number + 1 else said

    return twist


def relay(frame: bytes) -> Relay | None:
    """The sealed message in a frame, if it is one."""
    message = decode("anybody", frame)
    return message if isinstance(message, Relay) else None


def with_cuts(plan: Plan, **changes: Any) -> Plan:
    """The plan with other coopetitive parts."""
    return replace(plan, coopetitive=replace(plan.coopetitive, **changes))
