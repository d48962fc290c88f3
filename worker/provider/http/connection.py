"""One connection to the provider: connects, speaks TLS, sends and receives, and never blocks."""

import errno
import select
import socket
import ssl
from typing import Any

from worker.provider.http.dns import Address
from worker.provider.http.exchange import Request
from worker.provider.http.response_parser import AnswerReader
from worker.provider.outcomes import Failure

READ_SIZE = 16 * 1024
# Bytes that may be taken in at one go; more waits for its turn.
READ_MOST = 256 * 1024

_READ = select.EPOLLIN | select.EPOLLRDHUP
_TRY_LATER = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_REFUSED = {errno.ECONNREFUSED, errno.ECONNRESET}


class Broken(Exception):
    """The connection is of no more use."""

    def __init__(self, failure: Failure, detail: str) -> None:
        super().__init__(detail)
        self.failure, self.detail = failure, detail


class Connection:
    """A socket and the request it carries, if any.

    `wants` is the epoll mask to watch it with. Moments are of `monotonic`.
    """

    __slots__ = (
        "address",
        "connect_by",
        "ends_by",
        "fd",
        "handed_off_at",
        "idle_since",
        "reader",
        "ready",
        "recv",
        "request",
        "secure",
        "send",
        "sock",
        "unsent",
        "untried",
        "wants",
    )

    request: Request
    sock: Any  # a socket, or TLS over one

    def __init__(self, address: Address, untried: list[Address]) -> None:
        """Begin to connect; `untried` are the addresses to go on with should this one fail."""
        self.address, self.untried = address, untried
        self.reader: AnswerReader | None = None
        self.ready = self.secure = False
        self.unsent = b""
        self.handed_off_at = 0.0  # 0: nothing of the request has left
        self.ends_by = self.connect_by = self.idle_since = 0.0
        self.wants = _READ | select.EPOLLOUT
        try:
            sock = socket.socket(address.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        except OSError as why:
            raise _broken_connect(why.errno or 0) from None
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        error = sock.connect_ex(address.sockaddr)
        if error not in (0, errno.EINPROGRESS):
            sock.close()
            raise _broken_connect(error)
        self._use(sock)

    def _use(self, sock: Any) -> None:
        self.sock, self.fd = sock, sock.fileno()
        self.send, self.recv = sock.send, sock.recv  # bound once: called for every message

    def go_on(self, events: int, tls: ssl.SSLContext | None, host: str) -> None:
        """Take the next step towards `ready`, after epoll has said something."""
        if tls is None or not self.secure:
            error = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                raise _broken_connect(error)
            if events & ~select.EPOLLOUT and tls is None:
                self._refuse_chatter()
        if tls is not None:
            if not self.secure:
                try:
                    self._use(tls.wrap_socket(
                        self.sock, server_hostname=host, do_handshake_on_connect=False
                    ))  # fmt: skip
                except OSError as why:
                    raise Broken(Failure.TLS, str(why)) from None
                self.secure = True
            try:
                self.sock.do_handshake()
            except ssl.SSLWantReadError:
                self.wants = select.EPOLLIN
                return
            except ssl.SSLWantWriteError:
                self.wants = select.EPOLLOUT
                return
            except OSError as why:  # SSLError is one
                raise Broken(Failure.TLS, str(why)) from None
        self.ready, self.wants = True, _READ

    def _refuse_chatter(self) -> None:
        """Who ends the connection, or speaks, before anything was asked, is not asked."""
        try:
            said = self.sock.recv(200, socket.MSG_PEEK)
        except BlockingIOError:
            return
        except OSError as why:
            raise Broken(Failure.RESET, str(why)) from None
        if said:
            raise Broken(Failure.NOT_HTTP, said.decode("latin-1"))
        raise Broken(Failure.RESET, "the provider closed the connection at once")

    def start(self, data: bytes) -> bool:
        """Send a request's first bytes. False: nothing has left, and nothing can any more."""
        try:
            sent = self.send(data)
        except _TRY_LATER:
            sent = 0
        except OSError:
            # Under TLS a part of it may have left before.
            if self.secure:
                raise Broken(Failure.RESET, "the connection broke") from None
            return False
        if sent != len(data):
            self.unsent = data[sent:]
            self.wants = _READ | select.EPOLLOUT
        return True

    def send_more(self) -> None:
        """Send what is left of the request, as far as the provider takes it."""
        try:
            self.unsent = self.unsent[self.send(self.unsent) :]
        except _TRY_LATER:
            return
        except OSError as why:
            raise Broken(Failure.RESET, str(why)) from None
        if not self.unsent:
            self.wants = _READ

    def receive(self) -> bytes | None:
        """What has arrived: None is nothing yet, no bytes are the connection's end."""
        try:
            data: bytes = self.recv(READ_SIZE)
            # TLS may hold more than epoll knows of.
            while self.secure and data and len(data) < READ_MOST and self.sock.pending():
                data += self.recv(READ_SIZE)
        except _TRY_LATER:
            return None
        except OSError as why:
            raise Broken(Failure.RESET, str(why)) from None
        return data

    def close(self) -> None:
        self.sock.close()


def _broken_connect(error: int) -> Broken:
    failure = Failure.CONNECTION_REFUSED if error in _REFUSED else Failure.UNREACHABLE
    return Broken(failure, errno.errorcode.get(error, str(error)))
