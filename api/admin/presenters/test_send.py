"""A test send from the form of a mailing: what became of each message, or why nothing was sent."""

from inspect import unwrap
from typing import Any, NamedTuple

from flask_babel import gettext as _
from flask_babel import ngettext
from pydantic import ValidationError

from api.admin.forms.field_errors import from_schema
from api.admin.forms.text_fields import read_phones
from api.db import db
from api.errors import InvalidFields, RateLimited, Unavailable
from api.mailings.test_sends import MOST_PHONES, NewTestSend, Unanswered
from api.mailings.test_sends import send_test as api_send_test

send = unwrap(api_send_test)


class Tried(NamedTuple):
    """What a test has come to: its results, or the one problem that it met."""

    results: list[dict[str, Any]]
    problem: str | None


def try_text(text: str, phones: str) -> Tried:
    """Send this text to these phones, as people write them."""
    read, problem = read_phones(phones)
    if problem is not None:
        return _nothing(problem)
    if not text:
        return _nothing(_("Write the text first."))
    if not read:
        return _nothing(_("Give a phone to send the test to, for example your own."))
    if len(read) > MOST_PHONES:
        return _nothing(_("Give at most %(n)s phones.", n=MOST_PHONES))
    try:
        answer = send(NewTestSend.model_validate({"text": text, "phones": read}))
    except ValidationError as error:
        return _nothing(next(iter(from_schema(error).values())))
    except InvalidFields:
        return _nothing(_("So many test messages are never permitted. Give fewer phones."))
    except RateLimited as error:
        db.session.rollback()
        seconds = error.seconds
        return _nothing(
            ngettext(
                "Enough test messages for this minute. Try again in %(num)s second.",
                "Enough test messages for this minute. Try again in %(num)s seconds.",
                seconds,
            )
        )
    except Unanswered:
        return _nothing(_("No answer has come in time: some of it may have been sent."))
    except Unavailable:
        return _nothing(_("No worker took the test: nothing was sent. Try again in a moment."))
    return Tried(answer["items"], None)


def _nothing(problem: str) -> Tried:
    return Tried([], problem)
