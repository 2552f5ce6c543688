"""The server of the tests, and the addresses on it, which are known before it runs."""

from __future__ import annotations

import hashlib
import random
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from psycopg.conninfo import make_conninfo

from tenantry.errors import NoCapacity
from tenantry.postgres.connect import merge_dsn, parse_dsn
from tenantry.postgres.server import THROWAWAY, LocalServer

READER = "tenantry_reader"
PREFIX = "tenantry_test"

_PORTS = range(20000, 32768)


@dataclass(frozen=True)
class ServerUnderTest:
    """A PostgreSQL server that belongs to tests.

    Attributes:
        root: a superuser's DSN.
        library_dsn: of the catalog, as the application logs in to it.
        run: a word that the databases of this run have in their names.
        is_shared: whether other runs, and other workers of this one, use it too.
    """

    root: str = field(repr=False)
    library_dsn: str = field(repr=False)
    run: str
    is_shared: bool

    def dsn(self, database: str) -> str:
        """The superuser's DSN of a database."""
        return merge_dsn(self.root, dbname=database)

    @property
    def catalog(self) -> str:
        """The name of the catalog's database."""
        return f"{PREFIX}_{self.run}_catalog"

    @property
    def pooled(self) -> str:
        """The name of the pooled database."""
        return f"{PREFIX}_{self.run}_app"


@dataclass
class ServerPlan:
    """Where the server will be.

    Args:
        dsn: of a server that is there already; None: a local one.
    """

    dsn: str | None
    run: str
    port: int
    password: str = field(repr=False)
    _hold: socket.socket | None = None

    @classmethod
    def make(cls, dsn: str | None) -> ServerPlan:
        """Choose names, and for a local server a port, which nobody else gets meanwhile.

        Raises:
            InvalidInput: the DSN can't be parsed.
        """
        run = secrets.token_hex(4)
        if dsn is None:
            hold = _reserve()
            return cls(None, run, hold.getsockname()[1], secrets.token_urlsafe(24), hold)
        parse_dsn(dsn)
        # One password of one role for all who use the server: whoever knows the DSN can tell it.
        return cls(dsn, run, 0, hashlib.sha256(f"tenantry test {dsn}".encode()).hexdigest())

    @property
    def library_dsn(self) -> str:
        """How the application reaches the catalog."""
        login = {"dbname": f"{PREFIX}_{self.run}_catalog", "user": READER, "password": self.password}
        if self.dsn is not None:
            return merge_dsn(self.dsn, **login)
        return make_conninfo("", host="127.0.0.1", port=self.port, **login)

    @contextmanager
    def start(self) -> Iterator[ServerUnderTest]:
        """The server, for the length of the block.

        Raises:
            MissingDependency: there are no PostgreSQL programs.
            ServerUnreachable, ServerUnsuitable: it does not start.
        """
        if self.dsn is not None:
            yield ServerUnderTest(self.dsn, self.library_dsn, self.run, is_shared=True)
            return
        if self._hold is not None:
            self._hold.close()
        with LocalServer(port=self.port, settings=THROWAWAY) as server:
            yield ServerUnderTest(server.dsn(tcp=True), self.library_dsn, self.run, is_shared=False)


def _reserve() -> socket.socket:
    for port in random.sample(_PORTS, 100):
        hold = socket.socket()
        try:
            hold.bind(("127.0.0.1", port))
            return hold
        except OSError:
            hold.close()
    raise NoCapacity("there is no free port for the server of the tests", hint="name a server with TENANTRY_TEST_DSN")
