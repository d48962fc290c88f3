"""Tracing by OpenTelemetry, off unless OTEL_EXPORTER_OTLP_ENDPOINT is set.

While it is on, the id of a request is the W3C `traceparent` of its span, unless the caller sent an
X-Request-ID; then the trace's id is derived from that. Mailings, jobs and batches carry the id of
their request anyway, so their spans join its trace, and nothing else is stored or sent. Spans of
work that is already done are recorded with its times: no context is passed along while messages
are sent.
"""

import hashlib
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from shared import __version__

if TYPE_CHECKING:
    from opentelemetry.trace import Link, Span, SpanContext, SpanKind

TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
EXPORT_TIMEOUT_SECONDS = 5.0
FLUSH_MILLISECONDS = 1000


class Tracing:
    """Creates this process's spans and sends them to a collector in the background.

    `endpoint` is the collector's base address (OTLP over HTTP), `ratio` the share of traces that
    are recorded, chosen by their ids, so that every process chooses the same ones. A collector that
    is slow or away costs spans and nothing else.
    """

    def __init__(self, service: str, endpoint: str, ratio: float) -> None:
        # Imported here: a process that does not trace does not load the exporter and protobuf.
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

        class Ids(RandomIdGenerator):
            """Takes the ids of a request that has its own, and random ones otherwise."""

            given = threading.local()

            def generate_trace_id(self) -> int:
                return getattr(self.given, "trace", None) or super().generate_trace_id()

            def generate_span_id(self) -> int:
                return getattr(self.given, "span", None) or super().generate_span_id()

        self._ids = Ids.given
        self._bound = TraceIdRatioBased.get_bound_for_rate(ratio)
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(ratio)),
            resource=Resource.create(
                {
                    "service.namespace": "notifications",
                    "service.name": f"notifications-{service}",
                    "service.version": __version__,
                }
            ),
            id_generator=Ids(),
            shutdown_on_exit=False,
        )
        address = f"{endpoint.rstrip('/')}/v1/traces"
        exporter = OTLPSpanExporter(endpoint=address, timeout=EXPORT_TIMEOUT_SECONDS)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("notifications", __version__)

    def context_of(self, request_id: str) -> "SpanContext":
        """Return the span of the request with this id, as the parent of what it has caused."""
        from opentelemetry.trace import SpanContext, TraceFlags

        if (found := TRACEPARENT.fullmatch(request_id)) is not None:
            trace, span, flags = (int(part, 16) for part in found.groups())
        else:
            digest = hashlib.blake2b(request_id.encode(), digest_size=24).digest()
            trace, span = int.from_bytes(digest[:16]), int.from_bytes(digest[16:])
            flags = int((trace & 0xFFFF_FFFF_FFFF_FFFF) < self._bound)
        return SpanContext(trace, span, is_remote=True, trace_flags=TraceFlags(flags))

    def start_request(
        self, name: str, traceparent: str, request_id: str | None, attributes: Mapping[str, Any]
    ) -> "Span":
        """Start the span of an HTTP request, which joins the caller's trace if it sent one.

        Without one it is the root of its own trace, with the ids that belong to `request_id`. If
        the caller sent both, what the request causes belongs to the trace of `request_id`, and the
        two are linked.
        """
        from opentelemetry.trace import Link, SpanKind

        caller = self.context_of(traceparent) if TRACEPARENT.fullmatch(traceparent) else None
        own = self.context_of(request_id) if request_id else None
        if caller is not None:
            links = [Link(own)] if own else []
            span = self._start(name, caller, SpanKind.SERVER, attributes, links=links)
            if own is not None:
                self._start_as(own, name, [Link(span.get_span_context())]).end()
            return span
        if own is not None:
            return self._start_as(own, name, kind=SpanKind.SERVER, attributes=attributes)
        return self._start(name, None, SpanKind.SERVER, attributes)

    def _start_as(
        self,
        context: "SpanContext",
        name: str,
        links: Sequence["Link"] = (),
        kind: "SpanKind | None" = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> "Span":
        """Start a root span with the ids of `context`."""
        self._ids.trace, self._ids.span = context.trace_id, context.span_id
        try:
            return self._start(name, None, kind, attributes or {}, links=links)
        finally:
            self._ids.trace = self._ids.span = None

    def _start(
        self,
        name: str,
        parent: "SpanContext | None",
        kind: "SpanKind | None",
        attributes: Mapping[str, Any],
        start_ns: int | None = None,
        links: Sequence["Link"] = (),
    ) -> "Span":
        from opentelemetry.context import Context
        from opentelemetry.trace import NonRecordingSpan, SpanKind, set_span_in_context

        # Names without a dot are this service's own.
        around = Context()
        if parent is not None:
            around = set_span_in_context(NonRecordingSpan(parent), around)
        return self._tracer.start_span(
            name,
            context=around,
            kind=kind or SpanKind.INTERNAL,
            attributes={
                name if "." in name else f"notifications.{name}": value
                for name, value in attributes.items()
                if value is not None
            },
            links=links,
            start_time=start_ns,
        )

    def record(
        self,
        name: str,
        parent: "SpanContext",
        seconds: float,
        attributes: Mapping[str, Any],
        links: Sequence["SpanContext"] = (),
        error: str | None = None,
        ended_ago: float = 0.0,
    ) -> "SpanContext":
        """Record work that took `seconds` and ended `ended_ago` seconds before now."""
        from opentelemetry.trace import Link, StatusCode

        ended_ns = time.time_ns() - int(ended_ago * 1e9)
        span = self._start(
            name,
            parent,
            None,
            attributes,
            start_ns=ended_ns - int(seconds * 1e9),
            links=[Link(context) for context in links],
        )
        if error is not None:
            span.set_status(StatusCode.ERROR, error)
        span.end(ended_ns)
        return span.get_span_context()

    @contextmanager
    def span(
        self, name: str, request_id: str | None, attributes: Mapping[str, Any]
    ) -> Iterator["SpanContext | None"]:
        """Trace a block of work that a request has caused; None and nothing without its id."""
        if request_id is None:
            yield None
            return
        from opentelemetry.trace import StatusCode

        span = self._start(name, self.context_of(request_id), None, attributes)
        token = _enclosing.set(span.get_span_context())
        try:
            yield span.get_span_context()
        except BaseException as error:
            span.set_status(StatusCode.ERROR, type(error).__name__)
            raise
        finally:
            _enclosing.reset(token)
            span.end()

    def close(self) -> None:
        """Send what is left, for at most a second."""
        self._provider.force_flush(FLUSH_MILLISECONDS)


_tracing: Tracing | None = None
# The span of the job that this thread runs.
_enclosing: ContextVar["SpanContext | None"] = ContextVar("enclosing span", default=None)


def start_tracing(service: str, endpoint: str | None, ratio: float) -> None:
    """Trace this process from now on, if a collector is set."""
    global _tracing
    _tracing = None if endpoint is None else Tracing(service, endpoint, ratio)


def current_tracing() -> Tracing | None:
    """Return what traces this process; None while tracing is off."""
    return _tracing


def record_step(
    name: str, seconds: float, attributes: Mapping[str, Any], request_id: str | None = None
) -> None:
    """Record a step that took `seconds` and ends now: of this thread's job, or of `request_id`."""
    if _tracing is None:
        return
    parent = _tracing.context_of(request_id) if request_id is not None else _enclosing.get()
    if parent is not None:
        _tracing.record(name, parent, seconds, attributes)


def stop_tracing() -> None:
    global _tracing
    if _tracing is not None:
        _tracing.close()
        _tracing = None


def format_traceparent(context: "SpanContext") -> str:
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"


def trace_id_of(request_id: str | None) -> str | None:
    """Return the trace's id for log lines, if tracing is on."""
    if _tracing is None or request_id is None:
        return None
    return f"{_tracing.context_of(request_id).trace_id:032x}"
