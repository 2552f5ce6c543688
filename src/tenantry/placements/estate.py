"""The way to the shards: connections of the control plane, and what every database of tenants has to know."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self

from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from tenantry.catalog import rows
from tenantry.catalog.store import CatalogStore
from tenantry.errors import ServerUnreachable, ShardNotFound
from tenantry.model import House, Shard
from tenantry.perimeter.apply import PerimeterPlan, apply_perimeter
from tenantry.perimeter.binder import ADMIN
from tenantry.placements.template import Template, parse_template
from tenantry.postgres.connect import APPLICATION_NAME, connect, merge_dsn
from tenantry.settings import Settings

_POOLS = 16
_POOL_SIZE = 4

Conn = AsyncConnection[Any]


class Estate:
    """All shards, as the control plane reaches them.

    Args:
        store: the catalog.
        settings: name the template and the shared tables.
    """

    def __init__(self, store: CatalogStore, settings: Settings) -> None:
        self.store = store
        self.shared = settings.shared_tables
        self._spec = settings.template
        self._template: Template | None = None
        self._seconds = settings.connect_seconds
        self._pools: OrderedDict[tuple[str, str], AsyncConnectionPool[Conn]] = OrderedDict()
        self._dsns: dict[str, str] = {}
        self._shards: dict[str, Shard] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._pools:
            _, pool = self._pools.popitem()
            await pool.close()

    @property
    def template(self) -> Template:
        """The source of the application's tables."""
        if self._template is None:
            self._template = parse_template(self._spec)
        return self._template

    async def house(self) -> House:
        """What holds for all tenants."""
        return await self.store.house()

    async def shard(self, name: str) -> Shard:
        """The shard of this name; its binding mode never changes, so it is read once."""
        if name not in self._shards:
            self._shards[name] = await self.store.shard(name)
        return self._shards[name]

    async def root_dsn(self, shard: str) -> str:
        """The DSN that was given when the shard was added: it may create roles and databases."""
        found = await self.store.fetch("admin_dsn", (shard,))
        if not found:
            raise ShardNotFound(f"there is no shard {shard!r}")
        dsn: str = found[0]["admin_dsn"]
        return dsn

    @asynccontextmanager
    async def root(self, shard: str, database: str | None = None) -> AsyncIterator[Conn]:
        """A connection that may create roles and databases, for the length of the block."""
        dsn = await self.root_dsn(shard)
        conn = await connect(dsn if database is None else merge_dsn(dsn, dbname=database), seconds=self._seconds)
        try:
            yield conn
        finally:
            await conn.close()

    async def login_dsn(self, shard: str, role: str, database: str) -> str:
        """The DSN of one of the perimeter's roles.

        Raises:
            ShardNotFound: there is no such shard, or it has no such login.
        """
        logins = {row["role"]: row["password"] for row in await self.store.fetch("credentials", (shard,))}
        if role not in logins:
            raise ShardNotFound(f"the shard {shard!r} has no login {role}")
        found = await self.store.shard(shard)
        return merge_dsn(
            found.dsn,
            dbname=database,
            user=role,
            password=logins[role],
            application_name=APPLICATION_NAME,
            connect_timeout=max(2, round(self._seconds)),
        )

    @asynccontextmanager
    async def admin(self, shard: str, database: str) -> AsyncIterator[Conn]:
        """A pooled connection of the control plane's role (autocommit): it reads and writes for any tenant.

        Raises:
            ServerUnreachable: the shard does not answer.
        """
        pool = self._pools.get((shard, database))
        if pool is None:
            pool = AsyncConnectionPool(
                await self.login_dsn(shard, ADMIN, database),
                min_size=0,
                max_size=_POOL_SIZE,
                timeout=self._seconds,
                kwargs={"autocommit": True},
                open=False,
            )
            self._pools[shard, database] = pool
            await pool.open()
            await self._trim()
        self._pools.move_to_end((shard, database))
        try:
            async with pool.connection() as conn:
                yield conn
        except PoolTimeout:
            raise ServerUnreachable("the shard does not answer", where=f"{shard}/{database}") from None

    async def forget(self, shard: str, database: str) -> None:
        """Close the connections to a database that is about to go."""
        pool = self._pools.pop((shard, database), None)
        if pool is not None:
            await pool.close()

    async def _trim(self) -> None:
        while len(self._pools) > _POOLS:
            _, pool = self._pools.popitem(last=False)
            await pool.close()

    async def wall(self, shard: str, database: str, schemas: Sequence[str], *, server: bool = False) -> PerimeterPlan:
        """Close the perimeter of some schemas of a database, and tell it the plans and the signing keys."""
        house, mode = await self.house(), (await self.shard(shard)).binding
        async with self.root(shard, database) as conn:
            done = await apply_perimeter(conn, house, mode, schemas, self.shared, server=server)
            await self.tell_plans(conn)
            await self.tell_keys(conn)
        return done

    async def tell_plans(self, conn: Conn) -> None:
        """Give a database all plans' limits."""
        plans = [rows.plan(row) for row in await self.store.fetch("plans")]
        async with conn.cursor() as cursor:
            await cursor.executemany(
                "INSERT INTO tenantry.plans (name, limits) VALUES (%s, %s)"
                " ON CONFLICT (name) DO UPDATE SET limits = excluded.limits WHERE plans.limits <> excluded.limits",
                [(plan.name, list(rows.limits(plan.limits))) for plan in plans],
            )

    async def tell_keys(self, conn: Conn) -> None:
        """Give a database the signing keys of the catalog, and no others."""
        keys = await self.store.fetch("keys")
        for key in keys:
            await conn.execute(
                "SELECT tenantry_priv.add_key_v1(%s, %s, %s)", (key["kid"], key["key"], key["not_after"])
            )
        await conn.execute("SELECT tenantry_priv.keep_keys_v1(%s)", ([key["kid"] for key in keys],))
