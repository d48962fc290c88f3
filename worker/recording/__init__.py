"""Record the outcomes of messages in one transaction."""
