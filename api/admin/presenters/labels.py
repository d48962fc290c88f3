"""Outcomes, reasons and actions in words: what the books and the logs keep as codes."""

from flask_babel import LazyString, lazy_gettext
from flask_babel import gettext as _

from shared.domain.statuses import Reason

OUTCOMES: dict[str, LazyString] = {
    "accepted": lazy_gettext("Accepted by the provider"),
    "rejected": lazy_gettext("Refused by the provider"),
    "declined": lazy_gettext("Not taken by the provider this time"),
    "throttled": lazy_gettext("The provider asked to wait"),
    "unauthorized": lazy_gettext("The provider does not accept our token"),
    "unavailable": lazy_gettext("The provider could not be reached"),
    "unknown": lazy_gettext("No clear answer: it may have arrived"),
    "not_sent": lazy_gettext("Not sent"),
    "opted_out": lazy_gettext("Opted out: not sent"),
}
ENDS: dict[str, LazyString] = {
    Reason.END: lazy_gettext("the mailing ended first"),
    Reason.WINDOW: lazy_gettext("the window never opened before the end"),
    Reason.CLIENT_DELETED: lazy_gettext("the client was deleted"),
    Reason.OPTED_OUT: lazy_gettext("the client has opted out"),
    Reason.MAILING_CANCELLED: lazy_gettext("the mailing was cancelled"),
    Reason.MAILING_DELETED: lazy_gettext("the mailing was deleted"),
    Reason.REJECTED: lazy_gettext("refused by the provider"),
    Reason.ATTEMPTS: lazy_gettext("tried too often without success"),
    "the text is empty for this client": lazy_gettext("the text is empty for this client"),
    # What one exchange with the provider came to.
    "timeout": lazy_gettext("no answer in time"),
    "connection_refused": lazy_gettext("no connection"),
    "not_permitted": lazy_gettext("its time had passed"),
    "unreachable": lazy_gettext("no way to the provider"),
    "dns": lazy_gettext("the provider's name is not known"),
    "tls": lazy_gettext("no secure connection"),
    "reset": lazy_gettext("the connection broke"),
    "truncated": lazy_gettext("the answer broke off"),
    "too_long": lazy_gettext("the answer was too long"),
    "redirect": lazy_gettext("the provider pointed elsewhere"),
    "not_http": lazy_gettext("the answer was not HTTP"),
    "not_json": lazy_gettext("the answer was not readable"),
    "not_object": lazy_gettext("the answer was not readable"),
    "code_missing": lazy_gettext("the answer held no code"),
    "code_not_integer": lazy_gettext("the answer held no code"),
    "provider_rate": lazy_gettext("no turn came within the provider's rate"),
}
ACTIONS: dict[str, LazyString] = {
    "created": lazy_gettext("created"),
    "updated": lazy_gettext("changed"),
    "deleted": lazy_gettext("deleted"),
    "started": lazy_gettext("started"),
    "paused": lazy_gettext("paused"),
    "resumed": lazy_gettext("resumed"),
    "cancelled": lazy_gettext("cancelled"),
    "retry_requested": lazy_gettext("tried again"),
    "received": lazy_gettext("received"),
    "added": lazy_gettext("added"),
    "removed": lazy_gettext("removed"),
    "revoked": lazy_gettext("revoked"),
    "sent": lazy_gettext("sent"),
    "signed_in": lazy_gettext("signed in"),
}
MISSING, TOO_LONG = "missing attribute", "text too long"


def reason(code: str | None) -> str:
    """Why a message ended as it did, or what became of one attempt: `rejected: http_400`."""
    if not code:
        return ""
    known = ENDS.get(code)
    if known is not None:
        return str(known)
    first, _colon, rest = code.partition(": ")
    if first == MISSING:
        return str(_("the client lacks “%(name)s”", name=rest))
    if first == TOO_LONG:
        return str(_("the text would be too long for this client"))
    if rest:
        return f"{ENDS[first]}: {reason(rest)}" if first in ENDS else code
    kind, _under, number = code.partition("_")
    if kind == "http" and number.isdecimal():
        return f"HTTP {number}"
    if kind == "code" and number.removeprefix("-").isdecimal():
        return str(_("code %(n)s", n=number))
    return code
