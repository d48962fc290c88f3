"""Fixtures: the whole product with the demo sign-in, and users in a real browser."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from playwright.sync_api import Browser, expect, sync_playwright

from dev.openid import CLIENT_SECRET
from dev.stack.ports import free_port
from tests.e2e.browser_user import CHROMIUM_ARGUMENTS, BrowserUser
from tests.support.programs import require_program
from tests.support.system import System
from tests.support.waiting import wait_for


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """The product and the OpenID provider of its users.

    One mailing was sent, as pages are different, and kept for a while, before the first one.
    """
    openid = free_port()
    system = System(
        Path(tmp_path_factory.mktemp("site")),
        dispatchers=1,
        OIDC_ISSUER=f"http://127.0.0.1:{openid}",
        OIDC_CLIENT_ID="notifications",
        OIDC_CLIENT_SECRET=CLIENT_SECRET,
    )
    system.settings["PUBLIC_URL"] = f"http://127.0.0.1:{system.api_port}"
    try:
        system.start()
        system.add_process("openid", "dev.openid", "--port", str(openid))
        wait_for(lambda: _responds(f"http://127.0.0.1:{openid}/keys"), 90, "the OpenID provider")
        system.add_clients(1, tag="first")
        first = system.create_mailing(name="The first mailing", filter={"tags": ["first"]})
        system.wait_finished(first)
        yield system
    finally:
        system.stop()


@pytest.fixture(autouse=True)
def shared_state(site: System) -> Iterator[None]:
    """Each test finds the provider without faults, and leaves the policy as it was."""
    site.provider.reset()
    before = site.call("GET", "/policy")
    yield
    assert site.call("GET", "/policy") == before, "put the policy back: other tests share it"


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    chromium = require_program("chromium")
    expect.set_options(timeout=15_000)  # for busy machines
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def admin(site: System, browser: Browser) -> Iterator[BrowserUser]:
    with BrowserUser(browser, site, "Anna") as user:
        yield user


@pytest.fixture
def operator(site: System, browser: Browser) -> Iterator[BrowserUser]:
    with BrowserUser(browser, site, "Oleg") as user:
        yield user


@pytest.fixture
def viewer(site: System, browser: Browser) -> Iterator[BrowserUser]:
    with BrowserUser(browser, site, "Vera") as user:
        yield user


def _responds(address: str) -> bool:
    try:
        return requests.get(address, timeout=2).ok
    except requests.RequestException:
        return False
