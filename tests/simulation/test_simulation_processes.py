"""The files that a simulation writes for its members are those that members' commands read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hansa.data.schema import Schema
from hansa.data.source import read_rows
from hansa.node.config import MemberFile, read_member_file
from hansa.node.in_process import HOLDER_POLICY
from hansa.plan import MODES, Coopetitive, Plan
from hansa.simulation.processes import write_consortium
from hansa.simulation.tables import Table
from hansa.trees.parameters import Parameters

PARTIES = ("aurora", "borealis", "cirrus")


def table() -> Table:
    features = np.array([[1, 2, 3, np.nan], [0.5, 0.25, 7, 8]], np.float32)
    return Table(('a "quoted"', "b"), features, np.array([0, 1, 0, 1], np.float32), None,
                 np.full(4, "all", object), {})  # fmt: skip


def written(folder: Path, mode: str, transcript: Path | None) -> dict[str, MemberFile]:
    shared = mode == "coopetitive"
    own = table()
    plan = Plan(
        name='a "quoted" name\n',
        mode=mode,
        aggregator="" if shared else "hub",
        parties=PARTIES,
        receivers=PARTIES[:1],
        minimum_parties=3,
        schema=Schema(own.names, "y"),
        parameters=Parameters(max_bin=32),
        coopetitive=Coopetitive("aurora", (*PARTIES[:2], "vault"), server_links="direct") if shared else None,
    )
    write_consortium(folder, plan, dict.fromkeys(PARTIES, own), 2, transcript)
    files = {name: read_member_file(folder / f"{name}.toml") for name in plan.members}
    assert all(file.plan == plan and set(file.members) == set(plan.members) for file in files.values())
    return files


@pytest.mark.parametrize("mode", MODES)
def test_each_member_reads_its_file_back(tmp_path, mode):
    transcript = tmp_path / 'frames "1"'
    for name, file in written(tmp_path, mode, transcript).items():
        assert file.identity.name == name
        assert file.transcript == transcript
        assert file.host == "127.0.0.1"
        has_rows = name in PARTIES
        assert file.threads == (2 if has_rows else 1)
        assert (file.table is not None) == (file.ledger is not None) == has_rows
        if has_rows:
            assert file.policy.least_party_rows == HOLDER_POLICY.least_party_rows
            assert file.policy.allow_two_parties == HOLDER_POLICY.allow_two_parties
            np.testing.assert_array_equal(
                read_rows(file.table, file.plan.schema, label_kind="binary").features, table().features
            )


def test_servers_with_links_of_their_own_find_each_other(tmp_path):
    files = written(tmp_path, "coopetitive", None)
    assert set(files["borealis"].servers) == {"borealis", "vault"}
    assert files["borealis"].servers == files["vault"].servers
    assert files["aurora"].servers == files["cirrus"].servers == {}
    assert len({port for _, port in files["vault"].servers.values()}) == 2
