"""`make fuzz`: every target of `fuzz_targets` under atheris (libFuzzer), each in a process of its own with its memory bounded.

    python tests/fuzz.py --seconds 10 --only plans --only "model files"

Inputs begin as valid examples and are changed by libFuzzer and by `mutations`. An input that ends in anything but a value or an allowed
error is written beside the others in --save, and printed.
"""

from __future__ import annotations

import argparse
import re
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from random import Random

MEMORY_BYTES = 4 * 2**30
RUNS = re.compile(r"stat::number_of_executed_units:\s*(\d+)")


def one(name: str, folder: Path, seconds: int) -> None:
    """Fuzz one target until its time is over or something is found. Does not come back."""
    import atheris

    with atheris.instrument_imports(include=["hansa"]):
        from fuzz_targets import TARGETS
    from mutations import mutated

    target = next(own for own in TARGETS if own.name == name)
    seeds = target.seeds()
    for number, seed in enumerate(seeds):
        (folder / "seeds" / str(number)).write_bytes(seed)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))

    def change(content: bytes, most: int, seed: int) -> bytes:
        draw = Random(seed)
        own = atheris.Mutate(content, most) if draw.randrange(2) else mutated(draw, [content, *seeds])
        return own[:most]

    options = [
        f"-max_total_time={seconds}",
        "-print_final_stats=1",
        "-max_len=200000",
        f"-artifact_prefix={folder}/found-",
    ]
    limits = ["-rss_limit_mb=0", "-timeout=60", "-verbosity=0", str(folder / "seeds")]
    atheris.Setup([sys.argv[0], *options, *limits], target.runs_quietly, custom_mutator=change)
    atheris.Fuzz()


def main() -> int:
    """Fuzz all targets, or those named; 1 where something was found."""
    from fuzz_targets import TARGETS

    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seconds", type=int, default=10, help="for each target")
    options.add_argument(
        "--only", action="append", choices=[own.name for own in TARGETS], help="a target; may be given again"
    )
    options.add_argument(
        "--save", type=Path, help="folder for inputs that were found; default: a temporary one, which stays"
    )
    options.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.one:
        one(given.one[0], Path(given.one[1]), given.seconds)
    save = given.save or Path(tempfile.mkdtemp(prefix="hansa-found-"))
    total = 0
    print(f"{'target':36} {'runs':>9}  findings", flush=True)
    for number, name in enumerate(given.only or [own.name for own in TARGETS]):
        folder = save / f"{number:02}"
        (folder / "seeds").mkdir(parents=True, exist_ok=True)
        command = [sys.executable, __file__, "--seconds", str(given.seconds), "--one", name, str(folder)]
        ended = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        found = sorted(folder.glob("found-*"))
        runs = RUNS.search(ended.stderr)
        print(f"{name:36} {runs[1] if runs else '?':>9}  {len(found)}", flush=True)
        if found or ended.returncode:
            print(ended.stdout[-3000:] + ended.stderr[-3000:], *found, sep="\n", flush=True)
        total += bool(found or ended.returncode)
    return 1 if total else 0


if __name__ == "__main__":
    sys.exit(main())
