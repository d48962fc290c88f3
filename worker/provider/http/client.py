"""Sends requests to the provider and reports their results: thousands in flight on one thread.

HTTP/1.1 over kept-alive connections and an epoll loop of its own; why no library does this is in
docs/adr/0021-http-client-for-the-provider.md. The client returns outcomes; it makes no decisions,
retries nothing and does not use the database.

What makes the outcomes reliable:

* `may_send` is called at the last moment, with the connection ready, and the request's first bytes
  are sent immediately afterwards. From then on the request counts as sent, whatever happens.
* A request is sent once. Another connection is used only if the kernel took not a single byte
  because the kept-alive connection had ended.
* An idle connection that ends or receives data is closed. So is one that was idle for so long that
  a device on the way may have dropped it. Each connection is replaced after MAX_AGE_SECONDS, so
  that a change of the provider's addresses is followed under steady load.
* A process without free file descriptors keeps its requests: that is no fault of the provider.
"""

import contextlib
import os
import select
from collections.abc import Callable
from time import monotonic, time
from typing import Generic
from urllib.parse import urlsplit

from worker.provider.http.connection import Connection, ConnectionBroken
from worker.provider.http.connector import Connector
from worker.provider.http.exchange import Request, RequestT, Result
from worker.provider.http.request_encoder import RequestEncoder
from worker.provider.outcomes import Classification, Failure, classify_failure

__all__ = ["HttpClient", "Request", "Result"]

IDLE_CONNECTION_SECONDS = 60.0
DEADLINE_CHECK_SECONDS = 0.05

_NOT_PERMITTED = classify_failure(Failure.NOT_PERMITTED, sent=False)


class HttpClient(Generic[RequestT]):
    """Up to `concurrency` exchanges at once with the provider at `base_url`.

    `limit_concurrency` changes that number, so `free_slots` may be below 0 for a while.
    `may_send` is called right before each request is sent; False keeps the request (outcome
    not_sent). `timeout` covers a whole exchange, connecting included. `wall_clock` returns the
    seconds since 1970, for the results. Only `wake` may be called from another thread. Raises
    ValueError for an invalid `base_url` or `token`.
    """

    def __init__(
        self,
        *,
        base_url: str,
        token: str,
        concurrency: int,
        timeout: float,
        may_send: Callable[[RequestT], bool],
        wall_clock: Callable[[], float] = time,
    ) -> None:
        url = urlsplit(base_url)
        if url.scheme not in ("http", "https") or not url.hostname or url.query:
            raise ValueError("the provider's address must be an http:// or https:// URL")
        self._url = url
        self.use_token(token)
        self.in_flight = 0
        self.concurrency = self.free_slots = concurrency
        self.timeout = timeout
        self._may_send = may_send
        self._wall_clock = wall_clock
        self._may_send_error: Exception | None = None
        self._epoll = select.epoll()
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wake_fd, select.EPOLLIN)
        self._queue: list[RequestT] = []
        self._connections: dict[int, Connection[RequestT]] = {}
        self._idle: list[Connection[RequestT]] = []
        self._results: list[Result[RequestT]] = []
        self._next_deadline_check = 0.0
        try:
            self._connector: Connector[RequestT] = Connector(
                url,
                timeout,
                self._epoll,
                self._connections,
                self.wake,
                self._send_first_request,
                self._report_unsent,
            )
        except BaseException:
            self.close()
            raise

    def use_token(self, token: str) -> None:
        """Send this token with every request from now on. Raises ValueError for an invalid one."""
        self._encoder = RequestEncoder(self._url, token)

    def limit_concurrency(self, concurrency: int) -> None:
        """Change the number of exchanges at once; those that are running continue."""
        self.free_slots += concurrency - self.concurrency
        self.concurrency = concurrency

    def submit(self, request: RequestT) -> None:
        """Queue a request; it is sent during the next poll, if it may then be sent.

        Raises RuntimeError without a free slot, ValueError for an invalid request id.
        """
        if self.free_slots <= 0:
            raise RuntimeError("no free slot: submit only while `free_slots` is above 0")
        self._encoder.validate(request)
        self._queue.append(request)
        self.in_flight += 1
        self.free_slots -= 1

    def poll(self, timeout: float) -> list[Result[RequestT]]:
        """Drive the exchanges until some are finished, at most `timeout` seconds.

        Raises the exception that `may_send` raised since the last poll.
        """
        if self._may_send_error is not None:
            error, self._may_send_error = self._may_send_error, None
            raise error
        deadline = monotonic() + timeout
        polled = woken = False
        if self._queue:
            # Events of idle connections must be handled before one of them is used.
            polled, woken = True, self._handle_events(0.0)
            queue, self._queue = self._queue, []
            for request in queue:
                self._send_or_connect(request, monotonic())
        while not polled or not (self._results or woken or monotonic() >= deadline):
            until = min(deadline, self._next_deadline_check) if self.in_flight else deadline
            polled, woken = True, self._handle_events(max(until - monotonic(), 0.0))
        results, self._results = self._results, []
        return results

    def wake(self) -> None:
        """End a running poll early, or the next one. Safe in any thread and signal handler."""
        with contextlib.suppress(OSError, ValueError):  # closed by now: the number is -1
            os.eventfd_write(self._wake_fd, 1)

    def close(self) -> None:
        """Close every connection; requests in flight are dropped without a result."""
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()
        self._idle.clear()
        self._queue.clear()
        self.in_flight = self.concurrency = self.free_slots = 0
        if not self._epoll.closed:
            self._epoll.close()
            fd, self._wake_fd = self._wake_fd, -1  # before the number can be reused
            os.close(fd)

    def _handle_events(self, timeout: float) -> bool:
        """Wait for socket events and handle them; return whether `wake` was called."""
        woken = False
        connections = self._connections
        # All events there can be: deadlines are checked after every response that has arrived.
        events = self._epoll.poll(timeout, len(connections) + 1)
        now, wall = monotonic(), self._wall_clock()
        for fd, event in events:
            connection = connections.get(fd)
            if connection is None:
                if fd == self._wake_fd:
                    os.eventfd_read(fd)
                    woken = True
            elif connection.sent_at:
                was_sending = connection.unsent
                result = connection.read_response(event, wall)
                if was_sending and not connection.unsent:
                    self._epoll.modify(fd, connection.event_mask)
                if result is not None:
                    self._finish(connection, result, now, wall)
            elif connection.ready:
                self._handle_idle_event(connection)
            else:
                self._connector.continue_connecting(connection, event, now)
        self._connector.resolve(now)
        if now >= self._next_deadline_check:
            self._check_deadlines(now)
        return woken

    def _send_or_connect(self, request: RequestT, now: float) -> None:
        """Send a request on an idle connection, or open a new one for it."""
        while self._idle:
            connection = self._idle.pop()
            if now - connection.idle_since > IDLE_CONNECTION_SECONDS:
                self._close_connection(connection)
            else:
                connection.deadline = now + self.timeout
                if self._send(connection, request):
                    return
        self._connector.connect(request, now)

    def _send(self, connection: Connection[RequestT], request: RequestT) -> bool:
        """Call `may_send` and send; return False to retry on another connection."""
        try:
            permitted = self._may_send(request)
        except Exception as error:  # raised by the next poll
            self._may_send_error = error
            permitted = False
        now = monotonic()
        if not permitted:
            connection.idle_since = connection.idle_since or now
            self._idle.append(connection)
            self._add_result(request, _NOT_PERMITTED, 0.0, now, self._wall_clock())
            return True
        try:
            alive = connection.send_request(request, self._encoder.encode(request), now)
        except ConnectionBroken as error:
            failed = connection.classify_failure(error.failure, error.detail)
            self._finish(connection, failed, now, self._wall_clock())
            return True
        if not alive:
            self._close_connection(connection)
            return False
        if connection.unsent:
            self._epoll.modify(connection.fd, connection.event_mask)
        return True

    def _send_first_request(self, connection: Connection[RequestT]) -> None:
        """Send the request for which a new connection was opened."""
        request = connection.request
        if not self._send(connection, request):
            self._report_unsent(request, Failure.RESET, "the connection broke", monotonic())

    def _finish(
        self, connection: Connection[RequestT], result: Classification, now: float, wall: float
    ) -> None:
        """End the exchange of a request that was sent."""
        sent_at = connection.sent_at
        if connection.reusable and now < connection.replace_at:
            connection.sent_at, connection.idle_since = 0.0, now
            self._idle.append(connection)
        else:
            self._close_connection(connection)
        self._add_result(connection.request, result, sent_at, now, wall)

    def _handle_idle_event(self, connection: Connection[RequestT]) -> None:
        """Close an idle connection that ended or received data other than TLS records."""
        try:
            data = connection.receive()
        except ConnectionBroken:
            data = b""
        if data is not None:
            self._idle.remove(connection)
            self._close_connection(connection)

    def _report_unsent(self, request: RequestT, failure: Failure, detail: str, now: float) -> None:
        """End an exchange that was not sent."""
        self._add_result(
            request, classify_failure(failure, False, detail=detail), 0.0, now, self._wall_clock()
        )

    def _add_result(
        self, request: RequestT, result: Classification, sent_at: float, now: float, wall: float
    ) -> None:
        self.in_flight -= 1
        self.free_slots += 1
        self._results.append(
            Result(
                request,
                result.outcome,
                result.http_status,
                now - sent_at if sent_at else 0.0,
                result.retry_after,
                result.excerpt,
                result.reason,
                sent_at,
                wall,
            )
        )

    def _close_connection(self, connection: Connection[RequestT]) -> None:
        del self._connections[connection.fd]  # closing removes it from the epoll
        connection.close()

    def _check_deadlines(self, now: float) -> None:
        """End exchanges that have timed out and close connections idle for too long."""
        self._next_deadline_check = now + DEADLINE_CHECK_SECONDS
        self._connector.refresh_addresses()
        idle = self._idle
        while idle and now - idle[0].idle_since > IDLE_CONNECTION_SECONDS:
            self._close_connection(idle.pop(0))
        for connection in list(self._connections.values()):
            if connection.sent_at:
                if now >= connection.deadline:
                    timeout = connection.classify_failure(Failure.TIMEOUT, "no answer in time")
                    self._finish(connection, timeout, now, self._wall_clock())
            elif not connection.ready and now >= connection.connect_deadline:
                self._connector.try_next_address(
                    connection, Failure.TIMEOUT, "connecting took too long", now
                )
            elif connection.ready and now >= connection.replace_at:
                idle.remove(connection)
                self._close_connection(connection)
