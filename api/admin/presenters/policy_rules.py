"""The rules of a version of the policy in words, for its history."""

from collections.abc import Iterator

from flask_babel import LazyString, lazy_gettext
from flask_babel import gettext as _

from api.admin.presenters.formatting import format_number
from api.admin.presenters.plurals import ngettext
from shared.db.policy_models import PolicyVersion

PERIODS = {
    "day": lazy_gettext("Budget of a day"),
    "month": lazy_gettext("Budget of a month"),
}


def describe_rules(policy: PolicyVersion) -> Iterator[tuple[LazyString, str]]:
    """Yield the label and the value of each rule that is on."""
    if policy.max_audience is not None:
        yield lazy_gettext("Audience limit"), format_number(policy.max_audience)
    if policy.stop_when is not None:
        share = format_number(round(100 * policy.stop_when["refused_share"], 4))
        answers = format_number(policy.stop_when["min_answers"])
        text = _("from %(share)s %% on, after %(answers)s answers", share=share, answers=answers)
        yield lazy_gettext("Stop on refusals"), text
    for period, limit in (policy.budget or {}).items():
        amount = limit.get("amount")
        if amount is None:
            amount = _("SMS segments: %(n)s", n=format_number(limit["segments"]))
        yield PERIODS[period], amount
    if policy.launch_delay:
        delay = ngettext("%(num)s second", "%(num)s seconds", policy.launch_delay)
        yield lazy_gettext("Launch delay"), delay
    if policy.notify:
        yield lazy_gettext("Who is told"), ", ".join(policy.notify)
