"""Normalisation and reciprocals over all magnitudes."""

from __future__ import annotations

import numpy as np
import pytest

from hansa.mpc.comparison import signs
from hansa.mpc.reciprocal import inverse, mantissa, normaliser, threshold_parts
from hansa.mpc.ring import RING64
from lockstep import run_three
from three_servers import reveal, share


@pytest.mark.parametrize("lowest", [0, 7])
def test_reciprocal(lowest, servers, place):
    x = np.unique(np.round(2 ** np.random.default_rng(1).uniform(lowest, 31, 300)).astype(np.int64))
    x = np.unique(np.concatenate([x, 2 ** np.arange(lowest, 31), 2 ** np.arange(lowest + 1, 31) - 1]))
    if lowest == 0:
        x = np.concatenate([[0], x])
    shares = share(RING64, x)

    def program(server):
        own = shares[server.index]
        parts = threshold_parts(server, own, lowest)
        below = yield from signs(server, RING64, parts.reshape(-1), place.named("below"))
        c = normaliser(server, below.reshape(2, *parts.shape), lowest)
        y = yield from mantissa(server, own, c, place.named("y"))
        full = yield from inverse(server, own, c, place.named("full"))
        return c, y, full

    results = run_three([program(s) for s in servers])
    c, y, full = (reveal(RING64, [r[k] for r in results]).astype(np.float64) for k in range(3))
    x = x.astype(np.float64)
    positive = x > 0
    assert np.array_equal(c[positive], 2.0 ** (30 - np.floor(np.log2(x[positive]))))
    assert np.abs(y * x * c / 2.0**61 - 1)[positive].max() < 2**-26.5
    assert np.abs(full * x / 2.0**61 - 1)[positive].max() < 2**-26.5
    assert not c[~positive].any()
    assert not full[~positive].any()
