"""The `hansa` command."""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import click

from hansa.cli.audit import audit
from hansa.cli.console import account, console
from hansa.cli.consortium import consortium
from hansa.cli.identity import asking, init
from hansa.cli.option_types import (
    EXISTING,
    PATH,
    DateRule,
    LeastRows,
    Names,
    Objective,
    Range,
    RisingNumbers,
    Search,
    Setting,
    TablePath,
)
from hansa.cli.plan import plan
from hansa.cli.service import COMMANDS as SERVICE_COMMANDS
from hansa.cli.service import serve
from hansa.cli.signals import Interrupted, interrupting
from hansa.data.schema import DECIMAL_SIGNS, UNSEEN
from hansa.errors import AGAIN, REFUSED, HansaError, exit_status, no_memory
from hansa.files import failed
from hansa.plan import LEAF_BITS_RANGE, LEAST_MIN_CELL_ROWS, MODES, SERVER_LINKS
from hansa.printable import printable

if TYPE_CHECKING:
    from hansa.data.description import Description
    from hansa.node.events import OnEvent
    from hansa.node.record import Failure
    from hansa.node.run import Command as MemberCommand
    from hansa.trees.ensemble import Unseen

LOG_FORMATS, LOG_LEVELS = ("text", "json"), ("debug", "info", "warning", "error")


@dataclass
class Ending:
    """How a command that fails says so: `log_format` for standard error; `events` also writes a line on standard output."""

    log_format: str = "text"
    events: bool = False

    def tell(self, failure: Failure) -> None:
        """One sentence; as JSON where programs listen."""
        import msgspec

        from hansa.cli.output import print_line
        from hansa.node import logs
        from hansa.node.events import Failed

        event = Failed(**msgspec.structs.asdict(failure))
        if self.events:
            print_line(event)
        if self.log_format == "json":
            own = {"time": logs.moment(time.time()), "level": "error", "logger": "hansa"}
            click.echo(json.dumps({**msgspec.to_builtins(event), **own}), err=True)
        else:
            click.echo(f"hansa: {printable(failure.text)}", err=True)


RENAMED_COMMANDS = {"identity": "init"}
"""Commands of earlier versions, each refused with the name that it has now."""


class Commands(click.Group):
    """Prints Hansa's own errors as one sentence, without a traceback, and exits with a status that says whether to try again."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] in RENAMED_COMMANDS:
            ctx.fail(f"`hansa {args[0]}` is `hansa {RENAMED_COMMANDS[args[0]]}` now")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        ending = ctx.obj = Ending()
        with interrupting():
            try:
                return super().invoke(ctx)
            except Interrupted as interrupt:
                from hansa.node.record import Failure

                ending.tell(Failure(kind="Interrupted", text=f"stopped by {interrupt}", retry=True))
                status = interrupt.status
            except HansaError as error:
                from hansa.node.record import failure_of

                ending.tell(failure_of(error))
                status = exit_status(error)
            except MemoryError as fault:
                from hansa.node.record import failure_of

                ending.tell(failure_of(no_memory(fault)))
                status = REFUSED
            except OSError as error:
                if error.errno == errno.EPIPE:
                    raise
                named = error.filename if isinstance(error.filename, str | os.PathLike) else "the system"
                refused = failed(Path(named), error)
                text = str(refused) if refused.retry else f"{named}: {error.strerror or error}"
                from hansa.node.record import Failure

                ending.tell(Failure(kind="OSError", text=text, retry=refused.retry))
                status = AGAIN if refused.retry else REFUSED
        sys.exit(status)


Command = TypeVar("Command", bound=Callable[..., None])


def long_running(command: Command, least: str = "warning") -> Command:
    """Give a command the options that say how it logs, and have it log to standard error; `least` is the default level."""

    @click.option("--log-format", type=click.Choice(LOG_FORMATS), default="text", show_default=True,
                  help="Lines on standard error: for people, or JSON objects.")  # fmt: skip
    @click.option("--log-level", type=click.Choice(LOG_LEVELS), default=least, show_default=True,
                  help="The least important lines to write.")  # fmt: skip
    @functools.wraps(command)
    def run(*arguments: Any, log_format: str, log_level: str, **options: Any) -> None:
        from hansa.cli import output
        from hansa.node import logs

        click.get_current_context().find_root().obj.log_format = log_format
        with logs.logging_to(output.err, log_format, log_level):
            command(*arguments, **options)

    return cast("Command", run)


@contextlib.contextmanager
def _telling(as_json: bool) -> Iterator[OnEvent]:
    """What takes the events of a member's run; lines of JSON on standard output with `as_json`."""
    from hansa.cli import output

    ending: Ending = click.get_current_context().find_root().obj
    ending.events = as_json
    with output.telling(not as_json and ending.log_format == "text", as_json) as tell:
        yield tell


def _check_outputs(outputs: dict[str, Path | None], **inputs: Path | None) -> None:
    """Refuse files that could not be written, before any work is done for them. Raises OutputError."""
    from hansa.files import check_outputs

    check_outputs(outputs, {name.upper(): path for name, path in inputs.items()})


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="hansa")
def main() -> None:
    """Train one XGBoost model on the rows of several organisations, without showing them."""


def tabular(command: Command) -> Command:
    """Give a command the options that say whose the rows of a table are, and what they are for, in any mode."""
    decimal = "Decimal sign of numbers that are texts, as in CSV files."
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print one JSON object."),
        click.option("--min-cell-rows", type=click.IntRange(LEAST_MIN_CELL_ROWS), help="Cuts stop at cells of so many pooled rows."),
        click.option("--set", "settings", type=Setting(), multiple=True, help="Any of XGBoost's parameters; repeatable."),
        click.option("--objective", type=Objective(), default="binary:logistic", show_default=True, help="What is predicted."),
        click.option("--decimal", type=click.Choice(DECIMAL_SIGNS), default=".", show_default=True, help=decimal),
        click.option("--categorical", multiple=True, metavar="COLUMN", help="A feature whose values are categories; repeatable."),
        click.option("--mode", type=click.Choice(MODES), default="federated", show_default=True, help="How rows are protected."),
        click.option("--classes", type=Names(), help="Texts that the label holds, in the order of the classes 0, 1, ..."),
        click.option("--member-feature", metavar="NAME", help="One more feature, categorical, of this name: whose each row is."),
        click.option("--base-margin", multiple=True, metavar="COLUMN", help="Column of margins that rows start at; repeatable."),
        click.option("--weight", help="Column of row weights."),
        click.option("--party-column", required=True, help="Column that says whose each row is."),
        click.option("--label", required=True, multiple=True, metavar="COLUMN", help="Column to predict; repeatable."),
    ):  # fmt: skip
        command = option(command)
    return command


def training(command: Command) -> Command:
    """Give a command the options that say what is trained on the rows of a table, in any mode."""
    dated, rare = (
        "A feature that is made of a date, and the rule; repeatable.",
        "Levels with fewer rows become one; repeatable.",
    )
    for option in (
        click.option("--rare-levels", type=LeastRows(), multiple=True, help=rare),
        click.option("--date", "dates", type=DateRule(), multiple=True, help=dated),
        click.option("--threads", type=click.IntRange(1), help="Compute threads."),
        click.option("--rounds", type=click.IntRange(1), default=100, show_default=True, help="Rounds of boosting: trees of a class."),
        click.option("--seed", type=click.IntRange(0), default=42, show_default=True, help="Of all draws, and of the parameters."),
    ):  # fmt: skip
        command = option(command)
    return tabular(command)


def own_metric(command: Command) -> Command:
    """Give a command the options of a metric by a function."""
    for option in (
        click.option("--maximize", is_flag=True, help="With --custom-metric: a greater mean is better."),
        click.option("--metric-bound", type=click.FloatRange(0, min_open=True), help="With it: no row's value exceeds this."),
        click.option("--custom-metric", type=EXISTING, help="Python file whose function gives each row's value of a metric."),
    ):  # fmt: skip
        command = option(command)
    return command


@main.command()
@click.argument("train", type=TablePath())
@training
@own_metric
@click.option("--test", type=TablePath(), help="Table of test rows.")
@click.option("--test-fraction", type=click.FloatRange(0, 1, min_open=True, max_open=True),
              help="Share of rows that are held out for testing; 0.2 where no --test is given.")  # fmt: skip
@click.option(
    "--servers",
    type=Names(),
    help="Coopetitive: the three compute servers, such as a,b,c; default: the first three parties.",
)
@click.option("--hub", help="Coopetitive: who relays, such as one of the servers; default: a member of its own.")
@click.option(
    "--server-links",
    type=click.Choice(SERVER_LINKS),
    default="direct",
    show_default=True,
    help="Coopetitive: servers connect to each other, or write through the hub.",
)
@click.option("--receivers", type=Names(), help="Coopetitive: who gets the model, such as a,b; default: all parties.")
@click.option(
    "--evaluation-steps",
    type=RisingNumbers(),
    help="Coopetitive: rounds after which metrics are opened, such as 10,20; default: the last.",
)
@click.option("--statistics", is_flag=True, help="Coopetitive: release gain and cover with the splits.")
@click.option("--no-statistics", is_flag=True, help="The other modes: no gain and no cover in the model.")
@click.option("--least-choices", type=click.IntRange(0), metavar="N",
              help="Leaf values so coarse that N choices of rows fit a first tree; default: 1000 in mode coopetitive.")  # fmt: skip
@click.option("--leaf-bits", type=click.IntRange(*LEAF_BITS_RANGE), metavar="N",
              help="In place of it: fraction bits of leaf values.")  # fmt: skip
@click.option("--label-range", type=Range(), help="Coopetitive, numbers: range of labels; default: that of TRAIN.")
@click.option("--evaluation-fraction", type=click.FloatRange(0, 1, max_open=True), default=0.0,
              help="Share of training rows held out for metrics and early stopping.")  # fmt: skip
@click.option("--unseen", type=click.Choice(UNSEEN), default="missing", show_default=True,
              help="What predictions of the model do with levels that no row had.")  # fmt: skip
@click.option("--alone", is_flag=True, help="Also train each party on its own rows only.")
@click.option("--pooled", is_flag=True, help="Also train on pooled rows: Hansa, and XGBoost where it is installed.")
@click.option("--save", type=PATH, help="Where to write the model (XGBoost JSON).")
@click.option("--report", type=PATH, help="Where to write what was found as a page of HTML with pictures.")
@click.option("--transcript", type=PATH, help="Folder for every frame that passed.")
@click.option("--in-process", is_flag=True, help="One process, no sockets.")
@click.option("--collectors", type=click.IntRange(0), default=0, metavar="N",
              help="Federated: so many members add up the sums of about as many parties each.")  # fmt: skip
@long_running
def simulate(
    train: Path, test: Path | None, test_fraction: float | None,
    servers: tuple[str, ...] | None, hub: str | None, server_links: str, receivers: tuple[str, ...] | None,
    evaluation_steps: tuple[int, ...] | None, statistics: bool, no_statistics: bool,
    least_choices: int | None, leaf_bits: int | None, label_range: tuple[float, float] | None,
    evaluation_fraction: float, unseen: str, alone: bool, pooled: bool, save: Path | None, report: Path | None,
    transcript: Path | None,
    in_process: bool, collectors: int, as_json: bool, **options: Any,
) -> None:  # fmt: skip
    """Split table TRAIN into parties, train them together, and compare.

    Starts one process per member and the aggregator, on loopback over mutual TLS.
    """
    from hansa.cli import output
    from hansa.files import check_folder, temporary_folder, write_whole
    from hansa.node.files import warn
    from hansa.node.model_file import check_ending
    from hansa.simulation import run as simulation
    from hansa.simulation import tables
    from hansa.simulation.training import read_training
    from hansa.views.drawing import check_drawing
    from hansa.views.html import page_html

    _check_outputs({"--save": save, "--report": report}, train=train, test=test)
    check_ending("--save", save)
    if report is not None:
        check_drawing()
    if transcript is not None:
        check_folder(
            "--transcript", transcript, (), {"--save": save, "--report": report, "TRAIN": train, "--test": test}
        )
    if statistics and no_statistics:
        raise HansaError("--statistics and --no-statistics exclude each other; give one")
    if test is not None and test_fraction is not None:
        raise HansaError("--test and --test-fraction exclude each other; give one")
    temporary_folder()
    given = read_training(train, **options)
    train_rows, parameters = given.table, given.settings.parameters
    if test is not None:
        test_rows = given.read_like(test)
    else:
        share = test_fraction or 0.2
        train_rows, test_rows = tables.split_table(train_rows, share, parameters.seed, parameters.has_classes)
    chosen = replace(
        given.settings,
        evaluation_fraction=evaluation_fraction,
        alone=alone,
        pooled=pooled,
        in_process=in_process,
        transcript=transcript,
        hub=hub or "",
        servers=servers or (),
        server_links=server_links,
        receivers=receivers or (),
        label_range=label_range,
        steps=evaluation_steps or (),
        statistics=True if statistics else False if no_statistics else None,
        least_choices=least_choices,
        leaf_bits=leaf_bits,
        unseen=unseen,
        collectors=collectors,
    )
    with output.telling(not as_json) as tell:
        result = simulation.simulate(train_rows, test_rows, chosen, tell)
    warn(result.summary.warnings)
    if save is not None:
        write_whole(save, result.model)
    if report is not None:
        summary = result.summary
        facts = f"{summary.mode}: {len(summary.members)} parties, {summary.trees} trees, model {summary.model_sha256}"
        write_whole(report, page_html(f"Simulation of {train.name}", facts, simulation.views_of(result)).encode())
    if as_json:
        output.print_line(result.summary)
    else:
        output.print_simulation([result.summary])
        if save is not None:
            click.echo(printable(f"model written to {save}"))


@main.command()
@click.argument("table", type=TablePath())
@training
@click.option("--folds", type=click.IntRange(2, 1000), default=5, show_default=True, help="How many.")
@click.option("--id", metavar="COLUMN", help="Rows of one value in it are in one fold; no feature.")
@click.option(
    "--method",
    type=click.Choice(["leave-one-out", "shapley"]),
    default="leave-one-out",
    show_default=True,
    help="Against everybody but the member, or over all orders of joining.",
)
@click.option("--metric", help="Such as auc or rmse; default: the objective's first.")
@long_running
def contributions(
    table: Path,
    folds: int,
    method: Literal["leave-one-out", "shapley"],
    metric: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Measure what each party's rows in TABLE contribute to the common model, on rows of all."""
    from hansa.cli import output
    from hansa.simulation.contributions import measure_contributions
    from hansa.simulation.training import read_training

    given = read_training(table, **options)
    settings = replace(given.settings, mode="federated")
    with output.telling(not as_json) as tell:
        found = measure_contributions(given.table, settings, method, folds, metric, tell)
    if as_json:
        output.print_line(found)
    else:
        output.print_tables(found.facts(), found.tables())


@main.command()
@click.argument("table", type=TablePath())
@training
@click.option("--folds", type=click.IntRange(2, 1000), default=5, show_default=True, help="How many.")
@click.option("--id", metavar="COLUMN", help="Rows of one value in it are in one fold; no feature.")
@click.option("--alone", is_flag=True, help="Also train each party on its own rows only.")
@own_metric
@long_running
def cv(table: Path, folds: int, alone: bool, as_json: bool, **options: Any) -> None:
    """Cross-validate over the rows of all parties in TABLE: train on all folds but one, score that one, for each fold."""
    from hansa.cli import output
    from hansa.node.files import warn
    from hansa.simulation.cross_validation import cross_validate
    from hansa.simulation.training import read_training

    given = read_training(table, **options)
    with output.telling(not as_json) as tell:
        found = cross_validate(given.table, replace(given.settings, alone=alone), folds, tell)
    warn(found.warnings)
    if as_json:
        output.print_line(found)
    else:
        output.print_tables(found.facts(), found.tables())


@main.command()
@click.argument("table", type=TablePath())
@training
@own_metric
@click.option("--trials", type=click.IntRange(1), default=50, show_default=True, help="How many.")
@click.option("--search", type=Search(), multiple=True,
              help="A parameter and its range or choices, such as eta=0.03,0.3,log or max_depth=[3,5]; repeatable.")  # fmt: skip
@click.option("--folds", type=click.IntRange(2, 1000), help="Cross-validate each trial.")
@click.option("--id", metavar="COLUMN", help="With --folds: rows of one value in it are in one fold; no feature.")
@click.option("--evaluation-fraction", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.2,
              show_default=True, help="Share of rows held out, without --folds.")  # fmt: skip
@long_running
def tune(
    table: Path, trials: int, search: tuple[tuple[str, Any], ...], folds: int | None, evaluation_fraction: float, as_json: bool,
    **options: Any,
) -> None:  # fmt: skip
    """Search for parameters by trials on the rows of all parties in TABLE; needs hansa[tune]."""
    from hansa.cli import output
    from hansa.node.files import warn
    from hansa.simulation import tuning
    from hansa.simulation.training import read_training

    given = read_training(table, **options)
    settings = replace(given.settings, evaluation_fraction=evaluation_fraction)
    space = dict(search) or tuning.default_space(settings.parameters.objective, given.given)
    with output.telling(not as_json) as tell:
        found = tuning.search(given.table, settings, given.given, space, trials, folds, tell).trials
    warn(found.warnings)
    if as_json:
        output.print_line(found)
    else:
        output.print_tables(found.facts(), found.tables())


@main.command()
@click.option("--report", type=PATH, default=Path("report.html"), show_default=True, help="Where to put the pictures.")
@click.option("--console", "consoles", is_flag=True, help="Open the operators' consoles while the three modes train.")
@click.option("--open", "browse", is_flag=True, help="With --console: open them in a browser, too.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object; with --console, one a line.")
@long_running
def demo(report: Path, consoles: bool, browse: bool, as_json: bool) -> None:
    """Three simulated telecom operators, and the real breast-cancer table: alone against together.

    With --console: the operators alone, each with a service and a console, until a signal ends them; no report is written.
    """
    from hansa.cli.demo import run_consoles, run_demo

    if browse and not consoles:
        raise HansaError("--open goes with --console; add it, or leave --open out")
    if consoles:
        run_consoles(as_json, browse)
        return
    _check_outputs({"--report": report})
    run_demo(report, as_json)


@main.command()
@click.argument("table", type=TablePath())
@tabular
@click.option("--save", type=PATH, help="Where to write the description (JSON), to compare with later.")
@click.option("--report", type=PATH, help="Where to write the description as a page of HTML.")
@long_running
def describe(table: Path, save: Path | None, report: Path | None, as_json: bool, **options: Any) -> None:
    """Describe the rows of all parties in TABLE together, as they would see them before training.

    Over the network: `hansa aggregator` and `hansa party` with --describe.
    """
    from hansa.cli import output
    from hansa.node.files import warn
    from hansa.simulation.description import describe_table
    from hansa.simulation.training import read_training
    from hansa.views.drawing import check_drawing

    _check_outputs({"--save": save, "--report": report}, table=table)
    if report is not None:
        check_drawing()
    given = read_training(table, seed=0, rounds=1, threads=None, **options)
    found, warnings = describe_table(given.table, given.settings, given.classes)
    warn(warnings)
    _put_description(found, save, report)
    if as_json:
        output.print_line(found)
    else:
        output.print_tables(found.facts(), found.tables())


def _put_description(found: Description, save: Path | None, report: Path | None) -> None:
    """Write a description where it is wanted. Raises OutputError."""
    from hansa.files import write_whole
    from hansa.node.description_page import write_page

    if save is not None:
        write_whole(save, found.to_json())
    if report is not None:
        write_page(report, found)


@main.command()
@click.argument("description", type=EXISTING)
@click.argument("table", type=TablePath())
@click.option("--decimal", type=click.Choice(DECIMAL_SIGNS), default=".", show_default=True,
              help="Decimal sign of numbers that are texts, as in CSV files.")  # fmt: skip
@click.option("--most-psi", type=click.FloatRange(0), metavar="PSI",
              help="Exit with status 1 where a feature's PSI is above it.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@long_running
def drift(description: Path, table: Path, decimal: str, most_psi: float | None, as_json: bool) -> None:
    """Compare the rows of TABLE with DESCRIPTION, which `hansa describe` saved; nothing leaves this machine."""
    from hansa.cli import output
    from hansa.data.drift import drift_of, read_described
    from hansa.node.files import warn
    from hansa.simulation.description import read_description

    known = read_description(description)
    found = drift_of(known, read_described(table, known, decimal))
    warn(found.warnings)
    if as_json:
        output.print_line(found)
    else:
        output.print_tables(found.facts(), found.tables())
    if most_psi is not None and any(own.psi > most_psi for own in found.features):
        sys.exit(REFUSED)


def member_command(command: Command) -> Command:
    """A command that runs one member, from its own file."""
    command = long_running(command, least="info")
    json_option = click.option(
        "--json", "as_json", is_flag=True, help="Print progress, notices, the record or the error as lines of JSON."
    )
    service_option = click.option(
        "--service", "as_service", is_flag=True, help="MEMBER_FILE is a service's: take approved plans as they come."
    )
    command = service_option(json_option(command))
    return cast("Command", main.command()(click.argument("member_file", type=EXISTING)(command)))


def describing(command: Command) -> Command:
    """Give a member's command the options that have its run describe the pooled table in place of training."""
    for option in (
        click.option("--report", type=PATH, help="With --describe: where to write the description as a page of HTML."),
        click.option("--describe", type=PATH, help="Describe the pooled table in place of training; where to write it (JSON)."),
    ):  # fmt: skip
        command = option(command)
    return command


@member_command
@describing
def aggregator(member_file: Path, describe: Path | None, report: Path | None, as_json: bool, as_service: bool) -> None:
    """Run the aggregator that MEMBER_FILE describes: wait for the plan's parties, train."""
    _run("aggregator", member_file, as_json, as_service, describe, report)


@member_command
@describing
def party(member_file: Path, describe: Path | None, report: Path | None, as_json: bool, as_service: bool) -> None:
    """Run the party that MEMBER_FILE describes: join the hub, contribute, receive the model."""
    _run("party", member_file, as_json, as_service, describe, report)


@member_command
def collector(member_file: Path, as_json: bool, as_service: bool) -> None:
    """Run the collector that MEMBER_FILE describes: wait for its parties, and add up what they send to the aggregator."""
    _run("collector", member_file, as_json, as_service)


@member_command
def hub(member_file: Path, as_json: bool, as_service: bool) -> None:
    """Run the hub of a coopetitive plan that MEMBER_FILE describes: wait for all members, relay what they seal.

    Where the plan gives the hub other roles too, they are played in the same process.
    """
    _run("hub", member_file, as_json, as_service)


@member_command
def server(member_file: Path, as_json: bool, as_service: bool) -> None:
    """Run the compute server without rows that MEMBER_FILE describes (a server with rows is run by `hansa party`)."""
    _run("server", member_file, as_json, as_service)


@member_command
def receiver(member_file: Path, as_json: bool, as_service: bool) -> None:
    """Run the member that MEMBER_FILE describes, which only receives the model of a coopetitive run."""
    _run("receiver", member_file, as_json, as_service)


def _run(
    command: MemberCommand,
    member_file: Path,
    as_json: bool,
    as_service: bool,
    save: Path | None = None,
    report: Path | None = None,
) -> None:
    """Run a member, unless another command is for it; say what came of it. With `save` the run describes the pooled table."""
    if as_service:
        if command == "collector":
            raise HansaError("a service runs no collector; leave --service out, and name the collector's own file")
        if save is not None or report is not None:
            raise HansaError("--service goes without --describe and --report: a service trains; leave them out")
        serve(command, member_file, as_json, click.get_current_context().find_root().obj.log_format)
        return
    from hansa.cli import output
    from hansa.node.config import read_member_file
    from hansa.node.events import Ended
    from hansa.node.run import check_command, run
    from hansa.views.drawing import check_drawing

    if report is not None and save is None:
        raise HansaError("--report goes with --describe; give both, or neither")
    _check_outputs({"--describe": save, "--report": report}, member_file=member_file)
    if report is not None:
        check_drawing()
    found: list[Description] = []
    with _telling(as_json) as tell:
        described = read_member_file(member_file, asking())
        check_command(described, command)
        record = run(described, tell, None if save is None else found.append)
    for description in found:
        _put_description(description, save, report)
        if not as_json:
            output.print_tables(description.facts(), description.tables())
    if as_json:
        output.print_line(Ended(record=record))
    elif not found:
        output.print_record(record, described.model)


@main.command()
@click.argument("plan", type=EXISTING)
@click.argument("table", type=TablePath(), required=False)
@click.option("--member", type=EXISTING, help="A party's own file: check its policy, ledger and outputs too.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def check(plan: Path, table: Path | None, member: Path | None, as_json: bool) -> None:
    """Say what a party with TABLE would send under PLAN, who can read it, and where the table departs from the plan's schema.

    Without TABLE it is the table or source of the party's own file (--member).
    """
    from hansa.node.check import check_table
    from hansa.node.events import line_of

    found = check_table(plan, table, member, asking())
    click.echo(line_of(found.report()) if as_json else found.text())
    if not found.ok:
        sys.exit(1)


@main.command()
@click.argument("table", type=TablePath(), nargs=-1)
@click.option("--member", "members", type=EXISTING, multiple=True,
              help="A party's own file, with table or source; it need name nothing else; repeatable.")  # fmt: skip
@click.option("--label", "labels", multiple=True, metavar="COLUMN", help="The column to predict; repeatable.")
@click.option("--decimal", type=click.Choice(DECIMAL_SIGNS), default=".", show_default=True,
              help="Decimal sign of numbers that are texts, as in CSV files.")  # fmt: skip
@click.option("--ranges", is_flag=True, help="Write ranges and counts of values too, which are private.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def schema(
    table: tuple[Path, ...],
    members: tuple[Path, ...],
    labels: tuple[str, ...],
    decimal: str,
    ranges: bool,
    as_json: bool,
) -> None:
    """Propose [schema] and [categories] of a plan from the columns that all tables have.

    Texts that a column holds are written, as a plan lists them; of columns of numbers no value, without --ranges.
    """
    from hansa.node.events import line_of
    from hansa.node.schema_proposal import propose_schema

    proposal = propose_schema(table, members, labels=labels, decimal=decimal, ranges=ranges)
    click.echo(line_of(proposal) if as_json else proposal.text())


@main.command()
@click.argument("model", type=EXISTING)
@click.argument("table", type=TablePath(), required=False)
@click.option(
    "--member", "own_file", type=EXISTING, help="In place of TABLE: a party's own file, with table or source."
)
@click.option("--save", type=PATH, required=True, help="Where to write the predictions: .csv or .parquet.")
@click.option("--margin", is_flag=True, help="Margins instead of probabilities.")
@click.option("--keep", multiple=True, metavar="COLUMN",
              help="A column of TABLE to write before the predictions, such as an id; repeatable.")  # fmt: skip
@click.option("--base-margin", metavar="COLUMN", multiple=True,
              help="The column where each row starts in place of the base score; one for each output of the model.")  # fmt: skip
@click.option("--decimal", type=click.Choice(DECIMAL_SIGNS), default=".", show_default=True,
              help="Decimal sign of numbers that are texts, as in CSV files.")  # fmt: skip
@click.option("--unseen", type=click.Choice(UNSEEN), default=None,
              help="Levels that the model does not know are of no category, or an error; default: as its plan says.")  # fmt: skip
@long_running
def predict(
    model: Path,
    table: Path | None,
    own_file: Path | None,
    save: Path,
    margin: bool,
    keep: tuple[str, ...],
    base_margin: tuple[str, ...],
    decimal: str,
    unseen: Unseen | None,
) -> None:
    """Score the rows of TABLE with MODEL (a model file of Hansa or XGBoost, JSON or UBJSON)."""
    from hansa.node.config import read_rows_source
    from hansa.node.files import warn
    from hansa.prediction import predict_table

    if (table is None) == (own_file is None):
        raise click.UsageError("give TABLE, or --member a party's own file that names its rows")
    source = table if own_file is None else read_rows_source(own_file)[0]
    assert source is not None
    inputs = {"--member": own_file, "TABLE": source if isinstance(source, Path) else None}
    _check_outputs({"--save": save}, model=model, **inputs)
    written, warnings = predict_table(model, source, save, margin, decimal, keep, base_margin, unseen)
    warn(warnings)
    click.echo(printable(written))


@main.command()
@click.argument("model", type=EXISTING)
@click.argument("table", type=TablePath())
@click.option("--label", "labels", multiple=True, metavar="COLUMN",
              help="The column that the model predicts; repeatable, in the model's order; default: that of --plan.")  # fmt: skip
@click.option(
    "--classes",
    type=Names(),
    help="Texts that the label holds, in the order of the classes 0, 1, ...; default: those of --plan.",
)
@click.option("--plan", type=EXISTING, help="Score only those rows of TABLE that this plan held out.")
@click.option("--against", type=EXISTING, metavar="MODEL", help="Another model, to compare on the same rows.")
@click.option(
    "--alone", is_flag=True, help="Compare with a model of TABLE's own rows only, by --plan, on those that it held out."
)
@click.option("--threshold", type=click.FloatRange(0, 1), default=0.5, show_default=True,
              help="Of two classes, 1 is predicted where its probability is above.")  # fmt: skip
@click.option("--bins", type=click.IntRange(2, 100), default=10, show_default=True, help="Of the calibration.")
@click.option("--base-margin", metavar="COLUMN", multiple=True,
              help="The column where each row starts in place of the base score; one for each output of the model.")  # fmt: skip
@click.option("--decimal", type=click.Choice(DECIMAL_SIGNS), default=".", show_default=True,
              help="Decimal sign of numbers that are texts, as in CSV files.")  # fmt: skip
@click.option("--report", type=PATH, help="Where to write the same as a page of HTML with pictures.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@long_running
def evaluate(
    model: Path, table: Path, labels: tuple[str, ...], classes: tuple[str, ...] | None, plan: Path | None, against: Path | None,
    alone: bool, threshold: float, bins: int, base_margin: tuple[str, ...], decimal: str, report: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Hold MODEL to the labelled rows of TABLE: metrics, calibration, confusion, importance. Nothing leaves this machine."""
    from hansa.cli import output
    from hansa.files import write_whole
    from hansa.node.files import warn
    from hansa.plan import read_plan
    from hansa.prediction import read_model
    from hansa.simulation.evaluation import Evaluation, compare_models, evaluate_model, question_of
    from hansa.simulation.own_model import advice_of, compare_with_own
    from hansa.views.drawing import check_drawing
    from hansa.views.html import page_html

    _check_outputs({"--report": report}, model=model, table=table, against=against, plan=plan)
    if report is not None:
        check_drawing()
    agreed = None if plan is None else read_plan(plan)
    question = question_of(
        labels, classes, agreed, decimal=decimal, base_margin=base_margin, threshold=threshold, bins=bins
    )
    if alone and (plan is None or against is not None):
        raise click.UsageError("--alone needs --plan, and does not go with --against")
    if alone:
        found: Any = compare_with_own(read_model(model), table, question)
        warn([text for text in (advice_of(found),) if text])
    elif against is None:
        found = evaluate_model(read_model(model), table, question)
    else:
        found = compare_models(read_model(model), read_model(against), (table, table), question)
    warn(found.warnings if isinstance(found, Evaluation) else found.first.warnings)
    if report is not None:
        write_whole(report, page_html(f"Model {model.name}", found.facts(), found.views()).encode())
    if as_json:
        output.print_line(found)
    else:
        output.print_tables(found.facts(), [view.table for view in found.views() if view.table])


@main.command()
@click.argument("model", type=EXISTING)
@click.option("--plan", type=EXISTING, help="The run's plan: its parameters are logged.")
@click.option("--record", type=EXISTING, help="The member's record: metrics by round are logged where it has them.")
@click.option("--provenance", type=EXISTING, help="The member's signed statement of provenance.")
@click.option("--signature", type=EXISTING, help="The OpenSSF signature of the model; its key lies beside it.")
@click.option("--tracking-uri", metavar="URI", help="Where MLflow tracks; default: what its own settings say.")
@click.option("--experiment", metavar="NAME", help="MLflow's experiment; default: what its own settings say.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def mlflow(
    model: Path, plan: Path | None, record: Path | None, provenance: Path | None, signature: Path | None,
    tracking_uri: str | None, experiment: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Log MODEL to MLflow as a model of XGBoost, with its plan's parameters, metrics by round, signature and provenance."""
    from hansa.mlflow import check_tracking, log_files
    from hansa.plan import read_plan

    agreed = None if plan is None else read_plan(plan)
    check_tracking(tracking_uri, experiment)
    uri = log_files(model, plan=agreed, record=record, provenance=provenance, signature=signature)
    click.echo(json.dumps({"model_uri": uri}) if as_json else printable(f"logged as {uri}"))


@main.command()
@click.argument("evidence", type=EXISTING)
@click.argument("other", type=EXISTING, required=False)
@click.option("--plan", type=EXISTING, required=True, help="The run's plan.")
@click.option("--members", type=EXISTING, required=True, help="The members file with the aggregator's card.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def evidence(evidence: Path, other: Path | None, plan: Path, members: Path, as_json: bool) -> None:
    """Hold what an aggregator signed, in the file EVIDENCE that a party kept when it refused row counts, to the plan.

    With OTHER, of another party: whether the aggregator signed two different histories of one run.
    """
    from hansa.node.events import line_of
    from hansa.node.evidence import judge

    judgement = judge(evidence, other, plan, members)
    click.echo(line_of(judgement) if as_json else judgement.text())


@main.command()
@click.argument("model", type=EXISTING)
@click.argument("statements", nargs=-1, required=True, type=EXISTING)
@click.option(
    "--members",
    "members_file",
    type=EXISTING,
    required=True,
    help="The consortium's file, or a members file whose identities you compared.",
)
@click.option(
    "--signature", type=EXISTING, help="An OpenSSF model signature, by the key that the first statement names."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def verify(
    model: Path, statements: tuple[Path, ...], members_file: Path, signature: Path | None, as_json: bool
) -> None:
    """Hold MODEL to the signed STATEMENTS of members (`provenance` in their files): who vouches for it, which plan and run made it."""
    from hansa.consortium.provenance import verify_model
    from hansa.consortium.versions import read_pinned
    from hansa.node.events import line_of

    found = verify_model(model, statements, read_pinned(members_file), signature)
    click.echo(line_of(found) if as_json else "\n".join(map(printable, found.lines())))


@main.command()
@click.argument("cards", nargs=-1, required=True, type=EXISTING)
@click.option("--save", type=PATH, default=Path("members.toml"), show_default=True)
def members(cards: tuple[Path, ...], save: Path) -> None:
    """Join members' CARDS into the members file, and print fingerprints to compare by another way (telephone)."""
    from hansa.consortium.identity import fingerprint
    from hansa.consortium.members import members_of, read_members, write_members
    from hansa.consortium.words import words_of

    _check_outputs({"--save": save})
    joined = members_of([card for path in cards for card in read_members(path).values()])
    write_members(save, joined)
    for name, card in sorted(joined.items()):
        click.echo(f"{name:<24} {fingerprint(card.identity)}  {words_of(card.identity)}")
    click.echo(printable(f"{save}: {len(joined)} members, digest {joined.digest().hex()}"))


main.add_command(init)
main.add_command(consortium)
main.add_command(plan)
for service_command in SERVICE_COMMANDS:
    main.add_command(service_command)
main.add_command(audit)
main.add_command(console)
main.add_command(account)
