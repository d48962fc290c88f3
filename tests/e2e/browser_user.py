"""Somebody who uses the admin UI in a browser of their own."""

from types import TracebackType
from typing import Any, Self

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Response, expect

from tests.support.system import System

ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]

# Of people who are signed in already, by address and name: signing in takes its time.
SESSIONS: dict[tuple[str, str], Any] = {}


class Person:
    """A browser's context, signed in as one of the demo people."""

    def __init__(
        self, browser: Browser, site: System, name: str, fresh: bool = False, **context: Any
    ) -> None:
        self.name = name
        self.home = f"http://127.0.0.1:{site.api_port}"
        self.kept = SESSIONS.get((self.home, name)) if not fresh and not context else None
        self.keeps = not fresh and not context
        settings = {"locale": "en-GB", "timezone_id": "Europe/Moscow", **context}
        self.context = browser.new_context(base_url=self.home, storage_state=self.kept, **settings)
        self.page = self.context.new_page()
        self.page.set_default_timeout(15_000)
        self.complaints: list[str] = []
        self.page.on(
            "console",
            lambda said: self.complaints.append(said.text) if said.type == "error" else None,
        )
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

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
            # A refused address is no complaint of the page's; a breach of its policy is.
            ours = [said for said in self.complaints if "Failed to load resource" not in said]
            assert not ours, ours

    def sign_in(self) -> None:
        if self.kept is not None:
            self.page.goto("/admin/")
            return
        self.page.goto("/admin/sign-in")
        self.page.locator("main form button.btn-primary").click()
        self.page.get_by_role("button", name=self.name).click()
        expect(self.page.locator(".side")).to_contain_text(self.name)
        if self.keeps:
            SESSIONS[self.home, self.name] = self.context.storage_state()

    def open(self, path: str) -> Response:
        answer = self.page.goto(path)
        assert answer is not None
        return answer

    def post(self, path: str, **fields: str) -> int:
        """A form's request made by hand, with a valid token: what hiding a button cannot stop."""
        token = self.page.locator("meta[name=csrf-token]").get_attribute("content") or ""
        answer = self.context.request.post(
            path, form={"csrf_token": token, **fields}, max_redirects=0
        )
        return answer.status

    def violations(self) -> list[str]:
        """What axe-core finds of weight on the page."""
        found = Axe().run(self.page).response["violations"]
        return [
            f"{each['id']}: {node['html'][:200]} {node.get('failureSummary', '')[:300]}"
            for each in found
            if each["impact"] in ("serious", "critical")
            for node in each["nodes"]
        ]
