"""Rules of the admin UI: the role claim, the settings of the sign-in, the parts of a bar."""

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.admin.claims import read_role
from api.admin.forms.text_fields import read_phone
from api.admin.presenters.formatting import BAR_WIDTH, bar_parts, format_offset
from api.admin.presenters.live_figures import PARTS
from shared.config.settings import ApiSettings, load_settings

URL = "https://notify.example.com/roles"


@pytest.mark.parametrize(
    ("claim", "claims", "role"),
    [
        ("roles", {"roles": ["viewer", "admin", "else"]}, "admin"),
        ("roles", {"roles": "operator"}, "operator"),
        ("roles", {"roles": ["administrator"]}, None),
        ("roles", {"roles": {"admin": True}}, None),
        ("roles", {}, None),
        ("realm_access.roles", {"realm_access": {"roles": ["operator"]}}, "operator"),
        ("realm_access.roles", {"realm_access": "admin"}, None),
        (URL, {URL: ["viewer"]}, "viewer"),
    ],
)
def test_role_is_read_from_the_claim(claim: str, claims: dict[str, Any], role: str | None) -> None:
    assert read_role(claims, claim) == role


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"OIDC_ISSUER": "http://login.example.com"}, "OIDC_ISSUER: must start with https://"),
        ({"OIDC_ISSUER": "https://login.example.com"}, "OIDC_ISSUER: needs PUBLIC_URL"),
        (
            {"OIDC_ISSUER": "https://login.example.com", "PUBLIC_URL": "https://example.com"},
            "OIDC_CLIENT_ID: is not set",
        ),
        ({"PUBLIC_URL": "http://notify.example.com"}, "PUBLIC_URL: must start with https://"),
    ],
)
def test_sign_in_settings_are_validated_at_startup(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], complaint: str
) -> None:
    base = {
        "DATABASE_URL": "postgresql://localhost/x",
        "REDIS_URL": "redis://localhost/0",
        "API_BOOTSTRAP_TOKEN": "0123456789abcdef",
        "SECRET_KEY": "0123456789abcdef",
        **dict.fromkeys(("OIDC_ISSUER", "OIDC_CLIENT_ID", "PUBLIC_URL"), ""),
    }
    for name, value in {**base, **given}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as stopped:
        load_settings(ApiSettings)
    assert complaint in str(stopped.value)


@given(st.lists(st.integers(0, 10**7), min_size=len(PARTS), max_size=len(PARTS)))
def test_parts_of_a_bar_add_up_to_its_width(counts: list[int]) -> None:
    row = dict(zip(PARTS, counts, strict=True)) | {"audience": sum(counts)}
    end = 0.0
    for _, x, width in bar_parts(row):
        assert x == pytest.approx(end)
        end = x + width
    assert end == pytest.approx(BAR_WIDTH if sum(counts) else 0)


@pytest.mark.parametrize(
    ("written", "phone"),
    [
        ("79161234567", "79161234567"),
        ("+7 (916) 123-45-67", "79161234567"),
        ("8 916 123 45 67", "79161234567"),
        ("9161234567", "79161234567"),
        ("7916123456", None),
        ("seven", None),
        ("٧٩١٦١٢٣٤٥٦٧", None),
    ],
)
def test_phones_are_read_as_people_write_them(written: str, phone: str | None) -> None:
    assert read_phone(written) == phone


@pytest.mark.parametrize(
    ("minutes", "shown"), [(0, ""), (180, "+3"), (330, "+5:30"), (-210, "−3:30"), (-60, "−1")]
)
def test_differences_of_clocks_are_in_hours_and_minutes(minutes: int, shown: str) -> None:
    assert format_offset(timedelta(minutes=minutes)) == shown
