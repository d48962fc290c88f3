"""The declarative base of all tables, its column types and common defaults."""

from datetime import datetime, time
from enum import StrEnum

from sqlalchemy import ARRAY, BigInteger, Boolean, DateTime, Enum, LargeBinary, Text, Time
from sqlalchemy import text as sql
from sqlalchemy.orm import DeclarativeBase, registry

from shared.domain.scopes import Scope
from shared.domain.statuses import ImportStatus, MailingStatus, MessageStatus

NOW = sql("now()")
ZERO = sql("0")
FALSE = sql("false")


def make_enum(kind: type[StrEnum], name: str) -> Enum:
    """Return the column type that stores the values (not the names) of `kind`."""
    return Enum(kind, name=name, values_callable=lambda members: [m.value for m in members])


class Base(DeclarativeBase):
    """Base of all models: timestamps with time zone; texts that only checks limit."""

    registry = registry(
        type_annotation_map={
            int: BigInteger,
            str: Text,
            bool: Boolean,
            bytes: LargeBinary,
            datetime: DateTime(timezone=True),
            time: Time,
            list[str]: ARRAY(Text),
            ImportStatus: make_enum(ImportStatus, "import_status"),
            MailingStatus: make_enum(MailingStatus, "mailing_status"),
            MessageStatus: make_enum(MessageStatus, "message_status"),
            Scope: make_enum(Scope, "token_scope"),
        }
    )
