"""Texts with placeholders: parsing, errors with positions, and rendering."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.schemas.personalisation import TEXT_PATTERN
from shared.domain.attributes import ATTRIBUTE_NAME, CLIENT_FIELDS, is_attribute_name
from shared.domain.templates import (
    MAX_RENDERED_LENGTH,
    MalformedTemplate,
    MissingAttribute,
    Placeholder,
    RenderedTextTooLong,
    RenderingError,
    Template,
    compile_stored_template,
    compile_template,
)

ANNA = {
    "phone": "79161234567",
    "tag": "",
    "operator_code": "916",
    "timezone": "Europe/Moscow",
    "name": "Anna",
    "Имя": "Анна",
}

names = st.from_regex(ATTRIBUTE_NAME, fullmatch=True)
literals = st.text(st.characters(exclude_characters="{}", exclude_categories=["Cs"]), max_size=20)
written = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
placeholders = st.builds(Placeholder, names, st.none() | literals)
braces = st.text("{}|ab", max_size=12)


def escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def as_written(part: str | Placeholder) -> str:
    if isinstance(part, str):
        return escaped(part)
    return f"{{{part.name}}}" if part.default is None else f"{{{part.name}|{part.default}}}"


@pytest.mark.parametrize(
    ("text", "rendered"),
    [
        ("Hello", "Hello"),
        ("Hello, {name}!", "Hello, Anna!"),
        ("{Имя}, {phone} {operator_code} {timezone}", "Анна, 79161234567 916 Europe/Moscow"),
        ("{surname|dear client}", "dear client"),
        ("{name|dear client}", "Anna"),
        ("<{tag}>", "<>"),
        ("{tag|friend}", "friend"),
        ("{surname|}!", "!"),
        ("{surname|a|b}", "a|b"),
        ("{{name}}", "{name}"),
        ("{{{name}}}", "{Anna}"),
        ("{surname|x}}}", "x}"),
        ("a {{ b }} c", "a { b } c"),
    ],
)
def test_placeholders_are_replaced_by_values(text: str, rendered: str) -> None:
    assert compile_template(text).render(ANNA) == rendered


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("{", 1),
        ("}", 1),
        ("ab } c", 4),
        ("Hello {name", 7),
        ("Hello {na{me}", 7),
        ("{}", 1),
        ("{ name }", 1),
        ("{{ok}} {1st}", 8),
        ("{first name}", 1),
        ("{name|a{b}", 1),
        ("{name}}", 7),
        ("{|x}", 1),
        ("{" + "n" * 33 + "}", 1),
    ],
)
def test_position_of_a_misplaced_brace_is_reported(text: str, position: int) -> None:
    with pytest.raises(MalformedTemplate) as raised:
        compile_template(text)
    assert raised.value.position == position
    assert str(raised.value).startswith(f"character {position}: ")
    assert compile_stored_template(text).plain == text  # an older release accepted it


@given(st.lists(st.text(min_size=1, max_size=20) | placeholders, max_size=8), st.data())
def test_written_texts_are_rendered_with_their_values(
    parts: list[str | Placeholder], data: st.DataObject
) -> None:
    template = compile_template("".join(map(as_written, parts)))
    needed = {part.name for part in parts if isinstance(part, Placeholder)}
    values = {name: data.draw(written) for name in sorted(needed)}
    expected = "".join(part if isinstance(part, str) else values[part.name] for part in parts)
    if expected:
        assert template.render(values) == expected
    assert (template.plain is None) == bool(needed)
    if not needed:
        assert template.plain == expected
    without = [p for p in parts if isinstance(p, Placeholder) and p.default is None]
    if without:
        with pytest.raises(MissingAttribute) as raised:
            template.render({})
        assert raised.value.name == without[0].name
    assert set(template.required) == {p.name for p in without} - CLIENT_FIELDS


@given(written)
def test_escaped_braces_leave_a_text_plain(text: str) -> None:
    assert compile_template(escaped(text)).plain == text


@given(braces | st.lists(literals | placeholders.map(as_written) | braces).map("".join))
def test_schema_pattern_and_parser_accept_the_same_texts(text: str) -> None:
    try:
        compile_template(text)
        fault = None
    except MalformedTemplate as raised:
        fault = raised
    assert (re.fullmatch(TEXT_PATTERN[1:-1], text) is not None) == (fault is None)
    assert fault is None or text[fault.position - 1] in "{}"


def test_missing_attribute_is_reported() -> None:
    with pytest.raises(MissingAttribute, match=r"^missing attribute: surname$"):
        compile_template("{name} {surname}").render(ANNA)


def test_empty_and_too_long_texts_are_rejected() -> None:
    with pytest.raises(RenderingError, match="empty"):
        compile_template("{tag}").render(ANNA)
    fits = compile_template("{a}" * 20)
    assert len(fits.render({"a": "x" * (MAX_RENDERED_LENGTH // 20)})) == MAX_RENDERED_LENGTH
    with pytest.raises(RenderedTextTooLong, match=f"{MAX_RENDERED_LENGTH + 20} characters"):
        fits.render({"a": "x" * (MAX_RENDERED_LENGTH // 20 + 1)})


def test_template_is_compiled_once() -> None:
    assert compile_template("Hi, {name}") is compile_template("Hi, {name}")
    assert compile_template("Hi, {name}") == Template(("Hi, ", Placeholder("name", None)))


@given(names)
def test_valid_attribute_names_except_client_fields(name: str) -> None:
    assert is_attribute_name(name) == (name not in CLIENT_FIELDS)


@pytest.mark.parametrize("name", ["", "1st", "first name", "é", "a-b", "n" * 33, "phone", "a\n"])
def test_invalid_attribute_names_are_rejected(name: str) -> None:
    assert not is_attribute_name(name)
