"""Secure aggregation on one page: federated mode's steps, with a mask on every part that leaves a party.

Every two parties agree on a key that the aggregator cannot know. Of each vector the party with the smaller name adds the key's stream
and the other one subtracts it: the sum of all parts is the sum of what they hide, and nothing else of it means anything.
"""

import runpy
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from hansa.consortium.identity import create_identity, verify
from hansa.data.source import Rows
from hansa.plan import Plan
from hansa.roles.run import agreement, run_id
from hansa.secure.keys import (
    RunNames,
    announce,
    check_announcements,
    check_confirmation,
    confirmation,
    derive_pair_keys,
    fresh_key_pair,
    roster_hash,
)
from hansa.secure.masking import Label, Masker, Transcript
from hansa.secure.prg import Algorithm, fresh_key

federated = runpy.run_path(str(Path(__file__).with_name("federated.py")))
ALGORITHM = Algorithm.AES_256_CTR


def train(plan: Plan, tables: Mapping[str, Rows], eavesdrop: Callable[[np.ndarray], None] = lambda _: None) -> bytes:
    """The model's file. `eavesdrop` gets every part as the aggregator does."""
    names = sorted(tables)

    # 1. Identities are pinned before the run: each member's members file holds all others' cards.
    identities = {name: create_identity(name, days=1) for name in plan.members}
    pinned = {name: identity.public for name, identity in identities.items()}

    # 2. Who takes part, with a fresh nonce each: the run's name is the hash of it all.
    roster = tuple((name, bytes(fresh_key()), tables[name].n_rows, 0, b"") for name in names)
    agreed = agreement(plan, pinned)
    run = RunNames(agreed, run_id(agreed, roster))

    # 3. A fresh X25519 key each, signed by the identity; every party checks all of them, and derives a key with each other party.
    pairs = {name: fresh_key_pair() for name in names}
    announced = {name: announce(pairs[name], run, name, ALGORITHM, identities[name].sign) for name in names}
    parties = {name: pinned[name] for name in names}
    announced = check_announcements(announced.values(), run, parties, verify)  # by every party
    keys = {name: derive_pair_keys(pairs[name], name, announced, run) for name in names}

    # 4. Every two parties confirm to each other that they hold the same key, and saw the same roster.
    saw = roster_hash(run, announced)
    for name in names:
        for peer in keys[name]:
            check_confirmation(keys[peer][name], saw, confirmation(keys[name][peer], saw))
    maskers = {name: Masker(name, keys[name], ALGORITHM) for name in names}
    transcript = Transcript(run.run_id)  # each party has its own; here all are told the same

    def add_masked(quantity: str, parts: Mapping[str, np.ndarray]) -> np.ndarray:
        """5. The sum over all parties, from masked parts: all that the aggregator can read."""
        step = add_masked.step = add_masked.step + 1
        transcript.absorb("request", f"{step} {quantity}".encode())  # later masks hang on every broadcast before them
        total, zero = None, 0
        for name, part in parts.items():
            masked = np.ascontiguousarray(part).copy().reshape(-1)
            words = masked.view(np.uint64 if masked.itemsize == 8 else np.uint32)
            label = Label(
                run.run_id, 0, 0, step, quantity, saw, transcript.digest(), words.size + 1, 8 * words.itemsize
            )
            zero += maskers[name].mask(label, words)  # in place; a label masks one vector, once
            eavesdrop(masked)
            total = masked if total is None else total + masked
        # 6. The masks of a closing zero add up to zero where all parties hold the same keys and received the same.
        assert zero % 2 ** (8 * total.itemsize) == 0, "the masks do not cancel"
        return total.reshape(next(iter(parts.values())).shape)

    add_masked.step = 0
    return federated["train"](plan, tables, add_masked)
