"""Gives every request an id, binds it and the ids in the address to the logs, and logs the outcome.

The caller may send the id as X-Request-ID; it is returned under the same name and follows the
request into the jobs it causes.
"""

import re
import time
import uuid

import structlog
from flask import Flask, Response, g, request

from api.http.request_parsing import discard_body

log = structlog.get_logger()

SANE = re.compile(r"[A-Za-z0-9._-]{1,64}")
HEADER = "X-Request-ID"
# Asked every few seconds by machines: their success is not news.
PROBES = {"/healthz", "/readyz", "/metrics", "/admin/live"}


def init_request_ids(app: Flask) -> None:
    app.before_request(_begin)
    app.after_request(_finish)


def _begin() -> None:
    given = request.headers.get(HEADER, "")
    g.request_id = given if SANE.fullmatch(given) else uuid.uuid4().hex
    g.started = time.monotonic()
    ids = {name: value for name, value in (request.view_args or {}).items() if name.endswith("_id")}
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(request_id=g.request_id, **ids)


def _finish(response: Response) -> Response:
    response.headers[HEADER] = g.request_id
    if response.status_code >= 400:
        discard_body(request)
    route = request.url_rule.rule if request.url_rule else None
    write = log.debug if route in PROBES and response.status_code < 400 else log.info
    write(
        "api.request",
        method=request.method,
        route=route,
        status=response.status_code,
        latency_ms=round((time.monotonic() - g.started) * 1000, 1),
    )
    return response
