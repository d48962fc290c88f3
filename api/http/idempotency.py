"""Idempotency-Key: a request that is sent again gets its first answer again, and does nothing.

The key is taken in the same transaction as what the request does. So of two that arrive at once the
second waits for the first to commit, then gets its answer; and a request that failed leaves its key
free. Keys belong to a token and are kept for 24 hours; the sweep removes them.
"""

import hashlib
import re
from typing import Any

import orjson
import structlog
from flask import g, request
from pydantic import BaseModel
from sqlalchemy import text

from api.actor import current_actor
from api.db import db, fetch_all
from api.errors import FieldError, InvalidFields

log = structlog.get_logger()

HEADER = "Idempotency-Key"
REPLAYED = "Idempotent-Replayed"
KEY = re.compile(r"[\x21-\x7e]{1,255}")

HEADER_PARAMETER = {
    "name": HEADER,
    "in": "header",
    "required": False,
    "description": "Makes it safe to send the request again: for 24 hours, the same key with the"
    " same body gives the first answer again, and with another body 422. 1 to 255 visible ASCII"
    " characters, for example a UUID.",
    "schema": {
        "type": "string",
        "pattern": "^[\\x21-\\x7e]{1,255}$",
        "examples": ["6f1c2f0e-8a43-4e0c-9a53-1d4b7a1f7c55"],
    },
}
HEADER_OF_REPLAYS = {
    REPLAYED: {
        "description": "There, and true, if this is the answer to an earlier request.",
        "schema": {"type": "string", "enum": ["true"]},
    }
}

# Whoever finds the key taken by a transaction under way waits for its end here.
TAKE = text("""
INSERT INTO idempotency_keys (owner, key, fingerprint) VALUES (:owner, :key, :fingerprint)
ON CONFLICT (owner, key) DO UPDATE
    SET fingerprint = excluded.fingerprint, answer = NULL, created_at = now()
    WHERE idempotency_keys.created_at < now() - interval '24 hours'
RETURNING true
""")
READ = text("""
SELECT fingerprint, answer FROM idempotency_keys WHERE owner = :owner AND key = :key
""")
KEEP = text("UPDATE idempotency_keys SET answer = :answer WHERE owner = :owner AND key = :key")


def first_answer(body: BaseModel) -> dict[str, Any] | None:
    """What this request was answered before; None if it is the first, or has no key."""
    key = _key()
    if key is None:
        return None
    mine = {"owner": current_actor().token_id, "key": key}
    fingerprint = _fingerprint(body)
    if fetch_all(TAKE, **mine, fingerprint=fingerprint):
        return None
    (first,) = fetch_all(READ, **mine)
    if bytes(first["fingerprint"]) != fingerprint:
        raise InvalidFields(
            FieldError(
                "was used with another body; a new request needs a new key",
                "idempotency_key_reused",
                parameter=HEADER,
            )
        )
    log.info("api.replayed")
    answer: dict[str, Any] = orjson.loads(first["answer"])
    return answer


def keep(answer: dict[str, Any]) -> None:
    """Keep the answer for those who ask again; to be called in the transaction of the request."""
    key = _key()
    if key is not None:
        kept = {
            "owner": current_actor().token_id,
            "key": key,
            "answer": orjson.dumps(answer).decode(),
        }
        db.session.execute(KEEP, kept)


def _key() -> str | None:
    # A page's form has no headers of its own: it says its key here.
    given = g.get("idempotency_key") or request.headers.get(HEADER)
    if given is not None and KEY.fullmatch(given) is None:
        raise InvalidFields(
            FieldError(
                "must be 1 to 255 visible ASCII characters, for example a UUID",
                "idempotency_key_format",
                parameter=HEADER,
            )
        )
    return given


def _fingerprint(body: BaseModel) -> bytes:
    """Of what was meant, not of how it was written: spaces and the order of fields mean nothing."""
    given = body.model_dump(mode="json", exclude_unset=True)
    document = [request.path, given]
    return hashlib.sha256(orjson.dumps(document, option=orjson.OPT_SORT_KEYS)).digest()
