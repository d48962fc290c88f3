"""The policy of an installation: limits of all mailings, and the emergency stop."""
