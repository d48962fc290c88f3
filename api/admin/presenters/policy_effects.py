"""What the policy would do to a scheduled mailing, in words."""

from collections.abc import Iterator
from typing import NamedTuple

from flask_babel import LazyString, lazy_gettext
from flask_babel import gettext as _

from api.admin.presenters.formatting import format_number
from api.admin.presenters.policy_rules import describe_stop_when
from api.policy.effects import MailingEffect
from shared.db.models import Mailing

SHORTAGES: dict[tuple[bool, str], LazyString] = {
    (False, "day"): lazy_gettext(
        "pauses: its own budget of the day has %(left)s SMS segments left for it"
    ),
    (False, "month"): lazy_gettext(
        "pauses: its own budget of the month has %(left)s SMS segments left for it"
    ),
    (True, "day"): lazy_gettext(
        "pauses: the budget of the day has %(left)s SMS segments left for it"
    ),
    (True, "month"): lazy_gettext(
        "pauses: the budget of the month has %(left)s SMS segments left for it"
    ),
}


class EffectLine(NamedTuple):
    """One line of what happens to a mailing; `pauses`: it does not reach all of its clients."""

    text: str
    pauses: bool = False


class ShownEffect(NamedTuple):
    """A scheduled mailing, the number of its clients, and what happens to it."""

    mailing: Mailing
    clients: str
    lines: list[EffectLine]


def describe_effect(effect: MailingEffect) -> ShownEffect:
    """Return an effect as the page of the policy shows it."""
    clients = "—" if effect.clients is None else format_number(effect.clients)
    if effect.more and effect.clients is not None:
        clients = _("more than %(n)s", n=format_number(effect.clients - 1))
    return ShownEffect(effect.mailing, clients, list(_describe_lines(effect)))


def _describe_lines(effect: MailingEffect) -> Iterator[EffectLine]:
    if effect.exceeds_audience:
        limit = format_number(effect.max_audience)
        yield EffectLine(_("pauses, nothing is sent: at most %(n)s clients", n=limit), True)
    elif effect.shortage is not None:
        text = SHORTAGES[effect.shortage.of_policy, effect.shortage.period]
        yield EffectLine(str(text) % {"left": format_number(effect.shortage.left)}, True)
    else:
        yield EffectLine(_("is sent"))
    if effect.stop_when is None:
        return
    rule = describe_stop_when(effect.stop_when)
    if effect.mailing.stop_when is not None:
        yield EffectLine(_("has its own rule on refusals: %(rule)s", rule=rule))
    else:
        yield EffectLine(_("pauses on refusals: %(rule)s", rule=rule))
    if effect.never_judged:
        yield EffectLine(_("has too few clients for that many answers: refusals never pause it"))
