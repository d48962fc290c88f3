"""People who sign in to the admin UI, and their sessions."""
