"""A client of the control interface: set the provider's behaviour and read its request log."""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import orjson
from requests import Response, Session


class ProviderControl(AbstractContextManager["ProviderControl"]):
    """A client of one running simulated provider."""

    def __init__(self, base_url: str, timeout: float = 30.0) -> None:
        self.base_url = base_url.rstrip("/")
        self._timeout = timeout
        self._session = Session()
        self._session.trust_env = False  # no proxy between a test and 127.0.0.1

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._session.close()

    def set(self, **settings: Any) -> dict[str, Any]:
        """Change the given settings and no others; return the state as `stats` does."""
        return self._json(
            "PUT", "/control", data=orjson.dumps(settings, option=orjson.OPT_NON_STR_KEYS)
        )

    def reset(self) -> None:
        """Restore the settings at start and clear the request log."""
        self._json("DELETE", "/control")
        self.clear_requests()

    def clear_requests(self) -> None:
        """Clear the request log; the settings stay."""
        self._call("DELETE", "/control/requests").close()

    def stats(self) -> dict[str, Any]:
        """Return the counters and, under `settings`, the settings."""
        return self._json("GET", "/control")

    def summary(self) -> dict[str, Any]:
        """Return the counters by answer, first and last arrival, and the digest of accepted ids."""
        return self._json("GET", "/control/summary")

    def requests(self, after: int = 0, limit: int | None = None) -> Iterator[dict[str, Any]]:
        """Yield the logged requests numbered above `after`, in order of arrival."""
        query = {"after": after} if limit is None else {"after": after, "limit": limit}
        for line in self._lines("/control/requests", params=query):
            yield orjson.loads(line)

    def accepted_ids(self) -> frozenset[int]:
        """Return the distinct ids of the accepted messages."""
        return frozenset(map(int, self._lines("/control/accepted")))

    def duplicates(self) -> dict[int, int]:
        """Return the ids accepted more than once, and how many times."""
        rows = map(orjson.loads, self._lines("/control/duplicates"))
        return {row["id"]: row["times"] for row in rows}

    def _call(self, method: str, path: str, **kwargs: Any) -> Response:
        response = self._session.request(
            method, self.base_url + path, timeout=self._timeout, **kwargs
        )
        if response.status_code == 400:
            raise ValueError(response.json()["message"])
        response.raise_for_status()
        return response

    def _json(self, method: str, path: str, **kwargs: Any) -> dict[str, Any]:
        state: dict[str, Any] = orjson.loads(self._call(method, path, **kwargs).content)
        return state

    def _lines(self, path: str, **kwargs: Any) -> Iterator[bytes]:
        with self._call("GET", path, stream=True, **kwargs) as response:
            rest = b""
            for part in response.iter_content(256 * 1024):
                *lines, rest = (rest + part).split(b"\n")
                yield from lines


def ids_sha(ids: Iterable[int]) -> str:
    """Compute the digest that `summary` returns as `accepted_ids_sha`."""
    digest = hashlib.sha256()
    for number in sorted(set(ids)):
        digest.update(b"%d\n" % number)
    return digest.hexdigest()
