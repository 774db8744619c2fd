"""`hansa plan` and `hansa check` tell the truth of the mode, in the words of SECURITY.md."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from declared_keys import PLAN_KEYS
from hansa.exposure import EXPOSURE, RESIDUALS, SIDE_BY_SIDE, STATISTICS, VERIFIED, exposure, openings_under
from hansa.mpc.openings import OPENINGS
from hansa.node.plan_report import defaults
from hansa.plan import DEFAULT_VERIFY_COUNTS, MODES, VERIFY_COUNTS, Plan, parse_plan
from made_consortium import PARTIES, PLAN, Consortium, assert_refused, hansa, write_member

ROOT = Path(__file__).parents[2]
MASKED = PLAN.replace('mode = "federated"', 'mode = "secure-aggregation"\nname = "x"').replace('name = "test"\n', "")
SHARED = """
mode = "coopetitive"
[members]
hub = "hub"
servers = ["aurora", "borealis", "hub"]
parties = ["aurora", "borealis"]
receivers = ["aurora"]
[schema]
features = ["load", "rsrp", "alarms"]
label = "fault"
"""
PLANS = {"federated": PLAN, "secure-aggregation": MASKED, "coopetitive": SHARED}


VERIFIED_ALSO = {when: (sentence,) for when, sentence in VERIFIED.items()}
REFITTED_ALSO = {f"refitted, {mode}": (sentence,) for mode, sentence in RESIDUALS.items()}


def words(text: str) -> str:
    return " ".join(re.sub(r"[*`]", "", text).split())


def test_security_says_of_every_mode_what_the_commands_say():
    security = words((ROOT / "SECURITY.md").read_text(encoding="utf-8"))
    assert set(EXPOSURE) == set(MODES)
    for mode, sentences in (EXPOSURE | VERIFIED_ALSO | REFITTED_ALSO).items():
        for sentence in sentences:
            assert words(sentence) in security, (mode, sentence)


def test_the_page_of_the_demo_says_the_same():
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    from hansa.demo.report import GUARANTEE

    assert set(GUARANTEE) == set(EXPOSURE)
    for mode, sentences in EXPOSURE.items():
        assert GUARANTEE[mode].startswith(" ".join(sentences))
    assert GUARANTEE["secure-aggregation"].endswith(VERIFIED[DEFAULT_VERIFY_COUNTS])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("command", [("plan", "show"), ("check",)], ids=" ".join)
def test_commands_say_who_can_read_what_in_this_mode_only(consortium: Consortium, mode, command):
    path = consortium.folder / "plan.toml"
    path.write_text(PLANS[mode])
    arguments = [path] if command[0] == "plan" else [path, consortium.folder / "aurora.csv"]
    shown = hansa(*command, *arguments)
    assert shown.exit_code == 0, shown.output
    lines = [line.strip() for line in shown.stdout.splitlines()]
    plan = parse_plan(PLANS[mode])
    for other, sentences in (EXPOSURE | VERIFIED_ALSO | REFITTED_ALSO).items():
        for sentence in sentences:
            assert (sentence in lines) == (sentence in exposure(plan)), (other, sentence)
    assert f"The model file goes to: {', '.join(plan.receivers)}." in lines
    assert plan.digest().hex() in shown.stdout
    for opening in openings_under(plan):
        assert f"to {opening.to}: {opening.what}" in lines
    report = json.loads(hansa(*command, *arguments, "--json").stdout)
    assert report["exposure"] == list(exposure(plan))
    assert report["receivers"] == list(plan.receivers)
    assert report["plan"] == plan.digest().hex()
    assert len(report["openings"]) == len(openings_under(plan))


@pytest.mark.parametrize(("parties", "said"), [(63, False), (64, True)])
def test_a_plan_of_many_parties_says_how_many_may_work_with_the_aggregator(parties, said):
    plan = replace(
        parse_plan(PLANS["secure-aggregation"]),
        parties=tuple(f"party-{n:02}" for n in range(parties)),
        receivers=("hub",),
    )
    sentence = "Each of the 64 parties masks its sums with 22 others that chance draws."
    assert any(line.startswith(sentence) and "a third" in line for line in exposure(plan)) == said
    assert exposure(replace(plan, mode="federated"))[: len(EXPOSURE["federated"])] == EXPOSURE["federated"]


@pytest.mark.parametrize("mode", sorted(RESIDUALS))
def test_a_plan_whose_leaves_are_refitted_says_what_that_shows(consortium: Consortium, mode):
    path = consortium.folder / "plan.toml"
    path.write_text(PLANS[mode].replace("binary:logistic", "reg:absoluteerror"))
    lines = [line.strip() for line in hansa("plan", "show", path).stdout.splitlines()]
    assert {name for name, sentence in RESIDUALS.items() if sentence in lines} == {mode}


@pytest.mark.parametrize("when", VERIFY_COUNTS)
def test_a_plan_says_what_an_aggregator_that_lies_can_do(consortium: Consortium, when):
    path = consortium.folder / "plan.toml"
    path.write_text(MASKED.replace("[privacy]", f'[privacy]\nverify_counts = "{when}"'))
    lines = [line.strip() for line in hansa("plan", "show", path).stdout.splitlines()]
    assert [sentence in lines for sentence in VERIFIED.values()] == [other == when for other in VERIFIED]


@pytest.mark.parametrize("when", VERIFY_COUNTS)
@pytest.mark.parametrize("trees", [1, 3])
def test_a_plan_with_several_trees_a_round_says_that_a_liar_gets_those_of_a_round(when, trees):
    given = MASKED.replace("[privacy]", f'[privacy]\nverify_counts = "{when}"')
    plan = parse_plan(given.replace("[parameters]", f"[parameters]\nnum_parallel_tree = {trees}"))
    assert plan.parameters.num_parallel_tree == trees
    assert (SIDE_BY_SIDE in exposure(plan)) is (trees > 1 and when in ("tree", "after"))


def test_a_plan_is_shown_with_every_key_and_its_defaults(consortium: Consortium):
    path = consortium.folder / "plan.toml"
    shown = hansa("plan", "show", path).stdout
    rows = {line.split()[0]: line for line in shown.splitlines() if line.startswith("  ") and "." in line.split()[0]}
    assert rows["parameters.eta"].endswith("(default)")
    assert not rows["parameters.max_depth"].endswith("(default)")
    assert rows["parameters.max_depth"].split()[1] == "2"
    assert rows["schema.features"].split(None, 1)[1] == "3: load, rsrp, alarms"
    report = json.loads(hansa("plan", "show", path, "--json").stdout)
    assert report["values"]["parameters.max_depth"] == 2
    assert "parameters.eta" in report["defaults"]
    assert "parameters.max_depth" not in report["defaults"]
    assert report["features"] == ["load", "rsrp", "alarms"]


@pytest.mark.parametrize("text", PLANS.values(), ids=PLANS)
def test_every_key_of_a_plan_file_stands_in_by_key_and_what_is_left_out_is_a_default(text):
    plan = parse_plan(text)
    values = plan.by_key()
    keys = {f"{table}.{key}" if table else key for table, names in PLAN_KEYS.items() for key in names}
    keys -= {*PLAN_KEYS, "parameters"}
    assert {key for key in values if not key.startswith("parameters.")} <= keys
    if plan.coopetitive is not None:
        elsewhere = {
            "members.aggregator",
            "members.collectors",
            *(key for key in keys if key.startswith(("custom_objective.", "custom_metric.", "search."))),
        }
        assert {key for key in values if not key.startswith("parameters.")} == keys - elsewhere
    given = {"members.receivers", "parameters.rounds", "parameters.max_depth", "parameters.max_bin"}
    for key, value in defaults(plan).items():
        if key in values and key not in given | {"name", "privacy.min_cell_rows"}:
            assert values[key] == value, key


def variants() -> list[Plan]:
    """Coopetitive plans that differ from the first in one thing each."""
    plan = parse_plan(SHARED)
    assert plan.coopetitive is not None
    return [
        plan,
        replace(plan, coopetitive=replace(plan.coopetitive, cuts=((1.0,), (1.0,), (1.0,)))),
        replace(plan, coopetitive=replace(plan.coopetitive, statistics=True)),
        replace(plan, parameters=replace(plan.parameters, base_score=0.25)),
        replace(plan, evaluation_fraction=0.25),
        replace(plan, evaluation_fraction=0.25, parameters=replace(plan.parameters, early_stopping_rounds=3)),
        replace(plan, evaluation_fraction=0.25, parameters=replace(plan.parameters, eval_metric=("auc",))),
        replace(
            plan,
            parameters=replace(plan.parameters, objective="reg:squarederror"),
            coopetitive=replace(plan.coopetitive, label_range=(0.0, 1.0)),
        ),
        replace(plan, evaluation_fraction=0.25, release=replace(plan.release, metric="logloss", at_most=0.5)),
    ]


def test_openings_are_those_of_the_plan():
    shown = [{(o.module, o.function) for o in openings_under(plan)} for plan in variants()]
    first = shown[0]
    assert first - shown[1] == {("quantile_search", "_open_path"), ("quantile_search", "_open_gaps")}
    assert shown[2] - first == {("release", "_open_covers")}
    assert first - shown[3] == {("base_score", "pooled_sums")}
    assert shown[4] - first == {("evaluation", "open_metric")}
    assert shown[5] - shown[4] == {("evaluation", "improved")}
    assert shown[6] - shown[4] == {("evaluation", "has_value")}
    assert shown[7] - first == {("base_score", "spread_exponent")}
    assert shown[8] - first == {("evaluation", "reached")}
    assert not first - shown[8]
    assert set().union(*shown) == {(o.module, o.function) for o in OPENINGS if not o.masked}
    assert openings_under(parse_plan(PLAN)) == ()


def test_check_says_which_conditions_of_the_partys_own_file_are_met(consortium: Consortium):
    folder = consortium.folder
    (folder / "plan.toml").write_text(MASKED)
    plan, table = folder / "plan.toml", folder / "aurora.csv"
    member = write_member(folder, "aurora", 1, ledger="ledger.jsonl", policy={"allow_two_parties": True})
    shown = hansa("check", plan, table, "--member", member)
    assert shown.exit_code == 0, shown.output
    assert shown.stdout.count("  met: ") == 4  # this member, and three rules of the policy
    assert not (folder / "ledger.jsonl").exists(), "a check writes nothing"
    strict = write_member(folder, "aurora", 1, ledger="ledger.jsonl", policy={"least_mode": "coopetitive"})
    refused = hansa("check", plan, table, "--member", strict)
    assert refused.exit_code == 1
    unmet = [line for line in refused.stdout.splitlines() if line.startswith("  NOT MET: ")]
    assert len(unmet) == 2
    assert "least_mode" in unmet[0]
    assert "allow_two_parties" in unmet[1]
    report = json.loads(hansa("check", plan, table, "--member", strict, "--json").stdout)
    assert [rule["key"] for rule in report["rules"] if not rule["met"]] == ["least_mode", "allow_two_parties"]
    assert report["ok"] is False


def test_check_notices_another_plan_in_the_partys_own_file(consortium: Consortium):
    folder = consortium.folder
    member = write_member(folder, "aurora", 1)
    (folder / "other.toml").write_text(PLAN.replace("rounds = 3", "rounds = 4"))
    digests = [parse_plan(text).digest().hex() for text in (PLAN, PLAN.replace("rounds = 3", "rounds = 4"))]
    assert_refused(
        hansa("check", folder / "other.toml", folder / "aurora.csv", "--member", member), "plan.toml", *digests
    )


def test_check_says_who_is_no_party(consortium: Consortium):
    folder = consortium.folder
    member = write_member(folder, "aurora", 1, identity="hub.identity", model=None)
    shown = hansa("check", folder / "plan.toml", folder / "aurora.csv", "--member", member)
    assert shown.exit_code == 1
    assert f"NOT MET: 'hub' is to be one of the plan's parties {', '.join(PARTIES)}" in shown.stdout


@pytest.mark.parametrize(
    ("mode", "more", "sentences"),
    [
        ("federated", "", ("holds cover and gain", "keep all their bits")),
        ("federated", "[release]\nstatistics = false", ("holds no cover", "keep all their bits")),
        ("federated", "[release]\nstatistics = false\nleast_choices = 50", ("holds no cover", "at least 50 choices")),
        ("secure-aggregation", "[release]\nleaf_bits = 9", ("holds cover and gain", "rounded to 9 fraction bits")),
        ("coopetitive", "", ("holds no cover", "at least 1,000 choices")),
        ("coopetitive", "[release]\nstatistics = true", ("holds cover and gain", "keep 14 fraction bits")),
        ("coopetitive", "[release]\nleast_choices = 0", ("holds no cover", "keep 14 fraction bits")),
    ],
)
@pytest.mark.parametrize("command", [("plan", "show"), ("check",)], ids=" ".join)
def test_commands_say_what_the_model_tells_of_leaves(consortium: Consortium, mode, more, sentences, command):
    path = consortium.folder / "plan.toml"
    path.write_text(PLANS[mode] + more)
    arguments = [path] if command[0] == "plan" else [path, consortium.folder / "aurora.csv"]
    shown = hansa(*command, *arguments)
    assert shown.exit_code == 0, shown.output
    told = json.loads(hansa(*command, *arguments, "--json").stdout)["release"]
    assert len(told) == len(sentences)
    for line, fragment in zip(told, sentences, strict=True):
        assert fragment in line
        assert f"  {line}\n" in shown.stdout


def test_a_party_of_few_rows_is_told_of_a_start_value_in_the_plan(consortium: Consortium):
    plan, table = consortium.folder / "plan.toml", consortium.folder / "aurora.csv"
    shown = hansa("check", plan, table)
    assert shown.exit_code == 0, "it is a note, no refusal"
    assert "Note: with " in shown.stdout
    assert "parameters.base_score" in shown.stdout
    assert len(json.loads(hansa("check", plan, table, "--json").stdout)["notes"]) == 1
    plan.write_text(PLAN + "base_score = 0.3\n")
    assert json.loads(hansa("check", plan, table, "--json").stdout)["notes"] == []


def test_security_says_what_the_commands_say_of_statistics():
    security = words((ROOT / "SECURITY.md").read_text(encoding="utf-8"))
    for sentence in STATISTICS.values():
        assert words(sentence) in security


def test_a_plan_of_folds_says_that_all_happens_once_a_fold_and_no_file_is_made(consortium: Consortium):
    path = consortium.folder / "plan.toml"
    path.write_text(PLAN + "[evaluation]\nfolds = 4\n")
    shown = hansa("plan", "show", path).stdout
    assert "all this happens 4 times, once a fold" in shown
    assert "sums over the pooled rows of the two folds" in shown
    assert "The model file goes to: nobody." in shown
    assert "No model file is made" in shown
    assert "cover and gain" not in shown


def test_a_plan_says_whose_functions_run_on_the_rows(consortium: Consortium):
    path = consortium.folder / "plan.toml"
    metric = f'[custom_metric]\nsha256 = "{"ab" * 32}"\nbound = 1.0\n[evaluation]\nfraction = 0.2\n'
    path.write_text(PLAN + metric)
    assert f"The custom metric {'ab' * 8}... runs in every party's own process" in hansa("plan", "show", path).stdout
