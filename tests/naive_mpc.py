"""Naive twins of the kernels of `hansa.mpc`, and slow oracles of its protocols: plain numpy, open values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hansa.oblivious.candidates import ONLY_MISSING, Candidate, Candidates
from hansa.oblivious.release import PlainTree
from hansa.oblivious.training import BoostingSettings, growth_of


def naive_gemm(c, v):
    """(vectors, columns) of sum_i c[i, t] v[j, i] in Z_2^32."""
    return ((v.astype(object) @ c.astype(object)) % 2**32).astype(np.uint32)


def naive_dots(x, y, bits):
    """(a, b) of sum_i x[a, i] y[b, i] in Z_2^bits."""
    return (x.astype(object) @ y.astype(object).T) % 2**bits


def naive_code_sums(codes, v, n_codes):
    """(features, codes, vectors) of sums of v by code in Z_2^32."""
    out = np.zeros((codes.shape[1], n_codes, v.shape[0]), np.uint32)
    for i, row in enumerate(codes):
        for feature, code in enumerate(row):
            out[feature, code] += v[:, i]
    return out


def naive_gf2_products(c_bits, s_bits):
    """(rows, nodes) of XOR_t c[i, t] AND s[n, t] from unpacked bits."""
    return (c_bits.astype(np.int64) @ s_bits.astype(np.int64).T) % 2


def naive_look_up(values, tables, masks, digit_bits):
    """(2 digits, count) bits: parity of a table under the mask that the digit of the value picks."""
    out = np.zeros((2 * tables.shape[1], len(values)), np.uint8)
    for m, value in enumerate(values):
        for d in range(tables.shape[1]):
            digit = (int(value) >> (d * digit_bits)) & ((1 << digit_bits) - 1)
            for half in range(2):
                out[2 * d + half, m] = (int(tables[m, d]) & int(masks[2 * d + half, digit])).bit_count() & 1
    return out


def signed(words):
    """Ring words as signed numbers."""
    return words.view(np.int32 if words.dtype == np.uint32 else np.int64)


def sigmoid(x):
    """1 / (1 + e^-x), float64."""
    return 1 / (1 + np.exp(-x))


def gradients(settings: BoostingSettings, margins, labels):
    """(g, h) in float64; for squared error of labels in the scale of `LabelScale`."""
    if settings.objective == "reg:squarederror":
        return margins - labels, np.ones(len(labels))
    if settings.objective == "count:poisson":
        means = np.exp(margins - 16)
        return means - labels, means
    p = sigmoid(margins)
    w = np.where(labels == 1, settings.scale_pos_weight, 1.0)
    return w * (p - labels), w * p * (1 - p)


def bounded_weight(g, h, settings: BoostingSettings):
    """XGBoost's CalcWeight of arrays, float64, but for min_child_weight."""
    with np.errstate(divide="ignore", invalid="ignore"):
        weight = -np.sign(g) * np.maximum(np.abs(g) - settings.reg_alpha, 0) / (h + settings.reg_lambda)
    step = settings.max_delta_step or np.inf
    return np.clip(np.where(h + settings.reg_lambda > 0, weight, 0), -step, step)


def bounded_score(g, h, settings: BoostingSettings):
    """XGBoost's CalcGain of arrays, float64, but for min_child_weight."""
    u, w = h + settings.reg_lambda, bounded_weight(g, h, settings)
    return -(2 * g * w + u * w * w) if settings.max_delta_step else u * w * w


def candidate_gains(candidates: Candidates, codes, g, h, settings: BoostingSettings, chosen=None, unit=0.0):
    """Gain of each candidate of a node, float64; -inf where invalid (Chen & Guestrin 2016, eq. 7).

    `unit`: the least hessian that children may have at the format's precision.
    """
    bits = candidates.column_bits(codes).astype(np.float64)
    columns = candidates.columns
    left = bits[:, columns[:, 0]] + np.where(columns[:, 1] >= 0, bits[:, columns[:, 1]], 0)
    g_left, h_left = g @ left, h @ left
    least = max(settings.min_child_weight, unit, 1e-9)

    def term(a, b):
        return bounded_score(a, b, settings)

    gain = term(g_left, h_left) + term(g.sum() - g_left, h.sum() - h_left) - term(g.sum(), h.sum())
    tolerance = 1e-9 * max(1, h.sum())
    gain[(h_left < least - tolerance) | (h.sum() - h_left < least - tolerance)] = -np.inf
    if any(settings.monotone):
        with np.errstate(divide="ignore", invalid="ignore"):
            slope = bounded_weight(g_left, h_left, settings) - bounded_weight(
                g.sum() - g_left, h.sum() - h_left, settings
            )
        direction = np.array([0 if c.cut == ONLY_MISSING else settings.monotone[c.feature] for c in candidates.all])
        gain[slope * direction > 1e-7] = -np.inf
    if chosen is not None:
        drop = np.ones(len(gain), bool)
        drop[chosen] = False
        gain[drop] = -np.inf
    return gain


@dataclass
class Verdict:
    """What a comparison with the oracle found.

    Attributes:
        splits: nodes that were checked, those without a split included.
        gaps: relative gain gap of each choice that was not the argmax.
        leaf_error: greatest distance of a leaf from float64's, before rounding to leaf_bits allowed for.
        unexplained: how many of the gaps above 1e-6 are more than noise explains.
        idle: how many of the gaps are splits of nodes that no split improves by the floor of a gain. Rounding alone chose
            them: with reg_lambda = 0 XGBoost makes some too. They cost no loss.
        leaf_excess: as leaf_error, after what noise explains is taken off.
    """

    splits: int
    gaps: list[float]
    leaf_error: float
    unexplained: int = 0
    leaf_excess: float = 0.0
    idle: int = 0


def judge_tree(
    candidates: Candidates,
    codes,
    labels,
    margins,
    tree: PlainTree,
    settings: BoostingSettings,
    used=None,
    chosen=None,
    weights=None,
    noise=0.0,
) -> Verdict:
    """Compare an opened tree with float64's best choice at each node of its own path.

    `noise`: standard deviation of a row's gradient and hessian. A sum of n rows errs by at most d = 6 noise sqrt(n) and
    four units of its format, so a gain e^2 / (U q) by 2 d sqrt(gain / (U q)) + d^2 / (U q), where q is taken for 1/25, and
    a leaf eta G / (H + lambda) by d (eta + |leaf|) / (H + lambda).
    """
    g, h = gradients(settings, margins, labels)
    for factor in (used, weights):
        if factor is not None:
            g, h = g * factor, h * factor
    scoring = growth_of(settings, candidates, len(labels)).scoring
    unit = scoring.least_hessian * 2.0**-scoring.fraction_bits
    abort_reason = Verdict(0, [], 0.0)
    floor = max(settings.gamma, 1e-6)
    stack = [(0, np.arange(len(labels)), 0)]
    while stack:
        node, rows, level = stack.pop()
        split = tree.candidates[node]
        upper = h[rows].sum() + settings.reg_lambda + 1e-12
        off = 6 * noise * np.sqrt(len(rows)) + 4 * 2.0**-scoring.fraction_bits
        if split is None or level < settings.max_depth:
            gain = candidate_gains(candidates, codes[rows], g[rows], h[rows], settings, chosen, unit)
            best = float(gain.max(initial=-np.inf))
            spread = max(best, 0) + g[rows].sum() ** 2 * settings.reg_lambda / upper**2
            doubt = 10 * off * np.sqrt(spread / upper) + 25 * off**2 / upper
        if split is None:
            if level < settings.max_depth:
                abort_reason.splits += 1
                if best > floor:
                    abort_reason.gaps.append((best - floor) / best)
                    abort_reason.unexplained += best - floor > max(1e-6 * best, doubt)
            limit = np.inf if settings.objective == "reg:squarederror" else settings.leaf_limit
            weight = 0.0
            if h[rows].sum() >= unit - 1e-9 and len(rows):
                weight = settings.eta * float(bounded_weight(g[rows].sum(), h[rows].sum(), settings))
            weight = float(np.clip(weight, -limit, limit))
            error = abs(weight - float(tree.values[node]))
            allowed = off * (settings.eta + abs(weight)) / upper
            abort_reason.leaf_error = max(abort_reason.leaf_error, error)
            abort_reason.leaf_excess = max(abort_reason.leaf_excess, error - allowed)
            continue
        abort_reason.splits += 1
        got = float(gain[candidates.all.index(split)])
        if max(got, floor) < best:
            abort_reason.gaps.append((best - max(got, floor)) / best)
            abort_reason.unexplained += best - max(got, floor) > max(1e-6 * best, doubt)
        if got <= floor and best <= floor:
            abort_reason.gaps.append(float(floor - got) / floor)
            abort_reason.idle += 1
            abort_reason.unexplained += floor - got > max(1e-6, doubt)
        goes_left = left_of(candidates, split, codes[rows])
        stack.append((int(tree.left[node]), rows[goes_left], level + 1))
        stack.append((int(tree.right[node]), rows[~goes_left], level + 1))
    return abort_reason


def naive_reconstruct(shares) -> npt.NDArray:
    """x_0 + x_1 + x_2 with wrap-around, from three pairs."""
    return shares[0][0] + shares[1][0] + shares[2][0]


def replayed_openings(state):
    """What `CutSearchOnShares` opened, in order, from the gaps and cells that it found and nothing else.

    Returns [(name of the draw, words as nested lists)], as all servers saw them.
    """
    outcomes = {(f.feature, f.gap.low, f.gap.high, f.gap.below_value): f.searches for f in state.found}
    own = type(state)(
        state.n_features, state.rows_total, state.max_bin, state.min_cell_rows, state.has_missing, None, state.weighted
    )
    log = []
    asked = [set() for _ in range(state.n_features)]
    while not own.done:
        request = own.request()
        for feature in range(state.n_features):
            asked[feature] |= set(request.keys(feature).tolist())
        own = own._with_counts(np.zeros((2, own.n_answers), np.uint64))
        while True:
            if not len(own.paths):
                own, gaps = own._next_phase()
                if not gaps and own.phase > 1:
                    break
                live = [bool(outcomes[f, g.low, g.high, g.below_value]) for f, g in gaps]
                missing = [bool(f.missing) for f in state.features] if state.has_missing is None else []
                rows = [[not is_live for is_live in live]] + [missing] * (own.phase == 1 and bool(missing))
                log.append((f"cuts/gaps {own.draws}/gaps of cuts", _packed_rows(rows)))
                own = own._with_gaps(gaps, live, missing if own.phase == 1 else [])
                if not len(own.paths):
                    continue
            step = own.step()
            if step is None:
                break
            bits = [_bits_of_path(own, n, len(step.kinds), asked, outcomes) for n in step.searches.tolist()]
            planes = [[path[level][which] for path in bits] for level in range(len(step.kinds)) for which in range(2)]
            log.append((f"cuts/bits {own.draws}/path of cuts", _packed_rows(planes)))
            own = own.descended(step, np.array(bits, bool))
    return log


def _bits_of_path(state, number, levels, asked, outcomes):
    """(stop, right and not stop) of so many cells of a path; (False, False) where it stopped, or can go no further yet."""
    feature, gap = state.paths.gaps[state.paths.gap[number]]
    final = outcomes[feature, gap.low, gap.high, gap.below_value][int(state.paths.rank[number]) - 1]
    start, depth = int(state.paths.start[number]), int(state.paths.depth[number])
    bits = []
    while len(bits) < levels and depth < 32:
        middle = start + 2 ** (31 - depth)
        if gap.low < middle < gap.high:
            if middle - 1 not in asked[feature]:
                break
            if depth == final.depth:
                bits.append((True, False))
                break
            right = final.start >= middle
        else:
            right = middle <= gap.low
        bits.append((False, right))
        start, depth = middle if right else start, depth + 1
    return bits + [(False, False)] * (levels - len(bits))


def _packed_rows(rows):
    """Each row of bits padded to whole words, one after the other, as integers."""
    width = -(-max(len(row) for row in rows) // 64) * 64
    return [
        sum(int(bit) << k for k, bit in enumerate(row[start : start + 64]))
        for row in rows
        for start in range(0, width, 64)
    ]


def metric(name, margins, labels, weights=None, logistic=True):
    """XGBoost's metric of plain rows, float64; auc by all pairs."""
    w = np.ones(len(labels)) if weights is None else weights
    y = labels.astype(np.float64)
    if name == "auc":
        wins = np.sign(margins[y == 1][:, None] - margins[y == 0][None])
        return float((np.average(wins, weights=np.outer(w[y == 1], w[y == 0])) + 1) / 2)
    if name == "aucpr":
        return aucpr(margins, y, w)
    if name == "logloss":
        return float(np.average(np.logaddexp(0, margins) - y * margins, weights=w))
    if name == "error":
        return float(np.average((margins > 0) != (y == 1), weights=w))
    off = (sigmoid(margins) if logistic else margins) - y
    return float(np.sqrt(np.average(off**2, weights=w)) if name == "rmse" else np.average(np.abs(off), weights=w))


def aucpr(margins, y, w):
    """The mean precision over recall, each step of tied scores by a fine sum along it."""
    area = hits = seen = 0.0
    for value in np.unique(margins)[::-1]:
        here = margins == value
        own, rows = (w * y)[here].sum(), w[here].sum()
        if own > 0:
            part = (np.arange(200) + 0.5) / 200
            area += own * np.mean((hits + part * own) / (seen + part * rows))
        hits, seen = hits + own, seen + rows
    return float(area / hits)


def naive_turned(tables, turns):
    """out[(turns[i] - k) mod size] of sums of tables[i, k], in the tables' type."""
    size = tables.shape[1]
    out = np.zeros(size, object)
    for table, turn in zip(tables, turns, strict=True):
        for k in range(size):
            out[(turn - k) % size] += int(table[k])
    return np.array([int(value) % 2 ** (8 * tables.itemsize) for value in out]).astype(tables.dtype)


def statistics(candidates: Candidates, codes, labels, margins, tree: PlainTree, settings: BoostingSettings):
    """(covers, gains) of a plain tree's nodes, float64, from the rows."""
    g, h = gradients(settings, margins, labels)
    covers, gains = np.zeros(len(tree.values)), np.zeros(len(tree.values))

    def term(rows):
        return g[rows].sum() ** 2 / (h[rows].sum() + settings.reg_lambda)

    stack = [(0, np.arange(len(labels)))]
    while stack:
        node, rows = stack.pop()
        covers[node] = h[rows].sum()
        split = tree.candidates[node]
        if split is None:
            continue
        goes_left = left_of(candidates, split, codes[rows])
        left, right = rows[goes_left], rows[~goes_left]
        gains[node] = term(left) + term(right) - term(rows)
        stack += [(int(tree.left[node]), left), (int(tree.right[node]), right)]
    return covers, gains


def leaf_of_codes(candidates: Candidates, tree: PlainTree, codes: npt.NDArray[np.uint16]) -> npt.NDArray[np.float64]:
    """Each row's leaf value in a plain tree, float64 (rows,), from codes uint16 (rows, features)."""
    node = np.zeros(codes.shape[0], np.int64)
    for number, split in enumerate(tree.candidates):
        if split is None:
            continue
        here = np.flatnonzero(node == number)
        goes_left = left_of(candidates, split, codes[here])
        node[here] = np.where(goes_left, tree.left[number], tree.right[number])
    return tree.values[node]


def left_of(candidates: Candidates, split: Candidate, codes: npt.NDArray[np.uint16]) -> npt.NDArray[np.bool_]:
    """Which rows a split sends left, bool (rows,)."""
    feature = candidates.features[split.feature]
    own = codes[:, split.feature].astype(np.int64)
    missing = (own == feature.missing_code) & feature.has_missing
    chosen = own == split.cut if feature.categorical else own <= split.cut
    return np.asarray(np.where(missing, split.missing_left, chosen))
