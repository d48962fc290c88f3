"""The whole life of a mailing over the API, with Python's requests.

    export TOKEN=...                                  # of the scope write
    export API=http://127.0.0.1:8000/api/v1           # this is the default
    python docs/examples/walkthrough.py

It makes three clients and a mailing to them, and deletes both in the end.
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


def call(method: str, path: str, **kwargs: Any) -> Any:
    """The answer's JSON. Errors are problems (RFC 9457); 503 asks to come again."""
    while True:
        answer = http.request(method, API + path, timeout=30, **kwargs)
        if answer.status_code != 503:
            break
        time.sleep(int(answer.headers["Retry-After"]))
    if not answer.ok:
        problem = answer.json()
        sys.exit(f"{method} {path}: {problem['detail']} (request {problem['request_id']})")
    return answer.json() if answer.content else None


def items(path: str, **query: Any) -> Iterator[dict[str, Any]]:
    """Everything that a list holds, page by page."""
    while True:
        page = call("GET", path, params=query)
        yield from page["items"]
        if page["next_cursor"] is None:
            return
        query["cursor"] = page["next_cursor"]


def watch(mailing_id: int) -> dict[str, Any]:
    """Wait until nothing is pending any more; the last statistics."""
    while True:
        now: dict[str, Any] = call("GET", f"/mailings/{mailing_id}/statistics")
        print(now["status"], now["counts"])
        if now["status"] in ("finished", "cancelled"):
            return now
        time.sleep(1)


def main() -> None:
    tag = f"walkthrough-{uuid.uuid4().hex[:8]}"

    print("== 1. Make three clients")
    first = 79010000000 + int(time.time()) % 1_000_000 * 10
    clients = [
        call(
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
    preview = call("POST", "/mailings/preview", json=mailing)
    print(f"to {preview['audience']} clients, {preview['segments_total']} SMS segments in all")

    print("== 3. Create it; the key makes it safe to send the request again")
    key = {"Idempotency-Key": str(uuid.uuid4())}
    made = call("POST", "/mailings", json=mailing, headers=key)
    again = call("POST", "/mailings", json=mailing, headers=key)
    path = f"/mailings/{made['id']}"
    print(f"mailing {made['id']}; sent again, the request answered with mailing {again['id']}")

    print("== 4. It starts by itself: watch it")
    statistics = watch(made["id"])

    print("== 5. Look at the messages, page by page")
    messages = list(items(f"{path}/messages", limit=2))
    for message in messages:
        print(message["id"], message["client_id"], message["status"], message["reason"])

    print("== 6. One message with its attempts")
    print(call("GET", f"/messages/{messages[0]['id']}")["attempt_log"])

    print("== 7. Try again what has failed")
    if statistics["counts"]["failed"]:
        call("POST", f"{path}/retry-failed")
        watch(made["id"])
    else:
        print("nothing has failed")

    print("== 8. Delete the mailing and the clients")
    call("DELETE", path)
    for client in clients:
        call("DELETE", f"/clients/{client['id']}")
    print("done")


if __name__ == "__main__":
    main()
