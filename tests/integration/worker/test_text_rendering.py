"""How a dispatcher renders texts, and that a plain text needs no client data."""

import orjson
import pytest

from shared.domain.templates import MissingAttribute
from tests.support.fleet import Fleet, make_attempt
from worker.dispatch.leased_batch import LeasedBatch
from worker.recording.state_machine import MessageReport
from worker.runtime.clock import DatabaseClock


def lease(fleet: Fleet, mailing_id: int) -> LeasedBatch:
    claimed = fleet.claim_batch(mailing_id).claim
    clock = DatabaseClock()
    with fleet.db.transaction() as cursor:
        clock.read(cursor)
    return LeasedBatch(claimed, clock, 40.0, 11.0)


def decode_text(body_end: bytes) -> str:
    """Return the text in the end of a request's body."""
    text: str = orjson.loads(b'{"id":1' + body_end)["text"]
    return text


def test_a_plain_text_is_serialised_once_and_needs_no_client_data(fleet: Fleet) -> None:
    batch = lease(fleet, fleet.add_launched_mailing(5, text="half {{price}}"))
    texts = [batch.render_text(row) for row in batch.rows]
    assert len({id(body_end) for _, body_end in texts}) == 1
    assert {text for text, _ in texts} == {None}
    assert decode_text(texts[0][1]) == batch.plain_text == "half {price}"
    assert {row.values for row in batch.rows} == {None}


def test_a_personalised_text_is_rendered_from_the_clients_present_data(fleet: Fleet) -> None:
    mailing_id = fleet.add_launched_mailing(2, text="{name|you} {phone} {timezone} {city}")
    fleet.query(
        'UPDATE clients SET attributes = \'{"name": "Анна", "city": "Омск"}\' WHERE id ='
        " (SELECT min(client_id) FROM messages WHERE mailing_id = %s)",
        mailing_id,
    )
    batch = lease(fleet, mailing_id)
    first, second = batch.rows
    text, body_end = batch.render_text(first)
    assert text == decode_text(body_end) == f"Анна {first.phone} Europe/Moscow Омск"
    assert batch.plain_text is None
    with pytest.raises(MissingAttribute, match="missing attribute: city"):
        batch.render_text(second)


@pytest.mark.parametrize("text", ["plain", "{phone}"])
def test_a_retry_repeats_the_first_attempts_text(fleet: Fleet, text: str) -> None:
    mailing_id = fleet.add_launched_mailing(1, text=text)
    worker = fleet.claim_batch(mailing_id)
    first = make_attempt("unavailable", 79990000000, "said {first}")
    worker.finish(reports=[MessageReport(worker.ids[0], counts_attempt=True, attempt=first)])
    fleet.query("UPDATE batches SET due_at = now() WHERE mailing_id = %s", mailing_id)
    batch = lease(fleet, mailing_id)
    (row,) = batch.rows
    again, body_end = batch.render_text(row)
    assert again == decode_text(body_end) == "said {first}"
    assert row.first_phone == 79990000000
