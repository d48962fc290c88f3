"""Records what the journals of dead workers list, and gives this process its own journal.

A journal whose lock is free belongs to no living process. A thread of each dispatch worker looks
for such files at start and every other second, so the acceptances are recorded before the leases of
the dead worker run out, whether it is restarted or not.
"""

import contextlib
import os
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import structlog

from shared.db.connections import TRANSIENT_ERRORS
from shared.db.on_commit import IDS_PER_LINE
from worker.dispatch.db_thread import log_database_error
from worker.dispatch.journal import (
    SUFFIX,
    Acceptance,
    DatabaseIdentity,
    Journal,
    JournalContents,
    age_seconds,
    lock_file,
    read_identity,
    read_journal,
)
from worker.recording.batch_report import BatchReport
from worker.recording.record import record_reports
from worker.runtime.database import Database, DatabaseError

log = structlog.get_logger()

SEARCH_SECONDS = 2.0
# A dispatch job waits at most this long for the first search, so that no error there stops sending.
FIRST_SEARCH_SECONDS = 5.0
MESSAGES_PER_TRANSACTION = 2_000
# A journal of another database, or of another format, is removed when it is this old.
MAX_FOREIGN_AGE_SECONDS = 7 * 86_400.0
# The token of a report that holds no batch: tokens count from 0. Acceptances need none.
NO_TOKEN = -1

FIND_UNRECORDED = """
SELECT id, batch_id, client_id FROM messages
WHERE mailing_id = %s AND id = ANY (%s) AND status <> 'sent'
"""


class JournalRecovery:
    """The journals in the folder of this host, used by one process.

    `db` is used by the thread only. `reserve`: how many messages may be in flight at once.
    """

    def __init__(
        self, folder: Path, db: Database, *, reserve: int, lease_seconds: float, max_attempts: int
    ):
        self._folder, self._db, self._reserve = folder, db, reserve
        self._lease_seconds, self._max_attempts = lease_seconds, max_attempts
        self._journal: Journal | None = None
        self._given_up: set[Path] = set()
        self._stopping = threading.Event()
        self._searched = threading.Event()
        self._thread = threading.Thread(target=self._run, name="journals", daemon=True)

    def start(self) -> None:
        """Start the thread that looks for abandoned journals."""
        self._thread.start()

    def wait_for_first_search(self) -> None:
        """Wait until the journals that were there at start are recorded, for some seconds."""
        self._searched.wait(FIRST_SEARCH_SECONDS)
        self._searched.set()

    def open_journal(self, db: Database) -> Journal | None:
        """Return this process's empty journal for the database; None if none can be written.

        Raises DatabaseError.
        """
        with db.transaction() as cursor:
            identity = read_identity(cursor)
        journal = self._journal
        if journal is not None:
            if journal.is_empty and journal.identity == identity and journal.path.exists():
                return journal
            self.close_journal()
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._journal = Journal.create(self._folder, identity, self._reserve)
        except OSError as error:
            log.warning("journal.unavailable", error=str(error))
        return self._journal

    def close_journal(self, *, only_unrecorded: bool = False) -> None:
        """Close this process's journal; with `only_unrecorded`, keep an empty one for later."""
        journal = self._journal
        if journal is not None and not (only_unrecorded and journal.is_empty):
            journal.close()
            self._journal = None

    def close(self) -> None:
        """Stop the thread and close the journal, at the end of the process."""
        self._stopping.set()
        self.close_journal()

    def recover(self) -> None:
        """Record what abandoned journals list, and remove them. Raises DatabaseError, OSError."""
        if not self._folder.is_dir():
            return
        try:
            for path in sorted(self._folder.glob(f"*{SUFFIX}")):
                if path in self._given_up:
                    continue
                with _lock_abandoned(path) as fd:
                    if fd is not None:
                        self._recover_file(path, fd)
        finally:
            self._db.close()

    def _run(self) -> None:
        while True:
            try:
                self.recover()
                self._searched.set()
            except DatabaseError as error:
                log_database_error("journal", error)
            except OSError as error:
                log.warning("journal.unavailable", error=str(error))
            if self._stopping.wait(SEARCH_SECONDS):
                return

    def _recover_file(self, path: Path, fd: int) -> None:
        """Record what a locked journal lists; a transient error leaves it for the next search."""
        try:
            contents = read_journal(fd)
            if os.fstat(fd).st_size and not self._is_ours(contents):
                self._keep_foreign(path, fd)
                return
            if contents is not None and contents.acceptances:
                self._record(contents)
            path.unlink(missing_ok=True)
        except DatabaseError as error:
            if isinstance(error, TRANSIENT_ERRORS):
                raise
            self._give_up(path, error)
        except Exception as error:  # one file must not stop the search for others
            self._give_up(path, error)

    def _is_ours(self, contents: JournalContents | None) -> bool:
        if contents is None:
            return False
        return not contents.acceptances or contents.identity == self._read_identity()

    def _read_identity(self) -> DatabaseIdentity:
        with self._db.transaction() as cursor:
            return read_identity(cursor)

    def _record(self, contents: JournalContents) -> None:
        recorded = 0
        # A message that was accepted twice counts once.
        acceptances = list({each.message_id: each for each in contents.acceptances}.values())
        for at in range(0, len(acceptances), MESSAGES_PER_TRANSACTION):
            recorded += self._record_part(acceptances[at : at + MESSAGES_PER_TRANSACTION])
        log.warning("journal.recovered", messages=recorded, damaged=contents.damaged)

    def _record_part(self, acceptances: Sequence[Acceptance]) -> int:
        """Record acceptances of messages that exist and are not sent; return their number."""
        times: dict[int, dict[int, float]] = defaultdict(dict)
        for each in acceptances:
            times[each.mailing_id][each.message_id] = each.at
        reports: dict[tuple[int, int], BatchReport] = {}
        clients: dict[int, int] = {}
        with self._db.transaction() as cursor:
            for mailing_id, accepted in times.items():
                cursor.execute(FIND_UNRECORDED, (mailing_id, list(accepted)))
                for message_id, batch_id, client_id in cursor.fetchall():
                    clients[message_id] = client_id
                    key = mailing_id, batch_id
                    report = reports.setdefault(key, BatchReport(*key, NO_TOKEN, 0))
                    report.accepted.append((message_id, accepted[message_id]))
        if not reports:
            return 0
        record_reports(self._db, list(reports.values()), self._lease_seconds, self._max_attempts)
        for report in reports.values():
            ids = [id_ for id_, _ in report.accepted]
            place = {"mailing_id": report.mailing_id, "batch_id": report.batch_id}
            for at in range(0, len(ids), IDS_PER_LINE):
                part = ids[at : at + IDS_PER_LINE]
                owners = [clients[message_id] for message_id in part]
                log.info("journal.recorded", **place, message_ids=part, client_ids=owners)
        return sum(len(report.accepted) for report in reports.values())

    def _keep_foreign(self, path: Path, fd: int) -> None:
        """Leave a journal that another database's workers, or another version's, may want."""
        if age_seconds(fd) > MAX_FOREIGN_AGE_SECONDS:
            path.unlink(missing_ok=True)
            return
        self._given_up.add(path)
        log.warning("journal.foreign", file=path.name)

    def _give_up(self, path: Path, error: Exception) -> None:
        self._given_up.add(path)
        log.error("journal.failed", file=path.name, exc_info=error)


@contextmanager
def _lock_abandoned(path: Path) -> Iterator[int | None]:
    """Open and lock a journal; yield None if a living process has it, or if it is gone."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        yield None
        return
    try:
        yield fd if lock_file(fd) else None
    finally:
        with contextlib.suppress(OSError):
            os.close(fd)
