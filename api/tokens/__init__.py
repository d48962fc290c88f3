"""API tokens: create, list and revoke."""
