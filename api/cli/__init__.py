"""Commands of `flask --app api`: clients, tokens, reports and logs."""
