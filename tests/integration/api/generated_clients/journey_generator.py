"""The journey of the Python client of openapi-generator: ADDRESS TOKEN PHONE."""

import sys
from datetime import UTC, datetime, timedelta

import openapi_client as api


def main(address: str, token: str, phone: str) -> None:
    with api.ApiClient(api.Configuration(host=address, access_token=token)) as connection:
        clients, mailings = api.ClientsApi(connection), api.MailingsApi(connection)
        new_client = api.NewClient(
            phone=phone, timezone="Europe/Moscow", tag="python", attributes={"name": "Anna"}
        )
        client = clients.create_client(new_client)
        assert client.attributes == {"name": "Anna"}
        assert client.operator_code == phone[1:4]
        try:
            clients.create_client(new_client)
        except api.ApiException as error:
            refused = error
        assert refused.status == 409
        assert api.ProblemAnswer.from_json(refused.body).request_id
        start = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
        mailing = mailings.create_mailing(
            api.NewMailing(
                text="Hello, {name|dear client}!",
                start_at=start,
                end_at=start + timedelta(hours=1),
                filter=api.Filter(tags=["python"]),
                window=api.WindowHours(**{"from": "09:00", "to": "21:00"}),
            ),
            idempotency_key=phone,
        )
        assert (mailing.status, mailing.start_at, mailing.started_at) == ("scheduled", start, None)
        statistics = api.StatisticsApi(connection).get_mailing_statistics(mailing.id)
        assert statistics.counts.pending == 0
        assert [each.id for each in clients.list_clients(tag="python").items] == [client.id]
        started = api.ImportsApi(connection).import_clients(f"phone,tag\n{phone},python\n".encode())
        assert started.rows_total == 1
        mailings.delete_mailing(mailing.id)
        clients.delete_client(client.id)
        print("done")


main(*sys.argv[1:])
