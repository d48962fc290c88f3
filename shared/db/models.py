"""Tables of clients, mailings, batches, messages, attempts and minutes.

The models are the schema of record: every rule that concerns a single row is a constraint here, and
migrations must produce exactly these tables (see metadata.py).
`batches`, `messages` and `attempts` are partitioned by ranges of `mailing_id` (see partitions.py),
so their keys include it. They have no foreign keys: checking them at launch would cost more than
inserting the rows.
"""

from datetime import datetime, time
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Identity,
    Index,
    Integer,
    Sequence,
    SmallInteger,
    UniqueConstraint,
)
from sqlalchemy import text as sql
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import Mapped, mapped_column

from shared.db.base import FALSE, NOW, ZERO, Base
from shared.domain.statuses import MailingStatus, MessageStatus

SUMS = ("sent", "failed", "expired", "cancelled")
message_ids = Sequence("message_ids", metadata=Base.metadata)
batch_ids = Sequence("batch_ids", metadata=Base.metadata)
# The server that gave the latest ids of each: see take_ids() in the migrations.
message_ids_server = Sequence("message_ids_server", metadata=Base.metadata)
batch_ids_server = Sequence("batch_ids_server", metadata=Base.metadata)


class Client(Base):
    """A recipient. Deletion erases the personal data and keeps the row, with its id.

    `last_import_id` is the latest import that created or changed it.
    """

    __tablename__ = "clients"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    phone: Mapped[int | None]
    operator_code: Mapped[str | None]
    operator_code_given: Mapped[bool] = mapped_column(server_default=FALSE)
    tag: Mapped[str | None]
    timezone: Mapped[str | None]
    attributes: Mapped[dict[str, str]] = mapped_column(JSONB, server_default=sql("'{}'"))
    version: Mapped[int] = mapped_column(Integer, server_default=sql("1"))
    last_import_id: Mapped[int | None]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    updated_at: Mapped[datetime] = mapped_column(server_default=NOW)
    deleted_at: Mapped[datetime | None]

    __table_args__ = (
        UniqueConstraint("phone", name="clients_phone_key"),
        CheckConstraint("phone BETWEEN 70000000000 AND 79999999999", name="clients_phone_format"),
        CheckConstraint("operator_code ~ '^[0-9]{3}$'", name="clients_operator_code_format"),
        CheckConstraint("char_length(tag) <= 64", name="clients_tag_length"),
        CheckConstraint(
            "CASE WHEN deleted_at IS NULL"
            " THEN num_nulls(phone, operator_code, tag, timezone) = 0"
            " ELSE num_nonnulls(phone, operator_code, tag, timezone) = 0"
            " AND attributes = '{}' END",
            name="clients_tombstone",
        ),
        CheckConstraint("jsonb_typeof(attributes) = 'object'", name="clients_attributes_object"),
        Index("clients_operator_code", "operator_code", "id"),
        Index("clients_tag", "tag", "id"),
        Index("clients_timezone", "timezone", "id"),
        Index("clients_updated_at", "updated_at"),
    )


class Mailing(Base):
    """A text to be sent to all clients that match a filter, between two instants.

    A mailing is `settled` if no message is pending and its state has been applied to all batches;
    the sweep and the dispatchers read only unsettled ones. `policy_version` is the policy in force
    at its launch, and `audience_limit` the smaller limit of the mailing and that policy: see
    policy.py. It is not launched before `launch_not_before`, which the launch delay sets. Settling
    stores the counts here (a late acceptance changes them afterwards); until then they are the sums
    over the batches: see mailing_counts.py.
    """

    __tablename__ = "mailings"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    name: Mapped[str | None]
    text: Mapped[str]
    text_version: Mapped[int] = mapped_column(Integer, server_default=sql("1"))
    version: Mapped[int] = mapped_column(Integer, server_default=sql("1"))
    start_at: Mapped[datetime]
    end_at: Mapped[datetime]
    operator_codes: Mapped[list[str]] = mapped_column(server_default=sql("'{}'"))
    tags: Mapped[list[str]] = mapped_column(server_default=sql("'{}'"))
    timezones: Mapped[list[str]] = mapped_column(server_default=sql("'{}'"))
    attributes: Mapped[dict[str, str]] = mapped_column(JSONB, server_default=sql("'{}'"))
    exclude_mailing_ids: Mapped[list[int]] = mapped_column(
        ARRAY(BigInteger), server_default=sql("'{}'")
    )
    phones: Mapped[list[int]] = mapped_column(ARRAY(BigInteger), server_default=sql("'{}'"))
    window_from: Mapped[time | None]
    window_to: Mapped[time | None]
    rate_limit: Mapped[int | None] = mapped_column(Integer)
    max_audience: Mapped[int | None]
    stop_when: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    budget: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    launch_not_before: Mapped[datetime | None]
    policy_version: Mapped[int | None] = mapped_column(Integer)
    audience_limit: Mapped[int | None]
    status: Mapped[MailingStatus] = mapped_column(server_default=sql("'scheduled'"))
    pause_reason: Mapped[str | None]
    audience: Mapped[int] = mapped_column(server_default=ZERO)
    audience_complete: Mapped[bool] = mapped_column(server_default=FALSE)
    launch_last_client_id: Mapped[int | None]
    launched_client_id: Mapped[int] = mapped_column(server_default=ZERO)
    retry_version: Mapped[int] = mapped_column(Integer, server_default=ZERO)
    answer_round: Mapped[int] = mapped_column(Integer, server_default=ZERO)
    settled: Mapped[bool] = mapped_column(server_default=FALSE)
    sent: Mapped[int] = mapped_column(server_default=ZERO)
    failed: Mapped[int] = mapped_column(server_default=ZERO)
    expired: Mapped[int] = mapped_column(server_default=ZERO)
    cancelled: Mapped[int] = mapped_column(server_default=ZERO)
    cancelled_opted_out: Mapped[int] = mapped_column(server_default=ZERO)
    in_doubt: Mapped[int] = mapped_column(server_default=ZERO)
    sent_segments: Mapped[int] = mapped_column(server_default=ZERO)
    in_doubt_segments: Mapped[int] = mapped_column(server_default=ZERO)
    request_id: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    updated_at: Mapped[datetime] = mapped_column(server_default=NOW)
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    deleted_at: Mapped[datetime | None]

    @property
    def launch_at(self) -> datetime:
        """The instant from which the mailing may be launched."""
        return max(self.start_at, self.launch_not_before or self.start_at)

    __table_args__ = (
        CheckConstraint("start_at < end_at", name="mailings_start_before_end"),
        CheckConstraint("char_length(text) BETWEEN 1 AND 2000", name="mailings_text_length"),
        CheckConstraint("char_length(name) BETWEEN 1 AND 200", name="mailings_name_length"),
        CheckConstraint(
            "(window_from IS NULL) = (window_to IS NULL) AND window_from <> window_to",
            name="mailings_window",
        ),
        CheckConstraint("rate_limit > 0", name="mailings_rate_limit"),
        CheckConstraint("max_audience > 0", name="mailings_max_audience"),
        # A trigger sets the reason `manual` and clears reasons, for code that does not.
        CheckConstraint(
            "(status = 'paused') = (pause_reason IS NOT NULL)", name="mailings_pause_reason"
        ),
        CheckConstraint(
            "pause_reason IN ('manual', 'refusals', 'audience_limit', 'budget')",
            name="mailings_pause_reason_known",
        ),
        CheckConstraint("jsonb_typeof(attributes) = 'object'", name="mailings_attributes_object"),
        CheckConstraint(
            "cardinality(exclude_mailing_ids) <= 20", name="mailings_exclude_mailing_ids_length"
        ),
        CheckConstraint("cardinality(phones) <= 10000", name="mailings_phones_length"),
        CheckConstraint(
            "started_at IS NOT NULL OR status NOT IN ('running', 'finished')",
            name="mailings_started",
        ),
        CheckConstraint(
            "(finished_at IS NOT NULL) = (status IN ('finished', 'cancelled'))",
            name="mailings_finished",
        ),
        CheckConstraint(
            "NOT settled OR (status IN ('finished', 'cancelled')"
            " AND audience = sent + failed + expired + cancelled)",
            name="mailings_settled",
        ),
        CheckConstraint(
            "deleted_at IS NULL OR status IN ('finished', 'cancelled')",
            name="mailings_deleted",
        ),
        Index("mailings_open", "id", postgresql_where=sql("NOT settled")),
        # At every scrape the metrics sum over all settled mailings, with an index-only scan.
        Index(
            "mailings_settled",
            "status",
            postgresql_include=[
                *("deleted_at", *SUMS),
                *("sent_segments", "in_doubt_segments", "cancelled_opted_out"),
            ],
            postgresql_where=sql("settled"),
        ),
        Index("mailings_listed", "id", postgresql_where=sql("deleted_at IS NULL")),
        Index(
            "mailings_by_status",
            "status",
            "id",
            postgresql_where=sql("deleted_at IS NULL"),
        ),
    )


class MailingText(Base):
    """Each version of a mailing's text; a batch keeps the version it was first claimed with."""

    __tablename__ = "mailing_texts"

    mailing_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    version: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    text: Mapped[str]


PARTITIONED = {"postgresql_partition_by": "RANGE (mailing_id)"}


class Batch(Base):
    """Up to BATCH_SIZE messages of one mailing and one time zone: the unit of claim and retry.

    `due_at` is set if and only if messages are pending. `retry_at` is the earliest time that the
    backoff permits; it is stored so that `due_at` can be recomputed when the window changes.
    `token` is the fence: each claim increments it, and a worker's report applies only under the
    current token, except for acceptances. `flush` is the number of the last report applied.
    `reserved` are segments that may still be charged to budgets: see budgets.py.
    `cancelled_opted_out` is the part of `cancelled` whose clients have opted out.
    """

    __tablename__ = "batches"

    mailing_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    first_id: Mapped[int]
    last_id: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    due_at: Mapped[datetime | None]
    retry_at: Mapped[datetime | None]
    leased_until: Mapped[datetime | None]
    token: Mapped[int] = mapped_column(Integer, server_default=ZERO)
    flush: Mapped[int] = mapped_column(Integer, server_default=ZERO)
    attempt: Mapped[int] = mapped_column(Integer, server_default=ZERO)
    text_version: Mapped[int | None] = mapped_column(Integer)
    retry_version: Mapped[int] = mapped_column(Integer, server_default=ZERO)
    size: Mapped[int] = mapped_column(Integer)
    pending: Mapped[int] = mapped_column(Integer)
    sent: Mapped[int] = mapped_column(Integer, server_default=ZERO)
    failed: Mapped[int] = mapped_column(Integer, server_default=ZERO)
    expired: Mapped[int] = mapped_column(Integer, server_default=ZERO)
    cancelled: Mapped[int] = mapped_column(Integer, server_default=ZERO)
    cancelled_opted_out: Mapped[int] = mapped_column(Integer, server_default=ZERO)
    in_doubt: Mapped[int] = mapped_column(Integer, server_default=ZERO)
    has_attempts: Mapped[bool] = mapped_column(server_default=FALSE)
    timezone: Mapped[str]
    sent_segments: Mapped[int] = mapped_column(Integer, server_default=ZERO)
    in_doubt_segments: Mapped[int] = mapped_column(Integer, server_default=ZERO)
    reserved: Mapped[int] = mapped_column(Integer, server_default=ZERO)

    __table_args__ = (
        CheckConstraint(
            "least(pending, sent, failed, expired, cancelled, in_doubt) >= 0",
            name="batches_counts",
        ),
        CheckConstraint(
            "size = pending + sent + failed + expired + cancelled", name="batches_size"
        ),
        CheckConstraint("in_doubt <= size - sent", name="batches_in_doubt"),
        CheckConstraint("(pending > 0) = (due_at IS NOT NULL)", name="batches_due"),
        Index(
            "batches_due_at",
            "mailing_id",
            "due_at",
            postgresql_where=sql("due_at IS NOT NULL"),
        ),
        Index("batches_reserved", "mailing_id", postgresql_where=sql("reserved > 0")),
        PARTITIONED,
    )


class Message(Base):
    """One message to one client. Its id is the provider's msgId: the idempotency key of sending.

    `segments` stay null where a text without placeholders was sent and never in doubt.
    """

    __tablename__ = "messages"

    mailing_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    client_id: Mapped[int]
    batch_id: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    sent_at: Mapped[datetime | None]
    status: Mapped[MessageStatus] = mapped_column(server_default=sql("'pending'"))
    attempts: Mapped[int] = mapped_column(SmallInteger, server_default=ZERO)
    in_doubt: Mapped[bool] = mapped_column(server_default=FALSE)
    reason: Mapped[str | None]
    segments: Mapped[int | None] = mapped_column(SmallInteger)

    __table_args__ = (
        UniqueConstraint("mailing_id", "client_id", name="messages_mailing_client_key"),
        CheckConstraint("(status = 'sent') = (sent_at IS NOT NULL)", name="messages_sent_at"),
        CheckConstraint("NOT (in_doubt AND status = 'sent')", name="messages_in_doubt"),
        PARTITIONED,
    )


class Attempt(Base):
    """A request to the provider that was not accepted, with the phone and text that were sent.

    A retry sends exactly the same phone and text. Deleting the client erases both.
    """

    __tablename__ = "attempts"

    mailing_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    message_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    at: Mapped[datetime] = mapped_column(primary_key=True)
    outcome: Mapped[str]
    reason: Mapped[str]
    http_status: Mapped[int | None] = mapped_column(SmallInteger)
    latency_ms: Mapped[int] = mapped_column(Integer)
    excerpt: Mapped[str]
    phone: Mapped[int | None]
    text: Mapped[str | None]

    __table_args__ = (PARTITIONED,)
