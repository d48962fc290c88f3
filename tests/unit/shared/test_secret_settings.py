"""Secrets from files, and the rejection of demonstration secrets in production."""

import re
import secrets
from pathlib import Path

import pytest
import yaml
from pydantic import SecretStr

from shared.config.production import (
    MIN_BITS,
    estimate_bits,
    find_demo_settings,
    find_unsuitable_secrets,
    is_real,
)
from shared.config.secret_files import accepts_secret_file
from shared.config.settings import (
    ApiSettings,
    DatabaseSettings,
    ReportSettings,
    Settings,
    WorkerSettings,
    load_settings,
)

ROOT = Path(__file__).parents[3]
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
    "DATABASE_URL": "postgresql://u:4f9c02d7b1e8@postgres/x",
    "REDIS_URL": "redis://:b27ae5903c1d@redis/0",
    "API_BOOTSTRAP_TOKEN": "9d1f4b7c2ea85036",
    "SECRET_KEY": "c03e7a915f2bd846",
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
    page = (ROOT / "docs/configuration.md").read_text()
    documented = set(re.findall(r"`([A-Z_]+)_FILE`", page))
    assert documented >= by_file, (
        f"docs/configuration.md does not name {by_file - documented} with _FILE"
    )


def test_secrets_are_read_from_files_without_their_last_newline(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given = {**API, "OIDC_CLIENT_SECRET": "two words ", "METRICS_TOKEN": "5b8e21f7d4c0a396"}
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


PLACEHOLDERS = {name: value.replace("demo-", "change-me-") for name, value in DEMO.items()}


@pytest.mark.parametrize("published", [DEMO, PLACEHOLDERS])
def test_published_secrets_are_rejected_in_production(
    monkeypatch: pytest.MonkeyPatch, published: dict[str, str]
) -> None:
    setenv(monkeypatch, {**API, **published, "PROVIDER_URL": "http://provider:8090"})
    load_settings(ApiSettings)
    # The API does not send to the provider; its address indicates production nevertheless.
    monkeypatch.setenv("PROVIDER_URL", "https://sms.example")
    said = complaint(ApiSettings)
    assert "DATABASE_URL, API_BOOTSTRAP_TOKEN:" in said
    assert "real PROVIDER_URL:" in said
    assert published["API_BOOTSTRAP_TOKEN"] not in said
    setenv(monkeypatch, {"PROVIDER_URL": "", "PUBLIC_URL": "https://notify.example"})
    assert "real PUBLIC_URL:" in complaint(ApiSettings)
    setenv(monkeypatch, API)
    load_settings(ApiSettings)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("API_BOOTSTRAP_TOKEN", "aaaaaaaaaaaaaaaaaaaa"),
        ("SECRET_KEY", "12345678901234567890"),
        ("SECRET_KEY", "Secret-Password-Token1"),
        ("SECRET_KEY", "my-own-secret-key"),
        ("METRICS_TOKEN", "x7f-x7f-x7f-x7f-x7f-"),
        ("DATABASE_URL", "postgresql://notifications:notifications@db/x"),
        ("REDIS_URL", "redis://:redis123@redis/0"),
    ],
)
def test_guessable_secrets_are_rejected_in_production(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    setenv(monkeypatch, {**API, name: value})
    load_settings(ApiSettings)
    monkeypatch.setenv("PUBLIC_URL", "https://notify.example")
    said = complaint(ApiSettings)
    assert said.startswith(f"setting {name}: too easy to guess for use with a real PUBLIC_URL")
    assert value not in said


def test_random_secrets_are_accepted_in_production() -> None:
    for _ in range(200):
        assert estimate_bits(secrets.token_hex(24)) > 2 * MIN_BITS["secret_key"]
        assert estimate_bits(secrets.token_urlsafe(12)) > MIN_BITS["secret_key"]
        assert estimate_bits(secrets.token_urlsafe(9)) > MIN_BITS["database_url"]


def test_secrets_of_every_manifest_are_placeholders_that_production_rejects() -> None:
    manifest = yaml.safe_load((ROOT / "k8s/02-secrets.yaml").read_text())["stringData"]
    given = {name.lower(): value for name, value in manifest.items() if value}
    held = {name: value if "://" in value else SecretStr(value) for name, value in given.items()}
    assert len(held) > 5
    for name, value in held.items():
        said = find_unsuitable_secrets({name: value}, {"PUBLIC_URL": "https://notify.example"})
        assert said is not None
        assert said.startswith(f"setting {name.upper()}: the demonstration's secrets and the")


@pytest.mark.parametrize(
    ("url", "real"),
    [
        ("https://sms.example", True),
        ("https://10.0.0.5:8443", True),
        ("https://provider", True),
        ("http://sms.example", True),
        ("http://8.8.8.8:8090/path", True),
        ("smtps://u:p@mail", True),
        ("smtp://u:p@mail.example:587", True),
        ("", False),
        ("http://provider:8090", False),
        ("http://openid.localhost:8070", False),
        ("http://127.0.0.1:8090", False),
        ("https://localhost:8443", False),
        ("http://192.168.1.7:8000", False),
        ("http://provider.notifications.svc:8090", False),
        ("http://host.docker.internal:8090", False),
        ("smtp://mail:1025?starttls=never", False),
    ],
)
def test_addresses_out_of_the_private_network_are_real(url: str, real: bool) -> None:
    assert is_real(url) is real


BAD_SETTINGS = [
    (Settings, "DATABASE_URL", "postgresql://u:p@host:99999/x"),
    (Settings, "DATABASE_URL", "postgresql://u:p@host:port/x"),
    (Settings, "DATABASE_URL", "postgresql://u:p%zz@host/x"),
    (Settings, "DATABASE_URL", "postgresql://u:p@host/x?no_such=1"),
    (Settings, "REDIS_URL", "redis://:p@host:99999/0"),
    (Settings, "REDIS_URL", "redis://:p@host/queue"),
    (Settings, "REDIS_URL", "redis://:p@host/0?no_such=1"),
    (Settings, "REDIS_URL", "rediss://:p@host/0?ssl_cert_reqs=some"),
    (WorkerSettings, "PROVIDER_TOKEN", "two words"),
    (WorkerSettings, "PROVIDER_TOKEN", "Bearer eyJhbGciOi"),
    (WorkerSettings, "PROVIDER_TOKEN", "токен"),
    (WorkerSettings, "PROVIDER_TOKEN", "x" * 10_000),
    (ApiSettings, "API_BOOTSTRAP_TOKEN", "sixteen letters and spaces"),
    (ApiSettings, "METRICS_TOKEN", "шестнадцать-букв-и-больше"),
    (ApiSettings, "DEFAULT_TIMEZONE", "Moscow"),
    (ApiSettings, "DEFAULT_TIMEZONE", "localtime"),
    (ApiSettings, "REPORT_TIMEZONE", "UTC+3"),
    (ReportSettings, "REPORT_TIMEZONE", "posixrules"),
    (ApiSettings, "CURRENCY", "RUR1"),
    (ApiSettings, "CURRENCY", "rub"),
    (ApiSettings, "SEGMENT_PRICE", "NaN"),
    (ApiSettings, "SEGMENT_PRICE", "0"),
    (ApiSettings, "SEGMENT_PRICE", "-2"),
    (ApiSettings, "SEGMENT_PRICE", "1e9"),
    (ApiSettings, "SEGMENT_PRICE", "0.00000001"),
    (ApiSettings, "OIDC_ISSUER", "https://"),
    (ApiSettings, "OIDC_ISSUER", "https://id.example:99999"),
    (ApiSettings, "PUBLIC_URL", "https://notify.example/?x=1"),
    (ApiSettings, "API_BIND", "8000"),
    (ApiSettings, "WEB_CONCURRENCY", "0"),
    (ApiSettings, "TEST_SENDS_PER_MINUTE", "1000000"),
    (ApiSettings, "IMPORT_MAX_BYTES", "1" * 20),
    # What the fleet needs is checked by the API too.
    *(
        (kind, name, value)
        for kind in (ApiSettings, WorkerSettings)
        for name, value in (
            ("PROVIDER_URL", "http://user:password@provider"),
            ("PROVIDER_URL", "provider:8090"),
            ("PROVIDER_RATE", "inf"),
            ("PROVIDER_RATE", "nan"),
            ("PROVIDER_RATE", "0"),
            ("PROVIDER_RATE", "1e-9"),
            ("PROVIDER_RATE", "1e12"),
            ("PROVIDER_TIMEOUT", "inf"),
            ("PROVIDER_CONCURRENCY", "0"),
            ("BATCH_SIZE", "1000000"),
            ("MAX_ATTEMPTS", "0"),
            ("RETENTION_DAYS", "-1"),
        )
    ),
]


@pytest.mark.parametrize(("kind", "name", "value"), BAD_SETTINGS)
def test_malformed_settings_end_the_process_with_one_line(
    monkeypatch: pytest.MonkeyPatch, kind: type[DatabaseSettings], name: str, value: str
) -> None:
    setenv(monkeypatch, {**API, **WORKER})
    load_settings(kind)
    monkeypatch.setenv(name, value)
    said = complaint(kind)
    assert said.startswith(f"setting {name}: ")
    assert "password" not in value or value not in said


def test_settings_with_demonstration_secrets_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    mail = {"SMTP_URL": "smtp://notifications:demo-mail-password@mail:1025?starttls=never"}
    setenv(monkeypatch, {**API, **DEMO, **mail})
    named = find_demo_settings(load_settings(ApiSettings))
    assert sorted(named) == ["API_BOOTSTRAP_TOKEN", "DATABASE_URL", "SMTP_URL"]
    setenv(monkeypatch, {**API, "SMTP_URL": "smtp://mail:25"})
    assert find_demo_settings(load_settings(ApiSettings)) == []


def test_sign_in_without_tls_is_limited_to_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    setenv(monkeypatch, {**API, "OIDC_CLIENT_ID": "x", "PUBLIC_URL": "http://127.0.0.1:8000"})
    for issuer in ("http://openid.localhost:8070", "http://127.0.0.1:8070", "https://id.example"):
        monkeypatch.setenv("OIDC_ISSUER", issuer)
        assert load_settings(ApiSettings).oidc_issuer == issuer
    for issuer in ("http://id.example", "http://localhost.example", "http://notlocalhost"):
        monkeypatch.setenv("OIDC_ISSUER", issuer)
        assert "https://" in complaint(ApiSettings)
