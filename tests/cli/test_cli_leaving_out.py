"""A masked party's process that is killed and stays away, over mutual TLS: the others go on under keys of their own.

What the roles do then is tested in one process (`roles/summed/test_summed_leaving_out.py`), and in threads over TLS without masks
(`node/test_node_leaving_out.py`).
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import made_consortium
from hansa.protocol.messages import AnnounceKey, ExchangeKeys, decode
from hansa.transport.recording import read_transcript
from hansa.trees.xgboost_json import from_json
from made_consortium import HUB, PLAN, Consortium, make_consortium, write_member
from made_services import approved

NAMES = ("aurora", "borealis", "cirrus", "dune")
LEFT = ("aurora", "borealis", "dune")
ROUNDS = 60
TEXT = (
    PLAN.replace("federated", "secure-aggregation")
    .replace('["aurora", "borealis"]\n', f"{json.dumps(NAMES)}\nminimum_parties = 3\n", 1)
    .replace("minimum_parties = 3\n", 'minimum_parties = 3\non_dropout = "continue"\ncontinue_after_s = 1.0\n', 1)
    .replace("min_cell_rows = 2", 'min_cell_rows = 2\nmin_party_rows = 0\nverify_counts = "off"')
    .replace("rounds = 3", f"rounds = {ROUNDS}")
)


@pytest.mark.slow
def test_a_masked_party_that_is_killed_is_left_out_and_the_others_mask_under_new_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(made_consortium, "PARTIES", NAMES)
    consortium = Consortium(make_consortium(tmp_path))
    approved(tmp_path, TEXT, members=(HUB, *NAMES))
    try:
        own = {"plan": "approved.json", "record": "hub-record.json", "transcript": "frames", "reconnect_timeout_s": 2}
        hub, port = consortium.start_hub(**own)
        for name in NAMES:
            more = {"plan": "approved.json", "ledger": f"{name}-ledger.jsonl", "policy": {"least_party_rows": 0}}
            write_member(tmp_path, name, port, **more)
        parties = {name: consortium.start("party", tmp_path / f"{name}.toml", "--json") for name in NAMES}
        parties["cirrus"].event("tree")
        parties["cirrus"].kill()
        resumed = hub.event("resumed")
        assert (resumed["epoch"], resumed["left_out"]) == (1, ["cirrus"])
        for name in LEFT:
            status, _, text = parties[name].end()
            assert status == 0, (name, text)
        status, _, text = hub.end()
        assert status == 0, text
    finally:
        consortium.stop()
    assert [path.name for path in consortium.models()] == [f"{name}-model.json" for name in LEFT]
    models = {path.read_bytes() for path in consortium.models()}
    assert len(models) == 1
    assert len(from_json(models.pop()).trees) == ROUNDS
    for name in (HUB, *LEFT):
        record = json.loads((tmp_path / f"{name}-record.json").read_text())
        assert (record["state"], record["left_out"]) == ("finished", ["cirrus"])
    assert_new_keys_of_those_who_are_left(tmp_path / "frames")


def assert_new_keys_of_those_who_are_left(frames: Path) -> None:
    """By what passed the aggregator: all announced a key, then those who are left another, and were told no key but theirs."""
    keys: dict[str, list[bytes]] = {name: [] for name in NAMES}
    told: list[set[tuple[str, ...]]] = []
    for epoch in (f"{HUB}.frames", f"{HUB}.2.frames"):
        told.append(set())
        for each in read_transcript(frames / epoch):
            sender = each.member if each.direction == "up" else HUB
            message = decode(sender, each.frame)
            if isinstance(message, AnnounceKey):
                keys[sender].append(message.public_key)
            elif isinstance(message, ExchangeKeys):
                told[-1].add(tuple(name for name, *_ in message.keys))
    assert told == [{NAMES}, {LEFT}]
    assert {name: len(own) for name, own in keys.items()} == {**dict.fromkeys(LEFT, 2), "cirrus": 1}
    assert len({key for own in keys.values() for key in own}) == 7
