"""The form of a mailing in a browser: its counter, and recipients chosen by keyboard from lists."""

from playwright.sync_api import expect

from shared.domain.segments import measure_segments
from shared.domain.templates import compile_stored_template
from shared.domain.text_costs import segment_capacity, text_without_values
from tests.e2e.browser_user import BrowserUser
from tests.support.system import System

# In ASCII, with the edges of both encodings, braces, wide characters and defaults.
TEXTS = (
    *("", "Hello", "x" * 160, "x" * 161, "[]{{}}^" * 12, "\u20ac" * 80, "\u20ac" * 81),
    *("\u043f" * 70, "\u043f" * 71, "\U0001f389" * 35, "\u043f" * 66 + "\U0001f389\u043f"),
    *("{name|friend} and {other}", "{{literal}}", "one\ntwo"),
)


def test_the_counter_counts_as_the_service_does(operator: BrowserUser) -> None:
    operator.open("/admin/mailings/new")
    counter = operator.page.locator("#text-counter")
    for text in TEXTS:
        operator.page.get_by_role("textbox", name="Text", exact=True).fill(text)
        found = measure_segments(text_without_values(compile_stored_template(text)))
        shown = f"{found.units} of {segment_capacity(found)}, {found.segments} SMS"
        assert (counter.text_content() or "").startswith(shown), text
    operator.page.get_by_role("textbox", name="Text", exact=True).fill("x" * 2070)
    expect(counter).to_have_text("At most 2,000 characters: shorten the text by 70.")


def test_recipients_are_chosen_from_lists_by_keyboard(site: System, operator: BrowserUser) -> None:
    site.call("POST", "/clients", json={"phone": str(site.new_phone()), "tag": "aaa-listed",
        "timezone": "Asia/Omsk", "attributes": {"listed": "Omsk"}})  # fmt: skip
    page = operator.page
    operator.open("/admin/mailings/new")
    while not page.locator("input[name=tags][value=aaa-listed]").count():
        page.reload()  # counts are kept for a while
    page.locator("#tags-list").focus()
    page.keyboard.press("Enter")
    box = page.locator("input[name=tags][value=aaa-listed]")
    box.focus()
    page.keyboard.press("Space")
    expect(box).to_be_checked()
    page.locator("details.rare-fields > summary").press("Enter")
    page.get_by_label("Attribute", exact=True).select_option("listed")
    page.get_by_label("has the value").fill("Omsk")
    page.keyboard.press("Enter")
    expect(page.get_by_label("Attributes equal to")).to_have_value("listed = Omsk")
    page.get_by_role("textbox", name="Text", exact=True).fill("Hello")
    expect(page.locator("#preview .big")).to_have_text("1")
    # A click in the preview takes the tag out of the filter again.
    page.locator("[data-pick=tags][value=aaa-listed]").click()
    expect(box).not_to_be_checked()
