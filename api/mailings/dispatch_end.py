"""When dispatch of a mailing stops: END_MARGIN before its end."""

from datetime import datetime, timedelta

from flask import current_app


def end_margin() -> timedelta:
    """Return the time before a mailing's end in which nothing is dispatched."""
    margin: timedelta = current_app.config["END_MARGIN"]
    return margin


def dispatch_end(end_at: datetime) -> datetime:
    """Return the instant from which nothing of a mailing with this end is dispatched."""
    return end_at - end_margin()


def describe_margin() -> str:
    """Return what to say of the margin after `the end`; empty without a margin."""
    margin = end_margin()
    if not margin:
        return ""
    return f" minus END_MARGIN ({margin.total_seconds():g} s)"
