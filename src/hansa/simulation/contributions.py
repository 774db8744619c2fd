"""What each member's rows are worth to the common model: the metric with and without them, on rows of all members.

Models are those of the modes with an aggregator, trained here on the rows of the members in question: such a model does not depend on
who holds which row. Each fold of all rows (`cross_validation`) tests models trained on the other folds, so that every row is tested on,
and differences between folds give a standard error.

*Leave one out*: v(all) - v(all but i). *Shapley*: the mean of v(S and i) - v(S) over all orders in which members can join (Shapley
1953; for data: Ghorbani & Zou, ICML 2019), exactly, over all 2^n sets; they add up to v(all) - v(nobody). Nobody's model predicts the
mean label of the rows to train on. v is turned round where less is better.
"""

from __future__ import annotations

import html
import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from itertools import combinations
from typing import Literal

import msgspec
import numpy as np

from hansa.errors import PlanError
from hansa.plan import Plan
from hansa.roles.run import Progress, TreeGrown
from hansa.simulation.cross_validation import folds_of, plan_of, warm_up_for
from hansa.simulation.run import SimulationSettings, check_labels, member_names, predict_alone, split_parties
from hansa.simulation.scores import score_table
from hansa.simulation.tables import Table
from hansa.trees.losses import HIGHER_IS_BETTER

Method = Literal["leave-one-out", "shapley"]
METHODS = ("leave-one-out", "shapley")

MOST_SHAPLEY_MEMBERS = 8
"""Of which there are 256 sets."""

Members = frozenset[str]


class MemberContribution(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A member: its rows; its contribution to the metric, above 0 where its rows help; the standard error over folds; and the metric
    of a model without it."""

    rows: int
    contribution: float
    standard_error: float
    without: float


class Contributions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What each member contributes; a notebook shows it as a table.

    Attributes
    ----------
    method, objective, metric : str
        How, of which training, and in what.
    folds, rows : int
        How many there are.
    everybody, nobody : float
        The metric of the model of all rows, and of one that predicts the mean label; means over folds.
    members : dict of str to MemberContribution
        By party.
    seconds : float
        In all.

    Examples
    --------
    >>> import numpy as np, hansa
    >>> X = np.random.default_rng(1).normal(size=(300, 2)).astype(np.float32)
    >>> y = (X[:, 0] > 0).astype(int)
    >>> parties = {"aurora": (X[:150], y[:150]), "borealis": (X[150:], y[150:])}
    >>> found = hansa.contributions(parties, method="shapley", folds=3, rounds=4, progress=False)
    >>> total = sum(own.contribution for own in found.members.values())
    >>> abs(total - (found.everybody - found.nobody)) < 1e-9
    True
    """

    method: str
    objective: str
    metric: str
    folds: int
    rows: int
    everybody: float
    nobody: float
    members: dict[str, MemberContribution]
    seconds: float

    def facts(self) -> str:
        """One line."""
        better = "more" if self.metric in (*HIGHER_IS_BETTER, "auc_ovr") else "less"
        return (
            f"{self.method}, {self.objective}: {self.metric} of everybody {self.everybody:.4f}, of nobody {self.nobody:.4f} "
            f"({better} is better); {self.folds} folds of {self.rows:,} rows, in {self.seconds:.1f} s"
        )

    def tables(self) -> list[list[list[str]]]:
        """The members as rows of texts; the first row is the head."""
        head = ["party", "rows", f"{self.metric} without", "contribution"]
        found = [head]
        for name, own in sorted(self.members.items(), key=lambda item: -item[1].contribution):
            of_error = f"{own.contribution:+.4f} ± {2 * own.standard_error:.4f}"
            found.append([name, f"{own.rows:,}", f"{own.without:.4f}", of_error])
        return [found]

    def __repr__(self) -> str:
        rows = self.tables()[0]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) for row in rows]
        return "\n".join([self.facts(), *lines])

    def _repr_html_(self) -> str:
        head, *rows = self.tables()[0]
        title = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
        body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
        return f"<p>{html.escape(self.facts())}</p><table><thead><tr>{title}</tr></thead><tbody>{body}</tbody></table>"


def measure_contributions(
    table: Table,
    settings: SimulationSettings,
    method: Method,
    folds: int,
    metric: str | None = None,
    report: Callable[[Progress], None] = lambda _: None,
) -> Contributions:
    """Train on the rows of sets of members, fold by fold, and compare.

    Args:
        table: all members' rows. settings: of the training, in any mode; without held-out rows.
        metric: one of the objective's (`scores.METRICS`); the first of them where none is given.
        report: called with a `TreeGrown` after each model, which counts models.

    Raises:
        PlanError: the method, the metric or a setting is wrong, or there are too many members. DataError: a fold cannot be used.
    """
    started = time.perf_counter()
    parties = sorted(set(table.party))
    if method not in METHODS:
        raise PlanError(f"method is {method!r}; expected one of {', '.join(METHODS)}")
    if len(parties) < 2:
        raise PlanError(f"contributions are of two parties or more; there is {', '.join(parties) or 'none'}")
    if method == "shapley" and len(parties) > MOST_SHAPLEY_MEMBERS:
        raise PlanError(
            f"shapley trains a model for every set of members, and {len(parties)} have 2^{len(parties)} of them; at most "
            f"{MOST_SHAPLEY_MEMBERS} members, or take leave-one-out"
        )
    if settings.evaluation_fraction:
        raise PlanError("evaluation_fraction: contributions are tested on folds; leave it out")
    check_labels(settings.parameters, table)
    names = member_names(parties)
    plan, _ = plan_of(settings, table, split_parties(table, names))
    warm_up_for(plan)
    sets = sets_of(parties, method)
    places = folds_of(table, folds, settings.parameters.seed)
    values: dict[Members, list[float]] = {members: [] for members in (frozenset[str](), *sets)}
    done = 0
    for fold in range(folds):
        train, test = table.take(places != fold), table.take(places == fold)
        nobody = _score(settings, _of_nobody(settings, train, test), test, metric)
        for members, found in values.items():
            found.append(_value(plan, settings, members, train, test, metric, nobody))
            done += bool(members)
            report(TreeGrown(trees=done, rounds=folds * len(sets)))
    name = metric or next(iter(_scores(settings, _of_nobody(settings, table, table), table)))
    sign = 1.0 if name in (*HIGHER_IS_BETTER, "auc_ovr") else -1.0
    whole = frozenset(parties)
    measured = {}
    for party in parties:
        each = [sign * own for own in _contributions(party, whole, values, method)]
        measured[party] = MemberContribution(
            rows=int(np.count_nonzero(table.party == party)),
            contribution=statistics.fmean(each),
            standard_error=statistics.stdev(each) / math.sqrt(folds),
            without=statistics.fmean(values[whole - {party}]),
        )
    return Contributions(
        method=method,
        objective=settings.parameters.objective,
        metric=name,
        folds=folds,
        rows=table.n_rows,
        everybody=statistics.fmean(values[whole]),
        nobody=statistics.fmean(values[frozenset()]),
        members=measured,
        seconds=time.perf_counter() - started,
    )


def sets_of(parties: Iterable[str], method: Method) -> list[Members]:
    """The sets of members that are trained, none of them empty: everybody and all but one, or all sets."""
    everybody = sorted(parties)
    sizes = range(1, len(everybody) + 1) if method == "shapley" else (len(everybody) - 1, len(everybody))
    return [frozenset(chosen) for size in sizes for chosen in combinations(everybody, size)]


def shapley(party: str, whole: Members, values: Mapping[Members, float]) -> float:
    """The party's Shapley value: over sets S without it, |S|! (n - |S| - 1)! / n! (v(S and it) - v(S)).

    Args:
        values: v of every set.
    """
    others = sorted(whole - {party})
    total = 0.0
    for size in range(len(others) + 1):
        weight = 1 / (len(whole) * math.comb(len(others), size))
        for chosen in combinations(others, size):
            rest = frozenset(chosen)
            total += weight * (values[rest | {party}] - values[rest])
    return total


def _contributions(
    party: str, whole: Members, values: Mapping[Members, list[float]], method: Method
) -> Iterable[float]:
    """Of each fold."""
    for fold in range(len(values[whole])):
        if method == "shapley":
            yield shapley(party, whole, {members: found[fold] for members, found in values.items()})
        else:
            yield values[whole][fold] - values[whole - {party}][fold]


def _value(
    plan: Plan,
    settings: SimulationSettings,
    members: Members,
    train: Table,
    test: Table,
    metric: str | None,
    nobody: float,
) -> float:
    """The metric of a model of these members' rows; nobody's where their rows cannot train one."""
    own = train.take(np.isin(train.party, sorted(members)))
    predictions = predict_alone(plan, own, test) if own.n_rows else None
    return nobody if predictions is None else _score(settings, predictions, test, metric)


def _of_nobody(settings: SimulationSettings, train: Table, test: Table) -> np.typing.NDArray[np.float32]:
    """The mean label, or each label's, or of several classes their shares, for every row."""
    classes = settings.parameters.num_class
    if classes:
        shares = [np.mean(train.label == k) for k in range(classes)]
        return np.tile(np.array(shares, np.float32), (test.n_rows, 1))
    means = [np.average(own, weights=train.weight) for own in train.each_label]
    found = np.tile(np.array(means, np.float32), (test.n_rows, 1))
    return found if len(means) > 1 else found[:, 0]


def _scores(settings: SimulationSettings, predictions: np.typing.NDArray[np.float32], test: Table) -> dict[str, float]:
    return score_table(settings.parameters.objective, predictions, test.label)


def _score(
    settings: SimulationSettings, predictions: np.typing.NDArray[np.float32], test: Table, metric: str | None
) -> float:
    found = _scores(settings, predictions, test)
    name = metric or next(iter(found))
    if name not in found:
        raise PlanError(f"metric is {metric!r}; expected one of {', '.join(found)}")
    if math.isnan(found[name]):
        raise PlanError(f"{name} has no value on a fold; choose fewer folds, another seed or another metric")
    return found[name]
