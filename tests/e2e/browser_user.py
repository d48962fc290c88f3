"""A signed-in user of the admin UI: a browser context with helpers for the tests."""

import re
from types import TracebackType
from typing import Any, Self

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, Response, expect

from tests.support.system import System

CHROMIUM_ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]

# Storage states of users signed in before, by address and name, because signing in is slow.
SESSIONS: dict[tuple[str, str], Any] = {}


def spaced(phone: int) -> str:
    """Return a phone as pages show it and people write it."""
    return re.sub(r"^7(...)(...)(..)(..)$", r"+7 \1 \2-\3-\4", str(phone))


class BrowserUser:
    """A browser context that is signed in as one of the demo users.

    Leaving it fails if the pages logged errors to the browser console.
    """

    def __init__(
        self, browser: Browser, site: System, name: str, fresh: bool = False, **context: Any
    ) -> None:
        self.name = name
        self.home = f"http://127.0.0.1:{site.api_port}"
        self.stored_session = SESSIONS.get((self.home, name)) if not fresh and not context else None
        self.stores_session = not fresh and not context
        settings = {"locale": "en-GB", "timezone_id": "Europe/Moscow", **context}
        self.context = browser.new_context(
            base_url=self.home, storage_state=self.stored_session, **settings
        )
        self.page = self.context.new_page()
        self.page.set_default_timeout(15_000)
        self.console_errors: list[str] = []
        self.page.on(
            "console",
            lambda message: (
                self.console_errors.append(message.text) if message.type == "error" else None
            ),
        )
        self.page.on("pageerror", lambda error: self.console_errors.append(str(error)))

    def __enter__(self) -> Self:
        self.sign_in()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.context.close()
        if kind is None:
            # Tests request forbidden addresses on purpose; other errors, such as violations of the
            # content security policy, are defects.
            errors = [text for text in self.console_errors if "Failed to load resource" not in text]
            assert not errors, errors

    def sign_in(self) -> None:
        if self.stored_session is not None:
            self.page.goto("/admin/")
            if self.page.locator(".side").is_visible():
                return  # else an earlier test has ended the session
        self.page.goto("/admin/sign-in")
        self.page.locator("main form button.btn-primary").click()
        self.page.get_by_role("button", name=self.name).click()
        expect(self.page.locator(".side")).to_contain_text(self.name)
        if self.stores_session:
            SESSIONS[self.home, self.name] = self.context.storage_state()

    def open(self, path: str) -> Response:
        response = self.page.goto(path)
        assert response is not None
        return response

    def post(self, path: str, **fields: str) -> int:
        """Submit a form without its page, with a valid CSRF token; return the response's status."""
        token = self.page.locator("meta[name=csrf-token]").get_attribute("content") or ""
        response = self.context.request.post(
            path, form={"csrf_token": token, **fields}, max_redirects=0
        )
        return response.status

    def accessibility_violations(self) -> list[str]:
        """Return everything that axe-core finds on the page, of every level."""
        found = Axe().run(self.page).response["violations"]
        return [
            f"{each['impact']} {each['id']}: {node['html'][:200]} "
            f"{node.get('failureSummary', '')[:300]}"
            for each in found
            for node in each["nodes"]
        ]

    def tab_to(self, target: Locator, limit: int = 120) -> None:
        """Press the Tab key until an element has the focus."""
        for _ in range(limit):
            self.page.keyboard.press("Tab")
            if target.evaluate("element => element === document.activeElement"):
                return
        raise AssertionError(f"{target} cannot be reached with the Tab key")
