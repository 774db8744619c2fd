"""The public list of candidate splits, and the columns of bits that rows are shared as.

A row's code of an ordered feature is the number of cuts at or below its value, so "value < cut b" is "code
<= b"; of a categorical feature it is the category's number. The code behind the last one stands for a
missing value; where a categorical feature has none, for a row of no category, which every split takes for another.

Missing values go either way at every split of a feature that has them. "Missing values go left, all others right" is a split of
ordered features only, as in XGBoost, whose one-hot splits always tell one category from the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from hansa.errors import DataError, PlanError

NO_COLUMN = -1
ONLY_MISSING = -1
"""Stands in `Candidate.cut` of "missing values go left, all others right"."""


@dataclass(frozen=True)
class Feature:
    """What is public about one feature.

    Attributes:
        size: cuts of an ordered feature, categories of a categorical one; 0 for a constant feature, which no split takes.
        categorical: one column a category instead of one a cut.
        has_missing: a missing-indicator column is shared, and both default directions are candidates.
    """

    size: int
    categorical: bool = False
    has_missing: bool = False

    @property
    def missing_code(self) -> int:
        """The code of a missing value."""
        return self.size if self.categorical else self.size + 1


@dataclass(frozen=True)
class Candidate:
    """One split that a node may choose.

    Attributes:
        feature: its number.
        cut: rows with code <= cut go left (ordered), or rows with code == cut (categorical); ONLY_MISSING.
        missing_left: where rows with a missing value go.
    """

    feature: int
    cut: int
    missing_left: bool


@dataclass(frozen=True)
class Candidates:
    """Columns and candidates of a list of features. All public.

    Columns, feature by feature: one a cut or category, then the missing-indicator where there is one.
    Candidates, in the order in which ties go: by feature, cut, missing values to the right first.
    """

    features: tuple[Feature, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", tuple(self.features))
        if not any(f.size > 0 or f.has_missing for f in self.features):
            raise PlanError(
                "candidate splits: no feature has a cut, a category or missing values; nothing can be split"
            )

    @cached_property
    def first_columns(self) -> npt.NDArray[np.int64]:
        """Where each feature's columns begin; one more entry for the end."""
        widths = [feature.size + feature.has_missing for feature in self.features]
        return np.concatenate([[0], np.cumsum(widths)]).astype(np.int64)

    @property
    def n_columns(self) -> int:
        """Columns of bits that a row is shared as."""
        return int(self.first_columns[-1])

    @cached_property
    def all(self) -> tuple[Candidate, ...]:
        """Every candidate, in order."""
        found: list[Candidate] = []
        for number, feature in enumerate(self.features):
            sides = (False, True) if feature.has_missing else (False,)
            found += [Candidate(number, cut, side) for cut in range(feature.size) for side in sides]
            if feature.has_missing and not feature.categorical:
                found.append(Candidate(number, ONLY_MISSING, True))
        return tuple(found)

    @cached_property
    def columns(self) -> npt.NDArray[np.int64]:
        """(candidates, 2): the columns whose sum tells left; NO_COLUMN for none."""
        pairs = []
        for candidate in self.all:
            first = int(self.first_columns[candidate.feature])
            indicator = first + self.features[candidate.feature].size
            if candidate.cut == ONLY_MISSING:
                pairs.append((indicator, NO_COLUMN))
            else:
                pairs.append((first + candidate.cut, indicator if candidate.missing_left else NO_COLUMN))
        return np.array(pairs, dtype=np.int64)

    def of_features(self, chosen: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """The candidates that split on one of these features, ascending."""
        return np.flatnonzero(np.isin([candidate.feature for candidate in self.all], chosen))

    def sums_by_candidate(self, by_column: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """(..., columns) to (..., candidates) in the ring of the array: missing-left = C + M."""
        total: npt.NDArray[Any] = by_column[..., self.columns[:, 0]]
        second = np.flatnonzero(self.columns[:, 1] != NO_COLUMN)
        if second.size:
            total[..., second] += by_column[..., self.columns[second, 1]]
        return total

    def bits_by_column(self, by_candidate: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """XOR-linear: bits (..., candidates) to the bits (..., columns) whose columns tell who goes left."""
        result = np.zeros((*by_candidate.shape[:-1], self.n_columns), np.uint8)
        for half in range(2):
            used = np.flatnonzero(self.columns[:, half] != NO_COLUMN)
            order = used[np.argsort(self.columns[used, half], kind="stable")]
            if order.size:
                targets, starts = np.unique(self.columns[order, half], return_index=True)
                result[..., targets] ^= np.bitwise_xor.reduceat(by_candidate[..., order], starts, axis=-1)
        return result

    def check_codes(self, codes: npt.NDArray[np.uint16]) -> None:
        """Raise DataError unless codes are uint16 (rows, features), each within its feature's range."""
        if codes.dtype != np.uint16 or codes.ndim != 2 or codes.shape[1] != len(self.features):
            raise DataError(f"codes are {codes.dtype}{codes.shape}; expected uint16 (rows, {len(self.features)})")
        for number, feature in enumerate(self.features):
            highest = feature.missing_code if feature.has_missing or feature.categorical else feature.missing_code - 1
            found = int(codes[:, number].max(initial=0))
            if found > highest:
                raise DataError(f"feature {number}: code {found} found; expected at most {highest}")

    def column_bits(self, codes: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint8]:
        """The thermometer code: uint8 (rows, columns) of zeros and ones."""
        bits = np.empty((codes.shape[0], self.n_columns), np.uint8)
        for number, feature in enumerate(self.features):
            first = int(self.first_columns[number])
            steps = np.arange(feature.size, dtype=np.uint16)
            own = codes[:, number, None]
            bits[:, first : first + feature.size] = own == steps if feature.categorical else own <= steps
            if feature.has_missing:
                bits[:, first + feature.size] = codes[:, number] == feature.missing_code
        return bits

    def sums_by_column(self, by_code: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Sums by code (features, codes, vectors) to sums by column (vectors, columns), in its ring."""
        result = np.empty((by_code.shape[2], self.n_columns), by_code.dtype)
        for number, feature in enumerate(self.features):
            first = int(self.first_columns[number])
            sums = by_code[number, : feature.size]
            below = sums if feature.categorical else np.cumsum(sums, axis=0, dtype=by_code.dtype)
            result[:, first : first + feature.size] = below.T
            if feature.has_missing:
                result[:, first + feature.size] = by_code[number, feature.missing_code]
        return result

    @property
    def n_codes(self) -> int:
        """Codes of the feature that has the most, the missing one included."""
        return max(feature.missing_code for feature in self.features) + 1
