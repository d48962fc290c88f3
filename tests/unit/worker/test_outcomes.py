"""The classification of every response and failure."""

import time
from email.utils import formatdate

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.provider.outcomes import (
    _BODY_CACHE,
    _MAX_CACHED_BODIES,
    EXCERPT_LENGTH,
    MAX_RETRY_AFTER_SECONDS,
    Classification,
    Failure,
    Outcome,
    classify_failure,
    classify_response,
    make_excerpt,
    parse_retry_after,
)

NOW = 1_800_000_000.0


def classify(
    status: int, body: bytes = b"", retry_after: str | None = None, too_long: bool = False
) -> Classification:
    return classify_response(status, body, retry_after, too_long, NOW)


@pytest.mark.parametrize(
    ("body", "outcome", "reason"),
    [
        (b'{"code": 0, "message": "OK"}', "accepted", "code_0"),
        (b'{"code":0}', "accepted", "code_0"),
        (b' \r\n{"message": [1, {}], "code": 0}\n', "accepted", "code_0"),
        (b'{"code": -0}', "accepted", "code_0"),
        (b'{"code": 1, "code": 0}', "accepted", "code_0"),  # JSON parsers use the last one
        (b'{"code": 1}', "declined", "code_1"),
        (b'{"code": 0, "code": 1}', "declined", "code_1"),
        (b'{"code": -1}', "declined", "code_-1"),
        (b'{"code": 18446744073709551615}', "declined", "code_18446744073709551615"),
        (b'{"code": 99999999999999999999}', "unknown", "code_not_integer"),
        (b'{"code": "0"}', "unknown", "code_not_integer"),
        (b'{"code": 0.0}', "accepted", "code_0"),  # JSON has one kind of number
        (b'{"code": 0e0}', "accepted", "code_0"),
        (b'{"code": -0.0}', "accepted", "code_0"),
        (b'{"code": 1.0}', "declined", "code_1"),
        (b'{"code": 0.5}', "unknown", "code_not_integer"),
        (b'{"code": 1e-400}', "accepted", "code_0"),
        (b'{"code": false}', "unknown", "code_not_integer"),
        (b'{"code": true}', "unknown", "code_not_integer"),
        (b'{"code": null}', "unknown", "code_not_integer"),
        (b'{"code": [0]}', "unknown", "code_not_integer"),
        (b'{"code": {"code": 0}}', "unknown", "code_not_integer"),
        (b'{"Code": 0}', "unknown", "code_missing"),
        (b'{"message": "OK"}', "unknown", "code_missing"),
        (b"{}", "unknown", "code_missing"),
        (b"[]", "unknown", "not_object"),
        (b'[{"code": 0}]', "unknown", "not_object"),
        (b"0", "unknown", "not_object"),
        (b"null", "unknown", "not_object"),
        (b'"OK"', "unknown", "not_object"),
        (b"", "unknown", "not_json"),
        (b" ", "unknown", "not_json"),
        (b"OK", "unknown", "not_json"),
        (b"<html>OK</html>", "unknown", "not_json"),
        (b'{"code": 0', "unknown", "not_json"),
        (b'{"code": 0}{"code": 0}', "unknown", "not_json"),
        (b'{"code": 0} OK', "unknown", "not_json"),
        (b"{'code': 0}", "unknown", "not_json"),
        (b'{"code": 00}', "unknown", "not_json"),
        (b'{"code": NaN}', "unknown", "not_json"),
        (b'\xef\xbb\xbf{"code": 0}', "accepted", "code_0"),  # a byte order mark
        (b'\xef\xbb\xbf\xef\xbb\xbf{"code": 0}', "unknown", "not_json"),
        (b'{"code": 0, "m": "\xff"}', "unknown", "not_json"),
        ('{"code": 0}'.encode("utf-16"), "unknown", "not_json"),
        (b'{"code": 0, "x": ' + b"[" * 100_000, "unknown", "not_json"),
        (b"\x1f\x8b\x08\x00", "unknown", "not_json"),
        (b"\x00", "unknown", "not_json"),
    ],
)
def test_a_200_is_classified_by_its_body(body: bytes, outcome: str, reason: str) -> None:
    for _ in range(2):  # parsed, then from the cache
        result = classify(200, body)
        assert (result.outcome.value, result.reason) == (outcome, reason)
        assert result.http_status == 200
        assert result.retry_after is None


def expected(status: int) -> Outcome:
    if status in (401, 403):
        return Outcome.UNAUTHORIZED
    if status == 429:
        return Outcome.THROTTLED
    if status in (408, 425, *range(500, 600)):
        return Outcome.UNAVAILABLE
    return Outcome.REJECTED if status in range(400, 500) else Outcome.UNKNOWN


@pytest.mark.parametrize("body", [b"", b'{"code": 0, "message": "OK"}'])
def test_every_other_status_is_classified_by_itself(body: bytes) -> None:
    for status in (0, *range(100, 200), *range(201, 700), 999):
        result = classify(status, body)
        assert result.outcome is expected(status), status
        assert result.reason == ("redirect" if 300 <= status < 400 else f"http_{status}")
        assert result.http_status == status


@pytest.mark.parametrize(
    ("header", "outcome", "retry_after"),
    [
        (None, Outcome.UNAVAILABLE, None),
        ("", Outcome.UNAVAILABLE, None),
        ("soon", Outcome.UNAVAILABLE, None),
        ("0", Outcome.THROTTLED, 0.0),
        ("5", Outcome.THROTTLED, 5.0),
    ],
)
def test_a_503_with_retry_after_is_throttling(
    header: str | None, outcome: Outcome, retry_after: float | None
) -> None:
    result = classify(503, b"busy", header)
    assert (result.outcome, result.retry_after) == (outcome, retry_after)


def test_other_statuses_keep_retry_after_without_being_throttling() -> None:
    assert classify(500, b"", "7").outcome is Outcome.UNAVAILABLE
    assert classify(500, b"", "7").retry_after == 7.0
    assert classify(422, b"", "7").outcome is Outcome.REJECTED


def test_a_too_long_response_is_unknown_where_the_body_would_decide() -> None:
    assert classify(200, b'{"code":0}', too_long=True).outcome is Outcome.UNKNOWN
    assert classify(200, b'{"code":0}', too_long=True).reason == "too_long"
    assert classify(200, b'{"code":0}').outcome is Outcome.ACCEPTED
    assert classify(201, b"x", too_long=True).reason == "too_long"
    assert classify(401, b"x", too_long=True).outcome is Outcome.UNAUTHORIZED
    assert classify(422, b"x", too_long=True).reason == "http_422"


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("0", 0.0),
        ("00000000000000007", 7.0),
        (" 3 ", 3.0),
        ("3600", 3600.0),
        ("3601", 3600.0),
        ("9" * 10_000, 3600.0),
        ("-1", None),
        ("1.5", None),
        ("1e3", None),
        ("+5", None),
        ("٣", None),  # a digit, but not an ASCII one
        ("5 seconds", None),
        ("", None),
        ("NaN", None),
        ("inf", None),
        ("\x00", None),
        (formatdate(NOW + 90, usegmt=True), 90.0),
        (formatdate(NOW - 90, usegmt=True), 0.0),
        (formatdate(NOW + 90_000, usegmt=True), 3600.0),
        (time.strftime("%A, %d-%b-%y %H:%M:%S GMT", time.gmtime(NOW + 90)), 90.0),
        (time.asctime(time.gmtime(NOW + 90)), 90.0),  # no zone means UTC, not the machine's zone
        ("Wed, 99 Foo 2026 25:61:61 GMT", None),
        ("Wed, 21 Oct 99999 07:28:00 GMT", None),
    ],
)
def test_retry_after_is_parsed_and_bounded(header: str, seconds: float | None) -> None:
    assert parse_retry_after(header, NOW) == seconds


def test_a_date_without_zone_is_utc_in_every_local_zone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TZ", "Asia/Kamchatka")
    time.tzset()
    try:
        assert parse_retry_after(time.asctime(time.gmtime(NOW + 90)), NOW) == 90.0
    finally:
        monkeypatch.undo()
        time.tzset()


@given(st.text(), st.floats(min_value=0, max_value=4e9))
def test_any_retry_after_is_bounded_or_ignored(header: str, now: float) -> None:
    seconds = parse_retry_after(header, now)
    assert seconds is None or 0 <= seconds <= MAX_RETRY_AFTER_SECONDS


@given(st.integers(0, 999), st.binary(max_size=600), st.one_of(st.none(), st.text()), st.booleans())
def test_the_classification_of_any_response_can_be_stored(
    status: int, body: bytes, header: str | None, too_long: bool
) -> None:
    result = classify(status, body, header, too_long)
    assert result.outcome is not Outcome.NOT_SENT
    assert len(result.excerpt) <= EXCERPT_LENGTH
    assert result.excerpt.isprintable()
    result.excerpt.encode()  # no lone surrogates
    assert result.reason.isascii()
    assert len(result.reason) <= 40


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text() | st.just("code"), children),
    max_leaves=6,
)


@given(JSON)
def test_only_an_object_with_integer_code_0_is_accepted(value: object) -> None:
    body = orjson.dumps(value)
    code = value.get("code") if isinstance(value, dict) else None
    is_integer = isinstance(code, int) and not isinstance(code, bool)
    if isinstance(code, float) and abs(code) < 2**53:
        is_integer = code.is_integer()
    result = classify(200, body)
    assert (result.outcome is Outcome.ACCEPTED) == (is_integer and code == 0)
    assert (result.outcome is Outcome.DECLINED) == (is_integer and code != 0)


def test_excerpts_are_one_printable_line() -> None:
    assert make_excerpt(b"") == ""
    assert make_excerpt(b"a\x00b\x1b[31mc\x7f\r\n d\te") == "ab[31mc d e"
    assert make_excerpt(b"caf\xe9 \xff") == "caf\N{REPLACEMENT CHARACTER} \N{REPLACEMENT CHARACTER}"
    assert make_excerpt("\u202eevil\u2028line\ufeff".encode()) == "evil line"
    assert make_excerpt("я".encode() * 1000) == "я" * EXCERPT_LENGTH
    assert make_excerpt(b"x" * 10_000_000) == "x" * EXCERPT_LENGTH


def test_the_cache_of_bodies_is_bounded() -> None:
    for number in range(3 * _MAX_CACHED_BODIES):
        assert classify(200, b'{"code":0,"id":%d}' % number).outcome is Outcome.ACCEPTED
    assert len(_BODY_CACHE) <= _MAX_CACHED_BODIES
    before = len(_BODY_CACHE)
    classify(200, b'{"code":0}'.ljust(1000))
    assert len(_BODY_CACHE) == before


@pytest.mark.parametrize(
    "failure", sorted(set(Failure) - {Failure.NOT_PERMITTED, Failure.OPEN_FILES})
)
def test_a_failure_is_unknown_only_if_the_request_was_sent(failure: Failure) -> None:
    before = classify_failure(failure, sent=False)
    after = classify_failure(failure, sent=True)
    assert (before.outcome, before.reason) == (Outcome.UNAVAILABLE, failure.value)
    assert (after.outcome, after.reason) == (Outcome.UNKNOWN, failure.value)
    assert after.outcome.in_doubt
    assert not before.outcome.in_doubt


@pytest.mark.parametrize("failure", [Failure.NOT_PERMITTED, Failure.OPEN_FILES])
def test_a_request_that_this_side_holds_back_is_not_sent(failure: Failure) -> None:
    result = classify_failure(failure, sent=False)
    assert (result.outcome, result.reason) == (Outcome.NOT_SENT, failure.value)


def test_a_failures_detail_is_short_and_printable() -> None:
    detail = "Failed\x00 to \udcff" + "x" * 500
    result = classify_failure(Failure.RESET, sent=False, detail=detail)
    assert len(result.excerpt) <= EXCERPT_LENGTH
    assert result.excerpt.isprintable()


@pytest.mark.parametrize(
    ("outcome", "counts_attempt", "in_doubt", "provider_works", "final", "trips_breaker"),
    [
        ("accepted", True, False, True, True, False),
        ("rejected", True, False, True, True, False),
        ("declined", True, False, True, False, False),
        ("throttled", False, False, False, False, False),
        ("unauthorized", False, False, False, False, False),
        ("unavailable", True, False, False, False, True),
        ("unknown", True, True, False, False, True),
        ("not_sent", False, False, False, False, False),
    ],
)
def test_outcome_has_these_properties(
    outcome: str,
    counts_attempt: bool,
    in_doubt: bool,
    provider_works: bool,
    final: bool,
    trips_breaker: bool,
) -> None:
    tested = Outcome(outcome)
    assert tested.counts_attempt is counts_attempt
    assert tested.in_doubt is in_doubt
    assert tested.provider_works is provider_works
    assert tested.final is final
    assert tested.trips_breaker is trips_breaker


def test_the_properties_of_every_outcome_are_tested() -> None:
    mark = test_outcome_has_these_properties.pytestmark[0]  # type: ignore[attr-defined]
    assert {row[0] for row in mark.args[1]} == {outcome.value for outcome in Outcome}
