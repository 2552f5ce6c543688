"""The control plane's access to the catalog: a small pool, transactions, named queries."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from types import TracebackType
from typing import Any, Self

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import DictRow, dict_row
from psycopg_pool import PoolTimeout

from tenantry.catalog import rows
from tenantry.errors import NotFound, PlanNotFound, ServerUnreachable, ShardNotFound, TenantNotFound
from tenantry.model import House, Plan, Shard, Tenant, parse_slug, shown
from tenantry.postgres import migrate, sqlfile
from tenantry.postgres.connect import APPLICATION_NAME, connect, shown_dsn
from tenantry.postgres.express import Express
from tenantry.postgres.pool import Pool, make_pool, purge

SCHEMA = "tenantry_catalog"
SQL = {**sqlfile.load("tenantry.catalog", "control.sql"), **sqlfile.load("tenantry.catalog", "reserve.sql")}

Conn = AsyncConnection[DictRow]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Parameters = Sequence[Any] | Mapping[str, Any]

_POOL_SIZE = 8
# A process that is stopped in a transaction must not hold its locks for ever.
_IDLE_SECONDS = 60


class CatalogStore:
    """The catalog, with the right to change it.

    Args:
        dsn: the catalog's database, with the control plane's login.
        seconds: how long to wait for it.
    """

    def __init__(self, dsn: str, *, seconds: float = 5.0) -> None:
        self.dsn = dsn
        self.seconds = seconds
        self._pool: Pool | None = None
        self._give: Express | None = None
        self._house: House | None = None

    async def __aenter__(self) -> Self:
        await (await connect(self.dsn, seconds=self.seconds)).close()
        self._pool = make_pool(
            self.dsn,
            size=_POOL_SIZE,
            seconds=self.seconds,
            name=APPLICATION_NAME,
            options=f"-c search_path={SCHEMA},pg_temp -c idle_in_transaction_session_timeout={_IDLE_SECONDS}s",
            row_factory=dict_row,
        )
        await self._pool.open()
        self._give = Express(self._pool, SQL["give"])
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pool, self._pool = self._pool, None
        if self._give is not None:
            await self._give.close()
        if pool is not None:
            await pool.close()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Conn]:
        """A connection in autocommit mode.

        Raises:
            ServerUnreachable: the catalog does not answer.
            NotFound: the database holds no catalog.
        """
        assert self._pool is not None, "the store is not open"
        try:
            async with self._pool.connection() as conn:
                try:
                    yield conn
                except psycopg.OperationalError as error:
                    if await purge(self._pool, conn):
                        raise ServerUnreachable("the catalog was lost", where=shown_dsn(self.dsn)) from error
                    raise
        except PoolTimeout:
            raise ServerUnreachable("the catalog does not answer", where=shown_dsn(self.dsn)) from None
        except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn):
            raise NotFound(
                "there is no catalog, or it is older than this version",
                where=shown_dsn(self.dsn),
                hint="run 'tenantry init'",
            ) from None

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Conn]:
        """A connection inside a transaction."""
        async with self.connection() as conn, conn.transaction():
            yield conn

    async def fetch(self, query: str, parameters: Parameters = ()) -> list[DictRow]:
        """The rows of a named query."""
        async with self.connection() as conn:
            return await fetch(conn, query, parameters)

    async def give(self, *values: str | None) -> datetime:
        """Run ``provision_v1``, the quickest way there is, and return when the tenant was made.

        Raises:
            ServerUnreachable: the catalog does not answer, or was lost before it could.
            psycopg.DatabaseError: it has refused.
        """
        assert self._give is not None, "the store is not open"
        try:
            return _EPOCH + timedelta(microseconds=int(await self._give.call(values)))
        except PoolTimeout:
            raise ServerUnreachable("the catalog does not answer", where=shown_dsn(self.dsn)) from None
        except psycopg.OperationalError as error:
            raise ServerUnreachable("the catalog was lost", where=shown_dsn(self.dsn)) from error

    async def migrate(self) -> list[str]:
        """Create the catalog, or bring it up to date; the names of what was applied."""
        conn = await connect(self.dsn, seconds=self.seconds)
        try:
            found = migrate.read(files("tenantry.catalog").joinpath("migrations"))
            return [f"{each.number:04}_{each.name}" for each in await migrate.apply(conn, SCHEMA, found)]
        finally:
            await conn.close()

    async def house(self) -> House:
        """What holds for all tenants.

        Raises:
            NotFound: the catalog is empty.
        """
        if self._house is None:
            found = await self.fetch("house")
            if not found:
                raise NotFound("the catalog is empty", where=shown_dsn(self.dsn), hint="run 'tenantry init' first")
            self._house = rows.house(found[0])
        return self._house

    async def tenant(self, slug: str) -> Tenant:
        """The tenant with this slug.

        Raises:
            TenantNotFound: there is none.
        """
        found = await self.fetch("tenant_by_slug", (parse_slug(slug),))
        if not found:
            raise TenantNotFound(f"there is no tenant with the slug {slug!r}")
        return rows.tenant(found[0], (await self.house()).key_type)

    async def plan(self, name: str) -> Plan:
        """The plan of this name.

        Raises:
            PlanNotFound: there is none.
        """
        found = await self.fetch("plan", (name,))
        if not found:
            raise PlanNotFound(f"there is no plan {shown(name)}")
        return rows.plan(found[0])

    async def shard(self, name: str) -> Shard:
        """The shard of this name.

        Raises:
            ShardNotFound: there is none.
        """
        found = await self.fetch("shard", (name,))
        if not found:
            raise ShardNotFound(f"there is no shard {shown(name)}")
        return rows.shard(found[0])


async def fetch(conn: Conn, query: str, parameters: Parameters = ()) -> list[DictRow]:
    """The rows of a named query on a connection of the store."""
    cursor = await conn.execute(SQL[query], parameters)
    return await cursor.fetchall() if cursor.description else []
