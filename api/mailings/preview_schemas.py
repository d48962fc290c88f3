"""Previews and test sends in the API: the bodies that callers send, and the answers."""

from collections.abc import Iterable
from typing import Annotated, Any, NamedTuple

from flask import current_app
from pydantic import ConfigDict, Field

from api.mailings.preview_result import Preview, WithheldReason
from api.mailings.test_sends import MAX_PHONES
from api.schemas import examples
from api.schemas.base import Body
from api.schemas.fields import Phone
from api.schemas.personalisation import MailingText
from api.schemas.responses import ResponseModel, with_example
from shared.domain.segments import measure_segments

TEST_RESULT: dict[str, Any] = {
    "message_id": 4712,
    "phone": "79161234567",
    "outcome": "accepted",
    "reason": "accepted",
    "http_status": 200,
    "latency_ms": 12,
    "excerpt": '{"code":0,"message":"OK"}',
}


class Share(ResponseModel):
    """How many of the audience have this operator code, time zone or tag."""

    value: str = Field(examples=["916"])
    clients: int


class ZoneShare(Share):
    """How many of the audience are in this time zone, and when their window opens first."""

    opens_at: str | None = Field(
        json_schema_extra={"format": "date-time"},
        description="Null if the window never opens there before the end, or if the zone is not"
        " known.",
    )


class TextPreview(ResponseModel):
    """How the text travels as SMS; of a personalised text, the longest one."""

    length: int = Field(description="In characters.")
    encoding: str = Field(json_schema_extra={"enum": ["GSM-7", "UCS-2"]})
    units: int = Field(description="Septets (GSM-7) or 16-bit words (UCS-2).")
    segments: int = Field(description="Per message.")


class ExampleAnswer(ResponseModel):
    """The text that one client would receive."""

    client_id: int
    text: str


class Warning_(ResponseModel):
    """A property of the mailing that is probably a mistake."""

    code: str = Field(examples=["ends_too_early"])
    detail: str


class WithheldAnswer(ResponseModel):
    """How many of the audience will not be sent to for this reason."""

    reason: WithheldReason = Field(
        description="A client counts for the first of these reasons that holds."
    )
    clients: int


class PreviewAnswer(ResponseModel):
    """What a mailing would be if it were launched with the clients as they are now."""

    model_config = with_example(examples.PREVIEW)

    audience: int = Field(description="Clients who match the filter.")
    recipients: int = Field(description="How many of them will be sent to.")
    withheld: list[WithheldAnswer] = Field(
        description="The others, by reason; with `recipients` they add up to the audience."
    )
    by_operator_code: list[Share]
    by_timezone: list[ZoneShare]
    by_tag: list[Share] = Field(description="The 20 largest.")
    never_in_window: int = Field(
        description="Clients whose window does not open before the end: they will not be sent to."
    )
    opted_out: int = Field(description="Clients who have opted out: they will not be sent to.")
    lacking: int = Field(
        description="Clients who lack an attribute that the text needs: their messages will fail."
    )
    missing_attributes: list[Share] = Field(description="How many clients lack which attribute.")
    examples: list[ExampleAnswer] = Field(description="The text for the first five clients.")
    text: TextPreview
    segments_total: int = Field(description="Of all messages that can be sent.")
    segments_exact: bool = Field(
        description="False if the text is personalised and the audience exceeds 100,000 clients: "
        "then an even sample was rendered, and the total and the cost are estimates."
    )
    cost: str | None = Field(
        description="Of all segments; null where no price is set.", examples=["1234.50"]
    )
    currency: str | None = Field(
        description="Of the cost: an ISO 4217 code; null where the setting `CURRENCY` is empty.",
        examples=["RUB"],
    )
    rate: float | None = Field(description="Messages per second; null if it is not known.")
    expected_seconds: float | None = Field(
        description="How long the sending takes at this rate, without the hours outside of windows."
    )
    expected_finish_at: str | None = Field(json_schema_extra={"format": "date-time"})
    expected_unsent: int | None = Field(
        description="How many of the recipients will be left at the end at this rate."
    )
    warnings: list[Warning_]


class NewTestSend(Body):
    """A text, and the phones to send it to."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"text": "Hello!", "phones": ["79161234567"]}]}
    )

    text: MailingText
    phones: Annotated[list[Phone], Field(min_length=1, max_length=MAX_PHONES)]


class TestResult(ResponseModel):
    """The result of one message."""

    __test__ = False
    model_config = with_example(TEST_RESULT)

    message_id: int
    phone: str
    outcome: str = Field(
        description="`accepted`, `rejected`, `declined`, `throttled`, `unauthorized`,"
        " `unavailable`, `unknown`, `not_sent` or `opted_out`."
    )
    reason: str
    http_status: int | None
    latency_ms: int | None
    excerpt: str = Field(description="The beginning of the provider's response.")


class TestSendAnswer(ResponseModel):
    """The result of each message of a test."""

    __test__ = False
    model_config = with_example({"items": [TEST_RESULT]})

    items: list[TestResult]


def present_preview(found: Preview) -> dict[str, Any]:
    texts, longest = found.texts, found.longest_text
    return PreviewAnswer.present(
        found,
        by_operator_code=_present_tuples(found.by_operator_code),
        by_timezone=[ZoneShare.present(zone) for zone in found.by_timezone],
        by_tag=_present_tuples(found.by_tag),
        withheld=_present_tuples(found.withheld),
        opted_out=texts.opted_out,
        lacking=texts.lacking,
        missing_attributes=_present_tuples(found.missing_attributes),
        examples=_present_tuples(texts.examples),
        text=TextPreview.present(measure_segments(longest), length=len(longest)),
        segments_total=texts.segments,
        segments_exact=texts.exact,
        cost=None if found.cost is None else f"{found.cost:f}",
        currency=current_app.config["CURRENCY"],
        warnings=_present_tuples(found.warnings),
    )


def _present_tuples(rows: Iterable[NamedTuple]) -> list[dict[str, Any]]:
    return [row._asdict() for row in rows]
