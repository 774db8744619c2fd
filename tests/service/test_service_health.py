"""The health endpoint's answers."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from hansa.errors import TransportError
from hansa.service.health import MOST_CONNECTIONS, answering
from hansa.service.store import ServiceRun
from hansa.service.supervisor import Status
from made_services import ask
from waiting import until


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def test_health_readiness_and_metrics():
    port = free_port()
    runs = (
        ServiceRun(run="a1", plan='say "x"\n', state="running", trees=7, rounds=20, attempts=2, waiting_for=("south",)),
        ServiceRun(run="b2", plan="old", state="finished"),
    )
    status = Status(member="north", runs=runs, looked=time.monotonic(), handed=3, refused=1, started=2)
    url = f"http://127.0.0.1:{port}"
    with answering(("127.0.0.1", port), status):
        assert ask(f"{url}/healthz") == (200, "alive\n")
        assert ask(f"{url}/readyz") == (200, "ready\n")
        code, text = ask(f"{url}/metrics")
        assert code == 200
        found = {family.name: family for family in text_string_to_metric_families(text)}
        states = {sample.labels["state"]: sample.value for sample in found["hansa_runs"].samples}
        assert states["running"] == states["finished"] == 1
        assert states["failed"] == 0
        [trees] = found["hansa_run_trees"].samples
        assert (trees.labels, trees.value) == ({"run": "a1", "plan": 'say "x"\n'}, 7)
        assert found["hansa_run_waits_for"].samples[0].value == 1
        assert found["hansa_connections_handed"].samples[0].value == 3
        assert "process_resident_memory_bytes" in found
        status.fault = "the database is away"
        assert ask(f"{url}/readyz")[0] == 503
        assert ask(f"{url}/healthz")[0] == 200
        status.looked = float("-inf")
        assert ask(f"{url}/healthz")[0] == 503
        assert ask(f"{url}/other")[0] == 404


def test_whoever_connects_gets_few_threads_and_no_line_in_the_log(capfd):
    """Each connection had a thread for as long as it said a byte in ten seconds, and each that broke off wrote a traceback."""
    port = free_port()
    place = ("127.0.0.1", port)
    before = threading.active_count()
    with answering(place, Status(looked=float("inf"))), contextlib.ExitStack() as held:
        slow = [held.enter_context(socket.create_connection(place)) for _ in range(2 * MOST_CONNECTIONS)]
        assert ask(f"http://127.0.0.1:{port}/healthz") == (200, "alive\n")
        assert slow[0].recv(1) == b""  # the oldest gave way
        until(lambda: threading.active_count() <= before + MOST_CONNECTIONS + 1)
        for _ in range(10):
            with socket.create_connection(place) as gone:
                gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # ends by a reset
                gone.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        with socket.create_connection(place) as odd:
            odd.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
            answer = odd.recv(4096)
        assert b"Server: Hansa" in answer
        assert b"Python" not in answer
        assert ask(f"http://127.0.0.1:{port}/readyz") == (200, "ready\n")
    assert capfd.readouterr().err == ""


def test_an_address_that_is_taken_is_refused():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = ("127.0.0.1", taken.getsockname()[1])
        with pytest.raises(TransportError, match="health: cannot listen at"), answering(address, Status()):
            pass
