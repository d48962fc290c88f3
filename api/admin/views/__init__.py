"""Pages of the admin UI, one module per subject."""
