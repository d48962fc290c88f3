"""The worker processes: launch mailings, send their messages, repair what was left undone."""
