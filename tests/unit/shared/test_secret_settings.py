"""Secrets from files, and the rejection of demonstration secrets in production."""

import re
from pathlib import Path

import pytest

from shared.config.secret_files import accepts_secret_file
from shared.config.settings import (
    ApiSettings,
    DatabaseSettings,
    Settings,
    WorkerSettings,
    load_settings,
)

KINDS = (Settings, ApiSettings, WorkerSettings)
# All secrets. A new one can be given as a file too, or this list is incomplete.
SECRETS = {
    "API_BOOTSTRAP_TOKEN",
    "DATABASE_URL",
    "METRICS_TOKEN",
    "OIDC_CLIENT_SECRET",
    "PROVIDER_TOKEN",
    "REDIS_URL",
    "SECRET_KEY",
    "SMTP_URL",
}
API = {
    "DATABASE_URL": "postgresql://u:database-password@postgres/x",
    "REDIS_URL": "redis://:redis-password@redis/0",
    "API_BOOTSTRAP_TOKEN": "a-bootstrap-token-of-ours",
    "SECRET_KEY": "a-secret-key-of-ours",
}
WORKER = {
    "DATABASE_URL": API["DATABASE_URL"],
    "REDIS_URL": API["REDIS_URL"],
    "PROVIDER_URL": "http://provider:8090",
    "PROVIDER_TOKEN": "a-token-of-ours",
}


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in {field.upper() for kind in KINDS for field in kind.model_fields}:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(f"{name}_FILE", raising=False)


def setenv(monkeypatch: pytest.MonkeyPatch, values: dict[str, str]) -> None:
    for name, value in values.items():
        monkeypatch.setenv(name, value)


def complaint(kind: type[DatabaseSettings]) -> str:
    with pytest.raises(SystemExit) as stopped:
        load_settings(kind)
    said = str(stopped.value.code)
    assert "\n" not in said
    return said


def test_every_secret_can_be_given_by_file_and_is_documented() -> None:
    by_file = {
        name.upper()
        for kind in KINDS
        for name, field in kind.model_fields.items()
        if accepts_secret_file(name, field)
    }
    assert by_file == SECRETS
    page = (Path(__file__).parents[3] / "docs/configuration.md").read_text()
    documented = set(re.findall(r"`([A-Z_]+)_FILE`", page))
    assert documented >= by_file, (
        f"docs/configuration.md does not name {by_file - documented} with _FILE"
    )


def test_secrets_are_read_from_files_without_their_last_newline(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given = {**API, "OIDC_CLIENT_SECRET": "two words ", "METRICS_TOKEN": "sixteen-letters-here"}
    given["SMTP_URL"] = "smtp://u:mail-password@mail.example"
    for number, (name, value) in enumerate(given.items()):
        file = tmp_path / name
        file.write_bytes(value.encode() + (b"", b"\n", b"\r\n")[number % 3])
        monkeypatch.setenv(f"{name}_FILE", str(file))
        monkeypatch.setenv(name, "")  # docker-compose passes unset variables as empty
    settings = load_settings(ApiSettings)
    assert settings.database_url == API["DATABASE_URL"]
    assert settings.redis_url == API["REDIS_URL"]
    for name in ("API_BOOTSTRAP_TOKEN", "SECRET_KEY", "OIDC_CLIENT_SECRET", "METRICS_TOKEN"):
        assert getattr(settings, name.lower()).get_secret_value() == given[name], name
    assert settings.smtp_url is not None
    assert settings.smtp_url.get_secret_value() == given["SMTP_URL"]


def test_provider_token_is_read_from_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    setenv(monkeypatch, {**WORKER, "PROVIDER_TOKEN": "", "PROVIDER_TOKEN_FILE": ""})
    assert "PROVIDER_TOKEN: is not set" in complaint(WorkerSettings)
    (tmp_path / "token").write_text("from-the-file\n")
    monkeypatch.setenv("PROVIDER_TOKEN_FILE", str(tmp_path / "token"))
    settings = load_settings(WorkerSettings)
    assert settings.provider_token.get_secret_value() == "from-the-file"


def test_secret_given_twice_is_rejected(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(API["SECRET_KEY"])
    setenv(monkeypatch, {**API, "SECRET_KEY_FILE": str(tmp_path / "key")})
    said = complaint(ApiSettings)
    assert "SECRET_KEY and SECRET_KEY_FILE" in said
    assert API["SECRET_KEY"] not in said


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "No such file"),
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (b"x" * 70_000, "longer than"),
        (b"too short\n", "SECRET_KEY_FILE: Value should have at least 16"),
    ],
)
def test_unusable_file_ends_the_process_with_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes | None, problem: str
) -> None:
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content)
    setenv(monkeypatch, {**API, "SECRET_KEY": "", "SECRET_KEY_FILE": str(file)})
    said = complaint(ApiSettings)
    assert problem in said
    assert "SECRET_KEY_FILE" in said


def test_folder_is_rejected_as_a_secret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    setenv(monkeypatch, {"DATABASE_URL_FILE": str(tmp_path)})
    assert f"setting DATABASE_URL_FILE: cannot read {tmp_path}" in complaint(DatabaseSettings)


DEMO = {
    "DATABASE_URL": "postgresql://u:demo-postgres-password@postgres/x",
    "API_BOOTSTRAP_TOKEN": "demo-bootstrap-token",
}


def test_demonstration_secrets_are_rejected_in_production(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    setenv(monkeypatch, {**API, **DEMO, "PROVIDER_URL": "http://provider:8090"})
    load_settings(ApiSettings)
    # The API does not send to the provider; its address indicates production nevertheless.
    monkeypatch.setenv("PROVIDER_URL", "https://sms.example")
    said = complaint(ApiSettings)
    assert "DATABASE_URL, API_BOOTSTRAP_TOKEN:" in said
    assert "real PROVIDER_URL:" in said
    assert "demo-" not in said
    setenv(monkeypatch, {"PROVIDER_URL": "", "PUBLIC_URL": "https://notify.example"})
    assert "real PUBLIC_URL:" in complaint(ApiSettings)
    setenv(monkeypatch, API)
    load_settings(ApiSettings)


def test_sign_in_without_tls_is_limited_to_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    setenv(monkeypatch, {**API, "OIDC_CLIENT_ID": "x", "PUBLIC_URL": "http://127.0.0.1:8000"})
    for issuer in ("http://openid.localhost:8070", "http://127.0.0.1:8070", "https://id.example"):
        monkeypatch.setenv("OIDC_ISSUER", issuer)
        assert load_settings(ApiSettings).oidc_issuer == issuer
    for issuer in ("http://id.example", "http://localhost.example", "http://notlocalhost"):
        monkeypatch.setenv("OIDC_ISSUER", issuer)
        assert "https://" in complaint(ApiSettings)
