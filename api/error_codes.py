"""The catalogue of error codes: what each means, and what a caller can do.

docs/errors.md is generated from it: `python -m api.error_codes > docs/errors.md`.
"""

from typing import NamedTuple


class ErrorCode(NamedTuple):
    """A code of a problem: its HTTP statuses, its meaning, and what to do."""

    statuses: tuple[int, ...]
    meaning: str
    action: str


CODES = {
    "body_malformed": ErrorCode(
        (400,), "The body cannot be read: it is cut short, no JSON, or not UTF-8.", "Correct it."
    ),
    "request_malformed": ErrorCode(
        (400, 408, 411, 414, 417, 431, 501),
        "The request line or its headers cannot be read, or are too long or too slow.",
        "Correct the HTTP client.",
    ),
    "etag_malformed": ErrorCode(
        (400,), "`If-Match` is no ETag of this API.", "Send the ETag as it was received."
    ),
    "file_missing": ErrorCode(
        (400,), "The form has no file in the field `file`.", "Name the field `file`."
    ),
    "file_unusable": ErrorCode(
        (400,), "The uploaded file cannot be read.", "`detail` says where; correct the file."
    ),
    "token_missing": ErrorCode(
        (401,), "There is no token.", "Send the header `Authorization: Bearer TOKEN`."
    ),
    "token_invalid": ErrorCode(
        (401,), "The token is unknown, expired or revoked.", "Ask an administrator for another."
    ),
    "scope_insufficient": ErrorCode(
        (403,), "The token's scope does not permit this.", "Use a token of the scope in `detail`."
    ),
    "not_found": ErrorCode(
        (404,), "The object does not exist, or was deleted.", "Check the id; list the objects."
    ),
    "no_such_address": ErrorCode((404,), "There is nothing at this address.", "Check the URL."),
    "method_not_allowed": ErrorCode(
        (405,), "The address does not know the method.", "Use one of the header `Allow`."
    ),
    "phone_taken": ErrorCode(
        (409,), "Another client has the phone.", "Change that client; `client_id` names it."
    ),
    "token_name_taken": ErrorCode(
        (409,), "A token of this name exists.", "Revoke it, or choose another name."
    ),
    "mailing_ended": ErrorCode(
        (409,), "A finished or cancelled mailing cannot change.", "Create another mailing."
    ),
    "fixed_by_launch": ErrorCode(
        (409,), "The start and the filter cannot change after the launch.", "Leave them out."
    ),
    "action_impossible": ErrorCode(
        (409,), "The mailing's status does not permit the action.", "Read the mailing's status."
    ),
    "end_passed": ErrorCode(
        (409,), "The mailing's end has passed.", "Move the end first, or create another mailing."
    ),
    "workers_outdated": ErrorCode(
        (409,),
        "Workers of an older version run, which would not follow the rule.",
        "Update all workers first.",
    ),
    "audience_limit_exceeded": ErrorCode(
        (409,),
        "The mailing would reach more clients than its limit or the policy's permits.",
        "Raise `max_audience`, or cancel the mailing.",
    ),
    "end_before_launch": ErrorCode(
        (409,),
        "With the policy's launch delay the mailing would start at its end or later.",
        "Move the end first.",
    ),
    "sending_stopped": ErrorCode(
        (409,), "All sending is stopped.", "Ask an administrator; `POST /policy/resume` ends it."
    ),
    "budget_used_up": ErrorCode(
        (409,),
        "The budget of the mailing or of the policy is used up.",
        "Raise it, or wait for the next day or month.",
    ),
    "import_running": ErrorCode(
        (409,), "The import is still running.", "Wait until its `status` is `finished`."
    ),
    "import_not_last": ErrorCode(
        (409,),
        "A later import has changed clients, or is running.",
        "Only the last import can be undone; `import_id` names it.",
    ),
    "import_undone": ErrorCode(
        (409,), "The import is being undone, or is undone.", "Read its `undo`."
    ),
    "undo_expired": ErrorCode(
        (409,),
        "The earlier values of the import's clients are not kept.",
        "Correct the clients with another import.",
    ),
    "import_used": ErrorCode(
        (409,),
        "Mailings have used clients of the import since.",
        "`mailings` names them; correct the clients with another import.",
    ),
    "clients_edited": ErrorCode(
        (409,),
        "Clients of the import were edited since; `edited` says how many.",
        "Send `keep_edited=true` to undo the others.",
    ),
    "nothing_failed": ErrorCode(
        (409,), "No message of the mailing has failed.", "There is nothing to try again."
    ),
    "answer_not_stored": ErrorCode(
        (409,),
        "The first request with this `Idempotency-Key` succeeded; its answer is not stored.",
        "Do not repeat it: `detail` says what there is.",
    ),
    "session_ended": ErrorCode(
        (409,), "The OpenID provider has ended this session.", "Sign in again."
    ),
    "logout_token_reused": ErrorCode(
        (409,), "The OpenID provider's logout token was accepted before.", "Nothing: it is done."
    ),
    "version_mismatch": ErrorCode(
        (412,),
        "The object was edited since the version in `If-Match`.",
        "Read it again, and decide; `changed_by` and `changed_at` say who edited it and when.",
    ),
    "if_match_missing": ErrorCode(
        (428,), "The change needs `If-Match`.", "Send the ETag that was read."
    ),
    "nothing_to_match": ErrorCode(
        (412,), "No client has the phone, and `If-Match` requires one.", "Leave out `If-Match`."
    ),
    "too_large": ErrorCode((413,), "The body or file is too large.", "Send less at once."),
    "unsupported_media_type": ErrorCode(
        (415,), "The operation does not take this content type.", "Set `Content-Type`."
    ),
    "invalid_values": ErrorCode(
        (422,), "Values violate rules.", "`errors` names each value and rule; correct them."
    ),
    "rate_exceeded": ErrorCode(
        (429,), "There were too many requests.", "Wait for `Retry-After` seconds."
    ),
    "too_much_under_way": ErrorCode(
        (429,),
        "Too many previews, exports, uploads or searches are under way.",
        "Wait for `Retry-After` seconds.",
    ),
    "too_many_test_sends": ErrorCode(
        (429,), "There were too many test messages.", "Wait for `Retry-After` seconds."
    ),
    "internal_error": ErrorCode(
        (500,), "The service failed.", "Report the `request_id` to the operators."
    ),
    "unavailable": ErrorCode(
        (502, 503, 504), "The API cannot answer now.", "Repeat after `Retry-After` seconds."
    ),
    "database_unavailable": ErrorCode(
        (503,), "The database is not available.", "Repeat after `Retry-After` seconds."
    ),
    "overloaded": ErrorCode(
        (503,), "The service has too much to do.", "Repeat after `Retry-After` seconds."
    ),
    "workers_unavailable": ErrorCode(
        (503,), "No worker took the test send; nothing was sent.", "Repeat it later."
    ),
    "workers_unknown": ErrorCode(
        (503,), "The versions of the workers cannot be read.", "Repeat it later."
    ),
    "unanswered_test_send": ErrorCode(
        (503,), "A worker took the test send and did not report.", "Look at the phones first."
    ),
}

# Codes in `errors`: which rule a value violates.
FIELD_CODES = {
    "missing": "A required field is missing.",
    "extra_forbidden": "The field or parameter does not exist.",
    "repeated": "The parameter is given more than once.",
    "unstorable": "The text contains NUL or half of a surrogate pair.",
    "string_type": "The value is no string.",
    "string_too_short": "The text is too short.",
    "string_too_long": "The text is too long.",
    "string_pattern_mismatch": "The text has characters that are not allowed.",
    "int_type": "The value is no whole number.",
    "int_from_float": "The number has a fraction.",
    "bool_type": "The value is neither true nor false.",
    "greater_than_equal": "The number is too small.",
    "less_than_equal": "The number is too large.",
    "list_type": "The value is no list.",
    "dict_type": "The value is no object.",
    "model_type": "The value is no object.",
    "model_attributes_type": "The value is no object.",
    "too_short": "The list or object has too few entries.",
    "too_long": "The list or object has too many entries.",
    "too_many_members": "The object has too many members.",
    "too_many": "There are too many of these.",
    "enum": "The value is none of those permitted.",
    "literal_error": "The value is none of those permitted.",
    "id": "The value is no id.",
    "flag": "The value is neither `true` nor `false`.",
    "limit": "The page size is no whole number in its range.",
    "cursor": "The cursor is not the `next_cursor` of this list.",
    "phone_format": "The phone is not 11 digits that start with 7.",
    "phone_differs": "The phone in the body is not that of the path.",
    "operator_code_format": "The operator code is not three digits.",
    "token_name_format": "The name of the token has the wrong length or control characters.",
    "timezone_unknown": "The time zone is no IANA name.",
    "instant_format": "The instant is not RFC 3339.",
    "instant_naive": "The instant has no offset from UTC.",
    "instant_unreal": "The date or time does not exist.",
    "instant_range": "The instant is before 1970 or after 2199.",
    "day_format": "The day is not of the form 2030-12-02, or not between the years 1970 and 2199.",
    "days_range": "The last day is before the first, or there are too many days.",
    "clock_time_format": "The time of day is not between 00:00 and 23:59.",
    "window_empty": "The window begins when it ends.",
    "end_before_start": "The end is not later than the start.",
    "end_before_launch": "The end is not later than the launch delay permits a start.",
    "past": "The instant has passed.",
    "mail_address_format": "The text is no mail address.",
    "amount_format": "The amount is no number with at most two decimals.",
    "budget_unit": "The budget has neither segments nor an amount, or both.",
    "budget_empty": "The budget limits neither the day nor the month.",
    "amount_too_small": "The amount pays for no SMS segment.",
    "segment_price_missing": "An amount needs the setting `SEGMENT_PRICE`.",
    "float_type": "The value is no number.",
    "within_end_margin": "The mailing is shorter than the margin before its end (`END_MARGIN`).",
    "too_soon": "The instant is too close to the present.",
    "placeholder": "A placeholder of the text is malformed.",
    "attribute_name": "The name cannot be an attribute's.",
    "too_many_attributes": "The client would have too many attributes.",
    "mapping_format": "The mapping of an import is not JSON of the right form.",
    "unknown": "No object has this id.",
    "idempotency_key_format": "The key has the wrong length or characters.",
    "idempotency_key_reused": "The key was used with another body.",
    "search_too_slow": "The search takes too long: search for more, or add a filter.",
    "file_header": "The first line of the file lacks a column, or names one twice.",
    "file_unusable": "The file cannot be read.",
}

# Codes in `errors` of an import: why a row of a file was rejected.
ROW_CODES = {
    "phone_format": "The phone is not 11 digits that start with 7.",
    "phone_shortened": "A spreadsheet has shortened the phone, as in 7,9E+10.",
    "phone_decimal": "The cell is a decimal number and no phone, as 7011234567.0.",
    "phone_extension": "The phone has an extension.",
    "phone_several": "The cell holds several phones.",
    "phone_foreign": "The phone is of another country.",
    "operator_code_format": "The operator code is not three digits.",
    "tag_length": "The tag has more than 64 characters.",
    "timezone_unknown": "The time zone is neither an IANA name nor a known city.",
    "timezone_offset": "The time zone is an offset such as UTC+3; the likely zone is named.",
    "timezone_missing": "There is no time zone, neither in the row nor for the file.",
    "value_length": "The value of an attribute has more than 200 characters.",
    "line_break": "The value has a line break; of an attribute: and the next row after it.",
    "repeated": "A later row has the same phone with other values, and counts.",
    "client_deleted": "The client was deleted after the file was sent.",
    "quotes": "CSV: the quotes of the row are wrong.",
    "too_many_cells": "CSV: the row has more cells than the header.",
    "not_an_object": "NDJSON: the line, or its `attributes`, is no JSON object.",
    "not_a_string": "NDJSON: the value is no string.",
    "nul": "NDJSON: the text contains NUL.",
    "unknown_field": "NDJSON: the field does not exist.",
    "attribute_name": "NDJSON: the name cannot be an attribute's.",
    "too_many_attributes": "The row has more than 20 attributes.",
}


def render_page() -> str:
    """Return the page of all codes, in Markdown."""
    problems = "\n".join(
        f"| `{code}` | {', '.join(map(str, each.statuses))} | {each.meaning} | {each.action} |"
        for code, each in CODES.items()
    )
    fields = "\n".join(f"| `{code}` | {meaning} |" for code, meaning in FIELD_CODES.items())
    rows = "\n".join(f"| `{code}` | {meaning} |" for code, meaning in ROW_CODES.items())
    return PAGE.format(problems=problems, fields=fields, rows=rows)


PAGE = """\
# Error codes

Every error of the API is `application/problem+json` with a `code` ([errors](api.md#errors)). Codes
are stable: a new version may add some, and changes or removes none without a deprecation. This page
is generated from `api/error_codes.py`.

## Problems

| code | status | meaning | what to do |
|---|---|---|---|
{problems}

## Codes of single values

With `invalid_values`, each entry of `errors` has a code of its own.

| code | meaning |
|---|---|
{fields}

## Codes of rejected rows

Each entry of `errors` of an import has one of these.

| code | meaning |
|---|---|
{rows}
"""

if __name__ == "__main__":
    print(render_page(), end="")
