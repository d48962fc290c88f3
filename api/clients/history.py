"""What has happened to a client: its messages with their texts, test sends, opt-out and import."""

from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import text

from api.db import db, fetch_all
from shared.db.models import Client
from shared.db.opt_outs import OptOut
from shared.domain.attributes import placeholder_values
from shared.domain.templates import RenderingError, compile_template

MAX_MESSAGES = 50
# The newest test sends among which those to this client are looked for, and how many are shown.
SEARCHED_TEST_SENDS = 2_000
MAX_TEST_SENDS = 20

# With the text of the version that the message's batch was first claimed with, and the latest
# attempt that was not accepted: its text is repeated by every later one.
MESSAGES = text(f"""
SELECT g.id AS mailing_id, g.name, g.text, m.id, m.status, m.reason, m.attempts, m.in_doubt,
    m.created_at, m.sent_at, g.deleted_at IS NOT NULL AS mailing_deleted, b.text_version,
    t.text AS claimed_text, a.text AS attempted_text, a.at AS attempted_at
FROM (
    SELECT g.id AS of_mailing, m.* FROM mailings g CROSS JOIN LATERAL (
        SELECT * FROM messages WHERE mailing_id = g.id AND client_id = :client_id
    ) m
    WHERE g.audience > 0 ORDER BY g.id DESC LIMIT {MAX_MESSAGES}
) m
JOIN mailings g ON g.id = m.of_mailing
LEFT JOIN LATERAL (
    SELECT text_version FROM batches WHERE mailing_id = g.id AND id = m.batch_id
) b ON true
LEFT JOIN mailing_texts t ON t.mailing_id = g.id AND t.version = b.text_version
LEFT JOIN LATERAL (
    SELECT at, text FROM attempts WHERE mailing_id = g.id AND message_id = m.id
    ORDER BY at DESC LIMIT 1
) a ON m.attempts > 0
ORDER BY g.id DESC
""")  # noqa: S608 (constants)
VALUES = text(f"""
SELECT {placeholder_values("clients")} AS given FROM clients WHERE id = :client_id
""")  # noqa: S608 (a constant)
TEST_SENDS = text(f"""
SELECT id, actor, created_at, text FROM (
    SELECT * FROM test_sends ORDER BY id DESC LIMIT {SEARCHED_TEST_SENDS}
) newest
WHERE :phone = ANY (phones) AND claimed_at IS NOT NULL ORDER BY id DESC LIMIT {MAX_TEST_SENDS}
""")  # noqa: S608 (constants)
LAST_IMPORT = text("""
SELECT i.id, i.created_at, c.created_at >= i.created_at AS added
FROM clients c JOIN imports i ON i.id = c.last_import_id WHERE c.id = :client_id
""")


class ReceivedText(NamedTuple):
    """The text of a message; `exact` unless it is filled in with values that may have changed."""

    text: str
    exact: bool


class ClientHistory(NamedTuple):
    """What is stored about a client besides its own data and the audit log.

    `messages` are rows of MESSAGES with a `received` text, None if none was sent.
    """

    messages: list[dict[str, Any]]
    test_sends: list[dict[str, Any]]
    opt_out: OptOut | None
    last_import: dict[str, Any] | None


def read_client_history(client: Client) -> ClientHistory:
    """Read the latest messages of a client, test sends to its phone, its opt-out and import."""
    messages = fetch_all(MESSAGES, client_id=client.id)
    (values,) = fetch_all(VALUES, client_id=client.id)
    for row in messages:
        row["received"] = _received_text(row, values["given"], client.updated_at)
    imports = fetch_all(LAST_IMPORT, client_id=client.id)
    return ClientHistory(
        messages=messages,
        test_sends=fetch_all(TEST_SENDS, phone=client.phone),
        opt_out=None if client.phone is None else db.session.get(OptOut, client.phone),
        last_import=imports[0] if imports else None,
    )


def _received_text(
    row: dict[str, Any], values: dict[str, str], changed_at: datetime
) -> ReceivedText | None:
    """Return the text of a message that was sent or tried; None if it never was."""
    if row["attempted_text"] is not None:
        return ReceivedText(row["attempted_text"], exact=True)
    if row["claimed_text"] is None or not (row["sent_at"] or row["attempts"]):
        return None
    template = compile_template(row["claimed_text"])
    if template.plain is not None:
        return ReceivedText(template.plain, exact=True)
    unchanged = row["sent_at"] is not None and row["sent_at"] > changed_at
    try:
        return ReceivedText(template.render(values), exact=unchanged)
    except RenderingError:
        return ReceivedText(row["claimed_text"], exact=False)
