"""Request ids: each request gets one, which its log lines and its jobs carry.

A caller may send the id as X-Request-ID; the response has it under the same name. The ids in the
address are bound to the log lines too, and each request is logged with its outcome.
"""

import re
import time
import uuid

import structlog
from flask import Flask, Response, g, request

from api.http.unread_body import leave_body_unread

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
    sent_id = request.headers.get(HEADER, "")
    g.request_id = sent_id if VALID_ID.fullmatch(sent_id) else uuid.uuid4().hex
    g.started_at = time.monotonic()
    ids = {name: value for name, value in (request.view_args or {}).items() if name.endswith("_id")}
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(request_id=g.request_id, **ids)


def _forget_request(_: BaseException | None) -> None:
    """Keep this request's ids out of what the thread logs before its next request."""
    structlog.contextvars.clear_contextvars()


def _finish_request(response: Response) -> Response:
    response.headers[HEADER] = g.request_id
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
