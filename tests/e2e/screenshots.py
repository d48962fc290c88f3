"""Make the pictures in docs/screenshots: python -m tests.e2e.screenshots [DIRECTORY].

It takes about a minute.
"""

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, FilePayload, sync_playwright

from dev.openid import CLIENT_SECRET
from dev.stack.ports import free_port
from shared.report.figures import DayFigures, MailingDay
from shared.report.rendering import render_html
from tests.e2e.browser_user import CHROMIUM_ARGUMENTS, BrowserUser
from tests.support.system import System
from tests.support.waiting import wait_for

DEFAULT_DIRECTORY = Path(__file__).parents[2] / "docs" / "screenshots"
ZONES = ("Europe/Moscow", "Asia/Yekaterinburg", "Asia/Omsk", "Asia/Vladivostok")
TAGS = ("vip", "regular", "new")
NAMES = ("Anna", "Ivan", "Olga", "Pyotr", "")
WIDE, TALL = {"width": 1280, "height": 860}, {"width": 1280, "height": 1275}
PHONE = {"width": 390, "height": 780}
# A plausible month: busy by day, less so at weekends, with a few failures.
HISTORY = """
INSERT INTO minutes (mailing_id, minute, shard, status, count)
SELECT %s, at, 15, status::message_status, (n * share)::int FROM (
    SELECT at, (900 + 500 * sin(extract(epoch FROM at) / 5000) + hour * 40)
        * CASE WHEN extract(isodow FROM at) > 5 THEN 0.35 ELSE 1 END AS n
    FROM generate_series(1, 720) AS back
    CROSS JOIN LATERAL (SELECT date_trunc('hour', now()) - back * interval '1 hour') AS t (at)
    CROSS JOIN LATERAL (SELECT extract(hour FROM at + interval '3 hours')) AS h (hour)
    WHERE hour BETWEEN 9 AND 20
) AS hours
CROSS JOIN (VALUES ('sent', 1.0), ('failed', 0.03), ('expired', 0.015)) AS shares (status, share)
"""


@contextmanager
def running_product() -> Iterator[System]:
    openid = free_port()
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        system = System(
            Path(directory),
            dispatchers=1,
            OIDC_ISSUER=f"http://127.0.0.1:{openid}",
            OIDC_CLIENT_ID="notifications",
            OIDC_CLIENT_SECRET=CLIENT_SECRET,
            PROVIDER_RATE=200,
            SEGMENT_PRICE="2.40",
            CURRENCY="RUB",
            TEST_SENDS_PER_MINUTE=30,
        )
        system.settings["PUBLIC_URL"] = f"http://127.0.0.1:{system.api_port}"
        try:
            system.start()
            system.add_process("openid", "dev.openid", "--port", str(openid))
            yield system
        finally:
            system.stop()


def create_data(system: System) -> int:
    """Create clients, and mailings in every state; return the id of the running one to show."""
    rows = ["phone,tag,timezone,name"]
    rows += [f"7916{n:07d},{TAGS[n % 3]},{ZONES[n % 4]},{NAMES[n % 5]}" for n in range(6000)]
    started = system.call(
        "POST",
        "/clients/import",
        data="\n".join(rows).encode(),
        headers={"Content-Type": "text/csv"},
    )
    path = f"/imports/{started['id']}"
    wait_for(lambda: system.call("GET", path)["status"] == "finished", 60, "the import")
    system.provider.set(phones={79160000000 + 300 * n: "reject_400" for n in range(20)})
    finished = system.create_mailing(
        name="Spring sale",
        text="Only today: everything at half the price.",
        filter={"tags": ["vip"]},
    )
    system.wait_finished(finished)
    with system.database() as cursor:
        cursor.execute(HISTORY, (finished,))
    system.provider.set(latency={"min": 0.02, "max": 0.09})
    shown = system.create_mailing(
        name="New opening hours",
        text="From Monday on we are open from 8 to 22.",
        filter={"tags": ["regular"]},
        rate_limit=20,
    )
    system.create_mailing(
        name="Night owls", text="Half the price until dawn", filter={"tags": ["new"]},
        window={"from": "02:00", "to": "02:30"}, lasts=86400.0,
    )  # fmt: skip
    system.create_mailing(
        starts_in=50000, name="Tomorrow's reminder", text="Do not forget your appointment."
    )
    wait_for(
        lambda: system.statistics(shown)["counts"]["sent"] > 300,
        60,
        "300 messages of the running mailing",
    )
    return shown


def fill_in_mailing(user: BrowserUser) -> None:
    """Fill in part of a mailing's form and send a test."""
    page = user.page
    page.get_by_label("Text").fill("{name|Dear client}, only today: everything at half price.")
    page.get_by_label("Tags").fill("vip, regular")
    page.get_by_label("Send it to yourself first").fill("+7 916 000-00-01, +7 916 000-03-00")
    page.get_by_role("button", name="Send a test").click()
    page.locator("#test li").first.wait_for()
    page.get_by_label("Name").focus()


def upload_file_with_errors(user: BrowserUser) -> None:
    """Upload a file of clients with typical errors."""
    rows = (
        *("телефон;метка;часовой пояс;код", "+7 (916) 555-00-01;vip;Europe/Moscow;"),
        *("7,9E+10;vip;Europe/Moscow;", "8 926 1;x;Луна;12", "8 916 555 00 01;new;Asia/Omsk;"),
    )
    buffer = "\n".join(rows).encode()
    file = FilePayload(name="clients.csv", mimeType="text/csv", buffer=buffer)
    user.page.locator("#file").set_input_files(file)
    user.page.locator("form[data-import] button").click()
    user.page.locator("button[value=import]").click()
    user.page.locator("[data-merged] table").wait_for()


def draw_report(browser: Browser, directory: Path) -> None:
    """Draw the e-mail of the daily report about a plausible day."""
    start, end = datetime(2026, 11, 22, 7, tzinfo=UTC), datetime(2026, 11, 22, 18, tzinfo=UTC)
    mailings = [
        MailingDay(
            17, "Winter sale", "The winter sale begins today", start, end, "running",
            120_000, False, 96_400, 310, 0, 0, 23_290, 12, 1.4, 64.0,
        ),
        MailingDay(
            16, None, "Your order is ready", start, end, "finished",
            4_200, False, 4_198, 2, 0, 0, 0, 0, 0.8, 2.1,
        ),
    ]  # fmt: skip
    figures = DayFigures(
        date(2026, 11, 22), "Europe/Moscow", mailings,
        reasons=[("rejected: http_422", 305), ("missing attribute: name", 7)],
        openings=[("unavailable", 2)],
    )  # fmt: skip
    page = browser.new_page(viewport={"width": 680, "height": 900})
    page.set_content(render_html(figures, "en", "https://notifications.example.com"))
    page.screenshot(path=directory / "report.png", full_page=True)


def main() -> None:
    chromium = shutil.which("chromium")
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_DIRECTORY
    directory.mkdir(parents=True, exist_ok=True)
    with running_product() as system, sync_playwright() as playwright:
        shown = create_data(system)
        browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_ARGUMENTS)
        draw_report(browser, directory)
        for name, path, context in (
            ("mailing", f"/admin/mailings/{shown}", {"viewport": WIDE, "color_scheme": "light"}),
            ("dashboard", "/admin/", {"viewport": TALL, "color_scheme": "light"}),
            ("dashboard-ru", "/admin/", {
                "viewport": TALL, "color_scheme": "light", "locale": "ru-RU"}),
            ("dashboard-phone", "/admin/", {"viewport": PHONE, "color_scheme": "light"}),
            ("mailings-dark-ru", "/admin/mailings", {
                "viewport": WIDE, "color_scheme": "dark", "locale": "ru-RU"}),
            ("new-mailing", "/admin/mailings/new", {"viewport": TALL, "color_scheme": "light"}),
            ("mailing-phone", f"/admin/mailings/{shown}", {
                "viewport": PHONE, "color_scheme": "dark"}),
            ("import-ru", "/admin/clients/import", {
                "viewport": WIDE, "color_scheme": "light", "locale": "ru-RU"}),
        ):  # fmt: skip
            options: dict[str, Any] = context
            with BrowserUser(browser, system, "Anna", **options) as user:
                user.open(path)
                if name == "new-mailing":
                    user.page.set_viewport_size({"width": 1280, "height": 1480})
                    fill_in_mailing(user)
                if name == "import-ru":
                    upload_file_with_errors(user)
                user.page.wait_for_timeout(3500)  # for two updates of the live figures
                user.page.screenshot(path=directory / f"{name}.png")
        browser.close()


if __name__ == "__main__":
    main()
