"""The schema's history, applied by `flask --app api db upgrade`."""
