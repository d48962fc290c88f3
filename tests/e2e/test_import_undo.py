"""The undo of an import in a browser: by keyboard, and on a phone in Russian."""

from playwright.sync_api import Browser, FilePayload, expect

from tests.e2e.browser_user import BrowserUser
from tests.support.system import System


def import_file(user: BrowserUser, phones: list[int], tag: str, name: str, button: str) -> None:
    """Import clients through the mapping step; the import's page is shown."""
    rows = "\n".join(f"{phone},{tag},UTC" for phone in phones)
    file = f"phone,tag,timezone\n{rows}\n".encode()
    user.open("/admin/clients/import")
    user.page.locator("#file").set_input_files(
        FilePayload(name=name, mimeType="text/csv", buffer=file)
    )
    user.page.locator("form[data-import] button").click()
    user.page.wait_for_url("**/admin/clients/import/*")
    user.page.get_by_role("button", name=button).click()
    user.page.wait_for_url("**/admin/imports/*")


def test_an_import_is_undone_by_keyboard(site: System, operator: BrowserUser) -> None:
    page, press = operator.page, operator.page.keyboard.press
    import_file(operator, site.new_phones(3), "undone", "wrong.csv", "Import the clients")
    expect(page.locator("#main")).to_contain_text("Oleg")
    expect(page.locator("#main")).to_contain_text("wrong.csv")
    undo = page.get_by_role("link", name="Undo the import")
    undo.focus()
    press("Enter")
    expect(page.get_by_role("link", name="Back")).to_be_focused()
    press("Shift+Tab")
    press("Enter")
    expect(page.get_by_role("heading", name="The import is undone")).to_be_visible()
    expect(page.locator(".tile", has_text="Deleted")).to_contain_text("3")
    expect(undo).to_have_count(0)
    assert operator.accessibility_violations() == []
    operator.open("/admin/imports")
    row = page.locator("tbody tr").first
    for text in ("undone", "Oleg", "wrong.csv"):
        expect(row).to_contain_text(text)


def test_an_import_that_a_mailing_has_used_is_not_undone(site: System, browser: Browser) -> None:
    phones = site.new_phones(2)
    view = {"width": 360, "height": 740}
    with BrowserUser(browser, site, "Oleg", locale="ru-RU", viewport=view) as user:
        page = user.page
        import_file(user, phones, "undo-sent", "Клиенты.csv", "Импортировать клиентов")
        page.get_by_role("link", name="Отменить импорт").wait_for()
        mailing = site.create_mailing(name="Used", filter={"tags": ["undo-sent"]})
        site.wait_finished(mailing)
        page.get_by_role("link", name="Отменить импорт").click()
        page.get_by_role("button", name="Отменить импорт").click()
        refusal = page.get_by_role("alert").filter(has_text="отправленное не вернуть")
        expect(refusal.get_by_role("link", name=f"Рассылка {mailing}")).to_be_visible()
        expect(refusal).to_contain_text("2 клиента")
        assert user.accessibility_violations() == []
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
    found = site.call("GET", f"/clients?phone={phones[0]}")
    assert len(found["items"]) == 1
