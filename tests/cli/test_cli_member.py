"""`hansa aggregator` and `hansa party`: members' own files, runs by hand, and members that vanish or do not belong."""

from __future__ import annotations

import hashlib
import json
import socket
import sys
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest

from cutting_line import Cut, CuttingLine
from hansa.consortium.identity import (
    CERTIFICATE_FILE,
    IDENTITY_KEY_FILE,
    TLS_KEY_FILE,
    create_identity,
    load_identity,
    save_identity,
)
from hansa.consortium.members import members_of, read_members, write_members
from hansa.node import config
from hansa.protocol.messages import decode
from hansa.transport import tcp, tls, tls_handshakes
from hansa.transport.recording import read_transcript
from hansa.trees.xgboost_json import from_json
from http_proxy import HttpProxy
from made_consortium import (
    ABORTING,
    AGAIN,
    HUB,
    PARTIES,
    PLAN,
    Consortium,
    assert_refused,
    cells,
    hansa,
    logged,
    refused,
    write_member,
    write_table,
)
from waiting import HANG_S

ENDLESS = ABORTING.replace("rounds = 3", "rounds = 100000")


def test_a_run_by_hand_with_a_rejected_peer_at_the_door(consortium: Consortium):
    """The stranger is refused and told so; the run goes on, everybody writes model, record and transcript."""
    folder = consortium.folder
    hub, port = consortium.start_hub(transcript="frames", model="hub-model.json")
    rejected_peer = create_identity(PARTIES[1])
    save_identity(rejected_peer, folder / "stranger.identity")
    known = read_members(folder / "members.toml")
    write_members(folder / "strange.toml", members_of([known[HUB], known[PARTIES[0]], rejected_peer.card()]))
    intruder = consortium.start(
        "party",
        write_member(folder, PARTIES[1], port, members="strange.toml", identity="stranger.identity"),
    )
    refused(intruder.end(), "member 'hub'", "does not know this member's certificate", "members file")
    assert not consortium.models()

    parties = {name: consortium.start_party(name, port, transcript="frames") for name in PARTIES}
    for name, party in parties.items():
        status, out, err = party.end()
        assert (status, logged(err, "WARNING", "ERROR")) == (0, []), (name, err)
        assert "all members have joined; the run begins" in logged(err)
        assert logged(err)[-1] == "training is over after 3 of at most 3 rounds"
        assert "rows stayed here" in out
    record = hub.event("record")["record"]
    status, _, err = hub.end()
    assert status == 0
    assert [line.split(":")[0] for line in logged(err, "WARNING", "ERROR")] == ["rejected peer 1, at 127.0.0.1"]

    assert [path.name for path in consortium.models()] == [f"{name}-model.json" for name in PARTIES]
    models = {path.read_bytes() for path in consortium.models()}
    assert len(models) == 1
    assert hashlib.sha256(models.pop()).hexdigest() == record["model_sha256"]
    assert record == json.loads((folder / "hub-record.json").read_text())
    assert [row[:2] for row in record["roster"]] == [[PARTIES[0], 60], [PARTIES[1], 80]]
    for name in PARTIES:
        own = json.loads((folder / f"{name}-record.json").read_text())
        assert own["plan"] == record["plan"]
        assert own["bytes_up"] == record["traffic"][name]["bytes_up"]
        assert own["bytes_down"] == record["traffic"][name]["bytes_down"]
    frames = {path.stem: list(read_transcript(path)) for path in (folder / "frames").iterdir()}
    assert set(frames) == {HUB, *PARTIES}
    assert all(decode(r.member, r.frame) for records in frames.values() for r in records)
    assert len(frames[HUB]) == sum(len(frames[name]) for name in PARTIES)


RULES = """
unseen = "error"
dates = { opened = "days", opened_month = "month of opened" }
"""


@pytest.mark.slow
def test_a_run_by_rules_that_the_plan_names(consortium: Consortium):
    """Raw dates at every party and at prediction; levels that the plan does not list are refused there, unless somebody asks."""
    folder = consortium.folder
    plan = PLAN.replace('"alarms"]', '"alarms", "opened", "opened_month"]').replace('"fault"\n', '"fault"' + RULES)
    (folder / "plan.toml").write_text(plan + "[categories]\nalarms = [0, 1, 2, 3]\n")
    for seed, name in enumerate(PARTIES):
        days = [f"2024-{1 + row % 12:02}-{1 + row % 28:02}" for row in range(60 + 20 * seed)]
        write_table(folder / f"{name}.csv", {"opened": days, **cells(60 + 20 * seed, seed)})
    shown = hansa("plan", "show", folder / "plan.toml").stdout
    assert "opened: days" in shown
    assert "schema.unseen                      error" in shown
    hub, port = consortium.start_hub()
    parties = [consortium.start_party(name, port) for name in PARTIES]
    assert [party.end()[0] for party in (*parties, hub)] == [0, 0, 0]
    model, table, out = folder / "aurora-model.json", folder / "new.csv", folder / "scores.csv"
    write_table(table, {"opened": ["2024-05-06"] * 3, "load": [1, 2, 3], "rsrp": [0, 0, 0], "alarms": [0, 7, 7]})
    fault = f"{table}, row 2, column 'alarms': expected one of the 4 levels that the model knows"
    assert_refused(hansa("predict", model, table, "--save", out), fault, "found '7' (and 1 more rows)")
    scored = hansa("predict", model, table, "--save", out, "--unseen", "missing")
    assert scored.exit_code == 0, scored.output
    assert "2 cells hold levels that the model does not know" in scored.stdout
    write_table(table, {"opened": ["2024-13-06"], "load": [1], "rsrp": [0], "alarms": [0]})
    assert_refused(hansa("predict", model, table, "--save", out), "row 1, column 'opened': expected a date such as")
    write_table(folder / "aurora.csv", {"opened": ["6 May"] * 60, **cells(60, 0)})
    checked = hansa("check", folder / "plan.toml", folder / "aurora.csv")
    assert checked.exit_code == 1
    assert "row 1, column 'opened': expected a date such as" in checked.stdout


@pytest.mark.slow
def test_a_run_whose_levels_are_those_of_all_parties(consortium: Consortium):
    """A union over the network; its rare levels become one, in the model too."""
    folder = consortium.folder
    plan = PLAN.replace('"alarms"]', '"alarms", "band"]').replace('"fault"\n', '"fault"\nrare_levels = { band = 30 }\n')
    (folder / "plan.toml").write_text(plan.replace("[schema]", '[schema]\nunion = ["band"]'))
    for seed, name in enumerate(PARTIES):
        band = [("north", "south", f"only-{name}")[row % 3 if row < 30 else row % 2] for row in range(60 + 20 * seed)]
        write_table(folder / f"{name}.csv", {"band": band, **cells(60 + 20 * seed, seed)})
    shown = hansa("plan", "show", folder / "plan.toml").stdout
    assert "The aggregator learns which levels of band each party has, and every party the levels of all." in shown
    checked = hansa("check", folder / "plan.toml", folder / "aurora.csv")
    assert checked.exit_code == 0, checked.output
    hub, port = consortium.start_hub()
    parties = [consortium.start_party(name, port) for name in PARTIES]
    assert [party.end()[0] for party in (*parties, hub)] == [0, 0, 0]
    model = from_json((folder / "aurora-model.json").read_bytes())
    assert model.categories[3] == ("north", "south", "other")
    assert model.reading.other == ("band",)


CUSTOM = """
def errors(margins, labels, weights):
    return (margins - labels) * weights, weights
"""

METRIC = """
def cost(predictions, labels, weights):
    return abs(predictions - labels)
"""


@pytest.mark.slow
def test_a_run_by_a_function_that_every_party_has(consortium: Consortium):
    """By hash: a party whose policy does not list it, or whose file is another, refuses before it joins."""
    folder = consortium.folder
    sha256 = hashlib.sha256(CUSTOM.encode()).hexdigest()
    (folder / "errors.py").write_text(CUSTOM)
    metric_sha256 = hashlib.sha256(METRIC.encode()).hexdigest()
    (folder / "cost.py").write_text(METRIC)
    plan = PLAN.replace('"binary:logistic"', '"reg:squarederror"\nbase_score = 0.5')
    bounds = f'[custom_objective]\nsha256 = "{sha256}"\ngradient_bound = 8.0\nhessian_bound = 1.0\n'
    metric = f'[custom_metric]\nsha256 = "{metric_sha256}"\nname = "cost"\nbound = 8.0\n[evaluation]\nfraction = 0.2\n'
    (folder / "plan.toml").write_text(plan + bounds + metric)
    assert_refused(
        hansa("party", write_member(folder, "aurora", 1, custom_objective="errors.py")),
        "(allowed: none)",
        "(functions)",
    )
    assert_refused(
        hansa("party", write_member(folder, "aurora", 1, custom_objective="errors.py", policy={"functions": [sha256]})),
        "the custom metric",
        "(functions)",
    )
    allowed = {"functions": [sha256, metric_sha256]}
    (folder / "other.py").write_text(CUSTOM + "\n")
    other = write_member(folder, "aurora", 1, custom_objective="other.py", policy=allowed)
    assert_refused(hansa("party", other), "the file's SHA-256 is")
    hub, port = consortium.start_hub()
    parties = [
        consortium.start_party(name, port, custom_objective="errors.py", custom_metric="cost.py", policy=allowed)
        for name in PARTIES
    ]
    assert [party.end()[0] for party in (*parties, hub)] == [0, 0, 0]
    assert len({path.read_bytes() for path in consortium.models()}) == 1
    assert from_json(consortium.models()[0].read_bytes()).objective == "reg:squarederror"


@pytest.mark.parametrize(
    "key", ["plan", "members", "identity", "table", "model", "record", "transcript", "ledger", "hub"]
)
def test_a_path_with_a_nul_is_refused_in_words(consortium: Consortium, key):
    path = write_member(consortium.folder, PARTIES[0], 1, **{key: "a\0b"})
    assert_refused(hansa("party", path), f"{key} is 'a\\x00b'; expected ")


@pytest.mark.parametrize(
    "content",
    [b"\xff\xfe", b"a = \0", b"a = " + b"[" * 100_000, b"a = " + b"9" * 10_000, b"a." * 5000 + b"a = 1"],
    ids=["no UTF-8", "NUL", "arrays in arrays", "endless digits", "a long key"],
)
def test_whatever_is_no_member_file_is_refused_in_words(tmp_path, content):
    path = tmp_path / "aurora.toml"
    path.write_bytes(content)
    assert_refused(hansa("party", path), "aurora.toml: ")


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="the system has no file that never ends")
@pytest.mark.parametrize("place", ["plan", "members", "tls_key", "identity_key", "certificate"])
def test_a_file_that_never_ends_is_refused_in_words(consortium: Consortium, place):
    endless = consortium.folder / "endless"
    endless.symlink_to("/dev/zero")
    changes = {place: "endless"} if place in ("plan", "members") else {}
    if not changes:
        names = {"tls_key": TLS_KEY_FILE, "identity_key": IDENTITY_KEY_FILE, "certificate": CERTIFICATE_FILE}
        file = consortium.folder / "aurora.identity" / names[place]
        file.unlink()
        file.symlink_to("/dev/zero")
    assert_refused(hansa("party", write_member(consortium.folder, "aurora", 1, **changes)), "never ends")


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="the system has no file that never ends")
@pytest.mark.parametrize(
    "command", ["plan show", "party", "aggregator", "hub", "server", "receiver", "members", "check"]
)
def test_no_command_reads_a_file_that_never_ends(tmp_path, command):
    more = {"members": ["--save", tmp_path / "members.toml"], "check": [tmp_path / "table.csv"]}.get(command, [])
    write_table(tmp_path / "table.csv", {"a": [1]})
    assert_refused(hansa(*command.split(), "/dev/zero", *more), "/dev/zero", "never ends")


def test_a_party_killed_in_the_middle_ends_the_run_for_all(consortium: Consortium):
    (consortium.folder / "plan.toml").write_text(ENDLESS)
    hub, port = consortium.start_hub(reconnect_timeout_s=0)
    parties = {name: consortium.start_party(name, port, reconnect_timeout_s=0) for name in PARTIES}
    hub.event("tree")
    parties["borealis"].kill()
    refused(hub.end(), "member 'borealis'", status=AGAIN)
    refused(parties["aurora"].end(), "borealis", status=AGAIN)
    assert not consortium.models()


def test_an_aggregator_killed_in_the_middle_ends_the_run_for_all(consortium: Consortium):
    (consortium.folder / "plan.toml").write_text(ENDLESS)
    hub, port = consortium.start_hub(reconnect_timeout_s=0)
    parties = [consortium.start_party(name, port, reconnect_timeout_s=0) for name in PARTIES]
    hub.event("tree")
    hub.kill()
    for party in parties:
        refused(party.end(), "the hub is gone", status=AGAIN)
    assert not consortium.models()


def test_a_killed_party_is_waited_for_and_then_named(consortium: Consortium):
    (consortium.folder / "plan.toml").write_text(ENDLESS)
    hub, port = consortium.start_hub(reconnect_timeout_s=2)
    parties = {name: consortium.start_party(name, port) for name in PARTIES}
    hub.event("tree")
    parties["borealis"].kill()
    status, _, text = hub.end()
    assert status == AGAIN
    assert "borealis is away, 0 s of 2" in text
    assert text.splitlines()[-1].startswith("hansa: member 'borealis': ")
    assert text.splitlines()[-1].endswith("it did not come back in 2 s")
    refused(parties["aurora"].end(), "borealis", status=AGAIN)
    assert not consortium.models()


def test_a_new_process_of_a_killed_party_is_refused_while_the_hub_waits(consortium: Consortium):
    """Its state is gone with it: whoever starts it again cannot take up the run, and is told so."""
    (consortium.folder / "plan.toml").write_text(ENDLESS)
    hub, port = consortium.start_hub(reconnect_timeout_s=10 * HANG_S)
    parties = {name: consortium.start_party(name, port) for name in PARTIES}
    hub.event("tree")
    parties["borealis"].kill()
    again = consortium.start_party("borealis", port)
    refused(again.end(), "refused this member: member 'borealis'", "lost its state (start a new run)")
    assert hub.process.poll() is None, "the hub waits for the process that holds the seat"
    hub.process.kill()
    _, _, text = hub.end()
    assert "has a session by another process" in text
    assert not consortium.models()


def test_an_aggregator_that_was_started_again_is_refused(consortium: Consortium):
    (consortium.folder / "plan.toml").write_text(ENDLESS)
    hub, port = consortium.start_hub()
    parties = [consortium.start_party(name, port) for name in PARTIES]
    hub.event("tree")
    hub.kill()
    consortium.start("aggregator", write_member(consortium.folder, HUB, port), "--json").event("listening")
    for party in parties:
        status, _, text = party.end()
        assert status == AGAIN
        assert text.splitlines()[-1].startswith("hansa: the hub is gone: ")
        assert "another process of this hub, which lost its state" in text
    assert not consortium.models()


@pytest.mark.slow
def test_a_run_by_hand_over_lines_that_are_cut(consortium: Consortium):
    """The same model as over whole lines; each end says when it waits and when the other is there again."""
    hub, port = consortium.start_hub()
    for party in [consortium.start_party(name, port) for name in PARTIES]:
        assert party.end()[0] == 0
    assert hub.end()[0] == 0
    whole = {path.name: path.read_bytes() for path in consortium.models()}
    for path in consortium.models():
        path.unlink()
    hub, port = consortium.start_hub()
    lines = {
        name: CuttingLine(
            port, [Cut("up", 5_000 + 999 * place, False), Cut("down", 2_500, True), Cut("up", 3_333, True)]
        )
        for place, name in enumerate(PARTIES)
    }
    parties = {name: consortium.start_party(name, lines[name].port) for name in PARTIES}
    for name, party in parties.items():
        status, _, text = party.end()
        assert status == 0, text
        assert "hub is away, " in text
        assert "hub is back after " in text
        assert lines[name].cuts >= 2
    status, _, text = hub.end()
    assert status == 0, text
    assert "aurora is back after " in text
    assert {path.name: path.read_bytes() for path in consortium.models()} == whole
    for line in lines.values():
        line.close()


def test_two_parties_with_different_plans_are_refused_by_name(consortium: Consortium):
    (consortium.folder / "other.toml").write_text(PLAN.replace("max_depth = 2", "max_depth = 3"))
    hub, port = consortium.start_hub()
    honest = consortium.start_party("aurora", port)
    other = consortium.start_party("borealis", port, plan="other.toml")
    refused(hub.end(), "'borealis' holds another plan", "different: parameters.max_depth;", "same plan file")
    refused(honest.end(), "borealis")
    refused(other.end(), "another plan")
    assert not consortium.models()


def test_a_missing_party_is_named_when_the_wait_is_over(consortium: Consortium):
    path = write_member(consortium.folder, HUB, 0, wait_s=0.3)
    assert_refused(hansa("aggregator", path, "--json"), "not connected after 0.3 s", "aurora, borealis", status=AGAIN)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux sends evenly")
@pytest.mark.parametrize("name", [HUB, "aurora"])
def test_what_a_member_sends_a_second_is_as_its_file_says(consortium: Consortium, monkeypatch, name):
    """8 Mbit/s are a million bytes."""
    tuned = []

    def noted(plain, silence_s, most_bytes_per_s):
        tuned.append(most_bytes_per_s)
        raise OSError("enough is known")

    for module in (tls, tls_handshakes):
        monkeypatch.setattr(module, "tune", noted)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = 0 if name == HUB else other.getsockname()[1]
        path = write_member(consortium.folder, name, port, send_mbit=8, wait_s=5)
        if name == HUB:
            read = config.read_member_file

            def dialled(host, port):
                admission = tcp.listen(host, port)
                socket.create_connection(admission.getsockname()).close()
                return admission

            monkeypatch.setattr(config, "read_member_file", lambda *given: replace(read(*given), open_listener=dialled))
        assert hansa("aggregator" if name == HUB else "party", path).exit_code
    assert tuned == [1_000_000]


def test_a_party_says_when_nobody_listens(consortium: Consortium):
    path = write_member(consortium.folder, "aurora", 1, wait_s=0.3)
    assert_refused(hansa("party", path), "127.0.0.1:1", status=AGAIN)


@pytest.mark.parametrize(
    ("changes", "fragments"),
    [
        ({"hub": None}, ("aurora.toml: hub is missing; add it (address:port, such as 127.0.0.1:7465",)),
        ({"plan": None}, ("plan is missing",)),
        ({"members": None}, ("members is missing",)),
        ({"identity": None}, ("identity is missing",)),
        ({"tabel": "x.csv"}, ("key 'tabel' is not known; expected one of plan, members, identity, hub",)),
        ({"tables": "x.csv"}, ("key 'tables' (did you mean 'table'?) is not known",)),
        ({"patience_s": 5}, ("aurora.toml: key 'patience_s' is called 'reconnect_timeout_s' now; rename it",)),
        ({"policy": {"least_mod": 1}}, ("[policy]: key 'least_mod' (did you mean 'least_mode'?) is not known",)),
        (
            {"policy": {"least_mode": "secure"}},
            ("policy.least_mode is 'secure'; expected one of federated, secure-agg",),
        ),
        (
            {"proxy": ["http://ward:secret@h:1"]},
            ("proxy is not of its kind (it is not shown, as it may hold a password)",),
        ),
        ({"threads": 1.0}, ("threads is 1.0; expected a whole number above 0 and at most 1024",)),
        ({"plan": ""}, ("plan is ''; expected a path",)),
        ({"threads": "two"}, ("threads is 'two'",)),
        ({"threads": 0}, ("threads is 0; expected a whole number above 0 and at most 1024",)),
        ({"threads": 2**63 - 1}, ("threads", "at most 1024")),
        ({"wait_s": 0}, ("wait_s is 0; expected a number above 0",)),
        ({"idle_limit_s": -1}, ("idle_limit_s is -1; expected a number above 0",)),
        ({"reconnect_timeout_s": -1}, ("reconnect_timeout_s is -1; expected a number of at least 0",)),
        ({"memory_mb": 0}, ("memory_mb is 0; expected a number above 0",)),
        ({"send_mbit": 0}, ("send_mbit is 0; expected a number above 0 and at most 34000",)),
        ({"send_mbit": 34_001}, ("send_mbit is 34001; expected a number above 0",)),
        ({"send_mbit": "fast"}, ("send_mbit is 'fast'",)),
        ({"reconnect_timeout_s": "long"}, ("reconnect_timeout_s is 'long'",)),
        ({"table": True}, ("table is True",)),
        ({"hub": "somewhere"}, ("hub is 'somewhere'", "address:port")),
        ({"hub": "127.0.0.1:99999"}, ("99999",)),
        ({"hub": "127.0.0.1:\u00b2"}, ("address:port",)),
        ({"hub": "127.0.0.1:" + "1" * 5000}, ("address:port",)),
        ({"table": None}, ("table is missing",)),
        ({"table": "none.csv"}, ("none.csv",)),
        ({"model": None}, ("model is missing",)),
        ({"plan": "none.toml"}, ("none.toml",)),
        ({"members": "none.toml"}, ("none.toml",)),
        ({"identity": "none"}, ("none",)),
        ({"identity": "hub.identity"}, ("'hub'", "not among the plan's parties")),
        ({"identity": "borealis.identity", "table": "aurora-none.csv"}, ("aurora-none.csv",)),
    ],
)
def test_a_wrong_key_in_a_partys_file_is_named(consortium: Consortium, changes, fragments):
    path = write_member(consortium.folder, "aurora", 1, **{"wait_s": 0.1} | changes)
    assert_refused(hansa("party", path), *fragments)


def test_a_party_cannot_play_the_aggregator(consortium: Consortium):
    path = write_member(consortium.folder, "aurora", 0)
    assert_refused(hansa("aggregator", path, "--json"), "'aurora' is not the plan's aggregator 'hub'", "hansa party")


def test_a_file_that_is_not_toml_is_named(consortium: Consortium):
    path = consortium.folder / "aurora.toml"
    path.write_text("plan = ")
    assert_refused(hansa("party", path), "aurora.toml", "TOML")


@pytest.mark.parametrize(
    ("old", "new", "fragments"),
    [
        ('mode = "federated"', 'mode = "federated"\ncolour = "red"', ("colour",)),
        ("[members]", '[members]\nauditor = "x"', ("auditor",)),
        ("[schema]", '[schema]\ntarget = "x"', ("target",)),
        ("[privacy]", "[privacy]\nepsilon = 1", ("epsilon",)),
        ("[parameters]", "[parameters]\nmax_dept = 3", ("max_dept", "max_depth")),
        ('mode = "federated"', 'mode = "open"', ("'open'", "federated")),
        ('mode = "federated"', 'mode = "coopetitive"', ("members.hub is missing",)),
        ("min_cell_rows = 2", "min_cell_rows = 1", ("min_cell_rows", "at least 2")),
        ("rounds = 3", "rounds = 0", ("rounds",)),
        ("rounds = 3", "rounds = 3\nearly_stopping_rounds = 2", ("early_stopping_rounds", "evaluation.fraction")),
        ('label = "fault"', 'label = "load"', ("'load'",)),
        ('aggregator = "hub"', 'aggregator = "aurora"', ("both the aggregator and a party",)),
        ('"borealis"]', '"cirrus"]', ("'cirrus' is not in it",)),
    ],
)
def test_a_wrong_key_in_the_plan_is_named(consortium: Consortium, old, new, fragments):
    assert old in PLAN
    (consortium.folder / "plan.toml").write_text(PLAN.replace(old, new, 1))
    assert_refused(hansa("party", write_member(consortium.folder, "aurora", 1)), *fragments)


@pytest.mark.parametrize(
    ("old", "new", "fragments"),
    [
        ("[[member]]", "[[memeber]]", ("members.toml", "memeber")),
        ("signature", "sign", ("members.toml", "sign")),
        ('name = "aurora"', 'name = "dune"', ("members.toml", "dune")),
    ],
)
def test_a_wrong_key_in_the_members_file_is_named(consortium: Consortium, old, new, fragments):
    path = consortium.folder / "members.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    assert_refused(hansa("party", write_member(consortium.folder, "aurora", 1)), *fragments)


@pytest.mark.parametrize("name", ["identity_key.pem", "tls_key.pem", "certificate.pem"])
def test_half_an_identity_is_refused_at_the_start(consortium: Consortium, name):
    (consortium.folder / "aurora.identity" / name).unlink()
    assert_refused(hansa("party", write_member(consortium.folder, "aurora", 1)), name)


def test_a_renewed_certificate_that_others_do_not_have_is_refused_at_the_start(consortium: Consortium):
    old = consortium.folder / "aurora.identity"
    new = consortium.folder / "new.identity"
    made = hansa("init", "--no-passphrase", "aurora", "--renew", old, "--folder", new)
    assert made.exit_code == 0, made.output
    assert load_identity(new).public == load_identity(old).public
    path = write_member(consortium.folder, "aurora", 1, identity="new.identity")
    assert_refused(hansa("party", path), "every member needs the new card")


# --- identity, members, plan ------------------------------------------------------------------------------------------


def test_an_identity_is_not_overwritten_and_keeps_its_name(consortium: Consortium):
    folder = consortium.folder / "aurora.identity"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert_refused(hansa("init", "--no-passphrase", "aurora", "--folder", folder), "aurora.identity")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    renewed = hansa("init", "--no-passphrase", "dune", "--renew", folder, "--folder", consortium.folder / "dune")
    assert_refused(renewed, "holds the identity of 'aurora', not of 'dune'")
    assert_refused(hansa("init", "--no-passphrase", "Not A Name", "--folder", consortium.folder / "x"), "Not A Name")


def test_members_prints_a_fingerprint_each_and_refuses_the_same_name_twice(consortium: Consortium):
    cards = [consortium.folder / f"{name}.identity" / "card.toml" for name in PARTIES]
    joined = hansa("members", *cards, "--save", consortium.folder / "two.toml")
    assert joined.exit_code == 0
    lines = joined.stdout.splitlines()
    assert [line.split()[0] for line in lines[:2]] == list(PARTIES)
    assert read_members(consortium.folder / "two.toml").digest().hex() in lines[2]
    assert_refused(hansa("members", cards[0], cards[0], "--save", consortium.folder / "three.toml"), "'aurora'")
    assert not (consortium.folder / "three.toml").exists()


def test_plan_prints_one_digest_for_one_meaning(consortium: Consortium):
    first = hansa("plan", "show", consortium.folder / "plan.toml")
    assert first.exit_code == 0
    other = consortium.folder / "other.toml"
    other.write_text("# the same\n" + PLAN.replace('["aurora", "borealis"]', '["borealis", "aurora"]'))
    second = hansa("plan", "show", other)
    digests = [result.stdout.splitlines()[0].split("digest ")[1] for result in (first, second)]
    assert digests[0] == digests[1]
    other.write_text(PLAN.replace("max_bin = 16", "max_bin = 17"))
    assert digests[0] not in hansa("plan", "show", other).stdout
    other.write_text("mode = 3")
    assert_refused(hansa("plan", "show", other), "other.toml")


# --- check ------------------------------------------------------------------------------------------------------------


def test_check_says_what_would_be_sent(consortium: Consortium):
    plan, table = consortium.folder / "plan.toml", consortium.folder / "aurora.csv"
    shown = hansa("check", plan, table)
    assert shown.exit_code == 0
    assert "would send of its rows" in shown.stdout
    assert "histograms of gradients and hessians" in shown.stdout
    report = json.loads(hansa("check", plan, table, "--json").stdout)
    assert report["ok"] is True
    assert report["rows"] == 60
    assert report["violations"] == []
    assert report["mode"] == "federated"
    assert report["plan"] in hansa("plan", "show", plan).stdout
    assert [feature["name"] for feature in report["features"]] == ["load", "rsrp", "alarms"]
    assert all(sent["bytes_at_most"] > 0 for sent in report["sent"])


def test_a_feature_without_any_value_is_null_in_what_check_prints(consortium: Consortium):
    table = consortium.folder / "empty.csv"
    table.write_text("load,rsrp,alarms,fault\n" + "".join(f",{i},{i},{i % 2}\n" for i in range(9)))
    shown = hansa("check", consortium.folder / "plan.toml", table, "--json")
    assert "NaN" not in shown.stdout
    load = json.loads(shown.stdout)["features"][0]
    assert (load["missing"], load["minimum"], load["mean"], load["maximum"]) == (9, None, None, None)


def test_check_names_every_violation_and_ends_with_status_1(consortium: Consortium):
    plan, table = consortium.folder / "plan.toml", consortium.folder / "bad.csv"
    table.write_text("load,rsrp,fault,extra\n1,2,0,3\n1,2,7,3\n")
    result = hansa("check", plan, table, "--json")
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert report["ok"] is False
    text = json.dumps(report["violations"])
    assert "alarms" in text
    assert "extra" in text
    assert "bad.csv" in hansa("check", plan, table).stdout
    assert_refused(hansa("check", plan, consortium.folder / "plan.toml"), "plan.toml")


def test_a_party_dials_through_the_proxy_of_its_file(consortium: Consortium):
    proxy = HttpProxy("ward:pass word")
    password = consortium.folder / "proxy.password"
    password.write_text("pass word\n")
    password.chmod(0o600)
    hub, port = consortium.start_hub()
    given = {"proxy": f"http://ward@127.0.0.1:{proxy.port}", "proxy_password_file": "proxy.password"}
    parties = [consortium.start_party(name, port, **given) for name in PARTIES]
    assert [party.end()[0] for party in parties] == [0, 0]
    assert hub.end()[0] == 0
    assert len(proxy.asked) == len(PARTIES)
    assert len(consortium.models()) == len(PARTIES)
    refused(
        consortium.start_party("aurora", port, proxy=f"http://ward:wrong@127.0.0.1:{proxy.port}").end(), "status 407"
    )
    proxy.close()


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        (HUB, {"proxy": "http://127.0.0.1:3128"}, "proxy is for members that dial; 'hub' only listens"),
        ("aurora", {"proxy": "127.0.0.1:3128"}, "proxy: expected http://host:port"),
        ("aurora", {"proxy_password_file": "password"}, "proxy_password_file goes with proxy only"),
        ("aurora", {"proxy": "http://u@h:1", "proxy_password_file": "missing"}, "the proxy's password cannot be read"),
        ("aurora", {"proxy": "http://u@h:1", "proxy_password_file": "open"}, "others can read this password"),
        (
            "aurora",
            {"proxy": "http://h:1", "proxy_password_file": "password"},
            "proxy_password_file needs a user's name",
        ),
    ],
)
def test_a_proxy_that_makes_no_sense_is_refused(consortium: Consortium, name, changes, said):
    for file, mode in (("password", 0o600), ("open", 0o644)):
        (consortium.folder / file).write_text("secret")
        (consortium.folder / file).chmod(mode)
    command = "aggregator" if name == HUB else "party"
    assert_refused(hansa(command, write_member(consortium.folder, name, 7465, **changes)), said)


@pytest.mark.slow
@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6")
def test_a_hub_at_all_addresses_is_reached_over_ipv6_ipv4_and_by_name(consortium: Consortium):
    hub, port = consortium.start_hub(hub="[::]:0")
    parties = [
        consortium.start_party(name, port, hub=f"{host}:{port}")
        for name, host in zip(PARTIES, ("[::1]", "localhost"), strict=True)
    ]
    assert [party.end()[0] for party in parties] == [0, 0]
    assert hub.end()[0] == 0
    refused(
        consortium.start_party("aurora", port, hub=f"[::1]:{port}", wait_s=1).end(),
        f"member 'hub' at [::1]:{port}",
        "[::1]",
        status=AGAIN,
    )


def test_files_that_a_windows_editor_saved_with_a_byte_order_mark_are_read(consortium: Consortium):
    write_member(consortium.folder, "aurora", 7465)
    for name in ("plan.toml", "members.toml", "aurora.toml"):
        path = consortium.folder / name
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    result = hansa("check", "--member", consortium.folder / "aurora.toml", consortium.folder / "plan.toml",
                   consortium.folder / "aurora.csv")  # fmt: skip
    assert result.exit_code == 0, result.stderr


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e400", "9223372036854775807"])
@pytest.mark.parametrize("key", ["wait_s", "idle_limit_s", "reconnect_timeout_s", "memory_mb"])
def test_a_number_that_no_clock_or_machine_has_is_refused_at_the_start(consortium: Consortium, key, value):
    path = write_member(consortium.folder, HUB, 0)
    kept = [line for line in path.read_text().splitlines() if not line.startswith(key)]
    path.write_text("\n".join([*kept, f"{key} = {value}"]) + "\n")
    assert_refused(hansa("aggregator", path), f"{key} is ", "at most")


# --- a query in place of a table ----------------------------------------------------------------------------

JOINED = {
    "query": "SELECT l.load, r.rsrp, r.alarms, l.fault FROM loads l JOIN others r ON l.site = r.id",
    "files": {"loads": "loads.csv", "others": "others.csv"},
}


def split_columns(folder: Path, name: str) -> None:
    """The columns of a party's table in two files, whose rows stand in different orders."""
    header, *rows = [line.split(",") for line in (folder / f"{name}.csv").read_text().splitlines()]
    columns = dict(zip(header, zip(*rows, strict=True), strict=True))
    site = [f"s{i}" for i in range(len(rows))]
    write_table(folder / "loads.csv", {"site": site, "load": columns["load"], "fault": columns["fault"]})
    write_table(folder / "others.csv", {"id": site[::-1], **{n: columns[n][::-1] for n in ("rsrp", "alarms")}})


def test_a_party_whose_rows_come_from_a_query_trains_the_model_that_its_table_trains(consortium: Consortium):
    folder = consortium.folder
    models = []
    split_columns(folder, PARTIES[0])
    for changes in ({}, {"table": None, "source": JOINED}):
        hub, port = consortium.start_hub()
        parties = [consortium.start_party(PARTIES[0], port, **changes), consortium.start_party(PARTIES[1], port)]
        assert [party.end()[0] for party in parties] == [0, 0]
        assert hub.end()[0] == 0
        models += [path.read_bytes() for path in consortium.models()]
    assert len(models) == 4
    assert len(set(models)) == 1
    for kept in folder.glob("*-record.json"):
        assert "SELECT" not in kept.read_text()


def test_check_runs_the_query_of_a_partys_file(consortium: Consortium):
    folder = consortium.folder
    split_columns(folder, PARTIES[0])
    plan, member = folder / "plan.toml", write_member(folder, PARTIES[0], 1, table=None, source=JOINED)
    shown = hansa("check", plan, "--member", member)
    assert shown.exit_code == 0, shown.output
    assert f"the result of {member}, source.query: 60 rows, fits the schema" in shown.stdout
    broken = JOINED | {"query": JOINED["query"].replace("l.load", "'7 GB' AS load")}
    shown = hansa("check", plan, "--member", write_member(folder, PARTIES[0], 1, table=None, source=broken))
    assert shown.exit_code == 1
    assert "source.query, row 1, column 'load': expected a number" in shown.stdout
    # A table of a member's file is checked in the same way, and one that is named comes first.
    member = write_member(folder, PARTIES[0], 1)
    assert f"{PARTIES[0]}.csv: 60 rows, fits the schema" in hansa("check", plan, "--member", member).stdout
    assert "80 rows" in hansa("check", plan, folder / f"{PARTIES[1]}.csv", "--member", member).stdout
    assert_refused(hansa("check", plan), "no table is named; name one behind the plan")
    member = write_member(folder, PARTIES[0], 1, table=None)
    assert_refused(hansa("check", plan, "--member", member), "no table is named; name one behind the plan")


def test_a_source_is_refused_beside_a_table_with_an_unknown_key_and_as_an_output(consortium: Consortium):
    folder = consortium.folder
    split_columns(folder, PARTIES[0])
    assert_refused(
        hansa("party", write_member(folder, PARTIES[0], 1, source=JOINED)), "table and source are both given"
    )
    member = write_member(folder, PARTIES[0], 1, table=None, source=JOINED, record="loads.csv")
    assert_refused(hansa("party", member), "record: ", "is the same file as source.files.loads, which is read")
    path = write_member(folder, PARTIES[0], 1, table=None, source=JOINED)
    path.write_text(path.read_text().replace("query =", "querry ="))
    assert_refused(hansa("party", path), "[source]: key 'querry' (did you mean 'query'?) is not known")
    wrong = {**JOINED, "files": {"loads": 3}}
    assert_refused(
        hansa("party", write_member(folder, PARTIES[0], 1, table=None, source=wrong)), "source.files.loads is 3"
    )
    outside = {**JOINED, "query": "SELECT * FROM read_csv('loads.csv')"}
    assert_refused(
        hansa("party", write_member(folder, PARTIES[0], 1, table=None, source=outside)),
        "expected a query that reads the tables 'loads', 'others' only, found one that reads files by itself",
    )


def test_a_partys_own_column_is_not_read_and_stays_in_its_table(consortium: Consortium):
    folder = consortium.folder
    lines = (folder / f"{PARTIES[0]}.csv").read_text().splitlines()
    (folder / f"{PARTIES[0]}.csv").write_text(
        "\n".join([f"{lines[0]},cell", *(f"{line},secret-{i}" for i, line in enumerate(lines[1:]))]) + "\n"
    )
    plan, member = folder / "plan.toml", write_member(folder, PARTIES[0], 1, id="cell")
    assert "fits the schema" in hansa("check", plan, "--member", member).stdout
    assert "column 'cell': expected only" in hansa("check", plan, folder / f"{PARTIES[0]}.csv").stdout
    hub, port = consortium.start_hub(transcript="frames")
    parties = [
        consortium.start_party(PARTIES[0], port, id="cell", transcript="frames"),
        consortium.start_party(PARTIES[1], port),
    ]
    assert [party.end()[0] for party in parties] == [0, 0]
    assert hub.end()[0] == 0
    written = [*consortium.models(), *folder.glob("*-record.json"), *(folder / "frames").iterdir()]
    assert len(written) == 7
    assert not any(b"secret-" in path.read_bytes() for path in written)
    out = folder / "scores.csv"
    scored = hansa("predict", consortium.models()[0], folder / f"{PARTIES[0]}.csv", "--save", out, "--keep", "cell")
    assert scored.exit_code == 0, scored.output
    assert [line.split(",")[0] for line in out.read_text().splitlines()[1:]] == [f"secret-{i}" for i in range(60)]
    assert_refused(
        hansa("party", write_member(folder, PARTIES[0], 1, id="load")), "id is 'load', which the plan reads as a column"
    )
    assert_refused(hansa("party", write_member(folder, PARTIES[0], 1, id="")), "id is ''; expected a column's name")


@pytest.mark.slow
def test_a_party_reads_its_parquet_files_by_column_and_nothing_else(consortium):
    """One party reads by column, the other into memory: real processes, and the model of both in memory."""
    folder = consortium.folder
    models = []
    for by_column in (None, True):
        table = folder / "parts"
        table.mkdir(exist_ok=True)
        lines = f"SELECT *, row_number() OVER () AS row FROM read_csv('{folder}/{PARTIES[0]}.csv', null_padding = true)"
        for part, rows in enumerate(("row <= 20", "row > 20")):
            duckdb.sql(
                f"COPY (SELECT * EXCLUDE row FROM ({lines}) WHERE {rows} ORDER BY row) TO '{table}/{part}.parquet'"
            )
        hub, port = consortium.start_hub()
        parties = [
            consortium.start_party(PARTIES[0], port, table="parts", by_column=by_column),
            consortium.start_party(PARTIES[1], port),
        ]
        assert [party.end()[0] for party in parties] == [0, 0]
        assert hub.end()[0] == 0
        models.append(consortium.models()[0].read_bytes())
    assert models[0] == models[1]
    assert_refused(
        hansa("party", write_member(folder, PARTIES[0], 1, by_column=True)),
        "by_column = true: expected rows in Parquet files, or a query, found another file",
    )


def test_rows_by_column_are_refused_where_whole_rows_are_needed(consortium):
    folder = consortium.folder
    plan = folder / "plan.toml"
    text = plan.read_text()
    member = write_member(folder, PARTIES[0], 1, by_column=True)
    plan.write_text(f'start_model = "{"0" * 64}"\n{text}')
    assert_refused(hansa("party", member), "by_column does not go with a plan that has start_model")
