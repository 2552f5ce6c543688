"""Connections of the control plane, with errors that say what to do."""

from __future__ import annotations

import getpass
from contextlib import suppress
from typing import Any

import psycopg
from psycopg import AsyncConnection, Connection
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tenantry.errors import InvalidInput, ServerUnreachable, ServerUnsuitable
from tenantry.postgres.discretion import NO_PARAMETERS, hushed
from tenantry.postgres.versions import OLDEST_MAJOR, is_supported, shown_version
from tenantry.settings import Dsn

APPLICATION_NAME = "tenantry"


def parse_dsn(dsn: str) -> dict[str, Any]:
    """The parameters of a DSN (URL or key=value).

    Raises:
        InvalidInput: it can't be parsed. The message does not repeat it, because it may hold a password.
    """
    dsn = Dsn(dsn)
    with suppress(psycopg.ProgrammingError):  # it repeats a part of the DSN
        return conninfo_to_dict(dsn)
    raise InvalidInput(
        "the DSN can't be parsed", hint="use postgresql://USER:PASSWORD@HOST:PORT/DATABASE or key=value pairs"
    )


def merge_dsn(dsn: str, **changes: Any) -> Dsn:
    """The DSN with some parameters replaced; a value of None removes the parameter."""
    parameters = {**parse_dsn(dsn), **changes}
    return Dsn(make_conninfo("", **{name: value for name, value in parameters.items() if value is not None}))


def dsn_at(login: str, address: str) -> Dsn:
    """The DSN of a server elsewhere that has the same logins.

    Args:
        login: a DSN with a user.
        address: host and port of the other server, and what else is different there.
    """
    here = dict.fromkeys(("host", "hostaddr", "port", "target_session_attrs", "load_balance_hosts"))
    return merge_dsn(login, **{**here, **parse_dsn(address)})


def shown_dsn(dsn: str) -> str:
    """Where a DSN points, without secrets: ``user@host:port/database``."""
    p = parse_dsn(dsn)
    user = p.get("user") or getpass.getuser()
    return f"{user}@{p.get('host') or 'local socket'}:{p.get('port') or 5432}/{p.get('dbname') or user}"


async def connect(dsn: str, *, seconds: float = 5.0, autocommit: bool = True, **changes: Any) -> AsyncConnection:
    """Open a connection of the control plane.

    Args:
        dsn: where to.
        seconds: how long to wait for the server.
        autocommit: as psycopg's.
        changes: parameters of the DSN to replace, for instance ``dbname``.

    Raises:
        ServerUnreachable: no answer, or the login is refused.
        ServerUnsuitable: the server is older than PostgreSQL 15.
    """
    dsn = conninfo = _conninfo(dsn, seconds, changes)
    try:
        conn = await AsyncConnection.connect(conninfo, autocommit=autocommit)
    except psycopg.OperationalError as error:
        raise _unreachable(conninfo, hushed(error)) from None
    try:
        check_version(conn, conninfo)
        await conn.execute(NO_PARAMETERS)
    except BaseException:
        await conn.close()
        raise
    return conn


def connect_sync(dsn: str, *, seconds: float = 5.0, autocommit: bool = True, **changes: Any) -> Connection:
    """The same for code that runs in a thread."""
    dsn = conninfo = _conninfo(dsn, seconds, changes)
    try:
        conn = Connection.connect(conninfo, autocommit=autocommit)
    except psycopg.OperationalError as error:
        raise _unreachable(conninfo, hushed(error)) from None
    try:
        check_version(conn, conninfo)
        conn.execute(NO_PARAMETERS)
    except BaseException:
        conn.close()
        raise
    return conn


def check_version(conn: AsyncConnection[Any] | Connection[Any], dsn: str) -> None:
    """Refuse a server that is too old.

    Raises:
        ServerUnsuitable: it is older than PostgreSQL 15.
    """
    if not is_supported(conn.info.server_version):
        raise ServerUnsuitable(
            f"the server is PostgreSQL {shown_version(conn.info.server_version)}; {OLDEST_MAJOR} or later is needed",
            where=shown_dsn(dsn),
            hint="upgrade the server, or name another one",
        )


def _conninfo(dsn: str, seconds: float, changes: dict[str, Any]) -> Dsn:
    changes.setdefault("application_name", parse_dsn(dsn).get("application_name", APPLICATION_NAME))
    changes.setdefault("connect_timeout", max(2, round(seconds)))
    return merge_dsn(dsn, **changes)


def _unreachable(dsn: str, error: psycopg.OperationalError) -> ServerUnreachable:
    lines = [line.strip() for line in str(error).splitlines()]
    said = [line for line in lines if line and not line.startswith("Is the server running")]
    reason = said[-1].removeprefix("connection failed: ") if said else type(error).__name__
    return ServerUnreachable(f"can't connect: {reason}", where=shown_dsn(dsn))
