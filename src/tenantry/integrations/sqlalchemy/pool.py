"""The pool of an engine: each checkout goes to the database where the tenant of the current scope lives.

SQLAlchemy asks a pool for the record of a connection and gives it back; which database a record leads to is the pool's
affair. The places come from the router's ledger, so an engine and its router share one budget.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, ClassVar, Self

import psycopg
from psycopg.pq import TransactionStatus
from sqlalchemy import Pool
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection
from sqlalchemy.pool.base import _ConnectionRecord
from sqlalchemy.util import await_

from tenantry.catalog.fleet_view import FleetView
from tenantry.errors import ServerUnreachable, TenantryError
from tenantry.model import House
from tenantry.routing.core import Attempts, Route, Target
from tenantry.routing.ledger import Key, Place
from tenantry.routing.pools import Pools
from tenantry.routing.pools_async import AsyncPools
from tenantry.routing.sessions import CHANGED, Learned
from tenantry.routing.waiting import take, take_async

if TYPE_CHECKING:
    from sqlalchemy.pool import _ConnectionFairy


_going: ContextVar[tuple[Route, Learned] | None] = ContextVar("tenantry_going", default=None)

_SEEN = "tenantry.seen"
_OWN_LISTENERS = ("sqlalchemy.engine.create", "sqlalchemy.engine.default", "sqlalchemy.util.langhelpers")


def going() -> Route:
    """The way of the connection that is being made."""
    return _present()[0]


def learned() -> Mapping[str, str]:
    """The parameters that the connection being made starts with."""
    return _present()[1].settings


def _present() -> tuple[Route, Learned]:
    present = _going.get()
    assert present is not None, "a connection is made by a pool's connect()"
    return present


def destination() -> Target:
    """The database that the connection being made leads to."""
    return going().target


class Record(_ConnectionRecord):
    """A place of the ledger with SQLAlchemy's record of the connection in it."""

    def __init__(self, pool: RoutedPool, place: Place) -> None:
        super().__init__(pool, connect=False)
        self.pool = pool
        self.place: Place | None = place
        self.route: Route | None = None

    def begin(self, fairy: _ConnectionFairy, failed: Exception | None = None) -> None:
        """Begin and bind; see :meth:`RoutedPool.begin`."""
        self.pool.begin(fairy, self, failed)

    def may_begin_anew(self, error: Exception) -> bool:
        """Whether the transaction failed before it was bound."""
        driver: Any = self.driver_connection
        return driver is not None and isinstance(error, self.pool.errors) and driver.may_begin_anew()


class _Options:
    """What has been set on a connection for its current user, and what SQLAlchemy calls to undo it."""

    def __init__(self, record: Record) -> None:
        self.driver = record.pool.options(record)
        self.callbacks = list(record.finalize_callback)


class RoutedPool(Pool):
    """A pool for all databases of a house.

    Args:
        creator: SQLAlchemy's.
        router: finds the database of the current tenant.
        predicate: whether ORM statements name the tenant.
        options: as of SQLAlchemy's ``Pool``.
    """

    _is_asyncio = False

    errors: ClassVar[tuple[type[Exception], ...]] = (TenantryError, psycopg.Error)
    """What a transaction may not begin with."""

    router: Any  # a Router or an AsyncRouter; which, the subclass knows

    def __init__(self, creator: Any, router: Any = None, predicate: bool = True, **options: Any) -> None:
        super().__init__(creator, **options)
        self.router = router
        self.predicate = predicate
        self._learned = Learned()
        self._house: House | None = None
        self._retired = False

    def house(self) -> House:
        """What holds for all tenants; it never changes."""
        if self._house is None:
            self._house = self._fleet().house
        return self._house

    def connect(self) -> PoolProxiedConnection:
        """A connection to where the current tenant lives; what begins on it is bound to the tenant.

        Raises:
            NoTenant: the code runs outside a tenant scope.
            TenantSuspended, TenantDeleted, TenantNotReady: the tenant may not work now.
            NoCapacity: no connection became free in time.
            ServerUnreachable: the server does not answer.
        """
        scope = self.router.scope(None, None)
        tenant = self.router.view.peek(scope.tenant.id) or scope.tenant
        route: Route = self.router.way(scope, tenant, self._fleet())
        attempts: Attempts | None = None
        while True:
            token = _going.set((route, self._learned))
            try:
                proxied = super().connect()
            except ServerUnreachable as error:
                attempts = attempts or self.router.attempts(route)
                route = self._recover(error, route, attempts, lost=False)
            else:
                self._bind(proxied, route)
                return proxied
            finally:
                _going.reset(token)

    def begin(self, fairy: _ConnectionFairy, record: Record, failed: Exception | None = None) -> None:
        """Begin a transaction and bind it, with the first statement, or at once where that has failed.

        Where the tenant has moved, or the connection was lost or left dirty, another connection takes its place.
        Nothing has taken effect yet, so nobody can tell.

        Args:
            failed: why the transaction could not begin with its first statement.
        """
        route = record.route
        if route is None:  # SQLAlchemy finds out about a new connection, before it is anybody's
            return
        attempts: Attempts | None = None
        options: _Options | None = None
        try:
            while True:
                if failed is not None:
                    attempts = attempts or self.router.attempts(route)
                    route = self._recover(failed, route, attempts, lost=self._is_lost(record))
                    options = options or _Options(record)
                try:
                    if options is not None:
                        self._replace(fairy, record, route, options)
                    self._begin(record, late=options is None)
                    return
                except self.errors as error:
                    failed = error
        except BaseException as error:
            if record.driver_connection is None or self._is_lost(record):
                fairy.invalidate(error)
            raise

    def recreate(self) -> Self:
        """A new pool with the same options; what comes back to this one is closed."""
        self._retired = True
        return type(self)(
            self._creator,
            router=self.router,
            predicate=self.predicate,
            recycle=self._recycle,
            echo=self.echo,
            logging_name=self._orig_logging_name,
            reset_on_return=self._reset_on_return,
            _dispatch=self.dispatch,
            dialect=self._dialect,
        )

    def dispose(self) -> None:
        """Close the connections that nobody uses."""
        self.router.pools.ledger.drop(lambda key: key.owner is self)

    def status(self) -> str:
        """How many connections the process has, to all databases."""
        ledger = self.router.pools.ledger
        return f"{len(ledger)} of {ledger.budget} connections are open, {ledger.idle} of them idle"

    def _do_get(self) -> ConnectionPoolEntry:
        place = self._take(going())
        if place.item is None:
            place.item = Record(self, place)
        record: Record = place.item
        return record

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        assert isinstance(record, Record)
        place: Place | None = record.place
        driver: Any = record.driver_connection
        if driver is not None:
            driver.unbind()
        record.route = None
        if place is not None:
            keep = driver is not None and not self._retired and self._is_clean(driver)
            self.router.pools.ledger.give(place, keep=keep)

    def _invalidate(
        self, connection: PoolProxiedConnection, exception: BaseException | None = None, _checkin: bool = True
    ) -> None:
        """The server has ended a connection: others to the same database may be lost too, those elsewhere are not."""
        record = getattr(connection, "_connection_record", None)
        if isinstance(record, Record) and record.place is not None:
            self.router.pools.forget(record.place.key.target)
        if _checkin and connection.is_valid:
            connection.invalidate(exception)

    def _bind(self, proxied: PoolProxiedConnection, route: Route) -> None:
        fairy: Any = proxied
        try:
            record: Record = fairy._connection_record
            if not record.info.setdefault(_SEEN, False):
                self._learn(fairy, record, route)
            driver: Any = fairy.driver_connection
            if self._is_in_transaction(driver):  # a listener to "checkout" ran a statement
                self._dialect.do_rollback(fairy)
            self._bind_to(driver, route)
        except BaseException:
            fairy.invalidate()
            raise
        record.route = route
        self._connected(record)

    def _learn(self, fairy: _ConnectionFairy, record: Record, route: Route) -> None:
        """Let a parameter hold that the application's listeners have set on a new connection."""
        listeners = [each for each in self.dispatch.connect if getattr(each, "__module__", "") not in _OWN_LISTENERS]
        if listeners and not self.router.settings.pooler:
            cursor = record.dbapi_connection.cursor()  # type: ignore[union-attr]
            cursor.execute(CHANGED)
            rows = cursor.fetchall()
            cursor.close()
            if self._learned.learn(rows):
                record.invalidate()
                self._reconnect(fairy, record, route)
        record.info[_SEEN] = True

    def _reconnect(self, fairy: _ConnectionFairy, record: Record, route: Route) -> None:
        token = _going.set((route, self._learned))
        try:
            if record.place is None or record.place.key.target != route.target:
                self._move(record, route)
            fairy.dbapi_connection = record.get_connection()
            self._connected(record)
        finally:
            _going.reset(token)

    def _replace(self, fairy: _ConnectionFairy, record: Record, route: Route, options: _Options) -> None:
        """Give a record another connection, with the options that were set on the first one."""
        record.invalidate()
        self._reconnect(fairy, record, route)
        for name, value in options.driver.items():
            self._set(record, name, value)
        self._bind_to(record.driver_connection, route)
        record.finalize_callback.extend(options.callbacks)
        record.route = route

    def _move(self, record: Record, route: Route) -> None:
        """A record's place at another database. The old one goes first: two would be more than the budget may have."""
        place, record.place = record.place, None
        if place is not None:
            place.item = None
            self.router.pools.ledger.give(place, keep=False)
        place = self._take(route)
        if place.item is not None:
            self._drop(place.item)
        place.item, record.place = record, place

    def _connected(self, record: Record) -> None:
        if record.place is not None and record.place.pending:
            self.router.pools.ledger.connected(record.place)

    def _drop(self, record: Record) -> None:
        driver: Any = record.driver_connection
        if driver is not None:
            if self.dispatch.close:
                self.dispatch.close(record.dbapi_connection, record)
            self._close(driver)
            record.dbapi_connection = None

    def _take(self, route: Route) -> Place:
        pools: Pools = self.router.pools
        key = Key(route.target, self)
        return take(pools.ledger, key, route.target.size, self._drop, pools.seconds, route.home)

    def _fleet(self) -> FleetView:
        fleet: FleetView = self.router.view.fleet()
        return fleet

    def _recover(self, error: Exception, route: Route, attempts: Attempts, *, lost: bool) -> Route:
        other: Route = self.router.recover(error, route, attempts, lost=lost)
        return other

    def options(self, record: Record) -> dict[str, Any]:
        """What has been set on the driver's connection for its present user."""
        driver: Any = record.driver_connection
        values = {name: getattr(driver, name) for name in ("isolation_level", "read_only", "deferrable")}
        return {name: value for name, value in values.items() if value is not None}

    def _begin(self, record: Record, *, late: bool) -> None:
        driver: Any = record.driver_connection
        if not (late and driver.defer()):
            with driver.lock:
                driver.wait(driver._start_query())

    def _set(self, record: Record, name: str, value: Any) -> None:
        setattr(record.driver_connection, name, value)

    def _bind_to(self, driver: Any, route: Route) -> None:
        route.bind(driver)

    def _close(self, driver: Any) -> None:
        driver.pgconn.finish()

    def _is_lost(self, record: Record) -> bool:
        driver: Any = record.driver_connection
        return driver is not None and bool(driver.closed)

    def _is_in_transaction(self, driver: Any) -> bool:
        return bool(driver.pgconn.transaction_status != TransactionStatus.IDLE)

    def _is_clean(self, driver: Any) -> bool:
        return not self._is_in_transaction(driver) and not driver.autocommit


class AsyncRoutedPool(RoutedPool):
    """The same for tasks: what waits is awaited."""

    _is_asyncio = True

    def _take(self, route: Route) -> Place:
        pools: AsyncPools = self.router.pools
        key, size = Key(route.target, self), route.target.size
        place = pools.ledger.take(key, size, self._drop, route.home)
        if place is None:
            place = await_(take_async(pools.ledger, key, size, self._drop, pools.seconds, route.home))
        return place

    def _fleet(self) -> FleetView:
        view = self.router.view
        fleet: FleetView = view.fresh_fleet() or await_(view.fleet())
        return fleet

    def _recover(self, error: Exception, route: Route, attempts: Attempts, *, lost: bool) -> Route:
        other: Route = await_(self.router.recover(error, route, attempts, lost=lost))
        return other

    def _begin(self, record: Record, *, late: bool) -> None:
        driver: Any = record.driver_connection
        if not (late and driver.defer()):
            await_(_begin_async(driver))

    def _set(self, record: Record, name: str, value: Any) -> None:
        driver: Any = record.driver_connection
        await_(getattr(driver, f"set_{name}")(value))


async def _begin_async(driver: Any) -> None:
    async with driver.lock:
        await driver.wait(driver._start_query())
