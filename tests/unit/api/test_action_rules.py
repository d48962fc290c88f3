"""The table of actions: which of them the admin UI offers for a mailing."""

from datetime import UTC, datetime, timedelta

import pytest

from api.mailings.action_rules import possible_actions

NOW = datetime(2026, 12, 1, 9, tzinfo=UTC)


@pytest.mark.parametrize(
    ("status", "failed", "before_end", "after_end"),
    [
        ("scheduled", 0, "start pause edit cancel delete", "pause edit cancel delete"),
        ("running", 0, "pause edit cancel delete", "pause edit cancel delete"),
        ("running", 3, "pause retry edit cancel delete", "pause edit cancel delete"),
        ("paused", 0, "resume edit cancel delete", "edit cancel delete"),
        ("paused", 3, "resume retry edit cancel delete", "edit cancel delete"),
        ("finished", 0, "delete", "delete"),
        ("finished", 3, "retry delete", "delete"),
        ("cancelled", 3, "delete", "delete"),
    ],
)
def test_possible_actions_depend_on_status_end_and_failures(
    status: str, failed: int, before_end: str, after_end: str
) -> None:
    end_at = NOW + timedelta(hours=1)
    assert " ".join(possible_actions(status, end_at, failed, NOW)) == before_end
    assert " ".join(possible_actions(status, end_at, failed, end_at)) == after_end
