"""What the demo and monitoring profiles promise: sign-in, caught mails, Prometheus."""

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

from stack import ROOT, Failed, Stack, docker, free_port, inspect, must, say, wait

PROMETHEUS_IMAGE = re.search(  # the one that docker-compose.yml names
    r"image: (prom/prometheus:\S+)", (ROOT / "docker-compose.yml").read_text()
)[1]
REPORT_ZONE = ZoneInfo("Europe/Moscow")
BEGAN = datetime.now(REPORT_ZONE).date()


class Browser:
    """As much of one as a sign-in takes. Names below .localhost are this machine."""

    def __init__(self) -> None:
        self._cookies: dict[str, str] = {}

    def open(self, url: str, form: dict[str, str] | None = None) -> tuple[str, str, Any]:
        """The address that all redirections end at, its text, its headers."""
        for _ in range(10):
            parts = urlsplit(url)
            must(
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
                must(answer.status == 200, f"{method} {url}: {answer.status} {text[:300]}")
                return url, text, answer.headers
            url, form = urljoin(url, answer.headers["Location"]), None
        raise Failed(f"redirected for ever, lastly to {url}")


def start_with_demo(stack: Stack) -> float:
    """`docker-compose --env-file .env.demo up`, on ports of its own."""
    openid, mail = free_port(), free_port()
    stack.options = ["--env-file", ".env.demo"]
    stack.env |= {
        "OPENID_PORT": str(openid),
        "OIDC_ISSUER": f"http://openid.localhost:{openid}",
        "MAIL_PORT": str(mail),
        "PUBLIC_URL": f"http://127.0.0.1:{stack.port}",
        "GRAFANA_PORT": str(free_port()),
    }
    return stack.start()


def check_sign_in(stack: Stack) -> None:
    """From /admin/ to the demo sign-in and back again, as Anna."""
    browser, home = Browser(), f"http://127.0.0.1:{stack.port}/admin/"
    url, text, headers = browser.open(home)
    issuer = stack.env["OIDC_ISSUER"]
    # By this a browser judges where the form may lead.
    policy = headers["Content-Security-Policy"]
    must(issuer in policy.partition("form-action")[2].split(";")[0], f"policy: {policy}")
    fields = dict(re.findall(r'name="(csrf_token|next)" value="([^"]*)"', text))
    form = {name: unescape(value) for name, value in fields.items()}
    action = re.search(r'<form method="post" action="([^"]*)"', text)
    must(action and "csrf_token" in form, f"no sign-in at {url}: {text[:300]}")
    url, text, _ = browser.open(urljoin(url, unescape(action[1])), form)
    must(url.startswith(f"{issuer}/authorize?"), f"the sign-in led to {url}")
    must("Anna Admin" in text, f"nobody to choose at {url}")
    url, text, _ = browser.open(url, {"person": "anna"})
    must(url == home, f"after the sign-in, the browser is at {url}")
    must("Anna Admin" in text, "the admin UI does not know who signed in")
    say("signed in to /admin/ as Anna Admin, at the demo's OpenID provider")


def check_report(stack: Stack, sent: int) -> None:
    """`flask report send`, and what the mail catcher's page shows of it."""
    day = BEGAN.isoformat()
    [api] = stack.containers("api")
    command = ("flask", "--app", "api", "report", "send", "--day", day, "--to", "boss@example.com")
    docker("exec", api, *command)
    root, browser = f"http://127.0.0.1:{stack.env['MAIL_PORT']}", Browser()
    _, listed, _ = browser.open(root + "/")
    must("boss@example.com" in listed, "the mail catcher's page does not list the report")
    name = json.loads(browser.open(root + "/newest")[1])["name"]
    _, shown, _ = browser.open(f"{root}/mails/{name}/")
    must(f"-{day}.csv" in shown, f"no CSV of {day} is attached: {shown[-1500:]}")
    must(
        f'sandbox="allow-popups allow-popups-to-escape-sandbox" src="/mails/{name}' in shown, shown
    )
    _, html, headers = browser.open(f"{root}/mails/{name}/html")
    must(headers["Content-Security-Policy"].startswith("sandbox "), "a mail is not confined")
    digits = re.sub(r"(?<=\d)\D(?=\d{3}\b)", "", unescape(html))
    whole = datetime.now(REPORT_ZONE).date() == BEGAN  # or some were sent after midnight
    must(not whole or str(sent) in digits, f"the report does not say that {sent} were accepted")
    say(f"`flask report send`: in the mail catcher's page, with {sent} accepted and its CSV")


def check_monitoring(stack: Stack, sent: int) -> None:
    """Prometheus finds the API and knows our rules. (Grafana's image is not asked for.)"""
    if not _have(PROMETHEUS_IMAGE):
        say(f"NOT CHECKED: the monitoring profile ({PROMETHEUS_IMAGE} cannot be had here)")
        return
    stack.compose("--profile", "monitoring", "up", "-d", "--no-deps", "prometheus")
    began = time.monotonic()
    [api] = stack.containers("api")
    program = (
        "import sys; from urllib.request import urlopen as ask;"
        "print(ask('http://prometheus:9090/api/v1/' + sys.argv[1], timeout=10).read().decode())"
    )

    def ask(path: str) -> Any:
        """Prometheus is not published: a neighbour asks it."""
        try:
            return json.loads(docker("exec", api, "python", "-c", program, path))["data"]
        except (Failed, ValueError):
            return None

    def target_is_up() -> bool:
        targets = (ask("targets") or {}).get("activeTargets", ())
        return [target["health"] for target in targets] == ["up"]

    wait(target_is_up, 60, "Prometheus has scraped the API")
    rules = [rule for group in ask("rules")["groups"] for rule in group["rules"]]
    written = re.findall(r"- alert: (\w+)", (ROOT / "deploy/prometheus/alerts.yml").read_text())
    must(sorted(rule["name"] for rule in rules) == sorted(written), f"rules: {rules}")
    query = urlencode({"query": 'max(notification_messages_total{status="sent"})'})
    [found] = wait(lambda: (ask(f"query?{query}") or {}).get("result"), 30, "messages are counted")
    must(int(float(found["value"][1])) == sent, f"Prometheus counts {found} sent, not {sent}")
    [container] = stack.containers("prometheus")
    must(not any(inspect(container)["NetworkSettings"]["Ports"].values()), "it is published")
    say(
        f"Prometheus: target up, {len(rules)} alert rules loaded, {sent} sent by its count, "
        f"{time.monotonic() - began:.0f} s after its start"
    )
    say("not tried: Grafana, whose image is not asked for (its queries have a test of their own)")


def _have(image: str) -> bool:
    """Whether the image is here, or can be fetched."""
    for command, seconds in ((["image", "inspect", image], 20), (["pull", "-q", image], 120)):
        try:
            docker(*command, timeout=seconds)
        except (Failed, subprocess.TimeoutExpired):
            continue
        return True
    return False
