"""Hooks and fixtures. What they need is imported when they run: pytest loads this file in every project."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tenantry.routing.router import Router
    from tenantry.routing.router_async import AsyncRouter
    from tenantry.settings import Settings
    from tenantry.testing.assertion import AssertNoLeak
    from tenantry.testing.house import HouseUnderTest, TwoTenants
    from tenantry.testing.server import ServerUnderTest

_MARKER = (
    "tenantry(isolation='pooled'): at which level the tenants of the test live; two levels for two tenants:"
    " isolation=('schema', 'database')"
)
_INI: dict[str, tuple[str, str | None]] = {
    "tenantry_dsn": (
        "a superuser's DSN of a PostgreSQL server that belongs to tests, as TENANTRY_TEST_DSN; none: a local one",
        "",
    ),
    "tenantry_template": ("where the application's tables come from; none: as tenantry.toml says", ""),
    "tenantry_key_type": ("the type of the tenant column: bigint, uuid or text", "bigint"),
    "tenantry_tenant_column": ("its name", "tenant_id"),
    "tenantry_app_schema": ("the schema of the application's tables at the pooled level", "public"),
    "tenantry_isolation": ("where tenants live unless a test's marker says otherwise", "pooled"),
    "tenantry_reset": ("when rows of tests are deleted: after each 'test' or 'module', or 'never'", "test"),
}

_PLAN = pytest.StashKey[Any]()
_HOUSE = pytest.StashKey[Any]()
_BEFORE = pytest.StashKey[dict[str, str | None]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    for name, (text, default) in _INI.items():
        parser.addini(name, f"Tenantry: {text}", default=default)
    parser.addini(
        "tenantry_shared_tables", "Tenantry: tables that all tenants may read; none: as tenantry.toml says", "args"
    )
    parser.addini(
        "tenantry_environment",
        "Tenantry: set TENANTRY_CATALOG before test modules are imported, for routers that are made at import",
        "bool",
        default=False,
    )


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """A conftest may import the application, and that makes its router."""
    if early_config.getini("tenantry_environment"):
        dsn = _plan(early_config).library_dsn
        wanted = {"TENANTRY_CATALOG": dsn, "TENANTRY_CONTROL": dsn}
        early_config.stash[_BEFORE] = {name: os.environ.get(name) for name in wanted}
        os.environ.update(wanted)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", _MARKER)
    if config.pluginmanager.hasplugin("asyncio"):
        config.pluginmanager.register(_import_asyncio_fixtures(), "tenantry-asyncio")


def pytest_unconfigure(config: pytest.Config) -> None:
    for name, value in config.stash.get(_BEFORE, {}).items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """Once the fixtures of a test are gone, its rows go."""
    try:
        return (yield)
    finally:
        house = item.config.stash.get(_HOUSE, None)
        if house is not None and nextitem is not None and _is_over(item, nextitem):
            house.reset()


def _is_over(item: pytest.Item, nextitem: pytest.Item) -> bool:
    match item.config.getini("tenantry_reset"):
        case "test":
            return True
        case "module":
            return item.path != nextitem.path
        case "never":
            return False
        case other:
            raise pytest.UsageError(f"tenantry_reset = {other!r} is not 'test', 'module' or 'never'")


def _plan(config: pytest.Config) -> Any:
    from tenantry.errors import TenantryError
    from tenantry.testing.server import ServerPlan

    if _PLAN not in config.stash:
        dsn = os.environ.get("TENANTRY_TEST_DSN") or config.getini("tenantry_dsn")
        try:
            config.stash[_PLAN] = ServerPlan.make(dsn or None)
        except TenantryError as error:
            raise pytest.UsageError(f"tenantry_dsn or TENANTRY_TEST_DSN: {error}; {error.hint}") from None
    return config.stash[_PLAN]


@contextmanager
def _told() -> Iterator[None]:
    """pytest shows an error's message and its notes."""
    from tenantry.errors import TenantryError

    try:
        yield
    except TenantryError as error:
        for text in (error.where, error.hint):
            if text and text not in getattr(error, "__notes__", ()):
                error.add_note(text)
        raise


def _import_asyncio_fixtures() -> Any:
    from tenantry.testing import asyncio_plugin

    return asyncio_plugin


@pytest.fixture(scope="session")
def tenantry_server(pytestconfig: pytest.Config) -> Iterator[ServerUnderTest]:
    """The PostgreSQL server of the tests: a local one that ends with them, or the one that ``tenantry_dsn`` names."""
    with _told(), _plan(pytestconfig).start() as server:
        yield server


@pytest.fixture(scope="session")
def tenantry_house(pytestconfig: pytest.Config, tenantry_server: ServerUnderTest) -> Iterator[HouseUnderTest]:
    """The house of the tests: a catalog, a shard, the application's tables, closed as ``perimeter apply`` closes them.
    With pytest-xdist each worker has its own."""
    from tenantry.testing.blueprint import Blueprint
    from tenantry.testing.house import HouseUnderTest

    with _told(), HouseUnderTest.open(tenantry_server, Blueprint.of(pytestconfig)) as house:
        pytestconfig.stash[_HOUSE] = house
        try:
            yield house
        finally:
            del pytestconfig.stash[_HOUSE]


@pytest.fixture(scope="session")
def tenantry_settings(tenantry_house: HouseUnderTest) -> Settings:
    """What an application of the house needs: ``create_app(AsyncRouter(tenantry_settings))``."""
    return tenantry_house.settings


@pytest.fixture
def tenantry_router(tenantry_settings: Settings) -> Iterator[Router]:
    """A router of the test's own, for code with threads."""
    from tenantry.routing.router import Router

    with Router(tenantry_settings) as router:
        yield router


@pytest.fixture
def tenantry_async_router(request: pytest.FixtureRequest) -> Any:
    """A router of the test's own, for tasks; with anyio and with pytest-asyncio."""
    managed = request.config.pluginmanager.hasplugin("asyncio") and "anyio_backend" not in request.fixturenames
    return request.getfixturevalue("_tenantry_asyncio_router" if managed else "_tenantry_anyio_router")


@pytest.fixture
async def _tenantry_anyio_router(tenantry_settings: Settings) -> AsyncIterator[AsyncRouter]:
    from tenantry.routing.router_async import AsyncRouter

    async with AsyncRouter(tenantry_settings) as router:
        yield router


@pytest.fixture
def two_tenants(request: pytest.FixtureRequest, tenantry_house: HouseUnderTest) -> TwoTenants:
    """``acme`` and ``globex``, without rows. ``@pytest.mark.tenantry(isolation=...)`` says where they live."""
    marker = request.node.get_closest_marker("tenantry")
    asked = marker.kwargs.get("isolation") if marker is not None else None
    with _told():
        return tenantry_house.two_tenants(asked or request.config.getini("tenantry_isolation"))


@pytest.fixture
def assert_no_leak(
    request: pytest.FixtureRequest, tenantry_house: HouseUnderTest, two_tenants: TwoTenants
) -> Iterator[AssertNoLeak]:
    """Looks whether the two tenants can see or change anything of each other: ``assert_no_leak()``, or around the
    application's code ``with assert_no_leak(acme) as leak: leak.in_(client.get("/orders"))``."""
    from tenantry.testing.assertion import AssertNoLeak

    with AssertNoLeak.open(tenantry_house, two_tenants) as checked:
        yield checked
