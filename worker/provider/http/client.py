"""Hands requests to the provider and reports what became of each: thousands in flight, one thread.

HTTP/1.1 over kept-alive connections and an epoll loop of its own; why no library does this is in
docs/adr/0021-http-client-for-the-provider.md. It returns outcomes; it decides nothing, retries
nothing and knows no database.

What makes the outcomes true:

* The permit is asked in the last moment, with the connection ready, and the request's bytes leave
  in the same breath. From then on it is handed off, whatever happens.
* A request is sent once. Only when the kernel took not a single byte of it, since the kept-alive
  connection had ended, another connection is used.
* An idle connection that says something ended, or answers a question nobody asked: it is closed.
  So is one that was idle for so long that something in between may have forgotten it.
"""

import contextlib
import os
import select
from collections.abc import Callable
from time import monotonic, time
from urllib.parse import urlsplit

from worker.provider.http.connection import Broken, Connection
from worker.provider.http.connector import Connector
from worker.provider.http.exchange import Request, Result
from worker.provider.http.request_encoder import Wire
from worker.provider.http.response_parser import AnswerReader, Malformed, TooLong, known_heads
from worker.provider.outcomes import Failure, Verdict, classify_answer, classify_failure

__all__ = ["Engine", "Request", "Result"]

IDLE_SECONDS = 60.0
REAP_SECONDS = 0.05  # how often deadlines are looked at

_NOT_PERMITTED = classify_failure(Failure.NOT_PERMITTED, handed_off=False)


class Engine:
    """Up to `concurrency` exchanges at once with the provider at `base_url`.

    `permit` is asked right before each request leaves; False keeps it here (outcome not_sent).
    `timeout` is for a whole exchange, connecting included. Everything but `wake` belongs to one
    thread.
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
        self._wire = Wire(parts, token)
        self.in_flight = 0
        self.free = concurrency
        self._permit = permit
        self._permit_error: Exception | None = None
        self._timeout = timeout
        self._epoll = select.epoll()
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wake_fd, select.EPOLLIN)
        self._most_events = concurrency + 1  # all there can be: a deadline is judged after them
        self._queue: list[Request] = []
        self._connections: dict[int, Connection] = {}
        self._idle: list[Connection] = []
        self._results: list[Result] = []
        self._reap_at = 0.0
        try:
            self._connector = Connector(
                parts,
                timeout,
                self._epoll,
                self._connections,
                self.wake,
                self._hand_off_first,
                self._report_failed,
            )
        except BaseException:
            self.close()
            raise

    # --- what the dispatcher calls -------------------------------------------------------------

    def submit(self, request: Request) -> None:
        """Queue a request; it leaves during the next poll, if it is then permitted."""
        if not self.free:
            raise RuntimeError("no free slot: submit only while `free` is above 0")
        self._wire.check(request)
        self._queue.append(request)
        self.in_flight += 1
        self.free -= 1

    def poll(self, timeout: float) -> list[Result]:
        """Drive the exchanges until some are finished, at most `timeout` seconds."""
        if self._permit_error is not None:
            error, self._permit_error = self._permit_error, None
            raise error
        deadline = monotonic() + timeout
        heard = woken = False
        if self._queue:
            # What idle connections have said by now must be known before one of them is used.
            heard, woken = True, self._hear(0.0)
            queue, self._queue = self._queue, []
            for request in queue:
                self._assign(request, monotonic())
        while not heard or not (self._results or woken or monotonic() >= deadline):
            until = min(deadline, self._reap_at) if self.in_flight else deadline
            heard, woken = True, self._hear(max(until - monotonic(), 0.0))
        results, self._results = self._results, []
        return results

    def _hear(self, patience: float) -> bool:
        """Attend to what sockets have to say; whether somebody wants this poll to end."""
        woken = False
        connections = self._connections
        events = self._epoll.poll(patience, self._most_events)
        now, wall = monotonic(), time()
        for fd, event in events:
            connection = connections.get(fd)
            if connection is not None:
                self._attend(connection, event, now, wall)
            elif fd == self._wake_fd:
                os.eventfd_read(fd)
                woken = True
        self._connector.resolve(now)
        if now >= self._reap_at:
            self._reap(now)
        return woken

    def wake(self) -> None:
        """End a running poll early, or the next one. Safe from any thread and signal handler."""
        with contextlib.suppress(OSError):  # closed by now
            os.eventfd_write(self._wake_fd, 1)

    def close(self) -> None:
        """Drop every connection, and whatever is still in flight, unreported."""
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()
        self._idle.clear()
        self._queue.clear()
        self.in_flight = self.free = 0
        if not self._epoll.closed:
            self._epoll.close()
            fd, self._wake_fd = self._wake_fd, -1  # before its number can be another's
            os.close(fd)

    # --- handing off ---------------------------------------------------------------------------

    def _assign(self, request: Request, now: float) -> None:
        """Hand a request to an idle connection, or to a new one."""
        while self._idle:
            connection = self._idle.pop()
            if now - connection.idle_since > IDLE_SECONDS:
                self._drop(connection)
            else:
                connection.ends_by = now + self._timeout
                if self._hand_off(connection, request):
                    return
        self._connector.connect(request, now)

    def _hand_off(self, connection: Connection, request: Request) -> bool:
        """The last word on a request, and its first byte. False: another connection, please."""
        try:
            permitted = self._permit(request)
        except Exception as error:  # heard at the next poll
            self._permit_error = error
            permitted = False
        now = monotonic()
        if not permitted:
            self._rest(connection, connection.idle_since or now)
            self._report(request, _NOT_PERMITTED, 0.0, now, time())
            return True
        connection.request = request
        connection.handed_off_at = now
        try:
            started = connection.start(self._wire.write(request))
        except Broken as why:
            self._fail(connection, why.failure, why.detail, now, time())
            return True
        if not started:
            self._drop(connection)
            return False
        if connection.unsent:
            self._epoll.modify(connection.fd, connection.wants)
        return True

    def _hand_off_first(self, connection: Connection) -> None:
        """A new connection is ready for the request that it was made for."""
        if not self._hand_off(connection, connection.request):
            self._report_failed(
                connection.request, Failure.RESET, "the connection broke", monotonic()
            )

    def _rest(self, connection: Connection, since: float) -> None:
        connection.handed_off_at = 0.0
        connection.reader = None
        connection.idle_since = since
        self._idle.append(connection)

    # --- answers -------------------------------------------------------------------------------

    def _attend(self, connection: Connection, events: int, now: float, wall: float) -> None:
        """Do what a socket's events call for."""
        if not connection.handed_off_at:
            if not connection.ready:
                self._connector.go_on(connection, events, now)
            else:
                self._hear_idle(connection)
            return
        broken: Broken | None = None
        if connection.unsent and events & select.EPOLLOUT:
            try:
                connection.send_more()
            except Broken as why:
                broken = why  # though the answer may be there: it is read first
            if not connection.unsent:
                self._epoll.modify(connection.fd, connection.wants)
        try:
            data = connection.receive()
        except Broken as why:
            data, broken = None, broken or why
        if data is None:
            if broken is not None:
                self._fail(connection, broken.failure, broken.detail, now, wall)
            return
        if connection.reader is None:
            # Nearly always: the whole answer at once, under a head like the last one's.
            end = data.find(b"\r\n\r\n")
            head = known_heads.get(data[:end]) if end > 0 else None
            if (
                head is not None
                and head.length == len(data) - end - 4
                and head.keep_alive
                and head.status >= 200
                and not connection.unsent
                and not events & select.EPOLLRDHUP
            ):
                verdict = classify_answer(
                    head.status, data[end + 4 :], head.retry_after, False, wall
                )
                started = connection.handed_off_at
                self._rest(connection, now)
                self._report(connection.request, verdict, started, now, wall)
                return
            connection.reader = AnswerReader()
        ended = bool(events & select.EPOLLRDHUP)
        self._read_on(connection, connection.reader, data, ended, now, wall)

    def _read_on(
        self,
        connection: Connection,
        reader: AnswerReader,
        data: bytes,
        ended: bool,
        now: float,
        wall: float,
    ) -> None:
        """Take in a piece of an answer, or the connection's end."""
        try:
            answer = reader.feed(data) if data else reader.end()
        except Malformed as why:
            self._fail(connection, Failure.NOT_HTTP, str(why), now, wall)
            return
        except TooLong as why:
            self._fail(connection, Failure.TOO_LONG, str(why), now, wall)
            return
        if answer is not None:
            verdict = classify_answer(
                answer.status, answer.body, answer.retry_after, answer.too_long, wall
            )
            started = connection.handed_off_at
            if answer.reusable and not connection.unsent and not ended:
                self._rest(connection, now)
            else:
                self._drop(connection)
            self._report(connection.request, verdict, started, now, wall)
        elif not data:
            failure = Failure.TRUNCATED if reader.begun else Failure.RESET
            self._fail(connection, failure, "the provider closed the connection", now, wall)

    def _hear_idle(self, connection: Connection) -> None:
        """What an idle connection has to say is no answer; under TLS it may be mere protocol."""
        try:
            said = connection.receive()
        except Broken:
            said = b""
        if said is not None:
            self._idle.remove(connection)
            self._drop(connection)

    def _fail(
        self, connection: Connection, failure: Failure, detail: str, now: float, wall: float
    ) -> None:
        """An exchange has ended without a complete answer."""
        status = connection.reader.status if connection.reader else None
        verdict = classify_failure(failure, True, http_status=status, detail=detail)
        started = connection.handed_off_at
        self._drop(connection)
        self._report(connection.request, verdict, started, now, wall)

    def _report_failed(self, request: Request, failure: Failure, detail: str, now: float) -> None:
        """A request has not left, and will not."""
        self._report(request, classify_failure(failure, False, detail=detail), 0.0, now, time())

    def _report(
        self, request: Request, verdict: Verdict, started: float, now: float, wall: float
    ) -> None:
        self.in_flight -= 1
        self.free += 1
        self._results.append(
            Result(
                request,
                verdict.outcome,
                verdict.http_status,
                now - started if started else 0.0,
                verdict.retry_after,
                verdict.excerpt,
                verdict.reason,
                started > 0.0,
                wall,
            )
        )

    # --- ends ----------------------------------------------------------------------------------

    def _drop(self, connection: Connection) -> None:
        del self._connections[connection.fd]  # closing takes it out of the epoll
        connection.close()

    def _reap(self, now: float) -> None:
        """End what has taken too long, and what has been idle for too long."""
        self._reap_at = now + REAP_SECONDS
        idle = self._idle
        while idle and now - idle[0].idle_since > IDLE_SECONDS:
            self._drop(idle.pop(0))
        for connection in list(self._connections.values()):
            if connection.handed_off_at:
                if now >= connection.ends_by:
                    self._fail(connection, Failure.TIMEOUT, "no answer in time", now, time())
            elif not connection.ready and now >= connection.connect_by:
                self._connector.give_up(
                    connection, Failure.TIMEOUT, "connecting took too long", now
                )
