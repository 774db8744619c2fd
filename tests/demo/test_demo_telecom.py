"""The demo's tables: same seed, same bytes; the promised columns, rates and gaps; physics worth pooling."""

import csv
import hashlib

import numpy as np
import pytest

from hansa.demo import telecom
from hansa.errors import DataError


@pytest.fixture(scope="module")
def table():
    return telecom.simulate_operators()


def digest(table):
    """SHA-256 over names and values; NaN has one bit pattern here."""
    state = hashlib.sha256()
    for name, column in table.items():
        state.update(name.encode())
        state.update("\n".join(map(str, column.tolist())).encode())
    return state.hexdigest()


def test_one_seed_gives_one_table():
    cells = (300, 200, 100)
    assert digest(telecom.simulate_operators(3, cells)) == digest(telecom.simulate_operators(3, cells))
    assert digest(telecom.simulate_operators(3, cells)) != digest(telecom.simulate_operators(4, cells))


def test_columns_and_types(table):
    assert list(table) == ["operator", *telecom.FEATURES, *telecom.TARGETS]
    assert 18 <= len(telecom.FEATURES) <= 22
    assert {len(column) for column in table.values()} == {sum(telecom.DEFAULT_CELLS)}
    assert all(table[name].dtype == np.float64 for name in telecom.FEATURES)
    assert table["sleeping_cell"].dtype == table["hardware_fault"].dtype == np.int64


def test_rows_per_operator(table):
    names, counts = np.unique(table["operator"], return_counts=True)
    assert dict(zip(names.tolist(), counts.tolist(), strict=True)) == {
        "aurora": 18_000,
        "borealis": 9_000,
        "cirrus": 5_000,
    }


@pytest.mark.parametrize("seed", [7, 8])
@pytest.mark.parametrize("target", ["sleeping_cell", "hardware_fault"])
def test_events_are_rare_at_every_operator(seed, target):
    table = telecom.simulate_operators(seed)
    for operator in telecom.OPERATORS:
        share = table[target][table["operator"] == operator.name].mean()
        assert 0.006 < share < 0.016, (operator.name, share)


def test_dropped_call_rate_is_a_skewed_percentage(table):
    rate = table["dropped_call_rate"]
    assert np.isfinite(rate).all()
    assert rate.min() >= 0.0
    assert rate.max() <= 100.0
    assert 0.3 < np.median(rate) < rate.mean() < 1.5


def test_no_feature_is_constant_anywhere(table):
    for operator in telecom.OPERATORS:
        mine = table["operator"] == operator.name
        for name in telecom.FEATURES:
            values = table[name][mine]
            assert len(np.unique(values[np.isfinite(values)])) > 1, (operator.name, name)


def test_values_are_possible(table):
    for name in (
        "handover_success_pct",
        "rach_success_pct",
        "prb_utilisation_dl_pct",
        "prb_utilisation_ul_pct",
    ):
        assert np.nanmin(table[name]) >= 0.0
        assert np.nanmax(table[name]) <= 100.0
    assert np.nanmin(table["vswr"]) >= 1.0
    assert set(np.unique(table["hour_of_day"])) == set(range(24))
    for name in ("rrc_connections", "traffic_gb", "handover_attempts", "rach_attempts", "active_alarms"):
        assert np.nanmin(table[name]) >= 0.0
    assert not any(np.isinf(table[name]).any() for name in telecom.FEATURES)


def test_lost_values(table):
    """One vendor has no VSWR, so operators differ; a lost counter file takes all its counters with it."""
    without_vswr = {
        operator.name: np.isnan(table["vswr"][table["operator"] == operator.name]).mean()
        for operator in telecom.OPERATORS
    }
    assert without_vswr["aurora"] < 0.03 < 0.15 < without_vswr["borealis"] < 0.3 < 0.6 < without_vswr["cirrus"] < 0.8
    lost = np.isnan(table["rrc_connections"])
    assert 0.003 < lost.mean() < 0.01
    assert all(np.isnan(table[name][lost]).all() for name in telecom._COUNTER_FILE)
    assert np.isnan(table["cqi_mean"]).mean() > lost.mean()
    assert not np.isnan(table["hour_of_day"]).any()


def test_losing_a_file_tells_nothing_about_the_targets(table):
    lost = np.isnan(table["rrc_connections"])
    for target in ("sleeping_cell", "hardware_fault"):
        expected = table[target].mean() * lost.sum()
        assert table[target][lost].sum() <= expected + 5 * np.sqrt(expected) + 1


def test_sleeping_cells_lack_traffic_but_not_quiet(table):
    """Little traffic beside the week before, no more alarms, and no single feature gives it away."""
    asleep = table["sleeping_cell"] == 1
    ratio = table["traffic_gb"] / table["traffic_last_week_gb"]
    assert np.nanmedian(ratio[asleep]) < 0.3 < 0.7 < np.nanmedian(ratio[~asleep])
    assert table["active_alarms"][asleep].mean() < 1.3 * table["active_alarms"][~asleep].mean() + 0.1
    assert (ratio[~asleep] < np.nanmedian(ratio[asleep])).sum() > asleep.sum() // 2


def test_fault_needs_circumstances_that_meet():
    """Hot and old is worse than either, and so for reflected power and load, low voltage and age."""
    calm = {
        "temperature": 50.0,
        "age": 2.0,
        "utilisation": 10.0,
        "vswr": 1.2,
        "voltage": 53.8,
        "ambient": 10.0,
    }

    def hazard(**changes):
        state = {name: np.array([value]) for name, value in (calm | changes).items()}
        return telecom.fault_probability(state)[0]

    assert hazard() < 0.001
    for first, second in (
        ({"temperature": 72.0}, {"age": 14.0}),
        ({"vswr": 2.0}, {"utilisation": 95.0}),
        ({"voltage": 49.0}, {"age": 14.0}),
    ):
        both = hazard(**first, **second)
        assert both > 2.0 * max(hazard(**first), hazard(**second)) - 1e-12, (first, second)
        assert both < 1.0


@pytest.mark.parametrize("cells", [(1, 2), (1, 2, 0), (1, 2, 3, 4)])
def test_wrong_cells_are_refused(cells):
    with pytest.raises(DataError, match="give one row count >= 1 for each of aurora, borealis, cirrus"):
        telecom.simulate_operators(7, cells)


def test_a_case_holds_one_target_only():
    table = telecom.simulate_operators(7, (50, 40, 30))
    case = telecom.telecom_case(table, "hardware_fault")
    assert list(case) == ["operator", *telecom.FEATURES, "hardware_fault"]
    with pytest.raises(DataError, match="unknown target 'operator'"):
        telecom.telecom_case(table, "operator")


def test_pooling_helps_the_smallest_operator():
    """Real XGBoost, summed over three simulations, so that chance in a few positives does not decide."""
    xgboost = pytest.importorskip("xgboost")
    from sklearn.metrics import roc_auc_score

    parameters = {"max_depth": 6, "eta": 0.1, "objective": "binary:logistic", "nthread": 2, "seed": 1}
    alone, together = [], []
    for seed in (11, 12, 13):
        table = telecom.simulate_operators(seed)
        rows = np.column_stack([table[name] for name in telecom.FEATURES])
        test = np.random.Generator(np.random.PCG64(seed)).random(len(rows)) < 0.25
        small = table["operator"] == "cirrus"
        for target in ("sleeping_cell", "hardware_fault"):
            for kept, scores in ((~test & small, alone), (~test, together)):
                model = xgboost.train(parameters, xgboost.DMatrix(rows[kept], table[target][kept]), 60)
                predicted = model.predict(xgboost.DMatrix(rows[test & small]))
                scores.append(roc_auc_score(table[target][test & small], predicted))
    assert np.mean(together) > np.mean(alone) + 0.005
    assert np.mean(together) < 0.995


def test_breast_cancer_is_the_real_table_dealt_out():
    table = telecom.breast_cancer_table()
    assert len(table) == 32
    assert len(table["malignant"]) == 569
    assert table["malignant"].sum() == 212
    names, counts = np.unique(table["hospital"], return_counts=True)
    assert names.tolist() == ["hillcrest", "lakeside", "riverside"]
    assert counts.sum() == 569
    assert len(set(counts.tolist())) == 3
    for name in names:
        mine = table["malignant"][table["hospital"] == name]
        assert 0 < mine.sum() < len(mine)
    # Malignant tumours are larger: the label is the right way round.
    assert table["mean_radius"][table["malignant"] == 1].mean() > table["mean_radius"][table["malignant"] == 0].mean()
    assert digest(table) == digest(telecom.breast_cancer_table())
    assert digest(table) != digest(telecom.breast_cancer_table(8))


def test_csv_reads_back_exactly(tmp_path):
    table = telecom.simulate_operators(5, (60, 40, 30))
    telecom.write_csv(tmp_path / "cells.csv", table)
    with (tmp_path / "cells.csv").open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == list(table)
    for name, texts in zip(header, zip(*rows, strict=True), strict=True):
        if name == "operator":
            assert list(texts) == table[name].tolist()
        else:
            read = np.array([float(text) if text else np.nan for text in texts])
            np.testing.assert_array_equal(read, table[name])
