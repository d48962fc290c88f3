"""Every page: reflow on narrow screens, axe-core, the keyboard alone, no scripts, paper."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, ViewportSize, expect

from tests.e2e.browser_user import BrowserUser, spaced
from tests.support.system import System

NARROW: ViewportSize = {"width": 320, "height": 640}
# Of phones, tablets and small laptops, and where the layout changes.
WIDTHS = (320, 414, 540, 640, 700, 720, 768, 800, 834, 912, 990, 1024, 1060, 1100, 1180, 1280)
WIDE: ViewportSize = {"width": 1280, "height": 800}
# As long as the API permits, without a blank at which a line could break.
LONG_NAME = "Весенняя_распродажа_для_постоянных_покупателей_и_их_друзей_" * 3
PAGES = (
    *("/admin/", "/admin/mailings", "/admin/mailings/new", "/admin/clients", "/admin/clients/new"),
    *("/admin/clients/import", "/admin/opt-outs", "/admin/tokens", "/admin/audit"),
    *("/admin/reports", "/admin/sessions", "/admin/policy", "/admin/mailings/calendar"),
    "/admin/imports",
)


@pytest.fixture(scope="module")
def pages(site: System) -> tuple[str, ...]:
    """Create data with long names; return the paths of all pages that show it."""
    mailing = site.create_mailing(starts_in=7200, name=LONG_NAME, text="W" * 300)
    attributes = {"name": "N" * 200, "city": "Omsk"}
    client = {"phone": str(site.new_phone()), "tag": "T" * 64, "timezone": "Europe/Moscow"}
    created = site.call("POST", "/clients", json={**client, "attributes": attributes})
    site.call("POST", "/opt-outs", json={"phones": [client["phone"]], "source": "S" * 60})
    site.call("POST", "/tokens", json={"name": "t" * 100, "scope": "read"})
    file = f"phone,tag\n{site.new_phone()},x\n7,9E+10,x\n8 926,y\n"
    headers, zone = {"Content-Type": "text/csv"}, {"timezone": "Europe/Moscow"}
    started = site.call("POST", "/clients/import", data=file.encode(), headers=headers, params=zone)
    site.add_clients(3, tag="drawn")
    drawn = site.create_mailing(filter={"tags": ["drawn"]}, name="With charts")
    site.wait_finished(drawn)
    return (
        *PAGES,
        f"/admin/mailings/{drawn}",
        *(f"/admin/mailings/{mailing}{step}" for step in ("", "/edit", "/cancel")),
        *(f"/admin/clients/{created['id']}{step}" for step in ("", "/edit", "/delete")),
        f"/admin/imports/{started['id']}",
    )


@pytest.fixture(scope="module")
def phone_user(site: System, browser: Browser) -> Iterator[BrowserUser]:
    """An administrator with a small phone, who reads Russian."""
    with BrowserUser(browser, site, "Anna", locale="ru-RU", viewport=NARROW) as user:
        yield user


def find_overflow(user: BrowserUser) -> list[str]:
    """Return what is wider than the window: the page itself, and the widest elements."""
    found: list[str] = user.page.evaluate(
        """() => document.documentElement.scrollWidth <= window.innerWidth ? [] :
            [...document.querySelectorAll('body *')]
            .filter((each) => each.getBoundingClientRect().right > window.innerWidth + 1)
            .map((each) => each.outerHTML.slice(0, 120)).slice(0, 5).concat("page")"""
    )
    return found


def test_every_page_fits_windows_from_320_pixels(
    phone_user: BrowserUser, pages: tuple[str, ...]
) -> None:
    for path in pages:
        assert phone_user.open(path).status == 200, path
        for width in WIDTHS:
            phone_user.page.set_viewport_size({"width": width, "height": 640})
            assert not find_overflow(phone_user), (path, width)
    phone_user.page.set_viewport_size(NARROW)


def test_axe_finds_nothing_on_any_narrow_page(admin: BrowserUser, pages: tuple[str, ...]) -> None:
    admin.page.set_viewport_size(NARROW)
    for path in (*pages, "/", "/admin/no-such-page"):
        admin.open(path)
        assert not admin.accessibility_violations(), path


def test_axe_finds_nothing_on_wide_and_dark_pages(
    admin: BrowserUser, pages: tuple[str, ...]
) -> None:
    """Names without blanks fit as well. axe-core checks the most colourful of these pages."""
    admin.page.emulate_media(color_scheme="dark")
    admin.page.set_viewport_size(WIDE)
    for path in pages:
        admin.open(path)
        assert not find_overflow(admin), path
        if path in (*PAGES[:3], "/admin/policy", *pages[len(PAGES) :]):
            assert not admin.accessibility_violations(), path


def test_the_menu_of_a_phone_works_by_keyboard(phone_user: BrowserUser) -> None:
    page = phone_user.page
    phone_user.open("/admin/mailings")
    menu, clients = page.get_by_role("button", name="Меню"), page.locator("nav [href$='/clients']")
    expect(clients).to_be_hidden()
    phone_user.tab_to(menu)
    page.keyboard.press("Enter")
    expect(menu).to_have_attribute("aria-expanded", "true")
    expect(page.get_by_role("button", name="Выйти")).to_be_visible()
    assert not find_overflow(phone_user)
    assert not phone_user.accessibility_violations()
    page.keyboard.press("Escape")
    expect(clients).to_be_hidden()
    expect(menu).to_be_focused()
    page.keyboard.press("Enter")
    phone_user.tab_to(clients)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Клиенты")


def test_a_mailing_is_created_and_cancelled_with_the_keyboard_alone(
    site: System, operator: BrowserUser
) -> None:
    page = operator.page
    site.add_clients(1, tag="keys")
    operator.open("/admin/mailings/new")
    operator.tab_to(page.get_by_role("link", name="Skip to the content"))
    page.keyboard.press("Enter")
    operator.tab_to(page.get_by_role("textbox", name="Text", exact=True))
    page.keyboard.type("By keyboard")
    operator.tab_to(page.get_by_label("Tags"))
    page.keyboard.type("keys")
    operator.tab_to(page.get_by_label("Now"))
    page.keyboard.press("ArrowDown")
    expect(page.get_by_label("Later")).to_be_checked()
    operator.tab_to(page.get_by_role("button", name="Review"))
    page.keyboard.press("Enter")
    operator.tab_to(page.get_by_role("button", name="Schedule for 1 recipient"))
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(r"/admin/mailings/\d+$"))

    # The dialog has the focus on the way back, and Escape leaves it.
    operator.tab_to(page.locator("summary", has_text="More"))
    page.keyboard.press("Enter")
    cancel = page.get_by_role("link", name="Cancel mailing")
    operator.tab_to(cancel)
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("link", name="Back")).to_be_focused()
    page.keyboard.press("Enter")
    expect(dialog).to_have_count(0)
    page.locator("summary", has_text="More").focus()
    page.keyboard.press("Enter")
    operator.tab_to(cancel)
    page.keyboard.press("Enter")
    operator.tab_to(dialog.get_by_role("button", name="Cancel mailing"))
    page.keyboard.press("Enter")
    expect(page.locator("h1 + .state")).to_have_text("Cancelled")


def test_errors_of_a_form_have_links_and_marked_fields(operator: BrowserUser) -> None:
    page = operator.page
    operator.open("/admin/mailings/new")
    page.get_by_label("Operator codes").fill("91")
    page.get_by_role("button", name="Review").click()
    expect(page).to_have_title(re.compile("^Error: "))
    summary = page.get_by_role("alert").filter(has_text="Nothing was saved")
    expect(summary).to_be_focused()
    expect(summary.get_by_role("link")).to_have_text(["Text", "Operator codes"])
    field = page.get_by_label("Operator codes")
    expect(field).to_have_attribute("aria-invalid", "true")
    failed = page.evaluate("getComputedStyle(document.body).getPropertyValue('--failed')")
    assert failed == "#d3313f"
    expect(field).to_have_css("border-color", "rgb(211, 49, 63)")
    expect(page.get_by_role("textbox", name="Name")).not_to_have_css(
        "border-color", "rgb(211, 49, 63)"
    )
    assert not operator.accessibility_violations()
    operator.tab_to(summary.get_by_role("link", name="Operator codes"))
    page.keyboard.press("Enter")
    expect(field).to_be_focused()


def test_inputs_side_by_side_stand_on_one_line(operator: BrowserUser) -> None:
    """Also where their hints take a different number of lines, or one has an error."""
    page = operator.page
    operator.open("/admin/clients/new")
    page.get_by_label("Phone").fill("1")
    page.get_by_role("button", name="Add client").click()
    expect(page.locator("#phone-fault")).to_be_visible()
    for width in (700, 1000, 1280):
        page.set_viewport_size({"width": width, "height": 800})
        tops = page.locator(".row2 input").evaluate_all(
            "inputs => inputs.map((each) => each.getBoundingClientRect().top)"
        )
        columns = page.locator(".row2").evaluate(
            "row => getComputedStyle(row).gridTemplateColumns.split(' ').length"
        )
        rows = [tops[n : n + columns] for n in range(0, len(tops), columns)]
        assert all(len(set(row)) == 1 for row in rows), (width, tops)


def test_confirmations_and_preferences_work_without_scripts(site: System, browser: Browser) -> None:
    phone = site.new_phone()
    site.call("POST", "/opt-outs", json={"phones": [str(phone)], "source": "a call"})
    site.call("POST", "/tokens", json={"name": "no scripts", "scope": "read"})
    with (
        BrowserUser(browser, site, "Vera", fresh=True),
        BrowserUser(browser, site, "Anna", java_script_enabled=False, viewport=NARROW) as user,
    ):
        page = user.page
        user.open("/admin/tokens")
        page.get_by_role("link", name="Revoke no scripts").click()
        page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
        expect(page.locator("tr", has_text="no scripts")).to_contain_text("revoked")
        user.open(f"/admin/opt-outs?phone={phone}")
        page.get_by_role("link", name=f"Remove {spaced(phone)}").click()
        page.get_by_role("dialog").get_by_role("link", name="Back").click()
        expect(page.get_by_role("dialog")).to_have_count(0)
        user.open(f"/admin/opt-outs?phone={phone}")
        page.get_by_role("link", name=f"Remove {spaced(phone)}").click()
        page.get_by_role("dialog").get_by_role("button", name="Remove").click()
        expect(page.locator("[role=status]")).to_contain_text("can send to the phone again")
        user.open("/admin/sessions")
        page.locator("tr", has_text="Vera").get_by_role("link", name="End session").first.click()
        page.get_by_role("dialog").get_by_role("button", name="End this session").click()
        expect(page.locator("[role=status]")).to_contain_text("ended")
        # The menu is open, and languages and themes are links.
        page.get_by_role("link", name="Light or dark").click()
        expect(page.locator("html")).to_have_attribute("data-bs-theme", "dark")
        page.get_by_role("link", name="Русский").click()
        page.locator("nav [href$='/mailings']").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Рассылки")


def test_a_printed_page_has_no_navigation_and_no_buttons(
    admin: BrowserUser, pages: tuple[str, ...]
) -> None:
    admin.page.emulate_media(media="print", color_scheme="dark")
    admin.open(next(path for path in pages if re.fullmatch(r"/admin/mailings/\d+", path)))
    expect(admin.page.get_by_role("heading", level=1)).to_be_visible()
    expect(admin.page.locator(".message-text")).to_be_visible()
    for part in (".side", ".head .actions", ".crumb"):
        expect(admin.page.locator(part)).to_be_hidden()
    expect(admin.page.locator("body")).to_have_css("background-color", "rgb(255, 255, 255)")


def test_a_printed_list_is_a_table(admin: BrowserUser) -> None:
    admin.page.set_viewport_size({"width": 718, "height": 1000})  # A4 between its margins
    admin.open("/admin/clients")
    row = admin.page.locator(".list tbody tr").first
    expect(row).to_have_css("display", "block")
    admin.page.emulate_media(media="print")
    expect(row).to_have_css("display", "table-row")
    expect(admin.page.locator(".list thead")).to_have_css("display", "table-header-group")


def test_a_mailing_and_a_client_without_scripts(site: System, browser: Browser) -> None:
    """Create, test, edit, pause and cancel a mailing; opt a client out and delete it."""
    phone = str(site.new_phone())
    client = {"phone": phone, "tag": "plain", "timezone": "Europe/Moscow"}
    created = site.call("POST", "/clients", json=client)["id"]
    with BrowserUser(browser, site, "Oleg", java_script_enabled=False) as user:
        page = user.page
        user.open("/admin/mailings/new")
        page.get_by_role("textbox", name="Text", exact=True).fill("Without scripts")
        page.get_by_label("Tags").fill("plain")
        page.get_by_label("Send it to yourself first").fill(phone)
        page.get_by_role("button", name="Send a test").click()
        expect(page.locator("#test li.good")).to_have_count(1)
        page.get_by_label("Later").check()
        page.locator("form .footing").get_by_role("button", name="Review").click()
        expect(page.locator(".headline .big").first).to_have_text("1")
        page.get_by_role("button", name="Schedule for 1 recipient").click()
        page.wait_for_url(re.compile(r"/admin/mailings/\d+$"))
        page.get_by_role("link", name="Pause").click()
        page.get_by_role("button", name="Pause").click()
        expect(page.locator("h1 + .state")).to_have_text("Paused")
        page.locator("summary", has_text="More").click()
        page.get_by_role("link", name="Edit").click()
        page.get_by_role("textbox", name="Name").fill("Plain")
        page.locator("form .footing").get_by_role("button", name="Save changes").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Plain")
        page.locator("summary", has_text="More").click()
        page.get_by_role("link", name="Cancel mailing").click()
        page.get_by_role("button", name="Cancel mailing").click()
        expect(page.locator("h1 + .state")).to_have_text("Cancelled")
        user.open(f"/admin/clients/{created}")
        page.get_by_role("link", name="Opt out").click()
        page.get_by_role("dialog").get_by_role("button", name="Opt out").click()
        expect(page.locator("h1 + .state")).to_have_text("Opted out")
        page.get_by_role("link", name="Delete").click()
        page.get_by_role("button", name="Delete").click()
        expect(page.locator("[role=status]")).to_contain_text("deleted")
