"""Tests against real services: PostgreSQL, Valkey, the simulated provider and real processes."""
