"""A test send from the form of a mailing: the result of each message, or why nothing was sent."""

from typing import Any, NamedTuple

from flask_babel import gettext as _
from pydantic import ValidationError

from api.actor import current_actor
from api.admin.forms.field_errors import errors_from_schema
from api.admin.forms.text_fields import read_phones
from api.admin.presenters.plurals import ngettext
from api.db import db
from api.errors import InvalidFields, RateLimited, Unavailable
from api.mailings import test_sends
from api.mailings.preview_schemas import NewTestSend


class TestOutcome(NamedTuple):
    """The results of a test send by phone, or the problem that prevented it."""

    results: list[dict[str, Any]]
    problem: str | None


def send_test(text: str, phones: str) -> TestOutcome:
    """Send a text to phones, given as a person writes them."""
    try:
        return TestOutcome(_send(text, phones), None)
    except _InvalidTest as error:
        problem = str(error)
    except ValidationError as error:
        problem = next(iter(errors_from_schema(error).values()))
    except InvalidFields:
        problem = _("This exceeds the limit of test messages. Enter fewer phones.")
    except RateLimited as error:
        db.session.rollback()
        problem = ngettext(
            "Enough test messages for this minute. Try again in %(num)s second.",
            "Enough test messages for this minute. Try again in %(num)s seconds.",
            error.seconds,
        )
    except test_sends.Unanswered:
        problem = _("No answer has come in time: some of it may have been sent.")
    except Unavailable:
        problem = _("No worker took the test: nothing was sent. Try again in a moment.")
    return TestOutcome([], problem)


class _InvalidTest(Exception):
    """The form lacks a text or phones; the message says what is missing."""


def _send(text: str, written_phones: str) -> list[dict[str, Any]]:
    phones, problem = read_phones(written_phones)
    if problem is not None:
        raise _InvalidTest(problem)
    if not text:
        raise _InvalidTest(_("Write the text first."))
    if not phones:
        raise _InvalidTest(_("Enter a phone to send the test to, for example your own."))
    if len(phones) > test_sends.MAX_PHONES:
        raise _InvalidTest(_("Enter at most %(n)s phones.", n=test_sends.MAX_PHONES))
    body = NewTestSend(text=text, phones=phones)
    return test_sends.send_test(body.text, list(map(int, body.phones)), current_actor()).results
