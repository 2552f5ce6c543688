"""asyncpg connections to where a router leads. They take their places from the router's ledger."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import urlencode

import asyncpg  # type: ignore[import-untyped]

from tenantry.errors import InvalidInput
from tenantry.perimeter.asyncpg import AsyncpgConnection
from tenantry.postgres.connect import parse_dsn
from tenantry.routing.core import Target, unreachable
from tenantry.routing.sessions import CHANGED, Learned
from tenantry.settings import Dsn

Hook = Callable[[Any], Awaitable[object]]
"""Is given a connection."""

_UNDERSTOOD = frozenset(
    "host port dbname user password passfile service sslmode sslcert sslkey sslrootcert sslcrl sslpassword"
    " sslnegotiation ssl_min_protocol_version ssl_max_protocol_version target_session_attrs krbsrvname gsslib".split()
)
_SENT = frozenset(("application_name", "options"))
_DIFFERENT = frozenset(
    "connect_timeout client_encoding fallback_application_name keepalives keepalives_idle keepalives_interval"
    " keepalives_count tcp_user_timeout sslcompression sslsni".split()
)
"""What asyncpg does in its own way, and what can be left out without harm."""
_HARMLESS = {"channel_binding": ("prefer", "disable"), "gssencmode": ("prefer", "disable"), "require_auth": ("",)}


async def connect_asyncpg(
    target: Target,
    *,
    home: str,
    seconds: float,
    pooler: bool = False,
    init: Hook | None = None,
    learned: Learned | None = None,
    server_settings: Mapping[str, str] | None = None,
    parameters: Mapping[str, str] | None = None,
    **options: Any,
) -> AsyncpgConnection:
    """A connection that is bound to nobody yet.

    Args:
        target: where to.
        home: the schema of a tenant there.
        seconds: how long to wait for the server.
        pooler: a transaction-level pooler stands between.
        init: is called with the new connection.
        learned: what ``init`` has set on earlier connections.
        server_settings: parameters of the session, which no binding clears.
        parameters: of the session, for each binding.
        options: as of ``asyncpg.connect``.

    Raises:
        ServerUnreachable: the server does not answer, or refuses the login.
        InvalidInput: the DSN asks for what asyncpg can't do.
    """
    learned = learned if learned is not None else Learned()

    async def start() -> AsyncpgConnection:
        settings = merge_settings(server_settings or {}, learned.settings)
        ready = {"pooler": pooler, "home": home, "replica": target.replica is not None, "parameters": parameters}
        conn = await _open(target, seconds, ready, {**options, "server_settings": settings})
        if init is not None:
            await _or_terminate(conn, init(conn))
        return conn

    conn = await start()
    if init is None or pooler or not learned.learn(await _or_terminate(conn, conn.fetch(CHANGED))):
        return conn
    conn.terminate()
    return await start()


async def _open(target: Target, seconds: float, ready: dict[str, Any], options: dict[str, Any]) -> AsyncpgConnection:
    url, sent = _translated(target)
    options["server_settings"] = merge_settings(sent, options["server_settings"])
    connecting = asyncio.ensure_future(
        asyncpg.connect(url, timeout=seconds, connection_class=AsyncpgConnection, **options)
    )
    try:
        # Cancelled in the middle of it, asyncpg leaves a future behind whose error nobody asks for.
        conn: AsyncpgConnection = await asyncio.shield(connecting)
    except asyncio.CancelledError:
        connecting.add_done_callback(_close)
        raise
    except (OSError, asyncpg.PostgresError) as error:
        raise unreachable(target, error) from error
    try:
        async with asyncio.timeout(seconds):
            await _or_terminate(conn, conn.ready(**ready))
    except (OSError, asyncpg.PostgresConnectionError, asyncpg.OperatorInterventionError) as error:
        raise unreachable(target, error) from error
    return conn


def _close(connecting: asyncio.Future[AsyncpgConnection]) -> None:
    if not connecting.cancelled() and connecting.exception() is None:
        connecting.result().terminate()


async def _or_terminate(conn: AsyncpgConnection, work: Awaitable[Any]) -> Any:
    """What comes out of work on a new connection, which ends if the work fails."""
    try:
        return await work
    except BaseException:
        conn.terminate()
        raise


def drop_asyncpg(conn: AsyncpgConnection) -> None:
    """Close a connection at once, from any thread."""
    loop = conn._loop
    if loop.is_closed():
        with suppress(OSError):
            conn._transport.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
    elif loop is asyncio._get_running_loop():
        conn.terminate()
    else:
        loop.call_soon_threadsafe(conn.terminate)


def merge_settings(first: Mapping[str, str], second: Mapping[str, str]) -> dict[str, str]:
    """Parameters of a session; the second ones win. ``options`` of both are kept."""
    merged = {**first, **second}
    if "options" in first and "options" in second:
        merged["options"] = f"{first['options']} {merged['options']}"
    return merged


def _translated(target: Target) -> tuple[str, dict[str, str]]:
    """A DSN of libpq as the URL that asyncpg takes, and the parameters that are sent to the server."""
    parts = {name: str(value) for name, value in parse_dsn(target.dsn).items()}
    if "hostaddr" in parts and parts.get("sslmode") != "verify-full":
        parts["host"] = parts.pop("hostaddr")
    for name, value in parts.items():
        if name not in _UNDERSTOOD | _SENT | _DIFFERENT and value not in _HARMLESS.get(name, ()):
            raise InvalidInput(
                f"asyncpg can't do what {name!r} in the shard's DSN asks for",
                where=target.name,
                hint="leave it out of the DSN, or use psycopg",
            )
    understood = {name: value for name, value in parts.items() if name in _UNDERSTOOD}
    sent = {name: value for name, value in parts.items() if name in _SENT}
    return Dsn(f"postgresql://?{urlencode(understood)}"), sent
