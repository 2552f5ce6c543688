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
from tenantry.perimeter.connection import is_fatal
from tenantry.routing.asyncpg import Hook, connect_asyncpg, drop_asyncpg
from tenantry.routing.core import Attempts, Target, admitted
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
        place, block = await self._begin(scope, isolation or self._isolation, deferrable)
        proxy = PoolConnectionProxy(None, place.item)
        failure: BaseException | None = None
        try:
            if self._setup is not None:
                await self._setup(proxy)
            yield proxy
        except BaseException as error:
            failure = error
            await _roll_back(place, block)
            raise
        else:
            await block.commit()
        finally:
            proxy._detach()
            self._give(place, failure)

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

    async def _begin(self, scope: Scope, isolation: str | None, deferrable: bool) -> tuple[Place, Transaction]:
        """Begin where the tenant lives, or where it has moved to, past connections that are lost or not clean."""
        router = self.router
        tenant = router.view.peek(scope.tenant.id) or scope.tenant
        route = router.route(tenant, scope.mode, await router.view.fleet())
        attempts: Attempts | None = None
        while True:
            place: Place | None = None
            try:
                home = admitted(route.tenant).schema
                place = await self._take(route.target, home)
                place.item.bind_to(route.mint, route.guard, home)
                readonly = route.mode is Mode.READ_ONLY
                block = place.item.transaction(isolation=isolation, readonly=readonly, deferrable=deferrable)
                await block.start()
                return place, block
            except BaseException as error:
                lost = place is not None and place.item.is_closed()
                if place is not None:
                    self._give(place, error)
                if not isinstance(error, Exception) or not (lost or isinstance(error, TenantryError)):
                    raise
                attempts = attempts or router.attempts(route)
                route = await router.recover(error, route, attempts, lost=lost)

    async def _take(self, target: Target, home: str) -> Place:
        """A place with a connection in it. Who takes one gives it back, whatever happens."""
        pools = self.router.pools
        key = Key(target, (self, asyncio.get_running_loop()))  # a connection is of no use in another loop
        place = await take_async(pools.ledger, key, target.size, drop_asyncpg, pools.seconds)
        if place.item is None:
            try:
                place.item = await connect_asyncpg(
                    target,
                    seconds=pools.seconds,
                    home=home,
                    pooler=self.router.settings.pooler,
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

    def _give(self, place: Place, error: BaseException | None) -> None:
        conn = place.item
        conn.unbind()
        conn._pool_release_ctr += 1  # what was prepared with it is of no use any more
        self.router.pools.ledger.give(place, keep=(error is None or not is_fatal(error)) and conn.is_clean)


async def _roll_back(place: Place, block: Transaction) -> None:
    """Roll back after an error, which is more telling than what may go wrong now."""
    try:
        await block.rollback()
    except (OSError, TenantryError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        log.warning("a transaction on %s was not rolled back: %s", place.key.target.name, error)


def _check_isolation(isolation: str | None) -> None:
    if isolation is not None and isolation not in _ISOLATION:
        raise InvalidInput(f"{shown(isolation)} is no isolation level", hint=f"one of {', '.join(_ISOLATION)}")
