"""The runs that are timed against each other, each in processes of its own, on rows made from a seed.

python -m benchmarks.contestants JOB         (one run of Hansa in one process; JOB is JSON, so is the answer)
"""

from __future__ import annotations

import hashlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from faults import DelayingHub
from hansa.data.source import Rows
from hansa.node.cores import cores, useful_threads
from hansa.node.in_process import train_in_process
from hansa.node.warm_up import warm_up
from hansa.plan import Plan
from hansa.simulation.pooled_xgboost import train_pooled_xgboost
from hansa.simulation.processes import train_in_processes
from hansa.simulation.run import SimulationSettings, make_plan
from hansa.simulation.scores import auc
from hansa.simulation.tables import Table
from hansa.transport.channel import Hub
from hansa.trees.parameters import Parameters, parse_parameters
from hansa.trees.xgboost_json import from_json

N_FEATURES = 30
NAMES = tuple(f"f{i:02}" for i in range(N_FEATURES))
SEED, TEST_SEED = 1, 2
TEST_ROWS = 20_000
ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Job:
    """What is trained.

    Attributes:
        rows: of all parties together, N_FEATURES features each. parties: who hold them in turn.
        trees, max_depth, max_bin, eta: of the model.
        round_trip_s: added to every round trip of a run in one process. mode, verify_counts: of Hansa's plan.
    """

    rows: int
    parties: int
    trees: int
    max_depth: int = 6
    max_bin: int = 256
    eta: float = 0.1
    round_trip_s: float = 0.0
    mode: str = "federated"
    verify_counts: str = "off"

    @property
    def parameters(self) -> Parameters:
        """In Hansa's form."""
        return parse_parameters(
            {"rounds": self.trees, "max_depth": self.max_depth, "max_bin": self.max_bin, "eta": self.eta}
        )


@dataclass(frozen=True)
class Run:
    """What one run took.

    Attributes:
        binning, training: seconds.
        auc: on fresh rows of the same kind; whether models are alike.
        model_sha256: of the model file; None for XGBoost's.
        bytes_up, bytes_down: of the whole run, of the busiest party. round_trips: a tree.
        peak_bytes: most memory that the process held at once. swapped_pages: written to swap meanwhile.
    """

    binning: float
    training: float
    auc: float
    model_sha256: str | None = None
    bytes_up: int = 0
    bytes_down: int = 0
    round_trips: float = 0.0
    peak_bytes: int = 0
    swapped_pages: int = 0
    startup: float = field(default=0.0)

    @property
    def whole(self) -> float:
        """Seconds of binning and training."""
        return self.binning + self.training


def made_rows(n_rows: int, seed: int = SEED) -> Rows:
    """Rows of continuous features (so that every bin is used) and a label with linear and joint effects."""
    draw = np.random.Generator(np.random.PCG64(seed))
    features = draw.standard_normal((N_FEATURES, n_rows), dtype=np.float32)
    slopes = np.random.Generator(np.random.PCG64(SEED)).standard_normal(N_FEATURES, dtype=np.float32)
    signal = np.float32(0.4) * (slopes @ features) + features[0] * features[1]
    noise = draw.logistic(size=n_rows)
    return Rows(features, (signal + noise > 1).astype(np.float32), None)


def dealt(rows: Rows, parties: int) -> dict[str, Rows]:
    """The rows given to parties in turn."""
    if parties == 1:
        return {"party-00": rows}
    return {
        f"party-{i:02}": Rows(np.ascontiguousarray(rows.features[:, i::parties]), rows.label[i::parties], None)
        for i in range(parties)
    }


def as_table(rows: Rows) -> Table:
    """The rows as the command line holds them."""
    return Table(NAMES, rows.features, rows.label, None, np.full(rows.n_rows, "all", object), {})


def plan_of(job: Job, parties: Mapping[str, Rows]) -> Plan:
    """The plan that `hansa simulate` would make."""
    plan = make_plan(SimulationSettings(parameters=job.parameters, label="y", mode=job.mode), NAMES, tuple(parties))
    return replace(plan, verify_counts=job.verify_counts)


def xgboost(job: Job) -> Run:
    """Real XGBoost on the pooled rows, in its own process with its own threads.

    It trains twice there and the second time counts: the first starts its threads.
    """
    test = made_rows(TEST_ROWS, TEST_SEED)
    with tempfile.TemporaryDirectory(prefix="hansa-bench-") as folder:
        answer, predictions = train_pooled_xgboost(
            Path(folder), as_table(made_rows(job.rows)), as_table(test), job.parameters, repeats=2
        )
    assert predictions is not None  # test rows were given
    return Run(
        answer.binning[-1],
        answer.training[-1],
        auc(predictions.astype(np.float64), test.label.astype(np.float64)),
    )


def in_process(job: Job) -> Run:
    """Hansa with all parties and the aggregator in one process, which uses all cores."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.contestants", json.dumps(asdict(job))],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        text=True,
        check=True,
    )
    return Run(**json.loads(done.stdout))


def over_tls(job: Job) -> Run:
    """Hansa with one process per member, over mutual TLS on loopback, one compute thread each."""
    parties = dealt(made_rows(job.rows), job.parties)
    tables = {name: as_table(rows) for name, rows in parties.items()}
    with tempfile.TemporaryDirectory(prefix="hansa-bench-") as folder:
        together = train_in_processes(
            Path(folder),
            plan_of(job, parties),
            tables,
            threads=1,
            transcript=None,
            report=lambda _: None,
        )
    traffic = together.traffic.values()
    return Run(
        together.seconds.binning,
        together.seconds.training,
        _auc(together.model),
        hashlib.sha256(together.model).hexdigest(),
        max(t.bytes_up for t in traffic),
        max(t.bytes_down for t in traffic),
        together.exchanges / together.trees_grown,
        startup=together.seconds.startup,
    )


def _auc(model: bytes) -> float:
    test = made_rows(TEST_ROWS, TEST_SEED)
    predictions = from_json(model).predict(test.features, cores())
    return auc(predictions.astype(np.float64), test.label.astype(np.float64))


def _swapped_pages() -> int:
    """Pages that the system has written to swap since it started."""
    lines = Path("/proc/vmstat").read_text().splitlines()
    return int(dict(line.split() for line in lines)["pswpout"])


def _here(job: Job) -> Run:
    """One run in this process."""
    parties = dealt(made_rows(job.rows), job.parties)
    warm_up(job.parameters)
    at: dict[str, float] = {}
    swapped = _swapped_pages()

    def wrap(hub: Hub) -> Hub:
        return DelayingHub(hub, job.round_trip_s) if job.round_trip_s else hub

    run = train_in_process(
        plan_of(job, parties),
        parties,
        threads=useful_threads(),
        report=lambda progress: at.setdefault(progress.stage, time.perf_counter()) and None,
        wrap=wrap,
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Run(
        at["binned"] - at["registered"],
        at["trained"] - at["binned"],
        _auc(run.outcome.model),
        hashlib.sha256(run.outcome.model).hexdigest(),
        max(t.bytes_up for t in run.traffic.values()),
        max(t.bytes_down for t in run.traffic.values()),
        run.outcome.exchanges / run.outcome.trees_grown,
        peak,
        _swapped_pages() - swapped,
    )


if __name__ == "__main__":
    print(json.dumps(asdict(_here(Job(**json.loads(sys.argv[1]))))))
