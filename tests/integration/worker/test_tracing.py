"""Traces lead from the request through launch and claim to the recorded messages."""

import json
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from dev.stack.ports import free_port
from tests.support.otlp_collector import Collector, Span
from tests.support.system import ROOT, System, rfc3339
from tests.support.waiting import wait_for

STEPS = {
    *("POST /api/v1/mailings", "launch"),
    *("claim batch", "send batch", "record batch", "message"),
}


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[System]:
    system = System(
        tmp_path_factory.mktemp("traced"),
        dispatchers=1,
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
        OTEL_BSP_SCHEDULE_DELAY="200",
    )
    try:
        system.start()
        for number in range(20):
            add_client(system, f"7916555{number:04}")
        yield system
    finally:
        system.stop()


def add_client(system: System, phone: str) -> None:
    client = {"phone": phone, "tag": "traced", "timezone": "Europe/Moscow"}
    system.call("POST", "/clients", json=client)


def create_mailing(system: System, **headers: str) -> requests.Response:
    """Create a mailing that is due at once; return the answer."""
    now = time.time()
    body = {
        "text": "traced",
        "filter": {"tags": ["traced"]},
        "start_at": rfc3339(now),
        "end_at": rfc3339(now + 3600),
    }
    url = f"http://127.0.0.1:{system.api_port}/api/v1/mailings"
    answer = system.http.post(url, json=body, headers=headers, timeout=30)
    assert answer.status_code == 201, answer.text
    return answer


def wait_for_steps(collector: Collector, trace_id: str) -> list[Span]:
    def complete() -> list[Span] | None:
        spans = collector.spans(trace_id)
        return spans if {span.name for span in spans} >= STEPS else None

    return wait_for(complete, 30, f"the steps of trace {trace_id}")


def test_a_mailing_is_traced_from_the_request_of_its_caller(
    traced: System, collector: Collector
) -> None:
    trace_id, caller = secrets.token_hex(16), secrets.token_hex(8)
    answer = create_mailing(traced, traceparent=f"00-{trace_id}-{caller}-01")
    assert re.fullmatch(f"00-{trace_id}-[0-9a-f]{{16}}-01", answer.headers["traceparent"])
    assert answer.headers["X-Request-ID"] == answer.headers["traceparent"]
    spans = wait_for_steps(collector, trace_id)
    by_name = {span.name: span for span in spans}
    request = by_name["POST /api/v1/mailings"]
    assert request.parent_id == caller
    assert request.service == "notifications-api"
    assert by_name["launch"].service == "notifications-control"
    assert by_name["launch"].parent_id == request.span_id
    claim, sending, recording = (by_name[f"{step} batch"] for step in ("claim", "send", "record"))
    assert claim.parent_id == request.span_id
    assert sending.parent_id == recording.parent_id == claim.span_id
    assert sending.attributes["notifications.mailing_id"] == answer.json()["id"]
    messages = [span for span in spans if span.name == "message"]
    assert 1 <= len(messages) <= 3
    assert {span.parent_id for span in messages} == {sending.span_id}
    assert set(recording.links) == {span.span_id for span in messages}
    ids = {row["id"] for row in traced.provider.requests()}
    assert {span.attributes["notifications.message_id"] for span in messages} <= ids
    assert not any(span.failed for span in spans)


def test_the_id_of_a_request_leads_to_its_trace(traced: System, collector: Collector) -> None:
    """A caller that sends its own id finds the trace by the log lines of that id."""
    request_id = f"order-{secrets.token_hex(4)}"
    answer = create_mailing(traced, **{"X-Request-ID": request_id})
    assert answer.headers["X-Request-ID"] == request_id
    trace_id = answer.headers["traceparent"].split("-")[1]
    wait_for_steps(collector, trace_id)
    lines = [line for line in read_log(traced, "api") if line.get("request_id") == request_id]
    assert {line["trace_id"] for line in lines} == {trace_id}


def test_a_caller_with_both_ids_gets_two_linked_traces(
    traced: System, collector: Collector
) -> None:
    trace_id, request_id = secrets.token_hex(16), f"order-{secrets.token_hex(4)}"
    headers = {"X-Request-ID": request_id, "traceparent": f"00-{trace_id}-{'7' * 16}-01"}
    create_mailing(traced, **headers)
    [request] = wait_for(lambda: collector.spans(trace_id), 30, "the caller's trace")
    [work] = request.links
    found = wait_for(lambda: collector.find(work), 30, "the trace of the work")
    assert found.links == [request.span_id]
    wait_for_steps(collector, found.trace_id)


def test_an_unsampled_caller_is_not_traced(traced: System, collector: Collector) -> None:
    unsampled, sampled = secrets.token_hex(16), secrets.token_hex(16)
    for trace_id, flag in ((unsampled, "00"), (sampled, "01")):
        create_mailing(traced, traceparent=f"00-{trace_id}-{'7' * 16}-{flag}")
    wait_for_steps(collector, sampled)
    assert collector.spans(unsampled) == []


def test_probes_are_not_traced(traced: System) -> None:
    url = f"http://127.0.0.1:{traced.api_port}/healthz"
    assert "traceparent" not in traced.http.get(url, timeout=30).headers


def read_log(system: System, name: str) -> list[dict[str, Any]]:
    lines = system.processes[name].log.read_text().splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


def test_a_collector_that_is_away_delays_nothing(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    system = System(
        tmp_path_factory.mktemp("away"),
        dispatchers=1,
        OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{free_port()}",
        OTEL_BSP_SCHEDULE_DELAY="100",
    )
    try:
        system.start()
        add_client(system, "79165550000")
        create_mailing(system)
        wait_for(lambda: len(list(system.provider.requests())) == 1, 30, "the message")
        for process in system.processes.values():
            assert process.stop(30) is not None
    finally:
        system.stop()


def test_a_process_that_does_not_trace_loads_no_tracing() -> None:
    program = (
        "import sys, api.app, worker.jobs, worker.dispatch.state, shared.tracing;"
        "sys.exit('opentelemetry.exporter' in sys.modules or 'opentelemetry.proto' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False)
    assert done.returncode == 0
