"""Each log event that concerns a client, mailing or message carries its id where it is logged."""

import ast
from collections.abc import Iterator
from typing import NamedTuple

from shared.logging.events import EVENTS
from tests.support.log_subjects import ABOUT_NONE, SUBJECTS, ids_in
from tests.unit.test_vocabulary import LOG_ON_COMMIT, ROOT, event_names

# Fields that an expression adds to a line.
KNOWN_FIELDS = {"batch.log_fields": {"mailing_id", "batch_id"}}
# Positional arguments after the event that add fields.
POSITIONAL = {
    "log_clients_on_commit": ("client_ids",),
    "log_messages_on_commit": ("message_ids", "client_ids"),
}


class LoggedEvent(NamedTuple):
    place: str
    event: str
    fields: set[str]


def test_every_event_is_about_something_or_known_to_be_about_none() -> None:
    about_none = [event for events in ABOUT_NONE.values() for event in events]
    assert len(about_none) == len(set(about_none))
    unknown = EVENTS.keys() - SUBJECTS.keys() - set(about_none)
    assert not unknown, "say in tests/support/log_subjects.py whose ids its lines must carry"
    assert not set(about_none) - EVENTS.keys()
    assert not SUBJECTS.keys() & set(about_none)


def test_lines_of_workers_carry_the_ids_of_their_subjects() -> None:
    """Lines of the API get theirs from the request: see test_logs_of_a_client."""
    logged = [each for each in logged_events("worker", "shared") if each.event in SUBJECTS]
    in_api = {each.event for each in logged_events("api")}
    assert SUBJECTS.keys() - in_api <= {each.event for each in logged}
    lacking = [
        f"{each.place} {each.event}: {sorted(absent)}"
        for each in logged
        if (absent := SUBJECTS[each.event] - ids_in(each.fields))
    ]
    assert not lacking


def logged_events(*directories: str) -> Iterator[LoggedEvent]:
    for directory in directories:
        for path in sorted((ROOT / directory).rglob("*.py")):
            for function in ast.walk(ast.parse(path.read_text())):
                if not isinstance(function, ast.FunctionDef):
                    continue
                for node in ast.walk(function):
                    place = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
                    for event in event_names(node):
                        yield LoggedEvent(place, event, fields_of(node, function))


def fields_of(node: ast.AST, function: ast.FunctionDef) -> set[str]:
    """Return the names of the fields that a call or a dictionary gives to a line."""
    if isinstance(node, ast.Dict):
        return dict_fields(node, function)
    assert isinstance(node, ast.Call)
    fields: set[str] = set()
    for keyword in node.keywords:
        fields |= {keyword.arg} if keyword.arg else expanded_fields(keyword.value, function)
    if isinstance(node.func, ast.Name) and node.func.id in LOG_ON_COMMIT:
        fields.update(POSITIONAL.get(node.func.id, ())[: len(node.args) - 2])
    return fields


def dict_fields(node: ast.Dict, function: ast.FunctionDef) -> set[str]:
    fields: set[str] = set()
    for key, value in zip(node.keys, node.values, strict=True):
        if key is None:
            fields |= expanded_fields(value, function)
        elif isinstance(key, ast.Constant):
            fields.add(str(key.value))
    return fields


def expanded_fields(value: ast.expr, function: ast.FunctionDef) -> set[str]:
    """Return the keys of what `**value` adds: a dictionary made in the same function."""
    if isinstance(value, ast.Dict):
        return dict_fields(value, function)
    if not isinstance(value, ast.Name):
        return KNOWN_FIELDS.get(ast.unparse(value), set())
    fields: set[str] = set()
    for node in ast.walk(function):
        if isinstance(node, ast.Assign):
            targets = node.targets
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            targets = [node.target]
        else:
            continue
        for target in targets:
            if isinstance(target, ast.Name) and target.id == value.id:
                assert node.value is not None
                if not isinstance(node.value, ast.Name):
                    fields |= expanded_fields(node.value, function)
            elif (
                isinstance(target, ast.Subscript)
                and ast.unparse(target.value) == value.id
                and isinstance(target.slice, ast.Constant)
            ):
                fields.add(str(target.slice.value))
    return fields
