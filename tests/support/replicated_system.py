"""The whole product with a PostgreSQL standby, and a network to PostgreSQL that can be cut."""

from pathlib import Path

from tests.support.replication import Standby, require_synchronous_standby
from tests.support.system import Process, System
from tests.support.tcp_proxy import TcpProxy


class ReplicatedSystem(System):
    """A system whose processes reach PostgreSQL through a proxy that leads to the primary.

    The first dispatcher has a proxy of its own, `late_proxy`, so that a test can let it find
    PostgreSQL later than the others. `several_hosts`: all have the addresses of both servers
    instead, and no proxy.
    """

    def __init__(
        self,
        directory: Path,
        dispatchers: int = 2,
        *,
        synchronous: bool = True,
        several_hosts: bool = False,
        **settings: object,
    ):
        super().__init__(directory, dispatchers, **settings)
        self.standby = Standby(directory / "standby", self.postgres)
        self._first_primary = self.postgres
        self._synchronous, self._several_hosts = synchronous, several_hosts
        self.proxy, self.late_proxy = (TcpProxy(lambda: self.postgres.port) for _ in range(2))

    def start(self) -> "ReplicatedSystem":
        self.postgres.start()
        self.standby.start()
        if self._synchronous:
            require_synchronous_standby(self.postgres, self.standby)
        super().start()
        return self

    def stop(self) -> None:
        super().stop()
        self.proxy.close()
        self.late_proxy.close()
        self.standby.remove()
        self._first_primary.remove()

    def _add(self, name: str, *arguments: str) -> Process:
        process = super()._add(name, *arguments)
        if name == self.dispatchers[0]:
            for_others, own = (f":{proxy.port}/" for proxy in (self.proxy, self.late_proxy))
            process.env["DATABASE_URL"] = process.env["DATABASE_URL"].replace(for_others, own)
        return process

    @property
    def database_url(self) -> str:
        server = self._first_primary
        hosts = f"127.0.0.1:{self.proxy.port}"
        if self._several_hosts:
            hosts = ",".join(f"127.0.0.1:{each.port}" for each in (server, self.standby))
        return server.url.replace(f"127.0.0.1:{server.port}", hosts)

    def fail_over(self) -> None:
        """Promote the standby, and lead the address to it."""
        self.standby.promote()
        self.postgres = self.standby
