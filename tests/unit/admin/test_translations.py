"""Every text of the admin UI is there in Russian, with all that is filled into it."""

import re
import subprocess
import sys
from pathlib import Path

from babel.messages.catalog import Catalog
from babel.messages.mofile import read_mo
from babel.messages.pofile import read_po
from flask import Flask
from flask_babel import Babel

from api.admin.presenters.import_errors import ROWS
from api.admin.presenters.labels import ENDS, OUTCOMES, reason
from shared.domain.statuses import Reason
from worker.provider.outcomes import Failure, Outcome

ADMIN = Path(__file__).parents[3] / "api" / "admin"
RUSSIAN = ADMIN / "translations" / "ru" / "LC_MESSAGES" / "messages.po"
FIELD = re.compile(r"%\(\w+\)s")


def said(tmp_path: Path) -> Catalog:
    """What the code and the templates say."""
    out = tmp_path / "messages.pot"
    subprocess.run(
        [
            *(sys.executable, "-m", "babel.messages.frontend", "-q", "extract"),
            *("-F", "translations/babel.cfg", "-k", "lazy_gettext", "-o", str(out), "."),
        ],
        cwd=ADMIN,
        check=True,
    )
    with out.open("rb") as file:
        return read_po(file)


def forms(catalog: Catalog) -> dict[str, list[str]]:
    """By text, or by its singular: how it is said."""
    return {
        message.id if isinstance(message.id, str) else message.id[0]: (
            [message.string] if isinstance(message.string, str) else list(message.string)
        )
        for message in catalog
        if message.id
    }


def test_every_text_is_translated(tmp_path: Path) -> None:
    with RUSSIAN.open("rb") as file:
        russian = read_po(file, locale="ru")
    texts = [message for message in said(tmp_path) if message.id]
    assert len(texts) > 300
    for text in texts:
        found = russian.get(text.id)
        assert found is not None, f"not in {RUSSIAN.name}: {text.id}"
        forms = found.string if isinstance(found.string, tuple) else (found.string,)
        assert len(forms) == (russian.num_plurals if text.pluralizable else 1), text.id
        ids = text.id if isinstance(text.id, tuple) else (text.id,)
        for form in forms:
            assert form, f"not translated: {text.id}"
            assert set(FIELD.findall(form)) == set(FIELD.findall(ids[-1])), text.id


def test_every_code_is_said_in_words() -> None:
    """Whatever the books, the provider's exchange and an import's reader keep as a code."""
    readers = source("shared/client_import/row_rules.py")
    codes = {
        *re.findall(r'InvalidCell\("([a-z_]+)"', readers),
        *re.findall(r'InvalidPhone\("([a-z_]+)"', source("shared/domain/phones.py")),
        *re.findall(r'CellError\(name, .*"([a-z_]+)"\)', readers),
        *re.findall(r'CellError\("", \w+, "([a-z_]+)"\)', source("api/clients/import_upload.py")),
    }
    assert len(codes) >= 10
    assert codes == set(ROWS)
    assert {str(outcome) for outcome in Outcome} <= set(OUTCOMES)
    assert {str(code) for code in (*Reason, *Failure)} <= set(ENDS)
    babel = Flask("texts")
    Babel(babel, locale_selector=lambda: "en")
    with babel.test_request_context():
        assert reason("rejected: http_400") == "refused by the provider: HTTP 400"
        assert reason("missing attribute: name") == "the client lacks “name”"
        assert reason("code_7") == "code 7"


def source(path: str) -> str:
    return (ADMIN.parents[1] / path).read_text()


def test_the_compiled_texts_are_those_of_the_source() -> None:
    with RUSSIAN.open("rb") as file:
        source = forms(read_po(file, locale="ru"))
    with RUSSIAN.with_suffix(".mo").open("rb") as file:
        compiled = forms(read_mo(file))
    assert compiled == source, (
        "compile them: pybabel compile -i messages.po -o messages.mo -l ru (docs/admin.md)"
    )


def test_no_text_of_a_template_is_left_out() -> None:
    """Words in a template stand inside of _(…)."""
    for template in sorted((ADMIN / "templates").rglob("*.html")):
        source = re.sub(r"{#.*?#}|{%.*?%}|{{.*?}}|<!--.*?-->", "", template.read_text(), flags=re.S)
        source = re.sub(r"<(code|pre)\b.*?</\1>", "", source, flags=re.S)
        text = re.sub(r"<[^>]*>", " ", source)
        words = re.findall(r"[A-Za-z]{3,}", text)
        assert not [
            word
            for word in words
            if word not in {"HTTP", "aria", "describedby", "docs", "invalid", "true"}
        ], f"{template.name}: {words}"
