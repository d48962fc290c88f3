"""Hands requests to the provider and reports what became of each: thousands in flight, one thread.

libcurl's multi interface, driven through `socket_action` by an epoll of the engine's own. The
engine returns outcomes; it decides nothing, retries nothing and knows no database.

Three habits of libcurl shape this module:

* It re-sends a POST by itself when a kept-alive connection turns out to be dead, and its timeouts
  do not keep a queued request from leaving late. So the permit is asked in `PREREQFUNCTION`, which
  runs right before each request goes out: a second call within one transfer is refused. Never
  called means not sent; called means sent.
* It looks for an idle connection by walking through all of them, and does not check one used
  within the last second for being alive. So slots are spread over several multi handles, and idle
  sockets stay in the epoll: one that becomes readable while idle is dead, or about to give an
  answer to a question nobody asked, and is not used again.
* It asks to forget and to watch a socket anew for each transfer. Leaving sockets in the epoll
  also saves those system calls.
"""

import os
import re
import select
import socket
import ssl
from collections.abc import Callable
from time import monotonic, time
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import certifi
import pycurl

from worker.provider.outcomes import Outcome, Verdict, classify_answer, classify_failure

MAX_ANSWER_BYTES = 64 * 1024
MAX_CONNECT_SECONDS = 5.0
_SLOTS_PER_MULTI = 64

_EPOLL_MASK = {
    pycurl.POLL_IN: select.EPOLLIN,
    pycurl.POLL_OUT: select.EPOLLOUT,
    pycurl.POLL_INOUT: select.EPOLLIN | select.EPOLLOUT,
}
_READABLE = select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR


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


class _Slot(pycurl.Curl):  # type: ignore[misc]
    """A reusable easy handle and what is known of the request it carries."""

    __slots__ = ("chunks", "handed_off_at", "header_lines", "lane", "refused_resend", "request",
                 "request_id", "stale")  # fmt: skip

    lane: "_Lane"
    request: Request
    request_id: str | None
    chunks: list[bytes]
    header_lines: list[bytes]
    handed_off_at: float  # 0: not yet
    refused_resend: bool
    stale: bool


class _Lane:
    """A multi handle with its share of the slots, and when libcurl wants to be called again."""

    __slots__ = ("act", "due", "multi")

    def __init__(self, multi: Any) -> None:
        self.multi = multi
        self.act = multi.socket_action
        self.due: float | None = None


class Engine:
    """Up to `concurrency` exchanges at once with the provider at `base_url`.

    `permit` is asked right before each request leaves; False keeps it here (outcome not_sent).
    Everything but `wake` belongs to one thread.
    """

    def __init__(
        self,
        *,
        base_url: str,
        token: str,
        concurrency: int,
        timeout: float,
        permit: Callable[[Request], bool],
    ) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
            raise ValueError("the provider's address must be an http:// or https:// URL")
        if not re.fullmatch(r"[\x21-\x7e]+", token):
            raise ValueError("the provider's token must be printable ASCII without spaces")
        self.in_flight = 0
        self.free = concurrency
        self._permit = permit
        self._permit_error: Exception | None = None
        self._url_prefix = f"{base_url.rstrip('/')}/v1/send/"
        self._headers = [
            f"Authorization: Bearer {token}",
            "Content-Type: application/json",
            "Accept: application/json",
            "Expect:",
        ]
        self._epoll = select.epoll()
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wake_fd, select.EPOLLIN)
        # What each of libcurl's sockets is watched for; kept for the idle ones too.
        self._watched: dict[int, int] = {}
        self._lane_of: dict[int, _Lane] = {}  # sockets libcurl waits on now
        self._stale_ports: set[int] = set()  # local ports of connections not to be used again
        self._unstarted: set[_Lane] = set()
        self._lanes: list[_Lane] = []
        self._slots: list[_Slot] = []
        for first in range(0, concurrency, _SLOTS_PER_MULTI):
            size = min(_SLOTS_PER_MULTI, concurrency - first)
            lane = self._make_lane(size)
            self._slots += [self._make_slot(lane, timeout, parts.scheme) for _ in range(size)]
        self._idle = self._slots[::-1]

    # --- what the dispatcher calls -------------------------------------------------------------

    def submit(self, request: Request) -> None:
        """Queue a request; it leaves during the next poll, if it is then permitted."""
        if not self._idle:
            raise RuntimeError("no free slot: submit only while `free` is above 0")
        slot = self._idle[-1]
        if request.request_id != slot.request_id:
            self._set_request_id(slot, request.request_id)
        slot.setopt(pycurl.URL, f"{self._url_prefix}{request.message_id}")
        slot.setopt(pycurl.POSTFIELDS, request.body)
        slot.request = request
        self._start(slot)
        self._idle.pop()
        self.in_flight += 1
        self.free -= 1

    def poll(self, timeout: float) -> list[Result]:
        """Drive the transfers until some are finished, at most `timeout` seconds."""
        if self._permit_error is not None:
            error, self._permit_error = self._permit_error, None
            raise error
        results: list[Result] = []
        deadline = monotonic() + timeout
        woken = False
        while True:
            touched = self._start_unstarted()
            for fd, events in self._epoll.poll(self._patience(deadline)):
                lane = self._lane_of.get(fd)
                if lane is not None:
                    lane.act(
                        fd,
                        (pycurl.CSELECT_IN if events & _READABLE else 0)
                        | (pycurl.CSELECT_OUT if events & select.EPOLLOUT else 0),
                    )
                    touched.add(lane)
                elif fd == self._wake_fd:
                    os.eventfd_read(fd)
                    woken = True
                else:
                    self._retire_idle(fd)
            now = monotonic()
            for lane in self._lanes:
                if lane.due is not None and lane.due <= now:
                    lane.act(pycurl.SOCKET_TIMEOUT, 0)
                    touched.add(lane)
            if touched:
                now = monotonic()
                for lane in touched:
                    self._collect(lane, now, results)
                    wait_ms = lane.multi.timeout()
                    lane.due = None if wait_ms < 0 else now + wait_ms / 1000
            if results or woken or now >= deadline:
                return results

    def wake(self) -> None:
        """End a running poll early, or the next one. Safe from any thread and signal handler."""
        os.eventfd_write(self._wake_fd, 1)

    def close(self) -> None:
        """Drop every connection, and whatever is still in flight, unreported."""
        for lane in self._lanes:
            lane.multi.close()
        for slot in self._slots:
            slot.close()
        self._lanes.clear()
        self._slots.clear()
        self._idle.clear()
        self.in_flight = self.free = 0
        if not self._epoll.closed:
            self._epoll.close()
            os.close(self._wake_fd)

    # --- transfers -----------------------------------------------------------------------------

    def _start(self, slot: _Slot) -> None:
        slot.handed_off_at = 0.0
        slot.refused_resend = slot.stale = False
        slot.lane.multi.add_handle(slot)
        self._unstarted.add(slot.lane)

    def _start_unstarted(self) -> set[_Lane]:
        started, self._unstarted = self._unstarted, set()
        for lane in started:
            lane.act(pycurl.SOCKET_TIMEOUT, 0)
        return started

    def _patience(self, deadline: float) -> float:
        """How long epoll may wait: until `deadline`, or until libcurl wants to be called."""
        for lane in self._lanes:
            if lane.due is not None and lane.due < deadline:
                deadline = lane.due
        return max(deadline - monotonic(), 0.0)

    def _collect(self, lane: _Lane, now: float, results: list[Result]) -> None:
        """Turn the lane's finished transfers into results and free their slots."""
        queued, wall = 1, time()
        while queued:
            queued, answered, failed = lane.multi.info_read(_SLOTS_PER_MULTI)
            for slot in answered:
                results.append(self._finish(slot, _read_answer(slot, wall), now, wall))
            for slot, curl_errno, detail in failed:
                if slot.stale:
                    lane.multi.remove_handle(slot)
                    self._start(slot)
                else:
                    verdict = _read_failure(slot, curl_errno, detail, wall)
                    results.append(self._finish(slot, verdict, now, wall))

    def _finish(self, slot: _Slot, verdict: Verdict, now: float, wall: float) -> Result:
        slot.lane.multi.remove_handle(slot)
        slot.chunks.clear()
        slot.header_lines.clear()
        self._idle.append(slot)
        self.in_flight -= 1
        self.free += 1
        started = slot.handed_off_at
        return Result(
            slot.request,
            verdict.outcome,
            verdict.http_status,
            now - started if started else 0.0,
            verdict.retry_after,
            verdict.excerpt,
            verdict.reason,
            started > 0.0,
            wall,
        )

    # --- handles -------------------------------------------------------------------------------

    def _make_lane(self, size: int) -> _Lane:
        multi = pycurl.CurlMulti()
        lane = _Lane(multi)
        watched, lane_of, epoll = self._watched, self._lane_of, self._epoll

        def watch(what: int, fd: int, _multi: object, _data: object) -> None:
            if what == pycurl.POLL_REMOVE:
                lane_of.pop(fd, None)
                mask = select.EPOLLIN  # idle: to hear of its death
            else:
                lane_of[fd] = lane
                mask = _EPOLL_MASK[what]
            if watched.get(fd) == mask:
                return
            watched[fd] = mask
            try:
                epoll.modify(fd, mask)
            except FileNotFoundError:
                epoll.register(fd, mask)

        # No M_TIMERFUNCTION: it would be called twice a transfer; poll asks once per round.
        multi.setopt(pycurl.M_SOCKETFUNCTION, watch)
        multi.setopt(pycurl.M_MAXCONNECTS, size)
        self._lanes.append(lane)
        return lane

    def _make_slot(self, lane: _Lane, timeout: float, scheme: str) -> _Slot:
        slot = _Slot()
        slot.lane = lane
        slot.request_id = None
        slot.chunks = []
        slot.header_lines = []
        setopt = slot.setopt
        setopt(pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS)
        setopt(pycurl.HTTP_VERSION, _http_version(scheme))
        setopt(pycurl.HTTP09_ALLOWED, 0)
        setopt(pycurl.POST, 1)
        setopt(pycurl.USERAGENT, "notifications")  # pycurl's own names every library's version
        setopt(pycurl.HTTPHEADER, self._headers)
        setopt(pycurl.FOLLOWLOCATION, 0)  # a redirect would hand the token over
        setopt(pycurl.PROXY, "")  # and so would a proxy that the environment names
        setopt(pycurl.NOPROXY, "*")
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
        setopt(pycurl.PREREQFUNCTION, self._make_gate(slot))
        setopt(pycurl.SOCKOPTFUNCTION, self._forget_socket)
        return slot

    def _make_gate(self, slot: _Slot) -> Callable[[str, str, int, int], int]:
        permit, stale_ports = self._permit, self._stale_ports

        def gate(_remote_ip: str, _local_ip: str, _remote_port: int, local_port: int) -> int:
            if slot.handed_off_at:
                slot.refused_resend = True
                return pycurl.PREREQFUNC_ABORT
            if local_port in stale_ports:
                stale_ports.discard(local_port)
                slot.stale = True
                return pycurl.PREREQFUNC_ABORT
            try:
                permitted = permit(slot.request)
            except Exception as error:  # libcurl cannot carry it: the next poll raises it
                self._permit_error = error
                permitted = False
            if not permitted:
                return pycurl.PREREQFUNC_ABORT
            slot.handed_off_at = monotonic()
            return pycurl.PREREQFUNC_OK

        return gate

    def _set_request_id(self, slot: _Slot, request_id: str | None) -> None:
        if request_id is None:
            slot.setopt(pycurl.HTTPHEADER, self._headers)
        elif re.fullmatch(r"[\x21-\x7e]+", request_id):
            slot.setopt(pycurl.HTTPHEADER, [*self._headers, f"X-Request-ID: {request_id}"])
        else:
            raise ValueError("a request id must be printable ASCII without spaces")
        slot.request_id = request_id

    # --- sockets -------------------------------------------------------------------------------

    def _forget_socket(self, fd: int, _purpose: int) -> int:
        """A new socket: whatever was known under its number was another's."""
        self._watched.pop(fd, None)
        return pycurl.SOCKOPT_OK

    def _retire_idle(self, fd: int) -> None:
        """An idle connection has something to say: it ended, or speaks out of turn."""
        self._watched.pop(fd, None)
        try:
            self._epoll.unregister(fd)
            with socket.socket(fileno=os.dup(fd)) as connection:
                address = connection.getsockname()
        except OSError:
            return  # gone already, or a helper of libcurl's that is no connection
        if isinstance(address, tuple):
            self._stale_ports.add(address[1])


def _read_answer(slot: _Slot, wall: float) -> Verdict:
    status = slot.getinfo(pycurl.RESPONSE_CODE)
    chunks = slot.chunks
    body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
    retry_after = None if status == 200 else _find_retry_after(slot.header_lines)
    return classify_answer(status, body, retry_after, False, wall)


def _read_failure(slot: _Slot, curl_errno: int, detail: str, wall: float) -> Verdict:
    status = slot.getinfo(pycurl.RESPONSE_CODE) or None
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


def _http_version(scheme: str) -> int:
    https = pycurl.CURL_HTTP_VERSION_2TLS
    return int(https if scheme == "https" else pycurl.CURL_HTTP_VERSION_1_1)


def _ca_file() -> str:
    """The system's certificate authorities (SSL_CERT_FILE names others), else certifi's.

    The libcurl of pycurl's wheel looks where another distribution keeps them.
    """
    return ssl.get_default_verify_paths().cafile or certifi.where()
