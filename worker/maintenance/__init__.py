"""Periodic and background work: sweep, retention, imports and daily reports."""
