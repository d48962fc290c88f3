"""Periodic and background work: sweep, bulk state changes, retention, imports, reports."""
