"""A compute server's threads: the pool that its member is given does its work."""

from __future__ import annotations

import pytest

from hansa.node.in_process import share_in_process
from hansa.roles.shared.server_threads import PoolThreads
from shares import shared_plan, shared_tables


@pytest.mark.parametrize("threads", [1, 2])
def test_servers_compute_with_the_threads_that_they_are_given(monkeypatch, threads):
    shared: list[int] = []
    share = PoolThreads.share

    def counted(self, work, count):
        shared.append(count)
        share(self, work, count)

    monkeypatch.setattr(PoolThreads, "share", counted)
    for module in ("mpc.threads", "mpc.panels", "mpc.replicated", "mpc.comparison", "oblivious.shared_rows"):
        for name in ("LEAST_ROWS", "LEAST_PRODUCTS", "LEAST_BYTES"):
            monkeypatch.setattr(f"hansa.{module}.{name}", 0, raising=False)
    run = share_in_process(shared_plan(rounds=1), shared_tables(), threads=threads)
    assert all(run.members[name].model for name in run.members if "receiver" in run.members[name].roles)
    assert (len(shared) > 100) == (threads > 1)
