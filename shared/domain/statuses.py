"""The states of mailings and messages, and the reasons a message may carry."""

from enum import StrEnum


class MailingStatus(StrEnum):
    """scheduled → running ⇄ paused → finished; any of the first three → cancelled."""

    SCHEDULED = "scheduled"
    RUNNING = "running"
    PAUSED = "paused"
    FINISHED = "finished"
    CANCELLED = "cancelled"


class MessageStatus(StrEnum):
    """pending → sent | failed | expired | cancelled. `sent` means accepted by the provider."""

    PENDING = "pending"
    SENT = "sent"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


class Reason(StrEnum):
    """Why a message ended as it did. `failed` messages add what the provider answered."""

    END = "the mailing ended first"
    WINDOW = "the window never opened before the end"
    CLIENT_DELETED = "client deleted"
    OPTED_OUT = "opted out"
    MAILING_CANCELLED = "mailing cancelled"
    MAILING_DELETED = "mailing deleted"
    REJECTED = "rejected"
    ATTEMPTS = "attempts exhausted"


class ImportStatus(StrEnum):
    """receiving → running → finished | failed. One that is still being received is not shown."""

    RECEIVING = "receiving"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
