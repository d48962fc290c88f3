"""The fields of clients and mailings as two versions of them are compared."""

from collections.abc import Callable, Mapping

from flask_babel import lazy_gettext

from api.admin.forms.budget_fields import COMPARED_BUDGET
from api.admin.forms.edit_conflict import ComparedField
from api.admin.forms.stop_rule_fields import STOP_RULE_FIELDS, describe_stop_rule
from api.admin.forms.text_fields import (
    attribute_lines,
    read_attribute_lines,
    read_phone,
    read_phones,
    split_list,
)

Describe = Callable[[Mapping[str, str]], str]


def _text(name: str) -> Describe:
    return lambda fields: fields[name].replace("\r\n", "\n").strip()


def _list(name: str) -> Describe:
    return lambda fields: ", ".join(split_list(fields[name]))


def _instant(name: str) -> Describe:
    return lambda fields: fields[name].replace("T", " ")


def _describe_phone(fields: Mapping[str, str]) -> str:
    return read_phone(fields["phone"]) or fields["phone"]


def _describe_phones(fields: Mapping[str, str]) -> str:
    phones, problem = read_phones(fields["phones"])
    return fields["phones"] if problem else "\n".join(phones)


def _describe_attributes(fields: Mapping[str, str]) -> str:
    attributes, problem = read_attribute_lines(fields["attributes"])
    return fields["attributes"] if problem else attribute_lines(sorted(attributes.items()))


def _describe_window(fields: Mapping[str, str]) -> str:
    return f"{fields['window_from']}–{fields['window_to']}" if fields["limited"] else ""


CLIENT_FIELDS = (
    ComparedField("phone", lazy_gettext("Phone"), ("phone",), _describe_phone),
    ComparedField("timezone", lazy_gettext("Time zone"), ("timezone",), _text("timezone")),
    ComparedField("tag", lazy_gettext("Tag"), ("tag",), _text("tag")),
    ComparedField(
        "operator_code",
        lazy_gettext("Operator code"),
        ("operator_code",),
        _text("operator_code"),
        lazy_gettext("from the phone"),
    ),
    ComparedField("attributes", lazy_gettext("Attributes"), ("attributes",), _describe_attributes),
)
# The recipients and the start, which cannot change once a mailing has started.
FIXED_FIELDS = (
    ComparedField("tags", lazy_gettext("Tags"), ("tags",), _list("tags")),
    ComparedField(
        "operator_codes",
        lazy_gettext("Operator codes"),
        ("operator_codes",),
        _list("operator_codes"),
    ),
    ComparedField("timezones", lazy_gettext("Time zones"), ("timezones",), _list("timezones")),
    ComparedField("attributes", lazy_gettext("Attributes"), ("attributes",), _describe_attributes),
    ComparedField(
        "exclude_mailing_ids",
        lazy_gettext("Excluded mailings"),
        ("exclude_mailing_ids",),
        _list("exclude_mailing_ids"),
    ),
    ComparedField("phones", lazy_gettext("Phones"), ("phones",), _describe_phones),
    ComparedField("start_at", lazy_gettext("Start"), ("start_at",), _instant("start_at")),
)
MAILING_FIELDS = (
    ComparedField("text", lazy_gettext("Text"), ("text",), _text("text")),
    ComparedField("name", lazy_gettext("Name"), ("name",), _text("name")),
    *FIXED_FIELDS,
    ComparedField("end_at", lazy_gettext("End"), ("end_at",), _instant("end_at")),
    ComparedField(
        "window",
        lazy_gettext("Permitted hours"),
        ("limited", "window_from", "window_to"),
        _describe_window,
        lazy_gettext("any hour"),
    ),
    ComparedField(
        "rate_limit",
        lazy_gettext("Limit"),
        ("rate_limit",),
        _text("rate_limit"),
        lazy_gettext("no limit"),
    ),
    ComparedField(
        "max_audience",
        lazy_gettext("Recipients, at most"),
        ("max_audience",),
        _text("max_audience"),
        lazy_gettext("no limit"),
    ),
    ComparedField(
        "stop_when",
        lazy_gettext("Stop on refusals"),
        STOP_RULE_FIELDS,
        describe_stop_rule,
        lazy_gettext("as the policy says"),
    ),
    *COMPARED_BUDGET,
)
