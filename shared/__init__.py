"""Code that the API and the workers share: configuration, database, domain rules, queues, logs."""

__version__ = "1.0.0"
