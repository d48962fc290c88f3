"""Complete the erasure of deleted clients: find their phones wherever else they are stored."""

import structlog

from shared.db.erasures import search_traces
from worker.runtime.database import Database

log = structlog.get_logger()

# A search of many imports goes on in the next sweep.
SEARCH_SECONDS = 0.5


def sweep_erasures(db: Database) -> None:
    """Search for the traces of some deleted clients, if any are due."""
    with db.transaction() as cursor:
        searched, completed = search_traces(cursor, SEARCH_SECONDS)
    if searched:
        log.info("client.traces_erased", clients=searched, completed=completed)
