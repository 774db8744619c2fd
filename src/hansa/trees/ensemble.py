"""The trained model: trees as arrays, with XGBoost's meaning and numbering, and what can be asked of them.

A model has one output, or several, as XGBoost's has where labels have several columns: tree i then belongs to output i mod outputs.

Everything here is public to whoever may hold the model. A row goes left where its value is less than the
split condition, right where it is not, and to the default side where it is missing (NaN). At a categorical split a row goes
right where its value is one of the split's categories, and left where it is another or one that nobody knows: XGBoost
drops a value's fraction, and knows no category below 0 or from 2^24. Margins are summed in float32, tree by tree from the base
margin, as XGBoost does, so that both give the same bits.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from hansa.errors import DataError, PlanError
from hansa.trees import losses
from hansa.trees.elementary import exp, sigmoid
from hansa.trees.elementary import log as elementary_log
from hansa.trees.losses import LOSSES, OBJECTIVES, Loss

Float32s = npt.NDArray[np.float32]
ImportanceKind = Literal["weight", "gain", "cover", "total_gain", "total_cover"]

NO_NODE = -1
"""Stands in `left_children` and `right_children` of a leaf."""

ROOT_PARENT = 2147483647
"""Stands in `parents` of the root."""

Level = str | int
"""A value of a categorical feature, as tables have it; its place among all of them is the category that trees know."""

CATEGORIES_END = 2**24
"""Categories are whole numbers from 0 to below this: float32 holds each, and XGBoost allows no others."""

Unseen = Literal["missing", "error"]

ROWS_PER_BLOCK = 256
"""Rows that all trees score before the next rows: their values then stay in the cache."""


@dataclass(frozen=True, eq=False)
class Tree:
    """One regression tree; all arrays have length num_nodes, are copied on construction, and are read-only.

    Attributes:
        left_children, right_children: int32 node numbers, -1 at a leaf.
        parents: int32 node numbers, 2147483647 at the root, which is node 0.
        split_indices: int32, the feature that a node splits on; 0 at a leaf.
        split_conditions: float32, rows with a smaller value go left; at a categorical split, the lowest category that goes right;
            at a leaf, its value (eta included).
        default_left: uint8, 1 where rows with a missing value go left.
        base_weights: float32, a node's optimal weight.
        loss_changes: float32, the gain of a split; 0 at a leaf.
        sum_hessian: float32, the sum of hessians of a node's rows.
        split_type: uint8, 1 at a categorical split, 0 elsewhere; not given, 1 at the nodes of `categories`.
        categories: by categorical split, the categories that go right, rising; not given, its split_conditions alone. The conditions
            of given ones follow from them.

    Raises:
        DataError: `check_tree` refuses the arrays.
    """

    left_children: npt.NDArray[np.int32]
    right_children: npt.NDArray[np.int32]
    parents: npt.NDArray[np.int32]
    split_indices: npt.NDArray[np.int32]
    split_conditions: Float32s
    default_left: npt.NDArray[np.uint8]
    base_weights: Float32s
    loss_changes: Float32s
    sum_hessian: Float32s
    split_type: npt.NDArray[np.uint8] = field(default_factory=lambda: np.zeros(0, np.uint8))
    categories: Mapping[int, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        categories = dict(self.categories)
        if not len(self.split_type):
            kinds = np.zeros(len(self.left_children), np.uint8)
            kinds[list(categories)] = 1
            object.__setattr__(self, "split_type", kinds)
        for name, dtype in TREE_DTYPES.items():
            array = np.array(getattr(self, name), dtype=dtype, order="C")
            if name == "split_conditions" and array.ndim == 1:
                for node, own in categories.items():
                    array[node] = own[0] if own else np.nan
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        check_tree(self)
        _check_sets(self, categories)
        alone = {
            int(node): (int(self.split_conditions[node]),)
            for node in np.flatnonzero(self.split_type)
            if int(node) not in categories
        }
        object.__setattr__(self, "categories", MappingProxyType(dict(sorted((categories | alone).items()))))

    @property
    def num_nodes(self) -> int:
        """Number of nodes, leaves included."""
        return len(self.left_children)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Tree):
            return NotImplemented
        same = all(getattr(self, name).tobytes() == getattr(other, name).tobytes() for name in TREE_DTYPES)
        return same and dict(self.categories) == dict(other.categories)

    __hash__ = None  # type: ignore[assignment]


def without_statistics(tree: Tree) -> Tree:
    """The tree without covers, gains and inner nodes' weights: 0. It predicts the same; SHAP values need covers."""
    zeros = np.zeros(tree.num_nodes, np.float32)
    leaf = tree.left_children == NO_NODE
    return replace(tree, base_weights=np.where(leaf, tree.base_weights, zeros), loss_changes=zeros, sum_hessian=zeros)


TREE_DTYPES: dict[str, type[np.generic]] = {
    "left_children": np.int32,
    "right_children": np.int32,
    "parents": np.int32,
    "split_indices": np.int32,
    "split_conditions": np.float32,
    "default_left": np.uint8,
    "base_weights": np.float32,
    "loss_changes": np.float32,
    "sum_hessian": np.float32,
    "split_type": np.uint8,
}


def check_tree(tree: Tree) -> None:
    """Refuse arrays that are not one binary tree: the kernels below index them without a check.

    Raises:
        DataError: naming the array, the node and what was expected.
    """
    _check_shapes(tree)
    if not _is_tree(*(getattr(tree, name) for name in TREE_DTYPES)):
        _name_what_is_wrong(tree)


@njit(cache=True, nogil=True, error_model="numpy")
def _is_tree(left, right, parents, indices, conditions, default_left, base, gain, cover, kind):  # type: ignore[no-untyped-def]
    """Whether `_name_what_is_wrong` has nothing to name: the same rules, for the many trees that keep them."""
    nodes = left.shape[0]
    children = 0
    for node in range(nodes):
        if (parents[node] == ROOT_PARENT) != (node == 0) or indices[node] < 0 or default_left[node] > 1:
            return False
        if not (
            np.isfinite(conditions[node])
            and np.isfinite(base[node])
            and np.isfinite(gain[node])
            and np.isfinite(cover[node])
        ):
            return False
        if kind[node] > 1 or (kind[node] == 1 and not _is_category(conditions[node])):
            return False
        if left[node] == NO_NODE and right[node] == NO_NODE:
            if kind[node]:
                return False
            continue
        for child in (left[node], right[node]):
            if child <= 0 or child >= nodes or parents[child] != node:
                return False
        if left[node] == right[node]:
            return False
        children += 2
    # Each child has one parent, which names it: with all nodes but the root as children there may still be cycles.
    if children != nodes - 1:
        return False
    seen = 1
    waiting = np.zeros(nodes, np.int32)
    end = 1
    while end:
        end -= 1
        node = waiting[end]
        if left[node] != NO_NODE:
            waiting[end], waiting[end + 1] = left[node], right[node]
            end += 2
            seen += 2
    return seen == nodes


@njit(cache=True, nogil=True, error_model="numpy")
def _is_category(value):  # type: ignore[no-untyped-def]
    return 0 <= value < CATEGORIES_END and value == np.floor(value)


def _name_what_is_wrong(tree: Tree) -> None:
    """Raise DataError naming the array and the node."""
    left, right, parents = tree.left_children, tree.right_children, tree.parents
    nodes = np.arange(tree.num_nodes, dtype=np.int32)
    _require((left == NO_NODE) == (right == NO_NODE), "right_children", "two children or none")
    internal = left != NO_NODE
    for name, children in (("left_children", left), ("right_children", right)):
        _require(~internal | ((children > 0) & (children < tree.num_nodes)), name, "a node number below num_nodes")
        expected = np.where(internal, nodes, parents[np.where(internal, children, 0)])
        _require(parents[np.where(internal, children, 0)] == expected, name, "a child whose parent is this node")
    _require(~internal | (left != right), "right_children", "another node than the left child")
    _require((parents == ROOT_PARENT) == (nodes == 0), "parents", f"{ROOT_PARENT} at node 0 and nowhere else")
    # Each child names its parent, so the links form trees and cycles; what the root reaches tells which.
    reached = _count_reached(left, right)
    if reached != tree.num_nodes:
        raise DataError(f"tree: {tree.num_nodes} nodes, but the root reaches {reached}; expected one tree")
    _require(tree.split_indices >= 0, "split_indices", "a feature number of at least 0")
    _require(tree.default_left <= 1, "default_left", "0 or 1")
    _require(tree.split_type <= internal.astype(np.uint8), "split_type", "0, or 1 at a categorical split")
    is_category = np.array([_is_category(condition) for condition in tree.split_conditions])
    _require((tree.split_type == 0) | is_category, "split_conditions", "a category, a whole number from 0 to 2^24 - 1")
    for name in ("split_conditions", "base_weights", "loss_changes", "sum_hessian"):
        _require(np.isfinite(getattr(tree, name)), name, "a finite number")
    raise DataError("tree: the arrays are not one binary tree")


def _check_sets(tree: Tree, categories: Mapping[int, tuple[int, ...]]) -> None:
    """Refuse categories of a node that is no categorical split, or that do not rise."""
    for node, own in categories.items():
        rises = all(map(operator.lt, own, own[1:])) and own[-1] < CATEGORIES_END
        if not tree.split_type[node] or not rises:
            raise DataError(
                f"tree: the categories of node {node} are {list(own)!r:.80}; expected rising whole numbers from 0 to 2^24 - 1, of a "
                "categorical split"
            )


def _check_shapes(tree: Tree) -> None:
    shape = tree.left_children.shape
    if len(shape) != 1 or shape[0] == 0:
        raise DataError(f"tree: left_children has shape {shape}; expected one dimension and at least one node")
    for name in TREE_DTYPES:
        if getattr(tree, name).shape != shape:
            raise DataError(f"tree: {name} has shape {getattr(tree, name).shape}; expected {shape}")


def _require(holds: npt.NDArray[np.bool_], name: str, expected: str) -> None:
    if not holds.all():
        raise DataError(f"tree: {name}[{int(np.argmin(holds))}] is wrong; expected {expected}")


def _count_reached(left: npt.NDArray[np.int32], right: npt.NDArray[np.int32]) -> int:
    """Nodes reached from the root, level by level; stops at num_nodes + 1 where a cycle leads round."""
    level, reached = np.zeros(1, dtype=np.int32), 0
    while level.size and reached <= len(left):
        reached += level.size
        level = np.concatenate([left[level], right[level]])
        level = level[level != NO_NODE]
    return reached


@dataclass(frozen=True)
class Reading:
    """How cells become the values that trees know, where that is not as everywhere; what a plan said of it, for whoever predicts.

    Attributes:
        unseen: "error" where a level that the model does not know is refused, "missing" where it is of no category.
        dates: by feature that is made of a date, in the order of the features, the rule (`hansa.data.schema.date_rule`).
        other: features whose last level takes every level that the model does not know.
        labels: of a model of several labels their names, in the order of the outputs; () of others, whose outputs may be classes.
    """

    unseen: Unseen = "missing"
    dates: tuple[tuple[str, str], ...] = ()
    other: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()


AS_EVERYWHERE = Reading()


@dataclass(frozen=True)
class Ensemble:
    """A sum of trees above a base score; with several outputs, one such sum for each.

    Attributes
    ----------
    objective : str
        One of `losses.OBJECTIVES`.
    base_score : float or tuple of float
        As in XGBoost's file: a probability for binary:logistic, a mean above 0 for
        count:poisson. For several outputs, such as the classes of multi:softprob, a tuple with one
        for each. Rounded to float32 on construction.
    feature_names : tuple of str
        One name per feature, in the order of the rows of `features` below.
    trees : tuple of Tree
        In the order of training: in each round for every output, in turn, one tree or `num_parallel_tree`.
    categories : tuple
        By feature, the levels of a categorical one, empty where they are not known; None for an ordered feature. () where all are
        ordered.
    num_parallel_tree : int
        Trees that each round grows for each output.
    quantile_alpha : tuple of float
        Of reg:quantileerror: the quantile that each output predicts; () for others. Rounded to float32 on construction.
    reading : Reading
        How a table's cells become what the trees know.

    Raises
    ------
    DataError
        A tree splits on a feature that is not there, or splits it as what it is not; a name or a level occurs twice, a base score
        or a quantile is out of range, or an output has more trees than another.
    PlanError
        The objective is not known.

    Examples
    --------
    >>> import hansa
    >>> hansa.Ensemble("binary:logistic", 0.25, ("load",), ()).base_score
    0.25
    """

    objective: str
    base_score: float | tuple[float, ...]
    feature_names: tuple[str, ...]
    trees: tuple[Tree, ...]
    categories: tuple[tuple[Level, ...] | None, ...] = ()
    num_parallel_tree: int = 1
    quantile_alpha: tuple[float, ...] = ()
    reading: Reading = AS_EVERYWHERE

    def __post_init__(self) -> None:
        object.__setattr__(self, "quantile_alpha", tuple(float(np.float32(alpha)) for alpha in self.quantile_alpha))
        object.__setattr__(self, "feature_names", tuple(self.feature_names))
        object.__setattr__(self, "trees", tuple(self.trees))
        for score in self.base_scores:
            base_margin(self.objective, score)
        rounded = tuple(float(np.float32(score)) for score in self.base_scores)
        if isinstance(self.base_score, tuple) and self.outputs < 2:
            raise DataError(
                f"ensemble: base_score is {self.base_score}; expected a number, or two or more for as many outputs"
            )
        object.__setattr__(self, "base_score", rounded if isinstance(self.base_score, tuple) else rounded[0])
        if LOSSES[self.objective].labels == "classes" and self.outputs < 2:
            raise DataError(
                f"ensemble: base_score is {self.base_score}; expected one for each class of {self.objective}"
            )
        quantiles = self.outputs if self.objective == "reg:quantileerror" else 0
        if len(self.quantile_alpha) != quantiles or not all(0 <= alpha <= 1 for alpha in self.quantile_alpha):
            raise DataError(
                f"ensemble: quantile_alpha is {self.quantile_alpha}; expected {quantiles or 'no'} numbers from 0 to 1 for "
                f"{self.outputs} outputs of {self.objective}"
            )
        labels = self.reading.labels
        if labels and (self.outputs < 2 or len(labels) != self.outputs or self.quantile_alpha):
            raise DataError(
                f"ensemble: {len(labels)} labels are named; expected {self.outputs}, one for each output, of two or more"
            )
        if self.num_parallel_tree < 1 or len(self.trees) % self.trees_per_round:
            raise DataError(
                f"ensemble: {len(self.trees)} trees; expected {self.num_parallel_tree} a round for each of {self.outputs} outputs"
            )
        if len(set(self.feature_names)) != len(self.feature_names):
            raise DataError("ensemble: a feature name occurs twice; expected a name of its own for each feature")
        for number, tree in enumerate(self.trees):
            if tree.num_nodes > 1 and tree.split_indices.max() >= len(self.feature_names):
                raise DataError(
                    f"ensemble: tree {number} splits on feature {tree.split_indices.max()}; "
                    f"expected less than {len(self.feature_names)}, the number of features"
                )
        self._check_categories()

    def _check_categories(self) -> None:
        levels = tuple(None if own is None else tuple(own) for own in self.categories)
        levels = levels if any(own is not None for own in levels) else ()
        object.__setattr__(self, "categories", levels)
        if levels and len(levels) != len(self.feature_names):
            raise DataError(f"ensemble: categories of {len(levels)} features; expected {len(self.feature_names)}")
        for name, own in zip(self.feature_names, levels, strict=False):
            if own is not None and len(set(own)) < len(own):
                raise DataError(f"ensemble: a category of {name!r} occurs twice; expected different ones")
        categorical = np.array([own is not None for own in levels] or [False] * len(self.feature_names), np.bool_)
        known = np.array([len(own) if own else CATEGORIES_END for own in levels])
        for number, tree in enumerate(self.trees):
            internal = np.flatnonzero(tree.left_children != NO_NODE)
            highest = np.array([own[-1] for own in tree.categories.values()], np.int64)
            features, kinds = tree.split_indices[internal], tree.split_type[internal] == 1
            wrong = np.flatnonzero(categorical[features] != kinds)
            if wrong.size:
                name, is_one = self.feature_names[features[wrong[0]]], kinds[wrong[0]]
                raise DataError(
                    f"ensemble: tree {number} splits {name!r} {'by a category' if is_one else 'by a comparison'}; expected "
                    f"{'a comparison: it is ordered' if is_one else 'a category: it is categorical'}"
                )
            of_sets = tree.split_indices[list(tree.categories)]
            far = np.flatnonzero(highest >= (known[of_sets] if levels else CATEGORIES_END))
            if len(far):
                name, most = self.feature_names[of_sets[far[0]]], known[of_sets[far[0]]]
                raise DataError(
                    f"ensemble: tree {number} splits {name!r} by category {highest[far[0]]}; expected less than {most}, its levels"
                )

    @property
    def base_scores(self) -> tuple[float, ...]:
        """The base score of each output."""
        return self.base_score if isinstance(self.base_score, tuple) else (self.base_score,)

    @property
    def outputs(self) -> int:
        """Numbers that are predicted for a row."""
        return len(self.base_scores)

    @property
    def trees_per_round(self) -> int:
        """Trees that a round of boosting grows."""
        return self.outputs * self.num_parallel_tree

    @property
    def rounds(self) -> int:
        """Rounds of boosting."""
        return len(self.trees) // self.trees_per_round

    def trees_of(self, output: int) -> tuple[Tree, ...]:
        """The trees of one output, in the order of training."""
        return tuple(
            tree for number, tree in enumerate(self.trees) if number // self.num_parallel_tree % self.outputs == output
        )

    def with_one_base_score(self) -> Ensemble:
        """One that predicts the same, but for the rounding of float32, from a base score that all outputs share.

        XGBoost before 3.1 has no others. The base score is that of margin 0, and each output's own margin is added to the leaves of its
        first tree. Where the outputs start alike, or there are no trees, it is the ensemble itself.
        """
        if len(set(self.base_scores)) == 1 or not self.trees:
            return self
        trees = list(self.trees)
        for output, score in enumerate(self.base_scores):
            at = output * self.num_parallel_tree
            first = trees[at]
            added = np.where(first.left_children == NO_NODE, base_margin(self.objective, score), np.float32(0))
            trees[at] = replace(first, split_conditions=first.split_conditions + added)
        start = OF_MARGIN_0[LOSSES[self.objective].base]
        return replace(self, base_score=(start,) * self.outputs, trees=tuple(trees))

    def predict_margin(self, features: Float32s, threads: int = 1, base_margin: Float32s | None = None) -> Float32s:
        """Margins, float32 of shape (n_rows,), or (n_rows, outputs) where there are several.

        Args:
            features: float32 (n_features, n_rows), NaN where a value is missing; the layout of `hansa.data`. Codes of a
                categorical feature.
            threads: rows are shared out between so many threads; the result does not depend on it.
            base_margin: float32 (outputs, n_rows), where rows start in place of the base score.

        Raises:
            DataError: `features` or `base_margin` has another shape or dtype.
        """
        if features.ndim != 2 or features.shape[0] != len(self.feature_names):
            raise DataError(
                f"features have shape {features.shape}; expected ({len(self.feature_names)}, rows): "
                f"a row of the array for each feature of the model"
            )
        margins = self.start_margins(features.shape[1], base_margin)
        for output in range(self.outputs):
            add_margins(self.trees_of(output), features, margins[output], threads)
        return np.ascontiguousarray(margins.T) if self.outputs > 1 else margins[0]

    def start_margins(self, n_rows: int, given: Float32s | None) -> Float32s:
        """Margins before the first tree, float32 (outputs, n_rows), of one's own."""
        if given is None:
            scores = np.array([base_margin(self.objective, score) for score in self.base_scores], np.float32)
            return np.repeat(scores[:, None], n_rows, axis=1)
        if given.shape != (self.outputs, n_rows) or given.dtype != np.float32:
            raise DataError(
                f"base_margin: {given.dtype} of shape {given.shape}; expected float32 of shape ({self.outputs}, {n_rows})"
            )
        return given.copy()

    def predict(self, features: Float32s, threads: int = 1, base_margin: Float32s | None = None) -> Float32s:
        """Probabilities of class 1 (binary:logistic), log-odds of it (binary:logitraw) or values, float32 (n_rows,).

        With several outputs (n_rows, outputs): the probability of each class, which add up to 1 for multi:softprob; of
        binary:logistic each output's own. Of multi:softmax the class, float32 (n_rows,). Arguments and errors as `predict_margin`.
        """
        return predictions_from_margins(self.objective, self.predict_margin(features, threads, base_margin))

    def importance(self, kind: ImportanceKind = "gain") -> dict[str, float]:
        """What each feature did in the trees of all outputs, by name, as XGBoost's `get_score`; features without a split are left out.

        Args:
            kind: "weight" is the number of splits; "gain" and "cover" are the means over these splits of
                `loss_changes` and `sum_hessian`; "total_gain" and "total_cover" are their sums.

        Raises:
            PlanError: another kind.
        """
        if kind not in ("weight", "gain", "cover", "total_gain", "total_cover"):
            raise PlanError(f"importance {kind!r} is unknown; expected weight, gain, cover, total_gain or total_cover")
        count = np.zeros(len(self.feature_names), dtype=np.int64)
        total = np.zeros(len(self.feature_names), dtype=np.float64)
        for tree in self.trees:
            internal = tree.left_children != NO_NODE
            np.add.at(count, tree.split_indices[internal], 1)
            amounts = tree.sum_hessian if kind.endswith("cover") else tree.loss_changes
            np.add.at(total, tree.split_indices[internal], amounts[internal])
        used = np.flatnonzero(count)
        scores = {"weight": count[used].astype(np.float64), "gain": total[used] / count[used]}
        scores |= {"cover": scores["gain"], "total_gain": total[used], "total_cover": total[used]}
        return {self.feature_names[f]: float(score) for f, score in zip(used, scores[kind], strict=True)}

    def truncate(self, n_trees: int) -> Ensemble:
        """The same model with its first `n_trees` trees only, as after early stopping.

        Raises:
            PlanError: there are not so many trees, or some outputs would keep more than others.
        """
        if not 0 <= n_trees <= len(self.trees):
            raise PlanError(f"cannot keep {n_trees} trees; expected 0 to {len(self.trees)}")
        if n_trees % self.trees_per_round:
            raise PlanError(f"cannot keep {n_trees} trees; expected whole rounds of {self.trees_per_round} trees")
        return replace(self, trees=self.trees[:n_trees])


OF_MARGIN_0 = {"identity": 0.0, "logit": 0.5, "log": 1.0}
"""The base score of margin 0, by `losses.Loss.base`."""


def base_margin(objective: str, base_score: float) -> np.float32:
    """The margin that stands for `base_score`: ln(p / (1 - p)) of a probability, ln of a mean (`losses.Loss.base`), float32 as in
    XGBoost.

    XGBoost 3 takes a probability that is nearer to 0 or 1 than `losses.LEAST_PROBABILITY` as one that far away.

    Raises:
        DataError: the base score is not a finite float32, or is a probability and not between 0 and 1,
            or a mean and not above 0.
        PlanError: the objective is not known.
    """
    with np.errstate(over="ignore"):
        score = np.float32(base_score)
    if not np.isfinite(score):
        raise DataError(f"base_score is {base_score}; expected a finite number")
    base = _loss_of(objective).base
    if base == "log":
        if not score > 0:
            raise DataError(f"base_score is {base_score}; expected a number above 0 for {objective}")
        return np.float32(_log_once(float(score)))
    if base == "identity":
        return score
    if not 0.0 < score < 1.0:
        raise DataError(f"base_score is {base_score}; expected more than 0 and less than 1 for {objective}")
    # XGBoost rounds to float32 after each step of -ln(1/p - 1).
    least = np.float32(losses.LEAST_PROBABILITY)
    score = min(max(score, least), np.float32(1.0) - least)
    return np.float32(-_log_once(float(np.float32(1.0) / score - np.float32(1.0))))


def _loss_of(objective: str) -> Loss:
    if objective not in LOSSES:
        raise PlanError(f"objective {objective!r} is not supported; expected one of {', '.join(OBJECTIVES)}")
    return LOSSES[objective]


def predictions_from_margins(objective: str, margins: Float32s) -> Float32s:
    """Predictions, float32 of the margins' shape: what the objective makes of them (`losses.Loss.link`); of "argmax" one a row.

    Raises:
        PlanError: the objective is not known.
    """
    link = _loss_of(objective).link
    if link == "identity":
        return margins.copy()
    if link == "softmax":
        probabilities = np.empty(margins.shape, np.float32)
        softmax_rows(np.ascontiguousarray(margins), probabilities)
        return probabilities
    if link == "argmax":
        return np.asarray(np.argmax(margins, axis=-1), np.float32)
    if link == "sign":
        return (margins > 0).astype(np.float32)
    predictions = np.empty(margins.shape, dtype=np.float32)
    (_sigmoids if link == "logit" else _exponentials)(margins.reshape(-1), predictions.reshape(-1))
    return predictions


def add_margins(trees: Sequence[Tree], features: Float32s, margins: Float32s, threads: int = 1) -> None:
    """Add each tree's leaf value to each row's margin, in float32 and in the order of the trees.

    So margins can be kept up to date while trees are being trained: adding trees one by one or all at once
    gives the same bits.

    Args:
        trees: trees that split on features below n_features.
        features: float32 (n_features, n_rows), NaN where a value is missing.
        margins: float32 (n_rows,), changed in place.
        threads: rows are shared out between so many threads; the result does not depend on it.

    Raises:
        DataError: an array has another shape or dtype, or a tree splits on a feature that is not there.
    """
    if features.dtype != np.float32 or margins.dtype != np.float32 or margins.shape != features.shape[1:]:
        raise DataError(
            f"features are {features.dtype}{features.shape}, margins {margins.dtype}{margins.shape}; "
            f"expected float32 (n_features, n_rows) and float32 (n_rows,)"
        )
    if not trees or not margins.size:
        return
    last_feature = max(int(tree.split_indices.max()) for tree in trees)
    if last_feature >= features.shape[0] and any(tree.num_nodes > 1 for tree in trees):
        raise DataError(f"a tree splits on feature {last_feature}; expected less than {features.shape[0]}")
    forest = _joined(trees)
    size = -(-len(margins) // max(1, threads))
    spans = [(first, min(first + size, len(margins))) for first in range(0, len(margins), size)]
    if len(spans) == 1:
        _add_leaf_values(*forest, features, margins, *spans[0])
        return
    with ThreadPoolExecutor(len(spans)) as pool:
        score = partial(_add_leaf_values, *forest, features, margins)
        jobs = [pool.submit(score, *span) for span in spans]
        for job in jobs:
            job.result()


class _Forest(NamedTuple):
    """The trees' nodes end to end; indices are unsigned, which spares the kernel a test for negative ones."""

    roots: npt.NDArray[np.uint32]
    levels: npt.NDArray[np.int64]
    # The right child of node i stands at 2 i, the left one at 2 i + 1; a leaf is its own child on both sides.
    children: npt.NDArray[np.uint32]
    split_indices: npt.NDArray[np.uint32]
    split_conditions: Float32s
    # Rows from here on go left again: the category after a categorical split's; NaN at an ordered one, where none do.
    split_ends: Float32s
    default_left: npt.NDArray[np.uint8]


class _Chooser(NamedTuple):
    """The nodes that find out whether a value is one of several categories, by comparisons: a balanced tree over the ends of their
    ranges. `children` are the numbers of other nodes here, or LEFT and RIGHT."""

    conditions: list[float]
    children: list[tuple[int, int]]
    default_left: list[int]


LEFT, RIGHT = -1, -2


def _chooser(categories: tuple[int, ...], default_left: bool) -> _Chooser:
    """Node 0 is the first. The value goes RIGHT within a range of `categories`, else LEFT; a missing one to its side."""
    edges: list[int] = []
    for category in categories:
        if edges and edges[-1] == category:
            edges[-1] = category + 1
        else:
            edges += [category, category + 1]
    found = _Chooser([], [], [])

    def place(low: int, high: int) -> int:
        """The node that tells intervals low to high apart; interval i ends at edge i, and every second one goes RIGHT."""
        if low == high:
            return RIGHT if low % 2 else LEFT
        node, middle = len(found.conditions), (low + high) // 2
        found.conditions.append(float(edges[middle]))
        # A missing value goes where an interval of its side is.
        found.default_left.append(int(middle > low or low % 2 != default_left))
        found.children.append((0, 0))
        left = place(low, middle)
        found.children[node] = (place(middle + 1, high), left)
        return node

    place(0, len(edges))
    return found


def _joined(trees: Sequence[Tree]) -> _Forest:
    sizes = [tree.num_nodes for tree in trees]
    roots = np.cumsum([0, *sizes[:-1]])
    own = np.arange(sum(sizes))
    shift = np.repeat(roots, sizes)
    right = np.concatenate([tree.right_children for tree in trees])
    left = np.concatenate([tree.left_children for tree in trees])
    is_leaf = left == NO_NODE
    conditions = np.concatenate([tree.split_conditions for tree in trees])
    kinds = np.concatenate([tree.split_type for tree in trees])
    children = np.stack([np.where(is_leaf, own, right + shift), np.where(is_leaf, own, left + shift)], axis=1)
    indices = np.concatenate([tree.split_indices for tree in trees])
    ends = np.where(kinds == 1, conditions + np.float32(1), np.float32(np.nan)).astype(np.float32)
    default_left = np.concatenate([tree.default_left for tree in trees])
    several = [
        (int(root) + node, categories)
        for root, tree in zip(roots, trees, strict=True)
        for node, categories in tree.categories.items()
        if len(categories) > 1
    ]
    if several:
        conditions, children, indices, ends, default_left = _with_choosers(
            several, conditions, children, indices, ends, default_left
        )
    return _Forest(
        roots.astype(np.uint32),
        np.array([size.bit_length() - 1 for size in sizes]),
        children.reshape(-1).astype(np.uint32),
        indices.astype(np.uint32),
        conditions,
        ends,
        default_left,
    )


def _with_choosers(
    several: Sequence[tuple[int, tuple[int, ...]]],
    conditions: Float32s,
    children: npt.NDArray[np.int64],
    indices: npt.NDArray[np.int32],
    ends: Float32s,
    default_left: npt.NDArray[np.uint8],
) -> tuple[Float32s, npt.NDArray[np.int64], npt.NDArray[np.int32], Float32s, npt.NDArray[np.uint8]]:
    """The nodes' arrays with a `_Chooser` in place of each node that splits by several categories: its first node is that node."""
    more: tuple[list[float], list[list[int]], list[int], list[int]] = [], [], [], []
    count = len(conditions)
    for node, categories in several:
        chooser = _chooser(categories, bool(default_left[node]))
        first = count + len(more[0]) - 1  # of node 1
        numbers = [node, *range(first + 1, first + len(chooser.conditions))]
        sides = {LEFT: int(children[node, 1]), RIGHT: int(children[node, 0])}
        pairs = [[sides[to] if to < 0 else numbers[to] for to in pair] for pair in chooser.children]
        conditions[node], children[node], default_left[node] = (
            chooser.conditions[0],
            pairs[0],
            chooser.default_left[0],
        )
        ends[node] = np.nan
        more[0].extend(chooser.conditions[1:])
        more[1].extend(pairs[1:])
        more[2].extend([int(indices[node])] * (len(pairs) - 1))
        more[3].extend(chooser.default_left[1:])
    return (
        np.concatenate([conditions, np.array(more[0], np.float32)]),
        np.concatenate([children, np.array(more[1], np.int64).reshape(-1, 2)]),
        np.concatenate([indices, np.array(more[2], np.int32)]),
        np.concatenate([ends, np.full(len(more[0]), np.nan, np.float32)]),
        np.concatenate([default_left, np.array(more[3], np.uint8)]),
    )


@njit(cache=True, nogil=True, error_model="numpy")
def _child(
    node: np.uint64,
    value: np.float32,
    children: npt.NDArray[np.uint32],
    split_conditions: Float32s,
    split_ends: Float32s,
    default_left: npt.NDArray[np.uint8],
) -> np.uint64:
    is_outside = np.uint64(value < split_conditions[node]) | np.uint64(value >= split_ends[node])
    is_missing = np.uint64(value != value)
    goes_left = is_outside | (is_missing & np.uint64(default_left[node]))
    return np.uint64(children[(node << np.uint64(1)) | goes_left])


@njit(cache=True, nogil=True, error_model="numpy")
def _add_leaf_values(
    roots: npt.NDArray[np.uint32],
    levels: npt.NDArray[np.int64],
    children: npt.NDArray[np.uint32],
    split_indices: npt.NDArray[np.uint32],
    split_conditions: Float32s,
    split_ends: Float32s,
    default_left: npt.NDArray[np.uint8],
    features: Float32s,
    margins: Float32s,
    first: int,
    last: int,
) -> None:
    """Score rows first to last - 1.

    A block of rows goes down a tree level by level, so that rows do not wait for one another's memory reads.
    A balanced tree of n nodes has log2(n) levels; rows that are not yet at a leaf then go on one by one.
    """
    nodes = np.empty(ROWS_PER_BLOCK, dtype=np.uint32)
    for start in range(first, last, ROWS_PER_BLOCK):
        count = min(ROWS_PER_BLOCK, last - start)
        for tree in range(roots.shape[0]):
            nodes[:count] = roots[tree]
            for _ in range(levels[tree]):
                for i in range(count):
                    node = np.uint64(nodes[i])
                    value = features[np.uint64(split_indices[node]), np.uint64(start + i)]
                    nodes[i] = _child(node, value, children, split_conditions, split_ends, default_left)
            for i in range(count):
                node = np.uint64(nodes[i])
                while np.uint64(children[node << np.uint64(1)]) != node:
                    value = features[np.uint64(split_indices[node]), np.uint64(start + i)]
                    node = _child(node, value, children, split_conditions, split_ends, default_left)
                margins[start + i] += split_conditions[node]


@njit(cache=True, nogil=True, error_model="numpy")
def _sigmoids(margins: Float32s, probabilities: Float32s) -> None:
    for row in range(margins.shape[0]):
        probabilities[row] = np.float32(sigmoid(np.float64(margins[row])))


@njit(cache=True, nogil=True, error_model="numpy")
def softmax_rows(margins, probabilities):  # type: ignore[no-untyped-def]
    """p_k = e^(m_k - M) / sum over j of e^(m_j - M), with M the largest margin of the row; float32 (n, classes), written."""
    for row in range(margins.shape[0]):
        highest = margins[row, 0]
        for k in range(1, margins.shape[1]):
            highest = max(highest, margins[row, k])
        total = 0.0
        for k in range(margins.shape[1]):
            total += exp(np.float64(margins[row, k]) - np.float64(highest))
        for k in range(margins.shape[1]):
            probabilities[row, k] = np.float32(exp(np.float64(margins[row, k]) - np.float64(highest)) / total)


@njit(cache=True, nogil=True, error_model="numpy")
def _exponentials(margins: Float32s, means: Float32s) -> None:
    for row in range(margins.shape[0]):
        means[row] = np.float32(exp(np.float64(margins[row])))


@njit(cache=True, nogil=True, error_model="numpy")
def _log_once(x: float) -> float:
    result: float = elementary_log(x)
    return result
