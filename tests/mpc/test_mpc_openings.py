"""Nothing is opened but what the registry lists, and what servers see looks the same for all data."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest

import hansa.mpc.openings as openings
from hansa.data.quantiles import SortedKeys
from hansa.mpc.replicated import Address
from hansa.oblivious.quantile_search import CutSearchOnShares, count_probes
from hansa.oblivious.shared_vectors import receive_vector, share_vector
from hansa.oblivious.training import BoostingSettings
from lockstep import LockstepRecord, run_three
from three_servers import ALGORITHM, make_servers, make_table, train_openly

SOURCE = Path(openings.__file__).parents[1]
ON_SHARES = [path for part in ("mpc", "oblivious") for path in (SOURCE / part).glob("*.py")]
CALLS = {"open_and_deal", "open_to_all", "reconstruct", "tell_others"}


def calls_in(path):
    found = []
    for function in ast.walk(ast.parse(path.read_text())):
        if isinstance(function, ast.FunctionDef):
            for node in ast.walk(function):
                if isinstance(node, ast.Call):
                    name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                    if name in CALLS:
                        found.append((path.stem, function.name, name))
    return found


def test_the_registry_is_the_code():
    found = {call for path in ON_SHARES for call in calls_in(path)}
    assert found == {(o.module, o.function, o.call) for o in openings.OPENINGS}
    masked = {o.call for o in openings.OPENINGS if o.masked and o.module != "verified_bits"}
    assert masked == {"open_and_deal", "tell_others"}


def test_no_other_way_to_open():
    """Rounds are made in `replicated` alone, so there is no other door."""
    for path in ON_SHARES:
        makes = [
            node
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Round"
        ]
        assert not makes or path.stem == "replicated"


def test_no_other_randomness():
    for path in ON_SHARES:
        text = path.read_text()
        assert "np.random" not in text
        assert "import random" not in text
        assert "pickle" not in text


@pytest.fixture(scope="module")
def records():
    settings = BoostingSettings("binary:logistic", rounds=2, max_depth=3, leaf_limit=16.0, base_margin=1.0)
    result = []
    for seed, ones in ((1, 0.5), (2, 0.02)):
        candidates, codes, labels = make_table(6000, 4, 15, seed=seed, share_of_ones=ones)
        if seed == 2:
            codes[:, 0] = 3
        record = LockstepRecord()
        train_openly(candidates, codes, labels, settings, record=record, keep_views=True)
        result.append(record)
    return result


def test_views_have_one_shape_whatever_the_data(records):
    for index in range(3):
        shapes = [
            [(step, sender, array.dtype, array.shape) for step, sender, array in record.views[index]]
            for record in records
        ]
        assert shapes[0] == shapes[1]
        assert len(shapes[0]) > 100


def deviation(octets, width):
    """Standard deviations that the chi-square of values of `width` bytes lies above its mean."""
    values = octets[: len(octets) // width * width].view({1: np.uint8, 2: np.uint16}[width])
    bins = 256**width
    expected = len(values) / bins
    counts = np.bincount(values, minlength=bins)
    return (((counts - expected) ** 2).sum() / expected - (bins - 1)) / np.sqrt(2 * (bins - 1))


def bytes_by_kind(record, index):
    kinds = {}
    for step, _, array in record.views[index]:
        if "margins in range" not in step:
            kinds.setdefault((step.split("/")[-1].rstrip("0123456789 "), array.dtype), []).append(array.tobytes())
    return {kind: np.frombuffer(b"".join(parts), np.uint8) for kind, parts in kinds.items()}


def test_received_bytes_are_uniform(records):
    checked = 0
    for index in range(3):
        everything = []
        for kind, octets in bytes_by_kind(records[0], index).items():
            everything.append(octets)
            if len(octets) > 4096:
                checked += 1
                assert deviation(octets, 1) < 6, kind
        total = np.concatenate(everything)
        assert len(total) > 2**19
        assert deviation(total, 2) < 6
    assert checked > 20


def test_received_bytes_of_a_search_for_cuts_are_uniform_but_for_what_it_opens():
    """Every server's, with owners whose rows are all alike; its openings are few bits, and 0 in most places."""
    columns = np.full((3, 3000), 7, np.float32)
    columns[1, :1500] = np.arange(1500)
    keys, servers, record = SortedKeys.from_features(columns), make_servers(), LockstepRecord()
    states = [CutSearchOnShares(3, 3000, 16, 10) for _ in servers]
    while not states[0].done:
        message = share_vector(count_probes(keys, states[0].request()), ALGORITHM)
        shares = [{"owner": receive_vector(i, message[i], states[0].n_answers, ALGORITHM)} for i in range(3)]
        place = Address(0, 0, 0, "cuts")
        states = run_three([states[i].answer(servers[i], shares[i], place) for i in range(3)], record, True)
    for view in record.views:
        masked = [array for step, _, array in view if not step.endswith(("gaps of cuts", "path of cuts"))]
        octets = np.frombuffer(b"".join(array.tobytes() for array in masked), np.uint8)
        assert len(octets) > 2**19
        assert deviation(octets, 1) < 6
        assert deviation(octets, 2) < 6


def test_a_planted_bias_is_found(records):
    octets = next(o for o in bytes_by_kind(records[0], 0).values() if len(o) > 2**16).copy()
    words = octets[: len(octets) // 2 * 2].view(np.uint16)
    assert deviation(octets, 1) < 6
    # One 16-bit pattern, put in for 1 of 500 words.
    words[::500] = 0x1234
    assert deviation(octets, 2) > 6 or deviation(octets, 1) > 6
