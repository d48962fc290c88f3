"""An operator's work in a browser: import clients; send, watch, pause and retry mailings."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, FilePayload, expect

from tests.e2e.browser_user import BrowserUser, spaced
from tests.support.system import System
from tests.support.waiting import wait_for


@pytest.fixture(scope="module")
def crowd(site: System) -> list[int]:
    return site.new_phones(60)


@pytest.fixture(scope="module")
def clients_file(crowd: list[int], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as a Russian Excel writes it: semicolons, Windows-1251, and one invalid phone."""
    rows = ["телефон;метка;часовой пояс"]
    rows += [f"{national(phone)};толпа;Europe/Moscow" for phone in crowd]
    rows.append("7,9E+10;толпа;Europe/Moscow")
    path = tmp_path_factory.mktemp("files") / "clients.csv"
    path.write_bytes("\r\n".join(rows).encode("cp1251"))
    return path


def national(phone: int) -> str:
    """Return a phone as it is dialled inside the country."""
    return re.sub(r"^7(...)(...)(..)(..)$", r"8 (\1) \2-\3-\4", str(phone))


def test_a_file_is_imported_and_a_mailing_is_sent_to_its_clients(
    site: System, operator: BrowserUser, crowd: list[int], clients_file: Path
) -> None:
    page = operator.page

    # Import clients from a file; its invalid row is reported.
    operator.open("/admin/clients/import")
    page.get_by_label("Excel or CSV file").set_input_files(clients_file)
    page.get_by_role("button", name="Send and check").click()
    page.wait_for_url("**/admin/clients/import/*")
    expect(page.locator(".tile", has_text="New clients")).to_contain_text("60")
    page.get_by_role("button", name="Import the clients").click()
    page.wait_for_url("**/admin/imports/*")
    expect(page.get_by_role("heading", name="The import is done")).to_be_visible()
    expect(page.locator(".tile", has_text="Added")).to_contain_text("60")
    expect(page.locator("table")).to_contain_text("format the column as text")

    # Create a mailing: the preview follows the form; then review and confirm.
    operator.open("/admin/mailings/new")
    page.get_by_role("textbox", name="Text", exact=True).fill("Hello, crowd")
    page.get_by_role("textbox", name="Name").fill("To the crowd")
    page.get_by_label("Tags").fill("толпа")
    page.get_by_label("At most, per second").fill("5")
    page.get_by_label("Only at permitted hours").uncheck()
    expect(page.locator("#preview .big")).to_have_text("60")
    expect(page.locator("#preview")).to_contain_text("GSM-7")
    page.get_by_role("button", name="Review").click()
    page.get_by_role("button", name="Send to 60 recipients now").click()
    page.wait_for_url(re.compile(r"/admin/mailings/\d+$"))
    address = page.url

    # The page shows progress without a reload, and its numbers add up.
    accepted = page.locator("section[data-mailing] .headline [data-part-sent]")
    wait_for(lambda: accepted.count() == 1, 15, "the launch of the mailing")
    before = int(accepted.inner_text())
    wait_for(lambda: int(accepted.inner_text()) > before, 10, "live figures")
    parts = page.locator(".parts strong").all_inner_texts()
    assert sum(int(part.replace(",", "")) for part in parts) == 60

    # Pause and resume, each with a confirmation.
    page.get_by_role("link", name="Pause").click()
    page.get_by_role("dialog").get_by_role("button", name="Pause").click()
    expect(page.locator("h1 + .state")).to_have_text("Paused")
    page.get_by_role("link", name="Resume").click()
    page.get_by_role("dialog").get_by_role("button", name="Resume").click()
    expect(page.locator("h1 + .state")).to_have_text("Running")

    # Remove the rate limit, so that the mailing soon finishes; the page shows it without a reload.
    page.get_by_text("More", exact=True).click()
    page.get_by_role("link", name="Edit").click()
    page.get_by_label("At most, per second").fill("")
    page.get_by_role("button", name="Save changes").click()
    page.wait_for_url(address)
    expect(page.locator("h1 + .state")).to_have_text("Finished", timeout=20_000)

    # Find one recipient by phone; export all.
    page.get_by_label("Phone").fill(national(crowd[5]))
    page.get_by_role("button", name="Find").click()
    expect(page.locator("#recipients tbody tr")).to_have_count(1)
    expect(page.locator("#recipients tbody tr")).to_contain_text("Accepted by the provider")
    with page.expect_download() as download:
        page.get_by_role("link", name="Export").click()
    exported = Path(download.value.path()).read_text("utf-8-sig").splitlines()
    assert len(exported) == 61

    # The finished mailing is in the list.
    operator.open("/admin/mailings?status=finished&q=crowd")
    expect(page.locator("tbody tr")).to_have_count(1)


def test_a_test_send_and_every_filter_of_the_audience(site: System, operator: BrowserUser) -> None:
    page = operator.page
    phones = site.new_phones(4)
    earlier = site.create_mailing(name="Earlier", filter={"phones": [str(phones[1])]})
    for n, city in enumerate(("Omsk", "Omsk", "Omsk", "Perm")):
        site.call(
            "POST",
            "/clients",
            json={
                "phone": str(phones[n]),
                "tag": "chosen",
                "timezone": "Asia/Omsk" if n else "Europe/Moscow",
                "attributes": {"city": city, "name": f"Client{n}"},
            },
        )
    again = site.create_mailing(name="Again", filter={"phones": [str(phones[1])]})
    site.wait_finished(earlier)
    site.wait_finished(again)

    # Insert a placeholder; the preview shows the text for real clients.
    operator.open("/admin/mailings/new")
    page.get_by_role("textbox", name="Text", exact=True).fill("Hello, ")
    page.get_by_role("button", name="{name}").click()
    assert page.get_by_role("textbox", name="Text", exact=True).input_value() == "Hello, {name}"
    page.get_by_role("textbox", name="Name").fill("Chosen")
    page.get_by_label("Tags").fill("chosen")
    expect(page.locator("#preview .big")).to_have_text("4")
    expect(page.locator("#preview")).to_contain_text("Hello, Client0")

    # Send a test from the form; its result is shown for each phone.
    site.provider.set(phones={phones[3]: "reject_400"})
    page.get_by_label("Send it to yourself first").fill(f"{national(phones[2])}, {phones[3]}")
    page.get_by_role("button", name="Send a test").click()
    expect(page.locator("#test li")).to_have_count(2)
    expect(page.locator("#test li.good")).to_contain_text(spaced(phones[2]))
    expect(page.locator("#test li.bad")).to_contain_text("Refused by the provider")
    site.provider.set(phones={})
    texts = {r["phone"]: r["text"] for r in site.provider.requests()}
    assert texts[phones[2]] == "Hello, Client2"
    page.get_by_label("Send it to yourself first").fill("seven")
    page.get_by_label("Send it to yourself first").press("Enter")
    expect(page.locator("#test")).to_contain_text("A phone has 11 digits")

    # Each filter reduces the audience, chosen in the preview or filled in.
    page.locator("#preview").get_by_role("button", name="Asia/Omsk").click()
    expect(page.locator("#preview .big")).to_have_text("3")
    page.get_by_label("Attributes equal to").fill("city = Omsk")
    expect(page.locator("#preview .big")).to_have_text("2")
    page.get_by_label(f"Again No. {again}").check()
    expect(page.locator("#preview .big")).to_have_text("1")
    page.get_by_label("Only these phones").fill(spaced(phones[2]))
    page.get_by_label("Only at permitted hours").uncheck()
    page.get_by_role("button", name="Review").click()
    expect(page.locator(".facts").last).to_contain_text("city = Omsk")
    expect(page.locator(".facts").last).to_contain_text("Again")
    page.get_by_role("button", name="Send to 1 recipient now").click()
    page.wait_for_url(re.compile(r"/admin/mailings/\d+$"))
    created = int(page.url.rsplit("/", 1)[1])
    site.wait_finished(created)
    assert site.call("GET", f"/mailings/{created}")["filter"] == {
        "operator_codes": [],
        "tags": ["chosen"],
        "timezones": ["Asia/Omsk"],
        "attributes": {"city": "Omsk"},
        "exclude_mailing_ids": [again],
        "phones": [str(phones[2])],
    }

    # A copy has the same filters.
    operator.open(f"/admin/mailings/new?from={created}")
    expect(page.locator("details.rare-fields")).to_have_attribute("open", "")
    expect(page.get_by_label("Attributes equal to")).to_have_value("city = Omsk")
    expect(page.get_by_label(f"Again No. {again}")).to_be_checked()
    expect(page.get_by_label("Only these phones")).to_have_value(str(phones[2]))


def test_the_dashboard_shows_an_outage_of_the_provider_until_it_ends(
    site: System, operator: BrowserUser
) -> None:
    page = operator.page
    operator.open("/admin/")
    expect(page.locator("[data-health]")).to_have_attribute("data-health", re.compile("idle|work"))
    site.add_clients(40, tag="patient")
    site.provider.set(down=True)
    mailing = site.create_mailing(name="Patient", filter={"tags": ["patient"]})
    outage = re.compile("The provider (cannot be reached|gives no clear answers)")
    expect(page.locator(".attention .danger")).to_contain_text(outage)
    expect(page.locator(".state.provider-open")).to_be_visible()
    expect(page.locator(f"[data-mailing='{mailing}']")).to_be_visible()
    site.provider.set(down=False)
    expect(page.locator(f"[data-mailing='{mailing}']")).to_have_count(0, timeout=40_000)
    expect(page.locator(".attention .danger")).to_have_count(0)
    site.wait_finished(mailing)


def test_a_file_is_imported_without_scripts(
    site: System, browser: Browser, clients_file: Path
) -> None:
    """The file is larger than the limit of other bodies."""
    large = clients_file.with_name("large.csv")
    rows = (f"{phone};large;Europe/Moscow;{'x' * 150}" for phone in site.new_phones(6_000))
    large.write_text("\n".join(("phone;tag;timezone;note", *rows)))
    assert large.stat().st_size > 1024 * 1024
    with BrowserUser(browser, site, "Oleg", java_script_enabled=False) as user:
        page = user.page
        user.open("/admin/clients/import")
        page.get_by_label("Excel or CSV file").set_input_files(large)
        page.get_by_role("button", name="Send and check").click()
        page.get_by_role("button", name="Import the clients").click()
        page.wait_for_url("**/admin/imports/*")
        expect(page.get_by_role("heading", name="The import is done")).to_be_visible()
        expect(page.locator(".tile", has_text="Added")).to_contain_text("6,000")


def test_columns_are_mapped_by_keyboard_on_a_phone(site: System, browser: Browser) -> None:
    first, second = (national(phone) for phone in site.new_phones(2))
    file = f"Номер;code;Пояс\n{first};А-1;МСК+3\n{second};А-2;Москва\n12;;МСК\n"
    upload = FilePayload(name="Клиенты.csv", mimeType="text/csv", buffer=file.encode("utf-16"))
    with BrowserUser(browser, site, "Oleg", viewport={"width": 390, "height": 800}) as user:
        page, press = user.page, user.page.keyboard.press
        user.open("/admin/clients/import")
        page.get_by_label("Excel or CSV file").set_input_files(upload)
        page.get_by_role("button", name="Send and check").click()
        page.wait_for_url("**/admin/clients/import/*")
        expect(page.get_by_label("What the column Номер is")).to_have_value("phone")
        page.get_by_label("What the column Пояс is").focus()
        page.keyboard.type("Time")
        page.get_by_role("button", name="Check again").focus()
        press("Enter")
        page.get_by_label("Yes, МСК+3 means this zone").focus()
        press("Space")
        page.get_by_role("button", name="Check again").focus()
        press("Enter")
        expect(page.locator(".tile", has_text="New clients")).to_contain_text("2")
        expect(page.locator("#result tbody tr")).to_contain_text("12")
        assert user.accessibility_violations() == []
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.get_by_role("button", name="Import the clients").focus()
        press("Enter")
        page.wait_for_url("**/admin/imports/*")
        expect(page.locator(".tile", has_text="Added")).to_contain_text("2")


def test_failed_messages_are_found_and_retried(site: System, operator: BrowserUser) -> None:
    page = operator.page
    phone = site.new_phone()
    client = {"phone": str(phone), "tag": "unlucky", "timezone": "Europe/Moscow"}
    site.call("POST", "/clients", json=client)
    site.provider.set(phones={phone: "reject_400"})
    mailing = site.create_mailing(name="Unlucky", filter={"tags": ["unlucky"]})
    site.wait_finished(mailing)
    site.provider.set(phones={})
    operator.open("/admin/mailings")
    page.locator("tr", has_text="Unlucky").get_by_role("link", name="1 failed").click()
    expect(page.locator("#recipients tbody tr")).to_have_count(1)
    page.locator("#recipients summary").click()
    expect(page.locator("#recipients .attempts li")).to_have_count(1)
    page.get_by_role("link", name="Retry failed").click()
    page.get_by_role("dialog").get_by_role("button", name="Retry failed").click()
    expect(page.locator("h1 + .state")).to_have_text("Finished", timeout=15_000)
    wait_for(
        lambda: site.statistics(mailing)["counts"]["sent"] == 1,
        10,
        "the retried message to be sent",
    )


def test_errors_in_a_form_are_shown_at_their_fields(operator: BrowserUser) -> None:
    page = operator.page
    operator.open("/admin/mailings/new")
    page.get_by_label("Operator codes").fill("91, 926")
    page.get_by_label("End at").fill("2020-01-01T10:00")
    page.get_by_role("button", name="Review").click()
    expect(page.locator("#text-fault")).to_have_text("Please fill this in.")
    expect(page.locator("#operator_codes-fault")).to_contain_text("exactly 3 digits")
    page.get_by_role("textbox", name="Text", exact=True).fill("Hello")
    page.get_by_label("Operator codes").fill("")
    page.get_by_role("button", name="Review").click()
    expect(page.locator("#end_at-fault")).to_be_visible()


def test_a_client_is_created_changed_and_deleted(site: System, operator: BrowserUser) -> None:
    page = operator.page
    phone = site.new_phone()
    operator.open("/admin/clients/new")
    page.get_by_label("Phone").fill(spaced(phone))
    page.get_by_label("Time zone").fill("Asia/Omsk")
    page.get_by_role("button", name="Add client").click()
    expect(page.get_by_role("heading", level=1)).to_have_text(spaced(phone))
    expect(page.locator(".facts")).to_contain_text("MSK+3")
    # Saving the form keeps attributes that were set elsewhere.
    address = f"/clients/{page.url.rsplit('/', 1)[1]}"
    site.call("PATCH", address, json={"attributes": {"name": "Ivan"}})
    page.get_by_role("link", name="Edit").click()
    page.get_by_label("Tag").fill("vip")
    page.get_by_role("button", name="Save changes").click()
    expect(page.locator(".facts")).to_contain_text("vip")
    assert site.call("GET", address)["attributes"] == {"name": "Ivan"}
    page.get_by_role("link", name="Delete").click()
    page.get_by_role("button", name="Delete").click()
    operator.open(f"/admin/clients?phone={phone}")
    expect(page.locator("main")).to_contain_text("Nothing found")


def test_a_token_is_shown_once_and_revoked(site: System, admin: BrowserUser) -> None:
    page = admin.page
    admin.open("/admin/tokens")
    page.get_by_role("textbox", name="Name").fill("billing")
    page.get_by_role("button", name="Create a token").click()
    secret = page.locator("#secret").input_value()
    headers = {"Authorization": f"Bearer {secret}"}
    site.call("GET", "/mailings", headers=headers, expect=200)
    admin.open("/admin/tokens")
    assert secret not in page.content()
    page.get_by_role("link", name="Revoke billing").click()
    page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
    expect(page.locator("tr", has_text="billing")).to_contain_text("revoked")


def test_actions_in_the_admin_ui_are_in_the_audit_log(site: System, admin: BrowserUser) -> None:
    phone = site.new_phone()
    admin.open("/admin/opt-outs")
    admin.page.get_by_label("Phones").fill(national(phone))
    admin.page.get_by_label("Source").fill("a call")
    admin.page.get_by_role("button", name="Add", exact=True).click()
    expect(admin.page.locator("tbody tr", has_text=spaced(phone))).to_have_count(1)
    admin.open("/admin/audit?entity=opt_out")
    expect(admin.page.locator("tbody tr").first).to_contain_text("anna@example.com (verified)")
    admin.open("/admin/audit?entity=session")
    expect(admin.page.locator("tbody tr").first).to_contain_text("signed in")


def test_sessions_are_listed_and_ended_also_at_the_provider(
    site: System, browser: Browser, admin: BrowserUser
) -> None:
    with (
        BrowserUser(browser, site, "Vera", fresh=True) as first,
        BrowserUser(browser, site, "Oleg", fresh=True) as second,
    ):
        admin.open("/admin/sessions")
        row = admin.page.locator("tbody tr", has_text="vera@example.com (verified)").first
        row.get_by_role("link", name="End session").click()
        row.get_by_role("button", name="End all of this person").click()
        expect(admin.page.locator("[role=status]")).to_contain_text("ended")
        first.page.goto("/admin/mailings")
        expect(first.page).to_have_url(re.compile("/admin/sign-in"))
        # Back-channel logout: the provider ends the session, and no page here was involved.
        provider = second.context.new_page()
        provider.goto(f"{site.settings['OIDC_ISSUER']}/sessions")
        provider.locator("form", has_text="Oleg Operator").get_by_role(
            "button", name="End all of this person"
        ).first.click()
        provider.wait_for_load_state()
        second.page.goto("/admin/mailings")
        expect(second.page).to_have_url(re.compile("/admin/sign-in"))
