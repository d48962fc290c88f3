"""Erasures: what is left to do after a client was deleted.

Deleting a client erases the row at once. Traces of the phone elsewhere are found by searching, and
some arrive later: a file of clients that was sent before, a test that is being sent, the late
answer of the provider. So the phone is kept here until the sweep has searched twice: at once, and
again when nothing that began before the deletion can still write it. Then this row is deleted.

Opt-outs keep the phone: the promise not to write to it outlives the client.
"""

import time

from psycopg2.extensions import cursor as Cursor

from shared.db.on_commit import log_clients_on_commit
from shared.db.rows import fetch_one_row
from shared.domain.phones import ERASED_PHONE, SEPARATOR_CHARACTERS

# The second search is this much later at least: longer than a test or a request to the provider
# may last (PROVIDER_TIMEOUT is at most 120 s).
SETTLE_SECONDS = 180
# Erasures per search, so that one does not last for long.
MAX_ERASURES = 50


PHONE_SEPARATORS = SEPARATOR_CHARACTERS + "+"

RECORD = "INSERT INTO erasures (client_id, phone) VALUES (%s, %s)"
FIND_DUE = f"""
SELECT id, client_id, phone, requested_at, due_again, searched_import FROM (
    SELECT e.*, e.requested_at < now() - interval '{SETTLE_SECONDS} seconds' AND NOT EXISTS (
        SELECT FROM imports i
        WHERE i.status IN ('receiving', 'running') AND i.created_at <= e.requested_at)
        AND NOT EXISTS (
            SELECT FROM import_files f WHERE f.created_at <= e.requested_at) AS due_again
    FROM erasures e
) found WHERE searched_at IS NULL OR due_again
ORDER BY searched_import DESC, id LIMIT {MAX_ERASURES} FOR UPDATE SKIP LOCKED
"""  # noqa: S608 (constants)
MARK_SEARCHED = """
UPDATE erasures SET searched_at = now(), searched_import = 0 WHERE id = ANY (%s::bigint[])
"""
MARK_IMPORT = "UPDATE erasures SET searched_import = %s WHERE id = ANY (%s::bigint[])"
NEXT_IMPORT = "SELECT min(id) FROM imports WHERE id > %s AND created_at <= %s"
DELETE = "DELETE FROM erasures WHERE id = ANY (%s::bigint[])"

# Attempts keep the phone and text that were sent, so that a retry repeats them exactly; and the
# provider's answer, which may repeat them.
ERASE_ATTEMPTS = """
UPDATE attempts a SET phone = NULL, text = NULL, excerpt = ''
FROM (
    SELECT g.id AS mailing_id, m.id AS message_id
    FROM mailings g
    CROSS JOIN LATERAL (
        SELECT id FROM messages WHERE mailing_id = g.id AND client_id = ANY (%s::bigint[])
    ) m
    WHERE g.audience > 0
) found
WHERE a.mailing_id = found.mailing_id AND a.message_id = found.message_id
    AND (num_nonnulls(a.phone, a.text) > 0 OR a.excerpt <> '')
"""
# What an import has changed. A merge writes it under the lock of the client, so none comes later.
ERASE_IMPORT_CHANGES = """
DELETE FROM import_changes d USING imports i
WHERE i.undo_until IS NOT NULL AND d.import_id = i.id
    AND d.client_id = ANY (%s::bigint[])
"""
# What was written after the deletion is about a later client, or about none: it stays.
ERASED = """
WITH erased AS (
    SELECT * FROM unnest(%(phones)s::bigint[], %(instants)s::timestamptz[]) AS e (phone, at)
)
"""
# The list keeps its length: without phones a mailing would be to all clients.
ERASE_IN_MAILINGS = f"""
{ERASED}, found AS (
    SELECT m.id FROM mailings m
    WHERE m.phones <> '{{}}'
        AND EXISTS (SELECT FROM unnest(m.phones) p WHERE p = ANY (%(phones)s::bigint[]))
        AND EXISTS (SELECT FROM erased e WHERE e.phone = ANY (m.phones) AND m.created_at <= e.at)
    ORDER BY m.id FOR NO KEY UPDATE
)
UPDATE mailings m SET phones = ARRAY(
    SELECT CASE WHEN EXISTS (SELECT FROM erased e WHERE e.phone = p.phone AND m.created_at <= e.at)
        THEN {ERASED_PHONE} ELSE p.phone END
    FROM unnest(m.phones) WITH ORDINALITY AS p (phone, place) ORDER BY place)
FROM found WHERE m.id = found.id
"""  # noqa: S608 (constants)
# The answer of a request that named phones; the key stays, so that a repetition creates nothing.
# Of the answer that is the client itself, only the id stays.
ERASE_ANSWERS = f"""
{ERASED}
UPDATE idempotency_keys k SET answer = CASE
    WHEN k.answer::json ->> 'phone' IN (SELECT e.phone::text FROM erased e)
    THEN json_build_object('id', k.answer::json -> 'id')::text
    ELSE regexp_replace(k.answer,
        '"(' || (SELECT string_agg(e.phone::text, '|') FROM erased e) || ')"', '"erased"', 'g')
END
WHERE EXISTS (SELECT FROM erased e WHERE k.created_at <= e.at
    AND strpos(k.answer, '"' || e.phone || '"') > 0)
"""  # noqa: S608 (constants)
# One that is being sent is left to the second search.
ERASE_TEST_SENDS = f"""
{ERASED}
DELETE FROM test_sends t USING erased e
WHERE e.phone = ANY (t.phones) AND t.created_at <= e.at
    AND t.created_at < now() - interval '{SETTLE_SECONDS} seconds'
"""  # noqa: S608 (constants)
ERASE_FILE_NAMES = f"""
{ERASED}
UPDATE imports i SET file_name = '' FROM erased e
WHERE i.created_at <= e.at AND i.file_name ~ '[0-9]'
    AND strpos(translate(i.file_name, %(separators)s, ''), right(e.phone::text, 10)) > 0
"""  # noqa: S608 (constants)
# Rejected rows are as people wrote them: compared by the last ten digits of all cells together.
# The pattern finds candidates in one pass, whatever the number of phones.
ERASE_REJECTED_ROWS = f"""
{ERASED}
UPDATE rejected_rows r
SET phone = '', operator_code = '', tag = '', timezone = '', attributes = '{{}}'
FROM imports i
WHERE r.import_id = %(import)s AND i.id = r.import_id
    AND translate(concat(r.phone, ' ', r.operator_code, ' ', r.tag, ' ', r.timezone, ' ',
        r.attributes), %(separators)s, '') ~ %(pattern)s
    AND EXISTS (
        SELECT FROM erased e WHERE i.created_at <= e.at AND strpos(
            translate(concat(r.phone, ' ', r.operator_code, ' ', r.tag, ' ', r.timezone, ' ',
                r.attributes), %(separators)s, ''),
            right(e.phone::text, 10)) > 0)
"""  # noqa: S608 (constants)
SEARCHES = (ERASE_IN_MAILINGS, ERASE_ANSWERS, ERASE_TEST_SENDS, ERASE_FILE_NAMES)


def request_erasure(cursor: Cursor, client_id: int, phone: int) -> None:
    """Erase what is found by the client's id, and record what the sweep has to search for."""
    cursor.execute(ERASE_ATTEMPTS, ([client_id],))
    cursor.execute(ERASE_IMPORT_CHANGES, ([client_id],))
    cursor.execute(RECORD, (client_id, phone))


def search_traces(cursor: Cursor, seconds: float) -> None:
    """Erase the traces of deleted clients for about `seconds`; the next call goes on.

    The clients whose search has ended are logged on commit.
    """
    until = time.monotonic() + seconds
    cursor.execute(FIND_DUE)
    due = cursor.fetchall()
    if not due:
        return
    # Those whose search has begun go on together; the others begin later, or all begin.
    at_import = due[0][-1]
    due = [row for row in due if row[-1] == at_import]
    ids, clients, phones, instants, last, _ = (list(column) for column in zip(*due, strict=True))
    values = {
        "phones": phones,
        "instants": instants,
        "separators": PHONE_SEPARATORS,
        "pattern": "|".join(str(phone)[-10:] for phone in phones),
    }
    if not at_import:
        cursor.execute(ERASE_ATTEMPTS, (clients,))
        cursor.execute(ERASE_IMPORT_CHANGES, (clients,))  # left by an API of an earlier version
        for search in SEARCHES:
            cursor.execute(search, values)
    while True:
        cursor.execute(NEXT_IMPORT, (at_import, max(instants)))
        (following,) = fetch_one_row(cursor)
        if following is None:
            break
        if time.monotonic() > until:
            cursor.execute(MARK_IMPORT, (at_import, ids))
            return
        at_import = following
        cursor.execute(ERASE_REJECTED_ROWS, {**values, "import": at_import})
    completed = [id_ for id_, is_last in zip(ids, last, strict=True) if is_last]
    cursor.execute(DELETE, (completed,))
    cursor.execute(MARK_SEARCHED, (ids,))
    log_clients_on_commit(cursor, "client.traces_erased", clients, completed=len(completed))
