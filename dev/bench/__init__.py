"""Measures what the service can do: `make bench`, or `make bench-quick` in under a minute."""
