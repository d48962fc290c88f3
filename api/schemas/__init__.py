"""Base models, field types and examples that the schemas of all resources share."""
