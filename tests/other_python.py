"""Environments of their own, with packages that the tests' own environment does not have, or not in that release."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def interpreters():
    """Interpreters that start here: (major, minor) -> path, this one among them."""
    found = {sys.version_info[:2]: Path(sys.executable)}
    named = [Path(path) for minor in range(11, 20) if (path := shutil.which(f"python3.{minor}")) is not None]
    for path in [*named, *sorted(Path.home().glob(".pyenv/versions/3.*/bin/python"))]:
        asked = [str(path), "-c", "import sys, venv, ensurepip; print(*sys.version_info[:2])"]
        done = subprocess.run(asked, check=False, capture_output=True, text=True)
        if not done.returncode and re.fullmatch(r"3 \d+\n", done.stdout):
            found.setdefault(tuple(map(int, done.stdout.split())), path)
    return found


def environment(folder, *requirements, least=(3, 11)):
    """The interpreter of a new environment in `folder` with these packages, from the index that this machine is set to.

    The test is skipped where no index has them, or no Python of version `least` is here.
    """
    fitting = [path for version, path in sorted(interpreters().items()) if version >= least]
    if not fitting:
        pytest.skip(f"no Python {least[0]}.{least[1]} or later here, which {requirements[0]} needs")
    subprocess.run([str(fitting[0]), "-m", "venv", str(folder)], check=True)
    executable = folder / "bin" / "python"
    install = [str(executable), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries", "1"]
    done = subprocess.run([*install, *requirements], check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"pip cannot install {requirements} here: {done.stderr.strip()[-200:]}")
    return executable
