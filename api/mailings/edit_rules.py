"""Rules of a new or changed mailing: its times, and what its state lets change."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from api.errors import Conflict, FieldError, InvalidFields
from api.mailings.action_rules import RULES, Action
from api.mailings.mailing_checks import check_excluded, check_margin, check_times
from api.schemas.responses import format_instant
from shared.db.models import Mailing
from shared.domain.error_texts import error_text

FIXED_BY_LAUNCH = ("start_at", "filter")
# Several clocks compare the end with the present. Within this distance they might disagree.
MIN_END_NOTICE = timedelta(seconds=3)


def delay_launch(mailing: Mailing, now: datetime, delay: int) -> None:
    """Set the instant before which the policy's launch delay does not let a mailing be launched."""
    mailing.launch_not_before = now + timedelta(seconds=delay) if delay else None


def check_end_after_launch(launch_at: datetime, end_at: datetime) -> None:
    if launch_at >= end_at:
        raise InvalidFields(
            FieldError(
                error_text(
                    "must be later than %(launch_at)s, when the policy's launch delay lets the "
                    "mailing start",
                    launch_at=format_instant(launch_at),
                ),
                "end_before_launch",
                "/end_at",
            )
        )


def check_change(
    mailing: Mailing, columns: Mapping[str, Any], changed: Sequence[str], now: datetime
) -> None:
    if columns and mailing.status not in RULES[Action.EDIT].possible:
        raise Conflict(
            error_text(
                "The mailing is %(status)s and cannot change any more.", status=mailing.status
            ),
            "mailing_ended",
        )
    fixed = [name for name in FIXED_BY_LAUNCH if name in changed]
    if fixed and mailing.started_at is not None:
        raise Conflict(
            error_text(
                "%(fields)s cannot change any more: the mailing was launched, "
                "and its audience is chosen.",
                fields=fixed[0]
                if len(fixed) == 1
                else error_text("%(first)s and %(second)s", first=fixed[0], second=fixed[1]),
            ),
            "fixed_by_launch",
        )
    if "max_audience" in changed and mailing.audience_complete:
        raise Conflict(
            error_text("max_audience cannot change any more: the whole audience is counted."),
            "fixed_by_launch",
        )
    start_at = columns.get("start_at", mailing.start_at)
    end_at = columns.get("end_at", mailing.end_at)
    check_times(start_at, end_at)
    if "end_at" in changed and end_at < now + MIN_END_NOTICE:
        raise InvalidFields(
            FieldError(
                error_text("must be at least 3 seconds ahead; to stop now, cancel"),
                "too_soon",
                "/end_at",
            )
        )
    if "end_at" in changed or "start_at" in changed:
        launch_at = start_at
        if mailing.started_at is None:
            launch_at = max(start_at, mailing.launch_not_before or start_at)
            check_end_after_launch(launch_at, end_at)
        check_margin(max(launch_at, now), end_at)
    if "filter" in changed:
        check_excluded(columns["exclude_mailing_ids"])
