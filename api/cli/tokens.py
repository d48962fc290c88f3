"""Commands for API tokens: flask --app api tokens create | list | revoke."""

import re
from datetime import datetime, timedelta

import click
from flask.cli import AppGroup

from api.actor import COMMAND
from api.db import database_now
from api.errors import ServiceError
from api.schemas.fields import TOKEN_NAME, parse_instant
from api.schemas.responses import format_instant
from api.tokens import service
from shared.domain.scopes import Scope

token_commands = AppGroup("tokens", help="Make, list and revoke API tokens.")

LIFETIME = re.compile(r"([1-9][0-9]{0,4})([dh])")
TABLE_ROW = "{:>6}  {:<24}  {:<6}  {:<14}  {:<20}  {:<20}  {}"


def _parse_expiry(
    _: click.Context, __: click.Parameter, value: str | None
) -> datetime | timedelta | None:
    """Parse an instant, a date (its beginning in UTC) or a time from now."""
    if value is None:
        return None
    if lifetime := LIFETIME.fullmatch(value):
        hours = int(lifetime[1]) * (24 if lifetime[2] == "d" else 1)
        return timedelta(hours=hours)
    try:
        is_date = re.fullmatch(r"\d{4}-\d{2}-\d{2}", value)
        return parse_instant(f"{value}T00:00:00Z" if is_date else value)
    except ValueError as error:
        raise click.BadParameter(
            f"{error}; or a date such as 2027-01-31, or a time from now such as 90d or 12h"
        ) from None


@token_commands.command("create")
@click.argument("name")
@click.option(
    "--scope", type=click.Choice([str(s) for s in Scope]), required=True, help="What it may do."
)
@click.option(
    "--expires",
    callback=_parse_expiry,
    help="When it ends: 90d, 12h, 2027-01-31 or an RFC 3339 instant. Without it: never.",
)
def create_token(name: str, scope: str, expires: datetime | timedelta | None) -> None:
    """Make a token called NAME and print its secret, once."""
    try:
        TOKEN_NAME.check(name)
        if isinstance(expires, timedelta):
            expires = database_now() + expires
        token, secret = service.create_token(name, Scope(scope), expires, COMMAND)
    except (ServiceError, ValueError) as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"token {token.id} ({token.scope}); its secret is not shown again:", err=True)
    click.echo(secret)


@token_commands.command("list")
def list_tokens() -> None:
    """List the tokens with their state and last use."""
    now = database_now()
    click.echo(TABLE_ROW.format("id", "name", "scope", "prefix", "expires", "last used", "state"))
    for token in service.list_tokens():
        expired = token.expires_at is not None and token.expires_at <= now
        state = "revoked" if token.revoked_at else "expired" if expired else "valid"
        times = (_format_seconds(token.expires_at), _format_seconds(token.last_used_at))
        click.echo(TABLE_ROW.format(token.id, token.name, token.scope, token.prefix, *times, state))


@token_commands.command("revoke")
@click.argument("name")
def revoke_token(name: str) -> None:
    """Revoke the token called NAME; it stops working within 5 seconds."""
    try:
        token = service.revoke_token_by_name(name, COMMAND)
    except ServiceError as error:
        raise click.ClickException(error.detail) from None
    click.echo(f"token {token.id} is revoked", err=True)


def _format_seconds(at: datetime | None) -> str:
    text = format_instant(at)
    return "never" if text is None else f"{text[:19]}Z"
