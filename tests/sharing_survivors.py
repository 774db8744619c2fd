"""Members of a coopetitive run with state folders in one process, and what ends them: a run that is started again until it is over."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path

from hansa.consortium.identity import create_identity
from hansa.data.source import Rows
from hansa.node.shared_state import SharedState
from hansa.node.state import fingerprint
from hansa.plan import Plan
from hansa.roles.key_setup import Signer
from hansa.roles.run import agreement
from hansa.roles.shared.member import SharedMember
from hansa.roles.shared.relay import RelayHub
from made_tables import OPEN
from shares import Twist, twisted
from surviving import Before, Crash, quietly


class SharingSurvivors:
    """Members of a coopetitive plan, each with a state folder and an identity.

    Attributes:
        models: of each receiver that is done. epochs: how many were begun. messages: in the last one.
        histories: metrics of each server at the end. twists: as for `SharedTalk`. clock: that servers have.
    """

    def __init__(self, folder: Path, plan: Plan, tables: Mapping[str, Rows]) -> None:
        self.folder = folder
        self.plan = plan
        self.tables = dict(tables)
        made = {name: create_identity(name, days=1) for name in plan.members}
        public = {name: identity.public for name, identity in made.items()}
        self.signers = {name: Signer(identity.sign, public) for name, identity in made.items()}
        self.agreement = agreement(plan, public)
        self.models: dict[str, bytes] = {}
        self.histories: dict[str, dict] = {}
        self.twists: dict[str, Twist] = {}
        self.epochs = self.messages = 0
        self.members: dict[str, SharedMember] = {}
        self.clock: Callable[[], float] = lambda: 0.0
        self.hub = self.new_hub()

    def new_hub(self) -> RelayHub:
        return RelayHub(self.plan, self.signers[self.plan.hub].identities)

    def state_of(self, name: str) -> SharedState:
        rows = self.tables.get(name)
        of_rows = b"" if rows is None else fingerprint(rows, self.signers[name], self.agreement, ordered=True)
        return SharedState(self.folder / name, self.agreement, name, of_rows)

    def member(self, name: str, state: SharedState) -> SharedMember:
        made = SharedMember(
            self.plan,
            name,
            self.tables.get(name),
            nonce=state.nonce,
            signer=self.signers[name],
            policy=OPEN,
            journal=state,
            clock=self.clock,
        )
        if name in self.twists:
            twisted(made, self.twists[name])
        return made

    def epoch(self, before: Before = quietly) -> bool:
        """Let all members work until the run is over (True), or one of them is gone (False). Other errors pass."""
        self.epochs += 1
        states = {name: self.state_of(name) for name in self.plan.participants}
        try:
            self.members = {name: self.member(name, state) for name, state in states.items()}
            self.hub = self.new_hub()
            try:
                self._talk(before)
            except Crash:
                return False
            self.histories = {name: self.members[name].history for name in self.plan.servers}
            return True
        finally:
            for name, state in states.items():
                if self.members[name].done and state.model is not None:
                    self.models[name] = state.model
                state.close()

    def _talk(self, before: Before) -> None:
        hub, waiting, number = self.plan.hub, deque(), 0
        for name, member in self.members.items():
            waiting.extend((name, bytes(frame)) for frame in member.opening())
        while waiting:
            name, frame = waiting.popleft()
            number += 1
            before(number, name, hub, frame)
            for to, answer in self.hub.handle(name, memoryview(frame)):
                number += 1
                before(number, hub, to, bytes(answer))
                for said in self.members[to].handle(memoryview(bytes(answer))):
                    waiting.append((to, bytes(said)))
        self.messages = number
        assert self.hub.done, f"deadlock: waiting for {self.hub.waiting_for()}"

    def finish(self, *crashes: Callable[..., None]) -> None:
        """Run epoch after epoch, the crashes in turn, until the run is over."""
        todo = list(crashes)
        while not self.epoch(todo.pop(0) if todo else quietly):
            pass
