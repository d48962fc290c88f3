"""One exchange with the provider: its request, the easy handle that carries it, how it ended."""

import re
import ssl
from collections.abc import Callable
from time import monotonic
from typing import Any, NamedTuple

import certifi
import pycurl

from worker.provider.outcomes import Outcome, Verdict, classify_answer, classify_failure

MAX_ANSWER_BYTES = 64 * 1024
MAX_CONNECT_SECONDS = 5.0

# Looked up once: these are read for every message.
_URL = pycurl.URL
_HTTPHEADER = pycurl.HTTPHEADER
_POSTFIELDS = pycurl.POSTFIELDS
_RESPONSE_CODE = pycurl.RESPONSE_CODE


class Request:
    """One message on its way to the provider. `batch` is the caller's own, never looked at."""

    __slots__ = ("batch", "body", "message_id", "request_id")

    def __init__(
        self, message_id: int, body: bytes, request_id: str | None = None, batch: Any = None
    ) -> None:
        self.message_id = message_id
        self.body = body
        self.request_id = request_id
        self.batch = batch


class Result(NamedTuple):
    """What became of one request."""

    request: Request
    outcome: Outcome
    http_status: int | None
    latency: float  # seconds since the hand-off; 0 if there was none
    retry_after: float | None
    excerpt: str
    reason: str
    handed_off: bool
    finished_at: float


class Slot:
    """A reusable easy handle and what is known of the request it carries.

    Its methods are bound once, and it is no subclass of Curl, whose attribute access is slow.
    """

    __slots__ = (
        "chunks",
        "curl",
        "getinfo",
        "handed_off_at",
        "header_lines",
        "lane",
        "refused_resend",
        "request",
        "request_id",
        "setopt",
        "stale",
    )

    request: Request

    def __init__(self, lane: Any) -> None:
        self.lane = lane  # the engine's own
        self.curl = pycurl.Curl()
        self.setopt = self.curl.setopt
        self.getinfo = self.curl.getinfo
        self.request_id: str | None = None  # the one its header list holds
        self.chunks: list[bytes] = []
        self.header_lines: list[bytes] = []
        self.handed_off_at = 0.0  # 0: not yet
        self.refused_resend = False
        self.stale = False  # met a connection that had died while idle, and did not use it


def make_slot(lane: Any, headers: list[str], https: bool, timeout: float) -> Slot:
    """A handle that lacks only its gate and, for each exchange, its URL and body."""
    slot = Slot(lane)
    setopt = slot.setopt
    setopt(pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS)
    setopt(
        pycurl.HTTP_VERSION,
        pycurl.CURL_HTTP_VERSION_2TLS if https else pycurl.CURL_HTTP_VERSION_1_1,
    )
    setopt(pycurl.HTTP09_ALLOWED, 0)
    setopt(pycurl.POST, 1)
    setopt(pycurl.USERAGENT, "notifications")  # pycurl's own names every library's version
    setopt(pycurl.HTTPHEADER, headers)
    setopt(pycurl.FOLLOWLOCATION, 0)  # a redirect would hand the token over
    setopt(pycurl.PROXY, "")  # and so would a proxy that the environment names
    setopt(pycurl.HTTP_CONTENT_DECODING, 0)
    setopt(pycurl.MAXFILESIZE, MAX_ANSWER_BYTES)
    setopt(pycurl.TIMEOUT_MS, max(1, int(timeout * 1000)))
    setopt(pycurl.CONNECTTIMEOUT_MS, max(1, int(min(timeout, MAX_CONNECT_SECONDS) * 1000)))
    setopt(pycurl.NOSIGNAL, 1)
    setopt(pycurl.TCP_NODELAY, 1)
    setopt(pycurl.TCP_KEEPALIVE, 1)
    setopt(pycurl.SSL_VERIFYPEER, 1)
    setopt(pycurl.SSL_VERIFYHOST, 2)
    setopt(pycurl.CAINFO, _ca_file())
    # list.append as a callback: no Python frame per piece of an answer.
    setopt(pycurl.WRITEFUNCTION, slot.chunks.append)
    setopt(pycurl.HEADERFUNCTION, slot.header_lines.append)
    return slot


def make_gate(
    slot: Slot,
    permit: Callable[[Request], bool],
    stale_ports: set[int],
    on_error: Callable[[Exception], None],
) -> Callable[[str, str, int, int], int]:
    """What libcurl asks right before it sends a request: the last word on every hand-off."""
    go: int = pycurl.PREREQFUNC_OK
    stop: int = pycurl.PREREQFUNC_ABORT

    def gate(_remote_ip: str, _local_ip: str, _remote_port: int, local_port: int) -> int:
        if slot.handed_off_at:
            slot.refused_resend = True
            return stop
        if local_port in stale_ports:
            stale_ports.discard(local_port)
            slot.stale = True
            return stop
        try:
            permitted = permit(slot.request)
        except Exception as error:  # libcurl cannot carry it
            on_error(error)
            permitted = False
        if not permitted:
            return stop
        slot.handed_off_at = monotonic()
        return go

    return gate


def load(slot: Slot, request: Request, url: str, headers: list[str]) -> None:
    """Put a request into the handle."""
    if request.request_id != slot.request_id:
        slot.setopt(_HTTPHEADER, headers + _request_id_header(request.request_id))
        slot.request_id = request.request_id
    slot.setopt(_URL, url)
    slot.setopt(_POSTFIELDS, request.body)
    slot.request = request
    slot.handed_off_at = 0.0
    slot.refused_resend = slot.stale = False


def _request_id_header(request_id: str | None) -> list[str]:
    if request_id is None:
        return []
    if not re.fullmatch(r"[\x21-\x7e]+", request_id):
        raise ValueError("a request id must be printable ASCII without spaces")
    return [f"X-Request-ID: {request_id}"]


def read_answer(slot: Slot, wall: float) -> Verdict:
    status: int = slot.getinfo(_RESPONSE_CODE)
    chunks = slot.chunks
    body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
    retry_after = None if status == 200 else _find_retry_after(slot.header_lines)
    return classify_answer(status, body, retry_after, False, wall)


def read_failure(slot: Slot, curl_errno: int, detail: str, wall: float) -> Verdict:
    status: int | None = slot.getinfo(_RESPONSE_CODE) or None
    if curl_errno == pycurl.E_FILESIZE_EXCEEDED and status:
        retry_after = _find_retry_after(slot.header_lines)
        return classify_answer(status, b"".join(slot.chunks), retry_after, True, wall)
    if detail.startswith("Too large response headers"):  # libcurl reports it as a broken receive
        curl_errno = pycurl.E_FILESIZE_EXCEEDED
    return classify_failure(
        curl_errno,
        slot.handed_off_at > 0.0,
        refused_resend=slot.refused_resend,
        http_status=status,
        detail=detail,
    )


def _find_retry_after(lines: list[bytes]) -> str | None:
    """The header's value in the last answer that `lines` hold (1xx ones may come before it)."""
    value = None
    for line in lines:
        if line.startswith(b"HTTP/"):
            value = None
        elif line[:12].lower() == b"retry-after:":
            value = line[12:].decode("latin-1").strip()
    return value


def _ca_file() -> str:
    """The system's certificate authorities (SSL_CERT_FILE names others), else certifi's.

    The libcurl of pycurl's wheel looks where another distribution keeps them.
    """
    return ssl.get_default_verify_paths().cafile or str(certifi.where())
