"""A person's work survives other people, an ended session, Back, and being submitted twice."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Dialog, expect

from tests.e2e.browser_user import BrowserUser, spaced
from tests.support.system import System

SAVE = ".footing button.btn-primary"


@pytest.fixture
def writer(site: System, browser: Browser) -> Iterator[BrowserUser]:
    """An operator with a session of their own, which may be ended."""
    with BrowserUser(browser, site, "Oleg", fresh=True) as user:
        yield user


@pytest.fixture
def scheduled(site: System) -> int:
    return site.create_mailing(starts_in=3600, name="Sale", text="First text")


def test_two_people_at_once_lose_nothing(
    site: System, admin: BrowserUser, operator: BrowserUser, scheduled: int
) -> None:
    for user in (admin, operator):
        user.open(f"/admin/mailings/{scheduled}/edit")
    admin.page.get_by_role("textbox", name="Text", exact=True).fill("Text of Anna")
    admin.page.locator(SAVE).click()
    expect(admin.page.locator(".notice.success")).to_be_visible()
    page = operator.page
    page.get_by_role("textbox", name="Text", exact=True).fill("Text of Oleg")
    page.get_by_role("textbox", name="Name").fill("Name of Oleg")
    page.locator(SAVE).click()
    expect(page.locator(".edits")).to_contain_text("Anna Admin")
    expect(page.locator(".edits")).to_contain_text("Text")
    assert site.call("GET", f"/mailings/{scheduled}")["text"] == "Text of Anna"
    assert operator.accessibility_violations() == []
    page.get_by_label("Text: Saved meanwhile").check()
    page.get_by_role("button", name="Save what is chosen").click()
    expect(page.locator(".notice.success")).to_be_visible()
    found = site.call("GET", f"/mailings/{scheduled}")
    assert (found["text"], found["name"]) == ("Text of Anna", "Name of Oleg")


def end_session(user: BrowserUser) -> None:
    """End the session as seen from the browser: the service knows its cookie no more."""
    user.context.clear_cookies(name="admin_session")


def sign_in_again(user: BrowserUser) -> None:
    user.page.get_by_role("link", name="Sign in and go on").click()
    continue_sign_in(user)


def continue_sign_in(user: BrowserUser) -> None:
    user.page.locator("main form button.btn-primary").click()
    user.page.get_by_role("button", name=user.name).click()
    expect(user.page.locator(".side")).to_contain_text(user.name)


def test_a_half_written_form_survives_the_end_of_the_session(writer: BrowserUser) -> None:
    page = writer.page
    writer.open("/admin/mailings/new")
    page.get_by_role("textbox", name="Text", exact=True).fill("Half a text")
    page.get_by_label("Only at permitted hours").uncheck()
    expect(page.locator("#preview .big")).to_be_visible()
    end_session(writer)
    # The preview says that it is old, and the page that the session has ended.
    page.get_by_role("textbox", name="Name").fill("Half a name")
    expect(page.locator("#session-ended")).to_be_visible()
    expect(page.locator("#preview-outdated")).to_be_visible()
    sign_in_again(writer)
    assert page.url.endswith("/admin/mailings/new")
    expect(page.locator("#draft-restored")).to_be_visible()
    expect(page.get_by_role("textbox", name="Text", exact=True)).to_have_value("Half a text")
    expect(page.get_by_role("textbox", name="Name")).to_have_value("Half a name")
    expect(page.get_by_label("Only at permitted hours")).not_to_be_checked()
    # Submitted after the end: the page says that nothing is lost, and leads back to the form.
    end_session(writer)
    page.get_by_role("button", name="Review").click()
    expect(page.get_by_role("heading", name="Your session has ended")).to_be_visible()
    sign_in_again(writer)
    expect(page.get_by_role("textbox", name="Text", exact=True)).to_have_value("Half a text")
    # Leaving warns; staying keeps everything, and the person may drop it.
    warnings: list[str] = []

    def stay(dialog: Dialog) -> None:
        warnings.append(dialog.type)
        dialog.dismiss()

    page.once("dialog", stay)
    with page.expect_event("dialog"):
        page.get_by_role("link", name="Dashboard").click()
    assert warnings == ["beforeunload"]
    expect(page.get_by_role("textbox", name="Text", exact=True)).to_have_value("Half a text")
    page.get_by_role("button", name="Discard it").click()
    expect(page.get_by_role("textbox", name="Text", exact=True)).to_have_value("")
    expect(page.locator("#draft-restored")).to_be_hidden()


def test_a_draft_is_not_shown_to_the_next_person(site: System, writer: BrowserUser) -> None:
    page = writer.page
    writer.open("/admin/clients/new")
    page.get_by_label("Phone").fill(spaced(site.new_phone()))
    end_session(writer)
    page.locator(SAVE).click()
    page.get_by_role("link", name="Sign in and go on").click()
    page.locator("main form button.btn-primary").click()
    page.get_by_role("button", name="Anna").click()
    expect(page.locator(".side")).to_contain_text("Anna")
    writer.open("/admin/clients/new")
    expect(page.get_by_label("Phone")).to_have_value("")


def test_live_parts_say_that_the_session_has_ended(
    site: System, writer: BrowserUser, scheduled: int
) -> None:
    for path in ("/admin/", f"/admin/mailings/{scheduled}"):
        writer.open(path)
        expect(writer.page.locator("#session-ended")).to_be_hidden()
        end_session(writer)
        expect(writer.page.locator("#session-ended")).to_be_visible()
        writer.open(path)
        continue_sign_in(writer)


def test_a_live_page_leaves_what_is_typed_and_opened(site: System, operator: BrowserUser) -> None:
    site.add_clients(30, tag="live-page")
    mailing = site.create_mailing(filter={"tags": ["live-page"]}, rate_limit=2)
    page = operator.page
    operator.open(f"/admin/mailings/{mailing}")
    phone = page.locator("#recipients #phone")
    expect(phone).to_be_visible()
    page.evaluate("window.loadedOnce = true")
    phone.fill("+7 903")
    site.call("POST", f"/mailings/{mailing}/pause")
    expect(page.locator("h1 + .state")).to_have_text("Paused")
    expect(phone).to_have_value("+7 903")
    # An open dialog stays, too, and its part follows when it is closed.
    page.get_by_role("link", name="Resume").click()
    site.call("POST", f"/mailings/{mailing}/cancel")
    expect(page.locator("#part-progress[data-status=cancelled]")).to_be_visible()
    expect(page.get_by_role("dialog")).to_be_visible()
    page.get_by_role("dialog").get_by_role("link", name="Back").click()
    expect(page.locator("h1 + .state")).to_have_text("Cancelled")
    expect(phone).to_have_value("+7 903")
    assert page.evaluate("window.loadedOnce"), "the page was not loaded again"


def test_back_after_creating_creates_nothing_twice(site: System, operator: BrowserUser) -> None:
    page = operator.page
    operator.open("/admin/mailings/new")
    page.get_by_role("textbox", name="Text", exact=True).fill("Created once")
    page.get_by_label("Tags").fill("no-client")
    page.get_by_role("button", name="Review").click()
    page.get_by_role("button", name="Send to 0 recipients now").click()
    expect(page.locator(".notice.success")).to_be_visible()
    address = page.url
    page.go_back()
    expect(page.get_by_role("heading", name="This mailing was created already")).to_be_visible()
    page.get_by_role("link", name="To the mailing").click()
    page.wait_for_url(address)
    # The form is empty again: what was written is saved.
    operator.open("/admin/mailings/new")
    expect(page.get_by_role("textbox", name="Text", exact=True)).to_have_value("")
    expect(page.locator("#draft-restored")).to_be_hidden()


def test_a_form_with_an_expired_token_is_sent_again(writer: BrowserUser) -> None:
    page = writer.page
    writer.open("/admin/mailings/new")
    page.get_by_role("textbox", name="Text", exact=True).fill("Before signing in again")
    end_session(writer)
    with writer.context.new_page() as other:
        other.goto("/admin/sign-in")
        other.locator("main form button.btn-primary").click()
        other.get_by_role("button", name="Oleg").click()
        expect(other.locator(".side")).to_contain_text("Oleg")
    page.get_by_role("button", name="Review").click()
    expect(page.get_by_role("heading", name="Please send this again")).to_be_visible()
    page.get_by_role("button", name="Send it again").click()
    expect(page.locator(".message-text").first).to_have_text("Before signing in again")
