"""Whatever happens at once, nobody is written to who has opted out, was deleted or was not chosen.

Several people change clients and opt-outs at random while mailings go out through a provider that
fails now and then. The provider is the witness: each request it saw is held against what was
promised by then. A change counts from a second after it was answered.
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

# For so long, and on a busy machine until enough has happened.
SECONDS = 10.0
LONGEST = 45.0
ENOUGH = 15
# What was read of a client is at most a second old when a message leaves; the rest is the slack of
# a busy machine.
PROMISED = 1.0
SLACK = 0.4
PEOPLE = 3
PHONES = 80  # of each of them
TAGS = ("red", "green", "blue")
NEVER = "grey"
MAILINGS_EVERY = 0.6
FIRST_PHONE = 79_100_000_000
ADD = """
INSERT INTO clients (phone, operator_code, tag, timezone)
VALUES (%s, '910', %s, 'Europe/Moscow') RETURNING id
"""


@pytest.fixture(scope="module")
def seed() -> int:
    return int(os.environ.get("SEED", random.randrange(10**6)))


class Promises:
    """When which phone must not be written to, and which tags its clients have ever had.

    Each phone is changed by one person alone, so nothing here needs a lock.
    """

    def __init__(self) -> None:
        self.times: dict[tuple[int, str], list[list[float]]] = defaultdict(list)
        self.tags: dict[int, set[str]] = defaultdict(set)

    def begin(self, phone: int, why: str) -> None:
        """From now on; to be said after the change was answered."""
        times = self.times[phone, why]
        if not times or times[-1][1] < float("inf"):
            times.append([time.time(), float("inf")])

    def end(self, phone: int, why: str) -> None:
        """No longer; to be said before the change is asked for."""
        times = self.times[phone, why]
        if times and times[-1][1] == float("inf"):
            times[-1][1] = time.time()

    def broken_by(self, phone: int, tag: str, at: float) -> list[str]:
        """The promises that writing to this phone, in a mailing to this tag, did not keep."""
        broken = [
            f"{why} for {at - since:.2f} s"
            for why in ("opted out", "deleted")
            for since, until in self.times.get((phone, why), ())
            if since + PROMISED + SLACK < at < until
        ]
        return broken + ([] if tag in self.tags[phone] else [f"not {tag}"])


class Person(threading.Thread):
    """Changes clients and opt-outs of phones of its own, at random, until told to stop."""

    def __init__(self, number: int, system: System, promises: Promises, seed: int):
        super().__init__(name=f"person-{number}")
        self.random = random.Random(f"{seed}-{number}")
        self.url = f"http://127.0.0.1:{system.api_port}/api/v1"
        self.http = requests.Session()
        self.http.trust_env = False
        self.http.headers["Authorization"] = f"Bearer {TOKEN}"
        self.promises = promises
        self.stop = threading.Event()
        first = FIRST_PHONE + number * 1_000
        self.free = list(range(first, first + PHONES))
        # Client id → the phones it has had, the present one last.
        self.clients: dict[int, list[int]] = {}
        self.opted_out: set[int] = set()
        self.done: dict[str, int] = defaultdict(int)
        self.error: Exception | None = None
        for _ in range(PHONES * 3 // 4):
            tag = self.random.choice((*TAGS, NEVER))
            phone = self.take_phone({tag})
            ((client_id,),) = system.query(ADD, phone, tag)
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

    def pick(self) -> int | None:
        return self.random.choice(list(self.clients)) if self.clients else None

    def take_phone(self, tags: set[str]) -> int:
        phone = self.free.pop(self.random.randrange(len(self.free)))
        self.promises.tags[phone] |= tags
        self.promises.end(phone, "deleted")
        return phone

    def create(self) -> None:
        if self.free:
            tag = self.random.choice((*TAGS, NEVER))
            phone = self.take_phone({tag})
            body = {"phone": str(phone), "tag": tag, "timezone": "Europe/Moscow"}
            self.clients[self.call("POST", "/clients", body)["id"]] = [phone]

    def delete(self) -> None:
        client_id = self.pick()
        if client_id is not None:
            self.call("DELETE", f"/clients/{client_id}")
            for phone in self.clients.pop(client_id):
                self.promises.begin(phone, "deleted")
                self.free.append(phone)
            self.done["deleted"] += 1

    def opt_out(self) -> None:
        client_id = self.pick()
        if client_id is not None:
            # Sometimes one that the client has no more, but that a retry may go to.
            phone = self.random.choice(self.clients[client_id])
            self.call("POST", "/opt-outs", {"phones": [str(phone)]})
            self.promises.begin(phone, "opted out")
            self.opted_out.add(phone)
            self.done["opted out"] += 1

    def opt_in(self) -> None:
        if self.opted_out:
            phone = self.random.choice(sorted(self.opted_out))
            self.promises.end(phone, "opted out")
            self.call("DELETE", f"/opt-outs/{phone}")
            self.opted_out.remove(phone)

    def change_phone(self) -> None:
        client_id = self.pick()
        if client_id is not None and self.free:
            phones = self.clients[client_id]
            phone = self.take_phone(set(self.promises.tags[phones[-1]]))
            self.call("PATCH", f"/clients/{client_id}", {"phone": str(phone)})
            phones.append(phone)
            self.done["phone changed"] += 1

    def change_tag(self) -> None:
        client_id = self.pick()
        if client_id is not None:
            tag = self.random.choice(TAGS)
            for phone in self.clients[client_id]:
                self.promises.tags[phone].add(tag)
            self.call("PATCH", f"/clients/{client_id}", {"tag": tag})


def test_nobody_is_written_to_against_what_was_promised(system: System, seed: int) -> None:
    print(f"SEED={seed}")
    chance = random.Random(seed)
    system.provider.set(
        latency={"min": 0.02, "max": 0.3}, faults={"error_500": 0.1, "reset_after": 0.05}
    )
    promises = Promises()
    people = [Person(n, system, promises, seed) for n in range(PEOPLE)]
    for person in people:
        person.start()
    mailings: dict[str, int] = {}
    started = time.monotonic()
    while time.monotonic() < started + SECONDS or (
        time.monotonic() < started + LONGEST
        and min(sum(p.done[what] for p in people) for what in ("opted out", "deleted")) < ENOUGH
    ):
        tag = chance.choice(TAGS)
        text = f"{tag} {len(mailings)}"
        limit = chance.choice([None, 8, 15, 30])
        mailings[text] = system.create_mailing(
            starts_in=chance.choice([0, 0, 1]),
            text=text,
            filter={"tags": [tag]},
            **({"rate_limit": limit} if limit else {}),
        )
        time.sleep(MAILINGS_EVERY)
    for person in people:
        person.stop.set()
    for person in people:
        person.join()
        assert person.error is None, person.error
    system.provider.set(faults={}, latency=0)
    for mailing_id in mailings.values():
        system.wait_finished(mailing_id, 40)

    seen = list(system.provider.requests())
    broken = [
        (request["text"], request["phone"], why)
        for request in seen
        if (why := promises.broken_by(request["phone"], request["text"].split()[0], request["at"]))
    ]
    assert not broken, f"SEED={seed}: {len(broken)} of {len(seen)}: {broken[:10]}"
    system.check_totals()

    # And something did happen.
    reasons = dict(
        system.query("SELECT reason, count(*) FROM messages WHERE status = 'cancelled' GROUP BY 1")
    )
    retried = len(seen) - len({request["id"] for request in seen})
    done = {name: sum(person.done[name] for person in people) for name in people[0].done}
    print(len(mailings), "mailings", len(seen), "requests", retried, "retries", done, reasons)
    assert len(seen) > 200
    assert retried > 5
    assert reasons.keys() >= {"opted out", "client deleted"}, reasons
