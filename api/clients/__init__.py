"""The directory of clients: REST routes, imports from files."""
