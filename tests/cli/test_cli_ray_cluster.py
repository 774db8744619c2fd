"""A party whose rows are on three hosts of a Ray cluster of its own, over TLS and with a token: nobody outside can tell."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from made_consortium import PARTIES, Consortium, Started, parted, refused, write_member
from namespaces import why_not
from ray_cluster import RayCluster

REASON = why_not()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(REASON), reason=REASON or "possible")]

AURORA = PARTIES[0]
NODES = ("one", "two", "three")
POLICY = {"allow_two_parties": True, "least_party_rows": 0}


@pytest.fixture
def started() -> Iterator[Callable[..., RayCluster]]:
    pytest.importorskip("ray")
    clusters: list[RayCluster] = []

    def start(names: tuple[str, ...], *, protected: bool) -> RayCluster:
        clusters.append(RayCluster(names, protected=protected))
        return clusters[0]

    yield start
    for cluster in clusters:
        cluster.close()


def engine(cluster: RayCluster) -> dict[str, Any]:
    return {"kind": "ray", "address": cluster.address, "workers": 3}


def ran(consortium: Consortium, cluster: RayCluster | None, during: Callable[[Started], None]) -> bytes:
    """The model of a run whose members are all on the head's host, or here. Aurora is started again where `during` ends it."""
    on = {} if cluster is None else {"before": cluster.within, "environment": cluster.environment}
    own = {} if cluster is None else {"engine": engine(cluster)}
    folder = consortium.folder
    hub = consortium.start("aggregator", write_member(folder, "hub", 0), "--json", **on)
    port = hub.event("listening")["port"]
    write_member(folder, "hub", port)
    ledgers = {name: {"ledger": f"{name}-ledger.jsonl", "policy": POLICY} for name in PARTIES}
    path = write_member(folder, AURORA, port, table="aurora-rows", **own, **ledgers[AURORA])
    aurora = consortium.start("party", path, "--json", **on)
    other = consortium.start("party", write_member(folder, PARTIES[1], port, **ledgers[PARTIES[1]]), **on)
    during(aurora)
    if aurora.process.poll() is not None:
        aurora = consortium.start("party", path, "--json", **on)
    ended = [each.end() for each in (aurora, other, hub)]
    assert [status for status, _, _ in ended] == [0, 0, 0], ended
    return (folder / f"{AURORA}-model.json").read_bytes()


@pytest.mark.parametrize(
    ("mode", "victim"), [("federated", "host"), ("secure-aggregation", "host"), ("secure-aggregation", "party")]
)
def test_workers_on_three_hosts_train_the_same_model_and_one_host_or_the_party_may_die(
    consortium: Consortium, started: Callable[..., RayCluster], mode: str, victim: str
):
    parted(consortium.folder, 3)
    plan = consortium.folder / "plan.toml"
    given = plan.read_text().replace("rounds = 3", "rounds = 300").replace("federated", mode)
    plan.write_text(given.replace("min_cell_rows = 2", "min_cell_rows = 2\nmin_party_rows = 0"))
    alone = ran(consortium, None, lambda _: None)
    cluster = started(NODES, protected=True)
    seen: dict[str, int] = {}

    def kills(aurora: Started) -> None:
        while aurora.event("tree")["trees"] < 3:
            pass
        seen.update({name: len(cluster.workers(name)) for name in NODES})
        if victim == "host":
            cluster.kill("three")
        else:
            aurora.kill()

    assert ran(consortium, cluster, kills) == alone
    assert seen == dict.fromkeys(NODES, 1), "a worker on each host"
    record = json.loads((consortium.folder / f"{AURORA}-record.json").read_text())
    assert record["state"] == "finished"


def test_a_cluster_of_several_hosts_without_tls_and_token_is_refused(
    consortium: Consortium, started: Callable[..., RayCluster]
):
    parted(consortium.folder, 3)
    cluster = started(NODES[:2], protected=False)
    path: Path = write_member(consortium.folder, AURORA, 1, table="aurora-rows", engine=engine(cluster))
    aurora = consortium.start("party", path, before=cluster.within, environment=cluster.environment)
    refused(
        aurora.end(),
        "the Ray cluster has 2 hosts, and rows would cross its network without TLS",
        "and without a token (RAY_AUTH_MODE=token)",
        "start every node",
    )
    assert not any(cluster.workers(name) for name in NODES[:2])
