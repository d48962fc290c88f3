"""Makes the pictures in docs/screenshots: python -m tests.e2e.screenshots (it takes a minute)."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import sync_playwright

from tests.e2e.person import ARGUMENTS, Person
from tests.system import System, free_port
from tests.waiting import wait_for

PICTURES = Path(__file__).parents[2] / "docs" / "screenshots"
ZONES = ("Europe/Moscow", "Asia/Yekaterinburg", "Asia/Omsk", "Asia/Vladivostok")
TAGS = ("vip", "regular", "new")
WIDE, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 780}


@contextmanager
def product() -> Iterator[System]:
    openid = free_port()
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        system = System(
            Path(directory),
            dispatchers=1,
            OIDC_ISSUER=f"http://127.0.0.1:{openid}",
            OIDC_CLIENT_ID="notifications",
        )
        system.settings["PUBLIC_URL"] = f"http://127.0.0.1:{system.api_port}"
        try:
            system.start()
            system.add_process("openid", "dev.openid", "--port", str(openid))
            yield system
        finally:
            system.stop()


def fill(system: System) -> int:
    """Clients and mailings in every state; the id of the one to be shown from close by."""
    rows = ["phone,tag,timezone"]
    rows += [f"7916{n:07d},{TAGS[n % 3]},{ZONES[n % 4]}" for n in range(6000)]
    made = system.call(
        "POST",
        "/clients/import",
        data="\n".join(rows).encode(),
        headers={"Content-Type": "text/csv"},
    )
    path = f"/imports/{made['id']}"
    wait_for(lambda: system.call("GET", path)["status"] == "finished", 60, "the import")
    system.provider.set(phones={79160000000 + 300 * n: "reject_400" for n in range(20)})
    done = system.create_mailing(
        name="Spring sale",
        text="Only today: everything at half the price.",
        filter={"tags": ["vip"]},
    )
    system.wait_finished(done)
    shown = system.create_mailing(
        name="New opening hours",
        text="From Monday on we are open from 8 to 22.",
        filter={"tags": ["regular"]},
        rate_limit=80,
    )
    system.create_mailing(
        name="Night owls", text="Half the price until dawn", filter={"tags": ["new"]},
        window={"from": "02:00", "to": "02:30"}, lasts=86400.0,
    )  # fmt: skip
    system.create_mailing(
        starts_in=50000, name="Tomorrow's reminder", text="Do not forget your appointment."
    )
    wait_for(lambda: system.statistics(shown)["counts"]["sent"] > 900, 60, "a mailing under way")
    return shown


def main() -> None:
    chromium = shutil.which("chromium")
    PICTURES.mkdir(parents=True, exist_ok=True)
    with product() as system, sync_playwright() as playwright:
        shown = fill(system)
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        for name, path, context in (
            ("mailing", f"/admin/mailings/{shown}", {"viewport": WIDE, "color_scheme": "light"}),
            ("dashboard", "/admin/", {"viewport": WIDE, "color_scheme": "light"}),
            ("mailings-dark-ru", "/admin/mailings", {
                "viewport": WIDE, "color_scheme": "dark", "locale": "ru-RU"}),
            ("new-mailing", "/admin/mailings/new", {"viewport": WIDE, "color_scheme": "light"}),
            ("mailing-phone", f"/admin/mailings/{shown}", {
                "viewport": PHONE, "color_scheme": "light"}),
        ):  # fmt: skip
            with Person(browser, system, "Anna", **context) as person:
                person.open(path)
                if name == "new-mailing":
                    person.page.get_by_label("Text").fill("Only today: everything at half price.")
                    person.page.get_by_label("Tags").fill("vip, regular")
                person.page.wait_for_timeout(2500)  # two rounds of live figures
                person.page.screenshot(path=PICTURES / f"{name}.png")
        browser.close()


if __name__ == "__main__":
    main()
