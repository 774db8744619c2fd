"""Each member alone, all members together, and XGBoost on the pooled rows, on every real table and in every mode.

    python -m benchmarks.bench_parity [--tables NAME,...] [--modes MODE,...] [--splits N] [--save FILE] [--quick] [--json]
        [--folder FOLDER]

Each table is split at random into 80 % to train on and 20 % to test on, N times, class by class where labels are classes. All learners
get the same rows. Hansa trains between the parties of the table's party column, in one process (in coopetitive mode the whole protocol,
three servers and sealed messages); XGBoost trains on the pooled rows in a process of its own. Texts are categories.

The two modes with an aggregator give the same model, so they are trained once: in the first split twice, and the two files must be the
same. Coopetitive mode gets at most 20,000 rows of a table, drawn once.

With --save each finished split of a table is one line of JSON in FILE, and what FILE has already is not trained again.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from rich.table import Table as Printed

from benchmarks.machine import console, described, machine
from hansa.simulation.pooled_xgboost import ONE_HOT, train_pooled_xgboost
from hansa.simulation.run import SimulationSettings, simulate
from hansa.simulation.scores import score_table
from hansa.simulation.summary import Metrics
from hansa.simulation.tables import Table, read_table, split_table
from hansa.trees.parameters import Parameters, parse_parameters

FOLDER = Path(__file__).parent.parent / "../shared/data"
TEST_FRACTION = 0.2
SPLITS, QUICK_SPLITS, QUICK_TREES = 10, 2, 5
FEDERATED, SECURE, COOPETITIVE = MODES = ("federated", "secure-aggregation", "coopetitive")
ROWS_ON_SHARES = 20_000
"""Of a table in coopetitive mode, at most."""

HIGHER_IS_BETTER = ("auc", "aucpr", "auc_ovr")


@dataclass(frozen=True)
class Case:
    """A table of the folder and what to learn from it.

    Attributes:
        objective: in every mode.
        classes: how many, where the label is one of several.
    """

    party_column: str
    label: str
    objective: str = "binary:logistic"
    classes: int = 0


CASES = {
    "cell_anomaly_4g": Case("site", "unusual"),
    "telstra_faults": Case("region", "fault_severity", "multi:softprob", 3),
    "lte_drop_rate": Case("year", "drop_rate", "reg:squarederror"),
    "heart_disease": Case("hospital", "disease"),
    "credit_default": Case("lender", "default"),
    "adult": Case("employer", "over_50k"),
    "higgs": Case("party", "signal"),
}


@dataclass(frozen=True)
class Setup:
    """How all learners train in a mode, and what holds.

    Attributes:
        trees, eta, max_bin, max_depth: for all learners.
        most_rows: of a table; 0 for all.
        allowed_area: how much less an area (AUC) may be than XGBoost's. allowed_loss: how much more any other metric, as a share.
    """

    trees: int
    eta: float
    max_bin: int
    most_rows: int
    allowed_area: float
    allowed_loss: float
    max_depth: int = 6

    @property
    def in_words(self) -> str:
        """Parameters of all learners, and what holds."""
        area, loss = f"{self.allowed_area:g}".removeprefix("0"), f"{100 * self.allowed_loss:g}".removeprefix("0")
        return (
            f"{self.trees} trees, depth {self.max_depth}, {self.max_bin} bins, eta {self.eta:g}; holds where worse by no more than "
            f"max({area} AUC or {loss} % of another metric, 2 s.e.)"
        )


SUMMED_SETUP = Setup(100, 0.1, 256, 0, 0.0005, 0.005)
SHARED_SETUP = Setup(30, 0.3, 32, ROWS_ON_SHARES, 0.002, 0.01)


def setup_of(mode: str, quick: bool) -> Setup:
    """Of a mode; `quick` grows few trees."""
    setup = SHARED_SETUP if mode == COOPETITIVE else SUMMED_SETUP
    return replace(setup, trees=QUICK_TREES) if quick else setup


def parameters_of(case: Case, setup: Setup) -> Parameters:
    """What Hansa trains with."""
    given: dict[str, Any] = {"rounds": setup.trees, "max_depth": setup.max_depth, "max_bin": setup.max_bin}
    more = {"num_class": case.classes} if case.classes else {}
    return parse_parameters({**given, "eta": setup.eta, "objective": case.objective, **more})


class Line(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One split of one table in one mode.

    Attributes:
        trees: of the setup, by which a line of a quick run is told from others.
        table_rows: of the file. rows: of both sides of the split. categorical: features that are categories.
        hansa, xgboost: metric -> value on all test rows, the main metric first.
        test_rows, alone, together: by member, the number of its test rows and metrics on them; None where it could not train alone.
        model_sha256: of the model's file. secure_sha256: of that of secure aggregation, where it was trained too.
    """

    table: str
    mode: str
    split: int
    trees: int
    table_rows: int
    rows: int
    features: int
    categorical: int
    hansa: Metrics
    xgboost: Metrics
    test_rows: dict[str, int]
    alone: dict[str, Metrics | None]
    together: dict[str, Metrics | None]
    model_sha256: str
    secure_sha256: str | None = None
    seconds: float


class Difference(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of one metric, means over so many paired splits; better_by is positive where the first of the two is better."""

    metric: str
    splits: int
    first: float
    second: float
    better_by: float
    two_errors: float


class Member(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One party's own test rows: how many a split, and together against alone; None where alone it could not train or be measured."""

    name: str
    test_rows: float
    together_against_alone: Difference | None

    @property
    def outcome(self) -> str:
        """What training together does for it: "helps", "costs", "no difference" within two standard errors, or "alone: none"; of one
        split alone nothing is known."""
        found = self.together_against_alone
        if found is None:
            return "alone: none"
        if found.splits < 2 or abs(found.better_by) <= found.two_errors:
            return "no difference"
        return "helps" if found.better_by > 0 else "costs"


class Parity(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One table in one mode.

    Attributes:
        modes: those whose model it is. same_models: whether both gave the same file, where both were trained.
        differences: Hansa against pooled XGBoost, the main metric first.
        allowed: how much worse that one may be. held: whether it is not worse by more.
        alone, together: the main metric, a mean over members that can train alone, by their test rows.
    """

    table: str
    modes: tuple[str, ...]
    same_models: bool | None
    table_rows: int
    rows: int
    features: int
    categorical: int
    splits: tuple[int, ...]
    differences: tuple[Difference, ...]
    allowed: float
    held: bool
    alone: float | None
    together: float | None
    members: tuple[Member, ...]


class Report(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that was measured; `skipped` are tables that are not there."""

    machine: dict[str, str | int | float | None]
    results: tuple[Parity, ...]
    skipped: tuple[str, ...]


def read_case(name: str, folder: Path) -> Table | None:
    """The table; None where there is none."""
    path, case = folder / f"{name}.csv.gz", CASES[name]
    return read_table(path, case.label, case.party_column) if path.is_file() else None


def drawn(table: Table, most_rows: int) -> Table:
    """So many rows at most, the same every time."""
    if not most_rows or table.n_rows <= most_rows:
        return table
    draw = np.random.Generator(np.random.PCG64(0))
    return table.take(np.sort(draw.permutation(table.n_rows)[:most_rows]))


def compare(name: str, whole: Table, mode: str, split: int, setup: Setup, also_secure: bool) -> Line:
    """Train everybody on one split."""
    started = time.perf_counter()
    case, table = CASES[name], drawn(whole, setup.most_rows)
    parameters = parameters_of(case, setup)
    train, test = split_table(table, TEST_FRACTION, split, stratified=case.objective != "reg:squarederror")
    # On shares a split by a category tells one from the others.
    theirs = replace(parameters, max_cat_to_onehot=ONE_HOT) if mode == COOPETITIVE else parameters
    with tempfile.TemporaryDirectory(prefix="hansa-bench-") as folder:
        _, predictions = train_pooled_xgboost(Path(folder), train, test, theirs)
    assert predictions is not None  # test rows were given
    scores = score_table(parameters.objective, predictions, test.label)
    settings = SimulationSettings(parameters=parameters, label=case.label, mode=mode, in_process=True, alone=True)
    found = simulate(train, test, settings).summary
    secure = None
    if also_secure:
        secure = simulate(train, test, replace(settings, mode=SECURE, alone=False)).summary.model_sha256
    return Line(
        table=name,
        mode=mode,
        split=split,
        trees=setup.trees,
        table_rows=whole.n_rows,
        rows=table.n_rows,
        features=len(table.names),
        categorical=len(table.categories),
        hansa=found.metrics,
        xgboost={metric: None if math.isnan(value) else value for metric, value in scores.items()},
        test_rows={member: own.test_rows for member, own in found.members.items()},
        alone={member: own.metrics.alone for member, own in found.members.items()},
        together={member: own.metrics.together for member, own in found.members.items()},
        model_sha256=found.model_sha256,
        secure_sha256=secure,
        seconds=time.perf_counter() - started,
    )


def difference(metric: str, pairs: Iterable[tuple[Metrics | None, Metrics | None]]) -> Difference | None:
    """Of the pairs in which both have the metric; None where there is no such pair."""
    sign = 1 if metric in HIGHER_IS_BETTER else -1
    values = [
        (a, b)
        for first, second in pairs
        if (a := (first or {}).get(metric)) is not None and (b := (second or {}).get(metric)) is not None
    ]
    if not values:
        return None
    gains = [sign * (a - b) for a, b in values]
    return Difference(
        metric=metric,
        splits=len(values),
        first=statistics.fmean(a for a, _ in values),
        second=statistics.fmean(b for _, b in values),
        better_by=statistics.fmean(gains),
        two_errors=2 * statistics.stdev(gains) / math.sqrt(len(gains)) if len(gains) > 1 else 0.0,
    )


def parity(lines: Sequence[Line], setup: Setup) -> Parity:
    """What the splits of one table in one mode say together."""
    lines = sorted(lines, key=lambda line: line.split)
    first = lines[0]
    found = [difference(metric, ((line.hansa, line.xgboost) for line in lines)) for metric in first.hansa]
    differences = tuple(one for one in found if one is not None)
    main = differences[0]
    is_area = main.metric in HIGHER_IS_BETTER
    allowed = max(setup.allowed_area if is_area else setup.allowed_loss * main.second, main.two_errors)
    members = tuple(
        Member(
            name=name,
            test_rows=statistics.fmean(line.test_rows.get(name, 0) for line in lines),
            together_against_alone=difference(
                main.metric, ((line.together.get(name), line.alone.get(name)) for line in lines)
            ),
        )
        for name in sorted({name for line in lines for name in line.test_rows})
    )
    pairs = [(m.test_rows, own) for m in members if (own := m.together_against_alone) is not None]
    weight = sum(rows for rows, _ in pairs)
    hashes = {line.model_sha256 == line.secure_sha256 for line in lines if line.secure_sha256 is not None}
    return Parity(
        table=first.table,
        modes=(first.mode, SECURE) if hashes else (first.mode,),
        same_models=hashes == {True} if hashes else None,
        table_rows=first.table_rows,
        rows=first.rows,
        features=first.features,
        categorical=first.categorical,
        splits=tuple(line.split for line in lines),
        differences=differences,
        allowed=allowed,
        held=main.better_by >= -allowed and hashes <= {True},
        alone=sum(rows * own.second for rows, own in pairs) / weight if weight else None,
        together=sum(rows * own.first for rows, own in pairs) / weight if weight else None,
        members=members,
    )


def measure(
    tables: Sequence[str],
    modes: Sequence[str],
    splits: int,
    folder: Path = FOLDER,
    quick: bool = False,
    done: Iterable[Line] = (),
    finished: Callable[[Line], None] = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
) -> Report:
    """Train and compare; lines that are `done` already are taken as they are, others are given to `finished`."""
    trained = [SECURE] if list(modes) == [SECURE] else [mode for mode in modes if mode != SECURE]
    if SECURE in modes and COOPETITIVE in modes and FEDERATED not in modes:
        trained.insert(0, SECURE)
    known = {(line.table, line.mode, line.split, line.trees): line for line in done}
    results, skipped = [], []
    for name in tables:
        whole = read_case(name, folder)
        if whole is None:
            skipped.append(name)
            continue
        for mode in trained:
            setup, lines = setup_of(mode, quick), []
            for split in range(splits):
                line = known.get((name, mode, split, setup.trees))
                if line is None:
                    also_secure = mode == FEDERATED and SECURE in modes and split == 0
                    line = compare(name, whole, mode, split, setup, also_secure)
                    finished(line)
                lines.append(line)
                metric = next(iter(line.hansa))
                say(
                    f"{name}, {mode}, split {split + 1} of {splits}: {metric} {line.hansa[metric]:.5f}, XGBoost "
                    f"{line.xgboost[metric]:.5f}, {line.seconds:.0f} s"
                )
            results.append(parity(lines, setup))
    return Report(machine=machine(), results=tuple(results), skipped=tuple(skipped))


def show(report: Report, quick: bool) -> None:
    """Print both tables."""
    out = console()
    modes = {result.modes[0] for result in report.results}
    caption = "; ".join(
        dict.fromkeys(
            ("coopetitive: " if mode == COOPETITIVE else "with an aggregator: ") + setup_of(mode, quick).in_words
            for mode in MODES
            if mode in modes
        )
    )
    where = described(report.machine)
    printed = Printed(
        *("table", "rows x features", "mode", "metric", "splits", "alone", "together", "Hansa", "XGBoost", "better by"),
        *("allowed", "held"),
        title=f"Alone, together and pooled; ± is 2 standard errors over paired splits\n{where}",
        caption="alone, together: means over members' own test rows. Hansa, XGBoost: all test rows, XGBoost's model of the pooled "
        f"rows. better by: positive where Hansa is better. {caption}",
        title_justify="left",
    )
    more = Printed(
        *("table", "mode", "Hansa's other metrics are better by", "what training together does for members"),
        title_justify="left",
    )
    for result in report.results:
        printed.add_row(*cells(result))
        others = (f"{other.metric} {_gain(other)}" for other in result.differences[1:])
        more.add_row(result.table, result.modes[0], "\n".join(others), outcomes(result.members))
    for name in report.skipped:
        printed.add_row(name, "[yellow]skipped: no such file")
    out.print(printed)
    out.print(more)
    members = Printed(
        *("table", "mode", "member", "test rows", "metric", "alone", "together", "gain", "pooling"),
        title="Each member's own test rows, a mean over splits",
        title_justify="left",
    )
    for result in report.results:
        for member in result.members:
            members.add_row(*member_cells(result, member))
        members.add_section()
    out.print(members)


def cells(result: Parity) -> list[str]:
    """A line of the first table."""
    main = result.differences[0]
    rows = f"{result.rows:,} x {result.features}"
    if result.rows < result.table_rows:
        rows += f"\ndrawn of {result.table_rows:,}"
    if result.categorical:
        rows += f"\n{result.categorical} categorical"
    mode = "\n".join(result.modes)
    if result.same_models is not None:
        mode += "\n(the same file)" if result.same_models else "\n[bold red]files differ"
    return [
        result.table,
        rows,
        mode,
        main.metric,
        str(len(result.splits)),
        *("none" if value is None else _figure(value) for value in (result.alone, result.together)),
        _figure(main.first),
        _figure(main.second),
        _gain(main).replace(" ±", "\n±"),
        _figure(result.allowed),
        "yes" if result.held else "[bold red]no",
    ]


def outcomes(members: Sequence[Member]) -> str:
    """How many members gain, and who does not."""
    named: dict[str, list[str]] = {}
    for member in members:
        named.setdefault(member.outcome, []).append(member.name)
    parts = [f"helps {len(named.get('helps', ()))} of {len(members)}"]
    if "costs" in named:
        parts.append(f"costs {', '.join(named['costs'])}")
    if "no difference" in named:
        parts.append(f"does not help {', '.join(named['no difference'])}")
    if "alone: none" in named:
        parts.append(f"nothing alone: {', '.join(named['alone: none'])}")
    return "\n".join(parts)


def member_cells(result: Parity, member: Member) -> list[str]:
    """A line of the second table."""
    found = member.together_against_alone
    values = ["", "none", "", ""]
    if found is not None:
        values = [found.metric, _figure(found.second), _figure(found.first), _gain(found)]
    return [result.table, result.modes[0], member.name, f"{member.test_rows:,.0f}", *values, member.outcome]


def _figure(value: float) -> str:
    """Four decimals, and of what is small more."""
    return f"{value:.4f}" if abs(value) >= 0.1 else f"{value:.5f}" if abs(value) >= 1e-4 else f"{value:.7f}"


def _gain(found: Difference) -> str:
    digits = 5 if max(abs(found.first), abs(found.second)) >= 0.1 else 7
    return f"{found.better_by:+.{digits}f} ± {found.two_errors:.{digits}f}"


def _listed(known: Iterable[str]) -> Callable[[str], list[str]]:
    names = list(known)

    def listed(text: str) -> list[str]:
        chosen = text.split(",")
        if unknown := sorted(set(chosen) - set(names)):
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(names)}")
        return [name for name in names if name in chosen]

    return listed


def _splits(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of splits; expected 1 or more")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=_listed(CASES), default=list(CASES), metavar="NAME,...", help="default: all")
    parser.add_argument("--modes", type=_listed(MODES), default=list(MODES), metavar="MODE,...", help="default: all")
    parser.add_argument("--splits", type=_splits, metavar="N", help=f"paired random splits (default {SPLITS})")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the tables are")
    parser.add_argument(
        "--save", type=Path, metavar="FILE", help="add a line a finished split; take those already there"
    )
    parser.add_argument(
        "--quick", action="store_true", help=f"{QUICK_SPLITS} splits of {QUICK_TREES} trees: does it work?"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def main() -> None:
    """Measure and print."""
    options = _parser().parse_args()
    notes = console(stderr=True)
    done: list[Line] = []
    if options.save and options.save.is_file():
        done = [msgspec.json.decode(line, type=Line) for line in options.save.read_bytes().splitlines()]

    def finished(line: Line) -> None:
        if options.save:
            with options.save.open("ab") as file:
                file.write(msgspec.json.encode(line) + b"\n")

    report = measure(
        options.tables,
        options.modes,
        options.splits or (QUICK_SPLITS if options.quick else SPLITS),
        options.folder,
        options.quick,
        done,
        finished,
        lambda text: notes.print(text, highlight=False),
    )
    if options.json:
        print(msgspec.json.encode(report).decode())
    else:
        show(report, options.quick)


if __name__ == "__main__":
    main()
