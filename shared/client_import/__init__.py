"""Import clients from CSV files: read, validate and merge."""
