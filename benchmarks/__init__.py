"""Measurements of Hansa: `python -m benchmarks [--quick] [--json] [names ...]`. They share naive twins and drivers with the tests."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent / "tests"))
