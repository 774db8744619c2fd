"""Workers that are actors of a Ray cluster (`hansa[ray]`): the party's own, on hosts of its own.

Ray moves pickled objects between its processes. That is inside one party: nothing of another member is unpickled, and nothing that Ray
sends goes to another member. A cluster of several hosts is used only over TLS and with Ray's token, as `_check_cluster` says.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from hansa.engines.settings import RaySettings
from hansa.engines.shard import ShardSource, ShardWorker
from hansa.engines.sharded_rows import WorkerLost, added
from hansa.errors import DataError, HansaError, PlanError, RowsLost, in_words
from hansa.roles.summed.party_rows import DoesNotFit

KINDS = {kind.__name__: kind for kind in (HansaError, DataError, DoesNotFit, RowsLost, PlanError)}
"""Errors that a worker tells as they are."""

LONGEST_REASON = 300
"""Characters of Ray's own words in an error."""

ADD_IN_PAIRS = 4
"""Workers above which sums are added in pairs where they are, and not at the party's own process."""

START_S = 50.0
"""Seconds that the cluster may take to find room for all workers: who waits for this party is told within a minute."""

ANSWER_S = 45.0
"""Seconds that a cluster may take to answer."""

_TRY = """
import sys

import ray

try:
    ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
except (ConnectionError, RuntimeError, ValueError, ImportError) as error:
    sys.exit(str(error))
"""
"""What a process of its own does with a cluster's address. Ray tries again for many minutes, in code that no exception leaves."""

_REASONS = (
    (
        "InvalidAuthToken",
        "it refuses this process's token",
        "give this process the cluster's token (RAY_AUTH_MODE=token and its token)",
    ),
    (
        "AuthenticationError",
        "this process has no token that Ray can read",
        "give this process the cluster's token (RAY_AUTH_MODE=token and its token)",
    ),
    (
        "Version mismatch",
        "it runs other versions",
        "install the same versions of Ray and Python, to the second number, at every node and here",
    ),
    (
        "SSL_ERROR",
        "one end speaks TLS and the other does not, or they have different certificates",
        "give this process the cluster's variables of TLS (RAY_USE_TLS and those beside it)",
    ),
)
"""By what Ray writes: why a cluster does not take this process, and the cure."""

_START = (
    "start one (`ray start --head`), mend the address, give this process the cluster's RAY_ variables (RAY_USE_TLS, RAY_AUTH_MODE and "
    'those beside them) where it has some, or say address = "local" for one on this host that ends with the run'
)


def connect(settings: RaySettings, owner: str) -> tuple[Any, bool]:
    """The module `ray`, connected to the cluster of party `owner`, and whether it was not before.

    Raises PlanError, within a minute: it is not installed, not there, does not take this process, or is open to its network.
    """
    try:
        ray: Any = importlib.import_module("ray")
    except ImportError as error:
        raise PlanError(
            f"party {owner!r}: engine.kind is 'ray', and Ray is not installed; install hansa[ray]",
            member=owner,
            cure="install hansa[ray]",
        ) from error
    ours = not ray.is_initialized()
    if ours:
        local = settings.address == "local"
        if not local:
            _try(settings.address, owner)
        more = {"num_cpus": settings.workers * settings.threads, "include_dashboard": False} if local else {}
        try:
            with _own_signals():
                ray.init(address=settings.address, log_to_driver=False, logging_level="ERROR", **more)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise _refused(settings.address, owner, in_words(error)) from error
    _check_cluster(ray, ours, owner)
    return ray, ours


def _try(address: str, owner: str) -> None:
    """Refuse a cluster that does not answer soon. Raises PlanError."""
    try:
        tried = subprocess.run(
            [sys.executable, "-c", _TRY, address],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=ANSWER_S,
            check=False,
        )
        told, silent = tried.stderr, False
        if tried.returncode == 0:
            return
    except subprocess.TimeoutExpired as error:
        told, silent = error.stderr or b"", True
    except OSError as error:
        raise _refused(address, owner, f"no process can be started to try it: {in_words(error)}") from error
    raise _refused(address, owner, told.decode("utf-8", "replace"), silent=silent)


def _refused(address: str, owner: str, told: str, *, silent: bool = False) -> PlanError:
    """The error for a cluster that does not take this process. told: what Ray wrote. silent: whether it did not end."""
    lines = [line.strip() for line in told.splitlines() if line.strip()]
    last = lines[-1][:LONGEST_REASON] if lines else "it says nothing"
    why, cure = f"no Ray cluster answers there ({last})", _START
    if silent:
        why = f"no Ray cluster answers there in {ANSWER_S:g} s"
    for mark, reason, own in _REASONS:
        if mark in told:
            shown = told[told.index(mark) :].splitlines()[0][:LONGEST_REASON]
            why, cure = f"the Ray cluster there does not take this process: {reason} ({shown})", own
            break
    return PlanError(
        f"party {owner!r}: engine.address is {address!r}, and {why}; {cure}",
        member=owner,
        cure="start a Ray cluster" if cure is _START else cure,
    )


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """What ends this process stays as it was: Ray puts a handler in its place that ends it at once, with another status."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    ended = False
    try:
        yield
    except SystemExit:  # of Ray's handler
        ended = True
    finally:
        signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)
    if ended:
        signal.raise_signal(signal.SIGTERM)


def _check_cluster(ray: Any, ours: bool, owner: str) -> None:
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
            f"party {owner!r}: the Ray cluster has {len(hosts)} hosts, and rows would cross its network without "
            f"{' and without '.join(lacking)}; start every node, and this member, with both",
            member=owner,
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


def _room(ray: Any) -> str:
    """What a cluster has, in words."""
    has, free = ray.cluster_resources(), ray.available_resources()
    return (
        f"it has {has.get('CPU', 0):g} CPUs, {free.get('CPU', 0):g} of them free, and {has.get('memory', 0):,.0f} bytes, "
        f"{free.get('memory', 0):,.0f} of them free"
    )


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
        self._actors: list[Any] = []
        self._group: Any = None
        self._sources = list(sources)
        owner = self._sources[0].owner
        self._ray, self._ours = connect(settings, owner)
        try:
            self._place(settings, owner)
        except BaseException:  # a signal too: neither room nor workers stay behind in the cluster
            self.close()
            raise

    def _place(self, settings: RaySettings, owner: str) -> None:
        """Start all workers. Raises PlanError where the cluster has no room for them."""
        ray, count = self._ray, len(self._sources)
        self._placing: Any = importlib.import_module("ray.util.placement_group")
        strategies: Any = importlib.import_module("ray.util.scheduling_strategies")
        memory = {} if settings.memory_bytes is None else {"memory": settings.memory_bytes}
        self._group = self._placing.placement_group([{"CPU": settings.threads, **memory}] * count, strategy="SPREAD")
        if not self._group.wait(START_S):
            asked = f"{count} workers of {settings.threads} CPUs each" + (
                f" and {settings.memory_bytes:,} bytes" if memory else ""
            )
            raise PlanError(
                f"party {owner!r}: the Ray cluster at {settings.address!r} has no room for {asked}, or not in {START_S:g} s; "
                f"{_room(ray)}: ask for fewer engine.workers, engine.threads or less engine.memory, or wait until others are done",
                member=owner,
                cure="ask for fewer workers, threads or memory",
            )
        strategy = [
            strategies.PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=number)
            for number in range(count)
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
        for actor in self._actors:
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
