"""Commands for the daily report: flask --app api report send | preview."""

from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import click
from flask.cli import AppGroup

from api.db import database_now, transaction
from shared.config.checks import parse_mail_addresses
from shared.config.settings import ReportSettings, load_settings
from shared.report.daily import DayNotOver, read_figures, send_report, send_report_copy
from shared.report.mail import NotSent, SentInDoubt
from shared.report.rendering import render_html

report_commands = AppGroup("report", help="Look at the daily report, or send it.")

OUTCOME_TEXTS = {
    "sent": "sent",
    "failed": "the mail server did not take it; it is tried again by itself (see the log)",
    "in doubt": "the connection broke while the mail server had it: it may have been sent",
    "not due": "nothing sent: this day's report is sent already, or is just being sent; "
    "--to sends a copy",
}


def _parse_addresses(_: click.Context, __: click.Parameter, value: str | None) -> list[str]:
    try:
        return parse_mail_addresses(value or "")
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _parse_day(_: click.Context, __: click.Parameter, value: datetime | None) -> date | None:
    return value.date() if value is not None else None


day_option = click.option(
    "--day",
    type=click.DateTime(["%Y-%m-%d"]),
    callback=_parse_day,
    help="The local day in REPORT_TIMEZONE; yesterday unless given.",
)


@report_commands.command("send")
@day_option
@click.option("--to", callback=_parse_addresses, help="Send a copy to these addresses instead.")
def send_report_command(day: date | None, to: list[str]) -> None:
    """Send a day's report to REPORT_RECIPIENTS, unless they have it; or a copy to others."""
    settings = load_settings(ReportSettings)
    day = day or _get_yesterday(settings)
    if settings.smtp_url is None:
        raise click.ClickException("SMTP_URL is not set")
    if to:
        _send_copy(settings, day, to)
        return
    if not settings.report_recipients:
        raise click.ClickException("REPORT_RECIPIENTS is not set: set it, or give --to")
    try:
        outcome = send_report(transaction, settings, day, requested=True)
    except DayNotOver:
        raise click.ClickException(f"{day} is not over; --to sends what there is so far") from None
    click.echo(f"report of {day}: {OUTCOME_TEXTS[outcome]}")
    if outcome != "sent":
        raise SystemExit(1)


@report_commands.command("preview")
@day_option
def preview_report(day: date | None) -> None:
    """Write a day's report to standard output, as HTML."""
    settings = load_settings(ReportSettings)
    figures = read_figures(transaction, settings, day or _get_yesterday(settings))
    click.echo(render_html(figures, settings.report_language, settings.public_url), nl=False)


def _send_copy(settings: ReportSettings, day: date, to: list[str]) -> None:
    try:
        refused = send_report_copy(transaction, settings, day, to)
    except NotSent as error:
        raise click.ClickException(f"not sent: {error}") from None
    except SentInDoubt as error:
        raise click.ClickException(f"perhaps sent: {error}") from None
    for address, why in refused.items():
        click.echo(f"{address} was refused: {why}", err=True)
    click.echo(f"report of {day}: a copy was sent to {len(to) - len(refused)}")
    if refused:
        raise SystemExit(1)


def _get_yesterday(settings: ReportSettings) -> date:
    return database_now().astimezone(ZoneInfo(settings.report_timezone)).date() - timedelta(days=1)
