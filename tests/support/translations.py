"""Checks of message catalogues: complete, compiled, and no text of a template left out."""

import ast
import re
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

from babel.messages.catalog import Catalog, Message
from babel.messages.mofile import read_mo
from babel.messages.pofile import read_po

GETTEXT = {"_", "gettext", "ngettext", "lazy_gettext", "N"}
FIELD = re.compile(r"%\(\w+\)s")
NAMES = {"REST API"}  # the same in every language
# Words that the trade does not use, and what it says instead.
REPLACED = {
    "насовсем": "безвозвратно",
    "предпросмотр": "предварительный просмотр",
    "проба": "тестовая отправка",
    "пробн": "тестовый",
    "отказавш": "отписавшийся",
}


def extract_texts(
    package: Path,
    target: Path,
    keywords: Collection[str] = ("-k", "lazy_gettext"),
    rules: str = "translations/babel.cfg",
) -> Catalog:
    """Return the texts that the package's code and templates translate; `target` is a new file."""
    subprocess.run(
        [
            *(sys.executable, "-P", "-m", "babel.messages.frontend", "-q", "extract"),
            *("-F", rules, *keywords, "-o", str(target), "."),
        ],
        cwd=package,
        check=True,
    )
    with target.open("rb") as file:
        return read_po(file)


def check_extractable(package: Path) -> None:
    """Fail where a text is translated inside an f-string, which Babel does not read before 3.12."""
    for path in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.JoinedStr):
                continue
            names = {call.func.id for call in ast.walk(node) if isinstance(call, ast.Call)
                     and isinstance(call.func, ast.Name)}  # fmt: skip
            assert not names & GETTEXT, f"{path}:{node.lineno}: translate it outside the f-string"


def check_all_translated(texts: Catalog, po_file: Path) -> None:
    """Fail unless the catalogue has every text in every plural form, with the same fields.

    Each form is Russian, and in the words of the trade.
    """
    with po_file.open("rb") as file:
        catalogue = read_po(file, locale="ru")
    for text in (message for message in texts if message.id):
        found = catalogue.get(text.id)
        assert found is not None, f"not in {po_file}: {text.id}"
        forms = _strings_of(found)
        assert len(forms) == (catalogue.num_plurals if text.pluralizable else 1), text.id
        ids = [text.id] if isinstance(text.id, str) else list(text.id)
        for form in forms:
            assert form, f"not translated: {text.id}"
            assert set(FIELD.findall(form)) == set(FIELD.findall(ids[-1])), text.id
            words = FIELD.sub("", form).lower()
            russian = re.search("[а-яё]", words) or not re.search("[a-z]{2}", words)
            assert russian or form in NAMES, f"not translated: {text.id}"
            for word, better in REPLACED.items():
                assert word not in words, f"{text.id}: write {better!r}, not {word!r}"


def check_compiled(po_file: Path) -> None:
    """Fail unless the compiled catalogue has the texts of its source."""
    with po_file.open("rb") as file:
        source = _strings(read_po(file, locale="ru"))
    with po_file.with_suffix(".mo").open("rb") as file:
        compiled = _strings(read_mo(file))
    assert compiled == source, (
        f"compile {po_file}: pybabel compile -i messages.po -o messages.mo -l ru (docs/admin.md)"
    )


def check_templates(templates: Collection[Path], allowed: Collection[str] = ()) -> None:
    """Fail if a template has words outside of `_(…)`, other than the allowed ones."""
    for template in templates:
        source = re.sub(r"{#.*?#}|{%.*?%}|{{.*?}}|<!--.*?-->", "", template.read_text(), flags=re.S)
        source = re.sub(r"<(code|pre)\b.*?</\1>", "", source, flags=re.S)
        words = re.findall(r"[A-Za-z]{3,}", re.sub(r"<[^>]*>", " ", source))
        assert not [word for word in words if word not in allowed], f"{template.name}: {words}"


def _strings(catalog: Catalog) -> dict[str, list[str]]:
    """Return the translations by text, or by its singular."""
    return {
        message.id if isinstance(message.id, str) else message.id[0]: _strings_of(message)
        for message in catalog
        if message.id
    }


def _strings_of(message: Message) -> list[str]:
    """Return the translation, in each of its plural forms."""
    return [message.string] if isinstance(message.string, str) else list(message.string or ())
