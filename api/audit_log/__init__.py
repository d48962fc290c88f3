"""The audit log: who changed what, when, and in which request."""
