"""Mailings on a plain database, and workers that only pretend to send.

Everything that keeps the books is the product's own code; only the provider's answers are made up.
"""

import itertools
import time
from collections.abc import Iterable
from typing import Any

import psycopg2

from shared.domain.statuses import MessageStatus
from tests.support.invariants import assert_right, wrong_books
from tests.support.waiting import wait_for
from worker.dispatch import claim_queries
from worker.launch import launcher
from worker.recording import mailing_state
from worker.recording.batch_report import BatchRelease, BatchReport, RecordedBatch
from worker.recording.record import record_reports
from worker.recording.state_machine import AttemptRecord, MessageReport
from worker.runtime.clock import DatabaseClock
from worker.runtime.database import Database

# Dead leases are taken over from one lease length after PostgreSQL's start on: the tests' is short.
TAKEOVER = 0.5
LEASE = 3600.0
MAX_ATTEMPTS = 50

_phones = itertools.count(79000000001)
_times = itertools.count()


class Fleet:
    """One database, its mailings, and whoever works on them."""

    def __init__(self, url: str, max_attempts: int = MAX_ATTEMPTS):
        self.url = url
        self.max_attempts = max_attempts
        self.db = Database(url, "test")
        # For launches: one keeps others away while two write.
        self.guard = Database(url, "test")
        self.lanes = (self.db, Database(url, "test"))
        self.connection = psycopg2.connect(url)
        self.connection.autocommit = True
        self.cursor = self.connection.cursor()
        self.before: int = self.value("SELECT coalesce(max(id), 0) FROM mailings")
        self.clock = DatabaseClock()
        running = "SELECT pg_postmaster_start_time() < now() - %s * interval '1 second'"
        wait_for(lambda: self.value(running, TAKEOVER), 5, "PostgreSQL runs for a lease length")

    def close(self) -> None:
        self.connection.close()
        for db in (self.guard, *self.lanes):
            db.close()

    def check_books(self) -> None:
        """The numbers of every mailing made since this fleet began add up."""
        assert_right(wrong_books(self.cursor, self.before))

    def query(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        self.cursor.execute(statement, values or None)
        return self.cursor.fetchall() if self.cursor.description else []

    def value(self, statement: str, *values: object) -> Any:
        rows = self.query(statement, *values)
        return rows[0][0] if rows else None

    # --- what there is ---------------------------------------------------------------------------

    def add_clients(
        self, count: int, zones: Iterable[str] = ("Europe/Moscow",), tag: str = ""
    ) -> list[int]:
        names = list(zones)
        phones = [next(_phones) for _ in range(count)]
        rows = self.query(
            """
            INSERT INTO clients (phone, operator_code, tag, timezone)
            SELECT p, substr(p::text, 2, 3), %s, (%s::text[])[1 + n %% %s]
            FROM unnest(%s::bigint[]) WITH ORDINALITY AS t (p, n) ORDER BY n RETURNING id
            """,
            tag,
            names,
            len(names),
            phones,
        )
        return [id_ for (id_,) in rows]

    def add_mailing(self, ends_in: float = 3600.0, text: str = "Hello", **columns: Any) -> int:
        """A mailing that began a second ago; `columns` are those of its row."""
        names = "".join(f", {name}" for name in columns)
        places = ", %s" * len(columns)
        mailing_id: int = self.value(
            f"""
            INSERT INTO mailings (text, start_at, end_at{names})
            VALUES (%s, now() - interval '1 second', now() + %s * interval '1 second'{places})
            RETURNING id
            """,
            text,
            ends_in,
            *columns.values(),
        )
        self.query("INSERT INTO mailing_texts VALUES (%s, 1, %s)", mailing_id, text)
        return mailing_id

    def launch(self, mailing_id: int, batch_size: int = 500) -> None:
        while launcher.launch_slice(self.guard, self.lanes, mailing_id, batch_size, lambda: None):
            pass

    def new_mailing(self, count: int = 3, batch_size: int = 500, **more: Any) -> int:
        """A launched mailing to `count` clients of its own."""
        tag = f"only {next(_times)}"
        self.add_clients(count, tag=tag)
        mailing_id = self.add_mailing(tags=[tag], **more)
        self.launch(mailing_id, batch_size)
        return mailing_id

    def claim(self, mailing_id: int) -> "Worker":
        worker = self.try_claim(mailing_id)
        assert worker is not None, "nothing is due"
        return worker

    def try_claim(self, mailing_id: int) -> "Worker | None":
        claimed = claim_queries.claim(self.db, self.clock, mailing_id, TAKEOVER)
        if claimed is None:
            return None
        self._lease(claimed.mailing_id, claimed.batch_id, LEASE)
        return Worker(self, claimed)

    def kill_lease(self, mailing_id: int, batch_id: int | None = None) -> None:
        """The worker is gone and the time of its lease has passed."""
        self._lease(mailing_id, batch_id, -1)

    def _lease(self, mailing_id: int, batch_id: int | None, seconds: float) -> None:
        self.query(
            """
            UPDATE batches SET leased_until = now() + %s * interval '1 second'
            WHERE mailing_id = %s AND id = coalesce(%s, id) AND leased_until IS NOT NULL
            """,
            seconds,
            mailing_id,
            batch_id,
        )

    # --- what the API and the sweep would do -----------------------------------------------------

    def cancel(self, mailing_id: int, deleted: bool = False) -> None:
        self.query(
            """
            UPDATE mailings SET status = 'cancelled', finished_at = now(),
                deleted_at = CASE WHEN %s THEN now() END, settled = started_at IS NULL
            WHERE id = %s AND status IN ('scheduled', 'running', 'paused')
            """,
            deleted,
            mailing_id,
        )

    def end(self, mailing_id: int) -> None:
        """Move the mailing into the past, as if its end had come."""
        self.query(
            """
            UPDATE mailings SET end_at = now() - interval '1 second',
                start_at = least(start_at, now() - interval '1 hour') WHERE id = %s
            """,
            mailing_id,
        )

    def retry_failed(self, mailing_id: int) -> None:
        self.query(
            """
            UPDATE mailings SET retry_version = retry_version + 1, settled = false,
                status = CASE status WHEN 'finished' THEN 'running' ELSE status END,
                finished_at = NULL
            WHERE id = %s AND status IN ('running', 'paused', 'finished') AND end_at > now()
            """,
            mailing_id,
        )

    def apply_state(self, mailing_id: int) -> int:
        return mailing_state.apply_mailing_state(self.db, mailing_id, TAKEOVER, 30)

    def settle(self, mailing_id: int) -> str | None:
        return mailing_state.settle_mailing(self.db, mailing_id)

    def record(self, *flushes: BatchReport) -> dict[tuple[int, int], RecordedBatch]:
        return record_reports(self.db, flushes, LEASE, self.max_attempts)

    # --- what became of it -----------------------------------------------------------------------

    def mailing(self, mailing_id: int) -> dict[str, Any]:
        self.cursor.execute("SELECT * FROM mailings WHERE id = %s", (mailing_id,))
        return self._row()

    def batch(self, mailing_id: int, batch_id: int) -> dict[str, Any]:
        self.cursor.execute(
            """
            SELECT *, extract(epoch FROM due_at - now())::float8 AS due_in,
                extract(epoch FROM retry_at - now())::float8 AS retry_in
            FROM batches WHERE mailing_id = %s AND id = %s
            """,
            (mailing_id, batch_id),
        )
        return self._row()

    def message(self, mailing_id: int, message_id: int) -> dict[str, Any]:
        self.cursor.execute(
            "SELECT * FROM messages WHERE mailing_id = %s AND id = %s", (mailing_id, message_id)
        )
        return self._row()

    def statuses(self, mailing_id: int) -> dict[str, int]:
        return dict(
            self.query(
                "SELECT status, count(*) FROM messages WHERE mailing_id = %s GROUP BY 1", mailing_id
            )
        )

    def _row(self) -> dict[str, Any]:
        names = [column.name for column in self.cursor.description]
        return dict(zip(names, self.cursor.fetchone(), strict=True))


class Worker:
    """Holds a claimed batch, and says whatever a test wants of its messages."""

    def __init__(self, fleet: Fleet, claimed: claim_queries.Claim):
        self.fleet, self.claim = fleet, claimed
        self.mailing_id, self.batch_id = claimed.mailing_id, claimed.batch_id
        self.ids = [row.message_id for row in claimed.rows]
        self.flushes = 0

    def flush(
        self,
        accepted: Iterable[int] = (),
        others: Iterable[MessageReport] = (),
        release: BatchRelease | None = None,
    ) -> BatchReport:
        self.flushes += 1
        return BatchReport(
            self.mailing_id,
            self.batch_id,
            self.claim.token,
            self.flushes,
            [(id_, time.time()) for id_ in accepted],
            list(others),
            release,
        )

    def say(
        self,
        accepted: Iterable[int] = (),
        others: Iterable[MessageReport] = (),
        release: BatchRelease | None = None,
    ) -> RecordedBatch:
        """Record a flush; the batch as it is then."""
        flush = self.flush(accepted, others, release)
        return self.fleet.record(flush)[self.mailing_id, self.batch_id]

    def done(
        self, accepted: Iterable[int] = (), others: Iterable[MessageReport] = ()
    ) -> RecordedBatch:
        return self.say(accepted, others, BatchRelease())


def attempt(outcome: str, phone: int | None = 79990000000, text: str = "Hello") -> AttemptRecord:
    """A request's record, at an instant of its own."""
    at = time.time() + next(_times) * 1e-5
    return AttemptRecord(at, outcome, outcome, None, 10, "", phone, text)


def rejected(message_id: int) -> MessageReport:
    return MessageReport(
        message_id,
        final_status=MessageStatus.FAILED,
        reason="rejected: 400",
        counts_attempt=True,
        attempt=attempt("rejected"),
    )


def unavailable(message_id: int) -> MessageReport:
    return MessageReport(message_id, counts_attempt=True, attempt=attempt("unavailable"))


def throttled(message_id: int) -> MessageReport:
    return MessageReport(message_id, attempt=attempt("throttled"))


def unknown(message_id: int) -> MessageReport:
    return MessageReport(message_id, counts_attempt=True, in_doubt=True, attempt=attempt("unknown"))
