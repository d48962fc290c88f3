"""Prepare data for the templates of the admin UI: formatting, labels and summaries."""
