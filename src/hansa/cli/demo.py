"""`hansa demo`: every case's tables on the terminal, and a page with the pictures; or the operators' consoles."""

from __future__ import annotations

import contextlib
import importlib
import json
import webbrowser
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec

from hansa.cli import output
from hansa.errors import HansaError
from hansa.files import temporary
from hansa.printable import printable


def run_demo(report_path: Path, as_json: bool) -> None:
    """Run all cases; print a table each and write the page with the pictures."""
    with _needing("demo"):
        from hansa.demo.cases import CASES, case_result, run_case
        from hansa.demo.report import write_report
    results = []
    summaries = {}
    for case in CASES:
        with (
            temporary() as folder,
            output.telling(not as_json) as tell,
        ):
            outcomes = run_case(case, folder, tell)
        if not as_json:
            output.out.print(
                f"\n[bold]{case.title}[/bold]" + (" (simulated data)" if case.simulated else " (real data)"),
                markup=True,
            )
            output.print_simulation([outcome.summary for outcome in outcomes])
        summaries[case.target] = {outcome.summary.mode: outcome.summary for outcome in outcomes}
        results.append(case_result(case, outcomes))
    write_report(report_path, results)
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(summaries), allow_nan=False))
    else:
        click.echo(f"pictures: {report_path}")


def run_consoles(as_json: bool, browse: bool) -> None:
    """Train the first case, in every mode, with a console open at each operator, until a signal ends it."""
    with _needing("demo", "console", "service"):
        importlib.import_module("hansa.console.server")  # what the consoles' processes need is told here
        from hansa.demo.cases import CASES
        from hansa.demo.consoles import OpenConsole, PlanChanged, show_case

    def tell(what: OpenConsole | PlanChanged) -> None:
        if as_json:
            output.print_line(what)
        elif isinstance(what, OpenConsole):
            click.echo(printable(f"{what.member}'s console, for an operator, once: {what.link}"))
            made = f"hansa account set NAME --role officer --service {what.service}"
            click.echo(printable(f"  for an officer, who may approve: {made}"))
        elif what.state == "waiting":
            click.echo(printable(f"{what.plan}: given to the service of {what.member}"))
        else:
            click.echo(printable(f"{what.plan}: {what.state} at {what.member}: {what.text}"))
        if browse and isinstance(what, OpenConsole):
            webbrowser.open(what.link)

    with temporary() as folder:
        if not as_json:
            click.echo(f"Ctrl-C ends services and consoles, and removes what they hold, which is in {folder}")
            click.echo("Tables are made and the kernels compiled first: a few seconds, or some minutes the first time.")
        show_case(CASES[0], folder, tell)


@contextlib.contextmanager
def _needing(*extras: str) -> Iterator[None]:
    """Say what is to be installed where a package is missing. Raises HansaError."""
    try:
        yield
    except ImportError as error:
        cure = f"install hansa[{','.join(extras)}]"
        raise HansaError(f"the demo needs {error.name}; {cure}", cure=cure) from error
