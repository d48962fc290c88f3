"""The control interface: settings, counters and the request log over HTTP, for tests.

It works whatever else the provider refuses, and needs no token: keep it on 127.0.0.1.
"""

from collections.abc import Callable, Iterator
from urllib.parse import parse_qsl

import orjson

from dev.provider.faults import Reaction, error_response
from dev.provider.http1 import Request, Response, render_stream
from dev.provider.provider import Provider
from dev.provider.settings import SettingsError

_ROOT = b"/control"
_JSON_LINES = "text/plain; charset=utf-8"  # a browser shows it

_LISTINGS: dict[bytes, tuple[str, Callable[[Provider], Iterator[bytes]]]] = {
    b"/control/summary": ("application/json", lambda provider: provider.request_log.summary()),
    b"/control/accepted": ("text/plain", lambda provider: provider.request_log.accepted_ids()),
    b"/control/duplicates": (_JSON_LINES, lambda provider: provider.request_log.duplicates()),
}


def is_control_target(target: bytes) -> bool:
    """Return whether a request's target belongs to the control interface."""
    return target.startswith(_ROOT) and target[len(_ROOT) :][:1] in (b"", b"/", b"?")


def handle_request(provider: Provider, request: Request) -> Reaction:
    """Answer one control request."""
    path, _, query = request.target.partition(b"?")
    try:
        if path == _ROOT:
            return _handle_settings(provider, request)
        if path == b"/control/requests":
            return _handle_requests(provider, request, query.decode("latin-1"))
        if path in _LISTINGS:
            if request.method != b"GET":
                return _refuse_method("GET")
            content_type, listing = _LISTINGS[path]
            return Reaction(raw=render_stream(listing(provider), request, content_type))
    except SettingsError as error:
        return Reaction(Response(400, orjson.dumps({"code": 400, "message": str(error)})))
    return Reaction(error_response(404, "no such path"))


def _handle_settings(provider: Provider, request: Request) -> Reaction:
    if request.method == b"PUT":
        try:
            values = orjson.loads(request.body)
        except orjson.JSONDecodeError as error:
            raise SettingsError(f"the body is no JSON: {error}") from None
        if not isinstance(values, dict):
            raise SettingsError("the body must be a JSON object")
        provider.change_settings(provider.settings.replace(values), reseed="seed" in values)
    elif request.method == b"DELETE":
        provider.restore_settings()
    elif request.method != b"GET":
        return _refuse_method("GET, PUT, DELETE")
    state = {
        "settings": provider.settings.model_dump(mode="json"),
        **provider.request_log.counters(),
        "in_flight": provider.count_in_flight(),
        "connections": len(provider.connections),
    }
    return Reaction(Response(200, orjson.dumps(state)))


def _handle_requests(provider: Provider, request: Request, query: str) -> Reaction:
    if request.method == b"DELETE":
        provider.request_log.clear()
        return Reaction(Response(204))
    if request.method != b"GET":
        return _refuse_method("GET, DELETE")
    numbers = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in ("after", "limit"):
            raise SettingsError(f"{name}: no such parameter; there are after and limit")
        if not value.isascii() or not value.isdigit():
            raise SettingsError(f"{name}: must be a number from 0 up")
        numbers[name] = int(value)
    rows = provider.request_log.rows(numbers.get("after", 0), numbers.get("limit"))
    return Reaction(raw=render_stream(rows, request, _JSON_LINES))


def _refuse_method(allowed: str) -> Reaction:
    return Reaction(error_response(405, f"only {allowed}", ("Allow", allowed)))
