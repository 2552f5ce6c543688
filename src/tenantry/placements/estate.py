"""The way to the shards: connections of the control plane, and what every database of tenants has to know."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from secrets import token_hex
from types import TracebackType
from typing import Any, Protocol, Self

import psycopg
from psycopg import AsyncConnection
from psycopg_pool import PoolTimeout

from tenantry.catalog import rows
from tenantry.catalog.store import CatalogStore, fetch
from tenantry.catalog.store import Conn as CatalogConn
from tenantry.errors import InvalidSettings, OperationFailed, ServerUnreachable, ShardNotFound, TenantryError
from tenantry.model import House, Shard
from tenantry.perimeter.apply import PerimeterPlan, apply_perimeter
from tenantry.perimeter.binder import ADMIN, APP
from tenantry.placements.space import Space
from tenantry.placements.template import LOCK_SECONDS, NoTables, Template, parse_template
from tenantry.postgres.connect import connect, merge_dsn, parse_dsn
from tenantry.postgres.pool import Pool, make_pool, purge
from tenantry.settings import Settings

log = logging.getLogger("tenantry.placements")

_POOLS = 16
_POOL_SIZE = 4
_NAME_LENGTH = 63
_EXPEL_MILLISECONDS = 5000
_TELL_SECONDS = 30.0  # less than a transaction of the catalog may be idle

Conn = AsyncConnection[Any]


class Holder(Protocol):
    """Who acts on the shards: the claim of an operation."""

    def predecessors(self, shard: str) -> Sequence[str]:
        """The names of those who acted before, and may still have sessions on a shard; each shard is told once."""
        ...

    async def check(self) -> None:
        """Raises if somebody else acts now."""
        ...


_holder: ContextVar[Holder | None] = ContextVar("tenantry_holder", default=None)


class Estate:
    """All shards, as the control plane reaches them.

    Args:
        store: the catalog.
        settings: name the template and the shared tables.

    Attributes:
        name: how the sessions of this estate call themselves to the shards; no two have the same.
    """

    def __init__(self, store: CatalogStore, settings: Settings) -> None:
        self.store = store
        self.shared = settings.shared_tables
        self.name = f"tenantry {token_hex(6)} {os.getpid()}@{socket.gethostname()}"[:_NAME_LENGTH]
        self._spec = settings.template
        self._template: Template | None = None
        self._seconds = settings.connect_seconds
        self._pools: OrderedDict[tuple[str, str], Pool] = OrderedDict()
        self._users: Counter[tuple[str, str]] = Counter()
        self._opening = asyncio.Lock()

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

    @contextmanager
    def acting_for(self, holder: Holder) -> Iterator[None]:
        """Inside the block every connection is given out only while the holder may act.

        The order matters: first there is a session, then the holder is checked. A process that is stopped in between
        and wakes up after its operation was taken over finds that its successor has ended the session.
        """
        token = _holder.set(holder)
        try:
            yield
        finally:
            _holder.reset(token)

    async def house(self) -> House:
        """What holds for all tenants."""
        return await self.store.house()

    async def shard(self, name: str) -> Shard:
        """The shard of this name."""
        return await self.store.shard(name)

    async def root_dsn(self, shard: str, catalog: CatalogConn | None = None) -> str:
        """The DSN that was given when the shard was added: it may create roles and databases.

        Args:
            catalog: a connection of the catalog that the caller has already.
        """
        parameters = (shard,)
        if catalog is None:
            found = await self.store.fetch("admin_dsn", parameters)
        else:
            found = await fetch(catalog, "admin_dsn", parameters)
        if not found:
            raise ShardNotFound(f"there is no shard {shard!r}")
        return merge_dsn(found[0]["admin_dsn"], application_name=self.name)

    @asynccontextmanager
    async def root(self, shard: str, database: str | None = None) -> AsyncIterator[Conn]:
        """A connection that may create roles and databases, for the length of the block."""
        dsn = await self.root_dsn(shard)
        conn = await connect(dsn if database is None else merge_dsn(dsn, dbname=database), seconds=self._seconds)
        try:
            await self._enter(shard, dsn)
            yield conn
        finally:
            await conn.close()

    async def login_dsn(self, shard: str, role: str, database: str) -> str:
        """The DSN of one of the perimeter's roles, where operators connect: never through a pooler.

        Raises:
            ShardNotFound: there is no such shard, or it has no such login.
        """
        return await self._login(shard, role, database, await self.root_dsn(shard))

    async def application_dsn(self, shard: str, database: str) -> str:
        """The DSN with which applications connect, as :meth:`login_dsn`."""
        return await self._login(shard, APP, database, (await self.store.shard(shard)).dsn)

    async def _login(self, shard: str, role: str, database: str, where: str) -> str:
        logins = {row["role"]: row["password"] for row in await self.store.fetch("credentials", (shard,))}
        if role not in logins:
            raise ShardNotFound(f"the shard {shard!r} has no login {role}")
        return merge_dsn(where, dbname=database, user=role, password=logins[role], options=None, application_name=None)

    @asynccontextmanager
    async def admin(self, shard: str, database: str) -> AsyncIterator[Conn]:
        """A pooled connection of the control plane's role (autocommit): it reads and writes for any tenant.

        Raises:
            ServerUnreachable: the shard does not answer.
        """
        self._users[shard, database] += 1  # from here on nobody closes the pool
        try:
            pool = await self._pool(shard, database)
            async with pool.connection() as conn:
                try:
                    await self._enter(shard)
                    yield conn
                except psycopg.OperationalError:
                    if await purge(pool, conn):
                        await self._forget_moved(shard, database)
                    raise
        except PoolTimeout:
            await self._forget_moved(shard, database)
            raise ServerUnreachable("the shard does not answer", where=f"{shard}/{database}") from None
        finally:
            self._users[shard, database] -= 1

    async def _pool(self, shard: str, database: str) -> Pool:
        async with self._opening:
            pool = self._pools.get((shard, database))
            if pool is None:
                dsn = await self.login_dsn(shard, ADMIN, database)
                pool = make_pool(dsn, size=_POOL_SIZE, seconds=self._seconds, name=self.name)
                await pool.open()
                self._pools[shard, database] = pool
            self._pools.move_to_end((shard, database))
            await self._trim()
        return pool

    async def _forget_moved(self, shard: str, database: str) -> None:
        """The shard may have got another address since the pool was made."""
        pool = self._pools.get((shard, database))
        if pool is None:
            return
        wanted = parse_dsn(await self.login_dsn(shard, ADMIN, database))
        known = parse_dsn(str(pool.conninfo))
        if any(known.get(name) != value for name, value in wanted.items()):
            await self.forget(shard, database)

    async def _trim(self) -> None:
        unused = [place for place in self._pools if not self._users[place]]
        for place in unused[: max(0, len(self._pools) - _POOLS)]:
            await self._pools.pop(place).close()
        self._users += Counter()  # drops those at zero

    async def forget(self, shard: str, database: str) -> None:
        """Close the connections to a database that is about to go."""
        pool = self._pools.pop((shard, database), None)
        if pool is not None:
            await pool.close()

    async def _enter(self, shard: str, root: str | None = None) -> None:
        holder = _holder.get()
        if holder is None:
            return
        if predecessors := holder.predecessors(shard):
            await self._expel(shard, root or await self.root_dsn(shard), predecessors)
        await holder.check()

    async def _expel(self, shard: str, root: str, names: Sequence[str]) -> None:
        """End the sessions of those who acted before. Which role may end whose differs, so both of ours try."""
        database = parse_dsn(root).get("dbname") or "postgres"
        left = 0
        for dsn in (root, await self.login_dsn(shard, ADMIN, database)):
            conn = await connect(merge_dsn(dsn, application_name=self.name), seconds=self._seconds)
            try:
                await conn.execute(
                    "SELECT pg_terminate_backend(pid, %s) FROM pg_stat_activity WHERE application_name = ANY (%s)"
                    " AND (usename = current_user OR current_setting('is_superuser') = 'on')",
                    (_EXPEL_MILLISECONDS, list(names)),
                )
                query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = ANY (%s)"
                left = (await (await conn.execute(query, (list(names),))).fetchall())[0][0]
            finally:
                await conn.close()
            if not left:
                return
        raise ServerUnreachable(
            f"{left} sessions of a process that had this operation before do not end",
            where=shard,
            hint="end them with pg_terminate_backend(): " + ", ".join(names),
        )

    async def wall(self, shard: str, database: str, schemas: Sequence[str], *, server: bool = False) -> PerimeterPlan:
        """Close the perimeter of some schemas of a database, and tell it the plans and the signing keys."""
        async with self.root(shard, database) as conn:
            return await self._wall(conn, shard, schemas, server=server)

    async def _wall(self, conn: Conn, shard: str, schemas: Sequence[str], *, server: bool = False) -> PerimeterPlan:
        house, mode = await self.house(), (await self.shard(shard)).binding
        done = await apply_perimeter(conn, house, mode, schemas, self.shared, server=server)
        async with self.store.transaction() as catalog:
            await self._tell(catalog, conn)
        return done

    async def bring_up(self, space: Space) -> PerimeterPlan:
        """Bring a space's tables up to date, close the wall around them (what that took comes back), note the version.

        Raises:
            TenantryError: the application's migrations failed there; ``where`` is the space.
        """
        version = self.template.version()  # it may change while they run: an old one noted does no harm, a new one does
        try:
            await self.refuse_to_forget_tables()
            done = await self._bring_up(space)
        except TenantryError as error:
            error.where = space.name
            raise
        except psycopg.Error as error:
            reason = str(error).strip().partition("\n")[0]
            raise OperationFailed(f"it can't be brought up to date: {reason}", where=space.name) from error
        await self.store.fetch("space_template", (version, [space.id]))
        return done

    async def refuse_to_forget_tables(self) -> None:
        """A process that was started without the setting would hand out homes without tables: InvalidSettings."""
        if isinstance(self.template, NoTables) and await self.store.fetch("templates", (NoTables.VERSION,)):
            raise InvalidSettings(
                "setting 'template' is missing: other homes of this house have tables from one",
                hint="set TENANTRY_TEMPLATE, or 'template' in tenantry.toml, as for the process that made them",
            )

    async def _bring_up(self, space: Space) -> PerimeterPlan:
        dsn = merge_dsn(await self.login_dsn(space.shard, ADMIN, space.database), application_name=self.name)
        async with self.root(space.shard, space.database) as conn:
            # Not every migration tool keeps out a second one of its kind.
            await conn.execute(f"SET lock_timeout = '{LOCK_SECONDS}s'")
            await conn.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", (f"tenantry {space.schema}",))
            await self.template.apply(dsn, space.schema)
            return await self._wall(conn, space.shard, [space.schema])

    async def inform(self, shard: str, database: str) -> None:
        """Tell a database the plans and keys."""
        async with self.store.transaction() as catalog:
            await self.introduce(catalog, shard, database)

    async def inform_all(self) -> None:
        """Tell all databases the plans and keys; one that does not answer does not keep the others from it.

        Raises:
            TenantryError: the first reason why one could not be told.
        """
        failed: dict[tuple[str, str], Exception] = {}
        for shard, database in await self._databases():
            try:
                await self.inform(shard, database)
            except (TenantryError, psycopg.Error, TimeoutError) as error:
                failed[shard, database] = error
        for place in failed.keys() & set(await self._databases()) if failed else ():  # others have just been deleted
            log.error("%s/%s was not told of plans and keys: %s", *place, failed[place])
            raise failed[place]

    async def _databases(self) -> list[tuple[str, str]]:
        return [(row["shard"], row["database"]) for row in await self.store.fetch("databases")]

    async def has_database(self, shard: str, database: str) -> bool:
        """Whether a shard has a database of this name."""
        async with self.root(shard) as conn:
            found = await conn.execute("SELECT 1 FROM pg_database WHERE datname = %s", (database,))
            return await found.fetchone() is not None

    async def introduce(self, catalog: CatalogConn, shard: str, database: str) -> None:
        """Tell a new database the plans and keys, in the transaction that makes it known to the catalog: who changes
        them later finds it there."""
        dsn = merge_dsn(await self.root_dsn(shard, catalog), dbname=database)
        async with asyncio.timeout(_TELL_SECONDS):
            conn = await connect(dsn, seconds=self._seconds)
            try:
                await self._tell(catalog, conn)
            finally:
                await conn.close()

    async def _tell(self, catalog: CatalogConn, conn: Conn) -> None:
        """Nobody changes the plans and keys before the catalog's transaction ends: so no database is ever told old ones
        after it was told new ones."""
        await catalog.execute("LOCK TABLE plans, signing_keys IN SHARE MODE")
        plans = [rows.plan(row) for row in await fetch(catalog, "plans")]
        keys = await fetch(catalog, "keys")
        async with conn.transaction(), conn.cursor() as cursor:
            await cursor.executemany(
                "INSERT INTO tenantry.plans (name, limits) VALUES (%s, %s)"
                " ON CONFLICT (name) DO UPDATE SET limits = excluded.limits WHERE plans.limits <> excluded.limits",
                [(plan.name, list(rows.limits(plan.limits))) for plan in plans],
            )
            await cursor.executemany(
                "SELECT tenantry_priv.add_key_v1(%s, %s, %s)",
                [(key["kid"], key["key"], key["not_after"]) for key in keys],
            )
            await cursor.execute("SELECT tenantry_priv.keep_keys_v1(%s)", ([key["kid"] for key in keys],))
