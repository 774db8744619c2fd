"""Workers that are actors of a Ray cluster (`hansa[ray]`): the party's own, on hosts of its own.

Ray moves pickled objects between its processes. That is inside one party: nothing of another member is unpickled, and nothing that Ray
sends goes to another member. A cluster of several hosts is used only over TLS and with Ray's token, as `_check_cluster` says.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from typing import Any

from hansa.engines.settings import RaySettings
from hansa.engines.shard import ShardSource, ShardWorker
from hansa.engines.sharded_rows import WorkerLost, added
from hansa.errors import DataError, HansaError, PlanError, RowsLost
from hansa.roles.summed.party_rows import DoesNotFit

KINDS = {kind.__name__: kind for kind in (HansaError, DataError, DoesNotFit, RowsLost, PlanError)}
"""Errors that a worker tells as they are."""

ADD_IN_PAIRS = 4
"""Workers above which sums are added in pairs where they are, and not at the party's own process."""

START_S = 300.0
"""Seconds that the cluster may take to find room for all workers."""


def connect(settings: RaySettings) -> tuple[Any, bool]:
    """The module `ray`, connected to the cluster, and whether it was not before.

    Raises PlanError: it is not installed, not there, or open to its network.
    """
    try:
        ray: Any = importlib.import_module("ray")
    except ImportError as error:
        raise PlanError(
            "engine.kind is 'ray', and Ray is not installed; install hansa[ray]", cure="install hansa[ray]"
        ) from error
    ours = not ray.is_initialized()
    if ours:
        local = settings.address == "local"
        try:
            ray.init(
                address=settings.address,
                log_to_driver=False,
                logging_level="ERROR",
                **({"num_cpus": settings.workers * settings.threads, "include_dashboard": False} if local else {}),
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise PlanError(
                f"engine.address is {settings.address!r}, and no Ray cluster answers there ({error}); start one (`ray start --head`), "
                "give this process the cluster's RAY_ variables (RAY_USE_TLS, RAY_AUTH_MODE and those beside them) where it has some, "
                'or say address = "local" for one on this host that ends with the run',
                cure="start a Ray cluster",
            ) from error
    _check_cluster(ray, ours)
    return ray, ours


def _check_cluster(ray: Any, ours: bool) -> None:
    """Refuse a cluster of several hosts whose connections are not protected."""
    hosts = {node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    if len(hosts) <= 1:
        return
    lacking = []
    if os.environ.get("RAY_USE_TLS", "0") != "1":
        lacking.append("TLS (RAY_USE_TLS=1 and its certificates)")
    if os.environ.get("RAY_AUTH_MODE", "").lower() != "token":
        lacking.append("a token (RAY_AUTH_MODE=token)")
    if lacking:
        if ours:
            ray.shutdown()
        raise PlanError(
            f"the Ray cluster has {len(hosts)} hosts, and rows would cross its network without {' and without '.join(lacking)}; start "
            "every node, and this member, with both",
            rule="rows cross a party's own network protected",
            cure="start every Ray node, and this member, with RAY_USE_TLS=1 and RAY_AUTH_MODE=token",
        )


class _Actor:
    """A worker's process. Errors of rows are answers of their own: a sum may then be taken where its parts are."""

    def __init__(self, source: ShardSource) -> None:
        self._worker: ShardWorker | None = None
        self._fault: tuple[str, str] | None = None
        try:
            self._worker = ShardWorker(source)
        except HansaError as error:
            self._fault = _told(error)

    def call(self, method: str, arguments: tuple[Any, ...]) -> tuple[Any, tuple[str, str] | None]:
        """(answer, None), or (None, what was wrong)."""
        if self._worker is None:
            return None, self._fault
        try:
            return self._worker.call(method, arguments), None
        except HansaError as error:
            return None, _told(error)


def _told(error: HansaError) -> tuple[str, str]:
    kind = type(error).__name__
    return (kind if kind in KINDS else "HansaError"), str(error)


def _pair(left: Any, right: Any) -> Any:
    return None if left is None or right is None else added([left, right])


class RayWorkers:
    """See `sharded_rows.Workers`. Each worker reads its own shard, so that rows never gather.

    Args:
        settings: of the member's file. sources: of each worker's shard.

    Raises PlanError: as `connect`, or the cluster has no room for the workers. WorkerLost: one died while it read its rows.
    """

    def __init__(self, settings: RaySettings, sources: Sequence[ShardSource]) -> None:
        ray, self._ours = connect(settings)
        self._ray = ray
        placing: Any = importlib.import_module("ray.util.placement_group")
        strategies: Any = importlib.import_module("ray.util.scheduling_strategies")
        self._sources = list(sources)
        memory = {} if settings.memory_bytes is None else {"memory": settings.memory_bytes}
        self._placing = placing
        self._group = placing.placement_group([{"CPU": settings.threads, **memory}] * len(sources), strategy="SPREAD")
        if not self._group.wait(START_S):
            self.close()
            raise PlanError(
                f"the Ray cluster has no room for {len(sources)} workers of {settings.threads} CPUs each"
                + (f" and {settings.memory_bytes:,} bytes" if memory else "")
                + f", or not in {START_S:g} s; its resources are {ray.cluster_resources()}: ask for less",
                cure="ask for fewer workers, threads or memory",
            )
        strategy = [
            strategies.PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=number)
            for number in range(len(sources))
        ]
        actor = ray.remote(_Actor)
        self._make = [
            actor.options(num_cpus=settings.threads, scheduling_strategy=own, max_restarts=0, **memory)
            for own in strategy
        ]
        self._add = ray.remote(_pair).options(num_cpus=0)
        self._actors = [make.remote(source) for make, source in zip(self._make, self._sources, strict=True)]

    def __len__(self) -> int:
        return len(self._sources)

    def ask(self, worker: int, method: str, arguments: tuple[Any, ...]) -> Any:
        return self._actors[worker].call.options(num_returns=2).remote(method, arguments)

    def answer(self, call: Any) -> Any:
        answer, fault = self._get(call)
        _raise(fault)
        return answer

    def total(self, calls: Sequence[Any]) -> Any:
        for fault in self._get([fault for _, fault in calls]):
            _raise(fault)
        answers = [answer for answer, _ in calls]
        while len(answers) > ADD_IN_PAIRS:
            pairs = [self._add.remote(*answers[at : at + 2]) for at in range(0, len(answers) - 1, 2)]
            answers = [*pairs, *answers[2 * len(pairs) :]]
        return added(self._get(answers))

    def restart(self, worker: int) -> None:
        self._ray.kill(self._actors[worker], no_restart=True)
        self._actors[worker] = self._make[worker].remote(self._sources[worker])

    def close(self) -> None:
        for actor in getattr(self, "_actors", ()):
            self._ray.kill(actor, no_restart=True)
        self._actors = []
        if self._group is not None:
            self._placing.remove_placement_group(self._group)
            self._group = None
        if self._ours:  # a caller that uses Ray itself goes on with it
            self._ours = False
            self._ray.shutdown()

    def _get(self, calls: Any) -> Any:
        """What calls gave. Raises WorkerLost."""
        errors = self._ray.exceptions
        try:
            return self._ray.get(list(calls))
        except (errors.RayActorError, errors.ObjectLostError, errors.WorkerCrashedError, errors.NodeDiedError) as error:
            raise WorkerLost(str(error).splitlines()[0][:300]) from error
        except errors.RayTaskError as error:
            cause = getattr(error, "cause", None)
            if isinstance(cause, errors.RayError):  # of a sum whose part is gone
                raise WorkerLost(type(cause).__name__) from error
            raise HansaError(f"a worker of the engine failed: {str(error).splitlines()[-1][:300]}") from error


def _raise(fault: tuple[str, str] | None) -> None:
    if fault is not None:
        kind, text = fault
        raise KINDS[kind](text)
