"""The preview of a mailing for the admin UI: who will get it, who will not, and warnings."""

from typing import Any, NamedTuple

from flask_babel import gettext as _

from api.actor import current_actor
from api.admin.presenters.formatting import format_number
from api.admin.presenters.labels import WITHHELD_REASONS
from api.admin.presenters.policy_rules import PERIODS, SHARED_PERIODS
from api.admin.presenters.recipients import CLIENTS
from api.admin.presenters.text_cost import describe_finding
from api.db import fetch_all
from api.mailings.preview import preview_mailing
from api.mailings.preview_limits import ExceededLimit
from api.mailings.preview_result import Preview, WithheldReason
from api.mailings.schemas import NewMailing
from shared.domain.segments import measure_segments

MAX_EXAMPLES = 3
# A text of more segments than this gets a warning.
MANY_SEGMENTS = 3


class WithheldLine(NamedTuple):
    """How many will not get a mailing, why, and what would reach them."""

    label: str
    clients: int
    hint: str


def preview_for_template(body: NewMailing, launched_id: int | None = None) -> dict[str, Any]:
    """Preview a mailing; return the variables of `_preview_facts.html`.

    With `launched_id`, of those that this mailing has not sent to yet. Raise InvalidFields or
    RateLimited.
    """
    preview = preview_mailing(body, current_actor(), launched_id)
    sms = measure_segments(preview.longest_text)
    # Examples are shown only where personalisation changes the text.
    examples = [each for each in preview.texts.examples if each.text != body.text][:MAX_EXAMPLES]
    clients = fetch_all(CLIENTS, ids=[example.client_id for example in examples])
    phones = {row["id"]: row["phone"] for row in clients}
    return {
        "preview": preview,
        "sms": sms,
        "withheld": [_describe_withheld(preview, *each) for each in preview.withheld],
        "warnings": _find_warnings(preview, sms.segments),
        "examples": [(phones.get(example.client_id), example.text) for example in examples],
    }


def _describe_withheld(preview: Preview, reason: WithheldReason, clients: int) -> WithheldLine:
    hint = ""
    if reason == WithheldReason.MISSING_ATTRIBUTES:
        names = ", ".join(share.value for share in preview.missing_attributes)
        hint = _(
            "The text needs %(names)s. A default would reach them: %(example)s",
            names=names,
            example="{name|dear client}",
        )
    return WithheldLine(str(WITHHELD_REASONS[reason]), clients, hint)


def _describe_exceeded(limit: ExceededLimit) -> str:
    needed, permitted = format_number(limit.needed), format_number(limit.permitted)
    if limit.period is None:
        return str(
            _(
                "It would reach %(needed)s clients, and %(permitted)s are permitted: it would "
                "pause and send nothing.",
                needed=needed,
                permitted=permitted,
            )
        )
    labels = SHARED_PERIODS if limit.of_policy else PERIODS
    return str(
        _(
            "%(budget)s: it needs %(needed)s SMS segments, and %(permitted)s are left. It would "
            "pause when they are used up.",
            budget=labels[limit.period],
            needed=needed,
            permitted=permitted,
        )
    )


def _find_warnings(preview: Preview, segments: int) -> list[str]:
    warnings = []
    if not preview.audience:
        warnings.append(_("No client matches this filter at present."))
    elif not preview.recipients:
        warnings.append(_("No recipient would get it."))
    if preview.expected_unsent:
        warnings.append(
            _(
                "At the present rate it will not finish before the end: about %(count)s of them "
                "would expire.",
                count=format_number(preview.expected_unsent),
            )
        )
    warnings += map(_describe_exceeded, preview.exceeded)
    warnings += map(describe_finding, preview.findings)
    if segments > MANY_SEGMENTS:
        warnings.append(_("The text takes %(count)s segments for each recipient.", count=segments))
    return warnings
