"""The preview of a mailing for the admin UI, with its warnings in the reader's language."""

from typing import Any

from flask_babel import gettext as _

from api.actor import current_actor
from api.admin.presenters.recipients import CLIENTS
from api.db import fetch_all
from api.mailings.preview import Preview, preview_mailing
from api.mailings.schemas import NewMailing
from shared.domain.segments import measure_segments

MAX_EXAMPLES = 3
# A text of more segments than this gets a warning.
MANY_SEGMENTS = 3


def preview_for_template(body: NewMailing) -> dict[str, Any]:
    """Preview a mailing; return the variables of `_preview_facts.html`.

    Raise InvalidFields or RateLimited.
    """
    preview = preview_mailing(body, current_actor())
    sms = measure_segments(preview.longest_text)
    # Examples are shown only where personalisation changes the text.
    examples = [each for each in preview.texts.examples if each.text != body.text][:MAX_EXAMPLES]
    clients = fetch_all(CLIENTS, ids=[example.client_id for example in examples])
    phones = {row["id"]: row["phone"] for row in clients}
    return {
        "preview": preview,
        "sms": sms,
        "warnings": _translate_warnings(preview, sms.segments),
        "examples": [(phones.get(example.client_id), example.text) for example in examples],
    }


def _translate_warnings(preview: Preview, segments: int) -> list[str]:
    messages = {
        "empty_audience": _("No client matches this filter at present."),
        "window_never_opens": _(
            "No recipient would get it: for none of them does the window open before the end."
        ),
        "window_excludes": _(
            "%(count)s of them will get nothing: where they are, the window does not open "
            "before the end.",
            count=preview.never_in_window,
        ),
        "unknown_timezones": _(
            "The time zone of %(count)s of them is not known: their messages will fail.",
            count=preview.in_unknown_zones,
        ),
        "ends_too_early": _(
            "At the present rate it will not finish before the end: what is left then expires."
        ),
        "missing_attributes": _(
            "%(count)s of them lack what the text needs (%(names)s) and get nothing; a default "
            "would reach them: %(example)s",
            count=preview.texts.lacking,
            names=", ".join(share.value for share in preview.missing_attributes),
            example="{name|dear client}",
        ),
        "unfit_texts": _("For some of them the text would be empty or too long: they get nothing."),
    }
    # A start in the past needs no warning: that is what “now” means.
    warnings = [
        messages.get(warning.code, warning.detail)
        for warning in preview.warnings
        if warning.code != "starts_at_once"
    ]
    if segments > MANY_SEGMENTS:
        warnings.append(_("The text takes %(count)s segments for each recipient.", count=segments))
    return warnings
