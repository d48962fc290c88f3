"""The words by which a client is found: those of the tag and of the attributes' values."""

from typing import cast

from sqlalchemy import Index, Table
from sqlalchemy import text as sql

from shared.db.models import Client

# In lower case, and written as PostgreSQL prints the expression of the index.
CLIENT_WORDS = (
    "to_tsvector('simple'::regconfig, COALESCE(tag, ''::text))"
    " || to_tsvector('simple'::regconfig, attributes)"
)
clients_words = Index(
    "clients_words",
    sql(f"({CLIENT_WORDS})"),
    postgresql_using="gin",
    _table=cast(Table, Client.__table__),
)
