"""The attributes that clients have, as far as the newest clients and imports show."""

from sqlalchemy import text

from api.db import fetch_all

# More clients would take longer to read than a form may take to appear.
ATTRIBUTES = text("""
SELECT name, count(*) AS n FROM (
    SELECT jsonb_object_keys(attributes) AS name FROM (
        SELECT attributes FROM clients WHERE deleted_at IS NULL ORDER BY id DESC LIMIT 500
    ) newest
    UNION ALL SELECT unnest(attribute_columns) FROM (
        SELECT attribute_columns FROM imports ORDER BY id DESC LIMIT 20
    ) files
) known GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT :most
""")


def list_attribute_names(most: int) -> list[str]:
    """Return the names of attributes, the most frequent first."""
    return [row["name"] for row in fetch_all(ATTRIBUTES, most=most)]
