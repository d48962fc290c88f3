"""The lists from which the recipients of a mailing are chosen, beside the fields to type into."""

from typing import NamedTuple

from api.admin.forms.text_fields import split_list
from api.admin.presenters.formatting import zone_label
from api.mailings.recipient_choices import list_choices

FIELDS = ("tags", "operator_codes", "timezones")
# Values with these characters cannot be listed in a field.
SEPARATORS = frozenset(",;\n")


class ShownChoice(NamedTuple):
    """A value of the list, and how many clients have it."""

    value: str
    label: str
    clients: int
    chosen: bool


class ChoiceList(NamedTuple):
    """The list of a field, and the values in its text field: those that the list does not have."""

    choices: list[ShownChoice]
    others: str

    @property
    def chosen(self) -> bool:
        return any(choice.chosen for choice in self.choices)


def present_choices(fields: dict[str, str]) -> dict[str, ChoiceList]:
    """Return the lists of a form with these fields."""
    found = list_choices()
    lists = {}
    for name in FIELDS:
        given = split_list(fields[name])
        choices = [
            ShownChoice(
                value, zone_label(value) if name == "timezones" else value, n, value in given
            )
            for value, n in found.get(name, [])
            if SEPARATORS.isdisjoint(value)
        ]
        listed = {choice.value for choice in choices}
        lists[name] = ChoiceList(choices, ", ".join(v for v in given if v not in listed))
    return lists
