"""The states of a mailing in which each action is possible, for the REST API and the admin UI."""

from collections.abc import Collection
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from shared.domain.error_texts import ErrorText, error_text
from shared.domain.statuses import MailingStatus

SCHEDULED = MailingStatus.SCHEDULED
RUNNING = MailingStatus.RUNNING
PAUSED = MailingStatus.PAUSED
FINISHED = MailingStatus.FINISHED
CANCELLED = MailingStatus.CANCELLED


class Action(StrEnum):
    """What a person or a program can do to a mailing; the values are part of the UI's URLs."""

    START = "start"
    PAUSE = "pause"
    RESUME = "resume"
    RETRY = "retry"
    EDIT = "edit"
    CANCEL = "cancel"
    DELETE = "delete"


class ActionRule(NamedTuple):
    """The statuses in which an action changes a mailing, and those in which it is already done."""

    participle: ErrorText
    possible: Collection[str]
    done: Collection[str] = ()
    before_end: bool = False


RULES = {
    Action.START: ActionRule(error_text("started"), (SCHEDULED,), done=(RUNNING,), before_end=True),
    Action.PAUSE: ActionRule(error_text("paused"), (SCHEDULED, RUNNING), done=(PAUSED,)),
    Action.RESUME: ActionRule(
        error_text("resumed"), (PAUSED,), done=(SCHEDULED, RUNNING), before_end=True
    ),
    Action.RETRY: ActionRule(error_text("retried"), (RUNNING, PAUSED, FINISHED), before_end=True),
    Action.EDIT: ActionRule(error_text("changed"), (SCHEDULED, RUNNING, PAUSED)),
    Action.CANCEL: ActionRule(
        error_text("cancelled"), (SCHEDULED, RUNNING, PAUSED), done=(CANCELLED,)
    ),
    Action.DELETE: ActionRule(error_text("deleted"), tuple(MailingStatus)),
}


def possible_actions(
    status: str, dispatch_end: datetime, failed_messages: int, now: datetime
) -> list[Action]:
    """Return the actions that would change a mailing, in the order in which the UI offers them."""
    return [
        action
        for action, rule in RULES.items()
        if status in rule.possible
        and (now < dispatch_end or not rule.before_end)
        and (failed_messages or action != Action.RETRY)
    ]
