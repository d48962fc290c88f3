"""The rules of the policy and of a mailing in words."""

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any, NamedTuple

from flask_babel import LazyString, lazy_gettext
from flask_babel import gettext as _

from api.admin.presenters.formatting import format_money, format_number
from api.admin.presenters.plurals import ngettext
from api.schemas.limits import Limits
from shared.db.policy_models import PolicyVersion
from shared.db.undelivered_mails import UndeliveredMails

PERIODS = {
    "day": lazy_gettext("Budget of a day"),
    "month": lazy_gettext("Budget of a month"),
}
SHARED_PERIODS = {
    "day": lazy_gettext("Shared budget of a day"),
    "month": lazy_gettext("Shared budget of a month"),
}
UNDELIVERED = {
    "waiting": lazy_gettext("wait for the mail server"),
    "in_doubt": lazy_gettext("perhaps delivered"),
    "given_up": lazy_gettext("given up after a day"),
    "refused": lazy_gettext("refused for some addresses"),
}


class MailingRule(NamedTuple):
    """A rule that applies to a mailing; `of_policy`: it is the policy's."""

    label: LazyString
    text: str
    of_policy: bool = False
    is_budget: bool = False


def describe_rules(policy: PolicyVersion) -> Iterator[tuple[LazyString, str]]:
    """Yield the label and the value of each rule that is on."""
    if policy.max_audience is not None:
        yield lazy_gettext("Audience limit"), format_number(policy.max_audience)
    if policy.stop_when is not None:
        yield lazy_gettext("Stop on refusals"), describe_stop_when(policy.stop_when)
    for period, limit in (policy.budget or {}).items():
        yield PERIODS[period], _describe_budget_limit(limit)
    if policy.launch_delay:
        delay = ngettext("%(num)s second", "%(num)s seconds", policy.launch_delay)
        yield lazy_gettext("Launch delay"), delay
    if policy.notify:
        yield lazy_gettext("Who is told"), ", ".join(policy.notify)


def describe_mailing_rules(own: Limits, policy: Limits) -> Iterator[MailingRule]:
    """Yield the rules that apply to a mailing: its own, and those of the policy."""
    limits = [
        (limit, of_policy)
        for limit, of_policy in ((own.max_audience, False), (policy.max_audience, True))
        if limit is not None
    ]
    if limits:
        limit, of_policy = min(limits)
        yield MailingRule(lazy_gettext("Audience limit"), format_number(limit), of_policy)
    rule = own.stop_when or policy.stop_when
    if rule is not None:
        label = lazy_gettext("Stop on refusals")
        yield MailingRule(label, describe_stop_when(rule), own.stop_when is None)
    for labels, budget, of_policy in (
        (PERIODS, own.budget, False),
        (SHARED_PERIODS, policy.budget, True),
    ):
        for period, each in (budget or {}).items():
            yield MailingRule(labels[period], _describe_budget_limit(each), of_policy, True)


def describe_stop_when(rule: Mapping[str, Any]) -> str:
    """Return a rule on refusals in words."""
    share = format_number(round(100 * rule["refused_share"], 4))
    answers = format_number(rule["min_answers"])
    return str(
        _(
            "from %(share)s %% on, once there are %(answers)s answers",
            share=share,
            answers=answers,
        )
    )


def describe_undelivered(mails: UndeliveredMails) -> list[str]:
    """Return the numbers of mails that were not delivered, by what became of them."""
    return [
        f"{UNDELIVERED[state]}: {format_number(n)}" for state, n in mails._asdict().items() if n
    ]


def _describe_budget_limit(limit: Mapping[str, Any]) -> str:
    amount = limit.get("amount")
    if amount is not None:
        return format_money(Decimal(amount))
    return str(_("SMS segments: %(n)s", n=format_number(limit["segments"])))
