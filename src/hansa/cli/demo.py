"""`hansa demo`: every case's tables on the terminal, and a page with the pictures."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import click
import msgspec

from hansa.cli import output
from hansa.errors import HansaError


def run_demo(report_path: Path, as_json: bool) -> None:
    """Run all cases; print a table each and write the page with the pictures."""
    try:
        from hansa.demo.cases import CASES, case_result, run_case
        from hansa.demo.report import write_report
    except ImportError as error:
        raise HansaError(f"the demo needs {error.name}; install hansa[demo]", cure="install hansa[demo]") from error
    results = []
    summaries = {}
    for case in CASES:
        with (
            tempfile.TemporaryDirectory(prefix="hansa-demo-") as folder,
            output.telling(not as_json) as tell,
        ):
            outcomes = run_case(case, Path(folder), tell)
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
