"""Rules of a mailing's times and filter that involve several fields, settings or other mailings."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import select

from api.db import db
from api.errors import FieldError, InvalidFields
from api.mailings.dispatch_end import dispatch_end, end_margin
from shared.db.models import Mailing
from shared.domain.error_texts import error_text


def check_times(start_at: datetime, end_at: datetime) -> None:
    if start_at >= end_at:
        raise InvalidFields(
            FieldError(error_text("must be later than start_at"), "end_before_start", "/end_at")
        )


def check_margin(start_at: datetime, end_at: datetime) -> None:
    """Raise InvalidFields if nothing could be dispatched between these instants."""
    if dispatch_end(end_at) <= start_at:
        seconds = f"{end_margin().total_seconds():g}"
        raise InvalidFields(
            FieldError(
                error_text(
                    "must be more than %(seconds)s seconds after the start, and after now: nothing "
                    "is sent in the last %(seconds)s seconds of a mailing (END_MARGIN)",
                    seconds=seconds,
                ),
                "within_end_margin",
                "/end_at",
            )
        )


def check_excluded(mailing_ids: Sequence[int]) -> None:
    """Raise InvalidFields for unknown ids in `exclude_mailing_ids`."""
    if not mailing_ids:
        return
    query = select(Mailing.id).where(Mailing.id.in_(mailing_ids), Mailing.deleted_at.is_(None))
    known = set(db.session.scalars(query))
    errors = [
        FieldError(
            error_text("there is no such mailing"),
            "unknown",
            f"/filter/exclude_mailing_ids/{index}",
        )
        for index, mailing_id in enumerate(mailing_ids)
        if mailing_id not in known
    ]
    if errors:
        raise InvalidFields(*errors)
