"""Complete the erasure of deleted clients: find their phones wherever else they are stored."""

from shared.db.erasures import search_traces
from worker.runtime.database import Database

# A search of many imports goes on in the next sweep.
SEARCH_SECONDS = 0.5


def sweep_erasures(db: Database) -> None:
    """Search for the traces of some deleted clients, if any are due."""
    with db.transaction() as cursor:
        search_traces(cursor, SEARCH_SECONDS)
