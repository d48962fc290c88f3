"""What the API and the fleet both need: settings, the data model, the ledger, queues, logs."""

__version__ = "1.0.0"
