"""The library's view of the catalog: cached in the process, told of changes by NOTIFY.

A hit costs no I/O. What was not asked for is not loaded, so memory is bounded however many tenants there are.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Hashable
from types import MappingProxyType
from typing import Any
from uuid import UUID

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from tenantry.catalog import rows
from tenantry.catalog.cache import Name, TenantCache
from tenantry.catalog.fleet_view import ActiveKey, FleetView, Login
from tenantry.catalog.listen import Listener
from tenantry.errors import NotFound, ServerUnreachable, TenantNotFound
from tenantry.model import Tenant, shown
from tenantry.postgres import sqlfile
from tenantry.postgres.connect import APPLICATION_NAME, merge_dsn, shown_dsn
from tenantry.postgres.forks import in_child, leave_to_parent

log = logging.getLogger("tenantry.catalog")

_SQL = sqlfile.load("tenantry.catalog", "queries.sql")
_POOL_SIZE = 4
_MISSED_FLEET_SECONDS = 60.0


class AsyncCatalogView:
    """The tenants, plans, shards and signing key as the application sees them.

    Args:
        dsn: the catalog, with the application's login.
        cache_size: how many tenants are kept.
        stale_seconds: how old a kept tenant may be while notifications are lost, seconds.
        connect_seconds: how long to wait for the catalog, seconds.
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
        self._fleet_changed = True
        self._opening = asyncio.Lock()
        in_child(self._in_child)

    async def open(self) -> None:
        """Connect, listen, and read the fleet. Calls after the first do nothing.

        Raises:
            ServerUnreachable: the catalog does not answer.
        """
        async with self._opening:
            if self._pool is not None:
                return
            pool: AsyncConnectionPool[AsyncConnection[DictRow]] = AsyncConnectionPool(
                merge_dsn(self._dsn, application_name=APPLICATION_NAME, connect_timeout=max(2, round(self._seconds))),
                min_size=0,
                max_size=_POOL_SIZE,
                timeout=self._seconds,
                kwargs={"autocommit": True, "row_factory": dict_row},
                open=False,
            )
            await pool.open()
            listener = Listener(self._dsn, seconds=self._seconds, heard=self._heard, changed=self._listening)
            self._pool, self._listener = pool, listener
            listener.start()
        await self.fleet()

    async def close(self) -> None:
        """Stop listening and close the connections."""
        pool, listener = self._pool, self._listener
        self._pool = self._listener = self._fleet = None
        self.cache.clear()
        if listener is not None:
            listener.stop()
        if pool is not None:
            await pool.close()

    async def find(self, kind: str, value: Hashable) -> Tenant:
        """The tenant with this ``slug``, ``key``, ``domain`` or ``id``; from memory if it is there.

        Raises:
            TenantNotFound: nobody has it.
            ServerUnreachable: it is not in memory, and the catalog does not answer.
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
        fleet = self._fleet
        missed = not self.cache.listening and time.monotonic() - self._fleet_at > _MISSED_FLEET_SECONDS
        if fleet is not None and not self._fleet_changed and not missed:
            return fleet
        self._fleet_changed = False
        try:
            self._fleet = fleet = await self._read_fleet()
        except ServerUnreachable:
            self._fleet_changed = True
            if fleet is None:
                raise
            log.warning("the catalog does not answer; going on with what is known of the fleet")
        self._fleet_at = time.monotonic()
        return fleet

    def forget_fleet(self) -> None:
        """Read the fleet again when it is asked for next."""
        self._fleet_changed = True

    def known_fleet(self) -> FleetView:
        """The fleet as it is in memory; no I/O.

        Raises:
            NotFound: nothing has been read yet.
        """
        if self._fleet is None:
            raise NotFound("the view of the catalog is not open", hint="call open() on the router first")
        return self._fleet

    def _in_child(self) -> None:
        leave_to_parent(self._pool, self._listener)
        self._pool = self._listener = self._fleet = None
        self._opening = asyncio.Lock()
        self.cache.start_over()

    async def _fetch(self, name: Name, *, stale: bool = True) -> Tenant:
        if self.cache.is_absent(name, time.monotonic()):
            raise _not_found(name)
        mark = self.cache.mark
        kind, value = name
        house = (await self.fleet()).house
        parameter = str(value) if kind == "key" else value
        try:
            found = await self._rows(_SQL[f"tenant_by_{kind}"], (parameter,))
        except ServerUnreachable:
            old = self.cache.get(name, time.monotonic(), stale=True) if stale else None
            if old is None:
                raise
            return old
        if not found:
            self.cache.put_absent(name, time.monotonic(), mark)
            raise _not_found(name)
        tenant = rows.tenant(found[0], house.key_type)
        self.cache.put(name, tenant, time.monotonic(), mark)
        return tenant

    async def _read_fleet(self) -> FleetView:
        houses = await self._rows(_SQL["house"])
        if not houses:
            raise NotFound("the catalog is empty", where=shown_dsn(self._dsn), hint="run 'tenantry init' first")
        shards = await self._rows(_SQL["shards"])
        keys = await self._rows(_SQL["active_key"])
        return FleetView(
            house=rows.house(houses[0]),
            plans=MappingProxyType({row["name"]: rows.plan(row) for row in await self._rows(_SQL["plans"])}),
            shards=MappingProxyType({row["name"]: rows.shard(row) for row in shards}),
            logins=MappingProxyType(
                {row["name"]: Login(row["role"], row["password"]) for row in shards if row["role"]}
            ),
            active_key=ActiveKey(keys[0]["kid"], keys[0]["key"]) if keys else None,
        )

    async def _rows(self, query: Any, parameters: tuple[Any, ...] = ()) -> list[DictRow]:
        if self._pool is None:
            await self.open()
        assert self._pool is not None
        for last in (False, True):
            try:
                async with self._pool.connection() as conn:
                    return await (await conn.execute(query, parameters)).fetchall()
            except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
                raise NotFound(
                    "there is no catalog", where=shown_dsn(self._dsn), hint="run 'tenantry init' first"
                ) from None
            except (psycopg.OperationalError, PoolTimeout) as error:
                if last or isinstance(error, PoolTimeout):
                    raise ServerUnreachable("the catalog does not answer", where=shown_dsn(self._dsn)) from error
        raise AssertionError("unreachable")

    def _heard(self, payload: str) -> None:
        what, _, which = payload.partition(" ")
        if what == "tenant":
            self.cache.forget(UUID(which))
        elif what == "new":
            self.cache.forget_absent()
        elif what == "fleet":
            self._fleet_changed = True
        else:
            self.cache.clear()
            self._fleet_changed = True

    def _listening(self, listening: bool) -> None:
        self.cache.listening = listening
        if listening:
            self.cache.clear()
            self._fleet_changed = True


def _not_found(name: Name) -> TenantNotFound:
    kind, value = name
    return TenantNotFound(f"there is no tenant with the {kind} {shown(value if kind == 'slug' else str(value))}")
