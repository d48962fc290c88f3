"""API tokens in the API: the body that callers send, and the responses."""

from datetime import datetime
from typing import Annotated, Any

from pydantic import ConfigDict, Field, Strict

from api.schemas import examples
from api.schemas.base import Body
from api.schemas.fields import Instant, TokenName
from api.schemas.responses import ResponseModel, with_example
from shared.db.auth_models import ApiToken
from shared.domain.scopes import Scope


class NewToken(Body):
    """An API token to be made."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"name": "billing", "scope": "write"}]}
    )

    name: TokenName
    scope: Annotated[Scope, Strict(False)] = Field(
        description="read: look; write: change clients and mailings; admin: everything."
    )
    expires_at: Instant | None = Field(default=None, description="When it ends; null: never.")


class TokenAnswer(ResponseModel):
    """An API token, without its secret."""

    model_config = with_example(examples.TOKEN)

    id: int
    name: str = Field(examples=["billing"])
    scope: Scope
    prefix: str = Field(description="How its secret begins.", examples=["nt_x7Tq2LmA"])
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


class CreatedToken(TokenAnswer):
    """A token with its secret, which is not shown again."""

    model_config = with_example(examples.NEW_TOKEN)

    token: str = Field(examples=["nt_x7Tq2LmA-qkZ0sJ1vGm3yXr8cBn5hWd4uFp6eTi9oLa"])


class TokenPage(ResponseModel):
    """A page of tokens, by id."""

    model_config = with_example(examples.page_of(examples.TOKEN))

    items: list[TokenAnswer]
    next_cursor: str | None


def present_token(token: ApiToken) -> dict[str, Any]:
    return TokenAnswer.present(token)
