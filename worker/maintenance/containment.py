"""Keeps the failure of one record from the work on the others."""

from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from worker.runtime.database import is_outage

log = structlog.get_logger()


@contextmanager
def contain_failure(what: str, **fields: object) -> Iterator[None]:
    """Log an exception of the block with ids in `fields`. Raise only an outage of PostgreSQL.

    An outage concerns all records, and each of them would wait for it in vain.
    """
    try:
        yield
    except Exception as error:
        if is_outage(error):
            raise
        log.error("sweep.failed", what=what, exc_info=error, **fields)
