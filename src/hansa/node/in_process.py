"""A whole run in one process: the same roles, the same frames, no sockets."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from hansa.consortium.identity import create_identity
from hansa.consortium.policy import Policy
from hansa.data.description import Description
from hansa.data.source import Rows
from hansa.errors import HansaError, ModelWithheld, TransportError
from hansa.plan import Plan
from hansa.roles.run import Progress, Purpose, run_hub
from hansa.roles.shared.member import SharedMember
from hansa.roles.shared.relay import RelayHub
from hansa.roles.summed.aggregator import Aggregator
from hansa.roles.summed.branches import BranchedHub
from hansa.roles.summed.collector import Collector
from hansa.roles.summed.custom import NO_FUNCTIONS, Functions
from hansa.roles.summed.outcome import Outcome
from hansa.roles.summed.party import Party
from hansa.roles.summed.sum_masking import Signer
from hansa.transport.channel import Frame, Hub, Traffic
from hansa.transport.in_process import Handler, InProcessHub
from hansa.trees.worker_pool import WorkerPool

HOLDER_POLICY = Policy(allow_two_parties=True, least_party_rows=0)
"""Of whoever holds all parties' rows: the plan's own minimum of rows is enough."""


def policy_of_holder(plan: Plan) -> Policy:
    """The same, and the plan's function, which whoever holds all rows gives."""
    return msgspec.structs.replace(HOLDER_POLICY, functions=tuple(sha256 for _, sha256 in plan.functions))


WHOLE_LEVEL = 2**16
"""Nodes a frame, so that a level travels in one: here no network runs beside the building."""


@dataclass(frozen=True)
class InProcessRun:
    """What a run in one process gave: the aggregator's outcome, each party at its end, and its traffic."""

    outcome: Outcome
    parties: Mapping[str, Party]
    traffic: Mapping[str, Traffic]


def train_in_process(
    plan: Plan,
    tables: Mapping[str, Rows],
    *,
    threads: int = 1,
    nodes_per_frame: int = WHOLE_LEVEL,
    report: Callable[[Progress], None] | None = None,
    order: Callable[[Sequence[str]], str] | None = None,
    wrap: Callable[[Hub], Hub] = lambda hub: hub,
    policy: Policy = HOLDER_POLICY,
    start: bytes | None = None,
    functions: Functions = NO_FUNCTIONS,
) -> InProcessRun:
    """Train on the rows of all parties in this process.

    Parameters
    ----------
    plan : Plan
        Of a mode with an aggregator; its parties are the keys of `tables`.
    tables : mapping of str to Rows
        Each party's rows.
    threads : int
        Compute threads of whichever role is at work.
    nodes_per_frame : int
        As for `Party`.
    report : callable, optional
        Called with the aggregator's progress.
    order : callable, optional
        Picks whose frame comes next (tests).
    wrap : callable
        Puts another transport around the hub (recording, delaying, faulty).
    policy : Policy
        Of every party; by default one that asks for nothing but the plan's own minimum of rows, since one holds them all.
    start : bytes, optional
        The model file that the plan goes on from, where it names one.
    functions : Functions
        Of the plan's custom objective and metric, where it has them; the policy must allow their hashes.

    Returns
    -------
    InProcessRun
        `outcome` with the model's bytes and the history of metrics, the parties, and their traffic.

    Raises
    ------
    HansaError
        The tables are not those of the plan's parties; or what ended the run.

    Examples
    --------
    >>> import numpy as np, hansa
    >>> plan = hansa.parse_plan('''
    ... mode = "federated"
    ... [members]
    ... aggregator = "hub"
    ... parties = ["north", "south"]
    ... [schema]
    ... features = ["load"]
    ... label = "fault"
    ... [parameters]
    ... rounds = 2
    ... ''')
    >>> load = np.arange(100, dtype=np.float32)
    >>> rows = hansa.Rows(load[None], (load > 60).astype(np.float32), None)
    >>> run = hansa.train_in_process(plan, {"north": rows, "south": rows})
    >>> len(hansa.from_json(run.outcome.model).trees)
    2
    """
    aggregator, parties, traffic = _play(
        plan, tables, "train", threads, nodes_per_frame, report, order, wrap, policy, start, functions
    )
    if aggregator.outcome is None:
        raise HansaError("the run ended without a model")
    if aggregator.withheld:
        raise _nobody_has_the_model(plan)
    return InProcessRun(aggregator.outcome, parties, traffic)


def _nobody_has_the_model(plan: Plan) -> ModelWithheld:
    return ModelWithheld(
        f"nobody has the model: the plan's release demands {plan.release.condition} of the held-out rows, and that was not reached"
    )


@dataclass(frozen=True)
class InProcessDescription:
    """What a run in one process gave that describes: the aggregator's description, and each party at its end."""

    description: Description
    parties: Mapping[str, Party]


def describe_in_process(
    plan: Plan,
    tables: Mapping[str, Rows],
    *,
    order: Callable[[Sequence[str]], str] | None = None,
    wrap: Callable[[Hub], Hub] = lambda hub: hub,
    policy: Policy = HOLDER_POLICY,
) -> InProcessDescription:
    """Describe the pooled rows of all parties in this process; arguments and errors are those of `train_in_process`."""
    aggregator, parties, _ = _play(plan, tables, "describe", order=order, wrap=wrap, policy=policy)
    if aggregator.description is None:
        raise HansaError("the run ended without a description")
    return InProcessDescription(aggregator.description, parties)


def _play(
    plan: Plan,
    tables: Mapping[str, Rows],
    purpose: Purpose,
    threads: int = 1,
    nodes_per_frame: int = WHOLE_LEVEL,
    report: Callable[[Progress], None] | None = None,
    order: Callable[[Sequence[str]], str] | None = None,
    wrap: Callable[[Hub], Hub] = lambda hub: hub,
    policy: Policy = HOLDER_POLICY,
    start: bytes | None = None,
    functions: Functions = NO_FUNCTIONS,
) -> tuple[Aggregator, Mapping[str, Party], Mapping[str, Traffic]]:
    """All roles of a run with an aggregator, to its end."""
    if set(tables) != set(plan.parties):
        raise HansaError(f"tables are given for {sorted(tables)}; the plan's parties are {list(plan.parties)}")
    signers, identities = _make_signers(plan)
    pool = WorkerPool(threads)  # of all roles: they work in turn
    parties = {
        name: Party(
            plan,
            name,
            rows,
            nonce=secrets.token_bytes(32),
            pool=pool,
            nodes_per_frame=nodes_per_frame,
            signer=signers.get(name),
            policy=policy,
            start=start,
            purpose=purpose,
            functions=functions,
        )
        for name, rows in tables.items()
    }
    openings: dict[str, Iterable[Frame]] = {name: party.opening() for name, party in parties.items()}
    handlers: dict[str, Handler] = {name: party.handle for name, party in parties.items()}
    branches = {}
    for name, own in plan.collectors:
        below = InProcessHub(
            {party: handlers.pop(party) for party in own}, order, opening={party: openings.pop(party) for party in own}
        )
        branches[name] = branch = InProcessBranch(Collector(plan, name, identities=identities), plan.aggregator, below)
        handlers[name], openings[name] = branch.handle, branch.opening()
    inner = InProcessHub(handlers, order, opening=openings)
    aggregator = Aggregator(
        plan,
        pool=pool,
        report=report,
        identities=identities,
        signer=signers.get(plan.aggregator),
        start=start,
        purpose=purpose,
    )
    hub = wrap(inner)
    try:
        run_hub(aggregator, BranchedHub(hub, plan) if plan.collectors else hub)
    finally:
        for party in parties.values():
            party.erase()
    traffic = dict(inner.traffic)
    for branch in branches.values():
        traffic |= branch.hub.traffic
    return aggregator, parties, traffic


class InProcessBranch:
    """A collector and its parties, in this process, as a handler of the aggregator's hub.

    Args:
        role: the collector's. aggregator: its name. hub: to the collector's parties.
    """

    def __init__(self, role: Collector, aggregator: str, hub: InProcessHub) -> None:
        self.hub = hub
        self._role = role
        self._aggregator = aggregator

    def opening(self) -> Iterator[Frame]:
        """What comes up before the aggregator has said anything."""
        yield from self._below()

    def handle(self, frame: memoryview) -> Iterator[Frame]:
        """What comes up in answer to a frame of the aggregator."""
        yield from self._deliver(self._role.from_above(frame))
        yield from self._below()

    def _below(self) -> Iterator[Frame]:
        while self.hub.has_work():
            try:
                party, frame = self.hub.receive()
            except TransportError:  # nobody had anything to say to the frames they were at
                return
            yield from self._deliver(self._role.from_party(party, frame))

    def _deliver(self, frames: Iterable[tuple[str, Frame]]) -> Iterator[Frame]:
        for recipient, frame in frames:
            if recipient == self._aggregator:
                yield frame
            else:
                self.hub.send(recipient, frame)


@dataclass(frozen=True)
class SharedRun:
    """What a coopetitive run in one process gave: each member at its end, the hub, and each member's traffic."""

    members: Mapping[str, SharedMember]
    hub: RelayHub
    traffic: Mapping[str, Traffic]


def share_in_process(
    plan: Plan,
    tables: Mapping[str, Rows],
    *,
    threads: int = 1,
    report: Callable[[Progress], None] = lambda _: None,
    observe: Callable[[str, int], None] = lambda _, __: None,
    order: Callable[[Sequence[str]], str] | None = None,
    wrap: Callable[[Hub], Hub] = lambda hub: hub,
    policy: Policy = HOLDER_POLICY,
) -> SharedRun:
    """Train on shares, all members of a coopetitive plan in this process.

    Args:
        plan: whose parties are the keys of `tables`. tables: each party's rows. threads: of whichever server is at work.
        report: called with the progress of S_0. observe: with its rounds, see `ComputeServer`.
        order, wrap: as for `train_in_process`. policy: of every member, as for `train_in_process`.

    Raises:
        HansaError: as `train_in_process`.
    """
    if set(tables) != set(plan.parties):
        raise HansaError(f"tables are given for {sorted(tables)}; the plan's parties are {list(plan.parties)}")
    signers, identities = _make_signers(plan)
    pool = WorkerPool(threads)  # of all servers: they work in turn
    members = {
        name: SharedMember(
            plan,
            name,
            tables.get(name),
            nonce=secrets.token_bytes(32),
            signer=signers[name],
            policy=policy,
            report=report if name == plan.servers[0] else lambda _: None,
            observe=observe if name == plan.servers[0] else lambda _, __: None,
            clock=time.time,
            pool=pool,
        )
        for name in plan.participants
    }
    openings: dict[str, Iterable[bytes]] = {name: member.opening() for name, member in members.items()}
    inner = InProcessHub({name: member.handle for name, member in members.items()}, order, opening=openings)
    hub = RelayHub(plan, identities)
    try:
        run_hub(hub, wrap(inner))
        inner.settle()
    finally:
        for member in members.values():
            member.erase()
    if any(member.withheld for member in members.values()):
        raise _nobody_has_the_model(plan)
    return SharedRun(members, hub, inner.traffic)


def _make_signers(plan: Plan) -> tuple[dict[str, Signer], dict[str, bytes]]:
    """Fresh identities for one run in one process: frames are as long as between processes."""
    made = {name: create_identity(name, days=1) for name in plan.members}
    identities = {name: identity.public for name, identity in made.items()}
    return {name: Signer(identity.sign, identities) for name, identity in made.items()}, identities
