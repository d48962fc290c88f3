"""REST routes of clients: add, list, export, get, replace, change and delete them."""

from typing import Any

from flask import Blueprint, Response

from api.actor import current_actor
from api.clients import by_phone, service
from api.clients.creation import create_client_once
from api.clients.schemas import (
    EXPORT_EXAMPLE,
    ClientAnswer,
    ClientChanges,
    ClientCsvQuery,
    ClientOfPhone,
    ClientPage,
    ClientQuery,
    NewClient,
    present_client,
)
from api.clients.search import ClientSearch
from api.http.csv_response import stream_csv
from api.http.etags import (
    VersionedResponse,
    format_etag,
    read_if_match,
    requires_existence,
)
from api.http.idempotency import mark_replayed, read_idempotency_key
from api.http.pagination import build_page
from api.openapi.operation import operation
from shared.db.models import Client

blueprint = Blueprint("clients", __name__)


@blueprint.post("/clients")
@operation(
    "clients",
    response=ClientAnswer,
    status=201,
    description="The created client.",
    body=NewClient,
    problems=(409,),
    idempotent=True,
    versioned=True,
)
def create_client(body: NewClient) -> VersionedResponse:
    """Add a client

    A phone belongs to one client at a time.
    """
    actor = current_actor()
    created = create_client_once(body, actor, read_idempotency_key(body, actor))
    headers = {"Location": f"/api/v1/clients/{created.presented['id']}", "ETag": format_etag(1)}
    return created.presented, 201, headers | mark_replayed(created.replayed)


@blueprint.get("/clients")
@operation("clients", response=ClientPage, description="A page of clients.", query=ClientQuery)
def list_clients(query: ClientQuery) -> dict[str, Any]:
    """List clients

    By id, the oldest first; with `order=desc` the newest. A client must match all filters that are
    given.
    """
    found = service.list_clients(ClientSearch.from_query(query), query.page(), current_actor())
    return build_page(found, query.limit, present_client, lambda client: client.id)


@blueprint.get("/clients.csv")
@operation(
    "clients",
    response=None,
    description="The clients.",
    query=ClientCsvQuery,
    csv=EXPORT_EXAMPLE,
)
def export_clients(query: ClientCsvQuery) -> Response:
    """Download clients as CSV

    Ordered by id, the oldest first; the filters are those of the list. Each attribute of these
    clients is a column. The file can be imported again.
    A text that a spreadsheet would execute as a formula is prefixed with an apostrophe.
    """
    search = ClientSearch.from_query(query)
    return stream_csv("clients.csv", lambda: service.export_clients(search), query.excel)


@blueprint.get("/clients/<id:client_id>")
@operation(
    "clients", response=ClientAnswer, description="The client.", problems=(404,), versioned=True
)
def get_client(client_id: int) -> VersionedResponse:
    """Get a client"""
    return _respond(service.get_client(client_id))


@blueprint.put("/clients/<id:client_id>")
@operation(
    "clients",
    response=ClientAnswer,
    description="The changed client.",
    body=NewClient,
    problems=(404, 409),
    versioned=True,
)
def replace_client(client_id: int, body: NewClient) -> VersionedResponse:
    """Replace a client's data

    An omitted field gets its default: the operator code follows the phone, the tag is empty.
    """
    return _respond(service.replace_client(client_id, body, current_actor(), read_if_match()))


@blueprint.put("/clients/by-phone/<phone:phone>")
@operation(
    "clients",
    response=ClientAnswer,
    description="The changed client.",
    created="The created client.",
    body=ClientOfPhone,
    problems=(404, 409),
    versioned=True,
)
def put_client_of_phone(phone: str, body: ClientOfPhone) -> VersionedResponse:
    """Create or replace the client of a phone

    For callers that do not keep ids: sending the request again does no harm. Replaces the data of
    the client that has the phone, like `PUT /clients/{id}`: an omitted field gets its default. If
    no client has the phone, or the one that had it was deleted, a new one is created. With
    `If-Match` nothing is created, and without a client the answer is 412.
    """
    client, created = by_phone.put_client_of_phone(
        body.with_phone(phone),
        current_actor(),
        read_if_match(),
        must_exist=requires_existence(),
    )
    return _respond_created(client) if created else _respond(client)


@blueprint.patch("/clients/<id:client_id>")
@operation(
    "clients",
    response=ClientAnswer,
    description="The changed client.",
    body=ClientChanges,
    problems=(404, 409),
    versioned=True,
)
def change_client(client_id: int, body: ClientChanges) -> VersionedResponse:
    """Change some of a client's data

    An operator code of null makes it follow the phone again; an attribute of null is removed. A new
    time zone also applies to the client's pending messages.
    """
    return _respond(service.change_client(client_id, body, current_actor(), read_if_match()))


@blueprint.delete("/clients/<id:client_id>")
@operation(
    "clients",
    response=None,
    status=204,
    description="The client is deleted.",
    problems=(404,),
    versioned=True,
)
def delete_client(client_id: int) -> tuple[str, int]:
    """Delete a client

    The personal data is erased and pending messages are cancelled (reason: client deleted). The
    record of sent messages stays, under the client's id alone.
    """
    service.delete_client(client_id, current_actor(), read_if_match())
    return "", 204


def _respond_created(client: Client) -> VersionedResponse:
    location = f"/api/v1/clients/{client.id}"
    return present_client(client), 201, {"Location": location, "ETag": format_etag(client.version)}


def _respond(client: Client) -> VersionedResponse:
    return present_client(client), 200, {"ETag": format_etag(client.version)}
