"""Numbers that people see: who will get a mailing, what a chart says, a client's opt-out."""

import re

import pytest
from playwright.sync_api import expect

from tests.e2e.browser_user import BrowserUser
from tests.support.system import System
from tests.support.waiting import wait_for


@pytest.fixture(scope="module")
def clients(site: System) -> list[int]:
    """Clients of the tag `counted`: one has opted out, one lacks a name."""
    ids = []
    phones = site.new_phones(6)
    for n, phone in enumerate(phones):
        body = {"phone": str(phone), "tag": "counted", "timezone": "Europe/Moscow"}
        attributes = {"name": "Anna"} if n else {}
        ids.append(site.call("POST", "/clients", json={**body, "attributes": attributes})["id"])
    site.call("POST", "/opt-outs", json={"phones": [str(phones[1])]})
    return ids


def test_the_preview_and_the_button_say_how_many_will_get_it(
    operator: BrowserUser, clients: list[int]
) -> None:
    page = operator.page
    operator.open("/admin/mailings/new")
    page.get_by_role("textbox", name="Text", exact=True).fill("{name}, hello")
    page.get_by_label("Tags").fill("counted")
    page.get_by_label("Only at permitted hours").uncheck()
    expect(page.locator("#preview .big")).to_have_text("4")
    expect(page.locator("#preview .withheld li")).to_have_count(2)
    assert operator.accessibility_violations() == []
    page.get_by_role("button", name="Review").click()
    button = page.get_by_role("button", name="Send to 4 recipients now")
    expect(button).to_be_visible()
    button.click()
    # Of the mailing's own page, the parts: one has opted out, one failed.
    expect(page.locator("[data-part-opted_out]")).to_have_text("1")
    expect(page.locator("[data-part-sent]").first).to_have_text("4")
    expect(page.locator("[data-part-failed]")).to_have_text("1")


def test_the_other_numbers_of_a_running_mailing_follow(operator: BrowserUser, site: System) -> None:
    """Those that are no live figures, such as the SMS segments and the table of time zones."""
    site.add_clients(100, tag="followed")
    mailing = site.create_mailing(filter={"tags": ["followed"]}, rate_limit=2)
    wait_for(lambda: site.statistics(mailing)["counts"]["sent"], 30, "the first message")
    operator.page.clock.install()
    operator.open(f"/admin/mailings/{mailing}")
    plan = operator.page.locator("#part-plan")
    at_first = plan.inner_text()
    operator.page.clock.fast_forward(16_000)
    expect(plan).not_to_have_text(at_first, use_inner_text=True, timeout=30_000)
    # Not below a finger: the click would be lost.
    at_first = plan.inner_text()
    operator.page.get_by_role("link", name="Pause").hover()
    operator.page.mouse.down()
    operator.page.clock.fast_forward(16_000)
    expect(plan).not_to_have_text(at_first, use_inner_text=True, timeout=30_000)
    operator.page.mouse.up()
    expect(operator.page.locator("dialog[open]")).to_be_visible()
    site.call("POST", f"/mailings/{mailing}/cancel")


def test_a_chart_is_read_with_the_keyboard(operator: BrowserUser, site: System) -> None:
    page = operator.page
    operator.open("/admin/")
    plot = page.locator("[data-chart] .plot").first
    readout = page.locator("[data-chart] .readout").first
    plot.focus()
    page.keyboard.press("End")
    expect(readout).to_contain_text("Accepted by the provider")
    newest = readout.inner_text()
    page.keyboard.press("ArrowLeft")
    expect(readout).not_to_have_text(newest)
    page.get_by_text("Values as a table").first.click()
    expect(page.locator(".values[open] tbody tr")).to_have_count(24)


def test_a_client_is_opted_out_by_keyboard_and_that_is_undone(
    operator: BrowserUser, clients: list[int]
) -> None:
    page = operator.page
    operator.open(f"/admin/clients/{clients[2]}")
    for label, heading in (("Opt out", "Nothing is sent"), ("Remove the opt-out", None)):
        page.get_by_role("link", name=label).focus()
        page.keyboard.press("Enter")
        page.locator("dialog[open]").get_by_role("button", name=label).press("Enter")
        expect(page.locator(".notice.success")).to_be_visible()
        if heading:
            expect(page.locator(".notice.warning")).to_contain_text(heading)
        else:
            expect(page.locator(".notice.warning")).to_have_count(0)
    expect(page.locator(".timeline")).to_contain_text("Opt-out removed")
    expect(page.locator(".timeline")).to_contain_text(re.compile("Oleg"))
    assert operator.accessibility_violations() == []
