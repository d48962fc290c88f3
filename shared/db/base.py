"""The declarative base of all tables, its column types and common defaults."""

from datetime import datetime, time

from sqlalchemy import ARRAY, BigInteger, Boolean, DateTime, Enum, LargeBinary, Text, Time
from sqlalchemy import text as sql
from sqlalchemy.orm import DeclarativeBase, registry

from shared.domain.scopes import Scope
from shared.domain.statuses import MailingStatus, MessageStatus

NOW = sql("now()")
ZERO = sql("0")
FALSE = sql("false")
MAILING_STATUS = Enum(
    MailingStatus, name="mailing_status", values_callable=lambda e: [m.value for m in e]
)
MESSAGE_STATUS = Enum(
    MessageStatus, name="message_status", values_callable=lambda e: [m.value for m in e]
)

TOKEN_SCOPE = Enum(Scope, name="token_scope", values_callable=lambda e: [m.value for m in e])


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
            MailingStatus: MAILING_STATUS,
            MessageStatus: MESSAGE_STATUS,
            Scope: TOKEN_SCOPE,
        }
    )
