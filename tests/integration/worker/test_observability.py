"""Logs and metrics of mailings with failures, produced by the real processes.

One run, in which messages are refused, retried, exhausted, reopened, cancelled, expired, and Redis
loses everything; then each test asks what the logs and the metrics know of it.
"""

import contextlib
import json
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from prometheus_client.parser import text_string_to_metric_families
from redis import Redis

from api.cli.log_search import LogQuery, LogSearch
from shared.domain.statuses import Reason
from shared.logging.events import EVENTS, LIBRARY_EVENT_PREFIX
from shared.metrics import METRICS
from shared.queues import CONTROL_QUEUE, make_queue
from tests.integration.worker.test_token_renewal import make_jwt
from tests.support.log_subjects import SUBJECTS, ids_in
from tests.support.programs import require_program
from tests.support.prometheus import Prometheus
from tests.support.system import ROOT, TOKEN, System
from tests.support.waiting import wait_for

PROVIDER_TOKEN = make_jwt("observed", 100 * 86400)
TEXT = 'Код вашей скидки 918273, только "сегодня"\nи только для вас'
REQUEST_ID = "story-of-a-mailing"
CLIENTS = 400
COUNTED_OUTCOMES = {"accepted", "rejected", "declined", "unavailable", "unknown"}
NEVER_ACCEPTED, REFUSED = 79000000003, 79000000005
OWN_MESSAGES = "SELECT id FROM messages WHERE mailing_id = %s"

Line = dict[str, Any]
Samples = dict[str, float]


@dataclass
class Run:
    """The system after the run, and what the tests need to know of the run."""

    system: System
    prometheus: Prometheus | None
    mailings: dict[str, int] = field(default_factory=dict)
    client: int = 0
    phones: set[str] = field(default_factory=set)
    before_flush: Samples = field(default_factory=dict)
    after_flush: Samples = field(default_factory=dict)

    @property
    def logs(self) -> list[Path]:
        names = ("api", "scheduler", "control", "sweep", *self.system.dispatchers)
        return [self.system.directory / f"{name}.log" for name in names]

    def search_logs(self, **question: Any) -> list[Line]:
        """Return the log lines that the log search finds."""
        search = LogSearch(LogQuery(**question))
        for path in self.logs:
            search.read_lines(path.read_text().splitlines())
        return search.sorted_lines()

    def scrape(self) -> Samples:
        return scrape(self.system)


def scrape(system: System) -> Samples:
    answer = requests.get(f"http://127.0.0.1:{system.api_port}/metrics", timeout=10)
    assert answer.ok
    return {
        sample.name + "".join(f",{k}={v}" for k, v in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def by_label(samples: Samples, name: str) -> dict[str, float]:
    """Return a metric's values by the value of its only label."""
    return {
        key.split("=")[1]: value for key, value in samples.items() if key.startswith(f"{name},")
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    directory = tmp_path_factory.mktemp("observability")
    system = System(
        directory / "system",
        MAX_ATTEMPTS=3,
        BATCH_SIZE=100,
        PROVIDER_TIMEOUT=3,
        PROVIDER_TOKEN=PROVIDER_TOKEN,
    )
    prometheus = None
    try:
        system.start()
        with contextlib.suppress(pytest.skip.Exception):  # the tests that need it are skipped
            prometheus = Prometheus(directory / "prometheus", f"127.0.0.1:{system.api_port}")
        yield run_mailings(Run(system, prometheus))
    finally:
        if prometheus is not None:
            prometheus.stop()
        system.stop()


def run_mailings(run: Run) -> Run:
    system = run.system
    system.add_clients(CLIENTS, tag="crowd", zones=("Europe/Moscow", "Asia/Omsk"))
    run.phones = {str(phone) for (phone,) in system.query("SELECT phone FROM clients")}
    known = {"phone": "79169876543", "tag": "new", "timezone": "Europe/Samara"}
    run.phones.add(known["phone"])
    run.client = int(system.call("POST", "/clients", json=known)["id"])
    system.call("POST", "/clients", json=known, expect=409)
    system.call("PATCH", f"/clients/{run.client}", json={"tag": "crowd"})
    system.provider.set(
        token=PROVIDER_TOKEN,
        faults={"error_500": 0.06, "reset_after": 0.03, "declined": 0.02},
        phones={NEVER_ACCEPTED: "error_500", REFUSED: "reject_422"},
    )
    system.http.headers["X-Request-ID"] = REQUEST_ID
    chosen = {"tags": ["crowd"], "operator_codes": []}
    failing = system.create_mailing(text=TEXT, filter=chosen, name="failing")
    del system.http.headers["X-Request-ID"]
    system.wait_finished(failing, 60)
    run.before_flush = wait_for(lambda: counted_all(run), 10, "the last counts in Redis")
    Redis.from_url(system.valkey.url).flushall()
    run.after_flush = run.scrape()

    system.provider.set(faults={}, phones={})
    system.call("POST", f"/mailings/{failing}/retry-failed")
    cancelled = system.create_mailing(text=TEXT, filter=chosen, rate_limit=40)
    expiring = system.create_mailing(text=TEXT, filter=chosen, rate_limit=20, lasts=3.5)
    system.call("PATCH", f"/mailings/{cancelled}", json={"name": "renamed"})
    wait_for(lambda: system.statistics(cancelled)["counts"]["sent"] > 10, 20, "some are sent")
    system.call("POST", f"/mailings/{cancelled}/cancel")
    for mailing in (failing, cancelled, expiring):
        system.wait_finished(mailing, 30)
    settled = "SELECT count(*) = 3 FROM mailings WHERE settled"
    wait_for(lambda: system.query(settled)[0][0], 20, "all mailings are settled")
    system.call("DELETE", f"/clients/{run.client}")
    policy = {"budget": {"day": {"segments": 10**9}}}
    system.call("PUT", "/policy", json=policy, headers={"If-Match": '"1"'})
    run.mailings = {"failing": failing, "cancelled": cancelled, "expiring": expiring}
    return run


def counted_all(run: Run) -> Samples | None:
    """Return the metrics once they count every attempt in the logs."""
    samples = run.scrape()
    attempts = [line for path in run.logs for line in lines_of(path) if is_attempt(line)]
    return (
        samples
        if sum(by_label(samples, "notification_attempts_total").values()) == len(attempts)
        else None
    )


def lines_of(path: Path) -> list[Line]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def is_attempt(line: Line) -> bool:
    return bool(line["event"] == "message.attempt")


def replay(lines: list[Line]) -> dict[int, tuple[str, int]]:
    """Reconstruct each message's status and attempts from log lines alone."""
    status: dict[int, str] = {}
    attempts: Counter[int] = Counter()
    for line in lines:
        event = line["event"]
        if event == "launch.chunk" and line["recipients"]:
            for id_ in range(line["first_message_id"], line["last_message_id"] + 1):
                status.setdefault(id_, "pending")
        elif is_attempt(line):
            id_ = line["message_id"]
            attempts[id_] += line["outcome"] in COUNTED_OUTCOMES and not line.get("probe", False)
            if line["outcome"] == "accepted":
                status[id_] = "sent"
        elif event.startswith("message.") and "message_ids" in line:
            for id_ in line["message_ids"]:
                match event.removeprefix("message."):
                    case "failed" | "expired" | "cancelled" as end if status.get(id_) != "sent":
                        status[id_] = end
                    case "reopened":
                        status[id_] = "pending"
                        attempts[id_] = 0
    return {id_: (state, attempts[id_]) for id_, state in status.items()}


@pytest.mark.parametrize("name", ["failing", "cancelled", "expiring"])
def test_a_mailings_history_is_in_the_logs(run: Run, name: str) -> None:
    mailing = run.mailings[name]
    lines = run.search_logs(mailing=mailing)
    replayed = replay(lines)
    rows = run.system.query(
        "SELECT id, status, attempts FROM messages WHERE mailing_id = %s", mailing
    )
    assert replayed == {id_: (status, attempts) for id_, status, attempts in rows}
    events = [line["event"] for line in lines]
    for first, then in (
        ("mailing.created", "mailing.started"),
        ("mailing.started", "launch.chunk"),
        ("mailing.started", "batch.claimed"),
        ("batch.claimed", "message.attempt"),
        ("batch.released", "mailing.settled"),
    ):
        assert events.index(first) < events.index(then), (first, then)
    (settled,) = [line for line in lines if line["event"] == "mailing.settled"][-1:]
    counts = run.system.statistics(mailing)["counts"]
    assert {status: settled.get(status, 0) for status in counts} == counts
    calls = [line["route"] for line in lines if line["event"] == "api.request"]
    assert "/api/v1/mailings" in calls, "the call that created it is part of its history"
    # Every batch was claimed as often as its token grew, and every claim was released.
    claims = Counter(line["batch_id"] for line in lines if line["event"] == "batch.claimed")
    tokens = dict(
        run.system.query(
            "SELECT id, token FROM batches WHERE mailing_id = %s AND token > 0", mailing
        )
    )
    assert claims == tokens
    assert claims == Counter(
        line["batch_id"] for line in lines if line["event"] == "batch.released"
    )


def test_a_retried_messages_history_is_in_the_logs(run: Run) -> None:
    mailing = run.mailings["failing"]
    (row,) = run.system.query(
        "SELECT m.id, m.status, m.client_id, c.phone FROM messages m"
        " JOIN clients c ON c.id = m.client_id WHERE mailing_id = %s AND phone = %s",
        mailing,
        NEVER_ACCEPTED,
    )
    message, status, client, _ = row
    lines = run.search_logs(message=message)
    attempts = [line for line in lines if is_attempt(line)]
    kept = run.system.query(
        "SELECT outcome, http_status, reason FROM attempts"
        " WHERE mailing_id = %s AND message_id = %s ORDER BY at",
        mailing,
        message,
    )
    refused = [line for line in attempts if line["outcome"] != "accepted"]
    assert [(a["outcome"], a["http_status"], a["reason"]) for a in refused] == kept
    assert len(refused) >= 3
    assert {a["client_id"] for a in attempts} == {client}
    # The logs say why and when it was retried, how it ended, and that it was reopened.
    own = [line for line in lines if message in line.get("message_ids", ())]
    events = [line["event"] for line in own]
    assert events[-2:] == ["message.failed", "message.reopened"]
    assert own[-2]["reason"] == Reason.ATTEMPTS
    retries = [line for line in own if line["event"] == "message.retry"]
    for retry, again in zip(retries, attempts[1:], strict=False):
        assert retry["due_at"] <= again["ts"]
    assert (attempts[-1]["outcome"], status) == ("accepted", "sent")


def test_a_clients_history_is_in_the_logs(run: Run) -> None:
    lines = run.search_logs(client=run.client)
    events = [line["event"] for line in lines if line["event"].startswith("client.")]
    assert events[:3] == ["client.created", "client.updated", "client.deleted"]
    # A sweep erases what is left of the phone; it may have been here already.
    assert events[3:] in ([], ["client.traces_erased"])
    (updated,) = [line for line in lines if line["event"] == "client.updated"]
    assert updated["changed"] == ["tag"]
    messages = run.system.query(
        "SELECT mailing_id, id FROM messages WHERE client_id = %s", run.client
    )
    logged = {(line["mailing_id"], line["message_id"]) for line in lines if is_attempt(line)}
    for line in lines:
        if "message_ids" in line and run.client in line.get("client_ids", ()):
            at = line["client_ids"].index(run.client)
            logged.add((line["mailing_id"], line["message_ids"][at]))
    assert logged == set(messages)
    assert len(messages) == 3


def test_a_request_is_followed_to_the_provider(run: Run) -> None:
    lines = run.search_logs(request=REQUEST_ID)
    services = {line["service"] for line in lines}
    assert {"api", "control", "dispatch"} <= services
    assert {"mailing.created", "mailing.started", "message.attempt", "batch.released"} <= {
        line["event"] for line in lines
    }
    assert all("job_id" in line for line in lines if line["event"] == "mailing.started")
    own = {id_ for (id_,) in run.system.query(OWN_MESSAGES, run.mailings["failing"])}
    received = [(row["id"] in own, row.get("request_id")) for row in run.system.provider.requests()]
    assert {request for is_own, request in received if is_own} == {REQUEST_ID}
    others = {request for is_own, request in received if not is_own}
    assert len(others) == 2, "each mailing has the id of the call that created it"
    assert not others & {None, REQUEST_ID}


def test_the_log_search_is_a_command(run: Run) -> None:
    logs = [str(path) for path in run.logs]
    output = run.system.run("flask", "--app", "api", "logs", "--client", str(run.client), *logs)
    assert [json.loads(line) for line in output.splitlines()] == run.search_logs(client=run.client)


def test_every_log_line_uses_a_known_event(run: Run) -> None:
    for path in run.logs:
        for line in lines_of(path):
            assert {"ts", "level", "event", "service"} <= line.keys(), line
            assert line["event"] in EVENTS or line["event"].startswith(LIBRARY_EVENT_PREFIX), line
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["ts"]), line


def test_every_log_line_carries_the_ids_of_its_subject(run: Run) -> None:
    seen = set()
    for path in run.logs:
        for line in lines_of(path):
            kinds = SUBJECTS.get(line["event"], frozenset())
            assert ids_in(line) >= kinds, line
            seen |= {line["event"]} if kinds else set()
    assert seen >= {"message.retry", "message.reopened", "message.cancelled", "message.failed"}


def test_no_phone_text_or_token_is_in_any_log(run: Run) -> None:
    parts = [part for part in re.split(r"[\s,\"]+", TEXT) if len(part) > 5]
    secrets = [TOKEN, PROVIDER_TOKEN, run.system.valkey.password]
    for path in run.logs:
        log = path.read_text()
        unescaped = log.encode().decode("unicode_escape", "replace") if "\\u" in log else log
        found = run.phones & set(re.findall(r"\d{11,}", log))
        assert not found, f"{path.name} has phones: {sorted(found)[:3]}"
        for part in (*parts, *secrets):
            assert part not in log + unescaped, f"{path.name} has {part!r}"


def test_the_metrics_equal_the_statistics_and_the_logs(run: Run) -> None:
    samples = run.scrape()
    totals = run.system.call("GET", "/statistics")["totals"]
    assert by_label(samples, "notification_messages_total") == totals["counts"]
    assert by_label(samples, "notification_mailings") == totals["mailings"]
    story = run.search_logs(mailing=run.mailings["failing"])
    (retried,) = [line["ts"] for line in story if line["event"] == "mailing.retry_requested"]
    earlier = [line for line in story if is_attempt(line) and line["ts"] < retried]
    attempts = Counter(line["outcome"] for line in earlier)
    counted = by_label(run.before_flush, "notification_attempts_total")
    assert {outcome: n for outcome, n in counted.items() if n} == attempts
    assert run.before_flush["notification_provider_request_seconds_count"] == attempts.total()
    assert samples["notification_messages_late_total"] == 0
    # Redis has lost the list of workers since: each that has had a job has registered again.
    workers = [n for key, n in samples.items() if key.startswith("notification_workers,queue=disp")]
    assert 1 <= sum(workers) <= 2
    assert samples["notification_source_up,source=redis"] == 1


def test_losing_redis_changes_no_total_of_messages(run: Run) -> None:
    name = "notification_messages_total"
    assert by_label(run.before_flush, name) == by_label(run.after_flush, name)
    assert sum(by_label(run.after_flush, name).values()) == CLIENTS + 1


def test_every_metric_is_there_and_documented(run: Run) -> None:
    ours = {re.sub(r"_(bucket|sum|count)$", "", key.split(",")[0]) for key in run.scrape()}
    assert {name for name in ours if name.startswith("notification_")} == set(METRICS)


def test_every_panel_of_the_dashboard_shows_data(run: Run) -> None:
    require_program("prometheus")
    prometheus = run.prometheus
    assert prometheus is not None
    dashboard = json.loads((ROOT / "deploy/grafana/notifications.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            expression = target["expr"].replace("$__rate_interval", "5m")
            title = panel["title"]
            wait_for(partial(prometheus.query, expression), 15, f"data of {title}: {expression}")


def test_prometheus_scrapes_the_same_numbers_and_accepts_the_rules(run: Run) -> None:
    require_program("prometheus")
    prometheus = run.prometheus
    assert prometheus is not None
    counts = run.system.call("GET", "/statistics")["totals"]["counts"]

    def equal() -> bool:
        rows = prometheus.query("notification_messages_total")
        return {row["metric"]["status"]: float(row["value"][1]) for row in rows} == dict(counts)

    wait_for(equal, 30, "Prometheus has scraped the final numbers")
    rules = prometheus.rules()
    shipped = [
        yaml.safe_load((ROOT / f"deploy/prometheus/{name}.yml").read_text())
        for name in ("alerts", "slo")
    ]
    groups = [group for document in shipped for group in document["groups"]]
    assert len(rules) == sum(len(group["rules"]) for group in groups) > 10
    assert not [rule for rule in rules if rule["health"] == "err"]
    late = [rule for rule in rules if rule["name"] == "LateMessages"]
    assert late[0]["state"] == "inactive"


def test_unexpected_errors_are_logged_once_with_their_ids(run: Run) -> None:
    """An unknown argument makes a job fail, a missing table a statement of the sweep."""
    system = run.system
    mailing = system.create_mailing(text="x", filter={"tags": ["lost"]})
    kwargs = {"mailing_id": mailing, "request_id": "from-a-newer-version", "priority": 1}
    queue = make_queue(CONTROL_QUEUE, Redis.from_url(system.valkey.url))
    queue.enqueue("worker.jobs.launch", kwargs=kwargs)
    failed = wait_for(lambda: find_lines(run, "job.failed", mailing_id=mailing), 10, "the failure")
    queue.connection.close()
    assert failed[0]["job"] == "worker.jobs.launch"
    assert failed[0]["request_id"] == "from-a-newer-version"
    assert failed[0] in list(run.search_logs(mailing=mailing))
    assert "Traceback" in failed[0]["exception"]
    assert "unexpected keyword argument 'priority'" in failed[0]["exception"]
    assert len(find_lines(run, "job.failed", job_id=failed[0]["job_id"])) == 1

    with system.database() as cursor:
        cursor.execute("ALTER TABLE idempotency_keys RENAME TO mislaid")
    try:
        refused = wait_for(lambda: find_lines(run, "sweep.failed"), 10, "the sweep is refused")
    finally:
        with system.database() as cursor:
            cursor.execute("ALTER TABLE mislaid RENAME TO idempotency_keys")
    assert (refused[0]["what"], refused[0]["level"]) == ("partitions", "error")
    assert "UndefinedTable" in refused[0]["exception"]
    assert len(find_lines(run, "sweep.failed", job_id=refused[0]["job_id"])) == 1


def find_lines(run: Run, event: str, **fields: Any) -> list[Line]:
    """Return the log lines of an event with these fields."""
    lines = (line for path in run.logs for line in lines_of(path))
    return [line for line in lines if line["event"] == event and fields.items() <= line.items()]


def test_a_scrape_names_the_unavailable_source(run: Run) -> None:
    """Runs last, since it stops Redis, then PostgreSQL."""
    system = run.system
    system.valkey.stop()
    samples = run.scrape()
    assert samples["notification_source_up,source=redis"] == 0
    assert samples["notification_source_up,source=postgresql"] == 1
    assert samples["notification_messages_total,status=sent"] > 0
    assert "notification_in_flight" not in samples
    system.valkey.start()
    system.postgres.stop()
    began = time.monotonic()
    samples = run.scrape()
    assert time.monotonic() - began < 4
    assert samples["notification_source_up,source=postgresql"] == 0
    assert samples["notification_source_up,source=redis"] == 1
    assert "notification_messages_total,status=sent" not in samples
    system.postgres.start()
    wait_for(
        lambda: run.scrape()["notification_source_up,source=postgresql"] == 1, 10, "it is back"
    )
