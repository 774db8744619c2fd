"""Members with state folders in one process, and what ends them: a run that is started again until it is over."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from hansa.consortium.identity import create_identity
from hansa.data.source import Rows
from hansa.node.in_process import policy_of_holder
from hansa.node.state import AggregatorState, PartyState, fingerprint
from hansa.plan import Plan
from hansa.roles.key_setup import Signer
from hansa.roles.run import agreement
from hansa.roles.summed.aggregator import Aggregator
from hansa.roles.summed.custom import NO_FUNCTIONS, Functions
from hansa.roles.summed.party import Party
from hansa.roles.summed.surviving_aggregator import SurvivingAggregator
from hansa.roles.summed.surviving_party import SurvivingParty
from made_tables import OPEN


class Crash(Exception):
    """A process is gone."""


Before = Callable[[int, str, str, bytes], None]
"""(number of the message in the epoch, from, to, frame): called before it is delivered; raises `Crash` where a process ends."""


def quietly(number: int, sender: str, receiver: str, frame: bytes) -> None:
    """Nothing happens."""


class Survivors:
    """Members of a plan, each with a state folder and an identity.

    Attributes:
        models: of each receiver that is done. epochs: how many were begun. messages: in the last one.
        gone: parties that do not come back. frames: keeps what passed in the last epoch: (from, to, frame).
    """

    def __init__(
        self,
        folder: Path,
        plan: Plan,
        tables: Mapping[str, Rows],
        start: bytes | None = None,
        functions: Functions = NO_FUNCTIONS,
    ) -> None:
        self.folder = folder
        self.plan = plan
        self.tables = tables
        self.start = start
        self.functions = functions
        made = {name: create_identity(name, days=1) for name in plan.members}
        self.identities = made
        public = {name: identity.public for name, identity in made.items()}
        self.signers = {name: Signer(identity.sign, public) for name, identity in made.items()}
        self.agreement = agreement(plan, public)
        self.models: dict[str, bytes] = {}
        self.outcome: Any = None
        self.epochs = 0
        self.admitted: list[bytes] = []
        self.messages = 0
        self.gone: tuple[str, ...] = ()
        self.frames: list[tuple[str, str, bytes]] = []

    def state_of(self, name: str) -> PartyState:
        rows = fingerprint(self.tables[name], self.signers[name], self.agreement)
        return PartyState(self.folder / name, self.agreement, name, rows)

    def hub_state(self) -> AggregatorState:
        return AggregatorState(self.folder / self.plan.aggregator, self.agreement, self.plan.aggregator)

    def party(self, name: str, state: PartyState) -> SurvivingParty:
        party = Party(
            self.plan,
            name,
            self.tables[name],
            nonce=state.nonce,
            signer=self.signers[name],
            policy=OPEN if not self.plan.functions else policy_of_holder(self.plan),
            functions=self.functions,
            admit=lambda run, _: self.admitted.append(run),
            start=self.start,
        )
        return SurvivingParty(self.plan, name, party, state, self.signers[name])

    def aggregator(self, state: AggregatorState) -> SurvivingAggregator:
        signer = self.signers[self.plan.aggregator]
        role = Aggregator(self.plan, identities=signer.identities, signer=signer, start=self.start)
        self.role = role
        present = tuple(name for name in self.plan.parties if name not in self.gone)
        return SurvivingAggregator(self.plan, role, state, signer, present=present if self.gone else ())

    def epoch(self, before: Before = quietly) -> bool:
        """Let all members work until the run is over (True), or one of them is gone (False). Other errors pass."""
        self.epochs += 1
        hub = self.hub_state()
        states = {name: self.state_of(name) for name in self.plan.parties if name not in self.gone}
        self.frames = []
        try:
            aggregator = self.aggregator(hub)
            members = {name: self.party(name, state) for name, state in states.items()}
            try:
                self._talk(aggregator, members, before)
            except Crash:
                return False
            self.outcome = self.role.outcome
            return True
        finally:
            for name, state in states.items():
                if state.over and state.model is not None:
                    self.models[name] = state.model
                state.close()
            hub.close()

    def _talk(self, aggregator: SurvivingAggregator, members: dict[str, SurvivingParty], before: Before) -> None:
        hub = self.plan.aggregator
        inboxes: dict[str, deque[bytes]] = {name: deque() for name in members}
        answers: dict[str, Iterator[bytes]] = {name: member.opening() for name, member in members.items()}
        number = 0
        while not aggregator.done:
            moved = False
            for name, member in members.items():
                if name not in answers and inboxes[name]:
                    answers[name] = member.handle(memoryview(inboxes[name].popleft()))
                while name in answers:
                    frame = next(answers[name], None)
                    moved = True
                    if frame is None:
                        del answers[name]
                        break
                    number += 1
                    before(number, name, hub, frame)
                    self.frames.append((name, hub, bytes(frame)))
                    for recipient, answer in aggregator.handle(name, memoryview(frame)):
                        number += 1
                        before(number, hub, recipient, answer)
                        self.frames.append((hub, recipient, bytes(answer)))
                        if recipient in inboxes:
                            inboxes[recipient].append(bytes(answer))
                    break
            assert moved or aggregator.done, f"deadlock: waiting for {aggregator.waiting_for()}"
        self.messages = number
        for name in members:
            for _ in answers.get(name, ()):
                pass

    def finish(self, *crashes: Before) -> None:
        """Run epoch after epoch, the crashes in turn, until the run is over."""
        todo = list(crashes)
        while not self.epoch(todo.pop(0) if todo else quietly):
            pass


def crash_at(place: int) -> Before:
    """A process ends before this message is delivered."""

    def before(number: int, sender: str, receiver: str, frame: bytes) -> None:
        if number == place:
            raise Crash

    return before
