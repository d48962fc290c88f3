"""The list of mailings: what a person searches for, a page in the chosen order, and the hits."""

from collections.abc import Mapping
from datetime import date, datetime, timedelta
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from flask_babel import get_timezone, lazy_gettext
from sqlalchemy import ColumnElement, func, select, text, tuple_
from sqlalchemy.orm import InstrumentedAttribute, aliased

from api.admin.forms.field_errors import field_text
from api.admin.forms.text_fields import read_id
from api.admin.presenters.live_figures import MAILINGS_WITH_PARTS
from api.db import db, fetch_all, limited_search
from api.mailings.service import MailingSearch
from api.schemas.fields import MAX_SEARCH_LENGTH
from shared.db.models import Mailing
from shared.domain.statuses import MailingStatus

PAGE_ROWS = 20
STATUSES = tuple(str(status) for status in MailingStatus)
BY_IDS = text(f"{MAILINGS_WITH_PARTS} AND m.id = ANY (:ids)")


class Order(NamedTuple):
    """An order of the list: by a column, and by id among equals."""

    label: Any
    column: InstrumentedAttribute[Any]
    descending: bool


NEWEST = "newest"
ORDERS = {
    NEWEST: Order(lazy_gettext("Newest first"), Mailing.id, True),
    "oldest": Order(lazy_gettext("Oldest first"), Mailing.id, False),
    "latest": Order(lazy_gettext("Latest start first"), Mailing.start_at, True),
    "earliest": Order(lazy_gettext("Earliest start first"), Mailing.start_at, False),
    "largest": Order(lazy_gettext("Most recipients first"), Mailing.audience, True),
}


class WantedMailings(NamedTuple):
    """The fields of the search form as they were submitted; `sort` is a key of ORDERS."""

    q: str
    status: str
    since: str
    until: str
    sort: str

    @classmethod
    def from_args(cls, args: Mapping[str, str]) -> "WantedMailings":
        given = {name: field_text(args, name) for name in cls._fields}
        return cls(
            given["q"][:MAX_SEARCH_LENGTH],
            given["status"] if given["status"] in STATUSES else "",
            given["since"] if read_date(given["since"]) else "",
            given["until"] if read_date(given["until"]) else "",
            given["sort"] if given["sort"] in ORDERS else NEWEST,
        )

    def query(self, **changes: str) -> dict[str, str]:
        """Return the parameters of a link to this search with changes, without empty ones."""
        fields = self._replace(**changes)._asdict()
        return {n: v for n, v in fields.items() if v and (n, v) != ("sort", NEWEST)}

    @property
    def searched(self) -> bool:
        """Whether anything but the status and the order is chosen."""
        return bool(self.q or self.since or self.until)

    def search(self, *, any_status: bool = False) -> MailingSearch:
        """Return the search for these values; days are those of the viewer's time zone."""
        since, until = read_date(self.since), read_date(self.until)
        return MailingSearch(
            status=None if any_status or not self.status else [MailingStatus(self.status)],
            search=self.q or None,
            start_since=None if since is None else day_start(since),
            start_until=None if until is None else day_start(until + timedelta(days=1)),
        )


def read_date(given: str) -> date | None:
    """Return the day that a date field holds; None if it holds none."""
    try:
        found = date.fromisoformat(given)
    except ValueError:
        return None
    return found if 1970 <= found.year < 2200 else None


def day_start(day: date) -> datetime:
    """Return the first instant of a day in the viewer's time zone."""
    return datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(str(get_timezone())))


def find_mailings(
    wanted: WantedMailings, before: str
) -> tuple[list[dict[str, Any]], int | None, dict[str, int]]:
    """Return a page of mailings, the id that continues it, and the hits by status.

    Raise InvalidFields if the search takes too long.
    """
    order = ORDERS[wanted.sort]
    found = select(Mailing.id).where(*wanted.search().conditions())
    before_id = read_id(before)
    if before_id is not None:
        found = found.where(_follow(order, before_id))
    keys = [order.column] if order.column is Mailing.id else [order.column, Mailing.id]
    found = found.order_by(*(key.desc() if order.descending else key for key in keys))
    counted = select(Mailing.status, func.count()).group_by(Mailing.status)
    with limited_search("q"):
        ids = list(db.session.scalars(found.limit(PAGE_ROWS + 1)))
        hits = db.session.execute(counted.where(*wanted.search(any_status=True).conditions())).all()
    rows = {row["id"]: row for row in fetch_all(BY_IDS, ids=ids[:PAGE_ROWS])}
    more = ids[PAGE_ROWS - 1] if len(ids) > PAGE_ROWS else None
    shown = [rows[mailing_id] for mailing_id in ids[:PAGE_ROWS] if mailing_id in rows]
    return shown, more, {str(status): count for status, count in hits}


def _follow(order: Order, before_id: int) -> ColumnElement[bool]:
    """Match the mailings that follow one in the order; it may have been deleted meanwhile."""
    follows: ColumnElement[bool]
    if order.column is Mailing.id:
        follows = Mailing.id < before_id if order.descending else Mailing.id > before_id
        return follows
    last = aliased(Mailing)
    value = select(getattr(last, order.column.key)).where(last.id == before_id).scalar_subquery()
    key, place = tuple_(order.column, Mailing.id), tuple_(value, before_id)
    follows = key < place if order.descending else key > place
    return follows
