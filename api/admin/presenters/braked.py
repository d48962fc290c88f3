"""What the admin UI says of a mailing that the brake has paused: the most frequent refusal."""

from collections.abc import Sequence

from flask_babel import gettext as _
from flask_babel import ngettext

from api.admin.presenters.formatting import format_number
from api.admin.presenters.labels import describe_reason
from api.db import session_cursor
from shared.db.refusals import Refusal, read_refusals


def describe_braked(mailing_ids: Sequence[int]) -> dict[int, str]:
    """Return by mailing what the provider has answered most often, and what to do."""
    refusals = read_refusals(session_cursor(), mailing_ids, 1)
    return {mailing_id: _describe(refusals[mailing_id]) for mailing_id in mailing_ids}


def _describe(refusals: Sequence[Refusal]) -> str:
    advice = str(_("Find the cause, then resume it: the answers are counted anew."))
    if not refusals:
        return advice
    most = refusals[0]
    answers = ngettext(
        "%(n)s answer: %(reason)s.",
        "%(n)s answers: %(reason)s.",
        most.count,
        n=format_number(most.count),
        reason=describe_reason(most.reason),
    )
    example = _("For example: %(answer)s", answer=most.example) if most.example else ""
    return " ".join(filter(None, (answers, example, advice)))
