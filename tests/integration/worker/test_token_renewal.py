"""The provider's token is replaced in its file while mailings are being sent, by real processes."""

import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.system import System
from tests.support.waiting import wait_for

MESSAGES = 3_000


def make_jwt(name: str, lifetime: float) -> str:
    now = int(time.time())
    claims = {"sub": name, "iat": now, "exp": now + int(lifetime)}
    parts = ({"alg": "none"}, claims)
    encoded = (base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in parts)
    return b".".join([*encoded, b"c2lnbmF0dXJl"]).decode()


FIRST, SECOND, THIRD = (make_jwt(name, 100 * 86400) for name in ("first", "second", "third"))
EXPIRING = make_jwt("expiring", 5)


@pytest.fixture(scope="module")
def token_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("secrets") / "token"
    file.write_text(FIRST + "\n")
    return file


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, token_file: Path) -> Iterator[System]:
    system = System(
        tmp_path_factory.mktemp("system"),
        PROVIDER_TOKEN="",
        PROVIDER_TOKEN_FILE=token_file,
        MAX_ATTEMPTS=1,
        PROVIDER_CONCURRENCY=100,
    )
    try:
        system.start()
        system.provider.set(latency=0.05, token=FIRST)
        yield system
    finally:
        system.stop()


def replace_token(file: Path, token: str) -> None:
    """Replace the file as a person or a program does it."""
    draft = file.with_suffix(".new")
    draft.write_text(token + "\n")
    draft.rename(file)


def start_mailing(system: System, tag: str) -> int:
    """Start a mailing, and return when a part of it has been sent."""
    system.add_clients(MESSAGES, tag)
    mailing_id = system.create_mailing(filter={"tags": [tag]})
    wait_for(lambda: system.statistics(mailing_id)["counts"]["sent"] > 200, 20, every=0.02)
    return mailing_id


def attempts_of(system: System, mailing_id: int) -> list[tuple[int]]:
    return system.query("SELECT DISTINCT attempts FROM messages WHERE mailing_id = %s", mailing_id)


def test_a_token_that_is_rejected_is_replaced_without_a_restart_or_an_attempt(
    system: System, token_file: Path
) -> None:
    mailing_id = start_mailing(system, "rejected")
    system.provider.set(token=SECOND)
    openings = "SELECT count(*) FROM breaker_openings WHERE reason = 'unauthorized'"
    wait_for(lambda: system.query(openings)[0][0], 10, "the breaker to open")
    replace_token(token_file, SECOND)
    done = system.wait_finished(mailing_id, 60)
    assert done["counts"]["sent"] == MESSAGES
    assert attempts_of(system, mailing_id) == [(1,)]
    system.check_totals()


def test_a_token_replaced_in_time_interrupts_nothing(system: System, token_file: Path) -> None:
    """Some requests are rejected in the second in which the workers read the new token."""
    before = system.query("SELECT count(*) FROM messages WHERE attempts > 1")
    mailing_id = start_mailing(system, "in time")
    replace_token(token_file, THIRD)
    system.provider.set(token=THIRD)
    done = system.wait_finished(mailing_id, 60)
    assert done["counts"]["sent"] == MESSAGES
    assert attempts_of(system, mailing_id) == [(1,)]
    assert system.query("SELECT count(*) FROM messages WHERE attempts > 1") == before
    replaced = [
        json.loads(line)
        for name in system.dispatchers
        for line in system[name].log.read_text().splitlines()
        if '"provider.token_replaced"' in line
    ]
    assert len(replaced) >= len(system.dispatchers)
    for path in system.directory.glob("*.log"):
        for token in (FIRST, SECOND, THIRD):
            assert token not in path.read_text()
    system.check_totals()


def test_a_test_message_is_sent_with_the_new_token(system: System, token_file: Path) -> None:
    system.provider.set(token=FIRST)
    replace_token(token_file, FIRST)
    body = {"text": "Hello", "phones": ["79990000001"]}
    (item,) = system.call("POST", "/mailings/test-send", json=body)["items"]
    assert item["outcome"] == "accepted"


def test_the_end_of_the_token_is_exported_and_warned_of(system: System, token_file: Path) -> None:
    def expiry() -> float | None:
        text = system.http.get(f"http://127.0.0.1:{system.api_port}/metrics", timeout=10).text
        for line in text.splitlines():
            if line.startswith("notification_token_expiry_timestamp_seconds "):
                return float(line.split()[1])
        return None

    wait_for(lambda: (expiry() or 0) > time.time() + 99 * 86400, 10, "the first token's end")
    assert "provider.token_expiring" not in system["sweep"].log.read_text()
    replace_token(token_file, EXPIRING)
    wait_for(lambda: (expiry() or 0) < time.time() + 86400, 10, "the other token's end")

    def is_logged() -> bool:
        return "provider.token_expiring" in system["sweep"].log.read_text()

    wait_for(is_logged, 15, "the warning")
