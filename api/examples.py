"""Examples for the documentation: one client, one mailing, and what becomes of them."""

from typing import Any

from werkzeug.http import HTTP_STATUS_CODES

CLIENT = {
    "id": 1,
    "phone": "79161234567",
    "operator_code": "916",
    "tag": "vip",
    "timezone": "Europe/Moscow",
    "attributes": {"name": "Anna"},
    "created_at": "2030-12-01T08:00:00.000000Z",
    "updated_at": "2030-12-01T08:00:00.000000Z",
}
MAILING = {
    "id": 17,
    "name": "Spring sale",
    "text": "{name|Dear client}, only today: everything at half the price.",
    "start_at": "2030-12-02T06:00:00.000000Z",
    "end_at": "2030-12-02T18:00:00.000000Z",
    "filter": {
        "operator_codes": ["916"],
        "tags": ["vip"],
        "timezones": [],
        "attributes": {},
        "exclude_mailing_ids": [],
        "phones": [],
    },
    "window": {"from": "09:00", "to": "21:00"},
    "rate_limit": None,
    "status": "scheduled",
    "audience": 0,
    "created_at": "2030-12-01T08:05:00.000000Z",
    "started_at": None,
    "finished_at": None,
}
COUNTS = {"pending": 380, "sent": 1600, "failed": 20, "expired": 0, "cancelled": 0}
MESSAGE = {
    "id": 4711,
    "mailing_id": 17,
    "client_id": 1,
    "status": "failed",
    "reason": "rejected",
    "attempts": 1,
    "in_doubt": False,
    "created_at": "2030-12-02T06:00:00.120000Z",
    "sent_at": None,
}
ATTEMPT = {
    "at": "2030-12-02T06:00:00.480000Z",
    "outcome": "rejected",
    "reason": "rejected",
    "http_status": 400,
    "latency_ms": 12,
    "excerpt": '{"message": "unknown number"}',
}
STATISTICS = {
    "mailing_id": 17,
    "status": "running",
    "audience": 2000,
    "audience_complete": True,
    "counts": COUNTS,
    "in_doubt": 0,
    "in_progress": 64,
    "due": 116,
    "retrying": 0,
    "waiting": 200,
}
TOTALS = {
    "mailings": {"scheduled": 1, "running": 1, "paused": 0, "finished": 5, "cancelled": 0},
    "audience": 2000,
    "counts": COUNTS,
    "in_doubt": 0,
}
MAILING_TOTALS = {
    "mailing_id": 17,
    "name": "Spring sale",
    "status": "running",
    "audience": 2000,
    "counts": COUNTS,
    "in_doubt": 0,
}
TOKEN = {
    "id": 3,
    "name": "billing",
    "scope": "write",
    "prefix": "nt_x7Tq2LmA",
    "created_at": "2030-12-01T08:00:00.000000Z",
    "expires_at": None,
    "revoked_at": None,
    "last_used_at": "2030-12-02T05:59:30.000000Z",
}
NEW_TOKEN = {
    **TOKEN,
    "last_used_at": None,
    "token": "nt_x7Tq2LmA-qkZ0sJ1vGm3yXr8cBn5hWd4uFp6eTi9oLa",
}
IMPORT: dict[str, Any] = {
    "id": 5,
    "status": "finished",
    "rows_total": 2000,
    "rows_done": 2000,
    "created": 1900,
    "updated": 60,
    "unchanged": 39,
    "rejected": 1,
    "errors": [
        {
            "line": 17,
            "column": "phone",
            "detail": "line 17: phone must be 11 digits and start with 7, for example 79161234567",
        }
    ],
    "ignored_columns": [],
    "failure": None,
    "created_at": "2030-12-01T08:10:00.000000Z",
    "finished_at": "2030-12-01T08:10:01.250000Z",
}

DETAILS = {
    400: "The body is not JSON: Expecting value, line 1 column 1.",
    401: "Send an API token in the header: Authorization: Bearer TOKEN.",
    403: "The API token's scope is read; this takes the scope write.",
    404: "There is no such mailing.",
    409: "The mailing is finished and cannot change any more.",
    413: "The body is too large; the limit is 1 MiB.",
    415: "Send the body as JSON with the header Content-Type: application/json.",
    422: "/phone: must be 11 digits and start with 7, for example 79161234567",
    429: "At most 10 test messages may be sent per minute; 2 are left now.",
    503: "The database is not available. Try again in a moment.",
}
FAULT = {
    "pointer": "/phone",
    "detail": "must be 11 digits and start with 7, for example 79161234567",
    "code": "phone_format",
}


def page_of(item: dict[str, Any]) -> dict[str, Any]:
    """A page that more follow."""
    return {"items": [item], "next_cursor": "NTA"}


def problem_example(status: int) -> dict[str, Any]:
    """A problem of this status, as a caller may meet it."""
    title = HTTP_STATUS_CODES[status]
    example = {
        "type": "about:blank",
        "title": title,
        "status": status,
        "detail": DETAILS.get(status, f"{title}."),
        "instance": "/api/v1/clients",
        "request_id": "6b1f0c7c4f5a4c57a0b9d5a1f0c8f7e2",
    }
    return example | ({"errors": [FAULT]} if status == 422 else {})
