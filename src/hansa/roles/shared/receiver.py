"""A receiver: puts the model together from the three servers' shares of every tree. No I/O.

Every part comes from two servers, and both copies must agree. Receivers then compare the hash of their files with each other, and
with nobody else. Where the plan's release depends on a metric, the servers say first whether it is reached, and must say the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np

from hansa.errors import ProtocolError, blaming
from hansa.mpc.ring import words_for
from hansa.oblivious.candidates import ONLY_MISSING
from hansa.oblivious.release import PlainTree, TreeMessage, open_tree
from hansa.oblivious.training import may_leave_range
from hansa.plan import Plan
from hansa.protocol.messages import AgreeModel, DecideRelease, Message, ReleaseTree, TrainingSetup, encode, to_array
from hansa.roles.reading import reading_of
from hansa.roles.shared.sharing import Counts, TrainingStart, coopetitive, given_start, start_of
from hansa.trees.ensemble import NO_NODE, ROOT_PARENT, Ensemble, Tree
from hansa.trees.xgboost_json import to_json

Outgoing = Iterator[tuple[str, Message]]


class Receiver:
    """One receiver's side of a run.

    Args:
        plan: as every member holds it. name: this member. counts: of every owner's rows.

    Attributes:
        through: whether every receiver has the same model, or it is decided that nobody gets one.
        model: its XGBoost JSON, once through. withheld: whether nobody gets it.
        metric: of the plan's release, where its value decided and was told.
    """

    def __init__(self, plan: Plan, name: str, counts: Counts) -> None:
        self.through = self.withheld = False
        self.metric: float | None = None
        self.model: bytes | None = None
        self._plan = plan
        self._name = name
        self._counts = counts
        self._others = tuple(receiver for receiver in plan.receivers if receiver != name)
        self._start = given_start(plan, counts)
        self._told: dict[str, TrainingSetup] = {}
        self._decisions: dict[str, DecideRelease] = {}
        self._trees: dict[str, list[TreeMessage]] = {server: [] for server in plan.servers}
        self._outputs = plan.parameters.outputs
        self._count = plan.parameters.rounds * self._outputs
        self._file: bytes | None = None
        self._hashes: dict[str, bytes] = {}

    def waiting_for(self) -> list[str]:
        """The members whose next sealed message is owed."""
        if self._start is None:
            return [server for server in self._plan.servers if server not in self._told]
        if self.withheld:
            return []
        if self._file is None:
            return [server for server, trees in self._trees.items() if len(trees) < self._count]
        return [other for other in self._others if other not in self._hashes]

    def handle(self, sender: str, message: Message) -> Outgoing:
        """Take the start, a server's share of a tree, or another receiver's hash. Raises ProtocolError naming the sender."""
        match message:
            case TrainingSetup():
                self._settle(sender, message)
            case DecideRelease():
                self._take_decision(sender, message)
            case ReleaseTree():
                self._take(sender, message)
                if not self.waiting_for():
                    yield from self._assemble()
            case AgreeModel():
                if sender not in self._others or sender in self._hashes:
                    raise ProtocolError(
                        f"member {sender!r} sent a model's hash, and is no other receiver, or sent it before",
                        member=sender,
                    )
                self._hashes[sender] = message.model_sha256
            case _:
                raise ProtocolError(
                    f"member {sender!r} sent {type(message).__name__} to receiver {self._name!r}", member=sender
                )
        self._compare()

    def _settle(self, sender: str, message: TrainingSetup) -> None:
        servers = self._plan.servers
        if self._start is not None or sender not in servers or sender in self._told:
            raise ProtocolError(
                f"member {sender!r} told a start that receiver {self._name!r} does not expect", member=sender
            )
        self._told[sender] = message
        if len(self._told) == len(servers):
            told = [encode(self._told[server]) for server in servers]
            odd = [server for server, own in zip(servers, told, strict=True) if told.count(own) == 1]
            if odd:
                raise self._odd(odd[0], "start")
            self._start = start_of(servers, message, self._plan, self._counts)
            self._told = {}

    def _odd(self, server: str, what: str) -> ProtocolError:
        return ProtocolError(
            f"server {server!r} told {self._name!r} another {what} than the others; rule: all say the same",
            member=server,
            rule="all say the same",
        )

    def _take_decision(self, sender: str, message: DecideRelease) -> None:
        """Hold what a server says of the release to the plan, and to what the others say."""
        servers, condition, decisions = self._plan.servers, self._plan.release, self._decisions
        if not condition.metric or self._start is None or sender not in servers or sender in decisions:
            raise ProtocolError(
                f"member {sender!r} told a decision on the release that receiver {self._name!r} does not expect",
                member=sender,
            )
        if message.metric is not None and condition.is_reached(message.metric) != message.reached:
            raise ProtocolError(
                f"server {sender!r} says that {condition.condition} is {'' if message.reached else 'not '}reached, and that the value "
                f"is {message.metric}; rule: the plan decides on the release",
                member=sender,
                rule="the plan decides on the release",
            )
        decisions[sender] = message
        if len(decisions) < len(servers):
            return
        told = [decisions[server] for server in servers]
        odd = [server for server, own in zip(servers, told, strict=True) if told.count(own) == 1]
        if odd:
            raise self._odd(odd[0], "decision on the release")
        self.metric, self.withheld = message.metric, not message.reached
        if self.withheld:
            self.through = True

    def _take(self, sender: str, message: ReleaseTree) -> None:
        if self._start is None or sender not in self._trees or self._file is not None:
            raise ProtocolError(
                f"member {sender!r} sent shares of a tree that receiver {self._name!r} does not expect", member=sender
            )
        decision = self._decisions.get(sender)
        if self._plan.release.metric and (decision is None or not decision.reached):
            raise ProtocolError(
                f"server {sender!r} sent shares of a tree, and did not say that {self._plan.release.condition} is reached; rule: "
                "the plan decides on the release",
                member=sender,
                rule="the plan decides on the release",
            )
        settings, candidates = self._start.settings, self._start.candidates
        trees = self._trees[sender]
        first = not any(self._trees.values())
        rounds, rest = divmod(message.trees, self._outputs)
        stops = (
            self._plan.parameters.early_stopping_rounds is not None
            or coopetitive(self._plan).deadline_s is not None
            or any(may_leave_range(own, own.rounds) for own in self._start.output_settings)
        )
        if first and stops and 1 <= rounds <= settings.rounds and rest == 0:
            self._count = message.trees
        if (message.tree, message.trees) != (len(trees), self._count) or len(message.splits) != settings.max_depth:
            raise ProtocolError(
                f"member {sender!r} sent tree {message.tree} of {message.trees}; expected {len(trees)} of {self._count}, "
                f"with {settings.max_depth} levels",
                member=sender,
            )
        if len(message.covers) != (self._start.statistics is not None):
            raise ProtocolError(
                f"member {sender!r} sent covers, or left them out, against what the plan says of statistics",
                member=sender,
            )
        words = words_for(len(candidates.all) + 1)
        splits = tuple(
            to_array(sender, f"splits of level {level}", tensor, np.uint64, (2, 1 << level, words)).copy()
            for level, tensor in enumerate(message.splits)
        )
        leaves = to_array(sender, "leaves", message.leaves, np.uint32, (2, 1 << settings.max_depth)).copy()
        covers = [to_array(sender, "covers", c, np.uint32, (2, 1 << settings.max_depth)).copy() for c in message.covers]
        trees.append(TreeMessage(splits, leaves, covers[0] if covers else None))

    def _assemble(self) -> Outgoing:
        start = self._start
        if start is None:
            raise ProtocolError("trees before the cuts")
        scale = start.leaf_unit
        trees = []
        for number in range(self._count):
            shares = {index: self._trees[server][number] for index, server in enumerate(self._plan.servers)}
            statistics = None if start.statistics is None else start.statistics[number % self._outputs]
            with blaming(*self._plan.servers):
                plain = open_tree(start.candidates, start.settings.max_depth, shares, statistics)
            trees.append(tree_of(start, plain, scale))
        ensemble = Ensemble(
            objective=start.plan.parameters.objective,
            base_score=start.values.base_score if self._outputs > 1 else start.values.base_score[0],
            feature_names=start.plan.schema.features,
            trees=tuple(trees),
            categories=tuple(start.plan.schema.levels.get(name) for name in start.plan.schema.features),
            reading=reading_of(start.plan),
        ).with_one_base_score()
        self._file = to_json(ensemble)
        self._trees = {server: [] for server in self._plan.servers}
        message = AgreeModel(hashlib.sha256(self._file).digest())
        for other in self._others:
            yield other, message

    def _compare(self) -> None:
        if self._file is None:
            return
        own = hashlib.sha256(self._file).digest()
        for other, digest in self._hashes.items():
            if digest != own:
                raise ProtocolError(
                    f"receiver {other!r} put together another model than {self._name!r}; "
                    "rule: servers release the same trees to all receivers",
                    member=other,
                    rule="servers release the same trees to all receivers",
                )
        if len(self._hashes) == len(self._others):
            self.model = self._file
            self.through = True


def tree_of(start: TrainingStart, plain: PlainTree, scale: float) -> Tree:
    """An opened tree as the model holds it: cuts as thresholds, leaf values times `scale`; gains, of which labels are the
    unit, times its square.

    A categorical split sends its category left on shares, and right in the model: there the children change places.
    """
    kinds = np.array([s is not None and start.candidates.features[s.feature].categorical for s in plain.candidates])
    count = len(plain.left)
    internal = plain.left != NO_NODE
    parents = np.full(count, ROOT_PARENT, np.int32)
    parents[plain.left[internal]] = parents[plain.right[internal]] = np.flatnonzero(internal)
    indices = np.zeros(count, np.int32)
    conditions = (plain.values * scale).astype(np.float32)
    default_left = np.zeros(count, np.uint8)
    for node, split in enumerate(plain.candidates):
        if split is None:
            continue
        feature = int(start.features[split.feature])
        indices[node] = feature
        default_left[node] = split.missing_left != kinds[node]
        if kinds[node]:
            conditions[node] = split.cut
            continue
        # No finite number is less than the lowest: all present values go right.
        lowest = np.finfo(np.float32).min
        conditions[node] = lowest if split.cut == ONLY_MISSING else start.cuts.of(feature)[split.cut]
    zeros = np.zeros(count, np.float32)
    return Tree(
        left_children=np.where(kinds, plain.right, plain.left),
        right_children=np.where(kinds, plain.left, plain.right),
        parents=parents,
        split_indices=indices,
        split_conditions=conditions,
        default_left=default_left,
        base_weights=np.where(internal, zeros, conditions),
        loss_changes=zeros if plain.gains is None else (plain.gains * scale**2).astype(np.float32),
        sum_hessian=zeros if plain.covers is None else plain.covers.astype(np.float32),
        split_type=kinds.astype(np.uint8),
    )
