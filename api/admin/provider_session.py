"""Requests to the OpenID provider, each with one deadline for everything that it takes.

The timeouts of `requests` bound neither the look-up of a name nor an answer that comes in drips.
"""

import threading
from concurrent.futures import Future
from typing import Any

import requests
from authlib.integrations.requests_client import OAuth2Session

REQUEST_SECONDS = 5.0
# Threads of requests that have passed their deadline, and still wait for the provider.
MAX_REQUESTS = 16
_slots = threading.BoundedSemaphore(MAX_REQUESTS)


class ProviderSession(OAuth2Session):
    """A session that raises requests.Timeout for a request that takes REQUEST_SECONDS."""

    def request(self, *args: Any, **kwargs: Any) -> requests.Response:
        if not _slots.acquire(blocking=False):
            raise requests.Timeout(f"{MAX_REQUESTS} requests to the provider are unanswered")
        answer: Future[requests.Response] = Future()
        send = super().request

        def run() -> None:
            try:
                answer.set_result(send(*args, **kwargs))
            except Exception as error:  # raised where the answer is awaited
                answer.set_exception(error)
            finally:
                _slots.release()

        threading.Thread(target=run, name="openid", daemon=True).start()
        try:
            return answer.result(REQUEST_SECONDS)
        except TimeoutError:
            raise requests.Timeout(f"no answer within {REQUEST_SECONDS:g} s") from None
