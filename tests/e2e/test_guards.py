"""What the admin UI refuses: roles, forged sign-ins and forms, ended sessions, foreign hosts."""

import re
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from playwright.sync_api import Browser, expect

from tests.e2e.browser_user import BrowserUser
from tests.support.system import System


@pytest.fixture
def visitor(site: System) -> requests.Session:
    """Return an HTTP session that keeps cookies, without a browser."""
    session = requests.Session()
    session.trust_env = False
    session.headers["Accept"] = "text/html"
    return session


def admin_url(site: System) -> str:
    return f"http://127.0.0.1:{site.api_port}/admin"


def csrf_token_of(page: str) -> str:
    found = re.search(r'name="csrf_token" value="([^"]+)"', page)
    assert found
    return found[1]


def begin_sign_in(site: System, visitor: requests.Session) -> str:
    """Begin to sign in; return the provider's address to which the admin UI redirects."""
    page = visitor.get(f"{admin_url(site)}/sign-in")
    response = visitor.post(
        f"{admin_url(site)}/sign-in",
        {"csrf_token": csrf_token_of(page.text)},
        allow_redirects=False,
    )
    assert response.status_code == 302, response.text
    return response.headers["Location"]


def authorize(address: str, who: str) -> str:
    """Sign in at the provider; return the address to which it redirects."""
    response = requests.post(address, {"person": who}, allow_redirects=False, timeout=10)
    assert response.status_code == 303, response.text
    return response.headers["Location"]


def sign_in(site: System, visitor: requests.Session, who: str) -> requests.Response:
    return visitor.get(authorize(begin_sign_in(site, visitor), who), allow_redirects=False)


def test_sign_in_uses_the_code_flow_with_pkce_state_and_nonce(
    site: System, visitor: requests.Session
) -> None:
    query = parse_qs(urlsplit(begin_sign_in(site, visitor)).query)
    assert query["response_type"] == ["code"]
    assert query["code_challenge_method"] == ["S256"]
    assert query["state"][0]
    assert query["nonce"][0]
    assert query["redirect_uri"] == [f"{admin_url(site)}/sign-in/callback"]


def test_the_session_cookie_is_http_only_same_site_and_limited_to_admin(
    site: System, visitor: requests.Session
) -> None:
    response = sign_in(site, visitor, "vera")
    assert (response.status_code, response.headers["Location"]) == (302, "/admin/")
    cookie = response.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    assert "Path=/admin" in cookie
    assert visitor.get(f"{admin_url(site)}/mailings").status_code == 200


def test_a_forged_state_is_rejected(site: System, visitor: requests.Session) -> None:
    back = authorize(begin_sign_in(site, visitor), "anna")
    forged = re.sub(r"state=[^&]+", "state=forged", back)
    assert visitor.get(forged).status_code == 400
    assert "/sign-in" in visitor.get(f"{admin_url(site)}/mailings").url


def test_a_code_granted_to_another_browser_is_rejected(
    site: System, visitor: requests.Session
) -> None:
    """The state that comes with it is unknown to this browser's session."""
    other = requests.Session()
    other.trust_env = False
    back = authorize(begin_sign_in(site, other), "anna")
    begin_sign_in(site, visitor)
    assert visitor.get(back).status_code == 400


def test_a_code_works_only_once(site: System, visitor: requests.Session) -> None:
    back = authorize(begin_sign_in(site, visitor), "anna")
    assert visitor.get(back, allow_redirects=False).status_code == 302
    assert visitor.get(back, allow_redirects=False).status_code == 400


def test_a_person_without_a_role_is_not_signed_in(site: System, visitor: requests.Session) -> None:
    response = sign_in(site, visitor, "nick")
    assert response.status_code == 403
    assert "no role" in response.text
    assert "/sign-in" in visitor.get(f"{admin_url(site)}/clients").url


def test_redirects_after_sign_in_stay_inside_the_admin_ui(
    site: System, visitor: requests.Session
) -> None:
    for address in ("https://evil.example/", "//evil.example/", "/admin/\\evil.example"):
        page = visitor.get(f"{admin_url(site)}/sign-in", params={"next": address})
        assert 'name="next" value="/admin/"' in page.text
    page = visitor.get(f"{admin_url(site)}/language/ru?next=//evil.example", allow_redirects=False)
    assert page.headers["Location"] == "/admin/"


def test_a_form_without_a_valid_csrf_token_is_rejected(
    site: System, visitor: requests.Session
) -> None:
    sign_in(site, visitor, "anna")
    mailing = site.create_mailing(starts_in=3600)
    for fields in ({}, {"csrf_token": "forged"}):
        response = visitor.post(f"{admin_url(site)}/mailings/{mailing}/cancel", fields)
        assert response.status_code == 400
    assert site.call("GET", f"/mailings/{mailing}")["status"] == "scheduled"


def test_sign_out_also_invalidates_copies_of_the_session_cookie(
    site: System, visitor: requests.Session
) -> None:
    sign_in(site, visitor, "anna")
    page = visitor.get(f"{admin_url(site)}/mailings")
    copied_cookies = dict(visitor.cookies)
    visitor.post(f"{admin_url(site)}/sign-out", {"csrf_token": csrf_token_of(page.text)})
    response = requests.get(
        f"{admin_url(site)}/mailings",
        cookies=copied_cookies,
        headers={"Accept": "text/html"},
        allow_redirects=False,
        timeout=10,
    )
    assert response.status_code == 302
    assert "/sign-in" in response.headers["Location"]


def test_sign_out_returns_from_the_provider_to_the_sign_in_page(
    site: System, browser: Browser
) -> None:
    with BrowserUser(browser, site, "Oleg", fresh=True) as operator:
        operator.page.get_by_role("button", name="Sign out").click()
        operator.page.wait_for_url("**/admin/sign-in*")
        operator.open("/admin/clients")
        expect(operator.page.get_by_role("heading", name="Sign in")).to_be_visible()


def test_a_viewer_can_read_and_change_nothing(site: System, viewer: BrowserUser) -> None:
    mailing = site.create_mailing(starts_in=3600)
    client = site.call(
        "POST", "/clients", json={"phone": str(site.new_phone()), "timezone": "Europe/Moscow"}
    )["id"]
    assert viewer.open(f"/admin/mailings/{mailing}").status == 200
    expect(viewer.page.locator(".head .actions")).to_have_count(0)
    for path in (
        *(f"/admin/mailings/{mailing}/{step}" for step in ("start", "pause", "cancel", "delete")),
        *("/admin/mailings/new", f"/admin/mailings/{mailing}/edit"),
        *("/admin/clients/new", f"/admin/clients/{client}/edit"),
        *(f"/admin/clients/{client}/delete", "/admin/clients/import"),
        *("/admin/opt-outs", "/admin/tokens", "/admin/tokens/1/revoke"),
    ):
        assert viewer.post(path) == 403, path
    for path in ("/admin/mailings/new", "/admin/clients/new", "/admin/tokens", "/admin/audit"):
        assert viewer.open(path).status == 403, path
    assert site.call("GET", f"/mailings/{mailing}")["status"] == "scheduled"
    site.call("GET", f"/clients/{client}", expect=200)


def test_an_operator_cannot_manage_tokens(site: System, operator: BrowserUser) -> None:
    assert operator.open("/admin/tokens").status == 403
    assert operator.post("/admin/tokens", name="mine", scope="admin", days="30") == 403
    assert operator.open("/admin/audit").status == 403
    expect(operator.page.get_by_role("link", name="API tokens")).to_have_count(0)
    assert all(token["name"] != "mine" for token in site.call("GET", "/tokens")["items"])


def test_pages_load_nothing_from_other_hosts(site: System, viewer: BrowserUser) -> None:
    requested: list[str] = []
    viewer.page.on("request", lambda request: requested.append(request.url))
    for path in ("/admin/", "/admin/mailings", "/admin/clients"):
        response = viewer.open(path)
        policy = response.headers["content-security-policy"]
        assert "unsafe" not in policy
        assert "default-src 'none'" in policy
    assert requested
    assert all(urlsplit(url).netloc == f"127.0.0.1:{site.api_port}" for url in requested), requested


def test_swagger_ui_works_under_its_content_security_policy(site: System, browser: Browser) -> None:
    page = browser.new_page()
    messages: list[str] = []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.goto(f"http://127.0.0.1:{site.api_port}/docs/")
    expect(page.locator(".opblock").first).to_be_visible()
    page.get_by_role("button", name="Authorize").click()
    expect(page.get_by_role("button", name="Apply credentials")).to_be_visible()
    assert not messages, messages
    page.close()


def test_the_language_follows_the_browser_and_can_be_switched(
    site: System, browser: Browser
) -> None:
    with BrowserUser(browser, site, "Vera", locale="ru-RU") as user:
        user.open("/admin/mailings")
        expect(user.page.get_by_role("heading", level=1)).to_have_text("Рассылки")
        user.page.get_by_role("link", name="English").click()
        expect(user.page.get_by_role("heading", level=1)).to_have_text("Mailings")


def test_times_are_in_the_users_zone_with_utc_on_hover(site: System, browser: Browser) -> None:
    mailing = site.create_mailing(starts_in=3600)
    start = site.call("GET", f"/mailings/{mailing}")["start_at"]
    with BrowserUser(browser, site, "Vera", timezone_id="Asia/Vladivostok") as user:
        user.open(f"/admin/mailings/{mailing}")
        shown = user.page.locator(".facts time").first
        assert (shown.get_attribute("title") or "").startswith(start[:10] + " " + start[11:19])
        hour = (int(start[11:13]) + 10) % 24
        expect(shown).to_contain_text(f"{hour:02}:{start[14:16]}")


def test_only_administrators_can_see_the_daily_report(
    site: System, visitor: requests.Session
) -> None:
    sign_in(site, visitor, "oleg")
    assert visitor.get(f"{admin_url(site)}/reports").status_code == 403
    assert visitor.get(f"{admin_url(site)}/reports/2026-11-22").status_code == 403
    visitor.cookies.clear()
    sign_in(site, visitor, "anna")
    page = visitor.get(f"{admin_url(site)}/reports")
    assert page.status_code == 200
    assert "SMTP_URL" in page.text  # no mail server is configured, and the page names the setting
    preview = visitor.get(f"{admin_url(site)}/reports/2026-11-22")
    assert preview.status_code == 200
    assert preview.headers["Content-Security-Policy"].startswith("default-src 'none';")
    assert "22 Nov 2026" in preview.text
    assert visitor.get(f"{admin_url(site)}/reports/yesterday").status_code == 404
