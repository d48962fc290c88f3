"""Commands for API tokens: flask --app api tokens create | list | revoke."""

import re
from datetime import UTC, datetime, timedelta

import click
from flask.cli import AppGroup
from sqlalchemy import select

from api.actor import COMMAND
from api.db import database_now, db
from api.errors import ServiceError
from api.schemas.fields import TOKEN_NAME, read_instant
from api.schemas.responses import format_instant
from api.tokens.routes import issue, revoke
from shared.db.auth_models import ApiToken
from shared.domain.scopes import Scope

token_commands = AppGroup("tokens", help="Make, list and revoke API tokens.")

LIFE = re.compile(r"([1-9][0-9]{0,4})([dh])")
ROW = "{:>6}  {:<24}  {:<6}  {:<14}  {:<20}  {:<20}  {}"


def _read_end(_: click.Context, __: click.Parameter, given: str | None) -> datetime | None:
    """An instant, a date (its beginning in UTC), or for how long from now."""
    if given is None:
        return None
    life = LIFE.fullmatch(given)
    if life is not None:
        hours = int(life[1]) * (24 if life[2] == "d" else 1)
        return datetime.now(UTC) + timedelta(hours=hours)
    try:
        is_date = re.fullmatch(r"\d{4}-\d{2}-\d{2}", given)
        return read_instant(f"{given}T00:00:00Z" if is_date else given)
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
    callback=_read_end,
    help="When it ends: 90d, 12h, 2027-01-31 or an RFC 3339 instant. Without it: never.",
)
def create(name: str, scope: str, expires: datetime | None) -> None:
    """Make a token called NAME and print its secret, once."""
    try:
        TOKEN_NAME.check(name)
        token, secret = issue(COMMAND, name, Scope(scope), expires)
    except (ServiceError, ValueError) as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"token {token.id} ({token.scope}); its secret is not shown again:", err=True)
    click.echo(secret)


@token_commands.command("list")
def list_() -> None:
    """List the tokens with their state and last use."""
    now = database_now()
    click.echo(ROW.format("id", "name", "scope", "prefix", "expires", "last used", "state"))
    for token in db.session.scalars(select(ApiToken).order_by(ApiToken.id)):
        ended = token.expires_at is not None and token.expires_at <= now
        state = "revoked" if token.revoked_at else "expired" if ended else "valid"
        times = (_second(token.expires_at), _second(token.last_used_at))
        click.echo(ROW.format(token.id, token.name, token.scope, token.prefix, *times, state))


@token_commands.command("revoke")
@click.argument("name")
def revoke_(name: str) -> None:
    """Revoke the token called NAME; it stops working within 5 seconds."""
    found = select(ApiToken).where(ApiToken.name == name, ApiToken.revoked_at.is_(None))
    token = db.session.scalar(found.with_for_update(key_share=True))
    if token is None:
        raise click.ClickException("There is no valid token of this name.")
    revoke(COMMAND, token)
    click.echo(f"token {token.id} is revoked", err=True)


def _second(at: datetime | None) -> str:
    text = format_instant(at)
    return "never" if text is None else f"{text[:19]}Z"
