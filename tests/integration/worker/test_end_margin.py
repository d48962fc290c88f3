"""END_MARGIN in the real processes: nothing is dispatched in the last seconds of a mailing."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.system import System, rfc3339
from tests.support.waiting import wait_for

MARGIN = 4.0


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    system = System(Path(tmp_path_factory.mktemp("margin")), dispatchers=1, END_MARGIN=MARGIN)
    try:
        yield system.start()
    finally:
        system.stop()


def test_nothing_is_dispatched_in_the_margin(system: System) -> None:
    system.add_clients(500)
    mailing_id = system.create_mailing(lasts=MARGIN + 4, rate_limit=20)
    wait_for(lambda: system.statistics(mailing_id)["counts"]["sent"] >= 20, 20, "it is sending")
    ((margin_begins,),) = system.query(
        "SELECT extract(epoch FROM end_at)::float8 - %s FROM mailings WHERE id = %s",
        MARGIN,
        mailing_id,
    )
    system.wait_finished(mailing_id, 30)
    ((early,),) = system.query(
        "SELECT extract(epoch FROM end_at - finished_at)::float8 FROM mailings WHERE id = %s",
        mailing_id,
    )
    assert early <= 0, f"finished {early:.3f} s before its end: what is left expires at the end"
    ((last, late),) = system.query(
        """
        SELECT extract(epoch FROM max(sent_at))::float8,
            count(*) FILTER (WHERE sent_at > %s::timestamptz)
        FROM messages WHERE mailing_id = %s
        """,
        rfc3339(margin_begins + 0.2),  # answers to what left before
        mailing_id,
    )
    assert late == 0, f"sent {last - margin_begins:.3f} s after the margin began"
    counts = system.statistics(mailing_id)["counts"]
    assert counts["sent"] >= 20
    assert counts["expired"] > 0
    system.check_totals()
