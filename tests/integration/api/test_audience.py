"""Filters: the preview counts the clients that the launch chooses, for any filter."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import pytest
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.integration.conftest import mailing_body
from tests.support.fleet import Fleet

ZONES = ("Europe/Moscow", "Asia/Omsk", "Europe/Berlin")
CODES = ("901", "902", "903")
TAGS = ("vip", "new", "")
CITIES = ("Omsk", "Omsk ", "О'Ск\"{}")
Make = Callable[..., dict[str, Any]]


@dataclass
class KnownClient:
    """The expected state of a client."""

    id: int
    phone: str
    operator_code: str
    tag: str
    timezone: str
    attributes: dict[str, str]
    alive: bool
    had: set[int]


@pytest.fixture(scope="module")
def crowd(module_fleet: Fleet) -> tuple[list[KnownClient], list[int]]:
    """Three hundred clients, some deleted, and three mailings that were sent to some of them."""
    rng = Random(7)
    people = []
    for client_id in module_fleet.add_clients(300):
        (phone,) = module_fleet.query("SELECT phone FROM clients WHERE id = %s", client_id)[0]
        names = rng.sample(["city", "name", "Имя"], rng.randint(0, 3))
        person = KnownClient(
            client_id,
            str(phone),
            rng.choice(CODES),
            rng.choice(TAGS),
            rng.choice(ZONES),
            {name: rng.choice(CITIES) for name in names},
            rng.random() > 0.1,
            set(),
        )
        people.append(person)
        module_fleet.query(
            "UPDATE clients SET operator_code = %s, tag = %s, timezone = %s,"
            " attributes = jsonb_object(%s, %s) WHERE id = %s",
            person.operator_code,
            person.tag,
            person.timezone,
            list(person.attributes),
            list(person.attributes.values()),
            client_id,
        )
    earlier = []
    for number in range(3):
        mailing_id = module_fleet.add_mailing(operator_codes=[CODES[number]])
        module_fleet.launch_mailing(mailing_id, batch_size=20)
        clients: dict[int, int] = dict(
            module_fleet.query(
                "SELECT id, client_id FROM messages WHERE mailing_id = %s", mailing_id
            )
        )
        while worker := module_fleet.try_claim_batch(mailing_id):
            accepted = worker.ids[::2]  # the others stay pending
            worker.record(accepted)
            for person in people:
                if person.id in {clients[id_] for id_ in accepted}:
                    person.had.add(mailing_id)
        earlier.append(mailing_id)
    for person in people:
        if not person.alive:
            module_fleet.query(
                "UPDATE clients SET phone = NULL, operator_code = NULL, tag = NULL,"
                " timezone = NULL, attributes = '{}', deleted_at = now() WHERE id = %s",
                person.id,
            )
    assert all(any(m in p.had for p in people) for m in earlier)
    return people, earlier


def sublists(values: tuple[Any, ...]) -> st.SearchStrategy[list[Any]]:
    return st.lists(st.sampled_from(values), unique=True, max_size=len(values))


filters = st.fixed_dictionaries(
    {},
    optional={
        "operator_codes": sublists((*CODES, "999")),
        "tags": sublists((*TAGS, "unused")),
        "timezones": sublists((*ZONES, "UTC")),
        "attributes": st.dictionaries(
            st.sampled_from(["city", "name", "Имя"]), st.sampled_from(CITIES), max_size=2
        ),
        "exclude_mailing_ids": sublists((0, 1, 2)),
        "phones": sublists(tuple(range(0, 300, 3))) | st.just([]),
    },
)


def matches(person: KnownClient, chosen: dict[str, Any]) -> bool:
    """Return whether the filter chooses a client, computed independently of the SQL."""
    return (
        person.alive
        and all(
            getattr(person, field) in chosen[name]
            for name, field in (
                ("operator_codes", "operator_code"),
                ("tags", "tag"),
                ("timezones", "timezone"),
                ("phones", "phone"),
            )
            if chosen.get(name)
        )
        and all(person.attributes.get(k) == v for k, v in chosen.get("attributes", {}).items())
        and not person.had & set(chosen.get("exclude_mailing_ids", []))
    )


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(chosen=filters, needs_name=st.booleans())
def test_preview_counts_the_clients_that_launch_chooses(
    client: FlaskClient,
    module_fleet: Fleet,
    crowd: tuple[list[KnownClient], list[int]],
    chosen: dict[str, Any],
    needs_name: bool,
) -> None:
    people, earlier = crowd
    if "exclude_mailing_ids" in chosen:
        chosen["exclude_mailing_ids"] = [earlier[n] for n in chosen["exclude_mailing_ids"]]
    if "phones" in chosen:
        chosen["phones"] = [people[n].phone for n in chosen["phones"]]
    body = {**mailing_body(), "filter": chosen, "text": "Hi {name}" if needs_name else "Hi"}
    answer = client.post("/api/v1/mailings/preview", json=body)
    assert answer.status_code == 200, answer.text
    found = answer.get_json()
    made = client.post("/api/v1/mailings", json=body).get_json()
    module_fleet.query("UPDATE mailings SET start_at = now() WHERE id = %s", made["id"])
    module_fleet.launch_mailing(made["id"], batch_size=50)
    got = {
        client_id
        for (client_id,) in module_fleet.query(
            "SELECT client_id FROM messages WHERE mailing_id = %s", made["id"]
        )
    }
    expected = {person.id: person for person in people if matches(person, chosen)}
    assert got == set(expected)
    assert found["audience"] == len(expected) == module_fleet.read_mailing(made["id"])["audience"]
    lacking = sum("name" not in p.attributes for p in expected.values()) if needs_name else 0
    assert found["lacking"] == lacking
    assert found["segments_total"] == len(expected) - lacking
    assert {e["client_id"] for e in found["examples"]} <= set(expected)


def test_each_field_of_the_filter_narrows_the_audience(
    client: FlaskClient, crowd: tuple[list[KnownClient], list[int]]
) -> None:
    """Check that the test above does not only compare empty or complete audiences."""
    people, earlier = crowd
    for chosen in (
        {"timezones": ["Asia/Omsk"]},
        {"attributes": {"city": "Omsk"}},
        {"exclude_mailing_ids": earlier[:1]},
        {"phones": [p.phone for p in people[:50]]},
    ):
        body = {**mailing_body(), "filter": chosen}
        audience = client.post("/api/v1/mailings/preview", json=body).get_json()["audience"]
        assert 0 < audience < sum(person.alive for person in people), chosen
        assert audience == sum(matches(person, chosen) for person in people)
