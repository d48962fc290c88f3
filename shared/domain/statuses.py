"""Statuses of mailings, messages and imports, and the reasons of a message's status."""

from enum import StrEnum


class MailingStatus(StrEnum):
    """scheduled → running ⇄ paused → finished; any of the first three → cancelled."""

    SCHEDULED = "scheduled"
    RUNNING = "running"
    PAUSED = "paused"
    FINISHED = "finished"
    CANCELLED = "cancelled"


class PauseReason(StrEnum):
    """Why a mailing is paused: a person did it, or a rule."""

    MANUAL = "manual"
    REFUSALS = "refusals"
    AUDIENCE_LIMIT = "audience_limit"
    BUDGET = "budget"


class MessageStatus(StrEnum):
    """pending → sent | failed | expired | cancelled. `sent` means accepted by the provider."""

    PENDING = "pending"
    SENT = "sent"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


class Reason(StrEnum):
    """Why a message has its final status. `failed` messages append the provider's response."""

    END = "the mailing ended first"
    WINDOW = "the window never opened before the end"
    CLIENT_DELETED = "client deleted"
    OPTED_OUT = "opted out"
    MAILING_CANCELLED = "mailing cancelled"
    MAILING_DELETED = "mailing deleted"
    REJECTED = "rejected"
    ATTEMPTS = "attempts exhausted"
    TIME_ZONE = "time zone unknown"
    CLIENT_DATA = "client data unusable"


class ImportStatus(StrEnum):
    """receiving → running → finished | failed. Imports are not shown while `receiving`."""

    RECEIVING = "receiving"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
