"""XGBoost's model file: its JSON is written, the form in which a Hansa model leaves Hansa; JSON and UBJSON are read.

Written files are canonical: equal ensembles give equal bytes, on every host. Keys stand in XGBoost's order,
floats are the shortest decimals that give back the same float32, and nothing is said of the run that trained
the model.

Read files may be Hansa's own or those of XGBoost 1.7 to 3 (`Booster.save_model("x.json")`, `save_raw("ubj")`), for
`gbtree` models of numeric and categorical features with outputs of their own trees. What is not supported is refused by name,
never skipped: a model that loads predicts as in XGBoost.

Trees know categories by number. Their levels stand in the learner's attribute `hansa.categories`, which XGBoost keeps, for
`hansa predict`; and in `cats`, by which XGBoost 3 finds the numbers of a data frame's categories, however these are ordered there.

What a plan says of reading cells stands in `hansa.unseen`, `hansa.dates` and `hansa.other`, where it says anything; the names of
several labels in `hansa.labels`. Outputs of XGBoost's own models are labels.

Format: https://xgboost.readthedocs.io/en/stable/tutorials/saving_model.html and the schema that it links.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from typing import Any, get_args

import msgspec
import numpy as np
import numpy.typing as npt

from hansa.errors import DataError
from hansa.trees import ubjson
from hansa.trees.ensemble import CATEGORIES_END, TREE_DTYPES, Ensemble, Level, Reading, Tree, Unseen
from hansa.trees.losses import LOSSES, OBJECTIVES

VERSION = (3, 2, 0)
"""The XGBoost version whose format is written."""

NUMERIC_TYPES = ("float", "int", "i", "q")
"""XGBoost's feature types whose splits are comparisons."""

CATEGORICAL_TYPE = "c"

LEVELS_ATTRIBUTE = "hansa.categories"
"""The learner's attribute that holds the levels of categorical features, by name, as JSON."""

UNSEEN_ATTRIBUTE = "hansa.unseen"
"""The attribute that says "error" where levels that the model does not know are refused."""

DATES_ATTRIBUTE = "hansa.dates"
"""The attribute that holds the rules by which features are made of dates, by name, as JSON."""

OTHER_ATTRIBUTE = "hansa.other"
"""The attribute that lists the features whose last level takes all that the model does not know, as JSON."""

LABELS_ATTRIBUTE = "hansa.labels"
"""The attribute that lists the names of several labels, as JSON."""

MOST_BYTES = 2**30
"""Of a file. What it becomes in memory is larger by a fixed factor."""

MOST_FEATURES = 2**20
MOST_OUTPUTS = 2**16
"""What a small file may speak of."""


_INT64_ARRAY = 15
"""XGBoost's number for a typed array of int64."""

_FLOAT_ARRAYS = tuple(name for name, dtype in TREE_DTYPES.items() if dtype is np.float32)
_CATEGORY_ARRAYS = ("categories", "categories_nodes", "categories_segments", "categories_sizes")
_SMALLEST_NORMAL = float(np.finfo(np.float32).tiny)
_TREE_KEYS = {*TREE_DTYPES, *_CATEGORY_ARRAYS, "id", "split_type", "tree_param"}


def to_json(ensemble: Ensemble) -> bytes:
    """The ensemble as an XGBoost model file; equal ensembles give equal bytes.

    Parameters
    ----------
    ensemble : Ensemble

    Returns
    -------
    bytes
        JSON in UTF-8.

    Examples
    --------
    >>> import hansa
    >>> hansa.to_json(hansa.Ensemble("binary:logistic", 0.5, ("load",), ()))[:1]
    b'{'
    """
    n_features, n_trees, n_outputs = len(ensemble.feature_names), len(ensemble.trees), ensemble.outputs
    n_classes = n_outputs if LOSSES[ensemble.objective].labels == "classes" else 0
    scores = [_shortest(score).upper() for score in ensemble.base_scores]
    texts = _float_texts(ensemble)
    model = {
        "cats": _cats(ensemble.categories),
        "gbtree_model_param": {"num_parallel_tree": str(ensemble.num_parallel_tree), "num_trees": str(n_trees)},
        "iteration_indptr": list(range(0, n_trees + 1, ensemble.trees_per_round)),
        "tree_info": _output_of_trees(n_trees, n_outputs, ensemble.num_parallel_tree),
        "trees": [_tree_to_object(number, tree, n_features, texts) for number, tree in enumerate(ensemble.trees)],
    }
    learner = {
        "attributes": _attributes(ensemble),
        "feature_names": list(ensemble.feature_names),
        "feature_types": [
            "float" if own is None else CATEGORICAL_TYPE for own in ensemble.categories or [None] * n_features
        ],
        "gradient_booster": {"model": model, "name": "gbtree"},
        "learner_model_param": {
            # One number where it is enough: XGBoost before 3.1 reads "[...]" as a margin of 0 (`Ensemble.with_one_base_score`).
            "base_score": scores[0] if len(set(scores)) == 1 else f"[{','.join(scores)}]",
            "boost_from_average": "0",
            "num_class": str(n_classes),
            "num_feature": str(n_features),
            "num_target": "1" if n_classes else str(n_outputs),
        },
        "objective": _objective_to_object(ensemble, n_classes),
    }
    return msgspec.json.encode({"learner": learner, "version": list(VERSION)})


def _objective_to_object(ensemble: Ensemble, n_classes: int) -> dict[str, Any]:
    loss = LOSSES[ensemble.objective]
    content = {"num_class": str(n_classes)} if n_classes else dict(loss.own_content)
    if ensemble.quantile_alpha:
        content = {"quantile_alpha": f"[{','.join(_shortest(alpha).upper() for alpha in ensemble.quantile_alpha)}]"}
    return {"name": ensemble.objective} | ({loss.own_field: content} if loss.own_field else {})


def _output_of_trees(n_trees: int, n_outputs: int, parallel: int) -> list[int]:
    """XGBoost's `tree_info`: in each round for every output, in turn, so many trees."""
    return [tree // parallel % n_outputs for tree in range(n_trees)]


def _tree_to_object(number: int, tree: Tree, n_features: int, texts: Mapping[int, str]) -> dict[str, Any]:
    fields: dict[str, Any] = {name: getattr(tree, name).tolist() for name in TREE_DTYPES}
    for name in _FLOAT_ARRAYS:
        # Each float is written by `_shortest`: an integer token here would be refused by XGBoost.
        tokens = ",".join(texts[bits] for bits in getattr(tree, name).view(np.uint32).tolist())
        fields[name] = msgspec.Raw(f"[{tokens}]".encode())
    fields["id"] = number
    sizes = [len(own) for own in tree.categories.values()]
    fields["categories"] = [category for own in tree.categories.values() for category in own]
    fields["categories_nodes"] = list(tree.categories)
    fields["categories_segments"] = np.cumsum([0, *sizes]).tolist()[:-1]
    fields["categories_sizes"] = sizes
    fields["tree_param"] = {
        "num_deleted": "0",
        "num_feature": str(n_features),
        "num_nodes": str(tree.num_nodes),
        "size_leaf_vector": "1",
    }
    return dict(sorted(fields.items()))


def _attributes(ensemble: Ensemble) -> dict[str, str]:
    levels = {name: own for name, own in zip(ensemble.feature_names, ensemble.categories, strict=False) if own}
    reading = ensemble.reading
    told = {
        LEVELS_ATTRIBUTE: msgspec.json.encode(levels).decode() if levels else "",
        DATES_ATTRIBUTE: msgspec.json.encode(dict(reading.dates)).decode() if reading.dates else "",
        OTHER_ATTRIBUTE: msgspec.json.encode(reading.other).decode() if reading.other else "",
        LABELS_ATTRIBUTE: msgspec.json.encode(reading.labels).decode() if reading.labels else "",
        UNSEEN_ATTRIBUTE: "" if reading.unseen == "missing" else reading.unseen,
    }
    return {name: text for name, text in sorted(told.items()) if text}


def _cats(categories: Sequence[tuple[Level, ...] | None]) -> dict[str, Any]:
    """XGBoost's `cats`: each categorical feature's levels, as bytes end to end or as numbers, and their order."""
    if not any(categories):
        return {"enc": [], "feature_segments": [], "sorted_idx": []}
    encodings: list[dict[str, Any]] = []
    order: list[int] = []
    segments = [0]
    for own in categories:
        levels = own or ()
        if levels and isinstance(levels[0], int):
            keys: list[Any] = list(levels)
            encodings.append({"type": _INT64_ARRAY, "values": keys})
        else:
            keys = [str(level).encode() for level in levels]
            ends = np.cumsum([0, *map(len, keys)]).tolist() if keys else []
            encodings.append({"offsets": ends, "values": np.frombuffer(b"".join(keys), np.int8).tolist()})
        order += sorted(range(len(keys)), key=keys.__getitem__)
        segments.append(segments[-1] + len(keys))
    return {"enc": encodings, "feature_segments": segments, "sorted_idx": order}


def _float_texts(ensemble: Ensemble) -> dict[int, str]:
    """Text of each float32 in the trees, by its bits: the same cuts occur often, and formatting is slow."""
    arrays = [getattr(tree, name) for tree in ensemble.trees for name in _FLOAT_ARRAYS]
    if not arrays:
        return {}
    bits = np.unique(np.concatenate(arrays).view(np.uint32))
    return {
        pattern: _shortest(value) for pattern, value in zip(bits.tolist(), bits.view(np.float32).tolist(), strict=True)
    }


def _shortest(value: float) -> str:
    """The shortest decimal that a float32 parser reads as `value`, with a decimal point or an exponent.

    Readers that parse into float64 first round twice; where that would give another float32, the decimal
    is that of the float64, which both kinds read alike.
    """
    digits = float(np.format_float_scientific(np.float32(value), unique=True))
    return repr(digits if np.float32(digits) == np.float32(value) else float(value))


def from_model_file(document: bytes) -> Ensemble:
    """Read a model file of Hansa or of XGBoost, JSON or UBJSON.

    Parameters
    ----------
    document : bytes

    Returns
    -------
    Ensemble

    Raises
    ------
    DataError
        As for `from_json`.

    Examples
    --------
    >>> import hansa
    >>> empty = hansa.Ensemble("binary:logistic", 0.5, ("load",), ())
    >>> hansa.from_model_file(hansa.to_json(empty)).feature_names
    ('load',)
    """
    if document[:2] == b"{L":
        return _from_object(_parse_ubjson(document))
    if document[:1] != b"{" and (
        document[:4] in (b"binf", b"bs64") or b"\0" in document[:64] or document[:1] == b"\x80"
    ):
        raise DataError(
            "XGBoost model: neither JSON nor UBJSON, maybe XGBoost's old binary format or a pickle, which are not read; load it "
            'with the XGBoost that wrote it and save it anew: booster.save_model("model.json")'
        )
    return from_json(document)


def from_json(document: bytes) -> Ensemble:
    """Read a JSON model file of Hansa or of XGBoost.

    All trees are kept, as by `Booster.predict`, which ignores the attribute `best_iteration`; call `Ensemble.truncate` for fewer.
    Features without names are called f0, f1, ... as in XGBoost.

    Parameters
    ----------
    document : bytes

    Returns
    -------
    Ensemble

    Raises
    ------
    DataError
        Names the place in the file, what was expected and what stands there: text that is not JSON, a field of another type, an
        inconsistent tree, or a model that is not supported (another booster or objective, vectors as leaves).

    Examples
    --------
    >>> import hansa
    >>> empty = hansa.Ensemble("binary:logistic", 0.5, ("load",), ())
    >>> hansa.from_json(hansa.to_json(empty)) == empty
    True
    """
    return _from_object(_parse(document))


def _from_object(parsed: Any) -> Ensemble:
    top = _object(parsed, "model", required=("learner",), optional=("version",))
    version = top.get("version", [])
    if not isinstance(version, list) or not all(isinstance(part, int) for part in version):
        raise _wrong("version", "an array of whole numbers", version)
    learner = _object(
        top["learner"],
        "learner",
        required=("gradient_booster", "learner_model_param", "objective"),
        optional=("attributes", "feature_names", "feature_types"),
    )
    objective = _objective(learner["objective"])
    n_features, n_outputs, base_score = _model_parameters(learner["learner_model_param"], objective)
    names = _strings(learner.get("feature_names", []), "feature_names")
    types = _strings(learner.get("feature_types", []), "feature_types")
    _check_feature_types(types)
    if names and len(names) != n_features:
        raise _wrong("feature_names", f"none or num_feature = {n_features} of them", len(names))
    names = names or [f"f{feature}" for feature in range(n_features)]
    if types and len(types) != n_features:
        raise _wrong("feature_types", f"none or num_feature = {n_features} of them", len(types))
    trees, parallel = _booster(learner["gradient_booster"], n_features, n_outputs)
    attributes, cats = learner.get("attributes", {}), learner["gradient_booster"]["model"].get("cats", {})
    categories = _levels(attributes, names, _categorical(types, trees, n_features))
    if not _is_empty(cats):
        if not isinstance(attributes, dict) or LEVELS_ATTRIBUTE not in attributes:
            categories = _levels_of_cats(cats, categories, version)
        if cats != _cats(categories):
            raise _unsupported("cats.enc with other than texts and int64 numbers, or at odds with the model's levels")
    quantiles = _quantile_alpha(learner["objective"]) if objective == "reg:quantileerror" else ()
    is_label = n_outputs > 1 and LOSSES[objective].labels != "classes" and not quantiles
    # Hansa writes 0, and without names its outputs are classes, each against the rest (coopetitive mode).
    theirs = is_label and learner["learner_model_param"].get("boost_from_average", "1") != "0"
    labels = _labels(attributes, n_outputs if is_label else 0, theirs)
    reading = replace(_reading(attributes, names, categories), labels=labels)
    return Ensemble(objective, base_score, tuple(names), trees, categories, parallel, quantiles, reading)


def _check_size(document: bytes) -> None:
    if len(document) > MOST_BYTES:
        raise DataError(f"XGBoost model: the file has {len(document)} bytes; expected at most {MOST_BYTES}")


def _parse_ubjson(document: bytes) -> Any:
    _check_size(document)
    try:
        return ubjson.decode(document)
    except DataError as error:
        raise DataError(f"XGBoost model: {error}") from error


def _parse(document: bytes) -> Any:
    _check_size(document)
    try:
        return json.loads(
            document.decode("utf-8"),
            object_pairs_hook=_without_repeats,
            parse_float=_nearest_float32,
            parse_constant=_constant,
        )
    except (ValueError, RecursionError) as error:
        raise DataError(f"XGBoost model: not a JSON document ({error}); expected a file saved as .json") from error


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("an object has the same key twice")
    return members


def _constant(token: str) -> float:
    """NaN, which XGBoost before 3 writes as the condition of a categorical split; elsewhere the field that holds it is refused."""
    return float(token)


def _nearest_float32(token: str) -> float:
    """The float32 nearest to a decimal, as a float64; ties as the exact value of the decimal decides.

    Rounding to float64 and then to float32 is wrong only where the first lands halfway between two float32.
    """
    value = float(token)
    mantissa, _ = math.frexp(value)
    if abs(value) >= _SMALLEST_NORMAL and (mantissa * 2**25) % 2 != 1:
        return value
    with np.errstate(over="ignore", under="ignore"):
        candidate = np.float32(value)
        if not np.isfinite(candidate) or float(candidate) == value:
            return value
        exact = Fraction(token)
        around = (
            np.nextafter(candidate, np.float32(-np.inf)),
            candidate,
            np.nextafter(candidate, np.float32(np.inf)),
        )
    # A true tie goes to the even float32, which is `candidate`.
    nearest = min(
        (float(f) for f in around if np.isfinite(f)),
        key=lambda f: (abs(Fraction(f) - exact), f != float(candidate)),
    )
    return math.copysign(nearest, value)


_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def _number_in_text(text: str) -> float:
    """As `_nearest_float32`, of a number that stands in a string of the file. Raises ValueError for what only Python reads as one."""
    if _NUMBER.fullmatch(text) is None:
        raise ValueError(text)
    return _nearest_float32(text)


def _wrong(where: str, expected: str, found: object) -> DataError:
    return DataError(f"XGBoost model: {where} is {found!r:.80}; expected {expected}")


def _unsupported(what: str) -> DataError:
    return DataError(
        f"XGBoost model: {what} is not supported; expected a gbtree model with trees of single outputs, and features that are "
        "numeric or categories by number"
    )


def _object(value: Any, where: str, required: Collection[str] = (), optional: Collection[str] = ()) -> dict[str, Any]:
    """`value` as an object with these keys. An unknown one may change what a model means: refused."""
    if not isinstance(value, dict):
        raise _wrong(where, "an object", value)
    for key in required:
        if key not in value:
            raise DataError(f"XGBoost model: {where} lacks {key!r}")
    for key in value:
        if key not in required and key not in optional:
            raise _unsupported(f"the field {key!r} of {where}")
    return value


def _strings(value: Any, where: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise _wrong(where, "an array of strings", value)
    try:
        "".join(value).encode("utf-8")
    except UnicodeEncodeError as error:
        raise _wrong(
            where, "an array of strings without halves of characters, which no file can hold", value
        ) from error
    return value


def _count(value: Any, where: str) -> int:
    """A number of things, which XGBoost writes as a string."""
    if not isinstance(value, str) or not value.isascii() or not value.isdigit() or len(value) > 10:
        raise _wrong(where, "a string of digits", value)
    return int(value)


def _objective(value: Any) -> str:
    name = value.get("name") if isinstance(value, dict) else value
    if name not in OBJECTIVES:
        raise _unsupported(f"objective {name!r:.80}")
    _object(value, "objective", required=("name",), optional=(LOSSES[name].own_field,))
    return str(name)


def _quantile_alpha(value: dict[str, Any]) -> tuple[float, ...]:
    """The quantiles that XGBoost writes as "[3E-1]" or "[3E-1,9E-1]"."""
    where = LOSSES["reg:quantileerror"].own_field
    text = _object(value.get(where), where, required=("quantile_alpha",))["quantile_alpha"]
    try:
        if not (isinstance(text, str) and text.startswith("[") and text.endswith("]")):
            raise ValueError
        return tuple(_number_in_text(alpha) for alpha in text[1:-1].split(","))
    except ValueError as error:
        raise _wrong("quantile_alpha", "a string with numbers in brackets", text) from error


def _model_parameters(value: Any, objective: str) -> tuple[int, int, float | tuple[float, ...]]:
    """(number of features, number of outputs, base score)"""
    where = "learner_model_param"
    parameters = _object(
        value,
        where,
        required=("base_score", "num_class", "num_feature"),
        optional=("boost_from_average", "num_target"),
    )
    n_classes = _count(parameters["num_class"], "num_class")
    n_outputs = _count(parameters.get("num_target", "1"), "num_target")
    if LOSSES[objective].labels == "classes":
        if not 2 <= n_classes <= MOST_OUTPUTS:
            raise _wrong("num_class", f"2 to {MOST_OUTPUTS} for {objective}", n_classes)
        if n_outputs != 1:
            raise _unsupported(f"num_target = {n_outputs} with num_class = {n_classes}")
        n_outputs = n_classes
    elif n_classes > 1:
        raise _unsupported(f"num_class = {n_classes} with {objective}")
    if not 1 <= n_outputs <= MOST_OUTPUTS:
        raise _wrong("num_target", f"1 to {MOST_OUTPUTS}", n_outputs)
    n_features = _count(parameters["num_feature"], "num_feature")
    if n_features > MOST_FEATURES:
        raise _wrong("num_feature", f"at most {MOST_FEATURES}", n_features)
    return n_features, n_outputs, _base_score(parameters["base_score"], n_outputs)


def _base_score(text: Any, n_outputs: int) -> float | tuple[float, ...]:
    """XGBoost 3.1 and later write "[5E-1]" and "[1E-1,2E-1]" for several outputs; earlier ones "5E-1", for all outputs."""
    if not isinstance(text, str):
        raise _wrong("base_score", "a string", text)
    is_array = text.startswith("[") and text.endswith("]")
    try:
        scores = [_number_in_text(score) for score in (text[1:-1].split(",") if is_array else [text])]
    except ValueError:
        scores = []
    if len(scores) not in (1, n_outputs):
        expected = "one number" if n_outputs == 1 else f"one number, or one for each of {n_outputs} outputs"
        raise _wrong("base_score", f"a string with {expected}", text)
    if n_outputs == 1:
        return scores[0]
    return tuple(scores * n_outputs if len(scores) == 1 else scores)


def _check_feature_types(types: list[str]) -> None:
    for feature, kind in enumerate(types):
        if kind not in (*NUMERIC_TYPES, CATEGORICAL_TYPE):
            raise _unsupported(f"feature {feature} of type {kind!r}")


def _categorical(types: list[str], trees: Sequence[Tree], n_features: int) -> list[bool]:
    """Which features are categorical: as the file says, or where it says nothing, as its trees split them."""
    if types:
        return [kind == CATEGORICAL_TYPE for kind in types]
    split = {int(feature) for tree in trees for feature in tree.split_indices[tree.split_type == 1]}
    return [feature in split for feature in range(n_features)]


def _levels(attributes: Any, names: list[str], categorical: list[bool]) -> tuple[tuple[Level, ...] | None, ...]:
    """Levels by feature, from the attribute where there is one: none of a feature that it leaves out; None for an ordered one."""
    where = f"attributes[{LEVELS_ATTRIBUTE!r}]"
    text = attributes.get(LEVELS_ATTRIBUTE, "{}") if isinstance(attributes, dict) else attributes
    try:
        told = msgspec.json.decode(text, type=dict[str, list[Level]])
        if any(len({type(level) for level in own}) > 1 for own in told.values()):
            raise TypeError("levels of two kinds")
    except (msgspec.DecodeError, TypeError, ValueError) as error:
        raise _wrong(where, "an object of lists of texts or of whole numbers", text) from error
    can_have = {name for name, own in zip(names, categorical, strict=True) if own}
    for name in told:
        if name not in can_have:
            raise _wrong(where, "levels of the model's categorical features", name)
    return tuple(tuple(told.get(name, ())) if own else None for name, own in zip(names, categorical, strict=True))


def _reading(attributes: Any, names: Sequence[str], categories: Sequence[tuple[Level, ...] | None]) -> Reading:
    """How cells are read, from the learner's attributes."""
    given = attributes if isinstance(attributes, dict) else {}
    unseen = given.get(UNSEEN_ATTRIBUTE, "missing")
    if unseen not in get_args(Unseen):
        raise _wrong(f"attributes[{UNSEEN_ATTRIBUTE!r}]", "'error' or 'missing'", unseen)
    where, text = f"attributes[{DATES_ATTRIBUTE!r}]", given.get(DATES_ATTRIBUTE, "{}")
    try:
        rules = msgspec.json.decode(text, type=dict[str, str])
    except (msgspec.DecodeError, TypeError, ValueError) as error:
        raise _wrong(where, "an object of texts", text) from error
    levels = dict(zip(names, categories, strict=False))
    for name in rules:
        if levels.get(name, ()) is not None:
            raise _wrong(where, "rules of the model's ordered features", name)
    where, text = f"attributes[{OTHER_ATTRIBUTE!r}]", given.get(OTHER_ATTRIBUTE, "[]")
    try:
        other = msgspec.json.decode(text, type=list[str])
    except (msgspec.DecodeError, TypeError, ValueError) as error:
        raise _wrong(where, "an array of texts", text) from error
    for name in other:
        if not levels.get(name):
            raise _wrong(where, "categorical features of the model, with levels", name)
    listed = frozenset(other)
    return Reading(
        unseen,
        tuple((name, rules[name]) for name in names if name in rules),
        tuple(name for name in names if name in listed),
    )


def _labels(attributes: Any, n_labels: int, theirs: bool) -> tuple[str, ...]:
    """The names of several labels, from the learner's attributes; in a model of XGBoost's own 0, 1 and so on."""
    given = attributes if isinstance(attributes, dict) else {}
    if LABELS_ATTRIBUTE not in given:
        return tuple(map(str, range(n_labels))) if theirs else ()
    where, text = f"attributes[{LABELS_ATTRIBUTE!r}]", given[LABELS_ATTRIBUTE]
    try:
        found = tuple(msgspec.json.decode(text, type=list[str]))
    except (msgspec.DecodeError, TypeError, ValueError) as error:
        raise _wrong(where, "an array of texts", text) from error
    if len(found) != n_labels or len(set(found)) < len(found):
        raise _wrong(where, f"{n_labels} different names, one for each label", found)
    return found


def _booster(value: Any, n_features: int, n_outputs: int) -> tuple[tuple[Tree, ...], int]:
    """The trees, and how many a round has for each output."""
    name = value.get("name") if isinstance(value, dict) else value
    if name != "gbtree":
        raise _unsupported(f"booster {name!r:.80}")
    booster = _object(value, "gradient_booster", required=("model", "name"))
    model = _object(
        booster["model"],
        "gradient_booster.model",
        required=("gbtree_model_param", "tree_info", "trees"),
        optional=("iteration_indptr", "cats"),
    )
    parameters = _object(
        model["gbtree_model_param"],
        "gbtree_model_param",
        required=("num_trees",),
        optional=("num_parallel_tree", "size_leaf_vector"),
    )
    parallel = _count(parameters.get("num_parallel_tree", "1"), "num_parallel_tree") or 1
    trees, n_trees = model["trees"], _count(parameters["num_trees"], "num_trees")
    if not isinstance(trees, list) or len(trees) != n_trees:
        raise _wrong("trees", f"an array of num_trees = {n_trees} trees", trees)
    if n_trees % (n_outputs * parallel) or model["tree_info"] != _output_of_trees(n_trees, n_outputs, parallel):
        raise _unsupported(
            f"tree_info with other than num_parallel_tree = {parallel} trees for each of {n_outputs} outputs in turn "
            "(as of multi_strategy = multi_output_tree)"
        )
    if model.get("iteration_indptr") not in (None, [], list(range(0, n_trees + 1, n_outputs * parallel))):
        raise _unsupported(f"iteration_indptr with other than {n_outputs * parallel} trees an iteration")
    _object(model.get("cats", {}), "cats", optional=("enc", "feature_segments", "sorted_idx"))
    return tuple(_tree_from_object(number, tree, n_features) for number, tree in enumerate(trees)), parallel


def _levels_of_cats(
    cats: Mapping[str, Any], categories: Sequence[tuple[Level, ...] | None], version: list[int]
) -> tuple[tuple[Level, ...] | None, ...]:
    """Levels by feature as a data frame had them, of which XGBoost 3.1 and later keep count in `cats.enc`."""
    encodings = cats["enc"]
    if not isinstance(encodings, list) or len(encodings) != len(categories):
        raise _wrong("cats.enc", f"an array of {len(categories)} entries, one a feature", encodings)
    for feature, encoding in enumerate(encodings):
        _object(encoding, f"cats.enc[{feature}]", optional=("offsets", "values", "type"))
    return tuple(
        None if own is None else tuple(_levels_of(encoding, f"cats.enc[{feature}]", version))
        for feature, (own, encoding) in enumerate(zip(categories, encodings, strict=True))
    )


def _levels_of(encoding: Mapping[str, Any], where: str, version: list[int]) -> Sequence[Level]:
    values = encoding.get("values", [])
    if "offsets" not in encoding:
        return list(_array(values, f"{where}.values", np.int64).tolist())
    ends = _array(encoding["offsets"], f"{where}.offsets", np.int32)
    octets = _array(values, f"{where}.values", np.int8).tobytes()
    if not octets.isascii() and version[:2] < [3, 4]:
        raise _unsupported(f"{where} with levels that are not ASCII, which XGBoost before 3.4 cuts short,")
    if len(ends) and (ends[0] != 0 or (np.diff(ends) < 0).any() or ends[-1] != len(octets)):
        raise _wrong(f"{where}.offsets", f"numbers that rise from 0 to {len(octets)}", ends.tolist())
    try:
        return [octets[begin:end].decode("utf-8") for begin, end in pairwise(ends.tolist())]
    except UnicodeDecodeError as error:
        raise _wrong(f"{where}.values", "texts in UTF-8", octets) from error


def _is_empty(cats: Mapping[str, Any]) -> bool:
    encodings = cats.get("enc", [])
    return isinstance(encodings, list) and all(isinstance(e, dict) and not e.get("values") for e in encodings)


def _tree_from_object(number: int, value: Any, n_features: int) -> Tree:
    where = f"trees[{number}]"
    tree = _object(
        value,
        where,
        required=_TREE_KEYS - {"id", "split_type", *_CATEGORY_ARRAYS},
        optional=("id", "split_type", *_CATEGORY_ARRAYS),
    )
    if tree.get("id", number) != number:
        raise _wrong(f"{where}.id", f"{number}, its position", tree["id"])
    arrays = {name: _array(tree[name], f"{where}.{name}", dtype) for name, dtype in TREE_DTYPES.items() if name in tree}
    categories = _read_categories(tree, where, arrays)
    _check_tree_parameters(tree["tree_param"], where, len(arrays["left_children"]), n_features)
    try:
        return Tree(**arrays, categories=categories)
    except DataError as error:
        raise DataError(f"XGBoost model: {where}: {error}") from error


def _read_categories(
    tree: Mapping[str, Any], where: str, arrays: Mapping[str, npt.NDArray[Any]]
) -> dict[int, tuple[int, ...]]:
    """`Tree.categories`; what XGBoost has as the conditions of these nodes means nothing."""
    lists = {name: _array(tree.get(name, []), f"{where}.{name}", np.int32).tolist() for name in _CATEGORY_ARRAYS}
    categories, nodes, segments, sizes = (lists[name] for name in _CATEGORY_ARRAYS)
    expected = np.flatnonzero(arrays.get("split_type", ())).tolist()
    if nodes != expected:
        raise _wrong(f"{where}.categories_nodes", f"{expected}, the nodes of split_type 1", nodes)
    begins = np.cumsum([0, *sizes]).tolist()
    if (
        min(sizes, default=1) < 1
        or (segments, len(categories)) != (begins[:-1], begins[-1])
        or len(sizes) != len(nodes)
    ):
        raise _wrong(
            f"{where}.categories", "those of each categorical split, one split's behind the other's", (segments, sizes)
        )
    if any(not 0 <= category < CATEGORIES_END for category in categories):
        raise _wrong(f"{where}.categories", "whole numbers from 0 to 2^24 - 1", categories)
    if nodes and max(nodes) >= len(arrays["split_conditions"]):
        raise _wrong(f"{where}.split_conditions", "one for each node", len(arrays["split_conditions"]))
    sets = (categories[begin:end] for begin, end in pairwise(begins))
    return {node: tuple(sorted(set(own))) for node, own in zip(nodes, sets, strict=True)}


def _check_tree_parameters(value: Any, where: str, num_nodes: int, n_features: int) -> None:
    where = f"{where}.tree_param"
    keys = ("num_nodes", "num_feature", "size_leaf_vector", "num_deleted")
    parameters = _object(value, where, required=keys[:2], optional=keys[2:])
    if _count(parameters.get("size_leaf_vector", "1"), f"{where}.size_leaf_vector") > 1:
        raise _unsupported(f"{where}.size_leaf_vector = {parameters['size_leaf_vector']} (vectors as leaves)")
    if _count(parameters.get("num_deleted", "0"), f"{where}.num_deleted") > 0:
        raise _unsupported(f"{where}.num_deleted = {parameters['num_deleted']} (deleted nodes)")
    for key, expected in (("num_nodes", num_nodes), ("num_feature", n_features)):
        if _count(parameters[key], f"{where}.{key}") != expected:
            raise _wrong(f"{where}.{key}", f"{expected}", parameters[key])


def _array(value: Any, where: str, dtype: type[np.generic]) -> npt.NDArray[Any]:
    expected, accepts = _ELEMENTS[dtype]
    if not isinstance(value, list) or not all(map(accepts, value)):
        raise _wrong(where, f"an array of {expected}", value)
    with np.errstate(over="ignore", under="ignore"):
        return np.array(value, dtype=np.float64 if dtype is np.float32 else dtype).astype(dtype)


_ELEMENTS: dict[type[np.generic], tuple[str, Callable[[Any], bool]]] = {
    np.float32: ("numbers with a decimal point or an exponent", lambda item: type(item) is float),
    np.int32: ("int32 numbers", lambda item: type(item) is int and -(2**31) <= item < 2**31),
    np.int64: ("int64 numbers", lambda item: type(item) is int and -(2**63) <= item < 2**63),
    np.int8: ("int8 numbers", lambda item: type(item) is int and -128 <= item < 128),
    # Early versions write true and false.
    np.uint8: ("0 and 1", lambda item: type(item) in (int, bool) and item in (0, 1)),
}
