"""Journals of acceptances as dead workers leave them."""

from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from worker.dispatch.journal import HEADER_BYTES, DatabaseIdentity, Journal
from worker.dispatch.leased_batch import OutgoingMessage
from worker.provider.http.exchange import Result
from worker.provider.outcomes import Outcome

RECORD_BYTES = 48
AT = 1_795_000_000.25


def make_results(
    ids: Iterable[int],
    key: tuple[int, int, int] = (7, 9, 1),
    outcome: Outcome = Outcome.ACCEPTED,
    at: float = AT,
) -> list[Result[OutgoingMessage]]:
    """Make the results of requests of one batch: its key is (mailing, batch, token)."""
    batch: Any = SimpleNamespace(key=key)
    results = []
    for id_ in ids:
        request = OutgoingMessage(id_, b"{}")
        request.batch = batch
        results.append(Result(request, outcome, 200, 0.01, None, "", "code_0", True, at))
    return results


def abandon(journal: Journal) -> Path:
    """Close a journal as a SIGKILL does: the file stays as it is, and its lock is free."""
    path = journal.path
    data = path.read_bytes()
    journal.close()
    path.write_bytes(data)
    return path


def leave_journal(
    folder: Path, identity: DatabaseIdentity, accepted: dict[tuple[int, int, int], list[int]]
) -> Path:
    """Leave a dead worker's journal with these acceptances: (mailing, batch, token) → ids."""
    folder.mkdir(exist_ok=True)
    journal = Journal.create(folder, identity, reserve=10, capacity=1000)
    for key, ids in accepted.items():
        journal.append(make_results(ids, key))
    return abandon(journal)


def overwrite_record(path: Path, position: int, offset: int, data: bytes) -> None:
    """Overwrite bytes of the record with this sequence number."""
    with cast(Any, path.open("r+b")) as file:
        file.seek(HEADER_BYTES + position * RECORD_BYTES + offset)
        file.write(data)
