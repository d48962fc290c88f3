"""The report's language: texts of its catalogue, numbers, days and times as Babel formats them.

The report has a catalogue of its own: its language is a setting (REPORT_LANGUAGE), not a request's,
and workers, which send it, do not have the admin UI with its catalogue.
"""

import math
from datetime import date, datetime
from decimal import Decimal
from functools import cache
from pathlib import Path
from zoneinfo import ZoneInfo

from babel import Locale
from babel.dates import format_date
from babel.numbers import format_decimal, format_percent
from babel.support import NullTranslations, Translations

TRANSLATIONS_PATH = Path(__file__).parent / "translations"
DATE_FORMATS = {"en": "d MMM y", "ru": "d MMMM y"}


class Language:
    """Formats texts, numbers, days and times for one of DATE_FORMATS' languages."""

    def __init__(self, code: str):
        self.code = code
        self.locale = Locale.parse(code)
        # English texts are the catalogue's source, so they have no translations.
        self.translations: NullTranslations = Translations.load(TRANSLATIONS_PATH, [code])

    def gettext(self, message: str, **values: object) -> str:
        text: str = self.translations.ugettext(message)
        return text % values if values else text

    def ngettext(self, singular: str, plural: str, number: int, **values: object) -> str:
        """Return the plural form for `number`, which is formatted as the value `n`."""
        text: str = self.translations.ungettext(singular, plural, number)
        return text % {"n": self.format_number(number), **values}

    def format_number(self, number: float, pattern: str | None = None) -> str:
        return format_decimal(number, pattern, self.locale).replace("-", "−")

    def format_money(self, amount: Decimal) -> str:
        return format_decimal(amount, "#,##0.00", self.locale)

    def format_share(self, share: float) -> str:
        """Format a share of 0 to 1 in percent, rounded down: only all of them are 100 %."""
        pattern = self.locale.percent_formats[None].pattern.replace("0", "0.0", 1)
        return format_percent(math.floor(share * 1000) / 1000, pattern, self.locale)

    def format_duration(self, seconds: float) -> str:
        if seconds < 120:
            text = self.gettext("%(n)s s", n=self.format_number(seconds, "0.0"))
        elif seconds < 7200:
            text = self.gettext("%(n)s min", n=self.format_number(seconds / 60, "0"))
        else:
            text = self.gettext("%(n)s h", n=self.format_number(seconds / 3600, "0.0"))
        return text.replace(" ", "\u00a0")

    def format_day(self, day: date) -> str:
        return format_date(day, DATE_FORMATS[self.code], self.locale)

    def format_time(self, at: datetime, zone: str) -> str:
        """Format an instant with its zone: 22 Nov 2026, 09:00 MSK."""
        local = at.astimezone(ZoneInfo(zone))
        name = local.strftime("%Z")
        prefix = "UTC" if name[0] in "+-" else ""
        return f"{self.format_day(local.date())}, {local:%H:%M} {prefix}{name}"


get_language = cache(Language)
