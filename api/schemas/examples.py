"""Examples for the OpenAPI document: one client, one mailing, its messages and statistics."""

from typing import Any

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
    "max_audience": None,
    "stop_when": {"refused_share": 0.3, "min_answers": 100},
    "budget": None,
    "launch_at": "2030-12-02T06:00:00.000000Z",
    "status": "scheduled",
    "pause_reason": None,
    "audience": 0,
    "audience_complete": False,
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
SEGMENTS = {"sent": 3220, "in_doubt": 0}
COST = {"sent": "7728.00", "in_doubt": "0.00", "currency": "RUB"}
STATISTICS = {
    "mailing_id": 17,
    "status": "running",
    "audience": 2000,
    "audience_complete": True,
    "counts": COUNTS,
    "opted_out": 0,
    "in_doubt": 0,
    "segments": SEGMENTS,
    "cost": COST,
    "in_progress": 64,
    "due": 116,
    "retrying": 0,
    "waiting": 200,
    "refusals": [
        {"http_status": 422, "reason": "http_422", "count": 12, "example": '{"code":422}'}
    ],
}
TOTALS = {
    "mailings": {"scheduled": 1, "running": 1, "paused": 0, "finished": 5, "cancelled": 0},
    "audience": 2000,
    "counts": COUNTS,
    "opted_out": 0,
    "in_doubt": 0,
    "segments": SEGMENTS,
    "cost": COST,
}
MAILING_TOTALS = {
    "mailing_id": 17,
    "name": "Spring sale",
    "status": "running",
    "audience": 2000,
    "counts": COUNTS,
    "opted_out": 0,
    "in_doubt": 0,
    "segments": SEGMENTS,
    "cost": COST,
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
SESSION: dict[str, Any] = {
    "id": 8,
    "person": {
        "issuer": "https://id.example.com",
        "subject": "248289761001",
        "name": "Ann",
        "email": "ann@example.com",
        "email_verified": True,
    },
    "role": "operator",
    "started_at": "2030-12-02T05:00:00.000000Z",
    "seen_at": "2030-12-02T06:10:00.000000Z",
    "expires_at": "2030-12-02T13:00:00.000000Z",
}
IMPORT_CHECK: dict[str, Any] = {
    "rows": 2000,
    "created": 1900,
    "updated": 60,
    "unchanged": 37,
    "rejected": 3,
    "columns": [
        {"column": "Телефон", "target": "phone", "samples": ["+7 (916) 123-45-67"]},
        {"column": "Имя", "target": "Имя", "samples": ["Анна", "Пётр"]},
    ],
    "timezones": [{"value": "мск+3", "timezone": "Asia/Omsk", "rows": 3}],
    "errors": [
        {
            "line": 17,
            "column": "timezone",
            "value": "МСК+3",
            "detail": 'row 17: timezone "МСК+3" is an offset, which several zones have: confirm '
            "with the mapping that it means Asia/Omsk, or write the zone",
            "code": "timezone_offset",
        }
    ],
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
    "rejected_kept": 1,
    "errors": [
        {
            "line": 17,
            "column": "phone",
            "code": "phone_format",
            "value": "495-00-11",
            "detail": 'row 17: phone "495-00-11" must be 11 digits and start with 7, for example '
            "79161234567",
        }
    ],
    "attribute_columns": ["name"],
    "ignored_columns": [],
    "failure": None,
    "created_by": "token:crm",
    "file_name": "clients.xlsx",
    "created_at": "2030-12-01T08:10:00.000000Z",
    "finished_at": "2030-12-01T08:10:01.250000Z",
    "undo_until": "2030-12-08T08:10:00.000000Z",
    "undo": None,
}

PREVIEW: dict[str, Any] = {
    "audience": 2000,
    "recipients": 1988,
    "withheld": [{"reason": "opted_out", "clients": 12}],
    "by_operator_code": [{"value": "916", "clients": 2000}],
    "by_timezone": [
        {"value": "Europe/Moscow", "clients": 1500, "opens_at": "2030-12-02T06:00:00.000000Z"},
        {"value": "Asia/Omsk", "clients": 500, "opens_at": "2030-12-02T06:00:00.000000Z"},
    ],
    "by_tag": [{"value": "vip", "clients": 2000}],
    "never_in_window": 0,
    "opted_out": 12,
    "lacking": 0,
    "missing_attributes": [],
    "examples": [{"client_id": 1, "text": "Anna, only today: everything at half the price."}],
    "text": {"length": 54, "encoding": "GSM-7", "units": 54, "segments": 1},
    "segments_total": 1988,
    "segments_exact": True,
    "cost": "4970.00",
    "currency": "RUB",
    "rate": 100.0,
    "expected_seconds": 19.88,
    "expected_finish_at": "2030-12-02T06:00:20.000000Z",
    "expected_unsent": 0,
    "warnings": [],
}
PROBLEM = {
    "type": "about:blank",
    "title": "Unprocessable Entity",
    "status": 422,
    "code": "invalid_values",
    "detail": "/phone: must be 11 digits and start with 7, for example 79161234567",
    "instance": "/api/v1/clients",
    "request_id": "6b1f0c7c4f5a4c57a0b9d5a1f0c8f7e2",
    "errors": [
        {
            "pointer": "/phone",
            "detail": "must be 11 digits and start with 7, for example 79161234567",
            "code": "phone_format",
        }
    ],
}


def page_of(item: dict[str, Any]) -> dict[str, Any]:
    """Return a page with this item, followed by another page."""
    return {"items": [item], "next_cursor": "NTA"}
