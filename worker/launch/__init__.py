"""Launch a mailing: freeze its audience and write its messages in batches."""
