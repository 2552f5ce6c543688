"""The router: finds a tenant, and begins a transaction that is bound to it where it lives."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self
from uuid import UUID

import psycopg
from psycopg import AsyncTransaction

from tenantry.catalog.view_async import AsyncCatalogView
from tenantry.context import Scope, tenant_scope
from tenantry.errors import (
    DirtyBackend,
    InvalidInput,
    InvalidKey,
    ServerFull,
    ServerUnreachable,
    TenantMoved,
    TenantNotFound,
    TenantryError,
)
from tenantry.model import Mode, Tenant, TenantKey, parse_key, parse_slug
from tenantry.perimeter.bound_async import AsyncBoundConnection
from tenantry.resolve import Claim, ClaimKind, agree
from tenantry.routing.core import Attempts, Route, RouterCore, admitted
from tenantry.routing.ledger import Place
from tenantry.routing.pools_async import AsyncPools
from tenantry.routing.waiting import pause_async
from tenantry.settings import Settings

log = logging.getLogger("tenantry.routing")

_LOOKS = 4


class AsyncRouter(RouterCore):
    """Leads an application's transactions to where its tenants live. One per process.

    It opens at its first use; ``await router.open()`` at the start of the application shows a wrong setting earlier.

    Args:
        settings: of this process; None: ``tenantry.toml`` and the environment.
        parameters: of sessions, such as ``{"TimeZone": "Europe/Berlin"}``, besides those of the settings.

    Raises:
        InvalidSettings: a setting is missing or wrong, or a parameter is not taken.
    """

    def __init__(self, settings: Settings | None = None, *, parameters: Mapping[str, str] | None = None) -> None:
        super().__init__(settings, parameters=parameters)
        self.view = AsyncCatalogView(
            self.settings.catalog_dsn,
            cache_size=self.settings.cache_size,
            stale_seconds=self.settings.stale_seconds,
            connect_seconds=self.settings.connect_seconds,
        )
        self.pools = AsyncPools(
            budget=self.settings.pool_budget,
            seconds=self.settings.connect_seconds,
            pooler=self.settings.pooler,
            prepares=self.settings.pooler_prepares,
        )
        self.view.on_room_asked = self.pools.make_room

    async def open(self) -> Self:
        """Connect to the catalog. Calls after the first do nothing.

        Raises:
            ServerUnreachable: the catalog does not answer.
        """
        await self.view.open()
        return self

    async def close(self) -> None:
        """Close all connections."""
        await self.pools.close()
        await self.view.close()

    async def __aenter__(self) -> Self:
        try:
            return await self.open()
        except BaseException:
            await self.close()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def find(
        self,
        slug: str | None = None,
        *,
        key: TenantKey | None = None,
        domain: str | None = None,
        tenant_id: UUID | None = None,
    ) -> Tenant:
        """The tenant with this slug, key, domain or id: exactly one of them is given.

        Raises:
            TenantNotFound: there is none.
            InvalidSlug, InvalidKey: the value can't name one.
        """
        given = [name for name in (slug, key, domain, tenant_id) if name is not None]
        if len(given) != 1:
            raise InvalidInput(f"find() takes one of slug, key, domain and tenant_id, not {len(given)}")
        fleet = await self.view.fleet()
        if slug is not None:
            return await self.view.find("slug", parse_slug(slug))
        if key is not None:
            return await self.view.find("key", parse_key(key, fleet.house.key_type))
        if domain is not None:
            return await self.view.find("domain", domain)
        return await self.view.find("id", tenant_id)

    async def locate(self, claim: Claim) -> Tenant:
        """The tenant that a resolver's claim names.

        Raises:
            TenantNotFound: there is none.
        """
        match claim.kind:
            case ClaimKind.SLUG:
                return await self.view.find("slug", claim.value)
            case ClaimKind.KEY:
                return await self.find(key=claim.value)
            case ClaimKind.DOMAIN:
                return await self.view.find("domain", claim.value)

    async def admit(self, claims: Sequence[Claim]) -> Tenant:
        """The one tenant that all claims of a request name, if it may work now.

        Raises:
            TenantNotFound: they name nobody.
            ConflictingTenants: they name different tenants, or somebody and nobody.
            TenantSuspended, TenantDeleted, TenantNotReady: it may not work now.
        """
        found: list[tuple[Claim, Tenant | None]] = []
        for claim in claims:
            try:
                found.append((claim, await self.locate(claim)))
            except (TenantNotFound, InvalidKey):
                found.append((claim, None))
        tenant = agree(found)
        admitted(tenant)
        return tenant

    @asynccontextmanager
    async def tenant_scope(
        self, tenant: Tenant | str, *, mode: Mode | str = Mode.READ_WRITE, after: str | None = None
    ) -> AsyncIterator[Tenant]:
        """Work for a tenant until the block ends.

        Args:
            tenant: a tenant or its slug.
            mode: ``ro`` to refuse writes; a replica may be read then, if the plan says so.
            after: what ``last_write`` has returned, here or elsewhere: replicas that have not replayed that write are
                not read.

        Raises:
            TenantNotFound: nobody has the slug.
            TenantSuspended, TenantDeleted, TenantNotReady: it may not work now.
        """
        found = await self.find(tenant) if isinstance(tenant, str) else tenant
        admitted(found)
        with tenant_scope(found, mode=mode, after=after):
            yield found

    @asynccontextmanager
    async def transaction(
        self, tenant: Tenant | None = None, *, mode: Mode | str | None = None
    ) -> AsyncIterator[AsyncBoundConnection]:
        """A psycopg connection inside a transaction that is bound to a tenant; committed when the block ends well.

        The transaction begins with its first statement, in one round trip with it.

        Args:
            tenant: the tenant; None: that of the current scope.
            mode: ``ro`` to refuse writes; None: as the scope says.

        Raises:
            NoTenant: there is no scope, and no tenant is given.
            CrossedTenants: another tenant's scope is open.
            TenantSuspended, TenantDeleted, TenantNotReady: it may not work now.
            NoCapacity, ServerUnreachable: no connection could be had.
        """
        scope = self.scope(tenant, Mode(mode) if mode is not None else None)
        passage = await self._begin(scope)
        failure: BaseException | None = None
        try:
            yield passage.conn
        except BaseException as error:
            failure = error
            if not await passage.block.__aexit__(type(error), error, error.__traceback__):
                raise
        else:
            await passage.block.__aexit__(None, None, None)
        finally:
            passage.end(failure)

    async def _begin(self, scope: Scope) -> AsyncPassage:
        """Begin where the tenant lives, or where it may be read."""
        tenant = self.view.peek(scope.tenant.id) or scope.tenant
        route = self.way(scope, tenant, await self.view.fleet())
        attempts: Attempts | None = None
        while True:
            try:
                passage = AsyncPassage(self, route, await self.pools.take(route.target, route.home))
            except ServerUnreachable as error:
                attempts = attempts or self.attempts(route)
                route = await self.recover(error, route, attempts, lost=False)
                continue
            try:
                await passage.block.__aenter__()
                return passage
            except BaseException as error:
                passage.end(error)
                raise

    async def recover(self, error: Exception, route: Route, attempts: Attempts, *, lost: bool) -> Route:
        """The way for another attempt, after a transaction could not begin and nothing of it has run.

        Args:
            error: why it did not begin. It is raised again if another attempt makes no sense.
            lost: whether the connection has ended.
        """
        if route.floor is not None:
            self.pools.ledger.go_on(route.target)
            if lost or isinstance(error, ServerUnreachable):
                self.pools.forget(route.target)
            log.info("%s does not answer a read: %s", route.target.name, error)
            return self.back(error, route, await self.view.fleet())
        if isinstance(error, ServerFull):
            await self._wait_for_room(error, route, attempts)
            return route
        self.pools.ledger.go_on(route.target)
        if not attempts.allow(error, lost=lost):
            raise error
        dirty = isinstance(error, DirtyBackend)
        if lost and not dirty:
            self.pools.forget(route.target)
        if lost or dirty:
            log.warning("a connection to %s is discarded: %s", route.target.name, error)
            return route
        if isinstance(error, ServerUnreachable) and not self.view.cache.listening:
            raise error  # the catalog does not answer either
        self.view.forget_fleet()
        tenant = await self.view.refresh(route.tenant)
        if isinstance(error, TenantMoved):
            tenant = await self._look_after(route.tenant, tenant, attempts)
        other = self.route(tenant, route.mode, await self.view.fleet())
        if not isinstance(error, TenantMoved) and (other.target, other.key) == (route.target, route.key):
            raise error
        return other

    async def _look_after(self, was: Tenant, tenant: Tenant, attempts: Attempts) -> Tenant:
        """Where a tenant is that has just left. Its old home knows a moment before the catalog does, and the new one a
        moment later: so it is worth trying again even if the catalog sticks to what it has said."""
        for _ in range(_LOOKS):
            if tenant.placement != was.placement:
                break
            await pause_async(attempts.pause_for_move())
            tenant = await self.view.refresh(was)
        return tenant

    async def _wait_for_room(self, error: ServerFull, route: Route, attempts: Attempts) -> None:
        """Others have the server's connections: ask them to share, and wait for a while."""
        if self.pools.ledger.hold_back(route.target):
            self.view.ask_for_room(route.target.shard)
        seconds = attempts.pause()
        if seconds is None:
            self.pools.ledger.go_on(route.target)
            raise error
        try:
            await pause_async(seconds)
        except BaseException:
            self.pools.ledger.go_on(route.target)
            raise


class AsyncPassage:
    """The way of one transaction: where its tenant lives, or has moved to, past connections that are lost or not clean.

    Args:
        place: with a connection to the route's target.
    """

    def __init__(self, router: AsyncRouter, route: Route, place: Place) -> None:
        self._router = router
        self._route = route
        self._attempts: Attempts | None = None
        self._place: Place | None = place
        self.conn: AsyncBoundConnection = place.item
        route.bind(self.conn)
        self.conn.again = self._again
        self.conn.begin_late()
        self.block = AsyncTransaction(self.conn)

    def end(self, error: BaseException | None) -> None:
        """Give the connection back.

        Args:
            error: what came out of the work with it.
        """
        if self._place is not None:
            self._router.pools.give(self._place, error)

    async def _again(self, error: Exception) -> None:
        """Begin elsewhere; nothing of the transaction has taken effect.

        Args:
            error: why it could not begin. It is raised again if another attempt makes no sense.
        """
        conn, pools = self.conn, self._router.pools
        self._attempts = self._attempts or self._router.attempts(self._route)
        while True:
            lost = self._place is not None and conn.closed  # else no connection could be had
            self._leave()
            self._route = await self._router.recover(error, self._route, self._attempts, lost=lost)
            try:
                await self._go_on(await pools.take(self._route.target, self._route.home))
                return
            except (TenantryError, psycopg.Error) as another:
                error = another

    def _leave(self) -> None:
        """Who still holds the session must not meet another tenant in it, so it ends."""
        place, self._place = self._place, None
        if place is not None:
            self.conn.pgconn.finish()
            self._router.pools.ledger.give(place, keep=False)

    async def _go_on(self, place: Place) -> None:
        """Begin with the session of another connection, in the same object."""
        conn = self.conn
        conn.adopt(place.item)
        place.item, self._place, self.block.pgconn = conn, place, conn.pgconn
        self._route.bind(conn)
        async with conn.lock:
            await conn.wait(conn.begin_due())
