"""The training plan: one TOML file that all members hold."""

from hansa.plan.plan import Coopetitive, CustomMetric, CustomObjective, Plan, Release
from hansa.plan.reading import parameters_of, parse_plan, read_plan
from hansa.plan.rules import checked_classes
from hansa.plan.search import Interval, Search, Value
from hansa.plan.values import (
    COOPETITIVE,
    DEFAULT_BINS_ON_SHARES,
    DEFAULT_LEAST_CHOICES,
    DEFAULT_MIN_CELL_ROWS,
    DEFAULT_MIN_PARTY_ROWS,
    DEFAULT_VERIFY_COUNTS,
    LEAF_BITS_RANGE,
    LEAST_MIN_CELL_ROWS,
    MASKED,
    MEMBER_NAME,
    MODES,
    MOST_FOLDS,
    MOST_LEVELS_OF_SUMS,
    NUMBERS_ON_SHARES,
    SERVER_LINKS,
    SERVERS,
    VERIFY_COUNTS,
    Collectors,
    default_verify_counts,
)
from hansa.plan.writing import write_plan

__all__ = [
    "COOPETITIVE",
    "DEFAULT_BINS_ON_SHARES",
    "DEFAULT_LEAST_CHOICES",
    "DEFAULT_MIN_CELL_ROWS",
    "DEFAULT_MIN_PARTY_ROWS",
    "DEFAULT_VERIFY_COUNTS",
    "LEAF_BITS_RANGE",
    "LEAST_MIN_CELL_ROWS",
    "MASKED",
    "MEMBER_NAME",
    "MODES",
    "MOST_FOLDS",
    "MOST_LEVELS_OF_SUMS",
    "NUMBERS_ON_SHARES",
    "SERVERS",
    "SERVER_LINKS",
    "VERIFY_COUNTS",
    "Collectors",
    "Coopetitive",
    "CustomMetric",
    "CustomObjective",
    "Interval",
    "Plan",
    "Release",
    "Search",
    "Value",
    "checked_classes",
    "default_verify_counts",
    "parameters_of",
    "parse_plan",
    "read_plan",
    "write_plan",
]
