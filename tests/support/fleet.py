"""Mailings in a database, and fake workers that report made-up outcomes.

Everything that changes the database's totals is the product's own code.
"""

import itertools
import time
from collections.abc import Iterable
from typing import Any, Self

import psycopg2

from shared.db.message_segments import render_or_estimate
from shared.db.rows import fetch_one_row
from shared.domain.segments import count_segments
from shared.domain.statuses import MessageStatus
from tests.support.invariants import assert_totals, find_wrong_totals
from worker.dispatch import claim_queries
from worker.dispatch.claimed_batch import ClaimedBatch
from worker.launch import launcher
from worker.launch.small_launch import SmallLauncher
from worker.recording import mailing_state
from worker.recording.batch_report import BatchRelease, BatchReport, RecordedBatch
from worker.recording.record import record_reports
from worker.recording.state_machine import AttemptRecord, MessageReport
from worker.runtime.clock import DatabaseClock
from worker.runtime.database import Database

# The length of a lease that take-overs assume: none happens within this time after an outage.
TAKEOVER_SECONDS = 0.5
LEASE_SECONDS = 3600.0
MAX_ATTEMPTS = 50

_phones = itertools.count(79000000001)
_numbers = itertools.count()


class Fleet:
    """The mailings of one database and the workers that send them.

    As a context manager it checks the totals of all mailings made with it at the end.
    """

    def __init__(self, url: str, max_attempts: int = MAX_ATTEMPTS):
        self.url = url
        self.max_attempts = max_attempts
        self.db = Database(url, "test")
        # For launches: one holds the lock while two write.
        self.guard = Database(url, "test")
        self.connections = (self.db, Database(url, "test"))
        self.connection = psycopg2.connect(url)
        self.connection.autocommit = True
        self.cursor = self.connection.cursor()
        self.ignore_earlier_mailings()
        self.clock = DatabaseClock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        try:
            if error_type is None:
                self.check_totals()
        finally:
            self.close()

    def close(self) -> None:
        self.connection.close()
        for db in (self.guard, *self.connections):
            db.close()

    def check_totals(self) -> None:
        """Assert that the totals of every mailing made with this fleet are right."""
        assert_totals(find_wrong_totals(self.cursor, self._last_ignored_id))

    def ignore_earlier_mailings(self) -> None:
        """Check only mailings made from now on."""
        self._last_ignored_id = self.query_value("SELECT coalesce(max(id), 0) FROM mailings")

    def query(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        self.cursor.execute(statement, values or None)
        return self.cursor.fetchall() if self.cursor.description else []

    def query_value(self, statement: str, *values: object) -> Any:
        rows = self.query(statement, *values)
        return rows[0][0] if rows else None

    # --- clients, mailings and claims ------------------------------------------------------------

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
        """Add a mailing that started a second ago, with these values in its row's columns."""
        names = "".join(f", {name}" for name in columns)
        places = ", %s" * len(columns)
        mailing_id: int = self.query_value(
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

    def launch_mailing(self, mailing_id: int, batch_size: int = 500) -> None:
        while self.launch_slice(mailing_id, batch_size):
            pass

    def launch_slice(self, mailing_id: int, batch_size: int = 500) -> bool:
        """Run one slice of the launch; return whether something is left to do."""
        return launcher.launch_slice(
            self.guard, self.connections, mailing_id, batch_size, lambda: None
        )

    def launch_small_mailings(self, batch_size: int = 500) -> None:
        """Launch all small mailings that are due."""
        small = SmallLauncher(self.db, batch_size)
        while small.launch_some().more:
            pass

    def add_launched_mailing(self, count: int = 3, batch_size: int = 500, **more: Any) -> int:
        """Add a launched mailing to `count` new clients."""
        tag = f"only {next(_numbers)}"
        self.add_clients(count, tag=tag)
        mailing_id = self.add_mailing(tags=[tag], **more)
        self.launch_mailing(mailing_id, batch_size)
        return mailing_id

    def claim_batch(self, mailing_id: int) -> "FakeWorker":
        worker = self.try_claim_batch(mailing_id)
        assert worker is not None, "no batch is due"
        return worker

    def try_claim_batch(self, mailing_id: int) -> "FakeWorker | None":
        self.set_pulse()
        claims = claim_queries.claim_batches(self.db, self.clock, [mailing_id], TAKEOVER_SECONDS)
        if not claims:
            return None
        (claimed,) = claims
        self._set_lease(claimed.mailing_id, claimed.batch_id, LEASE_SECONDS)
        return FakeWorker(self, claimed)

    def set_pulse(self, seen: float = 0.0, back: float = 3600.0) -> None:
        """Set when workers last reached PostgreSQL, and since when, in seconds before now."""
        self.query(
            "UPDATE pulse SET seen_at = now() - %s * interval '1 second',"
            " back_at = now() - %s * interval '1 second'",
            seen,
            back,
        )

    def expire_lease(self, mailing_id: int, batch_id: int | None = None) -> None:
        """End the lease of one batch, or of all, as if its worker had died a while ago."""
        self.set_pulse()
        self._set_lease(mailing_id, batch_id, -1)

    def _set_lease(self, mailing_id: int, batch_id: int | None, seconds: float) -> None:
        self.query(
            """
            UPDATE batches SET leased_until = now() + %s * interval '1 second'
            WHERE mailing_id = %s AND id = coalesce(%s, id) AND leased_until IS NOT NULL
            """,
            seconds,
            mailing_id,
            batch_id,
        )

    # --- changes made by the API and the sweep ---------------------------------------------------

    def cancel_mailing(self, mailing_id: int, deleted: bool = False) -> None:
        self.query(
            """
            UPDATE mailings SET status = 'cancelled', finished_at = now(),
                deleted_at = CASE WHEN %s THEN now() END, settled = started_at IS NULL
            WHERE id = %s AND status IN ('scheduled', 'running', 'paused')
            """,
            deleted,
            mailing_id,
        )

    def end_mailing(self, mailing_id: int) -> None:
        """Move the mailing into the past, so that its end has passed."""
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

    def apply_mailing_state(self, mailing_id: int) -> int:
        self.set_pulse()
        return mailing_state.apply_mailing_state(self.db, mailing_id, TAKEOVER_SECONDS, 30)

    def settle_mailing(self, mailing_id: int) -> str | None:
        return mailing_state.settle_mailing(self.db, mailing_id)

    def record_reports(self, *reports: BatchReport) -> dict[tuple[int, int], RecordedBatch]:
        return record_reports(self.db, reports, LEASE_SECONDS, self.max_attempts)

    # --- rows ------------------------------------------------------------------------------------

    def read_mailing(self, mailing_id: int) -> dict[str, Any]:
        self.cursor.execute("SELECT * FROM mailings WHERE id = %s", (mailing_id,))
        return self._fetch_row()

    def read_batch(self, mailing_id: int, batch_id: int) -> dict[str, Any]:
        self.cursor.execute(
            """
            SELECT *, extract(epoch FROM due_at - now())::float8 AS due_in,
                extract(epoch FROM retry_at - now())::float8 AS retry_in
            FROM batches WHERE mailing_id = %s AND id = %s
            """,
            (mailing_id, batch_id),
        )
        return self._fetch_row()

    def read_message(self, mailing_id: int, message_id: int) -> dict[str, Any]:
        self.cursor.execute(
            "SELECT * FROM messages WHERE mailing_id = %s AND id = %s", (mailing_id, message_id)
        )
        return self._fetch_row()

    def count_statuses(self, mailing_id: int) -> dict[str, int]:
        return dict(
            self.query(
                "SELECT status, count(*) FROM messages WHERE mailing_id = %s GROUP BY 1", mailing_id
            )
        )

    def _fetch_row(self) -> dict[str, Any]:
        names = [column.name for column in self.cursor.description or ()]
        return dict(zip(names, fetch_one_row(self.cursor), strict=True))


class FakeWorker:
    """Holds a claimed batch and reports the outcomes that a test chooses for its messages."""

    def __init__(self, fleet: Fleet, claim: ClaimedBatch):
        self.fleet, self.claim = fleet, claim
        self.mailing_id, self.batch_id = claim.mailing_id, claim.batch_id
        self.claim_key = claim.mailing_id, claim.batch_id, claim.token
        self.ids = [row.message_id for row in claim.rows]
        self.reports = 0
        plain = claim.template.plain
        self.text_segments = None if plain is None else count_segments(plain)
        self.segments = {
            row.message_id: count_segments(
                row.first_text or render_or_estimate(claim.template, row.values)
            )
            for row in claim.rows
            if plain is None
        }

    def make_report(
        self,
        accepted: Iterable[int] = (),
        reports: Iterable[MessageReport] = (),
        release: BatchRelease | None = None,
        *,
        last: bool = False,
    ) -> BatchReport:
        """Make the next numbered report: ids that were accepted, and other outcomes."""
        self.reports += 1
        return BatchReport(
            self.mailing_id,
            self.batch_id,
            self.claim.token,
            self.reports,
            [(id_, time.time()) for id_ in accepted],
            list(reports),
            release,
            last,
            text_segments=self.text_segments,
            segments=self.segments,
        )

    def record(
        self,
        accepted: Iterable[int] = (),
        reports: Iterable[MessageReport] = (),
        release: BatchRelease | None = None,
    ) -> RecordedBatch:
        """Record the next report; return the batch's state after it."""
        report = self.make_report(accepted, reports, release)
        return self.fleet.record_reports(report)[self.mailing_id, self.batch_id]

    def finish(
        self, accepted: Iterable[int] = (), reports: Iterable[MessageReport] = ()
    ) -> RecordedBatch:
        """Record the next report and give the batch back."""
        return self.record(accepted, reports, BatchRelease())


def make_attempt(
    outcome: str, phone: int | None = 79990000000, text: str = "Hello"
) -> AttemptRecord:
    """Make the record of a request, with a unique instant."""
    at = time.time() + next(_numbers) * 1e-5
    return AttemptRecord(at, outcome, outcome, None, 10, "", phone, text)


def rejected(message_id: int) -> MessageReport:
    return MessageReport(
        message_id,
        final_status=MessageStatus.FAILED,
        reason="rejected: 400",
        counts_attempt=True,
        attempt=make_attempt("rejected"),
    )


def unavailable(message_id: int) -> MessageReport:
    return MessageReport(message_id, counts_attempt=True, attempt=make_attempt("unavailable"))


def throttled(message_id: int) -> MessageReport:
    return MessageReport(message_id, attempt=make_attempt("throttled"))


def unknown(message_id: int) -> MessageReport:
    return MessageReport(
        message_id, counts_attempt=True, in_doubt=True, attempt=make_attempt("unknown")
    )
