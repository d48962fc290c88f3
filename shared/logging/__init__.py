"""Structured logging: set-up, redaction and the list of events."""
