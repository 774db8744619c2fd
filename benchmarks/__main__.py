"""All measurements in order, each in a process of its own.

    python -m benchmarks [--quick] [--json] [NAME ...]

A NAME is that of a file without `bench_`. Nothing is written to files; with --json, one object on
standard output holds every measurement's own object.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from benchmarks.machine import console, described, machine

HERE = Path(__file__).parent
NAMES = (
    "training",
    "table_training",
    "growth",
    "accuracy",
    "rare",
    "parity",
    "trees",
    "binning",
    "memory",
    "masking",
    "transport",
    "secure",
    "coopetitive",
    "reconstruction",
    "leaf_choices",
    "chosen_rows",
    "opened_path",
)
"""In their order. Each file takes --quick and --json."""


def run(name: str, options: list[str], captured: bool) -> str:
    """Run one measurement; its standard output where `captured`. Raises CalledProcessError where it fails."""
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.bench_{name}", *options],
        stdout=subprocess.PIPE if captured else None,
        cwd=HERE.parent,
        text=True,
        check=True,
    )
    return done.stdout


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of {', '.join(NAMES)}; default: all")
    parser.add_argument("--quick", action="store_true", help="small jobs: does everything work?")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    if unknown := sorted(set(options.names) - set(NAMES)):
        parser.error(f"no measurement {unknown[0]!r}; expected any of {', '.join(NAMES)}")
    chosen = [name for name in NAMES if not options.names or name in options.names]
    flags = [f"--{flag}" for flag in ("quick", "json") if getattr(options, flag)]
    if options.json:
        print(json.dumps({name: json.loads(run(name, flags, True)) for name in chosen}))
        return
    out = console()
    for name in chosen:
        out.rule(f"{name}: {described(machine())}")
        run(name, flags, False)


if __name__ == "__main__":
    main()
