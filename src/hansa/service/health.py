"""Where a service says how it is: `/healthz` (its loop goes round), `/readyz` (and nothing is wrong), `/metrics` (for Prometheus).

It listens where its file says, on the machine itself unless that names another address; it has no password and no TLS, and tells names
of plans and states, and nothing of rows or sums.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from hansa.errors import HansaError, TransportError
from hansa.service.store import OVER, ServiceRun
from hansa.service.supervisor import Status
from hansa.transport.tcp import place

STATES = ("waiting", "running", "paused", *OVER)
GOOD, BAD, NOT_FOUND = 200, 503, 404

MOST_CONNECTIONS = 64
"""Open at once, each with a thread. One more ends the oldest: a probe is answered at once, and who asks slowly keeps nobody out."""


@contextlib.contextmanager
def answering(address: tuple[str, int] | None, status: Status) -> Iterator[None]:
    """Answer at an address, in threads of its own, while the block runs; without an address nowhere.

    Raises HansaError where prometheus-client is not installed, TransportError where the address is taken.
    """
    if address is None:
        yield
        return
    try:
        from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
        from prometheus_client.exposition import CONTENT_TYPE_LATEST
    except ImportError:
        raise HansaError(
            "health needs prometheus-client: pip install 'hansa[service]', or leave health out of the service's file",
            cure="pip install 'hansa[service]'",
        ) from None
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)

    class Metrics:
        """What Prometheus's registry asks."""

        def collect(self) -> Iterator[Any]:
            """The metrics as they are now."""
            return metrics_of(status)

    registry.register(Metrics())

    class Handler(BaseHTTPRequestHandler):
        """Answers three paths."""

        timeout = 10
        server_version, sys_version = "Hansa", ""

        def do_GET(self) -> None:
            """Answer."""
            match self.path.partition("?")[0]:
                case "/healthz":
                    self._answer(
                        GOOD if status.alive else BAD, b"alive\n" if status.alive else b"its loop stands still\n"
                    )
                case "/readyz":
                    ready = status.alive and not status.fault
                    self._answer(GOOD if ready else BAD, b"ready\n" if ready else b"not ready; its log says why\n")
                case "/metrics":
                    self._answer(GOOD, generate_latest(registry), CONTENT_TYPE_LATEST)
                case _:
                    self._answer(NOT_FOUND, b"/healthz, /readyz and /metrics are here\n")

        def _answer(self, code: int, content: bytes, kind: str = "text/plain; charset=utf-8") -> None:
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            """Probes come every few seconds: nobody wants a line for each."""

    try:
        server = _Server(address, Handler)
    except OSError as error:
        raise TransportError(
            f"health: cannot listen at {place(*address)} ({error.strerror}); choose another address or port"
        ) from error
    thread = threading.Thread(target=server.serve_forever, name="health", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    """One with few threads, that does not print what goes wrong with a connection: whoever connects would fill the service's log."""

    daemon_threads = True
    request_queue_size = MOST_CONNECTIONS

    def __init__(self, *given: Any) -> None:
        self._open: dict[socket.socket, None] = {}
        self._changes = threading.Lock()
        super().__init__(*given)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread of its own, the oldest connection's where there are many."""
        with self._changes:
            if len(self._open) >= MOST_CONNECTIONS:
                oldest = next(iter(self._open))
                del self._open[oldest]
                with contextlib.suppress(OSError):  # its thread sees the end, and closes it
                    oldest.shutdown(socket.SHUT_RDWR)
            self._open[request] = None
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """End a connection."""
        with self._changes:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Of a connection that broke off its end is all that comes; any other error is this module's own."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


def metrics_of(status: Status) -> Iterator[Any]:
    """What Prometheus is told of a service."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    states = GaugeMetricFamily("hansa_runs", "Runs of this service, by state.", labels=["state"])
    counted = Counter(run.state for run in status.runs)
    for state in STATES:
        states.add_metric([state], counted[state])
    yield states
    open_runs = [run for run in status.runs if not run.over]
    of_runs: tuple[tuple[str, str, Callable[[ServiceRun], int]], ...] = (
        ("hansa_run_trees", "Rounds of boosting that a run has finished.", lambda run: run.trees),
        ("hansa_run_rounds", "Rounds of boosting that a run has at most.", lambda run: run.rounds),
        ("hansa_run_attempts", "Times that a run's process was started.", lambda run: run.attempts),
        ("hansa_run_epoch", "Times that a run went on after a loss.", lambda run: run.epoch),
        ("hansa_run_waits_for", "Members that a run waits for.", lambda run: len(run.waiting_for)),
    )
    for name, text, value_of in of_runs:
        gauge = GaugeMetricFamily(name, text, labels=["run", "plan"])
        for run in open_runs:
            gauge.add_metric([run.run, run.plan], value_of(run))
        yield gauge
    for name, text, value in (
        ("hansa_connections_handed", "Connections that were handed to runs.", status.handed),
        ("hansa_connections_refused", "Connections that named no run.", status.refused),
        ("hansa_processes_started", "Processes of runs that were started.", status.started),
    ):
        counter = CounterMetricFamily(name, text)
        counter.add_metric([], value)
        yield counter
