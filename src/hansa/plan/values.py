"""The values that a plan's keys may have: names, defaults, bounds, and the declared types that hold them."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from msgspec import Meta

from hansa.data.schema import DECIMAL_SIGNS, UNSEEN, Level
from hansa.declared import one_of

COOPETITIVE = "coopetitive"

MASKED = "secure-aggregation"

MODES = ("federated", MASKED, COOPETITIVE)
"""The modes that this release runs. Another is refused, never run as one of these."""

SERVERS = 3
"""Compute servers of a coopetitive run."""

MEMBER_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
"""What may name a member."""

DEFAULT_MIN_CELL_ROWS = 10
"""Argued for in SECURITY.md, "Cuts"."""

LEAST_MIN_CELL_ROWS = 2
"""A cell of one row would send that row's value."""

DEFAULT_MIN_PARTY_ROWS = 20
"""Rows that each of at least three parties must have in a batch that protected sums are taken over (SECURITY.md, "Batches")."""

VERIFY_COUNTS = ("off", "tree", "after", "before")
"""When parties learn and check the pooled rows of named cells and nodes: never, of a whole tree at its end (and of cells after their
sums have left), after a level's sums have left, or before."""

DEFAULT_VERIFY_COUNTS = "tree"
"""Of secure-aggregation plans with at least three parties."""

DEFAULT_LEAST_CHOICES = 1000
"""`release.least_choices` of a coopetitive plan of binary:logistic that releases no statistics."""

LEAF_BITS_RANGE = (4, 24)
"""What `release.leaf_bits` may be."""

DEFAULT_BINS_ON_SHARES = 32
"""`max_bin` of a coopetitive plan that names none: every cut is a column of shares, 4 bytes a row and part."""

MOST_BINS_ON_SHARES = 256
DEEPEST_ON_SHARES = 8

MOST_LEVELS = 1024
"""Levels of a categorical feature: each is a column of shares, of 4 bytes a row and part."""

MOST_LEVELS_OF_SUMS = 65_534
"""The same where sums are: each is a bin, and codes have 16 bits."""

NOT_ON_SHARES: dict[str, Any] = {
    "max_leaves": 0,
    "grow_policy": "depthwise",
    "colsample_bylevel": 1.0,
    "colsample_bynode": 1.0,
    "num_parallel_tree": 1,
    "interaction_constraints": (),
    "max_cat_threshold": None,
    "balance": "rows",
}
"""Parameters that coopetitive mode takes at this value only."""

RANGES_ON_SHARES: dict[str, tuple[float, float]] = {
    "max_depth": (1, DEEPEST_ON_SHARES),
    "max_bin": (2, MOST_BINS_ON_SHARES),
    "eta": (2**-12, 1),
    "lambda_": (0, 2**26),
}
"""What fixed-point numbers on shares can hold of a parameter: a narrower range than that of the other modes."""

LEAST_ETA_OF_CLASSES = 2.0**-11
"""Of multi:softprob and multi:softmax on shares: their hessians there are half of XGBoost's, and so is eta."""

LEAST_BOUND_ON_SHARES = 2.0**-14
"""Least eta max_delta_step: such a bound has 64 units of leaves on shares."""

MOST_COUNT_STEP = 5.0
"""Greatest max_delta_step of count:poisson on shares, whose hessians have the factor e^max_delta_step."""

NUMBERS_ON_SHARES = ("reg:squarederror", "count:poisson")
"""Objectives on shares whose labels are numbers, in a public range."""

SERVER_LINKS = ("hub", "direct")

SHAP_ROWS = ("", "all", "held-out")
"""Whose rows a plan's SHAP summary is of: nobody's, all parties', or those that they hold out."""

ON_DROPOUT = ("wait", "abort", "continue")
"""What members do when one of them is gone: wait until it is back, or end the run. "continue" is known, and refused in this release."""

Mode = Annotated[str, one_of(*MODES)]
Digest = Annotated[
    str,
    Meta(
        pattern=r"\A([0-9a-f]{64})?\Z",
        description="a SHA-256 as 64 hexadecimal digits, of the model file to go on from",
    ),
]
FunctionDigest = Annotated[
    str, Meta(pattern=r"\A[0-9a-f]{64}\Z", description="the SHA-256 of a Python file as 64 hexadecimal digits")
]
RowBound = Annotated[
    float, Meta(ge=2.0**-100, le=2.0**100, description="a positive number that no row exceeds, from 2^-100 to 2^100")
]
CustomMetricName = Annotated[
    str,
    Meta(
        pattern=r"\A[a-z][a-z0-9_-]{0,31}\Z",
        description="a metric's name: one of a to z, then at most 31 of a to z, digits, - and _",
    ),
]
MemberName = Annotated[str, Meta(description="a member's name")]
Column = Annotated[str, Meta(description="a column's name")]
DecimalSign = Annotated[str, Meta(pattern=rf"\A[{''.join(DECIMAL_SIGNS)}]\Z", description='"." or ","')]
Unseen = Annotated[str, one_of(*UNSEEN)]
RareRows = Annotated[int, Meta(ge=1, description="a whole number of rows of at least 1")]
DateRule = Annotated[str, Meta(description="a rule such as 'days', or 'month of COLUMN'")]
Names = Annotated[tuple[str, ...], Meta(description="a list of names")]
Collectors = Annotated[
    tuple[tuple[str, tuple[str, ...]], ...], Meta(description="collectors, each with the list of its parties")
]
ServerLinks = Annotated[str, one_of(*SERVER_LINKS)]
OnDropout = Annotated[str, one_of(*ON_DROPOUT)]
VerifyCounts = Annotated[str, one_of(*VERIFY_COUNTS)]
Fraction = Annotated[float, Meta(ge=0, lt=1, description="a number of at least 0 and below 1")]
MOST_FOLDS = 1000
ShapRows = Annotated[str, one_of(*SHAP_ROWS)]
Folds = Annotated[
    int, Meta(ge=0, le=MOST_FOLDS, description=f"a whole number from 2 to {MOST_FOLDS}, or 0 for no folds")
]
MOST_TRIALS = 500
Trials = Annotated[int, Meta(ge=1, le=MOST_TRIALS, description=f"a whole number from 1 to {MOST_TRIALS}")]
Bound = int | float
Choices = Annotated[
    tuple[int | float | str, ...], Meta(description="a list of choices, or { low = 0.03, high = 0.3, log = true }")
]
MinCellRows = Annotated[
    int,
    Meta(
        ge=LEAST_MIN_CELL_ROWS,
        description=f"a whole number of at least {LEAST_MIN_CELL_ROWS}: a cell of one row would send that row's value",
    ),
]
MinPartyRows = Annotated[int, Meta(ge=0, description="a whole number of at least 0, which asks for nothing")]
MinChildRows = Annotated[int, Meta(ge=1, description="a whole number of at least 1")]
MetricName = Annotated[str, Meta(description="the name of a metric, one of parameters.eval_metric")]
MetricBound = Annotated[
    float,
    Meta(ge=-sys.float_info.max, le=sys.float_info.max, description="a finite number, which the metric must reach"),
]
LeastChoices = Annotated[int, Meta(ge=0, description="a whole number: 0, which asks for nothing, or more")]
LeafBits = Annotated[
    int,
    Meta(
        ge=LEAF_BITS_RANGE[0],
        le=LEAF_BITS_RANGE[1],
        description=f"a whole number from {LEAF_BITS_RANGE[0]} to {LEAF_BITS_RANGE[1]}",
    ),
]
WeightLimit = Annotated[float, Meta(gt=0, le=sys.float_info.max, description="a positive number")]
DeadlineS = Annotated[float, Meta(gt=0, le=31_536_000.0, description="a number of seconds above 0, at most a year")]
BaseMarginLimit = Annotated[float, Meta(gt=0, le=2.0**20, description="a positive number of at most 2^20")]
Steps = Annotated[tuple[int, ...], Meta(description="a list of whole numbers")]
Range = Annotated[tuple[float, float], Meta(description="[lowest, highest], two numbers")]
Cuts = Annotated[tuple[float, ...], Meta(description="a list of numbers")]
Sign = Annotated[Literal[-1, 0, 1], Meta(description="1, -1 or 0")]
Levels = Annotated[
    tuple[Level, ...],
    Meta(
        min_length=1,
        description="a list of levels, all texts or all whole numbers below 2^53 (where they are those of all parties' tables, "
        "name the feature in schema.union)",
    ),
]


def default_verify_counts(mode: object, parties: Sequence[str]) -> str:
    """What a plan has that does not say; of two parties each would learn the other's rows."""
    return DEFAULT_VERIFY_COUNTS if mode == MASKED and len(parties) > 2 else "off"
