"""The policy in the API: the body that callers send, and the responses."""

from datetime import datetime
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field, WithJsonSchema, field_validator

from api.schemas import examples
from api.schemas.base import Body
from api.schemas.fields import TextFormat, convert_whole_float
from api.schemas.limits import Budget, MaxAudience, StopWhen
from api.schemas.responses import ResponseModel, format_instant, with_example
from shared.config.checks import MAIL_ADDRESS
from shared.db.policy import Stop
from shared.db.policy_models import PolicyVersion
from shared.domain.error_texts import error_text

MAX_LAUNCH_DELAY = 86_400
MAX_ADDRESSES = 20
RULES: dict[str, Any] = {
    "max_audience": 100_000,
    "stop_when": {"refused_share": 0.3, "min_answers": 100},
    "budget": {"day": {"segments": 200_000}, "month": {"segments": 3_000_000}},
    "launch_delay": 30,
    "notify": ["operations@example.com"],
}
VERSION = {
    **RULES,
    "version": 3,
    "updated_at": "2030-12-01T08:00:00.000000Z",
    "updated_by": "token:operations",
}
STOP: dict[str, Any] = {
    "stopped_at": "2030-12-02T06:10:00.000000Z",
    "stopped_by": "token:operations",
}
NOT_STOPPED: dict[str, Any] = {"stopped_at": None, "stopped_by": None}

MailAddress = Annotated[
    str,
    Field(max_length=254),
    TextFormat(
        rf"^{MAIL_ADDRESS}\Z",
        "mail_address_format",
        error_text("must be a mail address, for example operations@example.com"),
        "operations@example.com",
    ),
]
LaunchDelay = Annotated[
    int, Field(ge=0, le=MAX_LAUNCH_DELAY, examples=[30]), BeforeValidator(convert_whole_float)
]
IGNORED = Field(default=None, description="Ignored, so that an answer can be sent back.")
IgnoredNumber = Annotated[Any, WithJsonSchema({"anyOf": [{"type": "integer"}, {"type": "null"}]})]
IgnoredText = Annotated[Any, WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "null"}]})]


class PolicyRules(Body):
    """All rules of the policy. A rule that is left out is off."""

    model_config = ConfigDict(json_schema_extra={"examples": [RULES]})

    max_audience: MaxAudience | None = Field(
        default=None, description="A mailing that would reach more clients pauses; none is sent to."
    )
    stop_when: StopWhen | None = Field(
        default=None, description="When refusals pause a mailing that has no rule of its own."
    )
    budget: Budget | None = Field(
        default=None, description="What all mailings together may use up."
    )
    launch_delay: LaunchDelay = Field(
        default=0,
        description="Seconds between the creation of a mailing and its first message, in which it"
        " can be cancelled without a trace.",
    )
    notify: list[MailAddress] = Field(
        default=[],
        max_length=MAX_ADDRESSES,
        description="Who is told by e-mail that a rule has paused a mailing, or that one will not"
        " finish before its end.",
    )
    version: IgnoredNumber = IGNORED
    updated_at: IgnoredText = IGNORED
    updated_by: IgnoredText = IGNORED
    stopped_at: IgnoredText = IGNORED
    stopped_by: IgnoredText = IGNORED

    @field_validator("notify")
    @classmethod
    def _drop_duplicates(cls, addresses: list[str]) -> list[str]:
        return list({address.lower(): address for address in addresses}.values())


class PolicyVersionAnswer(ResponseModel):
    """A version of the policy. The latest one is in force."""

    model_config = with_example(VERSION)

    max_audience: int | None
    stop_when: StopWhen | None
    budget: Budget | None
    launch_delay: int
    notify: list[str]
    version: int
    updated_at: datetime
    updated_by: str | None = Field(
        description="Who made it, as the audit log writes it; null for the first version."
    )


class PolicyAnswer(PolicyVersionAnswer):
    """The policy in force, and whether all sending is stopped."""

    model_config = with_example(VERSION | NOT_STOPPED)

    stopped_at: datetime | None = Field(
        description="Since when the emergency stop is on; null while messages may be sent."
    )
    stopped_by: str | None = Field(description="Who stopped, as the audit log writes it.")


class PolicyVersionPage(ResponseModel):
    """A page of versions of the policy, by number."""

    model_config = with_example(examples.page_of(VERSION))

    items: list[PolicyVersionAnswer]
    next_cursor: str | None


class StopAnswer(ResponseModel):
    """The state of the emergency stop."""

    model_config = with_example(STOP | {"outdated_workers": 0})

    stopped_at: datetime | None
    stopped_by: str | None
    outdated_workers: int | None = Field(
        description="Workers of an older version, which do not follow the stop: end them. Null if"
        " Redis cannot be reached."
    )


def present_version(policy: PolicyVersion) -> dict[str, Any]:
    return PolicyVersionAnswer.present(policy)


def present_policy(policy: PolicyVersion, stop: Stop) -> dict[str, Any]:
    stopped_at, stopped_by = stop
    return PolicyAnswer.present(
        policy, stopped_at=format_instant(stopped_at), stopped_by=stopped_by
    )


def present_stop(stop: Stop, outdated_workers: int | None) -> dict[str, Any]:
    return StopAnswer.present(stop, outdated_workers=outdated_workers)
