"""Check that code, docs, dashboard and alerts use the same names, and that prose is plain."""

import ast
import json
import re
import subprocess
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
# Event names that are composed at run time, with the events they stand for.
COMPOSED_EVENTS: dict[str, set[str]] = {
    "f'library.{record.name}'": set(),
    "f'message.{status}'": {f"message.{status}" for status in MessageStatus},
    "f'admin.sign_in_{event}'": {"admin.sign_in_refused", "admin.sign_in_provider_away"},
}
# Functions that log an event, by the argument that names it.
FIRST_ARGUMENT = {"write", "_log_event"}
LOG_ON_COMMIT = {"log_on_commit", "log_messages_on_commit", "log_clients_on_commit"}


def read(name: str) -> str:
    return (ROOT / name).read_text()


def events_in_code() -> Iterator[tuple[str, str]]:
    """Yield the place of each logged event in the product, and its name."""
    for directory in ("api", "worker", "shared"):
        for path in sorted((ROOT / directory).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                place = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
                for name in event_names(node):
                    yield place, name


def event_names(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Dict):
        for key, value in zip(node.keys, node.values, strict=True):
            if isinstance(key, ast.Constant) and key.value == "event":
                yield from constant_texts(value)
    if not isinstance(node, ast.Call):
        return
    function, arguments = node.func, node.args
    if isinstance(function, ast.Attribute) and function.attr in LEVELS and arguments:
        yield from constant_texts(arguments[0])
    elif isinstance(function, ast.Name) and function.id in LOG_ON_COMMIT and len(arguments) > 1:
        yield from constant_texts(arguments[1])
    elif isinstance(function, ast.Name) and function.id in FIRST_ARGUMENT and arguments:
        yield from constant_texts(arguments[0])
    elif isinstance(function, ast.Name) and function.id == "_commit" and arguments:
        yield from constant_texts(arguments[-1])


def constant_texts(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        text = ast.unparse(node).replace('"', "'")
        assert text in COMPOSED_EVENTS, f"{text}: list the events it stands for in COMPOSED_EVENTS"
        yield from COMPOSED_EVENTS[text]


def test_logged_events_and_the_list_of_events_are_the_same() -> None:
    found: dict[str, str] = {}
    for place, name in events_in_code():
        if name in COMPOSED_EVENTS["f'message.{status}'"] and name not in EVENTS:
            continue  # a message does not end as pending
        assert name in EVENTS, (
            f"{place} logs {name!r}: add it to shared/logging/events.py, with a meaning"
        )
        found.setdefault(name, place)
    unused = EVENTS.keys() - found.keys()
    assert not unused, (
        f"shared/logging/events.py lists events that are not logged: {sorted(unused)}"
    )


def test_docs_list_the_same_events() -> None:
    rows = dict(re.findall(r"^\| `([a-z_]+\.[a-z_]+)` \| (.*) \|$", read("docs/logging.md"), re.M))
    assert rows == EVENTS, "docs/logging.md's table of events differs from shared/logging/events.py"


def documented_metrics() -> dict[str, tuple[str, str]]:
    """Return kind and labels of each metric in docs/metrics.md, by name."""
    entries = re.findall(
        r"^### `(notification_\w+)`\n\n(\w+)(?:, by (.*))?\n\n(?:.+\n)+\n```promql\n(.+)\n```$",
        read("docs/metrics.md"),
        re.M,
    )
    return {name: (kind, labels) for name, kind, labels, _ in entries}


def test_docs_describe_every_metric() -> None:
    expected = {
        m.name: (m.kind, ", ".join(f"`{label}`" for label in m.labels)) for m in metrics.ALL_METRICS
    }
    assert documented_metrics() == expected


def expressions() -> Iterator[tuple[str, str]]:
    dashboard: dict[str, Any] = json.loads(read("deploy/grafana/notifications.json"))
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield f"panel {panel['title']!r}", target["expr"]
    for rule in rules():
        yield f"rule {rule.get('alert', rule.get('record'))}", rule["expr"]
    for example in re.findall(r"^```promql\n(.+)\n```$", read("docs/metrics.md"), re.M):
        yield "an example in docs/metrics.md", example


RULE_FILES = ("alerts", "slo")


def rules() -> list[dict[str, Any]]:
    documents = [yaml.safe_load(read(f"deploy/prometheus/{name}.yml")) for name in RULE_FILES]
    return [rule for each in documents for group in each["groups"] for rule in group["rules"]]


def alerts() -> list[dict[str, Any]]:
    return [rule for rule in rules() if "alert" in rule]


def test_every_query_uses_existing_metrics() -> None:
    used = set()
    for place, expression in expressions():
        for name in re.findall(r"\bnotification_\w+", expression):
            plain = re.sub(r"_(bucket|sum|count)$", "", name)
            assert plain in metrics.METRICS, f"{place} uses {name}, which does not exist"
            used.add(plain)
    dashboard = read("deploy/grafana/notifications.json")
    missing = {name for name in metrics.METRICS if name not in dashboard}
    assert not missing, f"the dashboard does not show {sorted(missing)}"


def test_panels_have_descriptions() -> None:
    dashboard = json.loads(read("deploy/grafana/notifications.json"))
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    assert all(panel["description"] and panel["targets"] for panel in panels)
    described = read("docs/metrics.md")
    rows = [panel["title"] for panel in dashboard["panels"] if panel["type"] == "row"]
    assert all(f"**{title}**" in described for title in rows)


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])
def test_every_alert_has_a_section_in_the_runbook_and_a_test(rule: dict[str, Any]) -> None:
    address, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    file = address.removeprefix("https://gitlab.com/your-group/notifications/-/blob/main/")
    assert f"\n## {rule['alert']}\n" in read(file), (
        f"docs/runbook.md has no section {rule['alert']}"
    )
    assert anchor == rule["alert"].lower()
    tests = "".join(read(f"deploy/prometheus/{name}.test.yml") for name in RULE_FILES)
    assert f"alertname: {rule['alert']}\n" in tests


def test_the_collector_exports_all_outcomes() -> None:
    assert set(collector.OUTCOMES) == set(Outcome) - {Outcome.NOT_SENT}


# --- plain language -------------------------------------------------------------------------------

# Words that hide the subject of a sentence, or are known to this project only; and what to write.
# (`nobody` in quotes is the user of that name.)
UNCLEAR_WORDS = {
    r"who(m)?ever": "name the subject: 'a caller that', 'the process that'",
    r"(?<![`\"])nobody(?![`\"])": "name the subject: 'no client', 'no process'",
    r"(some|any)body": "name the subject: 'a person', 'another process'",
    r"everybody": "name the subject: 'all clients', 'every caller'",
    r"hand(s|ed|ing)?[- ]off": "'send' or 'dispatch'",
    r"the books": "'the totals' or 'the invariants'",
}
# Function names that do not say what is done to what: a better example for each.
UNCLEAR_NAMES = {
    "ask": "query_mailing, request_token",
    "attend": "handle_connection",
    "begin": "start_import, begin_transaction",
    "do": "run_job",
    "give": "release_batch",
    "go": "open_page",
    "heed": "apply_rate_limit",
    "know": "is_known_phone",
    "look": "find_due_mailings",
    "mend": "restore_provider",
    "note": "log_on_commit, count_attempt",
    "put": "store_rows",
    "say": "describe_error",
    "see": "observe_clock",
    "take": "claim_batch, accept_connection",
    "tell": "report_counts",
}
TEXT_FILES = {
    "",  # Makefile, scripts
    *(".api", ".css", ".demo", ".example", ".html", ".js", ".lua", ".md", ".py", ".sh", ".svg"),
    *(".toml", ".worker", ".yaml", ".yml"),
}


def prose_files() -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    own = str(Path(__file__).relative_to(ROOT))
    return [
        name
        for name in listed
        if Path(name).suffix in TEXT_FILES and name != own and (ROOT / name).is_file()
    ]


def test_prose_and_code_use_plain_words() -> None:
    faults = []
    for name in prose_files():
        for number, line in enumerate(read(name).splitlines(), 1):
            for word, advice in UNCLEAR_WORDS.items():
                if found := re.search(rf"\b{word}\b", line, re.IGNORECASE):
                    faults.append(f"{name}:{number}: {found[0]!r}: write instead: {advice}")
    assert not faults, "\n".join(faults)


def test_functions_are_named_by_a_verb_and_its_object() -> None:
    faults = []
    for name in prose_files():
        if not name.endswith(".py"):
            continue
        for node in ast.walk(ast.parse(read(name))):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if advice := UNCLEAR_NAMES.get(node.name.strip("_")):
                faults.append(
                    f"{name}:{node.lineno}: {node.name}() does not say what it does to what: use a "
                    f"verb and its object, as in {advice}"
                )
    assert not faults, "\n".join(faults)
