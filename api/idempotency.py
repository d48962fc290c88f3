"""Idempotency keys: a request that is repeated gets its first answer again and does nothing else.

The key is claimed in the transaction of the request. So of two that arrive at once the second waits
for the first to commit, then gets its answer; and a request that failed leaves its key free. Keys
belong to a token and are kept for 24 hours; the sweep removes them.

An answer is stored without secrets. What cannot be answered again, since it is a secret or was
erased, is a conflict (`answer_not_stored`): the first request has succeeded.
"""

import hashlib
import re
from typing import Any, NamedTuple, Self

import orjson
from pydantic import BaseModel
from sqlalchemy import text

from api.db import db, fetch_all
from api.errors import Conflict, FieldError, InvalidFields
from shared.domain.error_texts import ErrorText, error_text

KEY = re.compile(r"[\x21-\x7e]{1,255}")
# The name under which errors mention the key.
PARAMETER = "Idempotency-Key"

# Waits for the end of a concurrent transaction that has claimed the same key.
CLAIM = text("""
INSERT INTO idempotency_keys (owner, key, fingerprint) VALUES (:owner, :key, :fingerprint)
ON CONFLICT (owner, key) DO UPDATE
    SET fingerprint = excluded.fingerprint, answer = NULL, created_at = now()
    WHERE idempotency_keys.created_at < now() - interval '24 hours'
RETURNING true
""")
READ = text("""
SELECT fingerprint, answer FROM idempotency_keys WHERE owner = :owner AND key = :key
""")
STORE = text("UPDATE idempotency_keys SET answer = :answer WHERE owner = :owner AND key = :key")


class AnswerNotStored(Conflict):
    """An earlier request with the key has succeeded, and its answer cannot be given again."""

    def __init__(self, detail: ErrorText) -> None:
        super().__init__(detail, "answer_not_stored")


class IdempotencyKey(NamedTuple):
    """A caller's key, with a digest of the request; `owner` is the id of the token."""

    owner: int
    key: str
    fingerprint: bytes

    @classmethod
    def for_request(cls, key: str, owner: int, path: str, body: BaseModel) -> Self:
        """Build the key of a request. Raise InvalidFields for a malformed key.

        The fingerprint ignores how the body was written: spaces and the order of fields.
        """
        if KEY.fullmatch(key) is None:
            detail = error_text("must be 1 to 255 visible ASCII characters, for example a UUID")
            raise InvalidFields(FieldError(detail, "idempotency_key_format", parameter=PARAMETER))
        content = [path, body.model_dump(mode="json", exclude_unset=True)]
        document = orjson.dumps(content, option=orjson.OPT_SORT_KEYS)
        return cls(owner, key, hashlib.sha256(document).digest())

    @staticmethod
    def find_answer(owner: int, key: str) -> dict[str, Any] | None:
        """Return what a finished request with this key was answered; None if there was none."""
        found = fetch_all(READ, owner=owner, key=key)
        if not found or found[0]["answer"] is None:
            return None
        answer: dict[str, Any] = orjson.loads(found[0]["answer"])
        return answer

    def claim(self) -> dict[str, Any] | None:
        """Claim the key; return the stored answer if an earlier request has done so.

        Raise InvalidFields if that request was a different one.
        """
        mine = {"owner": self.owner, "key": self.key}
        if fetch_all(CLAIM, **mine, fingerprint=self.fingerprint):
            return None
        (first,) = fetch_all(READ, **mine)
        if bytes(first["fingerprint"]) != self.fingerprint:
            detail = error_text("was used with another body; a new request needs a new key")
            raise InvalidFields(FieldError(detail, "idempotency_key_reused", parameter=PARAMETER))
        answer: dict[str, Any] = orjson.loads(first["answer"])
        return answer

    def store(self, answer: dict[str, Any]) -> None:
        """Store the answer for repetitions, in the transaction of the request."""
        stored = {"owner": self.owner, "key": self.key, "answer": orjson.dumps(answer).decode()}
        db.session.execute(STORE, stored)
