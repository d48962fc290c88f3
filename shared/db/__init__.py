"""Models and SQL that the API and the workers share."""
