"""The whole life of a mailing over the API, with Python's requests.

    export TOKEN=...                                  # of the scope write
    export API=http://127.0.0.1:8000/api/v1           # this is the default
    python docs/examples/walkthrough.py

It creates three clients and a mailing to them, and deletes all of them at the end.
"""

import os
import sys
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import requests

API = os.environ.get("API", "http://127.0.0.1:8000/api/v1")
TOKEN = os.environ.get("TOKEN") or sys.exit("set TOKEN to an API token of the scope write")

http = requests.Session()
http.headers["Authorization"] = f"Bearer {TOKEN}"


def call_api(method: str, path: str, **kwargs: Any) -> Any:
    """Return the answer's JSON. Exit with the problem (RFC 9457) on an error; repeat on 503."""
    while True:
        answer = http.request(method, API + path, timeout=30, **kwargs)
        if answer.status_code != 503:
            break
        time.sleep(int(answer.headers["Retry-After"]))
    if not answer.ok:
        problem = answer.json()
        sys.exit(f"{method} {path}: {problem['detail']} (request {problem['request_id']})")
    return answer.json() if answer.content else None


def iterate_items(path: str, **query: Any) -> Iterator[dict[str, Any]]:
    """Yield all items of a list, page by page."""
    while True:
        page = call_api("GET", path, params=query)
        yield from page["items"]
        if page["next_cursor"] is None:
            return
        query["cursor"] = page["next_cursor"]


def wait_until_finished(mailing_id: int) -> dict[str, Any]:
    """Wait until no message is pending; return the last statistics."""
    while True:
        now: dict[str, Any] = call_api("GET", f"/mailings/{mailing_id}/statistics")
        print(now["status"], now["counts"])
        if now["status"] in ("finished", "cancelled"):
            return now
        time.sleep(1)


def main() -> None:
    tag = f"walkthrough-{uuid.uuid4().hex[:8]}"

    print("== 1. Create three clients")
    first = 79010000000 + int(time.time()) % 1_000_000 * 10
    clients = [
        call_api(
            "POST",
            "/clients",
            json={"phone": str(first + n), "tag": tag, "timezone": "Europe/Moscow"},
        )
        for n in range(3)
    ]
    print([client["id"] for client in clients])

    now = datetime.now(UTC)
    mailing = {
        "name": "Walkthrough",
        "text": "Hello from the walkthrough",
        "start_at": now.isoformat(),
        "end_at": (now + timedelta(hours=1)).isoformat(),
        "filter": {"tags": [tag]},
    }

    print("== 2. Preview the mailing: nothing is created")
    preview = call_api("POST", "/mailings/preview", json=mailing)
    print(f"to {preview['audience']} clients, {preview['segments_total']} SMS segments in all")

    print("== 3. Create it; the key makes it safe to send the request again")
    key = {"Idempotency-Key": str(uuid.uuid4())}
    created = call_api("POST", "/mailings", json=mailing, headers=key)
    again = call_api("POST", "/mailings", json=mailing, headers=key)
    path = f"/mailings/{created['id']}"
    print(f"mailing {created['id']}; sent again, the request answered with mailing {again['id']}")

    print("== 4. It starts by itself: wait until it is finished")
    statistics = wait_until_finished(created["id"])

    print("== 5. List the messages, page by page")
    messages = list(iterate_items(f"{path}/messages", limit=2))
    for message in messages:
        print(message["id"], message["client_id"], message["status"], message["reason"])

    print("== 6. One message with its attempts")
    print(call_api("GET", f"/messages/{messages[0]['id']}")["attempt_log"])

    print("== 7. Retry failed messages")
    if statistics["counts"]["failed"]:
        call_api("POST", f"{path}/retry-failed")
        wait_until_finished(created["id"])
    else:
        print("nothing has failed")

    print("== 8. Delete the mailing and the clients")
    call_api("DELETE", path)
    for client in clients:
        call_api("DELETE", f"/clients/{client['id']}")
    print("done")


if __name__ == "__main__":
    main()
