"""Checks of what the demonstration simulates, and of the monitoring profile."""

import http.client
import json
import re
import subprocess
import time
from datetime import datetime
from html import unescape
from typing import Any
from urllib.parse import urlencode, urljoin, urlsplit
from zoneinfo import ZoneInfo

from stack import ROOT, Failed, Stack, docker, inspect, report, require, wait_for

PROMETHEUS_IMAGE = re.search(  # the one that docker-compose.yml names
    r"image: (prom/prometheus:\S+)", (ROOT / "docker-compose.yml").read_text()
)[1]
REPORT_ZONE = ZoneInfo("Europe/Moscow")
BEGAN = datetime.now(REPORT_ZONE).date()


class Browser:
    """A minimal browser for the sign-in. Names below .localhost are this machine."""

    def __init__(self) -> None:
        self._cookies: dict[str, str] = {}

    def open(self, url: str, form: dict[str, str] | None = None) -> tuple[str, str, Any]:
        """Open a page and follow redirects; return the final address, text and headers."""
        for _ in range(10):
            parts = urlsplit(url)
            require(
                parts.hostname == "127.0.0.1" or str(parts.hostname).endswith(".localhost"),
                f"sent to {url}",
            )
            headers = {"Host": parts.netloc, "Accept": "text/html"}
            if parts.hostname == "127.0.0.1":
                headers["Cookie"] = "; ".join(f"{k}={v}" for k, v in self._cookies.items())
            if form is not None:
                headers["Content-Type"] = "application/x-www-form-urlencoded"
            connection = http.client.HTTPConnection("127.0.0.1", parts.port, timeout=15)
            target = parts.path + (f"?{parts.query}" if parts.query else "")
            method, body = ("GET", None) if form is None else ("POST", urlencode(form))
            connection.request(method, target or "/", body, headers)
            answer = connection.getresponse()
            text = answer.read().decode(errors="replace")
            connection.close()
            for cookie in answer.headers.get_all("Set-Cookie", ()):
                name, _, value = cookie.split(";")[0].partition("=")
                self._cookies[name] = value
            if answer.status not in (302, 303):
                require(answer.status == 200, f"{method} {url}: {answer.status} {text[:300]}")
                return url, text, answer.headers
            url, form = urljoin(url, answer.headers["Location"]), None
        raise Failed(f"redirected for ever, lastly to {url}")


def check_start_page(stack: Stack) -> None:
    """Check that the page at / lists addresses that answer, and says that this is a demo."""
    home, browser = f"http://127.0.0.1:{stack.port}", Browser()
    _, text, _ = browser.open(home + "/")
    require("This is a demonstration" in text, "the page does not say that this is a demonstration")
    require("demo-bootstrap-token" in text, "the page does not show the token")
    require("PUBLIC_URL" not in text, "the page complains about PUBLIC_URL")
    listed = set(re.findall(r'<a href="([^"]+)">', text))
    simulated = {
        f"http://127.0.0.1:{stack.env['PROVIDER_PORT']}/control/requests",
        f"http://127.0.0.1:{stack.mail_port}",
    }
    require(simulated <= listed, f"the page lists {listed}")
    for address in listed:
        browser.open(urljoin(home, address))
    report(f"the page at / lists {len(listed)} addresses, which all answer")


def check_sign_in(stack: Stack) -> None:
    """Sign in as Anna: from /admin/ to the demo sign-in and back."""
    browser, home = Browser(), f"http://127.0.0.1:{stack.port}/admin/"
    url, text, headers = browser.open(home)
    issuer = stack.env["OIDC_ISSUER"]
    # A browser allows the form to lead only to addresses in this policy.
    policy = headers["Content-Security-Policy"]
    require(issuer in policy.partition("form-action")[2].split(";")[0], f"policy: {policy}")
    fields = dict(re.findall(r'name="(csrf_token|next)" value="([^"]*)"', text))
    form = {name: unescape(value) for name, value in fields.items()}
    action = re.search(r'<form method="post" action="([^"]*)"', text)
    require(action and "csrf_token" in form, f"no sign-in at {url}: {text[:300]}")
    url, text, _ = browser.open(urljoin(url, unescape(action[1])), form)
    require(url.startswith(f"{issuer}/authorize?"), f"the sign-in led to {url}")
    require("Anna Admin" in text, f"no user to choose at {url}")
    url, text, _ = browser.open(url, {"person": "anna"})
    require(url == home, f"after the sign-in, the browser is at {url}")
    require("Anna Admin" in text, "the admin UI does not show who signed in")
    report("signed in to /admin/ as Anna Admin, at the demo's OpenID provider")


def check_report_service(stack: Stack) -> None:
    """Make the newest day's report due, and wait for the mail of the report's service."""
    [postgres] = stack.containers("postgres")
    statement = "DELETE FROM daily_reports WHERE day = (SELECT max(day) FROM daily_reports)"
    password = ("-e", "PGPASSWORD=demo-postgres-password")
    docker("exec", *password, postgres, "psql", "-U", "notifications", "-qc", statement)
    root, browser = f"http://127.0.0.1:{stack.mail_port}", Browser()
    began = time.monotonic()
    wait_for(lambda: "team@example.com" in browser.open(root + "/")[1], 60, "the daily report")
    took = time.monotonic() - began
    report(f"the report service mailed a due day's report, {took:.0f} s after it was due")


def check_report(stack: Stack, sent: int) -> None:
    """Check `flask report send` and the mail catcher's page."""
    day = BEGAN.isoformat()
    [api] = stack.containers("api")
    command = ("flask", "--app", "api", "report", "send", "--day", day, "--to", "boss@example.com")
    docker("exec", api, *command)
    root, browser = f"http://127.0.0.1:{stack.mail_port}", Browser()
    _, listed, _ = browser.open(root + "/")
    require("boss@example.com" in listed, "the mail catcher's page does not list the report")
    name = json.loads(browser.open(root + "/newest")[1])["name"]
    _, shown, _ = browser.open(f"{root}/mails/{name}/")
    require(f"-{day}.csv" in shown, f"no CSV of {day} is attached: {shown[-1500:]}")
    require(
        f'sandbox="allow-popups allow-popups-to-escape-sandbox" src="/mails/{name}' in shown, shown
    )
    _, html, headers = browser.open(f"{root}/mails/{name}/html")
    require(headers["Content-Security-Policy"].startswith("sandbox "), "a mail is not confined")
    digits = re.sub(r"(?<=\d)\D(?=\d{3}\b)", "", unescape(html))
    whole = datetime.now(REPORT_ZONE).date() == BEGAN  # or some were sent after midnight
    require(not whole or str(sent) in digits, f"the report does not say that {sent} were accepted")
    report(f"`flask report send`: in the mail catcher's page, with {sent} accepted and its CSV")


def check_monitoring(stack: Stack, sent: int) -> None:
    """Assert that Prometheus scrapes the API and has loaded the rules (without Grafana)."""
    if not _have(PROMETHEUS_IMAGE):
        report(f"NOT CHECKED: the monitoring profile ({PROMETHEUS_IMAGE} is not available here)")
        return
    stack.compose("--profile", "monitoring", "up", "-d", "--no-deps", "prometheus")
    began = time.monotonic()
    [api] = stack.containers("api")
    program = (
        "import sys; from urllib.request import urlopen;"
        "print(urlopen('http://prometheus:9090/api/v1/' + sys.argv[1], timeout=10).read().decode())"
    )

    def query_prometheus(path: str) -> Any:
        """Query Prometheus from the API's container, since it is not published."""
        try:
            return json.loads(docker("exec", api, "python", "-c", program, path))["data"]
        except (Failed, ValueError):
            return None

    def target_is_up() -> bool:
        targets = (query_prometheus("targets") or {}).get("activeTargets", ())
        return [target["health"] for target in targets] == ["up"]

    wait_for(target_is_up, 60, "Prometheus has scraped the API")
    rules = [rule for group in query_prometheus("rules")["groups"] for rule in group["rules"]]
    files = [(ROOT / f"deploy/prometheus/{name}.yml").read_text() for name in ("alerts", "slo")]
    written = re.findall(r"- (?:alert|record): ([\w:]+)", "".join(files))
    require(sorted(rule["name"] for rule in rules) == sorted(written), f"rules: {rules}")
    query = urlencode({"query": 'max(notification_messages_total{status="sent"})'})
    [found] = wait_for(
        lambda: (query_prometheus(f"query?{query}") or {}).get("result"), 30, "messages are counted"
    )
    require(int(float(found["value"][1])) == sent, f"Prometheus counts {found} sent, not {sent}")
    [container] = stack.containers("prometheus")
    require(not any(inspect(container)["NetworkSettings"]["Ports"].values()), "it is published")
    report(
        f"Prometheus: target up, {len(rules)} rules loaded, {sent} sent by its count, "
        f"{time.monotonic() - began:.0f} s after its start"
    )
    report("not tested: Grafana (a separate test runs its queries)")


def _have(image: str) -> bool:
    """Return whether the image is present or can be pulled."""
    for command, seconds in ((["image", "inspect", image], 20), (["pull", "-q", image], 120)):
        try:
            docker(*command, timeout=seconds)
        except (Failed, subprocess.TimeoutExpired):
            continue
        return True
    return False
