"""The tests of shares compare a run with the protocol's own driver, which lies beside the tests of `mpc`; attacks are benchmarks."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "mpc"))
sys.path.append(str(Path(__file__).parents[2]))
