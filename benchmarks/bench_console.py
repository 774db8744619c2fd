"""The console: how long its pages take with many runs in the database, what they weigh, and what three open consoles cost a run.

    python -m benchmarks.bench_console pages [--runs 1000] [--pictures FOLDER]
    python -m benchmarks.bench_console training [--repeats 5] [--rounds 200] [--rows 20000]

`pages` draws every page in Chromium, three times: milliseconds from the request to the first paint (the least of three), and bytes
with style and scripts. With --pictures it writes each page as a picture, light and dark, 1280 and 390 wide.
`training` has a hub and two parties as services train in turns without and with a console for each, whose Home is open in Chromium:
seconds of the training, and processor seconds of all that the three members do.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow
from rich.table import Table

import hansa
from benchmarks.machine import console as terminal
from benchmarks.machine import described
from hansa.console.accounts import account_of
from hansa.console.book import Book, Passkey
from hansa.consortium.approvals import approve, propose, read_proposal, write_proposal
from hansa.consortium.audit_entries import Counted, MessagesCounted, ModelReleased, RunBegun, RunOver
from hansa.consortium.audit_log import AuditLog, now
from hansa.consortium.identity import create_identity, load_identity, save_identity
from hansa.consortium.members import members_of
from hansa.consortium.versions import added, found, signed, write_consortium
from hansa.node.fold_scores import fold_scores
from hansa.node.record import AggregatorRecord
from hansa.node.trial_scores import SearchScores, TrialScore
from hansa.plan import parse_plan
from hansa.service.config import ServiceFile, read_service_file
from hansa.service.inbox import submit
from hansa.service.store import ServiceRun, Store
from hansa.toml import write_toml
from hansa.version import __version__

HUB, PARTIES = "hub", ("aurora", "borealis")
MEMBERS = (HUB, *PARTIES)
FEATURES = ("prb_utilisation", "rsrp", "active_alarms", "rrc_connections")
PASSWORD = "of this measurement alone"
SHOWN = "anna"
"""Who is signed in on pictures: an officer with a passkey."""

PAINTED = "performance.getEntriesByName('first-contentful-paint').map(each => each.startTime)"
"""Milliseconds from the request to the first paint, once there was one; waiting for it in the page would need eval."""

CHROMIUM = shutil.which("chromium") or ""


@dataclass(frozen=True)
class Picture:
    """A picture of a page.

    Attributes:
        route: of the page. member: whose console shows it. at: what is scrolled to, by a selector; empty for the top. opened: whether
            parts that open by a press are open. signed_in: whether somebody is.
    """

    route: str
    member: str = "aurora"
    at: str = ""
    opened: bool = False
    signed_in: bool = True


PICTURES = {
    "sign-in": Picture("/sign-in", signed_in=False),
    "home": Picture("/"),
    "consortium": Picture("/consortium"),
    "consortium-forms": Picture("/consortium", at="h3:has-text('Invitations')", opened=True),
    "consortium-keys": Picture("/consortium", at="summary:has-text('Revoke a key')", opened=True),
    "consortium-change": Picture("/consortium", "borealis", at="h3:has-text('A change is under way')"),
    "plans": Picture("/plans"),
    "plan": Picture("/plans/{proposal}"),
    "plan-what-to-do": Picture("/plans/{proposal}", at="h2:has-text('policy, rule by rule')"),
    "new-plan": Picture("/new-plan"),
    "draft": Picture("/drafts/{draft}"),
    "runs": Picture("/runs"),
    "run": Picture("/runs/{run}"),
    "run-folds": Picture("/runs/{run}", HUB, at=".views"),
    "run-trials": Picture("/runs/{run}", HUB, at=".views"),
    "models": Picture("/models"),
    "model": Picture("/models/{run}"),
    "model-on-rows": Picture("/models/{run}/rows"),
    "model-alone": Picture("/models/{run}/alone"),
    "two-models": Picture("/models/{run}/against/{against}"),
    "data": Picture("/data"),
    "source": Picture("/data/{place}"),
    "table-and-plan": Picture("/data/check/{proposal}"),
    "records": Picture("/records"),
    "record": Picture("/records/{run}"),
    "report": Picture("/records/{run}/report"),
    "actions": Picture("/actions"),
    "settings": Picture("/settings"),
    "account": Picture("/account"),
}
"""Every page of the console, by the name of its picture; `tests/console/test_console_pictures.py` holds it complete."""

NOT_PICTURED = {
    "/enter": "signs in and goes on to Home",
    "/static/{version}/{name}": "style, scripts and the icon of the pages",
    "/api/openapi.json": "for programs",
    "/records/{run}/report-file": "the page of the report, saved as a file",
}
"""Routes that are no page of their own, and why; beside them are the JSON, the events and the files that pages offer."""

PLAN = """
name = "{name}"
mode = "{mode}"

[members]
aggregator = "hub"
parties = ["aurora", "borealis"]

[schema]
features = ["prb_utilisation", "rsrp", "active_alarms", "rrc_connections"]
label = "sleeping_cell"

[evaluation]
fraction = 0.2

[parameters]
objective = "binary:logistic"
rounds = {rounds}
max_depth = 5
max_bin = 64
"""


def make(folder: Path, rows: int) -> None:
    """Identities, the consortium's file, every party's rows and every member's service's file."""
    identities = {name: create_identity(name) for name in MEMBERS}
    for name, identity in identities.items():
        save_identity(identity, folder / f"{name}.identity")
    consortium = found("northern-operators", [own.card() for own in identities.values()], identities[HUB])
    for name in PARTIES:
        consortium = signed(consortium, identities[name])
    write_consortium(folder / "consortium.json", consortium)
    for seed, name in enumerate(PARTIES):
        draw = np.random.Generator(np.random.PCG64(seed))
        table = draw.normal(size=(rows, len(FEATURES))).round(3)
        label = (table.sum(axis=1) + draw.logistic(size=rows) > 0).astype(int)
        lines = [",".join(map(str, (*row, own))) for row, own in zip(table, label, strict=True)]
        (folder / f"{name}.csv").write_text("\n".join([",".join((*FEATURES, "sleeping_cell")), *lines]) + "\n")


def write_service(folder: Path, name: str, port: int) -> Path:
    values: dict[str, Any] = {
        "members": "consortium.json",
        "identity": f"{name}.identity",
        "hub": f"127.0.0.1:{port}",
        **({} if name == HUB else {"sources": [{"table": f"{name}.csv"}]}),
        "policy": {"allow_two_parties": True, "most_rounds": 500},
    }
    path = folder / f"{name}-service.toml"
    path.write_text(write_toml(values))
    return path


def proposal_file(folder: Path, name: str, mode: str, rounds: int, *approved: str) -> Path:
    """A proposal by the hub, with more approvals."""
    members = members_of(read_service_file(folder / "hub-service.toml", open_keys=False).consortia[0].members.values())
    made = propose(
        parse_plan(PLAN.format(name=name, mode=mode, rounds=rounds)), members, load_identity(folder / "hub.identity")
    )
    for own in approved:
        made = approve(made, load_identity(folder / f"{own}.identity"))
    path = folder / f"{name}.json"
    write_proposal(path, made)
    return path


@contextlib.contextmanager
def consoles(files: list[Path]) -> Iterator[tuple[list[str], list[int]]]:
    """The addresses and processes of consoles, with an officer's account each."""
    processes, addresses = [], []
    try:
        for file in files:
            Book(read_service_file(file, open_keys=False).state).put_account(account_of("officer", "officer", PASSWORD))
            process = subprocess.Popen(
                [sys.executable, "-m", "hansa", "console", str(file), "--listen", "127.0.0.1:0", "--json"],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            processes.append(process)
            assert process.stdout is not None
            addresses.append(json.loads(process.stdout.readline())["address"].rstrip("/"))
        yield addresses, [process.pid for process in processes]
    finally:
        for process in processes:
            process.terminate()
            process.wait()


def sign_in(page: Any, address: str, who: str = "officer") -> None:
    page.goto(f"{address}/sign-in")
    page.get_by_label("Name").fill(who)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in", exact=True).click()
    page.get_by_role("heading", name="Home").wait_for()


# Pages


def shown_run(number: int, runs: int) -> ServiceRun:
    """A run in the database: the newest is under way, some failed."""
    state = "running" if number == runs - 1 else "failed" if number % 11 == 5 else "finished"
    digest = hashlib.sha256(str(number).encode()).hexdigest()
    begun = f"2026-{number * 11 // runs + 1:02}-{number % 28 + 1:02}T{number % 24:02}:{number % 60:02}"
    return ServiceRun(
        run=digest[:16],
        plan=("sleeping-cells", "drop-rate", "handover")[number % 3],
        mode="federated",
        state=state,
        folder=digest[:16],
        id=digest[::-1],
        trees=63 if state == "running" else 100,
        rounds=100,
        text={"running": "training, 63 of at most 100 rounds", "failed": "aurora.csv: no column 'rsrp'"}.get(
            state, "the run is over"
        ),
        created=f"{begun}:00.000Z",
        updated=f"{begun}:40.000Z",
    )


def fill(folder: Path, runs: int) -> dict[str, dict[str, str]]:
    """Put things into the members' folders that pages show; what stands in the paths of pictures, by their names."""
    file = folder / "aurora-service.toml"
    service = read_service_file(file)
    store = Store(service.name, service.state, service.database)
    every = [shown_run(number, runs) for number in range(runs)]
    for run in every:
        store.put(run)
    last, before = every[-1], every[-2]
    own = service.runs / last.folder
    own.mkdir(parents=True)
    events = (
        {"event": "tree", "time": f"{last.created[:17]}{tree % 60:02}.000Z", "trees": tree, "rounds": 100,
         "metrics": {"logloss": 0.69 * 0.98**tree, "auc": 1 - 0.5 * 0.97**tree}}
        for tree in range(1, 64)
    )  # fmt: skip
    (own / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    members = service.consortia[0].members
    log = AuditLog(service.audit, load_identity(folder / "aurora.identity"))
    for run in every[-5:]:
        log.append(
            RunBegun(at=now(), run=run.id, epoch=0, plan="cd" * 32, mode=run.mode, purpose="train", hub=HUB, hansa="0.1.0",
                     members={name: card.identity.hex() for name, card in members.items()},
                     roster=(("aurora", 18_400, 4_600), ("borealis", 21_210, 5_303)), proposal="ef" * 32, approved_by=MEMBERS),
            MessagesCounted(at=now(), run=run.id, epoch=0, counts=(Counted("aurora", HUB, "Histograms", 612, 48_551_340),
                            Counted(HUB, "aurora", "Splits", 612, 204_110))),
            ModelReleased(at=now(), run=run.id, model="9a" * 32, receivers=PARTIES),
            RunOver(at=now(), run=run.id, epoch=0, state="finished", transcript={}),
        )  # fmt: skip
    log.close()
    put_models(folder, service, store)
    put_scores(folder)
    put_keys_and_change(folder)
    for member in MEMBERS:
        Book(read_service_file(folder / f"{member}-service.toml", open_keys=False).state).put_account(
            account_of(SHOWN, "officer", PASSWORD)
        )
    key = Passkey(id="laptop", account=SHOWN, name="laptop", key=b"", counter=1, made=now(), used="")
    Book(service.state).put_passkey(key)
    model = {"run": "model-60"}
    return {
        "run": {"run": last.run},
        "run-folds": {"run": "folds"},
        "run-trials": {"run": "trials"},
        "model": model,
        "model-on-rows": model,
        "model-alone": model,
        "two-models": {**model, "against": "model-5"},
        "source": {"place": "1"},
        "record": {"run": before.run},
        "report": {"run": before.run},
    }


def put_scores(folder: Path) -> None:
    """Two finished runs of the hub's: what a plan of folds and what a search found."""
    service = read_service_file(folder / f"{HUB}-service.toml")
    store = Store(service.name, service.state, service.database)
    told = {name: members_of_record(name) for name in ("folds", "trials")}
    drawn = np.random.Generator(np.random.PCG64(0))
    losses = [[0.69 * 0.97**k + 0.002 * k * drawn.random() for k in range(60)] for _ in range(5)]
    areas = [[1 - 0.5 * 0.96**k - 0.02 * drawn.random() for k in range(60)] for _ in range(5)]
    folds = fold_scores([{"auc": a, "logloss": b} for a, b in zip(areas, losses, strict=True)], False, None)
    trials = tuple(
        TrialScore(
            trial=k,
            parameters={"eta": round(float(drawn.uniform(0.02, 0.3)), 4), "max_depth": int(drawn.integers(3, 9))},
            state="complete" if k % 3 else "pruned",
            value=(0.3 if k % 3 else 0.5) + 0.2 * float(drawn.random()),
            best_round=int(drawn.integers(20, 100)),
        )
        for k in range(1, 13)
    )
    best = min((each for each in trials if each.state == "complete"), key=lambda each: each.value or 1.0)
    search = SearchScores(
        metric="logloss",
        direction="minimize",
        trials=trials,
        best=best.trial,
        best_parameters={**best.parameters, "rounds": best.best_round or 0},
    )
    for name, scores in (("folds", {"cross_validation": folds}), ("trials", {"search": search})):
        own = service.runs / name
        own.mkdir(parents=True)
        (own / "record.json").write_bytes(msgspec.json.encode(AggregatorRecord(**told[name], **scores)))
        store.put(
            ServiceRun(run=name, plan=f"cells-{name}", mode="federated", state="finished", folder=name, trees=60, rounds=60,
                       text="the run is over", id=hashlib.sha256(name.encode()).hexdigest())
        )  # fmt: skip


def members_of_record(name: str) -> dict[str, Any]:
    """What the hub's record of a finished run says beside its scores."""
    digest = hashlib.sha256(name.encode()).hexdigest()
    return {
        "hansa": __version__, "member": HUB, "plan": digest, "plan_file": digest, "mode": "federated", "identity": digest[:43],
        "members": digest, "state": "finished", "stage": None, "run": digest, "trees": 60, "started": "2026-12-01T10:00:00Z",
        "ended": "2026-12-01T10:02:40Z", "error": None,
    }  # fmt: skip


def put_keys_and_change(folder: Path) -> None:
    """Other keys that aurora could take; and at borealis a change that the hub signed: a member joins."""
    save_identity(create_identity("aurora"), folder / "aurora-2027.identity")
    service = read_service_file(folder / "borealis-service.toml")
    consortium = service.consortia[0]
    assert consortium.signed is not None
    change = service.change_of(consortium)
    change.parent.mkdir(parents=True, exist_ok=True)
    made = added(
        consortium.signed, [create_identity("cirrus").card()], ["ab" * 32], load_identity(folder / f"{HUB}.identity")
    )
    write_consortium(change, made)


def put_models(folder: Path, service: ServiceFile, store: Store) -> None:
    """Two finished runs that gave aurora a model of the rows of both."""
    columns = {name: np.loadtxt(folder / f"{name}.csv", delimiter=",", skiprows=1) for name in PARTIES}
    parties = {
        name: (dict(zip(FEATURES, own[:, :-1].T.astype(np.float32), strict=True)), own[:, -1].astype(int))
        for name, own in columns.items()
    }
    frames = {name: (pyarrow.table(features), labels) for name, (features, labels) in parties.items()}
    for rounds in (5, 60):
        own = service.runs / f"model-{rounds}"
        own.mkdir(parents=True)
        plan = proposal_file(folder, f"cells-{rounds}", "federated", rounds, *PARTIES)
        shutil.copy(plan, own / "plan.json")
        run = hansa.fit(frames, rounds=rounds, max_depth=3, evaluation_fraction=0.2, alone=False, progress=False)
        run.model.save(own / "model.json")
        values = run.history["logloss"]
        events = (
            {"event": "tree", "trees": k, "rounds": rounds, "metrics": {"logloss": v}} for k, v in enumerate(values, 1)
        )
        (own / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
        sha256 = hashlib.sha256((own / "model.json").read_bytes()).hexdigest()
        moment = f"2026-12-01T10:{rounds:02}:00.000Z"
        store.put(
            ServiceRun(run=own.name, plan=f"cells-{rounds}", mode="federated", state="finished", folder=own.name,
                       trees=rounds, rounds=rounds, text="the run is over", created=moment, updated=moment,
                       model_sha256=sha256, id=sha256)
        )  # fmt: skip


def measure_pages(runs: int, pictures: Path | None) -> None:
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = Path(name)
        make(folder, 1500)
        files = [write_service(folder, member, 7465) for member in MEMBERS]
        values = fill(folder, runs)
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        table = Table(title=f"Pages of the console, {runs} runs; {described()}")
        for head in ("page", "to first paint, ms", "bytes"):
            table.add_column(head)
        with consoles(files) as (started, _):
            named = (each.replace("127.0.0.1", "localhost") for each in started)  # passkeys are for names alone
            addresses = dict(zip(MEMBERS, named, strict=True))
            address = addresses["aurora"]
            page = chromium.new_page()
            sign_in(page, address)
            for proposed, mode in (("sleeping-cells", "federated"), ("drop-rate", "secure-aggregation")):
                page.goto(f"{address}/plans")
                page.get_by_label("A proposal, a copy of it").set_input_files(
                    proposal_file(folder, proposed, mode, 100, "borealis")
                )
                page.get_by_role("button", name="Bring it").click()
                page.get_by_role("heading", name="Members").wait_for()
            proposal = {"proposal": urllib.parse.urlparse(page.url).path.rpartition("/")[2]}
            values |= dict.fromkeys(("plan", "plan-what-to-do", "table-and-plan"), proposal)
            page.goto(f"{address}/new-plan")
            page.get_by_label("Name of the plan").fill("handover")
            page.get_by_label("Column to predict").fill("sleeping_cell")
            page.get_by_label("Aggregator, or hub").select_option(HUB)
            page.get_by_role("button", name="Write the draft").click()
            page.get_by_role("heading", name="Draft handover").wait_for()
            values["draft"] = {"draft": "handover"}
            page.goto(f"{address}{PICTURES['report'].route.format(**values['report'])}".removesuffix("/report"))
            page.get_by_role("button", name="Make a signed report").click()
            page.get_by_role("link", name="Open it").wait_for()
            pages = {
                what: addresses[each.member] + each.route.format(**values.get(what, {}))
                for what, each in PICTURES.items()
            }
            for what, own in pages.items():
                if PICTURES[what].member != "aurora" or PICTURES[what].at or not PICTURES[what].signed_in:
                    continue
                paints, size = [], 0
                for _ in range(3):
                    page.goto(own, wait_until="domcontentloaded")
                    while not (painted := page.evaluate(PAINTED)):
                        time.sleep(0.01)
                    paints.append(painted[0])
                    size = page.evaluate(
                        "['navigation', 'resource'].flatMap(kind => performance.getEntriesByType(kind))"
                        ".reduce((sum, each) => sum + each.decodedBodySize, 0)"
                    )
                table.add_row(what, f"{min(paints):.0f}", f"{size:,}")
            if pictures is not None:
                pictures.mkdir(parents=True, exist_ok=True)
                for scheme in ("light", "dark"):
                    for width in (1280, 390):
                        take(chromium, addresses, pages, pictures, scheme, width)
        chromium.close()
        terminal().print(table)


def take(
    chromium: Any, addresses: dict[str, str], pages: dict[str, str], pictures: Path, scheme: str, width: int
) -> None:
    """A picture of each page, of few colours, so that the documents stay small."""
    from PIL import Image

    context = chromium.new_context(color_scheme=scheme, viewport={"width": width, "height": 900})
    outside = chromium.new_context(color_scheme=scheme, viewport={"width": width, "height": 900}).new_page()
    page = context.new_page()
    for address in addresses.values():
        sign_in(page, address, SHOWN)
    for what, address in pages.items():
        how, own = PICTURES[what], page if PICTURES[what].signed_in else outside
        own.goto(address, wait_until="domcontentloaded")
        if how.opened:
            own.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
        if how.at:
            own.locator(how.at).first.evaluate("each => each.scrollIntoView()")
        place = pictures / f"{what}-{scheme}-{width}.png"
        own.screenshot(path=place)
        Image.open(place).convert("RGB").quantize(64, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(
            place, optimize=True
        )
    outside.context.close()
    context.close()


# Training


def train(folder: Path, name: str, rounds: int, files: dict[str, Path]) -> float:
    """Seconds from the last member's taking the plan to the end of the run."""
    path = proposal_file(folder, name, "federated", rounds, *PARTIES)
    for file in files.values():
        submit(read_service_file(file), path)
    run = read_proposal(path).digest.hex()[:16]
    service = read_service_file(files[HUB])
    store = Store(service.name, service.state, service.database)
    while (known := store.named(run)) is None or not known.over:
        time.sleep(0.05)
    if known.state != "finished":
        raise RuntimeError(known.text)
    record = json.loads((service.runs / run / "record.json").read_text())
    return float(record["seconds"]["training"])


def measure_training(repeats: int, rounds: int, rows: int) -> None:
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as opened:
        folder = Path(name)
        make(folder, rows)
        port, files, services = 0, {}, []
        for member in MEMBERS:
            files[member] = write_service(folder, member, port)
            command = "aggregator" if member == HUB else "party"
            process = subprocess.Popen(
                [sys.executable, "-m", "hansa", command, str(files[member]), "--service", "--json"],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            services.append(process.pid)
            opened.callback(process.wait)
            opened.callback(process.terminate)
            assert process.stdout is not None
            told = json.loads(process.stdout.readline())
            if member == HUB:
                port = int(told["addresses"][0].rpartition(":")[2])
                write_service(folder, HUB, port)
        train(folder, "warm-up", rounds, files)
        playwright = opened.enter_context(sync_playwright())
        turns: dict[str, list[tuple[float, float]]] = {"without a console": [], "three consoles open": []}
        spent = []

        def turn(kind: str) -> None:
            used = processor_seconds(services, ended=True)
            seconds = train(folder, f"{kind.partition(' ')[0]}-{len(turns[kind])}", rounds, files)
            turns[kind].append((seconds, ended_seconds(services, used)))

        for _ in range(repeats):
            turn("without a console")
            with consoles(list(files.values())) as (addresses, pids):
                chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
                for address in addresses:
                    page = chromium.new_context().new_page()
                    sign_in(page, address)
                begun, used = time.monotonic(), processor_seconds(pids)
                turn("three consoles open")
                spent.append((processor_seconds(pids) - used) / (time.monotonic() - begun))
                chromium.close()
        table = Table(title=f"{rounds} rounds, {rows} rows a party; {described()}")
        for head in ("training", "seconds (median)", "least", "most", "processor seconds (median)", "least", "most"):
            table.add_column(head)
        for what, own in turns.items():
            table.add_row(what, *(text for column in zip(*own, strict=True) for text in spread(column)))
        pairs = zip(*turns.values(), strict=True)
        ratios = [tuple(b / a for a, b in zip(before, after, strict=True)) for before, after in pairs]
        table.add_row("ratio", *(text for column in zip(*ratios, strict=True) for text in spread(column)))
        terminal().print(table)
        share = f"{statistics.median(spent):.4f}, {min(spent):.4f} to {max(spent):.4f}"
        terminal().print(f"Processor seconds of the three consoles together, a second of the run: {share}")


def spread(values: tuple[float, ...]) -> tuple[str, str, str]:
    """Median, least and most."""
    return f"{statistics.median(values):.3f}", f"{min(values):.3f}", f"{max(values):.3f}"


def ended_seconds(services: list[int], before: float) -> float:
    """Processor seconds of services and their processes since `before`, once each has waited for its process of the run."""
    while any(children(pid) for pid in services):
        time.sleep(0.05)
    return processor_seconds(services, ended=True) - before


def children(pid: int) -> list[str]:
    """Processes of a process that are there."""
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def processor_seconds(pids: list[int], *, ended: bool = False) -> float:
    """What processes have used of the processor so far; with `ended` also their processes that are over."""
    ticks = 0
    for pid in pids:
        ticks += sum(
            map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11 : 15 if ended else 13])
        )
    return ticks / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True)
    pages = kinds.add_parser("pages")
    pages.add_argument("--runs", type=int, default=1000)
    pages.add_argument("--pictures", type=Path)
    training = kinds.add_parser("training")
    training.add_argument("--repeats", type=int, default=5)
    training.add_argument("--rounds", type=int, default=200)
    training.add_argument("--rows", type=int, default=20_000)
    given = parser.parse_args()
    if not CHROMIUM:
        sys.exit("Chromium is not installed; both measurements open pages in it")
    if given.kind == "pages":
        measure_pages(given.runs, given.pictures)
    else:
        measure_training(given.repeats, given.rounds, given.rows)


if __name__ == "__main__":
    main()
