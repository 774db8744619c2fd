"""What people see of a metric of held-out rows that has no value."""

from __future__ import annotations

from hansa.cli import output
from hansa.node.record import AggregatorRecord, Bytes, Seconds
from hansa.roles.run import TreeGrown

WHY = "the held-out rows have one label only"


def record(history, without_value):
    return AggregatorRecord(
        hansa="1",
        member="hub",
        plan="",
        plan_file="",
        mode="federated",
        identity="",
        members="",
        state="finished",
        stage="trained",
        run="",
        trees=2,
        started="",
        ended="",
        error=None,
        roster=(("north", 10, 2),),
        traffic={"north": Bytes(bytes_up=1, bytes_down=2)},
        history=history,
        without_value=without_value,
        seconds=Seconds(binning=0.1, training=0.2),
        model_sha256="0" * 64,
    )


def test_an_aggregators_record_says_which_metric_has_no_value_and_why(capsys):
    output.print_record(record({"auc": (None, None), "logloss": (0.5, 0.25)}, {"auc": WHY}), None)
    shown = capsys.readouterr().out
    assert "logloss on held-out rows: 0.25000 after 2 trees" in shown
    assert "auc on held-out rows:" not in shown
    assert f"auc of the held-out rows has no value: {WHY}. Training does not stop early on it." in shown


def test_a_metric_without_a_value_is_said_once_a_run(caplog):
    with output.telling(False) as tell:
        for trees in range(1, 9):
            metrics = {"auc": None, "error": 0.1}
            tell(TreeGrown(trees=trees, rounds=9, metrics=metrics, without_value={"auc": WHY}))
    warned = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert len(warned) == 1
    assert warned[0].startswith(f"auc of the held-out rows has no value: {WHY}")
