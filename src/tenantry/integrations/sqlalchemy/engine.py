"""Engines: made as SQLAlchemy's own, except that the router says where to connect."""

from __future__ import annotations

from typing import Any

import sqlalchemy
from sqlalchemy import URL, Engine
from sqlalchemy.ext import asyncio as sqlalchemy_asyncio
from sqlalchemy.ext.asyncio import AsyncEngine

from tenantry.errors import InvalidInput, MissingDependency
from tenantry.integrations.sqlalchemy import orm as orm  # its listeners
from tenantry.integrations.sqlalchemy.dialect import DRIVER, TenantDialect
from tenantry.integrations.sqlalchemy.pool import AsyncRoutedPool, RoutedPool
from tenantry.integrations.sqlalchemy.seek import seeking
from tenantry.model import shown
from tenantry.routing.router import Router
from tenantry.routing.router_async import AsyncRouter

_URL = URL.create(f"postgresql+{DRIVER}")
_ROUTER_DECIDES = {
    "async_creator": "the router connects",
    "creator": "the router connects",
    "max_overflow": "set pool_size and pool_budget in the settings",
    "pool": "the router has the pool",
    "pool_pre_ping": "a transaction that meets a lost connection begins on another by itself",
    "pool_size": "set pool_size and pool_budget in the settings",
    "pool_timeout": "set connect_seconds in the settings",
    "pool_use_lifo": "the connection used last is always used next",
    "poolclass": "the router has the pool",
    "url": "the router knows where the tenants live",
}


def create_engine(router: Router, *, predicate: bool = True, **options: Any) -> Engine:
    """An engine for all databases of the house.

    Args:
        router: finds the database of the current tenant.
        predicate: whether ORM statements name the tenant (``WHERE tenant_id = ...``) and conditions have seeks beside
            them, for the planner's sake.
        options: as of SQLAlchemy's ``create_engine``, without those that the router decides.

    Raises:
        InvalidInput: another kind of router, or an option that the router decides.
    """
    _check(router, Router, options)
    options = _driver_options(router, options)
    engine = sqlalchemy.create_engine(_URL, poolclass=RoutedPool, router=router, predicate=predicate, **options)
    _prepare(engine, router, predicate)
    return engine


def create_async_engine(
    router: AsyncRouter, *, driver: str = "psycopg", predicate: bool = True, **options: Any
) -> AsyncEngine:
    """The same for tasks.

    Args:
        router: finds the database of the current tenant.
        driver: ``psycopg`` or ``asyncpg``.
        predicate: whether ORM statements name the tenant (``WHERE tenant_id = ...``) and conditions have seeks beside
            them, for the planner's sake.
        options: as of SQLAlchemy's ``create_async_engine``, without those that the router decides.

    Raises:
        InvalidInput: another kind of router or driver, or an option that the router decides.
        MissingDependency: the driver is not installed.
    """
    _check(router, AsyncRouter, options)
    url, pool = _URL, AsyncRoutedPool
    match driver:
        case "psycopg":
            options = _driver_options(router, options)
        case "asyncpg":
            url, pool, options = _asyncpg(router, options)
        case _:
            raise InvalidInput(f"{shown(driver)} is no driver for asyncio", hint="use 'psycopg' or 'asyncpg'")
    engine = sqlalchemy_asyncio.create_async_engine(url, poolclass=pool, router=router, predicate=predicate, **options)
    _prepare(engine.sync_engine, router, predicate)
    return engine


def _check(router: object, kind: type, options: dict[str, Any]) -> None:
    if not isinstance(router, kind):
        raise InvalidInput(
            f"{shown(router)} is no {kind.__name__}",
            hint="create_engine() takes a Router, create_async_engine() an AsyncRouter",
        )
    for name in options:
        if name in _ROUTER_DECIDES:
            raise InvalidInput(f"an engine of Tenantry takes no {name!r}", hint=_ROUTER_DECIDES[name])
    if str(options.get("isolation_level", "")).upper() == "AUTOCOMMIT":
        raise InvalidInput("an engine of Tenantry takes no AUTOCOMMIT", hint="a binding lasts one transaction")


def _driver_options(router: Router | AsyncRouter, options: dict[str, Any]) -> dict[str, Any]:
    if not router.settings.pooler or router.settings.pooler_prepares:
        return options
    return {**options, "connect_args": {"prepare_threshold": None, **options.get("connect_args", {})}}


def _asyncpg(router: AsyncRouter, options: dict[str, Any]) -> tuple[URL, type[AsyncRoutedPool], dict[str, Any]]:
    try:
        from tenantry.integrations.sqlalchemy import asyncpg
    except ImportError:
        raise MissingDependency("asyncpg", "asyncpg") from None
    arguments = {**asyncpg.arguments(router.settings), **options.get("connect_args", {})}
    return URL.create(f"postgresql+{asyncpg.DRIVER}"), asyncpg.AsyncpgRoutedPool, {**options, "connect_args": arguments}


def _prepare(engine: Engine, router: Router | AsyncRouter, predicate: bool) -> None:
    if predicate:
        engine.dialect.statement_compiler = seeking(engine.dialect.statement_compiler)
    if isinstance(engine.dialect, TenantDialect):
        engine.dialect.pooler = router.settings.pooler
