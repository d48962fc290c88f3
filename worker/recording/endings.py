"""Has the logs say which messages a flush has ended, and why."""

from collections.abc import Iterable, Mapping

from psycopg2.extensions import cursor as Cursor

from shared.db.on_commit import note_messages
from worker.recording.state_machine import MessageState


class Endings:
    """One mailing's, in one transaction. `clients` are to be known before anything ends."""

    def __init__(self, cursor: Cursor, mailing_id: int):
        self._cursor, self._mailing_id = cursor, mailing_id
        self.clients: dict[int, int] = {}  # by message

    def note(
        self,
        changed: Iterable[int],
        before: Mapping[int, MessageState],
        after: Mapping[int, MessageState],
        home: Mapping[int, int],
    ) -> None:
        """Note who ended. That a pending one was accepted, the line of its attempt says."""
        ends: dict[tuple[int, str, str | None], list[int]] = {}
        for id_ in changed:
            old, new = before[id_].status, after[id_].status
            if new not in (old, "pending") and (old, new) != ("pending", "sent"):
                ends.setdefault((home[id_], new, after[id_].reason), []).append(id_)
        for (batch_id, status, reason), ids in ends.items():
            place = {"mailing_id": self._mailing_id, "batch_id": batch_id, "reason": reason}
            clients = [self.clients[id_] for id_ in ids]
            note_messages(self._cursor, f"message.{status}", ids, clients, **place)
