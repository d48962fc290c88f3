"""Measure what the service can do: `make bench`, or `make bench-quick` in about a minute."""
