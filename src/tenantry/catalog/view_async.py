"""The library's view of the catalog: cached in the process, told of changes by NOTIFY.

A hit costs no I/O. What was not asked for is not loaded, so memory is bounded however many tenants there are.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Hashable
from secrets import token_hex
from types import MappingProxyType
from typing import Any
from uuid import UUID

import psycopg
from psycopg import AsyncConnection, errors
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from tenantry.catalog import rows
from tenantry.catalog.cache import Name, TenantCache
from tenantry.catalog.fleet_view import ActiveKey, FleetView, Login
from tenantry.catalog.listen import Listener
from tenantry.catalog.reach import answers_within, refusal_async
from tenantry.errors import NotFound, ServerUnreachable, ServerUnsuitable, TenantNotFound, Unavailable
from tenantry.model import Replica, Tenant, shown
from tenantry.postgres import sqlfile
from tenantry.postgres.connect import APPLICATION_NAME, merge_dsn, shown_dsn
from tenantry.postgres.discretion import hushed
from tenantry.postgres.forks import in_child, leave_to_parent

log = logging.getLogger("tenantry.catalog")

_SQL = sqlfile.load("tenantry.catalog", "queries.sql")
_POOL_SIZE = 4
_MISSED_FLEET_SECONDS = 60.0
_AWAY_SECONDS = 1.0
_ROOM_SECONDS = 0.5


class AsyncCatalogView:
    """The tenants, plans, shards and signing key as the application sees them.

    Args:
        dsn: the catalog, with the application's login.
        cache_size: how many tenants are kept.
        stale_seconds: how old a kept tenant may be while notifications are lost, seconds.
        connect_seconds: how long to wait for the catalog, seconds.

    Attributes:
        on_room_asked: is called with the name of a shard on which another process finds no connection left; in the
            listener's thread, so it must not wait.
    """

    def __init__(
        self, dsn: str, *, cache_size: int = 50_000, stale_seconds: float = 30.0, connect_seconds: float = 5.0
    ) -> None:
        self._dsn = dsn
        self._seconds = connect_seconds
        self.cache = TenantCache(cache_size, stale_seconds)
        self._pool: AsyncConnectionPool[AsyncConnection[DictRow]] | None = None
        self._listener: Listener | None = None
        self._fleet: FleetView | None = None
        self._fleet_at = 0.0
        self._news = 0  # how often the fleet has changed
        self._news_asked = self._news_known = -1  # at which of these it was last asked for, and read
        self._away_until = 0.0  # 0: the catalog answers
        self._me = token_hex(4)
        self._asked_for_room = -math.inf
        self.on_room_asked: Callable[[str], None] | None = None
        self._opening = asyncio.Lock()
        in_child(self._in_child)

    async def open(self) -> None:
        """Connect, listen, and read the fleet. Calls after the first that went well do nothing.

        Raises:
            ServerUnreachable: the catalog does not answer.
            NotFound: there is none, or it is empty.
        """
        async with self._opening:
            if self._pool is None:
                await self._connect()
        await self.fleet()

    async def close(self) -> None:
        """Stop listening and close the connections."""
        pool, listener = self._pool, self._listener
        self._pool = self._listener = self._fleet = None
        self._away_until = 0.0
        self.cache.clear()
        if listener is not None:
            await listener.stop_async()
        if pool is not None:
            await pool.close()

    async def find(self, kind: str, value: Hashable) -> Tenant:
        """The tenant with this ``slug``, ``key``, ``domain`` or ``id``; from memory if it is there.

        Raises:
            TenantNotFound: nobody has it.
            ServerUnreachable: it is not in memory, and the catalog does not answer.
            ServerUnsuitable: what the catalog says of it is new to this version.
        """
        name = (kind, value)
        tenant = self.cache.get(name, time.monotonic())
        return tenant if tenant is not None else await self._fetch(name)

    async def refresh(self, tenant: Tenant) -> Tenant:
        """The tenant as the catalog has it now.

        Raises:
            TenantNotFound: it is gone.
            ServerUnreachable: the catalog does not answer.
        """
        self.cache.forget(tenant.id)
        return await self._fetch(("id", tenant.id), stale=False)

    def peek(self, tenant_id: UUID) -> Tenant | None:
        """The tenant as it is in memory; no I/O."""
        return self.cache.get(("id", tenant_id), time.monotonic(), stale=True)

    async def fleet(self) -> FleetView:
        """The house, plans, shards and signing key; read again after they have changed."""
        fresh = self.fresh_fleet()
        if fresh is not None:
            return fresh
        fleet, news = self._fleet, self._news
        self._news_asked = news
        try:
            found = await self._read_fleet()
        except BaseException as error:
            self._news_asked = -1
            if fleet is None or not isinstance(error, Unavailable):
                raise
            return fleet
        if news >= self._news_known:
            self._fleet, self._news_known, self._fleet_at = found, news, time.monotonic()
        return found

    def fresh_fleet(self) -> FleetView | None:
        """The fleet as it is in memory, if it does not have to be read again; no I/O."""
        missed = not self.cache.listening and time.monotonic() - self._fleet_at > _MISSED_FLEET_SECONDS
        return self._fleet if self._news_asked == self._news and not missed else None

    def ask_for_room(self, shard: str) -> None:
        """Let other processes know that this one finds no connection left on a shard; see ``on_room_asked``."""
        now = time.monotonic()
        if self._listener is not None and now - self._asked_for_room >= _ROOM_SECONDS:
            self._asked_for_room = now
            self._listener.say(f"room {shard} {self._me}")

    def forget_fleet(self) -> None:
        """Read the fleet again when it is asked for next."""
        self._news += 1

    def known_fleet(self) -> FleetView:
        """The fleet as it is in memory; no I/O.

        Raises:
            NotFound: nothing has been read yet.
        """
        if self._fleet is None:
            raise NotFound("the view of the catalog is not open", hint="call open() on the router first")
        return self._fleet

    async def _connect(self) -> None:
        pool: AsyncConnectionPool[AsyncConnection[DictRow]] = AsyncConnectionPool(
            merge_dsn(self._dsn, application_name=APPLICATION_NAME, connect_timeout=max(2, round(self._seconds))),
            min_size=0,
            max_size=_POOL_SIZE,
            timeout=self._seconds,
            reconnect_timeout=self._seconds,  # else it tries less and less often, and the next try is minutes away
            kwargs={"autocommit": True, "row_factory": dict_row},
            open=False,
        )
        await pool.open()
        self._pool = pool
        self._listener = Listener(self._dsn, seconds=self._seconds, heard=self._heard, changed=self._listening)
        self._listener.start()

    def _in_child(self) -> None:
        leave_to_parent(self._pool, self._listener)
        self._pool = self._listener = self._fleet = None
        self._opening = asyncio.Lock()
        self._away_until = 0.0
        self.cache.start_over()

    async def _fetch(self, name: Name, *, stale: bool = True) -> Tenant:
        if self.cache.is_absent(name, time.monotonic()):
            raise _not_found(name)
        mark = self.cache.mark
        kind, value = name
        house = (await self.fleet()).house
        now = time.monotonic()
        try:
            found = await self._rows(_SQL[f"tenant_by_{kind}"], (str(value) if kind == "key" else value,))
        except Unavailable:
            old = self.cache.get(name, now, stale=True) if stale else None
            if old is None:
                raise
            return old
        except (psycopg.DataError, UnicodeEncodeError):
            raise _not_found(name) from None
        if not found:
            self.cache.put_absent(name, now, mark)
            raise _not_found(name)
        tenant = rows.tenant(found[0], house.key_type)
        self.cache.put(name, tenant, now, mark)
        return tenant

    async def _read_fleet(self) -> FleetView:
        houses = await self._rows(_SQL["house"])
        if not houses:
            raise NotFound("the catalog is empty", where=shown_dsn(self._dsn), hint="run 'tenantry init' first")
        shards = await self._rows(_SQL["shards"])
        keys = await self._rows(_SQL["active_key"])
        replicas: dict[str, tuple[Replica, ...]] = {}
        for row in await self._rows(_SQL["replicas"]):
            replicas[row["shard"]] = (*replicas.get(row["shard"], ()), rows.replica(row))
        return FleetView(
            house=rows.house(houses[0]),
            plans=MappingProxyType({row["name"]: rows.plan(row) for row in await self._rows(_SQL["plans"])}),
            shards=MappingProxyType({row["name"]: rows.shard(row) for row in shards}),
            logins=MappingProxyType(
                {row["name"]: Login(row["role"], row["password"]) for row in shards if row["role"]}
            ),
            active_key=ActiveKey(keys[0]["kid"], keys[0]["key"]) if keys else None,
            replicas=MappingProxyType(replicas),
        )

    async def _rows(self, query: Any, parameters: tuple[Any, ...] = ()) -> list[DictRow]:
        """Ask the catalog. After it did not answer, one asks at a time, and the others get the error at once."""
        now = time.monotonic()
        if self._away_until:
            if now < self._away_until:
                raise ServerUnreachable("the catalog does not answer", where=shown_dsn(self._dsn))
            self._away_until = now + self._seconds + _AWAY_SECONDS
        if self._pool is None:
            await self.open()
        error: psycopg.Error | None = None
        for _ in range(_POOL_SIZE + 1):  # each idle connection may have been lost
            try:
                found = await self._ask(query, parameters, now + self._seconds)
            except psycopg.OperationalError as caught:
                error = caught
                if isinstance(error, PoolTimeout) or time.monotonic() - now >= self._seconds:
                    break
            else:
                self._away_until = 0.0
                return found
        self._away_until = time.monotonic() + _AWAY_SECONDS
        raise await self._unreachable() from hushed(error)

    async def _ask(self, query: Any, parameters: tuple[Any, ...], until: float) -> list[DictRow]:
        assert self._pool is not None
        try:
            async with self._pool.connection() as conn:
                remaining = max(0.0, until - time.monotonic())
                with answers_within(conn, remaining):
                    return await (await conn.execute(query, parameters)).fetchall()
        except (errors.UndefinedTable, errors.UndefinedColumn, errors.InvalidSchemaName):
            raise NotFound(
                "there is no catalog, or it is older than this version",
                where=shown_dsn(self._dsn),
                hint="run 'tenantry init'",
            ) from None
        except errors.InsufficientPrivilege:
            raise ServerUnsuitable(
                "the login may not read the catalog",
                where=shown_dsn(self._dsn),
                hint="use the DSN that 'tenantry init' printed, or run it again",
            ) from None

    async def _unreachable(self) -> ServerUnreachable:
        """Why, if nothing is known yet: then somebody waits for the word that helps, such as a wrong password."""
        known = self._fleet is not None
        log.warning("the catalog does not answer%s", "; going on with what is known" if known else "")
        reason = None if known else await refusal_async(self._dsn, self._seconds)
        return reason or ServerUnreachable("the catalog does not answer", where=shown_dsn(self._dsn))

    def _heard(self, payload: str) -> None:
        """News of the catalog, or of anybody else who may connect to it: all that it can do is make us ask again."""
        what, _, which = payload.partition(" ")
        tenant_id = _uuid(which) if what == "tenant" else None
        if tenant_id is not None:
            self.cache.forget(tenant_id)
        elif what == "new":
            self.cache.forget_absent()
        elif what == "fleet":
            self._news += 1
        elif what == "room":
            shard, _, who = which.partition(" ")
            if who != self._me and self.on_room_asked is not None:
                self.on_room_asked(shard)
        else:
            self.cache.clear()
            self._news += 1

    def _listening(self, listening: bool) -> None:
        self.cache.listening = listening
        if listening:
            self.cache.clear()
            self._news += 1
            self._away_until = 0.0


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _not_found(name: Name) -> TenantNotFound:
    kind, value = name
    return TenantNotFound(f"there is no tenant with the {kind} {shown(value if kind == 'slug' else str(value))}")
