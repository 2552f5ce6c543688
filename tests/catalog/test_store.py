"""The control plane's access to the catalog: what is there, what is not, and a server that comes and goes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import psycopg
import pytest
from psycopg_pool import base

from tenantry.catalog.store import CatalogStore
from tenantry.errors import InvalidSlug, NotFound, PlanNotFound, ServerUnreachable, ShardNotFound, TenantNotFound
from tenantry.model import KeyType
from tenantry.postgres.server import THROWAWAY, LocalServer
from tests.catalog.conftest import Catalog, build
from tests.fixtures.servers import Database
from tests.upgrade.catalogs import MIGRATIONS, apply

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def own_catalog(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalog]:
    """On a server that a test may crash."""
    with LocalServer(tmp_path_factory.mktemp("server"), settings=THROWAWAY) as server:
        yield build(Database(server, "postgres"))


async def test_what_is_there_is_read(catalog: Catalog, slug: str) -> None:
    async with CatalogStore(catalog.database.dsn()) as store:
        assert (await store.tenant(slug)).slug == slug
        assert (await store.plan("free")).name == "free"
        assert (await store.shard("main")).dsn == "host=db"
        assert (await store.house()).key_type is KeyType.BIGINT


async def test_what_is_not_there_is_named(catalog: Catalog) -> None:
    async with CatalogStore(catalog.database.dsn()) as store:
        with pytest.raises(TenantNotFound, match="no tenant with the slug 'nobody'"):
            await store.tenant("nobody")
        for name in ("gold", "x'; DROP TABLE plans; --", "x" * 100_000):
            with pytest.raises(PlanNotFound, match="there is no plan"):
                await store.plan(name)
            with pytest.raises(ShardNotFound, match="there is no shard"):
                await store.shard(name)
        with pytest.raises(InvalidSlug):
            await store.tenant("' OR true; --")


async def spoil(store: CatalogStore) -> None:
    async with store.transaction() as conn:
        await conn.execute("INSERT INTO plans (name, isolation) VALUES ('never', 'pooled')")
        await conn.execute("SELECT 1 / 0")


async def test_a_transaction_that_fails_leaves_nothing(catalog: Catalog) -> None:
    async with CatalogStore(catalog.database.dsn()) as store:
        with pytest.raises(psycopg.errors.DivisionByZero):
            await spoil(store)
        with pytest.raises(PlanNotFound):
            await store.plan("never")


@pytest.mark.parametrize("version", [0, 1, 2])
async def test_a_catalog_that_is_not_there_or_too_old_says_how_to_get_one(database: Database, version: int) -> None:
    if version:
        await asyncio.to_thread(apply, database.dsn(), MIGRATIONS[:version])
    async with CatalogStore(database.dsn()) as store:
        with pytest.raises(NotFound, match="there is no catalog, or it is older than this version") as caught:
            await store.tenant("acme")
        assert caught.value.hint == "run 'tenantry init'"


async def test_a_wrong_password_is_named_at_once_and_not_repeated(catalog: Catalog) -> None:
    dsn = catalog.database.dsn(catalog.login, tcp=True, password="hunter2")
    with pytest.raises(ServerUnreachable, match="password authentication failed") as caught:
        async with CatalogStore(dsn):
            pass
    assert "hunter2" not in repr(caught.value.as_dict())


async def test_it_works_again_as_soon_as_the_server_does(own_catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base.AttemptWithBackoff, "INITIAL_DELAY", 3600.0)  # as after an outage of many minutes
    server = own_catalog.database.server
    async with CatalogStore(server.dsn(own_catalog.database.name, tcp=True), seconds=1) as store:
        await store.plan("free")
        server.crash()
        try:
            for _ in range(2):
                with pytest.raises(ServerUnreachable) as caught:
                    await store.plan("free")
                assert str(server.port) in str(caught.value.where)
        finally:
            server.start()
        assert (await store.plan("free")).name == "free"
