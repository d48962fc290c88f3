"""Who may not, cannot: roles, forged sign-ins, forged forms, ended sessions, strange addresses."""

import re
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from playwright.sync_api import Browser, expect

from tests.e2e.browser_user import Person
from tests.support.system import System


@pytest.fixture
def visitor(site: System) -> requests.Session:
    """Somebody without a browser, and with a memory for cookies."""
    session = requests.Session()
    session.trust_env = False
    session.headers["Accept"] = "text/html"
    return session


def home(site: System) -> str:
    return f"http://127.0.0.1:{site.api_port}/admin"


def form_token(page: str) -> str:
    found = re.search(r'name="csrf_token" value="([^"]+)"', page)
    assert found
    return found[1]


def leave(site: System, visitor: requests.Session) -> str:
    """Set off for the provider; the address one is sent to there."""
    page = visitor.get(f"{home(site)}/sign-in")
    answer = visitor.post(
        f"{home(site)}/sign-in", {"csrf_token": form_token(page.text)}, allow_redirects=False
    )
    assert answer.status_code == 302, answer.text
    return answer.headers["Location"]


def grant(address: str, who: str) -> str:
    """Where the provider sends somebody back to."""
    answer = requests.post(address, {"person": who}, allow_redirects=False, timeout=10)
    assert answer.status_code == 303, answer.text
    return answer.headers["Location"]


def sign_in(site: System, visitor: requests.Session, who: str) -> requests.Response:
    return visitor.get(grant(leave(site, visitor), who), allow_redirects=False)


def test_the_flow_is_code_with_pkce_state_and_nonce(
    site: System, visitor: requests.Session
) -> None:
    asked = parse_qs(urlsplit(leave(site, visitor)).query)
    assert asked["response_type"] == ["code"]
    assert asked["code_challenge_method"] == ["S256"]
    assert asked["state"][0]
    assert asked["nonce"][0]
    assert asked["redirect_uri"] == [f"{home(site)}/sign-in/callback"]


def test_session_cookie_is_kept_from_scripts_and_other_sites(
    site: System, visitor: requests.Session
) -> None:
    answer = sign_in(site, visitor, "vera")
    assert (answer.status_code, answer.headers["Location"]) == (302, "/admin/")
    cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    assert "Path=/admin" in cookie
    assert visitor.get(f"{home(site)}/mailings").status_code == 200


def test_a_forged_state_is_refused(site: System, visitor: requests.Session) -> None:
    back = grant(leave(site, visitor), "anna")
    forged = re.sub(r"state=[^&]+", "state=forged", back)
    assert visitor.get(forged).status_code == 400
    assert "/sign-in" in visitor.get(f"{home(site)}/mailings").url


def test_somebody_elses_code_is_refused(site: System, visitor: requests.Session) -> None:
    """A code that was granted to another browser: its state is unknown here."""
    other = requests.Session()
    other.trust_env = False
    back = grant(leave(site, other), "anna")
    leave(site, visitor)
    assert visitor.get(back).status_code == 400


def test_a_code_serves_once(site: System, visitor: requests.Session) -> None:
    back = grant(leave(site, visitor), "anna")
    assert visitor.get(back, allow_redirects=False).status_code == 302
    assert visitor.get(back, allow_redirects=False).status_code == 400


def test_who_has_no_role_stays_outside(site: System, visitor: requests.Session) -> None:
    answer = sign_in(site, visitor, "nick")
    assert answer.status_code == 403
    assert "no role" in answer.text
    assert "/sign-in" in visitor.get(f"{home(site)}/clients").url


def test_one_is_sent_on_inside_only(site: System, visitor: requests.Session) -> None:
    for address in ("https://evil.example/", "//evil.example/", "/admin/\\evil.example"):
        page = visitor.get(f"{home(site)}/sign-in", params={"next": address})
        assert 'name="next" value="/admin/"' in page.text
    page = visitor.get(f"{home(site)}/language/ru?next=//evil.example", allow_redirects=False)
    assert page.headers["Location"] == "/admin/"


def test_a_form_without_its_token_is_refused(site: System, visitor: requests.Session) -> None:
    sign_in(site, visitor, "anna")
    mailing = site.create_mailing(starts_in=3600)
    for fields in ({}, {"csrf_token": "forged"}):
        answer = visitor.post(f"{home(site)}/mailings/{mailing}/cancel", fields)
        assert answer.status_code == 400
    assert site.call("GET", f"/mailings/{mailing}")["status"] == "scheduled"


def test_a_session_ends_at_sign_out_for_copies_of_its_cookie_too(
    site: System, visitor: requests.Session
) -> None:
    sign_in(site, visitor, "anna")
    page = visitor.get(f"{home(site)}/mailings")
    copy = dict(visitor.cookies)
    visitor.post(f"{home(site)}/sign-out", {"csrf_token": form_token(page.text)})
    answer = requests.get(
        f"{home(site)}/mailings",
        cookies=copy,
        headers={"Accept": "text/html"},
        allow_redirects=False,
        timeout=10,
    )
    assert answer.status_code == 302
    assert "/sign-in" in answer.headers["Location"]


def test_signing_out_ends_at_the_provider(site: System, browser: Browser) -> None:
    with Person(browser, site, "Oleg", fresh=True) as operator:
        operator.page.get_by_role("button", name="Sign out").click()
        operator.page.wait_for_url("**/admin/sign-in*")
        operator.open("/admin/clients")
        expect(operator.page.get_by_role("heading", name="Sign in")).to_be_visible()


def test_a_viewer_looks_and_changes_nothing(site: System, viewer: Person) -> None:
    mailing = site.create_mailing(starts_in=3600)
    client = site.call(
        "POST", "/clients", json={"phone": "79035550001", "timezone": "Europe/Moscow"}
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


def test_an_operator_does_not_manage_tokens(site: System, operator: Person) -> None:
    assert operator.open("/admin/tokens").status == 403
    assert operator.post("/admin/tokens", name="mine", scope="admin", days="30") == 403
    assert operator.open("/admin/audit").status == 403
    expect(operator.page.get_by_role("link", name="API tokens")).to_have_count(0)
    assert all(token["name"] != "mine" for token in site.call("GET", "/tokens")["items"])


def test_nothing_is_loaded_from_elsewhere(site: System, viewer: Person) -> None:
    asked: list[str] = []
    viewer.page.on("request", lambda request: asked.append(request.url))
    for path in ("/admin/", "/admin/mailings", "/admin/clients"):
        answer = viewer.open(path)
        policy = answer.headers["content-security-policy"]
        assert "unsafe" not in policy
        assert "default-src 'none'" in policy
    assert asked
    assert all(urlsplit(url).netloc == f"127.0.0.1:{site.api_port}" for url in asked), asked


def test_swagger_ui_works_under_its_policy(site: System, browser: Browser) -> None:
    page = browser.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(f"http://127.0.0.1:{site.api_port}/docs/")
    expect(page.locator(".opblock").first).to_be_visible()
    page.get_by_role("button", name="Authorize").click()
    expect(page.get_by_role("button", name="Apply credentials")).to_be_visible()
    assert not said, said
    page.close()


def test_russian_by_the_browser_and_switched(site: System, browser: Browser) -> None:
    with Person(browser, site, "Vera", locale="ru-RU") as person:
        person.open("/admin/mailings")
        expect(person.page.get_by_role("heading", level=1)).to_have_text("Рассылки")
        person.page.get_by_role("link", name="English").click()
        expect(person.page.get_by_role("heading", level=1)).to_have_text("Mailings")


def test_times_are_in_the_viewers_zone_with_utc_on_hover(site: System, browser: Browser) -> None:
    mailing = site.create_mailing(starts_in=3600)
    start = site.call("GET", f"/mailings/{mailing}")["start_at"]
    with Person(browser, site, "Vera", timezone_id="Asia/Vladivostok") as person:
        person.open(f"/admin/mailings/{mailing}")
        shown = person.page.locator(".facts time").first
        assert (shown.get_attribute("title") or "").startswith(start[:10] + " " + start[11:19])
        hour = (int(start[11:13]) + 10) % 24
        expect(shown).to_contain_text(f"{hour:02}:{start[14:16]}")


def test_the_daily_report_is_for_administrators(site: System, visitor: requests.Session) -> None:
    sign_in(site, visitor, "oleg")
    assert visitor.get(f"{home(site)}/reports").status_code == 403
    assert visitor.get(f"{home(site)}/reports/2026-11-22").status_code == 403
    visitor.cookies.clear()
    sign_in(site, visitor, "anna")
    page = visitor.get(f"{home(site)}/reports")
    assert page.status_code == 200
    assert "SMTP_URL" in page.text  # no mail server here: the page says what is missing
    preview = visitor.get(f"{home(site)}/reports/2026-11-22")
    assert preview.status_code == 200
    assert preview.headers["Content-Security-Policy"].startswith("default-src 'none';")
    assert "22 Nov 2026" in preview.text
    assert visitor.get(f"{home(site)}/reports/yesterday").status_code == 404
