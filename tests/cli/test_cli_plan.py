"""A plan is proposed, reviewed, approved, joined and run by commands; what is not approved does not run."""

from __future__ import annotations

import json

import msgspec
import pytest

from hansa.consortium.provenance import Verified
from hansa.node.consent import Changes, Review
from hansa.node.proposals import Listed
from hansa.plan import read_plan
from made_consortium import HUB, PARTIES, Consortium, assert_refused, hansa, write_member, write_table


def propose(consortium: Consortium, name: str = HUB):
    folder = consortium.folder
    keys = ("--members", folder / "members.toml", "--identity", folder / f"{name}.identity")
    made = hansa("plan", "propose", folder / "plan.toml", *keys, "--save", folder / "plan.json")
    assert made.exit_code == 0, made.output
    return folder / "plan.json"


def approve(consortium: Consortium, name: str, *options):
    folder = consortium.folder
    keys = ("--members", folder / "members.toml", "--identity", folder / f"{name}.identity")
    return hansa("plan", "approve", folder / "plan.json", *keys, *options)


def test_a_plan_that_all_approve_runs(consortium: Consortium):
    path = propose(consortium)
    for name in PARTIES:
        done = approve(consortium, name)
        assert done.exit_code == 0, done.output
    assert "all have approved" in done.stdout
    policy = {"approved_plans_only": True}
    own = {"plan": path.name, "policy": policy}
    hub, port = consortium.start_hub(plan=path.name, provenance="hub-provenance.json")
    parties = [consortium.start_party(name, port, provenance=f"{name}-provenance.json", **own) for name in PARTIES]
    assert [party.end()[0] for party in parties] == [0, 0]
    assert hub.end()[0] == 0
    assert len(consortium.models()) == 2
    folder = consortium.folder
    statements = [folder / f"{name}-provenance.json" for name in (HUB, *PARTIES)]
    members = ("--members", folder / "members.toml")
    shown = hansa("verify", consortium.models()[0], *statements, *members)
    assert shown.exit_code == 0, shown.output
    assert f"signed by {', '.join(sorted((HUB, *PARTIES)))}" in shown.stdout
    found = msgspec.json.decode(
        hansa("verify", consortium.models()[0], *statements, *members, "--json").stdout, type=Verified
    )
    assert set(found.vouching) == {HUB, *PARTIES}
    assert found.run == json.loads((folder / f"{HUB}-record.json").read_text())["run"]
    assert_refused(hansa("verify", folder / "plan.toml", *statements, *members), "of another model")


def test_what_is_not_approved_by_all_does_not_run(consortium: Consortium):
    path = propose(consortium)
    assert approve(consortium, PARTIES[0]).exit_code == 0
    member = write_member(consortium.folder, PARTIES[0], 1, plan=path.name)
    assert_refused(hansa("party", member), f"{PARTIES[1]} did not approve this plan")
    member = write_member(consortium.folder, PARTIES[0], 1, policy={"approved_plans_only": True})
    assert_refused(hansa("party", member), "approved_plans_only", "hansa plan propose")
    report = hansa("check", consortium.folder / "plan.toml", "--member", member)
    assert report.exit_code == 1
    assert "NOT MET: a plan without approvals" in report.stdout


def test_a_review_says_who_learns_what_and_what_is_new(consortium: Consortium):
    path, folder = propose(consortium), consortium.folder
    members = ("--members", folder / "members.toml")
    old = folder / "old.toml"
    old.write_text((folder / "plan.toml").read_text().replace("rounds = 3", "rounds = 2"))
    own = write_member(folder, PARTIES[0], 1, policy={"most_rounds": 2})
    shown = hansa("plan", "review", path, *members, "--member", own, "--last", old)
    assert shown.exit_code == 0, shown.output
    assert "NOT YET" in shown.stdout
    assert "parameters.rounds: 2 -> 3" in shown.stdout
    assert "NOT MET: rounds 3 (allowed: at most 2) (most_rounds)" in shown.stdout
    found = msgspec.json.decode(
        hansa("plan", "review", path, *members, "--member", own, "--last", old, "--json").stdout, type=Review
    )
    assert {own.member: own.approved for own in found.approvals} == {HUB: True} | dict.fromkeys(PARTIES, False)
    assert [change.key for change in found.changes] == ["parameters.rounds"]
    assert_refused(approve(consortium, PARTIES[0], "--member", own), "does not allow this plan", "most_rounds")
    assert json.loads(path.read_text())["signatures"].__len__() == 1
    differs = hansa("plan", "diff", old, path, "--json")
    assert differs.exit_code == 1
    assert msgspec.json.decode(differs.stdout, type=Changes).changes == found.changes
    assert hansa("plan", "diff", path, folder / "plan.toml").exit_code == 0


def test_copies_are_joined_and_a_rejection_is_written(consortium: Consortium):
    path, folder = propose(consortium), consortium.folder
    copies = [folder / f"{name}.json" for name in PARTIES]
    for name, copy in zip(PARTIES, copies, strict=True):
        assert approve(consortium, name, "--save", copy).exit_code == 0
    members = ("--members", folder / "members.toml")
    done = hansa("plan", "join", *copies, *members, "--save", folder / "all.json")
    assert "all have approved" in done.stdout
    keys = (*members, "--identity", folder / f"{PARTIES[0]}.identity")
    no = hansa("plan", "reject", path, *keys, "--reason", "too fine", "--save", folder / "no.json")
    assert no.exit_code == 0
    shown = hansa("plan", "review", path, *members, "--rejection", folder / "no.json")
    assert f"Rejected by {PARTIES[0]}" in shown.stdout
    assert "too fine" in shown.stdout
    assert_refused(hansa("plan", "join", folder / "no.json", *members, "--save", folder / "x.json"), "another kind")


@pytest.mark.parametrize("name", ["members.toml", "plan.toml"])
def test_files_that_are_read_are_not_written(consortium: Consortium, name):
    folder = consortium.folder
    keys = ("--members", folder / "members.toml", "--identity", folder / f"{HUB}.identity")
    assert_refused(hansa("plan", "propose", folder / "plan.toml", *keys, "--save", folder / name), "--save")


def test_an_approval_that_was_taken_back_keeps_the_plan_from_running(consortium: Consortium):
    path, folder = propose(consortium), consortium.folder
    keys = ("--members", folder / "members.toml", "--identity", folder / f"{PARTIES[1]}.identity")
    why = ("--reason", "the contract ended", "--save", folder / "back.json")
    assert_refused(hansa("plan", "withdraw", path, *keys, *why), "has not approved this proposal", "hansa plan reject")
    for name in PARTIES:
        assert approve(consortium, name).exit_code == 0
    done = hansa("plan", "withdraw", path, *keys, *why)
    assert done.exit_code == 0, done.output
    assert "do not start the run" in done.stdout
    (folder / "withdrawn").mkdir()
    own = {"plan": path.name, "withdrawals": "withdrawn"}
    (folder / "withdrawn" / "other.json").write_bytes(path.read_bytes())  # another kind of statement
    (folder / "back.json").rename(folder / "withdrawn" / "back.json")
    for name in (HUB, *PARTIES):
        role = "aggregator" if name == HUB else "party"
        refused = hansa(role, write_member(folder, name, 1, **own))
        assert_refused(refused, "'borealis' took its approval back (the contract ended)", "propose the plan anew")
    # It is of this proposal alone: the same plan, proposed anew, is another one.
    propose(consortium)
    refused = hansa("party", write_member(folder, PARTIES[0], 1, **own))
    assert_refused(refused, "did not approve this plan")
    assert_refused(
        hansa("party", write_member(folder, PARTIES[0], 1, plan=path.name, withdrawals="none")), "did not approve"
    )
    for name in PARTIES:
        assert approve(consortium, name).exit_code == 0
    assert_refused(
        hansa("party", write_member(folder, PARTIES[0], 1, plan=path.name, withdrawals="none")), "cannot be read"
    )
    forged = json.loads((folder / "withdrawn" / "back.json").read_text())
    forged["signatures"][0]["sig"] = "AA" + forged["signatures"][0]["sig"][2:]
    (folder / "withdrawn" / "back.json").write_text(json.dumps(forged))
    # What cannot be read may have been one: it is not passed over.
    damaged = folder / "withdrawn" / "damaged.json"
    damaged.write_bytes(b'{"payload": "cut')
    refusing = write_member(folder, PARTIES[0], 1, plan=path.name, withdrawals="withdrawn")
    assert_refused(hansa("party", refusing), "damaged.json: is no member's statement")
    damaged.unlink()
    hub = hansa("aggregator", write_member(folder, HUB, 1, plan=path.name, withdrawals="withdrawn", wait_s=0.01))
    assert "took its approval back" not in hub.output  # of the earlier proposal, so it is passed over


def test_proposals_in_a_folder_are_listed(consortium: Consortium):
    folder = consortium.folder
    members = ("--members", folder / "members.toml")
    assert "no proposals" in hansa("plan", "list", folder, *members).stdout
    path = propose(consortium)
    assert approve(consortium, PARTIES[0], "--save", folder / "copy.json").exit_code == 0
    (folder / "noise.json").write_text("[1]")
    shown = hansa("plan", "list", folder, *members)
    assert "copy.json, plan.json: test, mode federated" in shown.stdout
    assert ": open" in shown.stdout
    assert "not by borealis" in shown.stdout
    keys = (*members, "--identity", folder / f"{PARTIES[1]}.identity")
    assert hansa("plan", "reject", path, *keys, "--reason", "x", "--save", folder / "no.json").exit_code == 0
    found = msgspec.json.decode(hansa("plan", "list", folder, *members, "--json").stdout, type=Listed)
    (own,) = found.proposals
    assert (own.state, own.rejected, own.approved, own.missing) == (
        "rejected",
        ("borealis",),
        ("aurora", "hub"),
        ("borealis",),
    )
    forged = json.loads(path.read_text())
    forged["signatures"][0]["sig"] = "AA" + forged["signatures"][0]["sig"][2:]
    (folder / "forged.json").write_text(json.dumps(forged))
    shown = hansa("plan", "list", folder, *members).stdout
    assert "REFUSED" in shown
    assert "forged.json" in shown


@pytest.mark.parametrize("mode", ["federated", "secure-aggregation", "coopetitive"])
def test_a_new_plan_is_made_of_members_and_columns(consortium: Consortium, mode):
    folder = consortium.folder
    tables = [folder / f"{name}.csv" for name in PARTIES]
    options = (
        "--members",
        folder / "members.toml",
        "--label",
        "fault",
        "--mode",
        mode,
        "--hub",
        HUB,
        "--save",
        folder / "new.toml",
    )
    servers = ("--servers", "hub,aurora,borealis", "--parties", "aurora,borealis") if mode == "coopetitive" else ()
    done = hansa("plan", "new", "faults", *tables, *options, *servers)
    assert done.exit_code == 0, done.output
    made = read_plan(folder / "new.toml")
    assert (made.name, made.mode, made.parties, made.receivers) == ("faults", mode, PARTIES, PARTIES)
    assert made.schema.features == ("load", "rsrp", "alarms")
    assert "# have rows" in (folder / "new.toml").read_text()
    assert_refused(hansa("plan", "new", "faults", *tables, *options, *servers), "is there already")


def test_a_new_plan_names_members_only(consortium: Consortium):
    folder = consortium.folder
    given = (
        folder / "aurora.csv",
        "--members",
        folder / "members.toml",
        "--label",
        "fault",
        "--save",
        folder / "new.toml",
    )
    assert_refused(hansa("plan", "new", "faults", *given), "needs --hub, the aggregator", "aurora, borealis, hub")
    assert_refused(hansa("plan", "new", "faults", *given, "--hub", "dune"), "--hub names 'dune', who is no member")
    assert_refused(hansa("plan", "new", "faults", *given, "--mode", "coopetitive"), "needs --hub and --servers")
    assert_refused(hansa("plan", "new", "faults", *given, "--hub", HUB, "--servers", "a,b,c"), "--servers is for mode")
    assert not (folder / "new.toml").exists()
    classes = write_table(folder / "texts.csv", {"load": [1, 2, 3], "kind": ["a", "b", "c"]})
    options = ("--members", folder / "members.toml", "--label", "kind", "--hub", HUB, "--save", folder / "new.toml")
    softprob = ("--objective", "multi:softprob", "--mode", "federated")
    assert hansa("plan", "new", "kinds", classes, *options, *softprob).exit_code == 0
    assert read_plan(folder / "new.toml").parameters.num_class == 3


@pytest.mark.parametrize(
    ("label", "objective", "classes"),
    [
        (["no", "yes", "no", "yes"], "binary:logistic", 2),
        (["no", "", "no", "no"], None, "expected two or more different texts, found ['no']"),
        (["down", "sleeping", "fine", "down"], "multi:softprob", 3),
        ([0, 1, 1, 0], "binary:logistic", 2),
        (["true", "false", "", "true"], "binary:logistic", 2),
        ([0, 1, 2, 1], "multi:softprob", 3),
        ([0, 1, 3, 1], "reg:squarederror", 0),
        ([-1, 1, 1, 0], "reg:squarederror", 0),
        ([0.5, 1, 1, 0], "reg:squarederror", 0),
        (list(range(12)), "reg:squarederror", 0),
        (["$5", "$6", "$7", "$8"], None, "label 'y' cannot be learnt as it is: not read"),
    ],
)
def test_the_objective_of_a_new_plan_is_what_the_label_looks_like(consortium: Consortium, label, objective, classes):
    folder = consortium.folder
    table = write_table(folder / "t.csv", {"load": list(range(len(label))), "y": label})
    made = hansa(
        "plan", "new", "own", table, "--label", "y", "--members", folder / "members.toml", "--hub", HUB,
        "--mode", "federated", "--save", folder / "new.toml",
    )  # fmt: skip
    if objective is None:
        assert_refused(made, str(classes))
        return
    assert made.exit_code == 0, made.output
    parameters = read_plan(folder / "new.toml").parameters
    assert parameters.objective == objective
    assert f"the objective is {objective}" in made.stdout
    assert parameters.num_class == (classes if objective.startswith("multi") else 0)


def test_what_is_told_of_a_new_plan_quotes_no_cell(consortium: Consortium):
    """The console keeps these sentences, and shows them."""
    folder = consortium.folder
    cells = {"region": ["Nord", "nord "] * 20, "amount": ["$1.50"] * 40, "y": [0, 1] * 20}
    made = hansa(
        "plan", "new", "own", write_table(folder / "t.csv", cells), "--label", "y", "--members", folder / "members.toml",
        "--hub", HUB, "--mode", "federated", "--union", "--save", folder / "new.toml",
    )  # fmt: skip
    assert made.exit_code == 0, made.output
    assert "'region': some of its texts differ by spaces or capitals only" in made.stdout
    assert "'amount' is ignored: not read" in made.stdout
    for text in ("Nord", "nord", "1.50"):
        assert text not in made.stdout


CUSTOMERS = 90
TEXTS = {
    name: ["Yes", "No", "No internet service"] for name in ("Security", "Backup", "Support", "TV", "Movies", "Phone")
}
"""A table of the form of the telecom churn tables that are public: texts, blanks in a column of numbers, an id."""


def churn(seed: int, *, answer: bool = True) -> dict[str, list[object]]:
    rows = range(CUSTOMERS)
    return {
        "customerID": [f"{seed}{row:03d}-ABC" for row in rows],
        "SeniorCitizen": [row % 7 == 0 for row in rows],
        **{name: [texts[(row * place + seed) % 3] for row in rows] for place, (name, texts) in enumerate(TEXTS.items(), 1)},
        "Contract": [("Month-to-month", "One year", "Two year")[row // 3 % 3] for row in rows],
        "TotalCharges": [" " if row % 11 == 0 else 20.5 + row for row in rows],
        **({"Churn": ["Yes" if row // 3 % 3 == 0 and row % 5 else "No" for row in rows]} if answer else {}),
    }  # fmt: skip


@pytest.mark.parametrize(("mode", "union"), [("federated", True), ("federated", False), ("secure-aggregation", False)])
def test_from_a_table_of_texts_to_predictions_with_a_plan_of_few_lines_that_nobody_edits(consortium, mode, union):
    folder = consortium.folder
    tables = {name: write_table(folder / f"{name}.csv", churn(seed)) for seed, name in enumerate(PARTIES)}
    (folder / "plan.toml").unlink()
    made = hansa(
        "plan", "new", "churn", *([] if union else tables.values()), *([tables[PARTIES[0]]] if union else []),
        "--label", "Churn", "--members", folder / "members.toml", "--hub", HUB, "--mode", mode, "--rounds", 5,
        *(["--union"] if union else []), "--save", folder / "plan.toml",
    )  # fmt: skip
    assert made.exit_code == 0, made.output
    assert "'customerID' is ignored: texts, all different: it looks like an id" in made.stdout
    lines = [line for line in (folder / "plan.toml").read_text().splitlines() if line]
    texts = len(TEXTS) + 1
    assert len(lines) <= 20 + (0 if union else 1 + texts)
    assert max(map(len, lines)) <= 140
    plan = read_plan(folder / "plan.toml")
    assert plan.schema.union == ((*TEXTS, "Contract") if union else ())
    assert plan.schema.ignore == ("customerID",)
    for table in tables.values():
        assert hansa("check", folder / "plan.toml", table).exit_code == 0
    if mode != "federated":
        return
    hub, port = consortium.start_hub()
    parties = [consortium.start_party(name, port) for name in PARTIES]
    assert [party.end()[0] for party in (*parties, hub)] == [0, 0, 0]
    new, scores = write_table(folder / "new.csv", churn(7, answer=False)), folder / "scores.csv"
    scored = hansa("predict", consortium.models()[0], new, "--keep", "customerID", "--save", scores)
    assert scored.exit_code == 0, scored.output
    rows = [line.split(",") for line in scores.read_text().splitlines()[1:]]
    assert [row[0] for row in rows] == churn(7)["customerID"]
    assert all(0 < float(row[-1]) < 1 for row in rows)
