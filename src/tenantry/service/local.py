"""A local PostgreSQL server that outlives the process that starts it: start, stop, status."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from tenantry.errors import NotFound
from tenantry.postgres.account import Account
from tenantry.postgres.cluster import Cluster
from tenantry.postgres.server import LocalServer

CATALOG = "tenantry_catalog"
"""The catalog's database on a local server."""


@dataclass(frozen=True, slots=True)
class Local:
    """A local server. ``port`` is None if it has never run; ``dsn`` is the superuser's, and holds a password."""

    directory: Path
    running: bool
    port: int | None = None
    dsn: str | None = field(default=None, repr=False)


def start(directory: str | os.PathLike[str]) -> Local:
    """Start a server and leave it running; its data stays in the directory. Twice does no harm.

    Raises:
        MissingDependency: there are no PostgreSQL programs.
        InvalidInput, ServerUnreachable, ServerUnsuitable: it does not start; the error says why.
    """
    server = LocalServer(directory).start()
    return Local(server.directory, True, server.port, server.dsn(CATALOG, tcp=True))


def stop(directory: str | os.PathLike[str]) -> Local:
    """Stop a server; its data stays. Twice does no harm.

    Raises:
        NotFound: no server was ever started there.
        ServerUnreachable: it does not stop.
    """
    found = status(directory)
    if found.running:
        LocalServer(directory).start().stop()  # start() joins the one that runs
    return status(directory)


def status(directory: str | os.PathLike[str]) -> Local:
    """Whether a server runs in the directory.

    Raises:
        NotFound: no server was ever started there.
    """
    home = Path(directory).expanduser().absolute()
    if not os.fspath(directory) or not os.path.lexists(home / "server"):
        hint = "name the directory that 'tenantry init --local' was given, or 'tenantry local start' a new one"
        raise NotFound("there is no local server", where=str(home), hint=hint)
    cluster = Cluster(home, Account.choose())
    return Local(home, cluster.find_postmaster() is not None, cluster.port)
