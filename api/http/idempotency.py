"""The Idempotency-Key header: reading it, and its description in the OpenAPI document."""

import structlog
from flask import request
from pydantic import BaseModel

from api.actor import Actor
from api.idempotency import PARAMETER as HEADER
from api.idempotency import IdempotencyKey

log = structlog.get_logger()

REPLAYED_HEADER = "Idempotent-Replayed"

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
REPLAYED_HEADER_DESCRIPTION = {
    REPLAYED_HEADER: {
        "description": "There, and true, if this is the answer to an earlier request.",
        "schema": {"type": "string", "enum": ["true"]},
    }
}


def mark_replayed(replayed: bool) -> dict[str, str]:
    """Return the header of an answer that repeats an earlier one, and log that it does."""
    if not replayed:
        return {}
    log.info("api.replayed")
    return {REPLAYED_HEADER: "true"}


def read_idempotency_key(body: BaseModel, actor: Actor) -> IdempotencyKey | None:
    """Return the key that the request's header carries; None without the header."""
    key = request.headers.get(HEADER)
    if key is None:
        return None
    return IdempotencyKey.for_request(key, actor.token_id, request.path, body)
