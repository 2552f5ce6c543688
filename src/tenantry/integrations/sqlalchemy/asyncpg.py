"""SQLAlchemy's dialect for asyncpg, and the pool of an engine that uses it."""

from __future__ import annotations

from collections.abc import Coroutine
from functools import partial
from typing import Any

from sqlalchemy.dialects import registry
from sqlalchemy.dialects.postgresql.asyncpg import (
    AsyncAdapt_asyncpg_dbapi,
    PGDialect_asyncpg,
    PGExecutionContext_asyncpg,
)
from sqlalchemy.util import LRUCache, await_

from tenantry.errors import TenantryError
from tenantry.integrations.sqlalchemy.dialect import RoutedDialect, RoutedExecution
from tenantry.integrations.sqlalchemy.pool import AsyncRoutedPool, Record, going, learned
from tenantry.perimeter.asyncpg import AsyncpgConnection, HomeCache, is_local
from tenantry.routing.asyncpg import connect_asyncpg, drop_asyncpg, merge_settings
from tenantry.routing.core import Route
from tenantry.settings import Settings

DRIVER = "tenantry_asyncpg"


def arguments(settings: Settings) -> dict[str, Any]:
    """What connections are made with, unless the application says otherwise."""
    known = {"seconds": settings.connect_seconds, "pooler": settings.pooler}
    if not settings.pooler:
        return known
    # Statements without a name are prepared anew for each execution, so that no pooler needs to know them.
    without = {"prepared_statement_cache_size": 0, "prepared_statement_name_func": str}
    return {**known, "statement_cache_size": 0, **without}


class AsyncpgExecutionContext(RoutedExecution, PGExecutionContext_asyncpg):
    """One execution of a statement."""


class AsyncpgDialect(RoutedDialect, PGDialect_asyncpg):
    """Connects to where the pool is going, and begins bound transactions."""

    supports_statement_cache = True
    execution_ctx_cls = AsyncpgExecutionContext

    def connect(self, *args: Any, **options: Any) -> Any:
        """A connection, not bound yet.

        Raises:
            ServerUnreachable: the server does not answer.
        """
        route = going()
        settings = merge_settings(options.pop("server_settings", None) or {}, learned())
        home = route.schema
        sent: dict[str, Any] = {"server_settings": settings, "parameters": route.parameters}
        connect = partial(connect_asyncpg, route.target, home=home, **sent)
        adapted = self.loaded_dbapi.connect(async_creator_fn=connect, **options)
        known = adapted._prepared_statement_cache
        if known is not None:
            adapted._prepared_statement_cache = _Statements(known.capacity, adapted.driver_connection._stmt_cache)
        return adapted


class _Statements(LRUCache[Any, Any]):
    """SQLAlchemy's prepared statements of a connection; see :class:`HomeCache`."""

    __slots__ = ("_beside",)

    def __init__(self, capacity: int, beside: HomeCache) -> None:
        super().__init__(capacity)
        self._beside = beside

    def __getitem__(self, operation: Any) -> Any:
        shared = super().get(operation)
        return shared if shared is not None else super().__getitem__((self._beside.home, operation))

    def __setitem__(self, operation: Any, value: Any) -> None:
        apart = self._beside.apart or is_local(value[0]._state)
        super().__setitem__((self._beside.home, operation) if apart else operation, value)


class AsyncpgRoutedPool(AsyncRoutedPool):
    """The pool of an engine, with connections of asyncpg."""

    errors = (TenantryError, AsyncAdapt_asyncpg_dbapi.Error, OSError)

    def options(self, record: Record) -> dict[str, Any]:
        """What has been set on SQLAlchemy's connection for its present user."""
        adapted: Any = record.dbapi_connection
        names = ("isolation_level", "_isolation_setting", "readonly", "deferrable")
        return {name: getattr(adapted, name) for name in names}

    def _begin(self, record: Record, *, late: bool) -> None:
        adapted: Any = record.dbapi_connection
        if adapted._transaction is not None:
            return
        driver: Any = record.driver_connection
        if late and not driver.is_closed() and not driver.gate.pending:
            driver.begin_late()
            _run(adapted._start_transaction())
        else:
            await_(adapted._start_transaction())

    def _set(self, record: Record, name: str, value: Any) -> None:
        setattr(record.dbapi_connection, name, value)

    def _bind_to(self, driver: AsyncpgConnection, route: Route) -> None:
        driver.bind_to(route.mint, route.guard, route.code, route.schema, route.floor, route.ended)

    def _close(self, driver: AsyncpgConnection) -> None:
        drop_asyncpg(driver)

    def _is_lost(self, record: Record) -> bool:
        driver: Any = record.driver_connection
        return driver is not None and bool(driver.is_closed())

    def _is_in_transaction(self, driver: AsyncpgConnection) -> bool:
        return not driver.is_closed() and bool(driver.is_in_transaction())

    def _is_clean(self, driver: AsyncpgConnection) -> bool:
        return driver.is_clean


def _run(work: Coroutine[Any, Any, None]) -> None:
    """Run what waits for nothing, without the way through the loop's greenlet."""
    try:
        work.send(None)
    except StopIteration:
        return
    work.close()
    raise RuntimeError("a transaction that begins late has waited")


registry.register(f"postgresql.{DRIVER}", __name__, AsyncpgDialect.__name__)
