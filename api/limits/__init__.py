"""Limits of the load that one caller causes: requests per second, and expensive work under way."""
