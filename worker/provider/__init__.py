"""Everything specific to the provider: requests, outcomes, rate limit, circuit breaker."""
