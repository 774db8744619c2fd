"""The `hansa` command."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hansa.errors import HansaError

if TYPE_CHECKING:
    from hansa.cli.member import MemberFile
    from hansa.plan import Plan

PATH = click.Path(path_type=Path)
EXISTING = click.Path(exists=True, dir_okay=False, path_type=Path)


class Commands(click.Group):
    """Prints Hansa's own errors as one sentence, without a traceback, and exits with status 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except HansaError as error:
            text = str(error)
        except OSError as error:
            if error.filename is None:
                raise
            text = f"{error.filename}: {error.strerror}"
        click.echo(f"hansa: {text}", err=True)
        sys.exit(1)


def require_folder(path: Path | None) -> None:
    """Refuse a file to write whose folder does not exist, before any work is done for it. Raises HansaError."""
    if path is not None and not path.parent.is_dir():
        raise HansaError(f"{path}: there is no folder {path.parent}; make it, or name another file")


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="hansa")
def main() -> None:
    """Train one XGBoost model on the rows of several organisations, without showing them."""


def parse_setting(text: str) -> tuple[str, Any]:
    """name=value, the value read as JSON where it is JSON, else as text; commas make a list for eval_metric."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise HansaError(f"--set {text!r}: expected name=value, such as eta=0.1")
    try:
        parsed: Any = json.loads(value)
    except ValueError:
        parsed = value
    if name == "eval_metric" and isinstance(parsed, str):
        parsed = parsed.split(",")
    return name, parsed


def parse_names(text: str | None) -> tuple[str, ...]:
    """Names between commas; none where nothing is given."""
    return () if text is None else tuple(name.strip() for name in text.split(","))


def parse_steps(text: str | None) -> tuple[int, ...]:
    """Whole numbers between commas; none where nothing is given."""
    if text is None:
        return ()
    try:
        return tuple(int(step) for step in text.split(","))
    except ValueError as error:
        raise HansaError(f"--evaluation-steps {text!r}: expected whole numbers, such as 10,20") from error


def parse_range(text: str | None) -> tuple[float, float] | None:
    """LOWEST,HIGHEST; None where nothing is given."""
    if text is None:
        return None
    try:
        low, high = (float(end) for end in text.split(","))
    except ValueError as error:
        raise HansaError(f"--label-range {text!r}: expected two numbers, such as 0,100") from error
    return low, high


@main.command()
@click.argument("train", type=EXISTING)
@click.option("--label", required=True, help="Column to predict.")
@click.option("--party-column", required=True, help="Column that says whose each row is.")
@click.option("--weight", help="Column of row weights.")
@click.option("--test", type=EXISTING, help="Table of test rows.")
@click.option("--test-fraction", type=click.FloatRange(0, 1, min_open=True, max_open=True),
              help="Share of rows to set aside for testing; 0.2 where no --test is given.")  # fmt: skip
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=42,
    show_default=True,
    help="Of the split, and of the parameters.",
)
@click.option("--mode", default="federated", show_default=True, help="How contributions are protected.")
@click.option(
    "--servers", help="Coopetitive: the three compute servers, such as a,b,c; default: the first three parties."
)
@click.option("--hub", help="Coopetitive: who relays, such as one of the servers; default: a member of its own.")
@click.option(
    "--server-links",
    type=click.Choice(["direct", "hub"]),
    default="direct",
    show_default=True,
    help="Coopetitive: servers connect to each other, or write through the hub.",
)
@click.option("--receivers", help="Coopetitive: who gets the model, such as a,b; default: all parties.")
@click.option(
    "--evaluation-steps", help="Coopetitive: rounds after which metrics are opened, such as 10,20; default: the last."
)
@click.option("--categorical", multiple=True, metavar="COLUMN",
              help="Coopetitive: a feature whose values are categories; repeatable.")  # fmt: skip
@click.option("--statistics", is_flag=True, help="Coopetitive: release gain and cover with the splits.")
@click.option("--label-range", help="Coopetitive, reg:squarederror: LOWEST,HIGHEST label; default: those of TRAIN.")
@click.option("--objective", default="binary:logistic", show_default=True)
@click.option(
    "--rounds", type=click.IntRange(1), default=100, show_default=True, help="Rounds of boosting: trees of a class."
)
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="Any of XGBoost's parameters; repeatable.")
@click.option("--min-cell-rows", type=click.IntRange(2), help="Cuts stop at cells of so many pooled rows.")
@click.option("--evaluation-fraction", type=click.FloatRange(0, 1, max_open=True), default=0.0,
              help="Share of training rows held out for metrics and early stopping.")  # fmt: skip
@click.option("--alone", is_flag=True, help="Also train each party on its own rows only.")
@click.option("--pooled", is_flag=True, help="Also train on pooled rows: Hansa, and XGBoost where it is installed.")
@click.option("--save", type=PATH, help="Where to write the model (XGBoost JSON).")
@click.option("--transcript", type=PATH, help="Folder for every frame that passed.")
@click.option("--in-process", is_flag=True, help="One process, no sockets.")
@click.option("--threads", type=click.IntRange(1), help="Compute threads of a party.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def simulate(
    train: Path, label: str, party_column: str, weight: str | None, test: Path | None, test_fraction: float | None,
    seed: int, mode: str, servers: str | None, hub: str | None, server_links: str, receivers: str | None,
    evaluation_steps: str | None, categorical: tuple[str, ...], statistics: bool, label_range: str | None, objective: str,
    rounds: int, settings: tuple[str, ...], min_cell_rows: int | None,
    evaluation_fraction: float, alone: bool, pooled: bool, save: Path | None, transcript: Path | None,
    in_process: bool, threads: int | None, as_json: bool,
) -> None:  # fmt: skip
    """Split table TRAIN into parties, train them together, and compare.

    Starts one process per member and the aggregator, on loopback over mutual TLS.
    """
    from hansa.cli import output, simulation, tables
    from hansa.plan import COOPETITIVE, DEFAULT_BINS_ON_SHARES, DEFAULT_MIN_CELL_ROWS
    from hansa.trees.parameters import parse_parameters

    require_folder(save)
    given = {"objective": objective, "rounds": rounds, "seed": seed}
    if mode == COOPETITIVE:
        given["max_bin"] = DEFAULT_BINS_ON_SHARES
    for text in settings:
        name, value = parse_setting(text)
        given[name] = value
    parameters = parse_parameters(given)
    if test is not None and test_fraction is not None:
        raise HansaError("--test and --test-fraction exclude each other; give one")
    table = tables.read_table(train, label, party_column, weight, categorical=categorical)
    simulation.check_labels(parameters, table)
    if test is not None:
        train_rows, test_rows = table, tables.read_table(test, label, party_column, weight, like=table)
    else:
        stratified = parameters.objective == "binary:logistic"
        train_rows, test_rows = tables.split_table(table, test_fraction or 0.2, seed, stratified)
    chosen = simulation.Settings(
        parameters=parameters,
        label=label,
        mode=mode,
        weight=weight,
        min_cell_rows=min_cell_rows or DEFAULT_MIN_CELL_ROWS,
        evaluation_fraction=evaluation_fraction,
        alone=alone,
        pooled=pooled,
        in_process=in_process,
        threads=threads,
        transcript=transcript,
        hub=hub or "",
        servers=parse_names(servers),
        server_links=server_links,
        receivers=parse_names(receivers),
        label_range=parse_range(label_range),
        steps=parse_steps(evaluation_steps),
        statistics=statistics,
    )
    with output.progress(not as_json) as report:
        result = simulation.simulate(train_rows, test_rows, chosen, report)
    if save is not None:
        save.write_bytes(result.model)
    if as_json:
        click.echo(json.dumps(result.summary))
    else:
        output.print_simulation([result.summary])
        if save is not None:
            click.echo(f"model written to {save}")


@main.command()
@click.option("--report", type=PATH, default=Path("report.html"), show_default=True, help="Where to put the pictures.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def demo(report: Path, as_json: bool) -> None:
    """Three simulated telecom operators, and the real breast-cancer table: alone against together."""
    from hansa.cli.demo import run_demo

    require_folder(report)
    run_demo(report, as_json)


@main.command()
@click.argument("member_file", type=EXISTING)
@click.option("--json", "as_json", is_flag=True, help="Print progress and record as lines of JSON.")
def aggregator(member_file: Path, as_json: bool) -> None:
    """Run the aggregator that MEMBER_FILE describes: wait for the plan's parties, train."""
    from hansa.cli import member, output

    described = member.read_member_file(member_file)
    if as_json:
        record = member.run_aggregator_process(described, _print_line)
        _print_line({"event": "record", "record": record})
        return
    with output.progress(True) as report:

        def event(what: dict[str, Any]) -> None:
            if what["event"] == "listening":
                parties = ", ".join(described.plan.parties)
                output.err.print(f"listening at {what['host']}:{what['port']} for {parties}")
            else:
                report(what)

        record = member.run_aggregator_process(described, event)
    output.print_aggregator_record(record)


@main.command()
@click.argument("member_file", type=EXISTING)
@click.option("--json", "as_json", is_flag=True, help="Print the record as a line of JSON.")
def party(member_file: Path, as_json: bool) -> None:
    """Run the party that MEMBER_FILE describes: join the hub, contribute, receive the model."""
    from hansa.cli import member, output
    from hansa.plan import COOPETITIVE

    described = member.read_member_file(member_file)
    if described.plan.mode == COOPETITIVE:
        _run_member(described, as_json)
        return
    record = member.run_party_process(described)
    if as_json:
        _print_line({"event": "record", "record": record})
    else:
        output.print_party_record(record, described.model)


@main.command()
@click.argument("member_file", type=EXISTING)
@click.option("--json", "as_json", is_flag=True, help="Print progress and record as lines of JSON.")
def hub(member_file: Path, as_json: bool) -> None:
    """Run the hub of a coopetitive plan that MEMBER_FILE describes: wait for all members, relay what they seal.

    Where the plan gives the hub other roles too, they are played in the same process.
    """
    from hansa.cli import coopetitive, member, output

    described = member.read_member_file(member_file)
    if as_json:
        _print_line({"event": "record", "record": coopetitive.run_hub_process(described, _print_line)})
        return
    plays = described.plan.hub in described.plan.participants
    with output.progress(plays) as report:

        def event(what: dict[str, Any]) -> None:
            if what["event"] == "listening":
                others = ", ".join(name for name in described.plan.members if name != described.plan.hub)
                output.err.print(f"listening at {what['host']}:{what['port']} for {others}")
            else:
                report(what)

        record = coopetitive.run_hub_process(described, event)
    output.print_hub_record(record)
    if plays:
        output.print_member_record(record, described.model)


@main.command()
@click.argument("member_file", type=EXISTING)
@click.option("--json", "as_json", is_flag=True, help="Print progress and record as lines of JSON.")
def server(member_file: Path, as_json: bool) -> None:
    """Run the compute server without rows that MEMBER_FILE describes (a server with rows is run by `hansa party`)."""
    from hansa.cli import member

    _run_member(member.read_member_file(member_file), as_json)


@main.command()
@click.argument("member_file", type=EXISTING)
@click.option("--json", "as_json", is_flag=True, help="Print progress and record as lines of JSON.")
def receiver(member_file: Path, as_json: bool) -> None:
    """Run the member that MEMBER_FILE describes, which only receives the model of a coopetitive run."""
    from hansa.cli import member

    _run_member(member.read_member_file(member_file), as_json)


def _run_member(described: MemberFile, as_json: bool) -> None:
    """A member of a coopetitive run, with whichever roles the plan gives it."""
    from hansa.cli import coopetitive, output

    if as_json:
        _print_line({"event": "record", "record": coopetitive.run_member_process(described, _print_line)})
        return
    with output.progress(True) as report:
        record = coopetitive.run_member_process(described, report)
    output.print_member_record(record, described.model)


def _print_line(event: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


@main.command()
@click.argument("plan", type=EXISTING)
@click.argument("table", type=EXISTING)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def check(plan: Path, table: Path, as_json: bool) -> None:
    """Say what a party with TABLE would send under PLAN, and where the table departs from the plan's schema."""
    from hansa.cli.checking import check_table

    report = check_table(plan, table)
    if as_json:
        click.echo(json.dumps(report.as_json()))
    else:
        click.echo(report.text())
    if not report.ok:
        sys.exit(1)


@main.command()
@click.argument("model", type=EXISTING)
@click.argument("table", type=EXISTING)
@click.option("--save", type=PATH, required=True, help="Where to write the predictions: .csv or .parquet.")
@click.option("--margin", is_flag=True, help="Margins instead of probabilities.")
def predict(model: Path, table: Path, save: Path, margin: bool) -> None:
    """Score the rows of TABLE with MODEL (an XGBoost JSON file)."""
    from hansa.cli.prediction import predict_table

    require_folder(save)
    click.echo(predict_table(model, table, save, margin))


@main.command()
@click.argument("name")
@click.option("--folder", type=PATH, help="Where to put it; default NAME.identity.")
@click.option(
    "--days",
    type=click.IntRange(1, 3650),
    default=365,
    show_default=True,
    help="Validity of the certificate.",
)
@click.option(
    "--renew", type=PATH, help="Folder of the old identity: keep its key, make a new TLS key and certificate."
)
def identity(name: str, folder: Path | None, days: int, renew: Path | None) -> None:
    """Make a member's keys and its card, which goes to all other members."""
    from hansa.consortium.identity import (
        CARD_FILE,
        create_identity,
        fingerprint,
        load_identity,
        renew_identity,
        save_identity,
    )

    target = folder or Path(f"{name}.identity")
    if renew is None:
        made = create_identity(name, days)
    else:
        made = renew_identity(load_identity(renew), days)
        if made.name != name:
            raise HansaError(f"{renew}: holds the identity of {made.name!r}, not of {name!r}")
    save_identity(made, target)
    click.echo(f"{target / CARD_FILE}: give this card to every member; fingerprint {fingerprint(made.public)}")


@main.command()
@click.argument("cards", nargs=-1, required=True, type=EXISTING)
@click.option("--save", type=PATH, default=Path("members.toml"), show_default=True)
def members(cards: tuple[Path, ...], save: Path) -> None:
    """Join members' CARDS into the members file, and print fingerprints to compare by another way (telephone)."""
    from hansa.consortium.identity import fingerprint
    from hansa.consortium.members import members_of, read_members, write_members

    joined = members_of([card for path in cards for card in read_members(path).values()])
    write_members(save, joined)
    for name, card in sorted(joined.items()):
        click.echo(f"{name:<24} {fingerprint(card.identity)}")
    click.echo(f"{save}: {len(joined)} members, digest {joined.digest().hex()}")


def _memory_of(plan: Plan) -> str:
    """What a server of a coopetitive plan needs, for numbers of rows that the plan does not know."""
    from hansa.cli.output import size
    from hansa.roles.sharing import assumed_counts, memory_needed

    def most(rows: int) -> str:
        return size(max(memory_needed(plan, assumed_counts(plan, rows), server) for server in plan.servers))

    needs = ", ".join(f"{most(rows)} for {rows:,} rows" for rows in (10_000, 100_000, 1_000_000))
    return (
        f"memory of a server: about {needs}, dealt evenly to {len(plan.parties)} parties (memory_mb in its member file)"
    )


@main.command()
@click.argument("plan", type=EXISTING)
def plan(plan: Path) -> None:
    """Check PLAN and print its digest, which all members must share."""
    from hansa.plan import read_plan

    read = read_plan(plan)
    click.echo(f"{plan}: {read.mode}, {len(read.parties)} parties, digest {read.digest().hex()}")
    if read.servers:
        click.echo(_memory_of(read))
    for name, levels in read.schema.levels.items():
        click.echo(f"{name}: {len(levels)} categories: {', '.join(map(str, levels))}")
    click.echo(f"file SHA-256 {hashlib.sha256(plan.read_bytes()).hexdigest()} (need not be the same)")
