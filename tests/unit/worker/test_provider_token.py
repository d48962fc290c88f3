"""The provider's token: what a JWT says about its validity, and reading a file again."""

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from shared.logging import redaction
from worker.provider import token as token_module
from worker.provider.token import REMINDER_SECONDS, REREAD_SECONDS, ProviderToken, read_validity

DAY = 86400


def make_jwt(**claims: Any) -> str:
    parts = ({"alg": "RS256"}, claims)
    encoded = (base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in parts)
    return b".".join([*encoded, b"c2lnbmF0dXJl"]).decode()


@pytest.mark.parametrize(
    ("issued_at", "expires_at", "notice"),
    [
        (1_000_000, 1_000_000 + 3600, 360),
        (1_000_000, 1_000_000 + 365 * DAY, 7 * DAY),
        (None, 2_000_000_000, DAY),
        (2_000_000, 1_000_000, 0),
    ],
)
def test_renewal_is_due_a_tenth_of_the_validity_before_its_end(
    issued_at: int | None, expires_at: int, notice: float
) -> None:
    claims = {"exp": expires_at, "iat": issued_at}
    validity = read_validity(make_jwt(**{k: v for k, v in claims.items() if v is not None}))
    assert validity == (expires_at, expires_at - notice)


@pytest.mark.parametrize(
    "token",
    [
        "opaque",
        "a.b.c",
        "..",
        "eyJh.é.x",
        make_jwt(sub="no end"),
        make_jwt(exp="tomorrow"),
        make_jwt(exp=True),
        make_jwt(exp=-1),
        make_jwt(exp=1e300),
        make_jwt(exp=float("nan")),
        make_jwt(exp=[1]),
    ],
)
def test_other_tokens_state_no_end(token: str) -> None:
    assert read_validity(token) is None


def test_a_changed_file_is_read_again_once_a_second(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("first-token\n")
    token = ProviderToken("first-token", file)
    assert not token.refresh(100.0)
    file.write_text("second-token\n")
    assert not token.refresh(100.0 + REREAD_SECONDS / 2)
    assert token.refresh(100.0 + REREAD_SECONDS)
    assert token.value == "second-token"
    assert not token.refresh(100.0 + 2 * REREAD_SECONDS)


def test_a_replaced_link_is_followed_as_kubernetes_replaces_it(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "token").write_text(f"token-of-{number}")
    (tmp_path / "data").symlink_to("1")
    token = ProviderToken("token-of-1", tmp_path / "data" / "token")
    assert not token.refresh(100.0)
    (tmp_path / "data.new").symlink_to("2")
    (tmp_path / "data.new").rename(tmp_path / "data")
    assert token.refresh(102.0)
    assert token.value == "token-of-2"


def test_a_file_that_looks_unchanged_is_read_again_after_a_rejection(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("token-1")
    token = ProviderToken("token-1", file)
    token.refresh(100.0)
    status = file.stat()
    file.write_text("token-2")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert not token.refresh(102.0)
    token.record_rejection()
    assert not token.refresh(102.5), "at most once a second"
    assert token.refresh(103.0)
    assert token.value == "token-2"


@pytest.mark.parametrize("content", [None, b"", b"two words", b"\xff\xfe"])
def test_an_unusable_file_leaves_the_token_and_is_logged_once(
    tmp_path: Path, content: bytes | None
) -> None:
    file = tmp_path / "token"
    file.write_text("token-1")
    token = ProviderToken("token-1", file)
    token.refresh(100.0)
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    with capture_logs() as logs:
        for second in range(5):
            assert not token.refresh(110.0 + second)
    assert [line["event"] for line in logs] == ["provider.token_unreadable"]
    assert token.value == "token-1"
    file.write_text("token-2")
    assert token.refresh(120.0)


def test_new_tokens_are_redacted_and_the_list_of_secrets_does_not_grow(tmp_path: Path) -> None:
    before = len(redaction._secrets)
    file = tmp_path / "token"
    token = ProviderToken("token-of-before", file)
    for number in range(20):
        file.write_text(f"opaque-token-{number}")
        assert token.refresh(100.0 + number)
    line = redaction.redact("sent opaque-token-19 after opaque-token-18")
    assert line == "sent [secret] after [secret]"
    assert len(redaction._secrets) <= before + 2
    for number in (18, 19):
        redaction.forget_secret(f"opaque-token-{number}")


def test_an_expiring_token_is_logged_once_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 1_000_000_000.0
    monkeypatch.setattr(token_module, "time", lambda: clock)
    token = ProviderToken(make_jwt(iat=clock - 80 * DAY, exp=clock + 20 * DAY))
    with capture_logs() as logs:
        token.remind(0.0)
        clock += 13 * DAY
        for seconds in (10.0, 20.0, 10.0 + REMINDER_SECONDS):
            token.remind(seconds)
        clock += 8 * DAY
        token.remind(30.0 + 2 * REMINDER_SECONDS)
    assert [(line["event"], line["log_level"]) for line in logs] == [
        ("provider.token_expiring", "warning"),
        ("provider.token_expiring", "warning"),
        ("provider.token_expiring", "error"),
    ]
    assert logs[0]["seconds"] == 7 * DAY
    assert logs[0]["expires_at"].startswith("2001-09-29T")
