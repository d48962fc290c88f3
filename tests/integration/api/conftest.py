"""Fixtures of the API's tests."""

from collections.abc import Iterator

import pytest

from worker.runtime.database import Database


@pytest.fixture(scope="module")
def db(database_url: str) -> Iterator[Database]:
    """The database as workers see it."""
    db = Database(database_url, "test")
    yield db
    db.close()
