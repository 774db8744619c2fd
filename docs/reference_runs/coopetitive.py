"""Coopetitive mode on one page: a party cuts every number in three parts, three servers compute on parts, a receiver adds them up.

x = x_0 + x_1 + x_2, and server S_i holds x_i and x_(i+1): no server alone knows anything of x (Araki et al., CCS 2016). A step of the
computation is a *program*: it yields what it sends to the other servers, and is given what they sent.
"""

import itertools
from collections.abc import Iterator, Mapping

import numpy as np

from hansa.data.quantiles import SortedKeys
from hansa.data.source import Rows
from hansa.mpc.replicated import Address, PairStreams, Server
from hansa.oblivious.base_score import pooled_sums
from hansa.oblivious.quantile_search import CutSearchOnShares, count_probes
from hansa.oblivious.release import open_tree, release
from hansa.oblivious.shared_rows import receive_rows, share_rows
from hansa.oblivious.shared_vectors import receive_vector, share_vector
from hansa.oblivious.training import train as boost_on_shares
from hansa.plan import Plan
from hansa.roles.shared.owner import codes_of, label_words
from hansa.roles.shared.receiver import tree_of
from hansa.roles.shared.sharing import Counts, TrainingStart, declared_missing, label_sums, values_of
from hansa.secure.keys import PairKey
from hansa.secure.prg import Algorithm, fresh_key

ALGORITHM = Algorithm.AES_256_CTR


def train(plan: Plan, tables: Mapping[str, Rows]) -> list:
    """The trees that a receiver puts together. Without weights, categories and held-out rows."""
    # 1. Every two servers agree on a key (as in secure aggregation): its streams are the randomness that two of them share.
    secrets = {pair: bytes(fresh_key()) for pair in itertools.combinations(range(3), 2)}
    keys = [{j: PairKey(secrets[min(i, j), max(i, j)], f"S{i}", f"S{j}") for j in range(3) if j != i} for i in range(3)]
    servers = [Server(i, PairStreams(i, keys[i], ALGORITHM)) for i in range(3)]
    counts = Counts({name: rows.n_rows for name, rows in tables.items()}, dict.fromkeys(tables, 0))

    # 2. The base score: parties share their sums of labels, servers add the shares and open the total alone.
    shared = shares({name: label_sums(rows.label, rows.weight, plan, counts.total) for name, rows in tables.items()})
    sums = together(pooled_sums(s, add(s, shared), Address(0, 0, 0, "labels")) for s in servers)[0]
    values = values_of(sums, counts.total, plan)

    # 3. Cuts: parties share counts below some values; servers open on which side each cut lies, and ask for closer values.
    own = {name: SortedKeys.from_features(rows.features) for name, rows in tables.items()}
    width = len(plan.schema.features)
    sizes = (width, counts.total, plan.parameters.max_bin, plan.min_cell_rows)
    searches = [CutSearchOnShares(*sizes, declared_missing(plan), np.zeros(width, bool), False) for _ in servers]
    while not searches[0].done:
        asked = searches[0].request()
        shared = shares({name: count_probes(sorted_keys, asked) for name, sorted_keys in own.items()})
        searches = together(searches[s.index].answer(s, received(s, shared), Address(0, 0, 0, "cuts")) for s in servers)
    cuts = searches[0].cuts()
    start = TrainingStart(plan, counts, cuts, values).check()

    # 4. Parties share their rows: for each value one bit per cut, and the label. A party that is a server itself keeps the bits.
    blocks: list[list] = [[], [], []]
    for name, rows in sorted(tables.items()):
        codes, (labels, weights) = (
            codes_of(rows.features, start, False),
            label_words(rows, start, False, np.arange(rows.n_rows)),
        )
        assists = plan.servers.index(name) if name in plan.servers else None
        for i, message in enumerate(share_rows(start.candidates, codes, labels, ALGORITHM, assists, weights)):
            blocks[i].append(receive_rows(start.candidates, i, message, ALGORITHM, codes if assists == i else None))

    # 5. All rounds of boosting, on shares: gradients, sums by candidate, the best candidate as a shared one-hot, leaves, new margins.
    trained = together(
        boost_on_shares(s, start.candidates, blocks[s.index], start.output_settings, sampling=start.sampling)
        for s in servers
    )

    # 6. Release: each server sends its parts of the splits and leaves to the receivers, who add them up. Nothing else is ever opened.
    trees = []
    for number in range(trained[0].good):
        parts = {i: release(trained[i].trees[number]) for i in range(3)}
        plain = open_tree(start.candidates, start.settings.max_depth, parts, start.statistics and start.statistics[0])
        trees.append(tree_of(start, plain, 1.0))
    return trees


def shares(vectors: Mapping[str, np.ndarray]) -> dict[str, list]:
    """What each party sends: a message for each server."""
    return {name: share_vector(vector, ALGORITHM) for name, vector in vectors.items()}


def received(server: Server, sent: Mapping[str, list]) -> dict[str, np.ndarray]:
    """A server's shares of each party's vector."""
    return {
        name: receive_vector(server.index, own[server.index], own[0].count, ALGORITHM) for name, own in sent.items()
    }


def add(server: Server, sent: Mapping[str, list]) -> np.ndarray:
    """A server's share of the sum of all parties' vectors: the sum of its shares. No message is needed."""
    return np.sum(list(received(server, sent).values()), axis=0, dtype=np.uint64)


def together(programs: Iterator) -> list:
    """Three servers' programs side by side, round by round: what each sends in a round the others are given before the next."""
    running = list(programs)
    results, answers = [None] * 3, [None] * 3
    while True:
        rounds = {}
        for i, program in enumerate(running):
            try:
                rounds[i] = program.send(answers[i])
            except StopIteration as stop:
                results[i] = stop.value
        if not rounds:
            return results
        answers = [{j: [a.copy() for a in rounds[j].send.get(i, [])] for j in range(3) if j != i} for i in range(3)]
