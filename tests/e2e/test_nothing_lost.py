"""A person's work survives other people, an ended session, Back, and being submitted twice."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from tests.e2e.browser_user import BrowserUser
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
    admin.page.get_by_label("Text", exact=True).fill("Text of Anna")
    admin.page.locator(SAVE).click()
    expect(admin.page.locator(".notice.success")).to_be_visible()
    page = operator.page
    page.get_by_label("Text", exact=True).fill("Text of Oleg")
    page.get_by_label("Name").fill("Name of Oleg")
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
