"""Connections lead to the primary server; errors that mean "PostgreSQL is unavailable".

After a failover an address, or an old connection through a proxy, may lead to a standby, where
reads work and writes fail with SQLSTATE 25006. New connections refuse such a server. A process that
meets one on an open connection treats it as an outage and opens another connection.
"""

import psycopg2
from psycopg2.errors import ReadOnlySqlTransaction
from psycopg2.extensions import parse_dsn

# Errors that pass with time: an outage, a read-only server, a lock held by another transaction.
TRANSIENT_ERRORS = (psycopg2.OperationalError, psycopg2.InterfaceError, ReadOnlySqlTransaction)


def primary_only(url: str) -> dict[str, str]:
    """Return the connection parameters that refuse a read-only server, unless `url` has its own.

    Of several hosts in the URL, libpq then takes the first one that accepts writes.
    """
    if "target_session_attrs" in parse_dsn(url):
        return {}
    return {"target_session_attrs": "read-write"}
