"""What a dispatcher reads of clients and makes of a text: for a plain one, nothing at all."""

import orjson
import pytest

from shared.domain.templates import MissingAttribute
from tests.support.fleet import Fleet, make_attempt
from worker.dispatch.leased_batch import HeldBatch
from worker.recording.state_machine import MessageReport
from worker.runtime.clock import DatabaseClock


def hold(fleet: Fleet, mailing_id: int) -> HeldBatch:
    claimed = fleet.claim_batch(mailing_id).claim
    clock = DatabaseClock()
    with fleet.db.transaction() as cursor:
        clock.read(cursor)
    return HeldBatch(claimed, clock, 40.0, 11.0)


def said(tail: bytes) -> str:
    """The text in the end of a request."""
    text: str = orjson.loads(b'{"id":1' + tail)["text"]
    return text


def test_a_plain_text_is_serialised_once_and_reads_nothing_of_clients(fleet: Fleet) -> None:
    held = hold(fleet, fleet.add_launched_mailing(5, text="half {{price}}"))
    texts = [held.text_for(row) for row in held.rows]
    assert len({id(tail) for _, tail in texts}) == 1
    assert {text for text, _ in texts} == {None}
    assert said(texts[0][1]) == held.plain == "half {price}"
    assert {row.values for row in held.rows} == {None}


def test_a_personal_text_is_made_of_the_client_as_it_is(fleet: Fleet) -> None:
    mailing_id = fleet.add_launched_mailing(2, text="{name|you} {phone} {timezone} {city}")
    fleet.query(
        'UPDATE clients SET attributes = \'{"name": "Анна", "city": "Омск"}\' WHERE id ='
        " (SELECT min(client_id) FROM messages WHERE mailing_id = %s)",
        mailing_id,
    )
    held = hold(fleet, mailing_id)
    first, second = held.rows
    text, tail = held.text_for(first)
    assert text == said(tail) == f"Анна {first.phone} Europe/Moscow Омск"
    assert held.plain is None
    with pytest.raises(MissingAttribute, match="missing attribute: city"):
        held.text_for(second)


@pytest.mark.parametrize("text", ["plain", "{phone}"])
def test_a_retry_says_what_the_first_attempt_said(fleet: Fleet, text: str) -> None:
    mailing_id = fleet.add_launched_mailing(1, text=text)
    worker = fleet.claim_batch(mailing_id)
    first = make_attempt("unavailable", 79990000000, "said {first}")
    worker.finish(reports=[MessageReport(worker.ids[0], counts_attempt=True, attempt=first)])
    fleet.query("UPDATE batches SET due_at = now() WHERE mailing_id = %s", mailing_id)
    held = hold(fleet, mailing_id)
    (row,) = held.rows
    again, tail = held.text_for(row)
    assert again == said(tail) == "said {first}"
    assert row.first_phone == 79990000000
