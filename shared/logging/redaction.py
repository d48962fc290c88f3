"""Removes phones, message texts, tokens and passwords from log lines.

This code's own lines do not contain them. Redaction is for texts of others: libraries, drivers that
quote a row in an error, a provider whose response repeats the request.
"""

import json
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any
from urllib.parse import unquote, urlsplit

MIN_SECRET_LENGTH = 8
# A response that contains this many consecutive characters of a message's text repeats it.
MIN_REPEATED_LENGTH = 12

PHONE = re.compile(r"(?<![\w.])7\d{10}(?!\w)")
BEARER_TOKEN = re.compile(r"(?i)\b(bearer\s+)[\w.~+/=-]{6,}")
JSON_WEB_TOKEN = re.compile(r"\beyJ[\w-]{6,}\.[\w-]+\.[\w-]*")
# PostgreSQL and its drivers quote the row, the statement or its values after the first line.
QUOTED_ROW = re.compile(
    r"\n(?:DETAIL|CONTEXT|QUERY|STATEMENT|LINE \d+): .*?(?=\n\n|\nTraceback|\n\[SQL|\Z)"
    r"|\[parameters: .*?\](?=\n|\Z)",
    re.DOTALL,
)

_secrets: list[str] = []


def mask_phone(phone: int | str) -> str:
    """Mask a phone: 79161234567 becomes 7916***4567."""
    digits = str(phone)
    return f"{digits[:4]}***{digits[-4:]}"


def register_secrets(values: Iterable[str]) -> None:
    """Redact these values from now on; of a URL, the password in it."""
    for value in values:
        secret = urlsplit(value).password if "://" in value else value
        for form in {secret or "", unquote(secret or "")}:
            if len(form) >= MIN_SECRET_LENGTH and form not in _secrets:
                _secrets.append(form)


def forget_secret(value: str) -> None:
    """Stop redacting a value that is no secret any more, so that the list does not grow."""
    if value in _secrets:
        _secrets.remove(value)


def redact(value: Any) -> Any:
    """Return the value with its strings redacted, also in nested dicts and lists."""
    if isinstance(value, str):
        return _redact_text(value) if len(value) >= MIN_SECRET_LENGTH else value
    if isinstance(value, dict):
        return {key: redact(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact(item) for item in value]
    return value


def _redact_text(text: str) -> str:
    for secret in _secrets:
        if secret in text:
            text = text.replace(secret, "[secret]")
    if "\n" in text or "[param" in text:
        text = QUOTED_ROW.sub("", text)
    if "earer" in text or "EARER" in text:
        text = BEARER_TOKEN.sub(r"\1[secret]", text)
    if "eyJ" in text:
        text = JSON_WEB_TOKEN.sub("[secret]", text)
    return PHONE.sub(lambda match: mask_phone(match[0]), text)


@lru_cache(4096)
def redact_answer(answer: str, text: str) -> str:
    """Redact a provider's response; withhold it if it repeats the message's text."""
    plain = " ".join(text.split())
    if not plain:
        return str(redact(answer))
    haystack = f"{plain}\n{json.dumps(plain)[1:-1]}"
    if len(plain) < MIN_REPEATED_LENGTH:
        repeats = plain in answer or json.dumps(plain)[1:-1] in answer
    else:
        windows = range(max(1, len(answer) - MIN_REPEATED_LENGTH + 1))
        repeats = any(answer[at : at + MIN_REPEATED_LENGTH] in haystack for at in windows if answer)
    return "[withheld: it repeats the message's text]" if repeats else str(redact(answer))
