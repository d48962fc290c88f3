"""The language of errors: the `title`, `detail` and `errors` that Accept-Language asks for.

Only problems and the errors of rows are translated, so other requests cost nothing. Texts are in
English, whose translations are in api/translations; codes are the same in every language.
"""

from functools import cache
from pathlib import Path

from babel.support import NullTranslations, Translations
from flask import Request, Response, after_this_request, request

from shared.domain.error_texts import ErrorText

TRANSLATIONS_PATH = Path(__file__).parents[1] / "translations"
SOURCE_LANGUAGE = "en"
LANGUAGES = (SOURCE_LANGUAGE, "ru")


def choose_language(request: Request) -> str:
    """Return the one of LANGUAGES that a request prefers, also by a region as in ru-RU."""
    for tag, quality in sorted(request.accept_languages, key=lambda each: -each[1]):
        language = tag.partition("-")[0].lower()
        if quality > 0 and language in LANGUAGES:
            return language
        if tag == "*":
            break
    return SOURCE_LANGUAGE


def negotiate_language() -> str:
    """Return the language of the present request's answer, and name it in the answer's headers."""
    language = choose_language(request)

    @after_this_request
    def name_language(response: Response) -> Response:
        response.headers["Content-Language"] = language
        response.vary.add("Accept-Language")
        return response

    return language


def translate(text: str, language: str) -> str:
    """Return a text in this language; in English if the catalogue lacks it."""
    if language == SOURCE_LANGUAGE:
        return text
    if not isinstance(text, ErrorText):
        return str(_load_translations(language).ugettext(text))
    translated = str(_load_translations(language).ugettext(text.template))
    parts = {
        name: translate(value, language) if isinstance(value, ErrorText) else value
        for name, value in text.values.items()
    }
    if not parts:
        return translated
    is_missing = translated == text.template and parts == text.values
    return text if is_missing else translated % parts


@cache
def _load_translations(language: str) -> NullTranslations:
    return Translations.load(TRANSLATIONS_PATH, [language])
