"""What a measurement was taken on."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console

from hansa.node.cores import cores

WIDTH = 150
"""Characters of a table that goes to a file, where no terminal says how wide it is."""


def console(stderr: bool = False) -> Console:
    """Where the benchmarks' tables go."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, width=None if stream.isatty() else WIDTH)


def machine() -> dict[str, Any]:
    """Processor, cores, Python, and the versions that times depend on; load over the last minute."""
    return {
        "processor": _processor(),
        "cores": cores(),
        "python": platform.python_version(),
        "numpy": metadata.version("numpy"),
        "numba": metadata.version("numba"),
        "xgboost": _version("xgboost", "xgboost-cpu"),
        "load": os.getloadavg()[0],
    }


def described(found: dict[str, Any] | None = None) -> str:
    """The machine in one line, for the title of a table."""
    found = found or machine()
    return (
        f"{found['processor']}, {found['cores']} cores, load {found['load']:.1f}; Python {found['python']}, "
        f"numba {found['numba']}, XGBoost {found['xgboost'] or 'not installed'}"
    )


def _version(*packages: str) -> str | None:
    for package in packages:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
