"""A server that lies in the search for cuts: it is found before anything of the step is opened, and so learns nothing by it."""

from __future__ import annotations

import numpy as np
import pytest

from hansa.data.quantiles import SortedKeys
from hansa.errors import ServersDisagree
from hansa.mpc import verified_bits as vb
from hansa.mpc.replicated import Address
from hansa.oblivious import quantile_search as qs
from hansa.oblivious.shared_vectors import receive_vector, share_vector
from lying_servers import changed, run_with_liar
from three_servers import ALGORITHM, make_servers

PLACE = Address(0, 0, 0, "cuts")
OPENED = ("gaps of cuts", "path of cuts")
"""What a search opens, by the last part of the step's name."""


def search(columns, max_bin, min_cell_rows, liar=None, meddle=None, owners=2, share=share_vector):
    """A whole search, or as far as it comes; the last `Outcome`, and everything that the liar was told in openings.

    meddle(round number from the start of the search, the liar's Round), as of `run_with_liar`.
    """
    rows = columns.shape[1]
    owner = np.arange(rows) % owners
    keys = [SortedKeys.from_features(np.ascontiguousarray(columns[:, owner == o])) for o in range(owners)]
    servers, opened, rounds = make_servers(), [], 0
    states = [qs.CutSearchOnShares(len(columns), rows, max_bin, min_cell_rows) for _ in range(3)]
    while not states[0].done:
        request = states[0].request()
        messages = [share(qs.count_probes(k, request), ALGORITHM) for k in keys]
        shares = [
            {f"o{o}": receive_vector(i, m[i], states[i].n_answers, ALGORITHM) for o, m in enumerate(messages)}
            for i in range(3)
        ]
        programs = [states[i].answer(servers[i], shares[i], PLACE) for i in range(3)]
        own = None if meddle is None else lambda number, step, before=rounds: meddle(before + number, step)
        outcome = run_with_liar(programs, liar, own)
        rounds += outcome.rounds
        opened += [(step, sender, array.tobytes()) for step, sender, array in outcome.told if step.endswith(OPENED)]
        honest = {0, 1, 2} - {liar}
        if not honest <= set(outcome.results):
            return outcome, opened, rounds, None
        states = [outcome.results.get(i, outcome.results[min(honest)]) for i in range(3)]
    return outcome, opened, rounds, states[min({0, 1, 2} - {liar})].cuts()


def incomes(rows, seed=3):
    return np.round(np.exp(10 + np.random.default_rng(seed).normal(size=(1, rows))), 2).astype(np.float32)


def openings_of(opened):
    """How many openings the liar was told of."""
    return len({step for step, _, _ in opened})


# --- the attack that read exact values --------------------------------------------------------------------------------


def steering(liar, rows):
    """`negative` as a liar computes it that would read the smallest values: it adds constants to numbers before their signs are opened.

    With them every comparison of ranks becomes "at least k rows below the middle", and no half is small.
    """
    original = vb.negative

    def negative(server, triples, x, bits, address):
        if server.index == liar and address.tensor.startswith("cuts/bits"):
            x = x.copy()
            x[0] += np.uint64(rows) if address.tensor.endswith("right") else np.uint64(2 ** (bits - 2))
        return (yield from original(server, triples, x, bits, address))

    return negative


@pytest.mark.parametrize("liar", [0, 1, 2])
def test_a_server_that_steers_the_search_is_found_before_its_step_is_opened(liar, monkeypatch):
    columns = incomes(800)
    outcome, before, _, cuts = search(columns, 16, 10, liar)
    assert not outcome.errors
    assert cuts is not None
    honest_openings = openings_of(before)
    monkeypatch.setattr(qs, "negative", steering(liar, 800))
    outcome, opened, _, cuts = search(columns, 16, 10, liar)
    assert cuts is None
    honest = {0, 1, 2} - {liar}
    caught = {index: error for index, error in outcome.errors.items() if index in honest}
    assert caught
    for error in caught.values():
        assert isinstance(error, ServersDisagree)
        assert liar in error.servers
    # The bit of the gap, which the constants do not touch; of the path nothing.
    assert openings_of(opened) == 1 < honest_openings
    assert {step.rsplit("/", 1)[1] for step, _, _ in opened} == {"gaps of cuts"}


# --- lies of any kind, anywhere ---------------------------------------------------------------------------------------


def in_messages(rng, rounds):
    """Changes an array of a round, all three drawn at random: a bit, many bits, everything, or a constant added to a word."""
    at, pick = int(rng.integers(rounds)), rng.random(8)

    def change(arrays):
        array = arrays[int(pick[0] * len(arrays))]
        octets = array.reshape(-1).view(np.uint8)
        kind = int(pick[1] * 4)
        if kind == 0:
            octets[int(pick[2] * octets.size)] ^= np.uint8(1 << int(pick[3] * 8))
        elif kind == 1:
            some = np.random.default_rng(int(pick[4] * 2**32)).integers(0, 256, octets.size, dtype=np.uint8)
            octets ^= some if some.any() else np.uint8(1)
        elif kind == 2:
            octets ^= np.uint8(255)
        else:
            place = int(pick[5] * array.size)
            array.reshape(-1)[place : place + 1] += array.dtype.type(1 + int(pick[6] * 100))

    def meddle(number, step):
        return changed(step, change) if number == at else step.send

    return meddle


LOCAL = {
    "numbers": (qs, "negative"),
    "factors": (vb, "products"),
    "factors of the path": (qs, "products_of_bytes"),
    "what is opened": (qs, "open_to_all"),
    "what is opened under masks": (vb, "open_to_all"),
    "what should be zero": (vb, "check_zero"),
    "its part of triples": (vb, "pass_on"),
    "an owner's copies": (qs, "check_copies"),
}
"""Where a liar may compute with something else than it holds: module and function, whose first or third argument it is."""


def in_its_own_part(rng, liar):
    """Changes what the liar computes with, in one call of a function drawn at random."""
    module, function = LOCAL[rng.choice(list(LOCAL))]
    original, at, calls = getattr(module, function), int(rng.integers(1, 20)), [0]
    pick, noise = rng.random(4), int(rng.integers(1, 2**63)) | 1

    def lying(server, *others):
        others = list(others)
        if server.index == liar:
            calls[0] += 1
            if calls[0] == at:
                place = next(n for n, own in enumerate(others) if isinstance(own, np.ndarray | list | dict))
                others[place] = spoiled(others[place])
        return (yield from original(server, *others))

    def spoiled(value):
        if isinstance(value, list):
            return [(spoiled(value[0][0]), value[0][1]), *value[1:]]
        if isinstance(value, dict):
            return {name: spoiled(pair) if n == 0 else pair for n, (name, pair) in enumerate(value.items())}
        value = value.copy()
        # Of copies it shows the second part, of zeros and of triples the first; with another one it would only deceive itself.
        shown = {"check_copies": 1, "check_zero": 0, "pass_on": 0}
        flat = value[shown[function]].reshape(-1) if function in shown else value.reshape(-1)
        if flat.dtype == np.uint8:
            flat[int(pick[0] * flat.size)] ^= np.uint8(1)
        elif pick[1] < 0.5:
            flat[int(pick[0] * flat.size)] ^= np.uint64(1 << int(pick[2] * 3))
        else:
            flat ^= np.uint64(noise)
        return value

    return lambda: calls[0] >= at, (module, function, lying)


def tried(liar, tries, seed, monkeypatch):
    """So many searches with a lie each: how many lies were found, and what was wrong with what honest servers did, in words."""
    columns, settings = incomes(70), (6, 8)
    _, right, rounds, cuts = search(columns, *settings, liar)
    steps = [step for step, _, _ in right]
    rng = np.random.default_rng(seed)
    lies = found = 0
    wrong = set()
    while lies < tries:
        meddle, told = None, None
        with monkeypatch.context() as patched:
            if rng.random() < 0.6:
                meddle = in_messages(rng, rounds)
            else:
                told, (module, function, lying) = in_its_own_part(rng, liar)
                patched.setattr(module, function, lying)
            outcome, opened, _, own = search(columns, *settings, liar, meddle)
        if told is not None and not told():
            continue
        lies += 1
        caught = [error for index, error in outcome.errors.items() if index != liar]
        found += bool(caught)
        if not caught:
            wrong.add(f"not found: {'a message' if told is None else function}")
        if not all(isinstance(error, ServersDisagree) and liar in error.servers for error in caught):
            wrong.add(f"an honest server was blamed: {caught}")
        if own is not None and not np.array_equal(own.values, cuts.values):
            wrong.add("the cuts are wrong")
        if [step for step, _, _ in opened] != steps[: len(opened)]:
            wrong.add("another path was opened than an honest run's")
    return found, wrong


@pytest.mark.parametrize("liar", [0, 1, 2])
def test_lies_of_any_kind_anywhere_are_found(liar, monkeypatch):
    assert tried(liar, 40, 10 + liar, monkeypatch) == (40, set())


@pytest.mark.slow
@pytest.mark.parametrize("liar", [0, 1, 2])
def test_a_thousand_lies_of_a_thousand_are_found(liar, monkeypatch):
    assert tried(liar, 1000, 20 + liar, monkeypatch) == (1000, set())


@pytest.mark.parametrize("liar", [0, 1, 2])
def test_a_lie_in_any_single_round_is_found(liar):
    """Every round of a search, one after the other; a bit of each message of the round."""
    columns = incomes(70)
    _, _, rounds, _ = search(columns, 6, 8, liar)
    for at in range(rounds):
        for number in range(2):

            def meddle(now, step, at=at, number=number):
                def change(arrays):
                    arrays[number % len(arrays)].reshape(-1).view(np.uint8)[0] ^= np.uint8(4)

                return changed(step, change) if now == at else step.send

            outcome, _, came, cuts = search(columns, 6, 8, liar, meddle)
            assert cuts is None, (at, number)
            assert any(index != liar for index in outcome.errors), (at, number)
            # A wrong part of triples is found three rounds later, all else in its own round.
            assert came - at <= 4, (at, number)
