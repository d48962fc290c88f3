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
from collections.abc import Callable
from time import monotonic, time
from typing import Any
from urllib.parse import urlsplit

import pycurl

from worker.provider.exchange import (
    Request,
    Result,
    Slot,
    load,
    make_gate,
    make_slot,
    read_answer,
    read_failure,
)
from worker.provider.outcomes import Verdict

__all__ = ["Engine", "Request", "Result"]

SLOTS_PER_MULTI = 64

# Looked up once: these are read for every message.
_POLL_REMOVE = pycurl.POLL_REMOVE
_EPOLLIN = select.EPOLLIN
_EPOLL_MASK = {
    pycurl.POLL_IN: select.EPOLLIN,
    pycurl.POLL_OUT: select.EPOLLOUT,
    pycurl.POLL_INOUT: select.EPOLLIN | select.EPOLLOUT,
}
# What epoll says, in libcurl's words. A hang-up or an error is found out by reading.
_CURL_EVENTS = {
    events: (pycurl.CSELECT_IN if events & ~select.EPOLLOUT else 0)
    | (pycurl.CSELECT_OUT if events & select.EPOLLOUT else 0)
    for events in range(32)
}


class _Lane:
    """A multi handle with its share of the slots, and when libcurl wants to be called again."""

    __slots__ = ("act", "add", "busy", "due", "multi", "remove")

    def __init__(self, multi: Any) -> None:
        self.multi = multi
        self.act = multi.socket_action
        self.add = multi.add_handle
        self.remove = multi.remove_handle
        self.busy = 0  # transfers added and not yet removed
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
        self._slot_of: dict[Any, Slot] = {}
        for first in range(0, concurrency, SLOTS_PER_MULTI):
            size = min(SLOTS_PER_MULTI, concurrency - first)
            lane = self._make_lane(size)
            for _ in range(size):
                slot = make_slot(lane, self._headers, parts.scheme == "https", timeout)
                gate = make_gate(slot, permit, self._stale_ports, self._note_error)
                slot.setopt(pycurl.PREREQFUNCTION, gate)
                slot.setopt(pycurl.SOCKOPTFUNCTION, self._forget_socket)
                self._slot_of[slot.curl] = slot
        self._idle = list(self._slot_of.values())[::-1]

    # --- what the dispatcher calls -------------------------------------------------------------

    def submit(self, request: Request) -> None:
        """Queue a request; it leaves during the next poll, if it is then permitted."""
        if not self._idle:
            raise RuntimeError("no free slot: submit only while `free` is above 0")
        slot = self._idle[-1]
        load(slot, request, f"{self._url_prefix}{request.message_id}", self._headers)
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
            touched, some_ended = self._start_unstarted()
            find_lane = self._lane_of.get
            for fd, events in self._epoll.poll(0 if some_ended else self._patience(deadline)):
                lane = find_lane(fd)
                if lane is not None:
                    lane.act(fd, _CURL_EVENTS[events])
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
        for curl in self._slot_of:
            curl.close()
        self._lanes.clear()
        self._slot_of.clear()
        self._idle.clear()
        self.in_flight = self.free = 0
        if not self._epoll.closed:
            self._epoll.close()
            os.close(self._wake_fd)

    # --- transfers -----------------------------------------------------------------------------

    def _start(self, slot: Slot) -> None:
        lane = slot.lane
        lane.add(slot.curl)
        lane.busy += 1
        self._unstarted.add(lane)

    def _start_unstarted(self) -> tuple[set[_Lane], bool]:
        """Start what was submitted. Some may end in that very moment, with no event to follow."""
        started, self._unstarted = self._unstarted, set()
        some_ended = False
        for lane in started:
            _, running = lane.act(pycurl.SOCKET_TIMEOUT, 0)
            some_ended |= running < lane.busy
        return started, some_ended

    def _patience(self, deadline: float) -> float:
        """How long epoll may wait: until `deadline`, or until libcurl wants to be called."""
        for lane in self._lanes:
            if lane.due is not None and lane.due < deadline:
                deadline = lane.due
        return max(deadline - monotonic(), 0.0)

    def _collect(self, lane: _Lane, now: float, results: list[Result]) -> None:
        """Turn the lane's finished transfers into results and free their slots."""
        queued, wall, slot_of = 1, time(), self._slot_of
        while queued:
            queued, answered, failed = lane.multi.info_read(SLOTS_PER_MULTI)
            for curl in answered:
                slot = slot_of[curl]
                results.append(self._finish(slot, read_answer(slot, wall), now, wall))
            for curl, curl_errno, detail in failed:
                slot = slot_of[curl]
                if slot.stale:
                    slot.stale = False
                    lane.remove(curl)
                    lane.busy -= 1
                    self._start(slot)
                else:
                    verdict = read_failure(slot, curl_errno, detail, wall)
                    results.append(self._finish(slot, verdict, now, wall))

    def _finish(self, slot: Slot, verdict: Verdict, now: float, wall: float) -> Result:
        slot.lane.remove(slot.curl)
        slot.lane.busy -= 1
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
            if what == _POLL_REMOVE:
                lane_of.pop(fd, None)
                mask = _EPOLLIN  # idle: to hear of its death
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

    def _note_error(self, error: Exception) -> None:
        self._permit_error = error

    # --- sockets -------------------------------------------------------------------------------

    def _forget_socket(self, fd: int, _purpose: int) -> int:
        """A new socket: whatever was known under its number was another's."""
        self._watched.pop(fd, None)
        return 0

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
