"""asyncpg: transactions of a router's tenants on asyncpg connections.

    pool = create_pool(AsyncRouter())
    async with router.tenant_scope("acme"), pool.transaction() as conn:
        await conn.fetch("SELECT * FROM orders")

Each transaction begins where the tenant of the current scope lives, bound to it. See ``docs/howto/asyncpg.md``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from tenantry.errors import InvalidInput, MissingDependency, TenantryError

try:
    import asyncpg  # type: ignore[import-untyped]
except ImportError:
    raise MissingDependency("asyncpg", "asyncpg") from None

from asyncpg.pool import PoolConnectionProxy  # type: ignore[import-untyped]
from asyncpg.transaction import Transaction  # type: ignore[import-untyped]

from tenantry.context import Scope
from tenantry.model import Mode, Tenant, shown
from tenantry.perimeter.asyncpg import AsyncpgConnection
from tenantry.perimeter.connection import is_fatal
from tenantry.routing.asyncpg import Hook, connect_asyncpg, drop_asyncpg
from tenantry.routing.core import Attempts, Route
from tenantry.routing.ledger import Key, Place
from tenantry.routing.router_async import AsyncRouter
from tenantry.routing.sessions import Learned
from tenantry.routing.waiting import take_async

__all__ = ["Pool", "create_pool"]

log = logging.getLogger("tenantry.routing")

_ISOLATION = ("read_uncommitted", "read_committed", "repeatable_read", "serializable")
_WHERE = "database dsn host krbsrvname passfile password port service servicefile target_session_attrs user"
_ROUTER_DECIDES = {
    **dict.fromkeys(_WHERE.split(), "the router knows where the tenants live"),
    **dict.fromkeys(("direct_tls", "ssl"), "it stands in the shard's DSN"),
    **dict.fromkeys(("connect", "connection_class", "loop"), "the router connects"),
    **dict.fromkeys(("max_size", "min_size"), "set pool_size and pool_budget in the settings"),
    **dict.fromkeys(
        ("max_inactive_connection_lifetime", "max_queries"), "the router closes what has been idle for long, or is old"
    ),
    "reset": "the binding cleans the connection",
    "timeout": "set connect_seconds in the settings",
}


def create_pool(
    router: AsyncRouter,
    *,
    init: Hook | None = None,
    setup: Hook | None = None,
    server_settings: Mapping[str, str] | None = None,
    isolation: str | None = None,
    **options: Any,
) -> Pool:
    """A pool for all databases of the house. Nothing connects before its first transaction.

    Args:
        router: finds the tenants; its connections and the pool's are under one budget.
        init: called once with each new connection, outside of any transaction: for codecs and listeners. What it sets
            with SET holds for all transactions, except for the search path.
        setup: called at the head of each transaction, which it may prepare further.
        server_settings: parameters for all sessions, such as ``timezone``.
        isolation: of transactions that don't say another.
        options: as of ``asyncpg.connect``, without those that the router decides.

    Raises:
        InvalidInput: another kind of router, or an option that the router decides.
    """
    if not isinstance(router, AsyncRouter):
        raise InvalidInput(f"{shown(router)} is no AsyncRouter", hint="asyncpg works with an AsyncRouter only")
    for name in options:
        if name in _ROUTER_DECIDES:
            raise InvalidInput(f"a pool of Tenantry takes no {name!r}", hint=_ROUTER_DECIDES[name])
    if "search_path" in (server_settings or {}):
        raise InvalidInput(
            "a pool of Tenantry takes no search_path: each binding sets it to where the tenant's tables are",
            hint="name other schemas in statements, or add them with SET LOCAL in 'setup'",
        )
    _check_isolation(isolation)
    return Pool(router, init=init, setup=setup, server_settings=server_settings, isolation=isolation, options=options)


class Pool:
    """Transactions of tenants on asyncpg connections; see :func:`create_pool`."""

    def __init__(
        self,
        router: AsyncRouter,
        *,
        init: Hook | None,
        setup: Hook | None,
        server_settings: Mapping[str, str] | None,
        isolation: str | None,
        options: Mapping[str, Any],
    ) -> None:
        self.router = router
        self._init = init
        self._setup = setup
        self._server_settings = server_settings
        self._learned = Learned()
        self._isolation = isolation
        self._options = dict(options)
        if router.settings.pooler:
            self._options["statement_cache_size"] = 0

    @asynccontextmanager
    async def transaction(
        self,
        tenant: Tenant | None = None,
        *,
        mode: Mode | str | None = None,
        isolation: str | None = None,
        deferrable: bool = False,
    ) -> AsyncIterator[PoolConnectionProxy]:
        """An asyncpg connection inside a transaction that is bound to a tenant; committed when the block ends well.

        The transaction begins with its first statement, in one round trip with it if the connection has prepared it
        before.

        Args:
            tenant: the tenant; None: that of the current scope.
            mode: ``ro`` to refuse writes; None: as the scope says.
            isolation: as of asyncpg's ``Connection.transaction``; None: the pool's.
            deferrable: as of asyncpg's ``Connection.transaction``.

        Raises:
            NoTenant: there is no scope, and no tenant is given.
            CrossedTenants: another tenant's scope is open.
            TenantSuspended, TenantDeleted, TenantNotReady: it may not work now.
            NoCapacity, ServerUnreachable: no connection could be had.
            InvalidInput: there is no such isolation level.
        """
        _check_isolation(isolation)
        scope = self.router.scope(tenant, Mode(mode) if mode is not None else None)
        passage = await self._begin(scope, isolation or self._isolation, deferrable)
        proxy = PoolConnectionProxy(None, passage.conn)
        failure: BaseException | None = None
        try:
            if self._setup is not None:
                await self._setup(proxy)
            yield proxy
        except BaseException as error:
            failure = error
            await passage.roll_back()
            raise
        else:
            await passage.block.commit()
        finally:
            proxy._detach()
            passage.end(failure)

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:
        """As asyncpg's, in a transaction of its own, for the tenant of the current scope."""
        async with self.transaction() as conn:
            status: str = await conn.execute(query, *args, timeout=timeout)
            return status

    async def executemany(self, command: str, args: Iterable[Sequence[Any]], *, timeout: float | None = None) -> None:
        """As asyncpg's; see :meth:`execute`."""
        async with self.transaction() as conn:
            await conn.executemany(command, args, timeout=timeout)

    async def fetch(self, query: str, *args: Any, timeout: float | None = None) -> list[Any]:
        """As asyncpg's; see :meth:`execute`."""
        async with self.transaction() as conn:
            rows: list[Any] = await conn.fetch(query, *args, timeout=timeout)
            return rows

    async def fetchrow(self, query: str, *args: Any, timeout: float | None = None) -> Any:
        """As asyncpg's; see :meth:`execute`."""
        async with self.transaction() as conn:
            return await conn.fetchrow(query, *args, timeout=timeout)

    async def fetchval(self, query: str, *args: Any, column: int = 0, timeout: float | None = None) -> Any:
        """As asyncpg's; see :meth:`execute`."""
        async with self.transaction() as conn:
            return await conn.fetchval(query, *args, column=column, timeout=timeout)

    async def close(self) -> None:
        """Close the connections that nobody uses."""
        self.router.pools.ledger.drop(lambda key: isinstance(key.owner, tuple) and key.owner[0] is self)
        await asyncio.sleep(0)  # the sockets are closed in the loop's next round

    async def _begin(self, scope: Scope, isolation: str | None, deferrable: bool) -> _Passage:
        """Begin where the tenant lives, or where it has moved to, past connections that are lost or not clean."""
        router = self.router
        tenant = router.view.peek(scope.tenant.id) or scope.tenant
        route = router.way(scope, tenant, await router.view.fleet())
        attempts: Attempts | None = None
        while True:
            passage: _Passage | None = None
            try:
                passage = _Passage(self, route, await self.take(route), isolation, deferrable)
                await passage.block.start()
                return passage
            except BaseException as error:
                lost = passage is not None and passage.conn.is_closed()
                if passage is not None:
                    passage.end(error)
                if not isinstance(error, Exception) or not (lost or isinstance(error, TenantryError)):
                    raise
                attempts = attempts or router.attempts(route)
                route = await router.recover(error, route, attempts, lost=lost)

    async def take(self, route: Route) -> Place:
        """A place with a connection in it. Who takes one gives it back, whatever happens."""
        pools, target, home = self.router.pools, route.target, route.schema
        key = Key(target, (self, asyncio.get_running_loop()))  # a connection is of no use in another loop
        place = await take_async(pools.ledger, key, target.size, drop_asyncpg, pools.seconds, route.home)
        if place.item is None:
            try:
                place.item = await connect_asyncpg(
                    target,
                    seconds=pools.seconds,
                    home=home,
                    pooler=self.router.settings.pooler,
                    parameters=route.parameters,
                    init=self._init,
                    learned=self._learned,
                    server_settings=self._server_settings,
                    **self._options,
                )
            except BaseException:
                pools.ledger.give(place, keep=False)
                raise
            pools.ledger.connected(place)
        return place

    def give(self, place: Place, error: BaseException | None) -> None:
        """Give a place back.

        Args:
            error: what came out of the work with the connection.
        """
        conn = place.item
        conn.unbind()
        conn._pool_release_ctr += 1  # what was prepared with it is of no use any more
        self.router.pools.ledger.give(place, keep=(error is None or not is_fatal(error)) and conn.is_clean)


class _Passage:
    """The way of one transaction: where its tenant lives, or has moved to, past connections that are lost or not clean.

    Args:
        place: with a connection to the route's target.
    """

    def __init__(self, pool: Pool, route: Route, place: Place, isolation: str | None, deferrable: bool) -> None:
        self._pool = pool
        self._route = route
        self._attempts: Attempts | None = None
        self._place: Place | None = place
        self.conn: AsyncpgConnection = place.item
        self._bind()
        self.conn.begin_late()
        readonly = route.mode is Mode.READ_ONLY
        self.block = Transaction(self.conn, isolation, readonly, deferrable)

    def end(self, error: BaseException | None) -> None:
        """Give the connection back.

        Args:
            error: what came out of the work with it.
        """
        self.conn.again = None
        if self._place is not None:
            self._pool.give(self._place, error)

    async def roll_back(self) -> None:
        """Roll back after an error, which is more telling than what may go wrong now."""
        try:
            await self.block.rollback()
        except (OSError, TenantryError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            log.warning("a transaction on %s was not rolled back: %s", self._route.target.name, error)

    def _bind(self) -> None:
        route, conn = self._route, self.conn
        conn.bind_to(route.mint, route.guard, route.code, route.schema, route.floor, route.ended)
        conn.again = self._again

    async def _again(self, error: Exception) -> None:
        """Begin elsewhere; nothing of the transaction has taken effect.

        Args:
            error: why it could not begin. It is raised again if another attempt makes no sense.
        """
        router, begin = self._pool.router, self.conn.gate.begun
        self._attempts = self._attempts or router.attempts(self._route)
        while True:
            lost = self._place is not None and not self.conn.gate.is_connected()  # else no connection could be had
            self._leave()
            self._route = await router.recover(error, self._route, self._attempts, lost=lost)
            try:
                self._go_on(await self._pool.take(self._route), begin)
                await self.conn.gate.begin_due()
                return
            except (OSError, TenantryError, asyncpg.PostgresError, asyncpg.InterfaceError) as another:
                error = another

    def _leave(self) -> None:
        """Who still holds the session must not meet another tenant in it, so it ends."""
        place, self._place = self._place, None
        if place is not None:
            self.conn.terminate()
            self._pool.router.pools.ledger.give(place, keep=False)

    def _go_on(self, place: Place, begin: str) -> None:
        """Begin with the session of another connection, in the same object."""
        conn, self._place = self.conn, place
        conn.adopt(place.item)
        place.item = conn
        self._bind()
        conn.gate.due = begin


def _check_isolation(isolation: str | None) -> None:
    if isolation is not None and isolation not in _ISOLATION:
        raise InvalidInput(f"{shown(isolation)} is no isolation level", hint=f"one of {', '.join(_ISOLATION)}")
