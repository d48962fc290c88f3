"""The journey of the client of openapi-python-client: ADDRESS TOKEN PHONE."""

import sys
from datetime import UTC, datetime, timedelta

from notification_service_client import AuthenticatedClient, models
from notification_service_client.api.clients import create_client, delete_client, list_clients
from notification_service_client.api.mailings import create_mailing, delete_mailing
from notification_service_client.api.statistics import get_mailing_statistics


def main(address: str, token: str, phone: str) -> None:
    with AuthenticatedClient(base_url=address, token=token) as api:
        new_client = models.NewClient.from_dict(
            {"phone": phone, "timezone": "Europe/Moscow", "tag": "py", "attributes": {"name": "A"}}
        )
        client = create_client.sync(client=api, body=new_client)
        assert isinstance(client, models.ClientAnswer)
        assert client.attributes["name"] == "A"
        refused = create_client.sync(client=api, body=new_client)
        assert isinstance(refused, models.ProblemAnswer)
        assert refused.status == 409
        start = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
        new_mailing = models.NewMailing(
            text="Hello, {name|dear client}!",
            start_at=start,
            end_at=start + timedelta(hours=1),
            filter_=models.Filter(tags=["py"]),
            window=models.WindowHours(from_="09:00", to="21:00"),
        )
        mailing = create_mailing.sync(client=api, body=new_mailing, idempotency_key=phone)
        assert isinstance(mailing, models.MailingAnswer)
        assert (mailing.status, mailing.start_at, mailing.started_at) == ("scheduled", start, None)
        statistics = get_mailing_statistics.sync(mailing.id, client=api)
        assert isinstance(statistics, models.MailingStatistics)
        assert statistics.counts.pending == 0
        page = list_clients.sync(client=api, tag="py")
        assert isinstance(page, models.ClientPage)
        assert [each.id for each in page.items] == [client.id]
        delete_mailing.sync_detailed(mailing.id, client=api)
        delete_client.sync_detailed(client.id, client=api)
        print("done")


main(*sys.argv[1:])
