"""The demo's tables: three simulated mobile operators, and the real breast-cancer table of scikit-learn.

**The operators are simulated.** No figure here was measured in a network. Each row is one cell during one
hour, and no cell appears twice, so rows are independent and a random split into training and test rows
leaks nothing. What the simulator keeps from real networks is the situation that makes pooling worth while:

* The physics is shared. One set of equations makes labels out of the true state of a cell, whoever owns it.
* Equipment is not. Three vendors measure the same state with different offsets, count random-access attempts
  differently, and one (`Vendor.reports_vswr` false) does not report VSWR at all.
* Circumstances are not. `aurora` is urban and busy, `borealis` cold (wet antenna lines), `cirrus` rural and
  hot. Each therefore often sees one way of failing and seldom the others.
* The targets are rare: about 1 %, so that the smallest operator has some 50 examples of each.

Targets:

* `sleeping_cell` (0 or 1): the cell was later found to have carried almost nobody in that hour although it
  raised no alarm. Either random access is broken, or the transmitter is silent, or a faulty configuration
  carries a fraction of the users. Planned energy saving, outages that do raise alarms, and ordinary quiet
  cells look much alike.
* `hardware_fault` (0 or 1): a unit had to be replaced within the next week. The hazards are an overheating
  amplifier, a bad antenna line and an ailing power supply; each needs two or more circumstances to meet.
  Labels are *drawn* from the hazard, so no model can reach an AUC of 1.
* `dropped_call_rate` (per cent, float): share of the surrounding day's calls that dropped, a binomial
  draw whose probability grows with uplink interference, poor coverage, failing handovers and congestion.

Features are what counters and sensors report of that state: noise is added, values are rounded, some are
lost. No feature is computed from a target.

Randomness is `numpy.random.Generator(PCG64(seed))`: a seed gives the same table on every machine with one
NumPy version. Values are rounded to a few decimals, so that the last bit of a host's `exp` does not show.
Nothing here is secret.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hansa.errors import DataError

Floats = npt.NDArray[np.float64]
Columns = dict[str, npt.NDArray[Any]]
"""Named columns of equal length: text party column, float64 features (NaN where missing), numeric targets."""

OPERATOR_COLUMN = "operator"
HOSPITAL_COLUMN = "hospital"
BREAST_CANCER_LABEL = "malignant"

FEATURES: Mapping[str, str] = {
    "hour_of_day": "local hour, 0-23",
    "rrc_connections": "radio connections set up in the hour",
    "prb_utilisation_dl_pct": "downlink resource blocks in use, %",
    "prb_utilisation_ul_pct": "uplink resource blocks in use, %",
    "traffic_gb": "data carried in the hour, GB",
    "traffic_last_week_gb": "data carried in the same hour a week earlier, GB",
    "neighbour_traffic_gb": "mean of the neighbouring cells in the same hour, GB",
    "cqi_mean": "mean channel quality reported by phones, 0-15; missing where nobody reported",
    "rsrp_dbm": "median received power reported by phones, dBm; missing where nobody reported",
    "rsrq_db": "median received quality reported by phones, dB; missing where nobody reported",
    "noise_rise_db": "uplink interference over thermal noise, dB",
    "handover_attempts": "outgoing handovers tried in the hour",
    "handover_success_pct": "outgoing handovers that succeeded, %; missing where none was tried",
    "rach_attempts": "random-access preambles received in the hour",
    "rach_success_pct": "random-access attempts that succeeded, %; missing where none was received",
    "vswr": "standing-wave ratio of the antenna line; one vendor does not report it",
    "pa_temperature_c": "power-amplifier temperature, degrees Celsius",
    "supply_voltage_v": "lowest DC supply voltage in the hour, V (nominal 54)",
    "active_alarms": "alarms raised at the end of the hour",
    "software_age_days": "days since the last software upgrade",
    "site_age_years": "years since the radio unit was installed",
    "neighbours": "cells in the neighbour list",
}
"""Every feature of `simulate_operators` and what it means."""

TARGETS: Mapping[str, str] = {
    "sleeping_cell": "1 where the cell silently carried almost nobody",
    "hardware_fault": "1 where a unit was replaced within the next week",
    "dropped_call_rate": "share of the surrounding day's calls that dropped, %",
}
"""Every target of `simulate_operators` and what it means. One is a label; the others are never features."""

_DECIMALS: Mapping[str, int] = {
    "prb_utilisation_dl_pct": 1,
    "prb_utilisation_ul_pct": 1,
    "traffic_gb": 3,
    "traffic_last_week_gb": 3,
    "neighbour_traffic_gb": 3,
    "cqi_mean": 2,
    "rsrp_dbm": 1,
    "rsrq_db": 1,
    "noise_rise_db": 1,
    "handover_success_pct": 1,
    "rach_success_pct": 1,
    "vswr": 2,
    "pa_temperature_c": 1,
    "supply_voltage_v": 1,
    "site_age_years": 1,
}
_COUNTER_FILE = (
    "rrc_connections",
    "prb_utilisation_dl_pct",
    "prb_utilisation_ul_pct",
    "traffic_gb",
    "cqi_mean",
    "rsrp_dbm",
    "rsrq_db",
    "handover_attempts",
    "handover_success_pct",
    "rach_attempts",
    "rach_success_pct",
)
_SENSORS = ("noise_rise_db", "vswr", "pa_temperature_c", "supply_voltage_v", "traffic_last_week_gb")
_COUNTER_FILE_LOST = 0.006
_SENSOR_LOST = 0.012


@dataclass(frozen=True)
class Vendor:
    """How one maker's equipment reports the same state of a cell."""

    reports_vswr: bool
    noise_rise_offset_db: float
    temperature_offset_c: float
    temperature_scale: float
    voltage_offset_v: float
    cqi_offset: float
    rach_repeats: float
    """Preambles counted per attempt: some count every repetition."""
    alarm_rate: float
    """Mean number of alarms that mean nothing."""


@dataclass(frozen=True)
class Operator:
    """One operator's network: where it stands, what it is made of, what plagues it."""

    name: str
    vendor_shares: tuple[float, float, float]
    urban_share: float
    load: float
    """Multiplies the traffic that a cell of its kind expects."""
    ambient_c: float
    ambient_spread_c: float
    site_age_years: float
    """Mean age; ages are gamma distributed with shape 3."""
    wet_lines: float
    """Share of antenna lines with water, ice or loose connectors."""
    hot_cabinets: float
    """Share of cabinets with blocked filters or dying fans."""
    poor_mains: float
    """Share of sites that often run on batteries."""
    access_faults: float
    silent_faults: float
    partial_faults: float
    """Shares of cells asleep because of random access, a silent transmitter, or a faulty configuration."""


_VENDORS = (
    Vendor(True, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.15),
    Vendor(True, 1.4, -5.0, 1.0, 0.4, 0.7, 1.7, 0.45),
    Vendor(False, -0.6, 3.0, 1.0, -0.3, -0.6, 1.0, 0.25),
)
OPERATORS = (
    Operator("aurora", (0.75, 0.25, 0.0), 0.75, 1.35, 14.0, 7.0, 5.0, 0.05, 0.11, 0.03, 0.005, 0.003, 0.003),
    Operator("borealis", (0.15, 0.65, 0.2), 0.45, 1.0, 2.0, 9.0, 7.0, 0.06, 0.09, 0.035, 0.002, 0.005, 0.003),
    Operator("cirrus", (0.3, 0.0, 0.7), 0.2, 0.7, 23.0, 7.0, 6.5, 0.05, 0.05, 0.03, 0.003, 0.003, 0.0045),
)
"""The three operators of the demo. Names and networks are invented."""
DEFAULT_CELLS = (18_000, 9_000, 5_000)
HOSPITALS: Mapping[str, tuple[float, float]] = {
    "riverside": (0.62, 0.50),
    "hillcrest": (0.28, 0.26),
    "lakeside": (0.10, 0.24),
}
"""Hospital -> share of all malignant rows, of all benign rows. Hospitals are invented, rows are real."""


def simulate_operators(seed: int = 7, cells: Sequence[int] = DEFAULT_CELLS) -> Columns:
    """Simulate the three operators' cells: see this module's text for what is simulated and why.

    Args:
        seed: of the generator; one seed gives one table.
        cells: rows per operator, in the order of `OPERATORS`; each at least 1.

    Returns:
        `operator` (text), then `FEATURES` (float64, NaN where missing), then `TARGETS`; rows in random
        order.

    Raises:
        DataError: `cells` does not hold one positive number per operator.
    """
    if len(cells) != len(OPERATORS) or min(cells) < 1:
        names = ", ".join(operator.name for operator in OPERATORS)
        raise DataError(f"simulate_operators: cells is {tuple(cells)}; give one row count >= 1 for each of {names}")
    generator = np.random.Generator(np.random.PCG64(seed))
    parts = [_operator_rows(generator, operator, rows) for operator, rows in zip(OPERATORS, cells, strict=True)]
    order = generator.permutation(sum(cells))
    return {name: np.concatenate([part[name] for part in parts])[order] for name in parts[0]}


def telecom_case(table: Mapping[str, npt.NDArray[Any]], target: str) -> Columns:
    """Keep the operator column, all features and one target: the others would give the label away.

    Raises:
        DataError: `target` is none of `TARGETS`.
    """
    if target not in TARGETS:
        raise DataError(f"telecom_case: unknown target {target!r}; choose one of {', '.join(TARGETS)}")
    return {name: table[name] for name in (OPERATOR_COLUMN, *FEATURES, target)}


def breast_cancer_table(seed: int = 7) -> Columns:
    """The Wisconsin diagnostic breast-cancer table (569 rows, 30 features), over three invented hospitals.

    The rows are real (Street, Wolberg & Mangasarian 1993; shipped with scikit-learn); the split is ours:
    malignant and benign rows are shuffled with the seed and dealt out in the shares of `HOSPITALS`, so that
    the large hospital sees many tumours and the small clinic few.

    Returns:
        `hospital` (text), 30 float64 features, `malignant` (int64; 1 = malignant).
    """
    from sklearn.datasets import (
        load_breast_cancer,
    )  # not needed, and slow to import, for the simulated tables

    bunch = load_breast_cancer()
    malignant = (bunch.target == 0).astype(np.int64)
    features = {
        str(name).replace(" ", "_"): bunch.data[:, index].astype(np.float64)
        for index, name in enumerate(bunch.feature_names)
    }
    generator = np.random.Generator(np.random.PCG64(seed))
    return {HOSPITAL_COLUMN: _deal(generator, malignant), **features, BREAST_CANCER_LABEL: malignant}


def write_csv(path: str | Path, columns: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write columns as CSV with a header; missing values are empty fields. Floats read back exactly."""
    texts = [_texts(column) for column in columns.values()]
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*texts, strict=True))


def _texts(column: npt.NDArray[Any]) -> list[str]:
    if column.dtype.kind == "f":
        return ["" if value != value else repr(value) for value in column.tolist()]
    return [str(value) for value in column.tolist()]


def _deal(generator: np.random.Generator, malignant: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """Text array of one hospital per row, in the shares of `HOSPITALS` per class."""
    names = np.array(list(HOSPITALS))
    dealt = np.empty(len(malignant), dtype=names.dtype)
    for label in (0, 1):
        rows = generator.permutation(np.flatnonzero(malignant == label))
        shares = np.array([pair[0] if label else pair[1] for pair in HOSPITALS.values()])
        ends = np.rint(np.cumsum(shares) * len(rows)).astype(np.int64)
        for name, part in zip(names, np.split(rows, ends[:-1]), strict=True):
            dealt[part] = name
    return dealt


def _operator_rows(generator: np.random.Generator, operator: Operator, rows: int) -> Columns:
    """One operator's rows: true state, then labels from the state, then what the equipment reports of it."""
    state = _site_state(generator, operator, rows)
    state |= _sleep_state(generator, operator, state["hour"])
    state |= _traffic_state(generator, state)
    state |= _radio_state(generator, state)
    fault = generator.random(rows) < fault_probability(state)
    dropped = _dropped_calls(generator, state)
    reported = _report(generator, state, rows)
    targets = {"sleeping_cell": state["asleep"].astype(np.int64), "hardware_fault": fault.astype(np.int64)}
    return {
        OPERATOR_COLUMN: np.full(rows, operator.name),
        **reported,
        **targets,
        "dropped_call_rate": dropped,
    }


def _site_state(generator: np.random.Generator, operator: Operator, rows: int) -> dict[str, Floats]:
    """What a site is and how it fares: equipment, place, age, temperature, antenna line, power."""
    hour = np.floor(generator.random(rows) * 24.0)
    urban = (generator.random(rows) < operator.urban_share).astype(np.float64)
    age = operator.site_age_years / 3.0 * generator.standard_gamma(3.0, rows)
    ambient = operator.ambient_c + operator.ambient_spread_c * generator.standard_normal(rows)
    ambient = ambient + 4.0 * np.sin((hour - 9.0) * (np.pi / 12.0))
    # A wet line is worse the older it is; a dry one stays near 1.15 to 1.4.
    wet = generator.random(rows) < operator.wet_lines
    vswr = 1.12 + 0.08 * generator.standard_gamma(2.0, rows)
    vswr = vswr + wet * (0.12 + 0.02 * age) * generator.standard_gamma(2.0, rows)
    hot = (generator.random(rows) < operator.hot_cabinets) * generator.standard_gamma(2.0, rows)
    sag = (generator.random(rows) < operator.poor_mains) * generator.standard_gamma(2.0, rows)
    return {
        "vendor": np.searchsorted(np.cumsum(operator.vendor_shares)[:-1], generator.random(rows), "right") * 1.0,
        "hour": hour,
        "urban": urban,
        "scale": np.full(rows, operator.load),
        "age": age,
        "ambient": ambient,
        "vswr": vswr,
        "blocked": hot,
        "voltage": 54.0 - 1.9 * sag - 0.4 * np.abs(generator.standard_normal(rows)),
        "software_age": 110.0 * generator.standard_gamma(1.5, rows),
        "neighbours": 6.0 + np.floor(generator.standard_gamma(3.0, rows) * (2.0 + 3.0 * urban)),
    }


def _sleep_state(generator: np.random.Generator, operator: Operator, hour: Floats) -> dict[str, Floats]:
    """Which cells sleep, and which only look like it: energy saving at night, outages that raise alarms."""
    draw = generator.random(len(hour))
    edges = np.cumsum([operator.access_faults, operator.silent_faults, operator.partial_faults])
    mode = np.searchsorted(edges, draw, "right") + 1
    look_alike = generator.random(len(hour))
    awake = mode == 4
    night = hour < 6
    return {
        "asleep": (~awake).astype(np.float64),
        "access_fault": (mode == 1).astype(np.float64),
        "silent_fault": (mode == 2).astype(np.float64),
        "partial_fault": (mode == 3).astype(np.float64),
        "energy_saving": (awake & night & (look_alike < 0.12)).astype(np.float64),
        "outage": (awake & (look_alike > 0.99)).astype(np.float64),
    }


def _traffic_state(generator: np.random.Generator, state: Mapping[str, Floats]) -> dict[str, Floats]:
    """Load of the cell: what it should carry at this hour, what it does carry, and its neighbours."""
    rows = len(state["hour"])
    # Busiest at 20 h, quietest before dawn.
    daily = 0.15 + 0.85 * (0.5 + 0.5 * np.cos((state["hour"] - 20.0) * (np.pi / 12.0))) ** 1.5
    size = np.exp(0.75 * generator.standard_normal(rows) + 1.1 * state["urban"])
    expected = 1.6 * state["scale"] * size * daily
    today = expected * np.exp(0.45 * generator.standard_normal(rows))
    # Fraction of the users that still get through, by the reason that keeps the rest away.
    through = np.ones(rows)
    through = np.where(state["access_fault"] == 1, 0.02 + 0.28 * generator.random(rows), through)
    through = np.where(state["silent_fault"] == 1, 0.25 * generator.random(rows) ** 2, through)
    through = np.where(state["partial_fault"] == 1, 0.05 + 0.25 * generator.random(rows), through)
    through = np.where(state["energy_saving"] == 1, 0.01 + 0.15 * generator.random(rows), through)
    through = np.where(state["outage"] == 1, 0.15 * generator.random(rows), through)
    # Neighbours take over a part of what the cell loses.
    taken = 1.0 + 0.35 * (1.0 - through)
    return {
        "traffic": today * through,
        "last_week": expected * np.exp(0.45 * generator.standard_normal(rows)),
        "neighbour_traffic": expected**0.8 * taken * np.exp(0.45 * generator.standard_normal(rows)),
        "wanted": today,
        "through": through,
        "utilisation": 100.0 * (1.0 - np.exp(-today * through / (9.0 + 6.0 * state["urban"]))),
    }


def _radio_state(generator: np.random.Generator, state: Mapping[str, Floats]) -> dict[str, Floats]:
    """Coverage, interference, temperature, handovers and random access."""
    rows = len(state["hour"])
    rsrp = -103.0 + 9.0 * state["urban"] + 6.0 * generator.standard_normal(rows) - 6.0 * (state["vswr"] - 1.3)
    intruder = (generator.random(rows) < 0.06) * 4.0 * generator.standard_gamma(1.5, rows)
    noise_rise = 1.0 + 0.05 * state["utilisation"] + intruder + 0.8 * np.abs(generator.standard_normal(rows))
    cooling_lost = 7.0 * state["blocked"] * (0.5 + 0.008 * state["utilisation"])
    temperature = 38.0 + 0.75 * state["ambient"] + 0.13 * state["utilisation"] + cooling_lost
    missing_neighbours = np.maximum(0.0, 9.0 - state["neighbours"])
    handover_loss = np.exp(
        -4.1
        + 0.12 * missing_neighbours
        + 0.045 * np.maximum(0.0, -100.0 - rsrp)
        + 0.06 * intruder
        + 0.55 * generator.standard_normal(rows)
    )
    access_loss = np.exp(
        -3.6 + 0.10 * intruder + 0.03 * np.maximum(0.0, -100.0 - rsrp) + 0.5 * generator.standard_normal(rows)
    )
    # A broken preamble detector loses most attempts, but not always all that many.
    broken = 0.25 + 0.7 * generator.random(rows)
    return {
        "rsrp": rsrp,
        "intruder": intruder,
        "noise_rise": noise_rise,
        "temperature": temperature + 1.5 * generator.standard_normal(rows),
        "handover_loss": np.minimum(handover_loss, 0.2),
        "access_loss": np.where(state["access_fault"] == 1, broken, np.minimum(access_loss, 0.6)),
    }


def fault_probability(state: Mapping[str, Floats]) -> Floats:
    """Probability that a unit of each cell is replaced within the next week. Shape (rows,), float64.

    Three hazards act independently, on top of a rest that no measurement foretells:

        p = 1 - (1 - p_rest) * prod_k (1 - p_max * sigmoid(s_k))

    with scores s_k in which circumstances meet: the amplifier ages where heat and years meet; the antenna
    line fails where reflected power ((vswr - 1) / (vswr + 1))^2 meets output power; the supply where low
    voltage meets old capacitors, and heat makes that worse.

    Args:
        state: `temperature` (C), `age` (years), `utilisation` (%), `vswr`, `voltage` (V), `ambient` (C).
    """
    heat = np.maximum(0.0, state["temperature"] - 58.0)
    amplifier = -11.0 + 0.30 * heat + 0.08 * heat * np.minimum(state["age"], 15.0) / 3.0
    reflected = ((state["vswr"] - 1.0) / (state["vswr"] + 1.0)) ** 2
    antenna = -11.0 + 120.0 * reflected * (0.45 + 0.011 * state["utilisation"])
    sagging = np.maximum(0.0, 53.0 - state["voltage"])
    supply = -11.0 + sagging * (0.5 + 0.13 * state["age"] + 0.03 * np.maximum(0.0, state["ambient"]))
    survives = np.full(len(heat), 1.0 - 0.0004)
    for score in (amplifier, antenna, supply):
        survives = survives * (1.0 - 0.8 / (1.0 + np.exp(-score)))
    return 1.0 - survives


def _dropped_calls(generator: np.random.Generator, state: Mapping[str, Floats]) -> Floats:
    """Per cent of the surrounding day's calls that dropped: a binomial draw over the day's calls."""
    log_odds = (
        -5.3
        + 0.14 * np.clip(state["noise_rise"] - 4.0, 0.0, 10.0)
        + 0.06 * np.maximum(0.0, -104.0 - state["rsrp"])
        + 6.0 * state["handover_loss"]
        + 0.022 * np.maximum(0.0, state["utilisation"] - 55.0)
        # Weak coverage and interference together are worse than their sum.
        + 0.006 * np.maximum(0.0, -98.0 - state["rsrp"]) * np.clip(state["noise_rise"] - 3.0, 0.0, 10.0)
        + 0.25 * generator.standard_normal(len(state["rsrp"]))
    )
    calls = 300 + np.floor(400.0 * state["wanted"]).astype(np.int64)
    drops = generator.binomial(calls, 1.0 / (1.0 + np.exp(-log_odds)))
    return np.round(100.0 * drops / calls, 3)


def _report(generator: np.random.Generator, state: Mapping[str, Floats], rows: int) -> dict[str, Floats]:
    """What counters and sensors show of the state: vendors' offsets, noise, rounding, lost values."""
    vendor = state["vendor"].astype(np.int64)
    columns = _load_counters(generator, state) | _radio_counters(generator, state, vendor)
    columns |= _sensors(generator, state, vendor)
    columns = {name: np.round(columns[name], _DECIMALS.get(name, 0)) for name in FEATURES}
    file_lost = generator.random(rows) < _COUNTER_FILE_LOST
    for name in _COUNTER_FILE:
        columns[name] = np.where(file_lost, np.nan, columns[name])
    for name in _SENSORS:
        columns[name] = np.where(generator.random(rows) < _SENSOR_LOST, np.nan, columns[name])
    return columns


def _load_counters(generator: np.random.Generator, state: Mapping[str, Floats]) -> dict[str, Floats]:
    rows = len(state["hour"])
    connections = generator.poisson(150.0 * state["traffic"] ** 0.85).astype(np.float64)
    downlink = state["utilisation"] + 2.0 * generator.standard_normal(rows)
    uplink = state["utilisation"] * (0.35 + 0.25 * generator.random(rows)) + 0.8 * state["noise_rise"]
    return {
        "hour_of_day": state["hour"],
        "rrc_connections": connections,
        "prb_utilisation_dl_pct": np.clip(downlink, 0.0, 100.0),
        "prb_utilisation_ul_pct": np.clip(uplink, 0.0, 100.0),
        "traffic_gb": state["traffic"],
        "traffic_last_week_gb": state["last_week"],
        "neighbour_traffic_gb": state["neighbour_traffic"],
    }


def _radio_counters(
    generator: np.random.Generator, state: Mapping[str, Floats], vendor: npt.NDArray[np.int64]
) -> dict[str, Floats]:
    rows = len(vendor)
    repeats = np.array([v.rach_repeats for v in _VENDORS])[vendor]
    # Phones hear a cell that fails at random access and keep trying; they do not hear a silent one.
    audible = np.where(state["access_fault"] == 1, 1.0, np.maximum(state["through"], 0.02))
    tried = generator.poisson(60.0 * repeats * (state["wanted"] * audible) ** 0.85)
    handovers = generator.poisson(35.0 * (1.0 + state["urban"]) * state["traffic"] ** 0.7)
    reports = generator.poisson(40.0 * state["traffic"])
    quality = 9.5 + 0.13 * (state["rsrp"] + 100.0) - 0.02 * state["utilisation"]
    quality = quality + np.array([v.cqi_offset for v in _VENDORS])[vendor] + 0.7 * generator.standard_normal(rows)
    rsrq = -9.0 - 0.05 * state["utilisation"] + 0.08 * (state["rsrp"] + 100.0) + generator.standard_normal(rows)
    return {
        "cqi_mean": np.where(reports > 0, np.clip(quality, 0, 15), np.nan),
        "rsrp_dbm": np.where(reports > 0, state["rsrp"] + 1.5 * generator.standard_normal(rows), np.nan),
        "rsrq_db": np.where(reports > 0, rsrq, np.nan),
        "handover_attempts": handovers * 1.0,
        "handover_success_pct": _success(generator, handovers, state["handover_loss"]),
        "rach_attempts": tried * 1.0,
        "rach_success_pct": _success(generator, tried, state["access_loss"]),
    }


def _success(generator: np.random.Generator, tried: npt.NDArray[np.int64], loss: Floats) -> Floats:
    """Per cent of tries that a binomial draw lets succeed; NaN where nothing was tried."""
    succeeded = generator.binomial(tried, 1.0 - loss)
    return np.where(tried > 0, 100.0 * succeeded / np.maximum(tried, 1), np.nan)


def _sensors(
    generator: np.random.Generator, state: Mapping[str, Floats], vendor: npt.NDArray[np.int64]
) -> dict[str, Floats]:
    rows = len(vendor)

    def by_vendor(values: list[float]) -> Floats:
        return np.array(values)[vendor]

    temperature = state["temperature"] * by_vendor([v.temperature_scale for v in _VENDORS])
    vswr = np.maximum(1.0, state["vswr"] + 0.03 * generator.standard_normal(rows))
    alarms = generator.poisson(by_vendor([v.alarm_rate for v in _VENDORS]) + 0.02 * state["age"])
    alarms = alarms + np.where(state["outage"] == 1, 1 + generator.poisson(1.5, rows), 0)
    return {
        "noise_rise_db": state["noise_rise"] + by_vendor([v.noise_rise_offset_db for v in _VENDORS]),
        "vswr": np.where(by_vendor([float(v.reports_vswr) for v in _VENDORS]) == 1, vswr, np.nan),
        "pa_temperature_c": temperature
        + by_vendor([v.temperature_offset_c for v in _VENDORS])
        + generator.standard_normal(rows),
        "supply_voltage_v": state["voltage"]
        + by_vendor([v.voltage_offset_v for v in _VENDORS])
        + 0.2 * generator.standard_normal(rows),
        "active_alarms": alarms * 1.0,
        "software_age_days": state["software_age"],
        "site_age_years": state["age"],
        "neighbours": state["neighbours"],
    }
