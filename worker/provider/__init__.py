"""Everything that knows the provider: handing messages over and reading what it answers."""
