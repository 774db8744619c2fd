"""Traces of a service's runs, by OpenTelemetry: a span for each life of a run's process, with what happens in it as events."""

from __future__ import annotations

from typing import Any

from hansa.errors import HansaError
from hansa.service.store import ServiceRun
from hansa.version import __version__


class Tracer:
    """Sends spans to a collector, by OTLP over HTTP; without an address nothing.

    Spans have names of plans and members, states and sentences for people, and nothing of rows or sums.

    Args:
        address: of the collector, or None. member: whose service.

    Raises HansaError where OpenTelemetry is not installed.
    """

    def __init__(self, address: str | None, member: str) -> None:
        self._tracer: Any = None
        self._spans: dict[str, Any] = {}
        if address is None:
            return
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError:
            raise HansaError(
                "traces need OpenTelemetry: pip install 'hansa[traces]', or leave traces out of the service's file",
                cure="pip install 'hansa[traces]'",
            ) from None
        resource = Resource.create(
            {"service.name": "hansa", "service.instance.id": member, "service.version": __version__}
        )
        self._provider = TracerProvider(resource=resource)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=address)))
        self._tracer = self._provider.get_tracer("hansa")

    def begin(self, run: ServiceRun) -> None:
        """A process of the run is started."""
        if self._tracer is not None:
            given = {
                "hansa.run": run.run,
                "hansa.plan": run.plan,
                "hansa.mode": run.mode,
                "hansa.attempt": run.attempts,
            }
            self._spans[run.run] = self._tracer.start_span("hansa run", attributes=given)

    def event(self, run: ServiceRun, kind: str, text: str) -> None:
        """Something happened in it."""
        if (span := self._spans.get(run.run)) is not None:
            span.add_event(kind, {"text": text, "trees": run.trees})

    def end(self, run: ServiceRun) -> None:
        """The process has ended; `run` is the state that followed."""
        if (span := self._spans.pop(run.run, None)) is not None:
            span.set_attributes({"hansa.state": run.state, "hansa.trees": run.trees, "hansa.id": run.id})
            span.end()

    def close(self) -> None:
        """Send what is left."""
        if self._tracer is not None:
            self._provider.shutdown()
