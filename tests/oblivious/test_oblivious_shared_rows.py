"""Candidates, and rows as shares: what arrives, and that products with it are right for every kind of owner."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import naive_mpc as naive
from hansa.errors import DataError, PlanError, ProtocolError
from hansa.mpc.ring import RING32, pack_bits
from hansa.oblivious import shared_rows
from hansa.oblivious.candidates import ONLY_MISSING, Candidates, Feature
from hansa.oblivious.shared_rows import label_words, receive_rows, routing_part, share_rows, sums_part, weights_of
from naive_mpc import left_of
from three_servers import ALGORITHM, reveal, share

MIXED = Candidates((Feature(4), Feature(3, categorical=True, has_missing=True), Feature(5, has_missing=True)))


def mixed_codes(rows, seed=0):
    rng = np.random.default_rng(seed)
    return np.stack([rng.integers(0, n, rows) for n in (5, 4, 7)], axis=1).astype(np.uint16)


def test_columns_and_candidates():
    assert MIXED.n_columns == 4 + 4 + 6
    assert len(MIXED.all) == 4 + 6 + 11
    assert [c.cut for c in MIXED.all if c.feature == 2][-1] == ONLY_MISSING
    codes = mixed_codes(200)
    bits = MIXED.column_bits(codes)
    goes_left = MIXED.sums_by_candidate(bits)
    for number, candidate in enumerate(MIXED.all):
        assert np.array_equal(goes_left[:, number], left_of(MIXED, candidate, codes))
    one_hots = np.eye(len(MIXED.all), dtype=np.uint8)
    assert np.array_equal(naive.naive_gf2_products(bits, MIXED.bits_by_column(one_hots)), goes_left)
    v = np.random.default_rng(1).integers(0, 2**32, (3, 200), dtype=np.uint32)
    by_code = naive.naive_code_sums(codes, v, MIXED.n_codes)
    assert np.array_equal(MIXED.sums_by_column(by_code), naive.naive_gemm(bits.astype(np.uint32), v))


def test_a_row_of_no_category_goes_right_at_every_split():
    """Where no row lacks a category, its missing code stands for none: held-out rows may have it."""
    candidates = Candidates((Feature(3, categorical=True),))
    codes = np.array([[0], [3], [2]], np.uint16)
    candidates.check_codes(codes)
    assert candidates.column_bits(codes).tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 1]]
    assert not any(left_of(candidates, split, codes)[1] for split in candidates.all)
    with pytest.raises(DataError, match="feature 0: code 4"):
        candidates.check_codes(codes + np.uint16(1))


def test_refusals():
    codes = mixed_codes(5)
    codes[2, 0] = 5
    with pytest.raises(DataError, match="feature 0: code 5"):
        MIXED.check_codes(codes)
    with pytest.raises(DataError, match="uint16"):
        MIXED.check_codes(codes.astype(np.int64))
    with pytest.raises(PlanError):
        Candidates((Feature(0),))


@pytest.mark.parametrize("regenerate", [False, True])
@pytest.mark.parametrize("owner", [None, 0, 1, 2])
def test_products_with_shared_rows(owner, regenerate, monkeypatch):
    monkeypatch.setattr(shared_rows, "CHUNK_ROWS", 100)
    codes, rng = mixed_codes(333), np.random.default_rng(2)
    labels = rng.integers(0, 2, 333).astype(np.uint32)
    messages = share_rows(MIXED, codes, labels, ALGORITHM, owner)
    blocks = [
        receive_rows(MIXED, i, m, ALGORITHM, codes if i == owner else None, regenerate) for i, m in enumerate(messages)
    ]
    assert np.array_equal(sum(b.labels[0, 0] for b in blocks), labels)
    vectors = rng.integers(0, 2**32, (3, 333), dtype=np.uint32)
    v = share(RING32, vectors)
    parts = [sums_part(MIXED, b, v[i]) for i, b in enumerate(blocks)]
    bits = MIXED.column_bits(codes)
    assert np.array_equal(sum(parts), naive.naive_gemm(bits.astype(np.uint32), vectors))
    chosen = rng.integers(0, 2, (9, MIXED.n_columns)).astype(np.uint8)
    masks = [pack_bits(rng.integers(0, 2, chosen.shape).astype(np.uint8)) for _ in range(2)]
    pieces = [*masks, pack_bits(chosen) ^ masks[0] ^ masks[1]]
    total = np.zeros((333, 2), np.uint8)
    for i, block in enumerate(blocks):
        out = np.zeros((333, 2), np.uint8)
        routing_part(block, np.stack([pieces[i], pieces[(i + 1) % 3]]), out)
        total ^= out
    found = np.unpackbits(total, axis=1, bitorder="little")[:, :9]
    assert np.array_equal(found, naive.naive_gf2_products(bits, chosen))


@pytest.mark.parametrize("owner", [None, 1])
def test_only_one_part_travels_and_no_server_gets_all(owner):
    messages = share_rows(MIXED, mixed_codes(50), np.zeros(50, np.uint32), ALGORITHM, owner)
    travelling = [part for m in messages for part in m.parts if part is not None]
    assert all(part is travelling[0] for part in travelling)
    assert len(travelling) == 2
    for m in messages:
        held = {k for k in m.keys if k} | ({"part"} if any(m.parts) else set())
        assert len(held) < 3 if owner is None else True
    if owner is not None:
        others = [m for i, m in enumerate(messages) if i != owner]
        # S_{p+1} gets the masked part and no key, S_{p+2} the key and no part.
        assert sorted((any(m.keys), any(m.parts)) for m in others) == [(False, True), (True, False)]


@pytest.mark.parametrize("owner", [None, 0, 1, 2])
def test_labels_and_weights_of_several_outputs_arrive(owner):
    codes, rng = mixed_codes(70), np.random.default_rng(4)
    labels = rng.integers(0, 2, (4, 70)).astype(np.uint32)
    weights = rng.integers(0, 2**32, (4, 2, 70), dtype=np.uint32)
    messages = share_rows(MIXED, codes, labels, ALGORITHM, owner, weights)
    blocks = [receive_rows(MIXED, i, m, ALGORITHM, codes if i == owner else None) for i, m in enumerate(messages)]
    for output in range(4):
        assert np.array_equal(reveal(RING32, [label_words([b, b], output) for b in blocks]), np.tile(labels[output], 2))
        assert np.array_equal(reveal(RING32, [weights_of([b], output) for b in blocks]), weights[output])


def test_labels_and_weights_of_another_shape_are_refused():
    codes, labels = mixed_codes(50), np.zeros((3, 50), np.uint32)
    for wrong in (labels[:, 1:], labels[None]):
        with pytest.raises(DataError, match="labels are"):
            share_rows(MIXED, codes, wrong, ALGORITHM)
    for wrong in (np.zeros((2, 50), np.uint32), np.zeros((2, 2, 50), np.uint32)):
        with pytest.raises(DataError, match="weights are"):
            share_rows(MIXED, codes, labels, ALGORITHM, weights=wrong)


def test_wrong_shares_are_refused():
    message = share_rows(MIXED, mixed_codes(50), np.zeros(50, np.uint32), ALGORITHM)[2]
    short = type(message)(49, message.keys, message.parts, None)
    with pytest.raises(ProtocolError, match="expected"):
        receive_rows(MIXED, 2, short, ALGORITHM)
    fewer = replace(share_rows(MIXED, mixed_codes(50), np.zeros((3, 50), np.uint32), ALGORITHM)[2], outputs=2)
    with pytest.raises(ProtocolError, match="expected"):
        receive_rows(MIXED, 2, fewer, ALGORITHM)
    with pytest.raises(ProtocolError, match="owner"):
        receive_rows(MIXED, 2, message, ALGORITHM, mixed_codes(50))


def test_regenerated_columns_are_those_that_would_be_stored(monkeypatch):
    monkeypatch.setattr(shared_rows, "CHUNK_ROWS", 64)
    message = share_rows(MIXED, mixed_codes(333), np.zeros(333, np.uint32), ALGORITHM)[0]
    stored, made = (
        [term.columns for term in receive_rows(MIXED, 0, message, ALGORITHM, regenerate=r).terms] for r in (False, True)
    )
    assert len(made) == 2
    for whole, again in zip(stored, made, strict=True):
        assert isinstance(again, shared_rows.Regenerated)
        for part in (slice(0, 333), slice(0, 64), slice(63, 65), slice(100, 300), slice(320, 333)):
            assert np.array_equal(again[part].panels(), whole[:, part])
        assert np.array_equal(again[50:300][20:130].panels(), whole[:, 70:180])


def test_an_owner_that_is_a_server_sums_in_the_clear_and_the_others_take_one_product_each():
    codes = mixed_codes(90)
    messages = share_rows(MIXED, codes, np.zeros(90, np.uint32), ALGORITHM, 1)
    blocks = [receive_rows(MIXED, i, m, ALGORITHM, codes if i == 1 else None) for i, m in enumerate(messages)]
    assert [[term.factor for term in block.terms] for block in blocks] == [["own"], ["both"], ["following"]]
    assert blocks[1].terms[0].columns is None
    assert np.array_equal(blocks[1].terms[0].bits, pack_bits(MIXED.column_bits(codes)).T)
    assert np.array_equal(blocks[1][20:50].codes, codes[20:50])
    assert all(block[20:50].rows == 30 and block[20:50].terms[0].bits.shape[1] == 30 for block in blocks)
    held = blocks[0].without_columns()
    assert [(term.columns, term.bits.shape) for term in held.terms] == [(None, (1, 90))]


def test_a_constant_feature_has_no_column():
    candidates = Candidates((Feature(0), Feature(3), Feature(0)))
    assert (candidates.n_columns, len(candidates.all)) == (3, 3)
    codes = np.zeros((40, 3), np.uint16)
    codes[:, 1] = np.arange(40) % 4
    assert {c.feature for c in candidates.all} == {1}
    assert np.array_equal(candidates.column_bits(codes), codes[:, 1:2] <= np.arange(3))
    codes[3, 0] = 1
    with pytest.raises(DataError, match="feature 0"):
        candidates.check_codes(codes)
