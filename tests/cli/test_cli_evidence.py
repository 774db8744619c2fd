"""What a lying aggregator signed convicts it: kept by the party that refused, and judged by anybody with the plan."""

from __future__ import annotations

import json
import stat
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from hansa.consortium.identity import create_identity, load_identity
from hansa.consortium.versions import found, revoked, rotated, write_consortium
from hansa.consortium.versions import signed as add_signature
from hansa.node.evidence import SUFFIX, beside, keep_evidence, read_evidence
from hansa.protocol.messages import CountCells, SplitNodes, encode, to_tensor
from hansa.roles.summed.verified_counts import SIGNING_PURPOSE, Evidence, signed_bytes
from made_consortium import HUB, PARTIES, PLAN, Consortium, assert_refused, hansa, logged, refused, write_member

MASKED = PLAN.replace('mode = "federated"', 'mode = "secure-aggregation"').replace(
    "[privacy]", '[privacy]\nmin_party_rows = 0\nverify_counts = "tree"'
)
TWO = {"allow_two_parties": True, "least_party_rows": 0}

LYING = """
import sys
from dataclasses import replace
import numpy as np
from hansa.roles.summed.verified_counts import CountRelay
from hansa.trees import growth, splitting

name, rule_of = CountRelay.name, splitting.rule_of
CountRelay.name = lambda self, named: name(
    self,
    named and named._replace(least=np.full(named.size, -(2**63)), whole=named.whole[:0], within=named.within[:0]),
)
growth.splitting.rule_of = lambda parameters, scales: replace(rule_of(parameters, scales), least_hessian=1.0)
from hansa.cli.main import main
main(sys.argv[1:])
"""
"""An aggregator that makes nodes of any size, whatever the plan says, and shows their rows."""


def test_a_party_keeps_what_a_lying_aggregator_signed_and_it_convicts(consortium: Consortium):
    folder = consortium.folder
    (folder / "plan.toml").write_text(MASKED.replace("max_depth = 2", "max_depth = 6"))
    (folder / "lying.py").write_text(LYING)
    hub = consortium.start("aggregator", write_member(folder, HUB, 0), "--json", command=[str(folder / "lying.py")])
    port = hub.event("listening")["port"]
    parties = {name: consortium.start_party(name, port, ledger=f"{name}-ledger.jsonl", policy=TWO) for name in PARTIES}
    for name, party in parties.items():
        end = party.end()
        kept = list(folder.glob(f"{name}-record.*{SUFFIX}"))
        if not kept:  # the other one refused first, and the aggregator told this one
            refused(end, "stopped the run", status=end[0])
            continue
        refused(end, "'hub'", "rows of all parties; the plan allows no fewer than 4")
        assert any(str(kept[0]) in line for line in logged(end[2], "WARNING", "warning"))
        assert stat.S_IMODE(kept[0].stat().st_mode) == 0o600
        options = ("--plan", folder / "plan.toml", "--members", folder / "members.toml")
        judged = hansa("evidence", kept[0], *options)
        assert judged.exit_code == 0, judged.output
        assert "member 'hub' signed these broadcasts" in judged.stdout
        assert "BROKEN" in judged.stdout
        report = json.loads(hansa("evidence", kept[0], *options, "--json").stdout)
        assert report["broken"]
        assert [each["least"] < each["allowed"] for each in report["shown"]].count(True) == 1
    assert list(folder.glob(f"*{SUFFIX}"))


def signed(folder: Path, broadcasts: tuple[tuple[str, bytes], ...], run: bytes = b"r" * 32) -> Evidence:
    section = Evidence(run, run, broadcasts, b"")
    identity = load_identity(folder / f"{HUB}.identity")
    return replace(section, signature=identity.sign(SIGNING_PURPOSE, signed_bytes(run, section.end)))


def shown(*counts: int) -> tuple[str, bytes]:
    """Row counts of two parties, masked."""
    parts = np.array([[7] * len(counts) + [9], [*(each - 7 for each in counts), -9]], np.int64)
    return "ShowRows", parts.tobytes()


EMPTY = to_tensor(np.zeros(0, np.uint8))
CELLS = "CountCells", encode(CountCells(12, EMPTY, EMPTY))
SPLIT = "SplitNodes", encode(SplitNodes(3, 0, *[EMPTY] * 8, 1.0))


def judged(consortium: Consortium, *sections: Evidence) -> object:
    paths = []
    for number, section in enumerate(sections):
        paths.append(consortium.folder / f"{number}{SUFFIX}")
        keep_evidence(paths[-1], section)
        assert read_evidence(paths[-1]) == section
    folder = consortium.folder
    (folder / "plan.toml").write_text(MASKED)
    return hansa("evidence", *paths, "--plan", folder / "plan.toml", "--members", folder / "members.toml", "--json")


def test_counts_are_held_to_the_minimum_of_what_was_counted(consortium: Consortium):
    """min_cell_rows is 2, and one row's hessian is a quarter at most: 3 rows of a cell, 4 of a child."""
    honest = judged(consortium, signed(consortium.folder, (CELLS, shown(3, 50), SPLIT, shown(4, 60))))
    report = json.loads(honest.stdout)
    assert not report["broken"]
    assert [(each["of"], each["least"], each["allowed"]) for each in report["shown"]] == [
        ("cells of 12 bits", 3, 3),
        ("children in tree 3", 4, 4),
    ]
    for counts, place in (((2, 50), 0), ((4, 3), 1)):
        of = (CELLS, shown(*counts)) if place == 0 else (CELLS, shown(9), SPLIT, shown(*counts))
        report = json.loads(judged(consortium, signed(consortium.folder, of)).stdout)
        assert report["broken"]
        assert report["shown"][place]["least"] < report["shown"][place]["allowed"]


def test_two_histories_of_one_run_convict_and_two_runs_say_nothing(consortium: Consortium):
    folder = consortium.folder
    one, other = signed(folder, (CELLS, shown(30))), signed(folder, (CELLS, shown(31)))
    assert not json.loads(judged(consortium, one, one).stdout)["broken"]
    assert json.loads(judged(consortium, one, other).stdout)["two_histories"]
    assert_refused(judged(consortium, one, signed(folder, (CELLS, shown(30)), b"q" * 32)), "nothing follows")


def test_what_the_aggregator_did_not_sign_convicts_nobody(consortium: Consortium):
    section = signed(consortium.folder, (CELLS, shown(30)))
    assert_refused(judged(consortium, replace(section, broadcasts=(CELLS, shown(1)))), "signature")
    party = load_identity(consortium.folder / f"{PARTIES[0]}.identity")
    forged = replace(section, signature=party.sign(SIGNING_PURPOSE, signed_bytes(section.run, section.end)))
    assert_refused(judged(consortium, forged), "signature")


def test_evidence_by_a_key_that_the_consortiums_file_knows_from_before_counts(consortium: Consortium):
    folder = consortium.folder
    section = signed(folder, (CELLS, shown(30)))
    keep_evidence(folder / f"old{SUFFIX}", section)
    (folder / "plan.toml").write_text(MASKED)
    old, new = load_identity(folder / f"{HUB}.identity"), create_identity(HUB)
    others = [load_identity(folder / f"{name}.identity") for name in PARTIES]
    founded = found("nordic", [own.card() for own in others], old)
    for own in others:
        founded = add_signature(founded, own)
    write_consortium(folder / "nordic.json", rotated(founded, new, [old, new]))
    judged = ("evidence", folder / f"old{SUFFIX}", "--plan", folder / "plan.toml", "--members", folder / "nordic.json")
    assert "signed these broadcasts" in hansa(*judged).stdout
    write_consortium(folder / "nordic.json", revoked(rotated(founded, new, [old, new]), HUB, "x", new, key=old.public))
    assert_refused(hansa(*judged), "signature")


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\xff", b'{"run": 1}', msgspec.json.encode({"run": "!"})])
def test_another_file_is_refused_by_name(consortium: Consortium, content):
    path = consortium.folder / "x.json"
    path.write_bytes(content)
    (consortium.folder / "plan.toml").write_text(MASKED)
    options = ("--plan", consortium.folder / "plan.toml", "--members", consortium.folder / "members.toml")
    assert_refused(hansa("evidence", path, *options), "x.json", "is not the evidence of a run")


def test_each_run_has_a_file_of_its_own():
    assert beside(Path("a/aurora.json"), b"\x12" * 32) == Path("a/aurora.12121212.evidence.json")


def test_a_plan_without_verified_counts_has_no_evidence(consortium: Consortium):
    path = consortium.folder / f"x{SUFFIX}"
    keep_evidence(path, signed(consortium.folder, ()))
    options = ("--plan", consortium.folder / "plan.toml", "--members", consortium.folder / "members.toml")
    assert_refused(hansa("evidence", path, *options), "'off'")
