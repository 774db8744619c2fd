"""What is said in a run, from its transcript: sums up, decisions down, no row's value, no party's part."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from hansa.data.source import Rows
from hansa.node.in_process import train_in_process
from hansa.protocol.messages import (
    Abort,
    Contribution,
    CountCells,
    CountMagnitudes,
    Finish,
    Join,
    QuantiseGradients,
    Received,
    SplitNodes,
    SumLabels,
    UseCuts,
    Welcome,
    decode,
    encode,
)
from hansa.transport.recording import RecordingHub, read_transcript
from made_tables import FEATURES, NAMES, plan, spread, table, take

PARTIES = NAMES[:4]
UP = {Join, Contribution, Received}
DOWN = {Welcome, CountMagnitudes, SumLabels, CountCells, UseCuts, QuantiseGradients, SplitNodes, Finish}
QUANTITIES = {"magnitudes", "labels", "cells", "weights", "totals", "root", "histograms", "metric/auc", "metric/rmse"}
GIVEN = {"evaluation": 0.3, "eval_metric": ["auc", "rmse"], "weighted": True}


def sentinels(rows):
    """Feature values by which a row could be known: each is a float32 that stands in the table once."""
    values, counts = np.unique(rows.features[~np.isnan(rows.features)], return_counts=True)
    return values[counts == 1]


def sentinel_weights(rows):
    """Weights that one row has."""
    values, counts = np.unique(rows.weight, return_counts=True)
    return values[counts == 1]


def recorded(tables, folder, **changes):
    chosen = replace(plan(tuple(tables), **GIVEN), **changes)
    run = train_in_process(chosen, tables, nodes_per_frame=1, wrap=lambda hub: RecordingHub(hub, folder))
    return run, list(read_transcript(folder / "hub.frames"))


@pytest.fixture(scope="module")
def rows():
    """Rows with two features of distinct values that no sum or cut would hit by chance."""
    made = table(400, weighted=True)
    rng = np.random.default_rng(8)
    features = made.features.copy()
    for feature in (0, 3):
        # Odd mantissas: cuts are ends of key ranges of at least 2^5 keys, whose last bits are zeros.
        bits = features[feature].view(np.uint32) & ~np.uint32(0x1F) | rng.integers(1, 31, 400).astype(np.uint32) | 1
        features[feature] = np.where(np.isnan(features[feature]), np.nan, bits.view(np.float32))
    weight = made.weight + np.float32(0.1)
    return Rows(features, made.label, weight)


@pytest.fixture(scope="module")
def transcript(rows, tmp_path_factory):
    tables = spread(rows, np.arange(rows.n_rows) % len(PARTIES))
    return recorded(tables, tmp_path_factory.mktemp("run"), receivers=(PARTIES[0], "hub"))


def test_only_the_listed_messages_are_said(transcript):
    _, records = transcript
    said = {"up": Counter(), "down": Counter()}
    for record in records:
        said[record.direction][type(decode(record.member, record.frame))] += 1
    assert set(said["up"]) == UP
    assert set(said["down"]) == DOWN
    assert said["up"][Join] == said["up"][Received] == len(PARTIES)
    assert said["down"][Finish] == len(PARTIES)
    assert Abort not in {*said["up"], *said["down"]}


def test_all_that_parties_contribute_are_the_listed_sums(transcript):
    _, records = transcript
    for record in records:
        message = decode(record.member, record.frame)
        if record.direction == "up" and isinstance(message, Contribution):
            assert message.quantity in QUANTITIES
            assert message.values.dtype == ("<u4" if message.quantity == "cells" else "<i8")
            assert message.zero == 0
    joined = [m for m in (decode(r.member, r.frame) for r in records) if isinstance(m, Join)]
    assert {f.name for f in msgspec.structs.fields(Join)} == {
        "claim",
        "version",
        "plan",
        "nonce",
        "rows",
        "evaluation_rows",
        "enough",
        "parts",
    }
    assert sum(m.rows + m.evaluation_rows for m in joined) == 400


def occurring(values, content):
    """Which float32 values stand anywhere in the bytes, as float32 or float64, in either byte order."""
    occurs = np.zeros(len(values), bool)
    for dtype in ("<f4", ">f4", "<f8", ">f8"):
        size = np.dtype(dtype).itemsize
        windows = np.lib.stride_tricks.sliding_window_view(np.frombuffer(content, np.uint8), size)
        words = np.ascontiguousarray(windows).view(f"<u{size}")[:, 0]
        occurs |= np.isin(values.astype(dtype).view(f"<u{size}"), words)
    return values[occurs].tolist()


def test_no_frame_holds_a_rows_value(transcript, rows):
    _, records = transcript
    everything = b"\xff\xfe\xff".join(record.frame for record in records)
    # What is drawn at random could hold any four bytes.
    welcome = next(m for m in (decode(r.member, r.frame) for r in records) if isinstance(m, Welcome))
    for drawn in (welcome.run, *(nonce for _, nonce, *_ in welcome.roster)):
        everything = everything.replace(drawn, b"")
    planted = sentinels(Rows(rows.features[[0, 3]], rows.label, None))
    assert len(planted) > 500
    assert occurring(planted, everything) == []
    assert [value for value in planted if str(value).encode() in everything] == []
    # Weights are values of rows too.
    assert occurring(sentinel_weights(rows), everything) == []
    # The search finds what is there: a cut.
    cuts = next(m for m in (decode(r.member, r.frame) for r in records) if isinstance(m, UseCuts))
    cut = np.frombuffer(cuts.values.data, np.float32)[5:6]
    assert occurring(cut, everything) == cut.tolist()


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", ">f8"])
def test_the_search_finds_a_value_in_any_form(dtype):
    values = np.array([1.1, -2.7], np.float32)
    assert occurring(values, b"abc" + values[1:].astype(dtype).tobytes() + b"d") == values[1:].tolist()


def test_parties_hear_no_contribution_and_all_hear_the_same(transcript):
    _, records = transcript
    received = {name: [r.frame for r in records if r.direction == "down" and r.member == name] for name in PARTIES}
    frames = [frames[:-1] for frames in received.values()]
    assert all(other == frames[0] for other in frames[1:])
    assert len(frames[0]) > 10
    ends = {name: decode("hub", frames[-1]) for name, frames in received.items()}
    assert {type(end) for end in ends.values()} == {Finish}
    receiver = ends.pop(PARTIES[0])
    assert receiver.model
    assert len({encode(end) for end in ends.values()}) == 1
    for end in ends.values():
        assert end == replace_model(receiver)


def replace_model(message):
    return msgspec.structs.replace(message, model=b"")


def without_names(frame):
    """A frame without what names parties or runs: the run's id, nonces, the order of the roster."""
    message = decode("hub", frame)
    if isinstance(message, Welcome):
        return sorted((rows, held) for _, _, rows, held, _ in message.roster)
    return frame


def test_a_party_hears_nothing_that_depends_on_who_of_the_others_holds_what(rows, tmp_path):
    """The rows of two parties exchanged, and moved between them: a third hears the same to the byte."""
    owners = np.arange(rows.n_rows) % len(PARTIES)
    swap = np.array([0, 2, 1, 3])[owners]
    moved = np.where(np.isin(owners, (1, 2)) & (np.arange(rows.n_rows) < 200), 1, owners)
    received = []
    for i, spreading in enumerate((owners, swap, moved)):
        _, records = recorded(spread(rows, spreading), tmp_path / str(i))
        received.append([without_names(r.frame) for r in records if r.direction == "down" and r.member == "aurora"])
    assert received[0] == received[1]
    # Row counts are public in this mode, and nothing else differs.
    assert [a for a, b in zip(received[0], received[2], strict=True) if a != b] == [received[0][0]]


def test_contributions_are_the_partys_own_sums_and_add_up(transcript, rows):
    """All contributions to one step have one shape; rows counted over all parties are all training rows."""
    _, records = transcript
    labels = np.zeros(4, np.int64)
    for record in records:
        message = decode(record.member, record.frame)
        if isinstance(message, Contribution) and message.quantity == "labels":
            labels += np.frombuffer(message.values.data, np.int64)
    joined = [m for m in (decode(r.member, r.frame) for r in records) if isinstance(m, Join)]
    assert labels[3] == sum(m.rows for m in joined)
    shapes: dict[tuple[object, ...], set[tuple[int, ...]]] = {}
    for record in records:
        message = decode(record.member, record.frame)
        if isinstance(message, Contribution):
            key = (message.tree, message.step, message.quantity, message.first)
            shapes.setdefault(key, set()).add(message.values.shape)
    assert all(len(seen) == 1 for seen in shapes.values())


def test_traffic_is_what_the_transcript_holds(transcript):
    run, records = transcript
    prefix = 4
    for name in PARTIES:
        up = [len(r.frame) + prefix for r in records if r.member == name and r.direction == "up"]
        down = [len(r.frame) + prefix for r in records if r.member == name and r.direction == "down"]
        assert (run.traffic[name].bytes_up, run.traffic[name].bytes_down) == (sum(up), sum(down))
        assert (run.traffic[name].frames_up, run.traffic[name].frames_down) == (len(up), len(down))


def test_sizes_do_not_depend_on_the_labels(rows, tmp_path):
    """Requests and answers of the set-up have the sizes that plan and features give, whatever the labels."""
    other = Rows(rows.features, rows.label[::-1].copy(), rows.weight)
    sizes = []
    for i, held in enumerate((rows, other)):
        tables = spread(held, np.arange(400) % 4)
        chosen = replace(plan(tuple(tables), weighted=True))
        folder = tmp_path / str(i)
        train_in_process(chosen, tables, wrap=lambda hub, folder=folder: RecordingHub(hub, folder))
        records = read_transcript(folder / "hub.frames")
        messages = [(r.direction, r.member, decode(r.member, r.frame)) for r in records]
        kept = [m for m in messages if isinstance(m[2], UseCuts | CountCells)]
        sizes.append([(d, n, len(encode(m))) for d, n, m in kept])
    assert sizes[0] == sizes[1]


def test_the_tables_hold_what_the_search_looks_for(rows):
    assert len(FEATURES) == len(rows.features)
    assert take(rows, np.array([3])).features[0, 0] in sentinels(rows)
