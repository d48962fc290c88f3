"""One non-blocking connection to the provider: connects, establishes TLS, sends and receives."""

import errno
import random
import select
import socket
import ssl
from time import monotonic
from typing import Any, Generic

from worker.provider.http.dns import Address
from worker.provider.http.exchange import RequestT
from worker.provider.http.response_parser import (
    MalformedResponse,
    ResponseParser,
    ResponseTooLong,
    head_cache,
)
from worker.provider.outcomes import (
    Classification,
    Failure,
    classify_failure,
    classify_response,
)

READ_BYTES = 16 * 1024
# The most that one `receive` returns; more is read after the next event.
MAX_READ_BYTES = 256 * 1024
# After so long a connection is replaced once its exchange ends. With the resolver's CACHE_SECONDS,
# a change of addresses is followed within 55 s. Ages differ, so that not all are replaced at once.
MAX_AGE_SECONDS = (30.0, 40.0)

_READ = select.EPOLLIN | select.EPOLLRDHUP
_TRY_LATER = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_REFUSED = {errno.ECONNREFUSED, errno.ECONNRESET}
_NO_FILES = {errno.EMFILE, errno.ENFILE}


class ConnectionBroken(Exception):
    """The connection can no longer be used."""

    def __init__(self, failure: Failure, detail: str) -> None:
        super().__init__(detail)
        self.failure, self.detail = failure, detail


class Connection(Generic[RequestT]):
    """A socket and the request that it was opened for or carries now.

    `event_mask` is the epoll mask to watch it with. Instants are of `monotonic`.
    """

    sock: Any  # a socket, or TLS over one

    def __init__(self, request: RequestT, address: Address, untried: list[Address]) -> None:
        """Start connecting; `untried` are the addresses to try if this one fails."""
        self.request = request
        self.address, self.untried_addresses = address, untried
        self._parser: ResponseParser | None = None
        self.ready = self.secure = self.reusable = False
        self.unsent = b""
        self.sent_at = 0.0  # 0: nothing of the request has been sent
        self.deadline = self.connect_deadline = self.idle_since = 0.0
        self.replace_at = monotonic() + random.uniform(*MAX_AGE_SECONDS)  # noqa: S311 (no secret)
        self.event_mask = _READ | select.EPOLLOUT
        try:
            sock = socket.socket(address.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        except OSError as error:
            raise _connect_error(error.errno or 0) from None
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        code = sock.connect_ex(address.sockaddr)
        if code not in (0, errno.EINPROGRESS):
            sock.close()
            raise _connect_error(code)
        self._set_socket(sock)

    def _set_socket(self, sock: Any) -> None:
        self.sock, self.fd = sock, sock.fileno()
        self.send, self.recv = sock.send, sock.recv  # bound once: called for every message

    def continue_connecting(self, events: int, tls: ssl.SSLContext | None, host: str) -> None:
        """Take the next step towards `ready` after an epoll event."""
        if tls is None or not self.secure:
            code = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                raise _connect_error(code)
            if events & ~select.EPOLLOUT and tls is None:
                self._reject_early_data()
        if tls is not None:
            try:
                if not self.secure:
                    self._set_socket(
                        tls.wrap_socket(
                            self.sock, server_hostname=host, do_handshake_on_connect=False
                        )
                    )
                    self.secure = True
                self.sock.do_handshake()
            except ssl.SSLWantReadError:
                self.event_mask = select.EPOLLIN
                return
            except ssl.SSLWantWriteError:
                self.event_mask = select.EPOLLOUT
                return
            except OSError as error:  # SSLError is one
                raise ConnectionBroken(Failure.TLS, str(error)) from None
        self.ready, self.event_mask = True, _READ

    def _reject_early_data(self) -> None:
        """Refuse a server that closes the connection or sends data before any request."""
        try:
            data = self.sock.recv(200, socket.MSG_PEEK)
        except BlockingIOError:
            return
        except OSError as error:
            raise ConnectionBroken(Failure.RESET, str(error)) from None
        if data:
            raise ConnectionBroken(Failure.NOT_HTTP, data.decode("latin-1"))
        raise ConnectionBroken(Failure.RESET, "the provider closed the connection at once")

    def send_request(self, request: RequestT, data: bytes, now: float) -> bool:
        """Send a request's first bytes; return False if the connection had ended before."""
        self.request, self.sent_at = request, now
        self._parser, self.reusable = None, False
        try:
            sent = self.send(data)
        except _TRY_LATER:
            sent = 0
        except OSError:
            # Under TLS a part of it may have been sent before.
            if self.secure:
                raise ConnectionBroken(Failure.RESET, "the connection broke") from None
            return False
        if sent != len(data):
            self.unsent = data[sent:]
            self.event_mask = _READ | select.EPOLLOUT
        return True

    def read_response(self, events: int, now: float) -> Classification | None:
        """Send and receive after epoll events; return the result once the exchange has ended.

        `now` is in seconds since 1970. `reusable` is set if the connection can stay open.
        """
        broken: ConnectionBroken | None = None
        if self.unsent and events & select.EPOLLOUT:
            try:
                self._send_rest()
            except ConnectionBroken as error:
                broken = error  # the response may have arrived: it is read first
        try:
            data = self.receive()
        except ConnectionBroken as error:
            data, broken = None, broken or error
        if data is None:
            return None if broken is None else self.classify_failure(broken.failure, broken.detail)
        open_ = not events & select.EPOLLRDHUP and not self.unsent
        if self._parser is None:
            # The usual case: the whole response at once, with a cached head.
            end = data.find(b"\r\n\r\n")
            head = head_cache.get(data[:end]) if end > 0 else None
            if (
                head is not None
                and head.length == len(data) - end - 4
                and head.keep_alive
                and head.status >= 200
                and open_
            ):
                self.reusable = True
                return classify_response(head.status, data[end + 4 :], head.retry_after, False, now)
            self._parser = ResponseParser()
        try:
            response = self._parser.feed(data) if data else self._parser.feed_eof()
        except MalformedResponse as error:
            return self.classify_failure(Failure.NOT_HTTP, str(error))
        except ResponseTooLong as error:
            return self.classify_failure(Failure.TOO_LONG, str(error))
        if response is not None:
            status, body, retry_after, too_long, reusable = response
            self.reusable = reusable and open_
            return classify_response(status, body, retry_after, too_long, now)
        if data:
            return None
        failure = Failure.TRUNCATED if self._parser.started else Failure.RESET
        return self.classify_failure(failure, "the provider closed the connection")

    def classify_failure(self, failure: Failure, detail: str) -> Classification:
        """Return the result of a request that was sent and gets no complete response."""
        status = self._parser.status if self._parser else None
        return classify_failure(failure, True, http_status=status, detail=detail)

    def _send_rest(self) -> None:
        """Send as much of the rest of the request as the socket takes."""
        try:
            self.unsent = self.unsent[self.send(self.unsent) :]
        except _TRY_LATER:
            return
        except OSError as error:
            raise ConnectionBroken(Failure.RESET, str(error)) from None
        if not self.unsent:
            self.event_mask = _READ

    def receive(self) -> bytes | None:
        """Return what has arrived: None is nothing yet, empty is the end of the connection."""
        try:
            data: bytes = self.recv(READ_BYTES)
            # TLS may buffer more than epoll reports.
            while self.secure and data and len(data) < MAX_READ_BYTES and self.sock.pending():
                data += self.recv(READ_BYTES)
        except _TRY_LATER:
            return None
        except OSError as error:
            raise ConnectionBroken(Failure.RESET, str(error)) from None
        return data

    def close(self) -> None:
        self.sock.close()


def _connect_error(code: int) -> ConnectionBroken:
    if code in _NO_FILES:
        failure = Failure.OPEN_FILES
    else:
        failure = Failure.CONNECTION_REFUSED if code in _REFUSED else Failure.UNREACHABLE
    return ConnectionBroken(failure, errno.errorcode.get(code, str(code)))
