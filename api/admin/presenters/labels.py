"""Labels in the reader's language for outcomes, reasons and actions, which are stored as codes."""

from typing import NamedTuple

from flask_babel import LazyString, lazy_gettext
from flask_babel import gettext as _

from api.mailings.action_rules import Action
from api.mailings.preview_result import WithheldReason
from shared.domain.statuses import PauseReason, Reason


class ActionTexts(NamedTuple):
    """The texts of an action: its button, its confirmation, and the message of its success."""

    label: LazyString
    question: LazyString
    explanation: LazyString
    success: LazyString


ACTION_TEXTS = {
    Action.START: ActionTexts(
        lazy_gettext("Start now"),
        lazy_gettext("Start this mailing now?"),
        lazy_gettext("Sending begins at once, without waiting for the planned start."),
        lazy_gettext("The mailing starts."),
    ),
    Action.PAUSE: ActionTexts(
        lazy_gettext("Pause"),
        lazy_gettext("Pause this mailing?"),
        lazy_gettext("Sending stops within a second. You can resume it until its end."),
        lazy_gettext("The mailing is paused."),
    ),
    Action.RESUME: ActionTexts(
        lazy_gettext("Resume"),
        lazy_gettext("Resume this mailing?"),
        lazy_gettext("It continues where it stopped. No recipient is messaged twice."),
        lazy_gettext("The mailing continues."),
    ),
    Action.RETRY: ActionTexts(
        lazy_gettext("Retry failed"),
        lazy_gettext("Retry the failed messages?"),
        lazy_gettext(
            "All messages that have failed are sent again, with their attempts counted anew."
        ),
        lazy_gettext("The failed messages are tried again."),
    ),
    Action.CANCEL: ActionTexts(
        lazy_gettext("Cancel mailing"),
        lazy_gettext("Cancel this mailing?"),
        lazy_gettext(
            "Nothing more is sent, and what is pending is cancelled. This cannot be undone."
        ),
        lazy_gettext("The mailing is cancelled."),
    ),
    Action.DELETE: ActionTexts(
        lazy_gettext("Delete"),
        lazy_gettext("Delete this mailing?"),
        lazy_gettext(
            "Its sending stops, and it leaves the lists and the statistics. This cannot be undone."
        ),
        lazy_gettext("The mailing is deleted."),
    ),
}

# Why an action is refused, where more can be said than that the mailing has changed.
CONFLICT_TEXTS: dict[str, LazyString] = {
    "audience_limit_exceeded": lazy_gettext(
        "It would still reach too many clients: raise the limit of the mailing or of the policy "
        "first."
    ),
    "budget_used_up": lazy_gettext(
        "The budget is still used up: raise that of the mailing or of the policy first, or wait "
        "for the next day or month."
    ),
    "end_before_launch": lazy_gettext(
        "With the launch delay of the policy it would start after its end: move the end first."
    ),
}
PAUSE_REASONS: dict[str, LazyString] = {
    PauseReason.MANUAL: lazy_gettext("paused by a person"),
    PauseReason.REFUSALS: lazy_gettext("too many refusals"),
    PauseReason.AUDIENCE_LIMIT: lazy_gettext("too many recipients"),
    PauseReason.BUDGET: lazy_gettext("budget used up"),
}
WITHHELD_REASONS = {
    WithheldReason.OPTED_OUT: lazy_gettext("opted out"),
    WithheldReason.UNKNOWN_TIME_ZONE: lazy_gettext("time zone not known"),
    WithheldReason.WINDOW: lazy_gettext("outside of the permitted hours until the end"),
    WithheldReason.MISSING_ATTRIBUTES: lazy_gettext("a value that the text needs is missing"),
    WithheldReason.UNFIT_TEXT: lazy_gettext("the text would be empty or too long"),
}
OUTCOMES: dict[str, LazyString] = {
    "accepted": lazy_gettext("Accepted by the provider"),
    "rejected": lazy_gettext("Refused by the provider"),
    "declined": lazy_gettext("Declined by the provider this time"),
    "throttled": lazy_gettext("The provider asked to wait"),
    "unauthorized": lazy_gettext("The provider does not accept our token"),
    "unavailable": lazy_gettext("The provider could not be reached"),
    "unknown": lazy_gettext("No clear answer: it may have arrived"),
    "not_sent": lazy_gettext("Not sent"),
    "opted_out": lazy_gettext("Opted out: not sent"),
}
REASONS: dict[str, LazyString] = {
    Reason.END: lazy_gettext("the mailing ended first"),
    Reason.WINDOW: lazy_gettext("the permitted hours did not begin before the end"),
    Reason.CLIENT_DELETED: lazy_gettext("the client was deleted"),
    Reason.OPTED_OUT: lazy_gettext("the client has opted out"),
    Reason.MAILING_CANCELLED: lazy_gettext("the mailing was cancelled"),
    Reason.MAILING_DELETED: lazy_gettext("the mailing was deleted"),
    Reason.REJECTED: lazy_gettext("refused by the provider"),
    Reason.ATTEMPTS: lazy_gettext("tried too often without success"),
    Reason.TIME_ZONE: lazy_gettext("the client's time zone is not known to the workers"),
    Reason.CLIENT_DATA: lazy_gettext("the client's data cannot be used in this text"),
    "the text is empty for this client": lazy_gettext("the text is empty for this client"),
    # How one request to the provider failed.
    "timeout": lazy_gettext("no answer in time"),
    "connection_refused": lazy_gettext("no connection"),
    "not_permitted": lazy_gettext("the permitted time had passed"),
    "open_files": lazy_gettext("our system permits no more connections"),
    "unreachable": lazy_gettext("no route to the provider"),
    "dns": lazy_gettext("the provider's name could not be resolved"),
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
    "provider_rate": lazy_gettext("not sent within the provider's rate limit"),
}
AUDIT_ACTIONS: dict[str, LazyString] = {
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
    "ended": lazy_gettext("ended"),
    "role_changed": lazy_gettext("role changed"),
    "stopped": lazy_gettext("stopped"),
    "undone": lazy_gettext("undone"),
}
# Why a session of the admin UI ended.
SESSION_ENDS: dict[str, LazyString] = {
    "signed_out": lazy_gettext("signed out"),
    "replaced": lazy_gettext("signed in again"),
    "admin": lazy_gettext("ended by an administrator"),
    "provider": lazy_gettext("ended by the sign-in service"),
    "role_removed": lazy_gettext("the role was removed"),
}
# The fields of audit entries.
FIELD_LABELS: dict[str, LazyString] = {
    "name": lazy_gettext("Name"),
    "text": lazy_gettext("Text"),
    "length": lazy_gettext("characters"),
    "version": lazy_gettext("version"),
    "start_at": lazy_gettext("Start"),
    "end_at": lazy_gettext("End"),
    "filter": lazy_gettext("Recipients"),
    "operator_codes": lazy_gettext("Operator codes"),
    "operator_code": lazy_gettext("Operator code"),
    "tags": lazy_gettext("Tags"),
    "tag": lazy_gettext("Tag"),
    "timezones": lazy_gettext("Time zones"),
    "timezone": lazy_gettext("Time zone"),
    "attributes": lazy_gettext("Attributes"),
    "exclude_mailing_ids": lazy_gettext("Excluded mailings"),
    "phones": lazy_gettext("Phones"),
    "phone": lazy_gettext("Phone"),
    "window": lazy_gettext("Permitted hours"),
    "rate_limit": lazy_gettext("Limit"),
    "status": lazy_gettext("Status"),
    "messages": lazy_gettext("Messages"),
    "role": lazy_gettext("Role"),
    "scope": lazy_gettext("Permissions"),
    "source": lazy_gettext("Source"),
    "day": lazy_gettext("Day"),
    "outcome": lazy_gettext("Outcome"),
    "why": lazy_gettext("Reason"),
    "person": lazy_gettext("Person"),
    "max_audience": lazy_gettext("Audience limit"),
    "stop_when": lazy_gettext("Stop on refusals"),
    "refused_share": lazy_gettext("Refused, in percent"),
    "min_answers": lazy_gettext("Answers, at least"),
    "budget": lazy_gettext("Budget"),
    "budget_day": lazy_gettext("Budget of a day"),
    "budget_month": lazy_gettext("Budget of a month"),
    "launch_delay": lazy_gettext("Launch delay"),
    "notify": lazy_gettext("Who is told"),
}
MISSING_ATTRIBUTE, TEXT_TOO_LONG = "missing attribute", "text too long"


def describe_reason(code: str | None) -> str:
    """Return why a message ended as it did, or how an attempt ended: `rejected: http_400`."""
    if not code:
        return ""
    known = REASONS.get(code)
    if known is not None:
        return str(known)
    first, _colon, rest = code.partition(": ")
    if first == MISSING_ATTRIBUTE:
        return str(_("the client lacks “%(name)s”", name=rest))
    if first == TEXT_TOO_LONG:
        return str(_("the text would be too long for this client"))
    if rest:
        return f"{REASONS[first]}: {describe_reason(rest)}" if first in REASONS else code
    kind, _under, number = code.partition("_")
    if kind == "http" and number.isdecimal():
        return f"HTTP {number}"
    if kind == "code" and number.removeprefix("-").isdecimal():
        return str(_("code %(n)s", n=number))
    return code
