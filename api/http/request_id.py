"""Request ids: each request gets one, which its log lines and its jobs carry.

A caller may send the id as X-Request-ID; the response has it under the same name. The ids in the
address are bound to the log lines too, and each request is logged with its outcome. While tracing
is on, a request has a span, and its id is that span's `traceparent` (see shared/tracing.py).
"""

import re
import time
import uuid

import structlog
from flask import Flask, Response, g, request

from api.http.unread_body import leave_body_unread
from shared.tracing import Tracing, current_tracing, format_traceparent, trace_id_of

log = structlog.get_logger()

VALID_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
HEADER = "X-Request-ID"
# Requested by machines every few seconds: success is logged at level debug.
PROBE_ROUTES = {"/healthz", "/readyz", "/metrics", "/admin/live"}


def init_request_ids(app: Flask) -> None:
    app.before_request(_start_request)
    app.after_request(_finish_request)
    app.teardown_request(_forget_request)


def _start_request() -> None:
    sent = request.headers.get(HEADER, "")
    sent_id = sent if VALID_ID.fullmatch(sent) else None
    tracing = current_tracing()
    if tracing is None:
        g.request_id = sent_id or uuid.uuid4().hex
    else:
        g.request_id = _start_span(tracing, sent_id)
    g.started_at = time.monotonic()
    ids = {name: value for name, value in (request.view_args or {}).items() if name.endswith("_id")}
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(request_id=g.request_id, **ids)
    if "span" in g:
        structlog.contextvars.bind_contextvars(trace_id=trace_id_of(g.traceparent))


def _start_span(tracing: Tracing, sent_id: str | None) -> str:
    """Start the request's span, unless a machine asks periodically; return the request's id."""
    route = request.url_rule.rule if request.url_rule else None
    if route in PROBE_ROUTES:
        return sent_id or uuid.uuid4().hex
    g.span = tracing.start_request(
        f"{request.method} {route or 'unknown route'}",
        request.headers.get("traceparent", ""),
        sent_id,
        {
            "http.request.method": request.method,
            "http.route": route,
            "url.path": request.path,
            "request_id": sent_id,
            **{
                name: value
                for name, value in (request.view_args or {}).items()
                if name.endswith("_id")
            },
        },
    )
    g.traceparent = format_traceparent(g.span.get_span_context())
    return sent_id or str(g.traceparent)


def _forget_request(_: BaseException | None) -> None:
    """Keep this request's ids out of what the thread logs before its next request."""
    structlog.contextvars.clear_contextvars()


def _finish_request(response: Response) -> Response:
    response.headers[HEADER] = g.request_id
    if "span" in g:
        _end_span(response)
    if response.status_code >= 400:
        leave_body_unread(request, response)
    route = request.url_rule.rule if request.url_rule else None
    write = log.debug if route in PROBE_ROUTES and response.status_code < 400 else log.info
    write(
        "api.request",
        method=request.method,
        route=route,
        status=response.status_code,
        latency_ms=round((time.monotonic() - g.started_at) * 1000, 1),
    )
    return response


def _end_span(response: Response) -> None:
    from opentelemetry.trace import StatusCode

    response.headers["traceparent"] = g.traceparent
    g.span.set_attribute("http.response.status_code", response.status_code)
    if response.status_code >= 500:
        g.span.set_status(StatusCode.ERROR)
    g.span.end()
