"""Settings from the environment (`settings`), and secrets from files (`secret_files`)."""
