"""What people should know about a text: what costs segments, and misspelt placeholders."""

from api.mailings.attribute_names import list_attribute_names
from api.mailings.preview_result import PreviewWarning
from shared.domain.attributes import CLIENT_FIELDS
from shared.domain.templates import Template
from shared.domain.text_costs import (
    CostlyLinks,
    ForeignCharacters,
    MisspeltPlaceholder,
    TextFinding,
    WideCharacters,
    find_costs,
    find_misspelt_placeholders,
)

MAX_NAMES = 500


def find_in_text(template: Template, longest: str) -> list[TextFinding]:
    """Return the findings about a text, whose longest rendered form costs the most."""
    findings: list[TextFinding] = [*find_costs(longest)]
    if template.plain is None:
        known = [*sorted(CLIENT_FIELDS), *list_attribute_names(MAX_NAMES)]
        findings += find_misspelt_placeholders(template, known)
    return findings


def warn_of(finding: TextFinding) -> PreviewWarning:
    """Describe a finding in the API."""
    match finding:
        case MisspeltPlaceholder(name, suggestion):
            return PreviewWarning(
                "misspelt_placeholder", f"No client has {{{name}}}: did you mean {{{suggestion}}}?"
            )
        case ForeignCharacters(characters, now, without):
            detail = f"{characters} are not of the GSM-7 alphabet"
            code = "foreign_characters"
        case WideCharacters(characters, now, without):
            code, detail = "wide_characters", f"{characters} count as two characters each"
        case CostlyLinks(units, now, without):
            code, detail = "costly_links", f"links take {units} characters"
    return PreviewWarning(code, f"{detail}: {now} segments instead of {without} without them.")
