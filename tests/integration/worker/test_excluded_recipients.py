"""No message goes to a client that has opted out, was deleted or does not match the filter.

Several editors change clients and opt-outs at random while mailings are sent through a provider
that fails from time to time. Each request that the provider received is compared with the changes
answered before it. A change applies from one second after its answer.
"""

import os
import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest
import requests

from tests.support.system import TOKEN, System

# Minimum length of the test; on a busy machine it runs until enough changes were made.
SECONDS = 10.0
MAX_SECONDS = 45.0
MIN_CHANGES = 15
# Data of a client is at most a second old when its message leaves; the slack is for a busy machine.
MAX_AGE = 1.0
SLACK = 0.4
EDITORS = 3
PHONES = 80  # per editor
TAGS = ("red", "green", "blue")
UNUSED_TAG = "grey"
MAILING_INTERVAL = 0.6
FIRST_PHONE = 79_100_000_000
ADD_CLIENT = """
INSERT INTO clients (phone, operator_code, tag, timezone)
VALUES (%s, '910', %s, 'Europe/Moscow') RETURNING id
"""


@pytest.fixture(scope="module")
def seed() -> int:
    return int(os.environ.get("SEED", random.randrange(10**6)))


class ForbiddenTimes:
    """The times at which each phone must get no message, and all tags its clients have had.

    Each phone is changed by one editor only, so no lock is needed.
    """

    def __init__(self) -> None:
        self.times: dict[tuple[int, str], list[list[float]]] = defaultdict(list)
        self.tags: dict[int, set[str]] = defaultdict(set)

    def forbid(self, phone: int, why: str) -> None:
        """Forbid requests to this phone from now on; called after the change was answered."""
        times = self.times[phone, why]
        if not times or times[-1][1] < float("inf"):
            times.append([time.time(), float("inf")])

    def permit(self, phone: int, why: str) -> None:
        """Permit from now on; called before the change is requested."""
        times = self.times[phone, why]
        if times and times[-1][1] == float("inf"):
            times[-1][1] = time.time()

    def find_violations(self, phone: int, tag: str, at: float) -> list[str]:
        """Return why this phone must not get a message at this time, in a mailing to this tag."""
        violations = [
            f"{why} for {at - since:.2f} s"
            for why in ("opted out", "deleted")
            for since, until in self.times.get((phone, why), ())
            if since + MAX_AGE + SLACK < at < until
        ]
        return violations + ([] if tag in self.tags[phone] else [f"not {tag}"])


class ClientEditor(threading.Thread):
    """Changes clients and opt-outs of its own phones at random, until `stop` is set."""

    def __init__(self, number: int, system: System, forbidden: ForbiddenTimes, seed: int):
        super().__init__(name=f"editor-{number}")
        self.random = random.Random(f"{seed}-{number}")
        self.url = f"http://127.0.0.1:{system.api_port}/api/v1"
        self.http = requests.Session()
        self.http.trust_env = False
        self.http.headers["Authorization"] = f"Bearer {TOKEN}"
        self.forbidden = forbidden
        self.stop = threading.Event()
        first = FIRST_PHONE + number * 1_000
        self.free = list(range(first, first + PHONES))
        # Client id → the phones it has had, the present one last.
        self.clients: dict[int, list[int]] = {}
        self.opted_out: set[int] = set()
        self.changes: dict[str, int] = defaultdict(int)
        self.error: Exception | None = None
        for _ in range(PHONES * 3 // 4):
            tag = self.random.choice((*TAGS, UNUSED_TAG))
            phone = self.take_phone({tag})
            ((client_id,),) = system.query(ADD_CLIENT, phone, tag)
            self.clients[client_id] = [phone]

    def run(self) -> None:
        steps: list[tuple[Callable[[], None], int]] = [
            (self.create, 8),
            (self.delete, 3),
            (self.opt_out, 3),
            (self.opt_in, 1),
            (self.change_phone, 3),
            (self.change_tag, 1),
        ]
        choices, weights = zip(*steps, strict=True)
        try:
            while not self.stop.is_set():
                (step,) = self.random.choices(choices, weights)
                step()
                time.sleep(self.random.uniform(0, 0.05))
        except Exception as error:
            self.error = error

    def call(self, method: str, path: str, body: Any = None) -> Any:
        answer = self.http.request(method, self.url + path, json=body, timeout=20)
        assert answer.ok, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    def choose_client(self) -> int | None:
        return self.random.choice(list(self.clients)) if self.clients else None

    def take_phone(self, tags: set[str]) -> int:
        phone = self.free.pop(self.random.randrange(len(self.free)))
        self.forbidden.tags[phone] |= tags
        self.forbidden.permit(phone, "deleted")
        return phone

    def create(self) -> None:
        if self.free:
            tag = self.random.choice((*TAGS, UNUSED_TAG))
            phone = self.take_phone({tag})
            body = {"phone": str(phone), "tag": tag, "timezone": "Europe/Moscow"}
            self.clients[self.call("POST", "/clients", body)["id"]] = [phone]

    def delete(self) -> None:
        client_id = self.choose_client()
        if client_id is not None:
            self.call("DELETE", f"/clients/{client_id}")
            for phone in self.clients.pop(client_id):
                self.forbidden.forbid(phone, "deleted")
                self.free.append(phone)
            self.changes["deleted"] += 1

    def opt_out(self) -> None:
        client_id = self.choose_client()
        if client_id is not None:
            # It may be an earlier phone of the client, which a retry may still use.
            phone = self.random.choice(self.clients[client_id])
            self.call("POST", "/opt-outs", {"phones": [str(phone)]})
            self.forbidden.forbid(phone, "opted out")
            self.opted_out.add(phone)
            self.changes["opted out"] += 1

    def opt_in(self) -> None:
        if self.opted_out:
            phone = self.random.choice(sorted(self.opted_out))
            self.forbidden.permit(phone, "opted out")
            self.call("DELETE", f"/opt-outs/{phone}")
            self.opted_out.remove(phone)

    def change_phone(self) -> None:
        client_id = self.choose_client()
        if client_id is not None and self.free:
            phones = self.clients[client_id]
            phone = self.take_phone(set(self.forbidden.tags[phones[-1]]))
            self.call("PATCH", f"/clients/{client_id}", {"phone": str(phone)})
            phones.append(phone)
            self.changes["phone changed"] += 1

    def change_tag(self) -> None:
        client_id = self.choose_client()
        if client_id is not None:
            tag = self.random.choice(TAGS)
            for phone in self.clients[client_id]:
                self.forbidden.tags[phone].add(tag)
            self.call("PATCH", f"/clients/{client_id}", {"tag": tag})


def test_no_message_to_excluded_clients(system: System, seed: int) -> None:
    print(f"SEED={seed}")
    rng = random.Random(seed)
    system.provider.set(
        latency={"min": 0.02, "max": 0.3}, faults={"error_500": 0.1, "reset_after": 0.05}
    )
    forbidden = ForbiddenTimes()
    editors = [ClientEditor(n, system, forbidden, seed) for n in range(EDITORS)]
    for editor in editors:
        editor.start()
    mailings: dict[str, int] = {}
    started = time.monotonic()
    while time.monotonic() < started + SECONDS or (
        time.monotonic() < started + MAX_SECONDS
        and min(sum(p.changes[what] for p in editors) for what in ("opted out", "deleted"))
        < MIN_CHANGES
    ):
        tag = rng.choice(TAGS)
        text = f"{tag} {len(mailings)}"
        limit = rng.choice([None, 8, 15, 30])
        mailings[text] = system.create_mailing(
            starts_in=rng.choice([0, 0, 1]),
            text=text,
            filter={"tags": [tag]},
            **({"rate_limit": limit} if limit else {}),
        )
        time.sleep(MAILING_INTERVAL)
    for editor in editors:
        editor.stop.set()
    for editor in editors:
        editor.join()
        assert editor.error is None, editor.error
    system.provider.set(faults={}, latency=0)
    for mailing_id in mailings.values():
        system.wait_finished(mailing_id, 40)

    requests_seen = list(system.provider.requests())
    violations = [
        (request["text"], request["phone"], why)
        for request in requests_seen
        if (
            why := forbidden.find_violations(
                request["phone"], request["text"].split()[0], request["at"]
            )
        )
    ]
    assert not violations, (
        f"SEED={seed}: {len(violations)} of {len(requests_seen)}: {violations[:10]}"
    )
    system.check_totals()

    # The scenario was effective.
    reasons = dict(
        system.query("SELECT reason, count(*) FROM messages WHERE status = 'cancelled' GROUP BY 1")
    )
    retried = len(requests_seen) - len({request["id"] for request in requests_seen})
    changes = {name: sum(editor.changes[name] for editor in editors) for name in editors[0].changes}
    print(
        len(mailings),
        "mailings",
        len(requests_seen),
        "requests",
        retried,
        "retries",
        changes,
        reasons,
    )
    assert len(requests_seen) > 200
    assert retried > 5
    assert reasons.keys() >= {"opted out", "client deleted"}, reasons
