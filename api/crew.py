"""gunicorn's worker for the API: threads that wait for requests together and serve what they find.

gunicorn's own, gthread, hands each request from its main thread to one of a pool and back, and lets
as many threads as there are contend for the interpreter, which runs one of them at a time. Here
a request stays with the thread that found it, and QUICK threads are at it. Where one of them is
held up (by PostgreSQL, by a client that takes a file slowly), another takes its place, up to
`threads`.

Plain HTTP/1.1 only: TLS and HTTP/2 are the proxy's. Needs Linux (epoll).
"""

import errno
import os
import select
import socket
import struct
import threading
import time
from contextlib import suppress
from typing import Any

import structlog
from gunicorn.workers.gthread import STOP_KEEPALIVE_LINGER, TConn, ThreadWorker

from api.siblings import Siblings

log = structlog.get_logger()

# gunicorn's master imports this before it makes the processes.
siblings = Siblings()

# Threads that serve at a time; more of them take the interpreter from one another.
QUICK = 2
# A thread that has been at something for longer (seconds) is held up, and does not count.
LONG = 0.05
# How often the main thread looks after the others; and how often where nothing came for a while.
TICK, DOZE = 0.025, 1.0
WAKEFUL = 5.0
# For so many seconds in all a client may keep a thread waiting for a request's body, and for one
# more with each so many bytes that come.
PATIENCE, SLOWEST = 30.0, 500
# A connection is left to a process that has fewer for so many seconds.
POLITE = 0.005
# A client that takes nothing of its answer for so many seconds has gone.
UNTAKEN = 60
END_OF_HEAD = b"\r\n\r\n"
# A head that is longer is read by gunicorn's parser, which knows its limits.
LONG_HEAD = 16384

ONCE = select.EPOLLIN | select.EPOLLONESHOT  # one thread is told, and nobody until it is done


class PatientSocket(socket.socket):
    """A client's socket. Who is slower than a thread can wait for counts as gone."""

    patience = PATIENCE

    def limit(self) -> None:
        # By the kernel: a timeout of Python's would cost one more system call each time.
        for option, seconds in ((socket.SO_RCVTIMEO, PATIENCE), (socket.SO_SNDTIMEO, UNTAKEN)):
            self.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", int(seconds), 0))

    def recv(self, size: int, flags: int = 0) -> bytes:
        began = time.monotonic()
        try:
            data = super().recv(size, flags)
        except BlockingIOError:
            raise ConnectionResetError(errno.ECONNRESET, "The client is silent.") from None
        left = self.patience - (time.monotonic() - began) + len(data) / SLOWEST
        self.patience = min(left, PATIENCE)
        if left < 0:
            raise ConnectionResetError(errno.ECONNRESET, "The client is too slow.")
        return data

    def sendall(self, data: Any, flags: int = 0) -> None:
        try:
            super().sendall(data, flags)
        except BlockingIOError:
            raise BrokenPipeError(errno.EPIPE, "The client takes nothing.") from None


class Connection(TConn):
    """A client's connection. No thread waits for the head of its requests."""

    def __init__(self, cfg: Any, sock: PatientSocket, client: Any, server: Any) -> None:
        super().__init__(cfg, sock, client, server)
        sock.limit()
        self.fd = sock.fileno()
        self.head = b""  # what has come of the next request
        self.data_ready = True  # says that gunicorn need not wait for it
        self.set_timeout()

    def receive(self) -> bool:
        """Take what has come, without waiting; whether there may be more."""
        try:
            data = socket.socket.recv(self.sock, LONG_HEAD, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
        if not self.head:
            self.set_timeout()  # for all of the head
        self.head += data
        return bool(data)

    @property
    def asks(self) -> bool:
        return END_OF_HEAD in self.head or len(self.head) > LONG_HEAD

    def hand_over(self) -> None:
        """Let gunicorn's parser have what was received."""
        self.init()
        self.parser.unreader.unread(self.head)
        self.sock.patience = PATIENCE

    def take_back(self) -> None:
        """Take what the parser has read of the next request."""
        self.head = self.parser.unreader.take_buffered()
        self.set_timeout()


class Member:
    """A thread of the crew, and since when it has been at its present work."""

    since: float | None = None

    def is_held(self, now: float) -> bool:
        since = self.since
        return since is not None and now - since > LONG


class CrewWorker(ThreadWorker):
    """The worker: its main thread only looks after the crew and the connections."""

    def run(self) -> None:
        self.epoll = select.epoll()
        self.bell = os.eventfd(0)  # rung when all is over; never silenced, so that all hear it
        self.epoll.register(self.bell, select.EPOLLIN)
        self.listeners = {each.fileno(): each for each in self.sockets}
        for fd, listener in self.listeners.items():
            listener.setblocking(False)
            self.epoll.register(fd, ONCE)
        self.deaf: list[int] = []  # listeners that take nobody in for a moment
        self.open: set[Connection] = set()
        siblings.join(self.age)
        self.waiting: dict[int, Connection] = {}  # whoever takes one out owns it
        self.keepalived_conns = self.waiting  # what gunicorn counts for its limit
        self.crew: set[Member] = set()
        self.crew_lock = threading.Lock()
        self.is_over = self.dozes = False
        self.tidied = self.active = time.monotonic()
        self.seen = self.nr
        self.wake = select.poll()
        self.wake.register(self.PIPE[0], select.POLLIN)  # signals are written to it too
        while self.alive and self.is_parent_alive():
            self.look_after()
            self.rest()
        self.stop()

    def stop(self) -> None:
        """Answer what is under way, and close what is idle after a moment, as gthread does."""
        self.alive = False
        for listener in self.sockets:
            with suppress(OSError):
                self.epoll.unregister(listener)
        began = time.monotonic()
        while self.open and (passed := time.monotonic() - began) < self.cfg.graceful_timeout:
            self.look_after(close_idle=passed > STOP_KEEPALIVE_LINGER)
            time.sleep(TICK)
        self.is_over = True
        os.eventfd_write(self.bell, 1)
        for listener in self.sockets:
            listener.close()

    # --- the main thread -----------------------------------------------------------------------

    def look_after(self, close_idle: bool = False) -> None:
        """Say that we live, close who said nothing for long, and replace who is held up."""
        self.notify()
        now = time.monotonic()
        if close_idle or now - self.tidied > 1:
            self.tidied = now
            for fd, each in [(fd, self.waiting.get(fd)) for fd in list(self.waiting)]:
                if each and (close_idle or each.timeout < now):
                    self.expire(fd, close_idle)
            while self.deaf:
                self.arm(self.deaf.pop())
        with self.crew_lock:
            lacking = QUICK - sum(not each.is_held(now) for each in self.crew)
            for _ in range(min(lacking, self.cfg.threads - len(self.crew))):
                member = Member()
                with suppress(RuntimeError):  # no thread is to be had: perhaps at the next look
                    threading.Thread(target=self.serve, args=(member,), daemon=True).start()
                    self.crew.add(member)

    def expire(self, fd: int, close_idle: bool) -> None:
        connection = self.waiting.pop(fd, None)
        if connection is None:
            return
        if close_idle or connection.timeout < time.monotonic():
            self.part_with(connection)
        else:
            self.wait(connection)  # it has just been served, or is another one

    def rest(self) -> None:
        """Until the next look: soon where there is work, seldom where there was none for long."""
        now = time.monotonic()
        if self.nr != self.seen or self.is_busy():
            self.seen, self.active = self.nr, now
        self.dozes = now - self.active > WAKEFUL
        long = self.dozes and not self.is_busy()  # asked again: it may have missed that we doze
        if self.wake.poll((DOZE if long else TICK) * 1000):
            os.read(self.PIPE[0], 4096)
        self.dozes = False

    def is_busy(self) -> bool:
        with self.crew_lock:
            return any(each.since is not None for each in self.crew)

    # --- the crew's threads --------------------------------------------------------------------

    def serve(self, member: Member) -> None:
        """Serve what there is, one thing at a time, for as long as this thread is needed."""
        while not self.is_over:
            for fd, _ in self.epoll.poll(-1, 1):
                began = member.since = time.monotonic()
                if self.dozes:
                    self.dozes = False
                    os.write(self.PIPE[1], b".")
                if fd in self.listeners:
                    self.take_in(fd)
                elif connection := self.waiting.pop(fd, None):
                    self.attend(connection)
                member.since = None
                if time.monotonic() - began > LONG and self.is_spare(member):
                    return

    def is_spare(self, member: Member) -> bool:
        """Whether another thread has taken this one's place, which is then left to it."""
        now = time.monotonic()
        with self.crew_lock:
            if sum(not each.is_held(now) for each in self.crew) <= QUICK:
                return False
            self.crew.remove(member)
            return True

    def take_in(self, fd: int) -> None:
        """Accept a connection, if there may be one more."""
        listener = self.listeners[fd]
        try:
            if len(self.open) >= self.worker_connections:
                self.deaf.append(fd)
                return
            if siblings.have_fewer(len(self.open)):
                time.sleep(POLITE)
            client, address = listener.accept()
            sock = PatientSocket(client.family, client.type, client.proto, client.detach())
            connection = Connection(self.cfg, sock, address, listener.getsockname())
            self.open.add(connection)
            siblings.tell(len(self.open))
            self.waiting[connection.fd] = connection
            self.epoll.register(connection.fd, ONCE)
            self.arm(fd)
        except (BlockingIOError, ConnectionAbortedError):
            self.arm(fd)  # another process has taken it, or it is gone
        except OSError as error:  # too many open files: to ask again at once would only spin
            log.warning("api.cannot_accept", error=str(error))
            self.deaf.append(fd)

    def attend(self, connection: Connection) -> None:
        """Answer what a client asks for, and go on waiting for it or part with it."""
        try:
            stays = self.answer(connection)
        except BaseException as error:  # whatever it is, it is this client's affair alone
            if not isinstance(error, OSError):
                log.exception("api.connection_failed")
            stays = False
        if stays:
            self.wait(connection)
        else:
            self.part_with(connection, graceful=True)

    def answer(self, connection: Connection) -> bool:
        """Answer all that has come; whether the client may ask for more."""
        if not connection.receive():
            return False
        while connection.asks:
            connection.hand_over()
            if not self.handle(connection):
                return False
            connection.take_back()
        return True

    def part_with(self, connection: Connection, graceful: bool = False) -> None:
        connection.close(graceful=graceful)
        self.open.discard(connection)
        siblings.tell(len(self.open))

    def wait(self, connection: Connection) -> None:
        self.waiting[connection.fd] = connection
        self.arm(connection.fd)

    def arm(self, fd: int) -> None:
        with suppress(OSError):  # we have just stopped, and it is closed
            self.epoll.modify(fd, ONCE)
