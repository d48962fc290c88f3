"""The control door: settings, counters and the witnessed requests over HTTP, for tests.

It stays open whatever else the provider refuses, and asks for no token: keep it on 127.0.0.1.
"""

from collections.abc import Callable, Iterator
from urllib.parse import parse_qsl

import orjson

from dev.provider.faults import Reaction, plain
from dev.provider.http1 import Head, Response, render_stream
from dev.provider.provider import Provider
from dev.provider.settings import SettingsError

_ROOT = b"/control"
_LINES = "application/jsonl"

_LISTINGS: dict[bytes, tuple[str, Callable[[Provider], Iterator[bytes]]]] = {
    b"/control/summary": ("application/json", lambda provider: provider.witness.summary()),
    b"/control/accepted": ("text/plain", lambda provider: provider.witness.accepted_ids()),
    b"/control/duplicates": (_LINES, lambda provider: provider.witness.duplicates()),
}


def owns(target: bytes) -> bool:
    """Whether a request to this target is for this door."""
    return target.startswith(_ROOT) and target[len(_ROOT) :][:1] in (b"", b"/", b"?")


def handle(provider: Provider, head: Head, target: bytes, body: bytes) -> Reaction:
    """Answers one control request."""
    path, _, query = target.partition(b"?")
    try:
        if path == _ROOT:
            return _settings(provider, head, body)
        if path == b"/control/requests":
            return _requests(provider, head, query.decode("latin-1"))
        if path in _LISTINGS:
            if head.method != b"GET":
                return _not_allowed("GET")
            content_type, listing = _LISTINGS[path]
            return _stream(listing(provider), head, content_type)
    except SettingsError as error:
        return Reaction(Response(400, orjson.dumps({"code": 400, "message": str(error)})))
    return Reaction(plain(404, "no such path"))


def _settings(provider: Provider, head: Head, body: bytes) -> Reaction:
    if head.method == b"PUT":
        try:
            values = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise SettingsError(f"the body is no JSON: {error}") from None
        if not isinstance(values, dict):
            raise SettingsError("the body must be a JSON object")
        provider.change(provider.settings.changed(values), reseed="seed" in values)
    elif head.method == b"DELETE":
        provider.restore()
    elif head.method != b"GET":
        return _not_allowed("GET, PUT, DELETE")
    state = {
        "settings": provider.settings.model_dump(mode="json"),
        **provider.witness.counters(),
        "in_flight": provider.in_flight(),
        "connections": len(provider.connections),
    }
    return Reaction(Response(200, orjson.dumps(state)))


def _requests(provider: Provider, head: Head, query: str) -> Reaction:
    if head.method == b"DELETE":
        provider.witness.forget()
        return Reaction(Response(204))
    if head.method != b"GET":
        return _not_allowed("GET, DELETE")
    numbers = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in ("after", "limit"):
            raise SettingsError(f"{name}: no such parameter; there are after and limit")
        if not value.isascii() or not value.isdigit():
            raise SettingsError(f"{name}: must be a number from 0 up")
        numbers[name] = int(value)
    rows = provider.witness.rows(numbers.get("after", 0), numbers.get("limit"))
    return _stream(rows, head, _LINES)


def _stream(parts: Iterator[bytes], head: Head, content_type: str) -> Reaction:
    return Reaction(raw=render_stream(parts, head, content_type))


def _not_allowed(methods: str) -> Reaction:
    return Reaction(plain(405, f"only {methods}", ("Allow", methods)))
