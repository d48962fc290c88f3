"""401 answers about single recipients, and about the token, with real processes."""

import time
from collections.abc import Iterator

import pytest

from tests.support.system import PROVIDER_TOKEN, System
from tests.support.waiting import wait_for

MESSAGES = 3_000
MAX_ATTEMPTS = 3
EVERY = 100  # one phone in so many is refused


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    directory = tmp_path_factory.mktemp("system")
    system = System(directory, MAX_ATTEMPTS=MAX_ATTEMPTS, PROVIDER_CONCURRENCY=100)
    try:
        yield system.start()
    finally:
        system.stop()


@pytest.fixture(autouse=True)
def end_mailings(system: System) -> Iterator[None]:
    """Leave nothing to send and a provider that accepts everything."""
    yield
    for (mailing_id,) in system.query("SELECT id FROM mailings WHERE NOT settled"):
        system.call("POST", f"/mailings/{mailing_id}/cancel")
        system.wait_finished(mailing_id)
    wait_for(lambda: system.query("SELECT bool_and(settled) FROM mailings") == [(True,)], 20)
    system.provider.set(latency=0.0, token=PROVIDER_TOKEN, phones={}, faults={})


def add_audience(system: System, tag: str, count: int = MESSAGES) -> list[int]:
    system.add_clients(count, tag)
    return [p for (p,) in system.query("SELECT phone FROM clients WHERE tag = %s ORDER BY 1", tag)]


def refuse_phones(system: System, phones: list[int]) -> None:
    system.provider.set(phones={str(phone): "unauthorized_401" for phone in phones})


def wait_until_sent(system: System, mailing_id: int, count: int) -> None:
    wait_for(lambda: system.statistics(mailing_id)["counts"]["sent"] >= count, 60, every=0.02)


def count_attempts(system: System, mailing_id: int, phones: list[int]) -> set[int]:
    rows = system.query(
        "SELECT DISTINCT m.attempts FROM messages m JOIN clients c ON c.id = m.client_id"
        " WHERE m.mailing_id = %s AND c.phone = ANY (%s)",
        mailing_id,
        phones,
    )
    return {attempts for (attempts,) in rows}


def test_refused_recipients_slow_nothing_and_fail_in_the_end(system: System) -> None:
    system.provider.set(latency=0.01)
    for tag in ("usual", "some refused", "beside"):
        add_audience(system, tag)
    phones = [p for (p,) in system.query("SELECT phone FROM clients WHERE tag = 'some refused'")]
    refused = sorted(phones)[EVERY // 2 :: EVERY]

    def send(*tags: str) -> tuple[int, float]:
        """Send mailings side by side; return the first one's id, and the seconds for all."""
        began = time.monotonic()
        made = {system.create_mailing(filter={"tags": [tag]}): tag for tag in tags}
        for mailing_id, tag in made.items():
            count = MESSAGES - (len(refused) if tag == "some refused" else 0)
            wait_until_sent(system, mailing_id, count)
        return min(made), time.monotonic() - began

    _, usual = send("usual")
    _, usual_pair = send("usual", "beside")
    refuse_phones(system, refused)
    mailing_id, with_refused = send("some refused")
    _, pair = send("some refused", "beside")
    print(
        f"{usual:.2f} s, {with_refused:.2f} s with refusals;", f"pairs {usual_pair:.2f}, {pair:.2f}"
    )
    assert with_refused < 2 * usual + 1.5
    assert pair < 2 * usual_pair + 1.5

    # Attempts are counted while other messages are accepted, up to MAX_ATTEMPTS.
    add_audience(system, "steady", 3_000)
    system.create_mailing(filter={"tags": ["steady"]}, rate_limit=100)
    done = system.wait_finished(mailing_id, 60)
    assert done["counts"]["failed"] == len(refused)
    assert count_attempts(system, mailing_id, refused) == {MAX_ATTEMPTS}
    reasons = system.query(
        "SELECT DISTINCT reason FROM messages WHERE mailing_id = %s AND status = 'failed'",
        mailing_id,
    )
    assert reasons == [("attempts exhausted",)]
    assert not system.query("SELECT 1 FROM breaker_openings")
    system.check_totals()


def test_a_recipient_refused_without_an_acceptance_after_it_loses_no_attempt(
    system: System,
) -> None:
    phones = add_audience(system, "alone", 1)
    refuse_phones(system, phones)
    mailing_id = system.create_mailing(filter={"tags": ["alone"]})
    seen = "SELECT count(*) FROM attempts WHERE mailing_id = %s AND outcome = 'unauthorized'"
    wait_for(lambda: system.query(seen, mailing_id)[0][0] > MAX_ATTEMPTS, 60, "several attempts")
    assert count_attempts(system, mailing_id, phones) == {0}
    system.provider.set(phones={})
    done = system.wait_finished(mailing_id, 90)
    assert done["counts"]["sent"] == 1
    system.check_totals()


def test_a_wrong_token_opens_the_breaker_and_loses_no_attempt(system: System) -> None:
    system.provider.set(latency=0.01)
    phones = add_audience(system, "wrong token")
    mailing_id = system.create_mailing(filter={"tags": ["wrong token"]})
    wait_for(lambda: system.statistics(mailing_id)["counts"]["sent"] > 200, 20)
    system.provider.set(token="another")
    openings = "SELECT reason FROM breaker_openings ORDER BY at DESC LIMIT 1"
    wait_for(lambda: system.query(openings) == [("unauthorized",)], 30, "the breaker to open")
    system.provider.set(token=PROVIDER_TOKEN)
    done = system.wait_finished(mailing_id, 60)
    assert done["counts"]["sent"] == MESSAGES
    assert count_attempts(system, mailing_id, phones) == {1}
    system.check_totals()
