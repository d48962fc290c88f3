"""Dispatch due messages to the provider: claim, send and flush."""
