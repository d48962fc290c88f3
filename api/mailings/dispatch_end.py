"""When dispatch of a mailing stops: END_MARGIN before its end."""

from datetime import datetime, timedelta

from flask import current_app

from shared.domain.error_texts import ErrorText, error_text


def end_margin() -> timedelta:
    """Return the time before a mailing's end in which nothing is dispatched."""
    margin: timedelta = current_app.config["END_MARGIN"]
    return margin


def dispatch_end(end_at: datetime) -> datetime:
    """Return the instant from which nothing of a mailing with this end is dispatched."""
    return end_at - end_margin()


def describe_margin() -> ErrorText | str:
    """Return what to say of the margin after `the end`; empty without a margin."""
    margin = end_margin()
    if not margin:
        return ""
    seconds = f"{margin.total_seconds():g}"
    return error_text(" minus END_MARGIN (%(seconds)s s)", seconds=seconds)
