"""Limits of requests: per API token, and per address for sign-ins and unknown tokens.

Responses carry the fields of draft-ietf-httpapi-ratelimit-headers-11: `RateLimit-Policy` states the
quota (the burst) and the seconds in which it is restored, `RateLimit` what is left of it and when
there is more.
"""

from flask import Flask, Response, current_app, g, request

from api.actor import Actor
from api.errors import RateLimited
from api.limits.client_address import client_network
from api.limits.token_buckets import Policy, TokenBuckets
from shared.config.settings import ApiSettings
from shared.domain.error_texts import ErrorText, error_text

EXTENSION = "request_rates"


class RequestRates:
    """The limits of requests of one application; a limit of 0 in the settings is none."""

    def __init__(self, settings: ApiSettings) -> None:
        self._trusted_hops = settings.trusted_proxy_hops
        rate, attempts = settings.requests_per_second, settings.sign_ins_per_minute
        url = settings.redis_url
        self._tokens = _make_buckets(url, "token", rate, settings.request_burst)
        self._unknown_tokens = _make_buckets(url, "unknown-token", attempts / 60, attempts)
        self._sign_ins = _make_buckets(url, "sign-in", attempts / 60, attempts)

    def count_request(self, actor: Actor) -> None:
        """Count a request of an API token. Raise RateLimited if there are too many."""
        if self._tokens is not None:
            caller = str(actor.token_id or actor.name)
            _take_token(self._tokens, caller, error_text("This API token sends too many requests."))

    def count_unknown_token(self) -> None:
        """Count a request with an unknown token, by address. Raise RateLimited."""
        if self._unknown_tokens is not None:
            caller = client_network(request, self._trusted_hops)
            _take_token(
                self._unknown_tokens,
                caller,
                error_text("This address has sent too many unknown tokens."),
            )

    def count_sign_in(self) -> None:
        """Count each of the two steps of a sign-in by itself, by address. Raise RateLimited."""
        if self._sign_ins is not None:
            caller = f"{request.endpoint}:{client_network(request, self._trusted_hops)}"
            _take_token(self._sign_ins, caller, error_text("This address has signed in too often."))


def _make_buckets(url: str, name: str, rate: float, burst: int) -> TokenBuckets | None:
    return TokenBuckets(url, Policy(name, rate, burst)) if rate else None


def _take_token(buckets: TokenBuckets, caller: str, reason: ErrorText) -> None:
    quota = buckets.take_token(caller)
    if quota is None:
        return
    policy = buckets.policy
    g.rate_limit = (policy, quota.left)
    if not quota.permitted:
        seconds = policy.seconds_per_token
        detail = error_text(
            "%(reason)s Try again in %(seconds)s s.", reason=reason, seconds=seconds
        )
        raise RateLimited(detail, seconds=seconds)


def init_request_rates(app: Flask, settings: ApiSettings) -> RequestRates:
    rates = app.extensions[EXTENSION] = RequestRates(settings)
    app.after_request(_add_fields)
    return rates


def request_rates() -> RequestRates:
    """Return the limits of the current application."""
    rates: RequestRates = current_app.extensions[EXTENSION]
    return rates


def _add_fields(response: Response) -> Response:
    if "rate_limit" in g:
        policy, left = g.rate_limit
        add = response.headers.add
        add("RateLimit-Policy", f'"{policy.name}";q={policy.burst};w={policy.window_seconds}')
        add("RateLimit", f'"{policy.name}";r={left};t={policy.seconds_per_token}')
    return response
