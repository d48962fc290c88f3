"""What logs and metrics can say: code, documents, dashboard and alerts hold the same words."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from api.monitoring import collector
from shared import metrics
from shared.domain.statuses import MessageStatus
from shared.logging.events import EVENTS
from worker.provider.outcomes import Outcome

ROOT = Path(__file__).parents[2]
LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}
# Event names that are put together, and what they are put together of.
MADE_UP: dict[str, set[str]] = {
    "f'library.{record.name}'": set(),
    "f'message.{status}'": {f"message.{status}" for status in MessageStatus},
    "f'admin.sign_in_{what}'": {"admin.sign_in_refused", "admin.sign_in_provider_away"},
}
NOTES = {"log_on_commit", "log_messages_on_commit", "log_clients_on_commit"}


def read(name: str) -> str:
    return (ROOT / name).read_text()


def events_in_code() -> Iterator[tuple[str, str]]:
    """Where in the product an event is named, and its name."""
    for room in ("api", "worker", "shared"):
        for path in sorted((ROOT / room).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                place = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
                for name in names_of(node):
                    yield place, name


def names_of(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Dict):
        for key, value in zip(node.keys, node.values, strict=True):
            if isinstance(key, ast.Constant) and key.value == "event":
                yield from said(value)
    if not isinstance(node, ast.Call):
        return
    function, arguments = node.func, node.args
    if isinstance(function, ast.Attribute) and function.attr in LEVELS and arguments:
        yield from said(arguments[0])
    elif isinstance(function, ast.Name) and function.id in NOTES and len(arguments) > 1:
        yield from said(arguments[1])
    elif isinstance(function, ast.Name) and function.id in ("write", "_commit") and arguments:
        yield from said(arguments[-1] if function.id == "_commit" else arguments[0])


def said(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        text = ast.unparse(node).replace('"', "'")
        assert text in MADE_UP, f"{text}: name the events it makes, in this test's MADE_UP"
        yield from MADE_UP[text]


def test_the_code_says_what_is_on_the_list_and_all_of_it() -> None:
    found: dict[str, str] = {}
    for place, name in events_in_code():
        if name in MADE_UP["f'message.{status}'"] and name not in EVENTS:
            continue  # pending is no end
        assert name in EVENTS, (
            f"{place} logs {name!r}: add it to shared/logging/events.py, with a meaning"
        )
        found.setdefault(name, place)
    unused = EVENTS.keys() - found.keys()
    assert not unused, f"shared/logging/events.py lists what nothing logs: {sorted(unused)}"


def test_docs_list_the_same_events() -> None:
    rows = dict(re.findall(r"^\| `([a-z_]+\.[a-z_]+)` \| (.*) \|$", read("docs/logging.md"), re.M))
    assert rows == EVENTS, "docs/logging.md's table of events differs from shared/logging/events.py"


def described() -> dict[str, tuple[str, str]]:
    """docs/metrics.md's entries of our own: kind and labels by name."""
    entries = re.findall(
        r"^### `(notification_\w+)`\n\n(\w+)(?:, by (.*))?\n\n(?:.+\n)+\n```promql\n(.+)\n```$",
        read("docs/metrics.md"),
        re.M,
    )
    return {name: (kind, labels) for name, kind, labels, _ in entries}


def test_docs_describe_every_metric_one_by_one() -> None:
    expected = {
        m.name: (m.kind, ", ".join(f"`{label}`" for label in m.labels)) for m in metrics.ALL_METRICS
    }
    assert described() == expected


def expressions() -> Iterator[tuple[str, str]]:
    dashboard: dict[str, Any] = json.loads(read("deploy/grafana/notifications.json"))
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield f"panel {panel['title']!r}", target["expr"]
    for rule in rules():
        yield f"alert {rule['alert']}", rule["expr"]
    for example in re.findall(r"^```promql\n(.+)\n```$", read("docs/metrics.md"), re.M):
        yield "an example in docs/metrics.md", example


def rules() -> list[dict[str, Any]]:
    document = yaml.safe_load(read("deploy/prometheus/alerts.yml"))
    return [rule for group in document["groups"] for rule in group["rules"]]


def test_every_query_asks_for_metrics_that_exist() -> None:
    asked = set()
    for place, expression in expressions():
        for name in re.findall(r"\bnotification_\w+", expression):
            plain = re.sub(r"_(bucket|sum|count)$", "", name)
            assert plain in metrics.METRICS, f"{place} asks for {name}, which does not exist"
            asked.add(plain)
    dashboard = read("deploy/grafana/notifications.json")
    missing = {name for name in metrics.METRICS if name not in dashboard}
    assert not missing, f"the dashboard shows nothing of {sorted(missing)}"


def test_panels_say_what_they_show() -> None:
    dashboard = json.loads(read("deploy/grafana/notifications.json"))
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    assert all(panel["description"] and panel["targets"] for panel in panels)
    described = read("docs/metrics.md")
    rows = [panel["title"] for panel in dashboard["panels"] if panel["type"] == "row"]
    assert all(f"**{title}**" in described for title in rows)


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_every_alert_has_its_page_in_the_runbook_and_its_test(rule: dict[str, Any]) -> None:
    file, _, anchor = rule["annotations"]["runbook"].partition("#")
    assert f"\n## {rule['alert']}\n" in read(file), f"docs/runbook.md has no part {rule['alert']}"
    assert anchor == rule["alert"].lower()
    assert f"alertname: {rule['alert']}\n" in read("deploy/prometheus/alerts.test.yml")


def test_the_collector_knows_the_providers_outcomes() -> None:
    assert set(collector.OUTCOMES) == set(Outcome) - {Outcome.NOT_SENT}
