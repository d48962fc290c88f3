"""Fixtures of the attacks: the API as deployed, with and without the shipped nginx before it."""

from collections.abc import Iterator

import pytest

from tests.integration.conftest import UNLIMITED
from tests.integration.conftest import database as database
from tests.support.api_server import Server, running, settings_of
from tests.support.nginx import Nginx
from tests.support.programs import require_program


@pytest.fixture(scope="module")
def server(
    database_url: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """One process of gunicorn, without limits of rates, as these have tests of their own."""
    settings = {**settings_of(database_url, redis_url), **UNLIMITED, "WEB_CONCURRENCY": "1"}
    with running(settings, tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture(scope="module")
def proxy(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    """The shipped nginx with shorter times."""
    require_program("nginx")
    times = {"client_header_timeout": 2, "keepalive_timeout": 2}
    proxy = Nginx(tmp_path_factory.mktemp("nginx"), server.address, times)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()
