"""The fence also holds where the operator's login is no superuser and may not end every session."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator

import psycopg
import pytest

from tenantry.postgres.connect import merge_dsn
from tenantry.postgres.server import THROWAWAY, LocalServer
from tenantry.service import house as houses
from tenantry.service import shard as shards
from tenantry.service import tenant as tenants
from tenantry.service.control import Control
from tenantry.settings import Settings
from tests.fixtures.house import TEMPLATE, House
from tests.fixtures.workers import Workers
from tests.operations.invariants import catalog, violations
from tests.operations.recovery import expire, work

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def managed() -> Iterator[House]:
    with LocalServer(settings=THROWAWAY) as server:
        if server.binaries.major < 16:
            pytest.skip("PostgreSQL 15 lets only superusers make roles that bypass row security: test with 16 or later")
        with psycopg.connect(server.dsn(), autocommit=True) as conn:
            conn.execute("CREATE ROLE cloud_admin LOGIN PASSWORD 'x' CREATEROLE CREATEDB BYPASSRLS REPLICATION")
        dsn = server.dsn("tenantry_catalog", tcp=True)
        settings = Settings(catalog=dsn, control=dsn, template=f"sql:{TEMPLATE}", shared_tables=("countries",))

        async def build() -> str:
            await houses.create_database(dsn)
            async with Control(settings, actor="test") as control:
                made = await houses.init(control)
                weak = merge_dsn(server.dsn(tcp=True), user="cloud_admin", password="x")
                await shards.add(control, "main", weak, database="app")
            assert made.catalog_dsn
            return made.catalog_dsn

        yield House(settings, Settings(catalog=asyncio.run(build())), (server,))


@pytest.mark.parametrize("level", ["pooled", "schema", "database"])
def test_a_worker_that_wakes_up_too_late_changes_nothing(managed: House, workers: Workers, level: str) -> None:
    slug = f"late-{level}"
    for number in range(20, 400, 17):
        sleeper = workers.run(managed, "create", slug, isolation=level, statement=(number, "stop"))
        if not sleeper.stopped:
            break
        with catalog(managed) as conn:
            begun = conn.execute("SELECT FROM tenants WHERE slug = %s AND state <> 'deleted'", (slug,)).fetchall()
        if begun:
            expire(managed)
            work(managed)
            delete(managed, slug)
        workers.wake(sleeper)
        found = violations(managed)
        assert not found, f"statement {number}: {found}"
    delete(managed, slug)
    assert violations(managed) == []


def test_a_superuser_in_the_database_is_waited_for(managed: House) -> None:
    """Such as autovacuum, which may be in any database at any moment."""
    tenant = managed.create("visited", isolation="database")
    assert tenant.placement
    guest = psycopg.connect(managed.servers[0].dsn(tenant.placement.database))

    class Leave(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "superuser" in record.getMessage():
                guest.close()

    handler, log = Leave(), logging.getLogger("tenantry.placements")
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        delete(managed, "visited")
    finally:
        log.setLevel(logging.NOTSET)
        log.removeHandler(handler)
    assert guest.closed


def delete(house: House, slug: str) -> None:
    async def run() -> None:
        async with house.control() as control:
            assert await tenants.delete(control, slug, confirm=slug, grace=0) == "done"

    asyncio.run(run())
