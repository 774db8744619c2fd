"""Commands of a member's service: give it plans, see what it does, stop runs, fetch models, back it up."""

from __future__ import annotations

import contextlib
import json
import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hansa.cli.option_types import EXISTING, PATH
from hansa.printable import printable

if TYPE_CHECKING:
    from hansa.node.run import Command
    from hansa.service.config import ServiceFile
    from hansa.service.store import Store

SERVICE = click.option(
    "--service", "service_file", type=EXISTING, required=True, help="The service's file, which its command was given."
)
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")

FOLLOW_S = 0.25
"""Seconds between two looks at a run that is watched."""

UNDONE = 1
"""Exit status of `hansa watch` where the run ended without a model."""


def serve(command: Command, path: Path, as_json: bool, log_format: str) -> None:
    """Play a member as a service, until a signal ends it."""
    from hansa.cli.output import print_line
    from hansa.service.config import read_service_file
    from hansa.service.health import answering
    from hansa.service.supervisor import RunChanged, Service, ServiceListens

    def change(event: RunChanged | ServiceListens) -> None:
        if as_json:
            print_line(event)

    level = logging.getLevelName(logging.getLogger("hansa").getEffectiveLevel()).lower()
    file = read_service_file(path)
    service = Service(file, command, change, log_format, level)
    with answering(file.health, service.status), _console_of(file):
        service.serve()


@contextlib.contextmanager
def _console_of(file: ServiceFile) -> Iterator[None]:
    """The console that a service's file asks for, as a process of its own: what happens there costs no run anything.

    It writes its link to standard error, where the service's log goes, and ends with the service.
    """
    if file.document.console is None:
        yield
        return
    command = [sys.executable, "-m", "hansa", "console", str(file.path), "--listen", file.document.console]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sys.stderr, start_new_session=True)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


@click.command()
@click.argument("plan", type=EXISTING)
@SERVICE
@AS_JSON
def run(plan: Path, service_file: Path, as_json: bool) -> None:
    """Give the approved PLAN to this member's service. The run begins once every member has given it to its own."""
    from hansa.cli.output import print_line
    from hansa.service.config import read_service_file
    from hansa.service.inbox import submit

    made = submit(read_service_file(service_file), plan)
    if as_json:
        print_line(made)
    else:
        click.echo(
            printable(
                f"{made.run}: {made.plan} ({made.mode}) is given to the service; `hansa watch {made.run}` follows it"
            )
        )


@click.command()
@SERVICE
@click.option("--all", "every", is_flag=True, help="Those that are over, too.")
@AS_JSON
def runs(service_file: Path, every: bool, as_json: bool) -> None:
    """List this member's runs: those that are not over, or all."""
    from hansa.cli import output

    store = _store(service_file)
    found = store.runs(every=every)
    store.close()
    if as_json:
        for each in found:
            output.print_line(each)
        return
    head = ("run", "plan", "mode", "state", "trees", "what")
    rows = [(r.run, r.plan, r.mode, r.state, f"{r.trees} of {r.rounds}", printable(r.text, 200)) for r in found]
    output.print_tables("" if found else "no run", [[head, *rows]] if rows else [])


@click.command()
@click.argument("run")
@SERVICE
@AS_JSON
def watch(run: str, service_file: Path, as_json: bool) -> None:
    """Follow RUN (its name, the beginning of it, or its plan's name) until it is over; exit status 1 where it gave no model."""
    from hansa.service.config import read_place
    from hansa.service.supervisor import EVENTS_FILE

    file, store = read_place(service_file), _store(service_file)
    found = store.find(run)
    path, place = file.runs / found.folder / EVENTS_FILE, 0
    while True:
        over = found.over
        if found.folder:
            place = _print_events(path, place, as_json)
        if over:
            break
        time.sleep(FOLLOW_S)
        found = store.find(found.run)
    store.close()
    if not as_json:
        click.echo(printable(f"{found.run}: {found.state}: {found.text}"))
        _print_scores(file.runs / found.folder)
    if found.state != "finished":
        sys.exit(UNDONE)


@click.command()
@click.argument("run")
@SERVICE
@AS_JSON
def stop(run: str, service_file: Path, as_json: bool) -> None:
    """Give RUN up for good at this member. The others wait for it, and then say who is missing."""
    _want(run, service_file, "stop", "is to stop; the service does so at once where it runs", as_json)


@click.command()
@click.argument("run")
@SERVICE
@AS_JSON
def pause(run: str, service_file: Path, as_json: bool) -> None:
    """Have RUN stand still at this member, until `hansa resume`. The others wait for this member meanwhile."""
    _want(run, service_file, "pause", "is to pause; the service does so at once where it runs", as_json)


@click.command()
@click.argument("run")
@SERVICE
@AS_JSON
def resume(run: str, service_file: Path, as_json: bool) -> None:
    """Have RUN, which was paused, go on where it was."""
    _want(run, service_file, "", "is to go on; the service does so at once where it runs", as_json)


@click.command("fetch-model")
@click.argument("run")
@SERVICE
@click.option("--save", type=PATH, required=True, help="Where to put the model.")
@click.option("--provenance", type=PATH, help="Where to put this member's signed statement of where it comes from.")
@click.option("--signature", type=PATH, help="Where to put the model's OpenSSF signature; its key goes beside it.")
@AS_JSON
def fetch_model(
    run: str, service_file: Path, save: Path, provenance: Path | None, signature: Path | None, as_json: bool
) -> None:
    """Fetch the model of RUN, where the plan makes this member a receiver, and its hash is the run's."""
    from hansa.cli.output import print_line
    from hansa.service.config import read_service_file
    from hansa.service.models import fetch

    file, store = read_service_file(service_file), _store(service_file)
    fetched = fetch(file, store.find(run), save, provenance, signature)
    store.close()
    if as_json:
        print_line(fetched)
    else:
        click.echo(printable(f"{fetched.model}: model {fetched.sha256} of run {fetched.run}"))


@click.command()
@SERVICE
@click.option("--save", type=PATH, required=True, help="Where to put the archive (.tar).")
def backup(service_file: Path, save: Path) -> None:
    """Put the service's runs, their plans, records, models and statements, its ledger with its key, proposals, and changes of
    members and keys that are under way into one archive.

    The state of runs that are not over is left out: a state that was put back to an earlier one is refused anyway.
    """
    from hansa.service.backup import write_backup
    from hansa.service.config import read_service_file

    file, store = read_service_file(service_file), _store(service_file)
    kept = write_backup(file, store, save)
    store.close()
    click.echo(printable(f"{save}: {kept} runs; keep it like the models and the ledger that it holds"))


@click.command()
@click.argument("archive", type=EXISTING)
@SERVICE
def restore(archive: Path, service_file: Path) -> None:
    """Put what ARCHIVE holds where a service has nothing yet. Runs that were not over then are given up."""
    from hansa.service.backup import read_backup
    from hansa.service.config import read_service_file

    file = read_service_file(service_file)
    lost = read_backup(file, lambda: _store(service_file), archive)
    given_up = f"; given up, as their state is not in a back-up: {', '.join(lost)}" if lost else ""
    click.echo(printable(f"{file.state}: restored{given_up}"))


COMMANDS = (run, runs, watch, pause, resume, stop, fetch_model, backup, restore)
"""For the `hansa` command."""


def _want(run: str, service_file: Path, what: str, told: str, as_json: bool) -> None:
    """Note what the operator wants of a run, and say so."""
    from hansa.cli.output import print_line

    store = _store(service_file)
    wanted = store.want(store.find(run).run, what)
    store.close()
    if as_json:
        print_line(wanted)
    else:
        click.echo(printable(f"{wanted.run}: {wanted.plan} {told}"))


def _store(service_file: Path) -> Store:
    from hansa.service.config import read_place
    from hansa.service.store import Store

    file = read_place(service_file)
    return Store(file.name, file.state, file.database)


def _print_events(path: Path, place: int, as_json: bool) -> int:
    """Print the lines of a run's events from a place on; the next place. A file that was begun anew is read from its beginning."""
    try:
        if path.stat().st_size < place:
            place = 0
        with path.open("rb") as file:
            file.seek(place)
            content = file.read()
    except FileNotFoundError:
        return place
    whole = content[: content.rfind(b"\n") + 1]
    for line in whole.decode("ascii", "replace").splitlines():
        if as_json:
            click.echo(line)
        else:
            click.echo(printable(_sentence(json.loads(line)), 400))
    return place + len(whole)


def _print_scores(folder: Path) -> None:
    """What a plan of folds, or of a search, found, where this member's record has it: as the console's page of the run."""
    from hansa.cli.output import print_tables
    from hansa.console.runs import record_of, scores_of

    record = record_of(folder)
    for view in () if record is None else scores_of(record):
        if view.chart is None:
            print_tables(f"{view.title}. {view.note}", [view.table])


def _sentence(event: dict[str, object]) -> str:
    """A line of events, for people."""
    sentence = event.get("sentence") or event.get("text") or ""
    if not sentence and "trees" in event:
        sentence = f"{event['trees']} of at most {event['rounds']} rounds"
    return f"{event['time']} {event['event']}{f': {sentence}' if sentence else ''}"
