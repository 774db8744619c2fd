"""A hub and three operators as four hosts, each with a service: `make demo-consortium`, and a test of the whole.

Each host is a network namespace with an address of its own and a private folder (0700); nothing is shared but public files, which are
"sent": cards. Proposals and approvals travel between the services. Where the
system allows no namespaces the hosts are separate loopback addresses, and the demo says
so. One operator's rows are a CSV file, one's Parquet, one's in a real PostgreSQL on its own host.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))

import namespaces  # noqa: E402
import postgresql  # noqa: E402
from hansa.demo.telecom import simulate_operators  # noqa: E402

HUB, OPERATORS = "hub", ("aurora", "borealis", "cirrus")
HOSTS = (HUB, *OPERATORS)
RECEIVERS = ("aurora", "borealis")
VICTIM = "borealis"
PORT, DATABASE_PORT = 7465, 5432
FEATURES = ("prb_utilisation_dl_pct", "traffic_gb", "rrc_connections", "hour_of_day", "prb_utilisation_ul_pct")
LABEL = "sleeping_cell"
HANG_S = 600.0
OVER = ("finished", "failed", "refused", "stopped")

PLAN = """
name = "{name}"
mode = "{mode}"

[members]
{hub} = "hub"
parties = ["aurora", "borealis", "cirrus"]
receivers = ["aurora", "borealis"]
{servers}

[schema]
features = {features}
label = "sleeping_cell"

[parameters]
objective = "binary:logistic"
rounds = {rounds}
max_depth = {depth}
max_bin = 16
"""


class Host:
    """One member's machine: an address, a folder of its own, and what runs there."""

    def __init__(self, name: str, folder: Path, address: str, within: Sequence[str]) -> None:
        self.name, self.folder, self.address, self.within = name, folder, address, tuple(within)
        folder.mkdir(mode=0o700)
        self.service: subprocess.Popen[bytes] | None = None

    def hansa(self, *arguments: str, refused: bool = False) -> str:
        """Run a command on this host, in its folder; what it prints."""
        command = [*self.within, sys.executable, "-m", "hansa", *arguments]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)
        assert (done.returncode != 0) == refused, (self.name, arguments, done.stdout, done.stderr)
        return done.stderr if refused else done.stdout

    def start(self) -> None:
        command = "aggregator" if self.name == HUB else "party"
        with (self.folder / "service.log").open("ab") as log:
            self.service = subprocess.Popen(
                [
                    *self.within,
                    sys.executable,
                    "-m",
                    "hansa",
                    command,
                    "service.toml",
                    "--service",
                    "--log-format",
                    "json",
                ],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def processes(self) -> list[int]:
        """The service's process and those of its runs."""
        assert self.service is not None
        children = Path(f"/proc/{self.service.pid}/task/{self.service.pid}/children").read_text().split()
        return [self.service.pid, *map(int, children)]

    def crash(self) -> int:
        """Every process of this host is gone at once; how many were there."""
        found = self.processes()
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert self.service is not None
        self.service.wait()
        return len(found)

    def stop(self) -> None:
        if self.service is not None and self.service.poll() is None:
            self.service.terminate()
            self.service.wait(HANG_S)

    def run_of(self, run: str) -> dict[str, Any]:
        """What this host's service knows of a run."""
        listed = self.hansa("runs", "--service", "service.toml", "--all", "--json")
        return next((each for each in map(json.loads, listed.splitlines()) if each["run"] == run), {})

    def until(self, run: str, seen: Callable[[dict[str, Any]], bool]) -> None:
        """Wait for an event of a run on this host."""
        path = self.folder / "service.service" / "runs" / run / "events.jsonl"
        give_up = time.monotonic() + HANG_S
        while True:
            lines = path.read_text().split("\n")[:-1] if path.exists() else []
            events = [json.loads(line) for line in lines]
            if any(seen(event) for event in events):
                return
            ended = any(event["event"] == "run" and event["state"] in OVER for event in events)
            assert not ended, (self.name, lines[-1:])
            assert time.monotonic() < give_up, (self.name, lines[-1:])
            time.sleep(0.1)

    def record(self, run: str) -> dict[str, Any]:
        read: dict[str, Any] = json.loads((self.folder / "service.service" / "runs" / run / "record.json").read_text())
        return read


def send(path: Path, to: Host) -> None:
    """A public file, by any way from one host to another."""
    shutil.copy(path, to.folder / path.name)


def say(text: str) -> None:
    print(text, flush=True)


@contextlib.contextmanager
def hosts(folder: Path, loopback: bool) -> Iterator[dict[str, Host]]:
    """The four hosts, and in words what they are."""
    why = "asked for" if loopback else namespaces.why_not()
    if why:
        say(f"NO NETWORK NAMESPACES ({why}): the four hosts are loopback addresses of one machine")
        yield {name: Host(name, folder / name, f"127.0.0.{place}", ()) for place, name in enumerate(HOSTS, 2)}
        return
    made = namespaces.Hosts(HOSTS)
    try:
        yield {name: Host(name, folder / name, made.address(name), made.within(name)) for name in HOSTS}
    finally:
        made.close()


@contextlib.contextmanager
def database(host: Host, port: int) -> Iterator[None]:
    """PostgreSQL on a host, listening at its own loopback address alone; its password is in the host's folder."""
    programs = postgresql.programs()
    assert programs is not None, postgresql.why_not()
    account = postgresql._account()
    place = Path(tempfile.mkdtemp(prefix="hansa-demo-postgresql-"))
    data, secret = place / "data", place / "password"
    data.mkdir(mode=0o700)
    secret.write_text("planted-demo")
    as_account: list[str] = []
    if account is not None:
        place.chmod(0o711)
        for path in (data, secret):
            os.chown(path, account.pw_uid, account.pw_gid)
        as_account = ["setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]
    made = [programs / "initdb", "-D", data, "-U", "hansa", f"--pwfile={secret}", "--auth=scram-sha-256", "--no-sync"]
    initdb = [*as_account, *map(str, made), "--encoding=UTF8", "--locale=C"]
    subprocess.run(initdb, check=True, capture_output=True, cwd="/", env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"})
    settings = ("listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off")
    command = [*host.within, *as_account, str(programs / "postgres"), "-D", str(data), "-p", str(port)]
    for setting in settings:
        command += ["-c", setting]
    process = subprocess.Popen(command, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        password = host.folder / "db.pass"
        password.write_text(secret.read_text())
        password.chmod(0o600)
        yield
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(HANG_S)
        shutil.rmtree(place, ignore_errors=True)


def load(url: str, password: str, table: Path) -> None:
    """Put a CSV file into a table of a database that is starting; runs on the database's own host."""
    import pyarrow.csv
    from adbc_driver_postgresql import dbapi

    give_up = time.monotonic() + HANG_S
    while True:
        try:
            with dbapi.connect(url.replace("hansa@", f"hansa:{password}@")) as connection:
                with connection.cursor() as cursor:
                    cursor.adbc_ingest("cells", pyarrow.csv.read_csv(table), mode="replace")
                connection.commit()
                return
        except Exception:  # the driver's own kinds, while the server starts
            assert time.monotonic() < give_up, "the database did not start"
            time.sleep(0.1)


def tables(made: dict[str, Host], cells: int, port: int) -> None:
    """Each operator's rows in its own folder, in three forms."""
    import pyarrow.csv
    import pyarrow.parquet

    columns = simulate_operators(7, (cells, cells, cells))
    for name in OPERATORS:
        mine = columns["operator"] == name
        path = made[name].folder / "cells.csv"
        rows = zip(*(columns[each][mine] for each in (*FEATURES, LABEL)), strict=True)
        lines = [",".join("" if value != value else str(value) for value in row) for row in rows]
        path.write_text("\n".join([",".join((*FEATURES, LABEL)), *lines]) + "\n")
    parquet = made["borealis"].folder / "cells.parquet"
    pyarrow.parquet.write_table(pyarrow.csv.read_csv(made["borealis"].folder / "cells.csv"), parquet)
    (made["borealis"].folder / "cells.csv").unlink()
    cirrus = made["cirrus"]
    url = f"postgresql://hansa@127.0.0.1:{port}/postgres"
    loader = [*cirrus.within, sys.executable, __file__, "--load", url, "planted-demo", str(cirrus.folder / "cells.csv")]
    subprocess.run(loader, check=True)
    (cirrus.folder / "cells.csv").unlink()


SOURCES = {
    "aurora": 'table = "cells.csv"',
    "borealis": 'table = "cells.parquet"',
    "cirrus": 'source = {{ database = "postgresql://hansa@127.0.0.1:{port}/postgres", query = "SELECT * FROM cells", '
    'password_file = "db.pass" }}',
}


def service_file(host: Host, hub: Host, port: int) -> None:
    lines = ['identity = "identity"', 'members = "members.toml"', f'hub = "{hub.address}:{PORT}"', 'exchange = "hub"']
    if host is not hub:
        lines += ["[[sources]]", SOURCES[host.name].format(port=port), "[policy]", "least_party_rows = 20"]
    (host.folder / "service.toml").write_text("\n".join(lines) + "\n")


def agree(made: dict[str, Host], mode: str, rounds: int) -> Path:
    """Propose, review and approve a plan, each on its own host; the services carry it. The approved file, which all have then."""
    hub = made[HUB]
    shared = mode == "coopetitive"
    servers = 'servers = ["aurora", "borealis", "cirrus"]' if shared else ""
    text = PLAN.format(
        name=f"cells-{mode}",
        mode=mode,
        hub="hub" if shared else "aggregator",
        servers=servers,
        features=json.dumps(FEATURES),
        rounds=rounds,
        depth=2 if shared else 4,
    )
    (hub.folder / "plan.toml").write_text(text)
    proposal = f"{mode}-proposal.json"
    pinned = ("--members", "members.toml", "--identity", "identity", "--service", "service.toml")
    hub.hansa("plan", "propose", "plan.toml", *pinned, "--save", proposal)
    digest = hashlib.sha256(base64.b64decode(json.loads((hub.folder / proposal).read_text())["payload"])).hexdigest()
    kept = Path("service.service") / "proposals" / "only" / f"{digest}.json"
    for name in OPERATORS:
        host = made[name]
        wait(lambda host=host: (host.folder / kept).exists(), f"{name} has no proposal")
        reviewed = host.hansa("plan", "review", str(kept), "--members", "members.toml")
        assert "aurora, borealis" in reviewed, reviewed
        host.hansa("plan", "approve", str(kept), *pinned)
    for name, host in made.items():
        wait(
            lambda host=host: len(json.loads((host.folder / kept).read_text())["signatures"]) == len(HOSTS),
            f"{name} has not all approvals",
        )
    return kept


def wait(there: Callable[[], bool], otherwise: str) -> None:
    """Wait for what the services bring."""
    give_up = time.monotonic() + HANG_S
    while not there():
        assert time.monotonic() < give_up, otherwise
        time.sleep(0.1)


def until_over(host: Host, run: str) -> dict[str, Any]:
    host.until(run, lambda event: event["event"] == "run" and event["state"] in OVER)
    found = host.run_of(run)
    assert found["state"] == "finished", (host.name, found)
    return found


def play(made: dict[str, Host], mode: str, rounds: int, kill: bool) -> None:
    """One run, from the proposal to the comparison of records."""
    approved = agree(made, mode, rounds)
    say(f"\n{mode}: proposed by the hub, reviewed and approved by three operators; the services carried it")
    (run,) = {
        json.loads(made[name].hansa("run", str(approved), "--service", "service.toml", "--json"))["run"]
        for name in HOSTS
    }
    if kill:
        made[VICTIM].until(run, lambda event: event.get("trees", 0) >= 1)
        ended = made[VICTIM].crash()
        say(f"  in mid-run: the host {VICTIM} crashed, {ended} processes killed (SIGKILL)")
        made[VICTIM].start()
        say(f"  {VICTIM} is started again")
    found = {name: until_over(made[name], run) for name in HOSTS}
    say(f"  run {run}, id {found[HUB]['id'][:16]}: finished at all four hosts")
    hashes = set()
    for name in HOSTS:
        if name in RECEIVERS:
            fetched = made[name].hansa("fetch-model", run, "--service", "service.toml", "--save", f"{mode}-model.json",
                                       "--provenance", f"{mode}-provenance.json", "--json")  # fmt: skip
            hashes.add(json.loads(fetched)["sha256"])
        else:
            said = made[name].hansa(
                "fetch-model", run, "--service", "service.toml", "--save", "none.json", refused=True
            )
            assert f"and not to '{name}'" in said, said
    assert len(hashes) == 1
    say(f"  model {hashes.pop()[:16]}: fetched by {', '.join(RECEIVERS)}, the same bytes; refused to hub and cirrus")
    records = {name: made[name].record(run) for name in HOSTS}
    assert len({(record["run"], record["plan"], record["mode"]) for record in records.values()}) == 1
    verified = made["aurora"].hansa(
        "verify", f"{mode}-model.json", f"{mode}-provenance.json", "--members", "members.toml"
    )
    assert "aurora" in verified
    say(f"  {'host':<10}{'role':<12}{'sent, bytes':>14}{'of it open':>14}{'went on':>9}")
    for name, record in records.items():
        # A member that came back only for the model sent nothing that its last process could count.
        sent, clear = (f"{record[key]:,}" if key in record else "-" for key in ("bytes_up", "clear_bytes"))
        say(f"  {name:<10}{record['role']:<12}{sent:>14}{clear:>14}{found[name]['epoch']:>9}")


def demo(folder: Path, *, loopback: bool, modes: Sequence[str], rounds: int, cells: int) -> None:
    """All of it, in a folder that is this demo's."""
    with contextlib.ExitStack() as stack:
        made = stack.enter_context(hosts(folder, loopback))
        for name, host in made.items():
            say(f"host {name:<10} {host.address:<12} {host.folder}")
            host.hansa("init", name, "--no-passphrase", "--folder", "identity", "--days", "1")
        for host in made.values():
            for name, other in made.items():
                shutil.copy(other.folder / "identity" / "card.toml", host.folder / f"{name}-card.toml")
        printed = {host.hansa("members", *(f"{name}-card.toml" for name in HOSTS)) for host in made.values()}
        assert len(printed) == 1, "fingerprints differ"
        say("cards exchanged; all four hosts print the same fingerprints")
        port = DATABASE_PORT if made["cirrus"].within else _free_port()
        stack.enter_context(database(made["cirrus"], port))
        tables(made, cells, port)
        say("rows: aurora CSV, borealis Parquet, cirrus PostgreSQL on its own host")
        for host in made.values():
            service_file(host, made[HUB], port)
            stack.callback(host.stop)
            host.start()
        for mode in modes:
            masked = mode == "secure-aggregation"
            play(made, mode, 3 if mode == "coopetitive" else rounds * (10 if masked else 1), kill=masked)
    say("\nall hosts are stopped")


def _free_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--loopback", action="store_true", help="loopback addresses in place of network namespaces")
    parser.add_argument("--modes", default="federated,secure-aggregation,coopetitive")
    parser.add_argument("--rounds", type=int, default=20, help="ten times as many in the run in which a host is killed")
    parser.add_argument("--cells", type=int, default=3000)
    parser.add_argument("--load", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.load:
        load(given.load[0], given.load[1], Path(given.load[2]))
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that hosts are taken down then, too
    with tempfile.TemporaryDirectory(prefix="hansa-consortium-") as folder:
        demo(
            Path(folder), loopback=given.loopback, modes=given.modes.split(","), rounds=given.rounds, cells=given.cells
        )


if __name__ == "__main__":
    main()
