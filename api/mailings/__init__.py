"""Mailings: REST routes, actions, previews, test sends, messages and statistics."""
