"""What a mailing would be, before it is made: the API's preview, its warnings in words."""

from inspect import unwrap
from typing import Any

from flask_babel import gettext as _

from api.admin.presenters.recipients import CLIENTS
from api.db import fetch_all
from api.mailings.preview import preview_mailing
from api.mailings.schemas import NewMailing

preview_of = unwrap(preview_mailing)


def preview(body: NewMailing) -> dict[str, Any]:
    found: dict[str, Any] = preview_of(body)
    says = {
        "empty_audience": _("Nobody matches this filter at present."),
        "window_never_opens": _(
            "Nobody would get it: for none of them does the window open before the end."
        ),
        "window_excludes": _(
            "%(count)s of them will get nothing: where they are, the window does not open "
            "before the end.",
            count=found["never_in_window"],
        ),
        "ends_too_early": _(
            "At the present rate it will not be through before the end: what is left then expires."
        ),
        "missing_attributes": _(
            "%(count)s of them lack what the text needs (%(names)s) and get nothing; a default "
            "would reach them: %(example)s",
            count=found["lacking"],
            names=", ".join(each["value"] for each in found["missing_attributes"]),
            example="{name|dear client}",
        ),
        "unfit_texts": _("For some of them the text would be empty or too long: they get nothing."),
    }
    # What the text becomes, where it is another for each.
    shown = [each for each in found["examples"] if each["text"] != body.text][:3]
    phones = {
        row["id"]: row["phone"] for row in fetch_all(CLIENTS, ids=[e["client_id"] for e in shown])
    }
    found["shown"] = [{**each, "phone": phones.get(each["client_id"])} for each in shown]
    # That the start has passed is what “now” means.
    found["says"] = [
        says.get(each["code"], each["detail"])
        for each in found["warnings"]
        if each["code"] != "starts_at_once"
    ]
    if found["text"]["segments"] > 3:
        long = _(
            "The text takes %(count)s segments for each recipient.", count=found["text"]["segments"]
        )
        found["says"].append(long)
    return found
