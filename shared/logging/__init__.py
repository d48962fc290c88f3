"""Structured logging: set-up (`log_config`), redaction of secrets and phones, list of events."""
