"""Which addresses of a PostgreSQL over TLS work, and which refuse the server's certificate.

The table in docs/kubernetes.md says what each needs. The server of the wheels has no TLS, so
PgBouncer takes the connections.
"""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest

from shared.db.connections import connect
from tests.support.pgbouncer import PgBouncer
from tests.support.system import ROOT

CA_PATH = "/etc/notifications/ca.crt"


class Authority:
    """A certificate authority of one's own, and a server's certificate for localhost."""

    def __init__(self, folder: Path) -> None:
        self.ca, self.other = folder / "ca.crt", folder / "other.crt"
        server, request = folder / "server.crt", folder / "server.csr"
        for path, name in ((self.ca, "Test CA"), (self.other, "Other CA")):
            self._openssl(
                *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
                *("-subj", f"/CN={name}", "-keyout", f"{path}.key", "-out", str(path)),
            )
        self._openssl(
            *("req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"),
            *("-keyout", f"{server}.key", "-out", str(request)),
        )
        names = folder / "names"
        names.write_text("subjectAltName=DNS:localhost")
        self._openssl(
            *("x509", "-req", "-in", str(request), "-days", "2", "-extfile", str(names)),
            *("-CA", str(self.ca), "-CAkey", f"{self.ca}.key", "-CAcreateserial"),
            *("-out", str(server)),
        )
        self.server_pem = Path(f"{server}.key").read_text() + server.read_text()

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def tls_url(database_url: str, authority: Authority) -> Iterator[str]:
    """The address of a PostgreSQL that takes TLS only, with a certificate for localhost."""
    server = PgBouncer(database_url, "session", certificate=authority.server_pem).start()
    yield server.url.replace("@127.0.0.1", "@localhost")
    server.stop()


def try_to_connect(url: str) -> str:
    """Connect as the processes do; return what PostgreSQL's client refuses, "" if it connects."""
    try:
        connect(url, "test", {}, connect_timeout=30).close()
    except psycopg2.OperationalError as error:
        return str(error)
    return ""


def documented_suffixes() -> list[str]:
    page = (ROOT / "docs/kubernetes.md").read_text()
    return re.findall(r"`(\?sslmode=[^`]*)`", page)


def test_documented_addresses_work(tls_url: str, authority: Authority) -> None:
    suffixes = documented_suffixes()
    assert len(suffixes) == 3
    for suffix in suffixes:
        own = suffix.replace(CA_PATH, str(authority.ca))
        # The bundle of public authorities, as if the test's belonged to it.
        own = own.replace("/etc/ssl/certs/ca-certificates.crt", str(authority.ca))
        assert try_to_connect(tls_url + own) == ""


def test_the_variable_is_the_same_as_the_parameter(
    tls_url: str, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGSSLROOTCERT", str(authority.ca))
    assert try_to_connect(f"{tls_url}?sslmode=verify-full") == ""


def test_verification_refuses_what_it_cannot_trust(tls_url: str, authority: Authority) -> None:
    verified = f"{tls_url}?sslmode=verify-full"
    assert "root certificate file" in try_to_connect(verified)
    assert "certificate verify failed" in try_to_connect(
        f"{verified}&sslrootcert={authority.other}"
    )
    other_name = verified.replace("@localhost", "@127.0.0.1")
    assert "does not match" in try_to_connect(f"{other_name}&sslrootcert={authority.ca}")
