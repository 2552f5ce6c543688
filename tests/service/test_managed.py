"""A server whose operator is no superuser, as at most managed services."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from tenantry import AsyncRouter
from tenantry.errors import ServerUnsuitable
from tenantry.model import BindingMode
from tenantry.postgres.connect import merge_dsn
from tenantry.postgres.server import THROWAWAY, LocalServer
from tenantry.service import house, perimeter, shard, tenant
from tenantry.service.control import Control
from tenantry.settings import Settings
from tests.fixtures.house import TEMPLATE

pytestmark = pytest.mark.anyio

STRONG = "LOGIN PASSWORD 'x' CREATEROLE CREATEDB BYPASSRLS REPLICATION"


@pytest.fixture
def managed() -> Iterator[LocalServer]:
    """A server of its own: its roles are made by somebody who is no superuser."""
    with LocalServer(settings=THROWAWAY) as server:
        if server.binaries.major < 16:
            pytest.skip("PostgreSQL 15 lets only superusers make roles that bypass row security: test with 16 or later")
        yield server


def make_login(server: LocalServer, options: str) -> str:
    """The DSN of a new login."""
    with psycopg.connect(server.dsn(), autocommit=True) as conn:
        conn.execute(f"CREATE ROLE cloud_admin {options}")
    return merge_dsn(server.dsn(tcp=True), user="cloud_admin", password="x")


async def control_of(server: LocalServer) -> tuple[Control, Settings]:
    """A new catalog, and the settings of an application."""
    dsn = server.dsn("tenantry_catalog", tcp=True)
    await house.create_database(dsn)
    control = Control(Settings(catalog=dsn, control=dsn, template=f"sql:{TEMPLATE}", shared_tables=("countries",)))
    async with control:
        made = await house.init(control)
    assert made.catalog_dsn is not None
    return control, Settings(catalog=made.catalog_dsn)


async def only_rows_of(server: LocalServer, word: str) -> None:
    """Leave only rows with this word, so that deleting its tenant leaves none, and let the planner know them."""
    with psycopg.connect(server.dsn("tenantry"), autocommit=True) as conn:
        conn.execute("DELETE FROM orders WHERE note <> %s", (word,))
        copies = "SELECT tenant_id, note FROM orders CROSS JOIN generate_series(1, 50)"
        conn.execute(f"INSERT INTO orders (tenant_id, note) {copies}")
        conn.execute("ANALYZE orders")


def statistics(server: LocalServer, word: str) -> list[tuple[str]]:
    """The columns whose statistics hold a word."""
    with psycopg.connect(server.dsn("tenantry")) as conn:
        query = "SELECT attname FROM pg_stats WHERE most_common_vals::text LIKE %s"
        return conn.execute(query, (f"%{word}%",)).fetchall()


async def test_a_login_that_is_no_superuser_builds_signed_walls_at_every_level(managed: LocalServer) -> None:
    dsn = make_login(managed, STRONG)
    control, settings = await control_of(managed)
    async with control:
        made = await shard.add(control, "main", dsn)
        assert made.binding is BindingMode.SIGNED
        for level in ("pooled", "schema", "database"):
            await tenant.create(control, f"{level}-a", isolation=level)
            await tenant.create(control, f"{level}-b", isolation=level)
        async with AsyncRouter(settings) as router:
            for slug in ("pooled-a", "pooled-b", "schema-a", "schema-b", "database-a", "database-b"):
                async with router.tenant_scope(slug) as found, router.transaction() as conn:
                    await conn.execute("INSERT INTO orders (note) VALUES (%s)", (slug,))
                    rows = await (await conn.execute("SELECT tenant_id, note FROM orders")).fetchall()
                    assert rows == [(found.key, slug)]
        await only_rows_of(managed, "pooled-a")
        assert statistics(managed, "pooled-a")
        await tenant.delete(control, "pooled-a", confirm="pooled-a", grace=0)
        assert bool(statistics(managed, "pooled-a")) is (managed.binaries.major < 18)
        sections = await perimeter.check(control)
        assert sections
        assert all(not section.plan.changes for section in sections)
        findings = {finding.what for section in sections for finding in section.plan.findings}
        assert len(findings) == 1
        assert "only a superuser can close them" in findings.pop()


async def test_a_login_that_is_too_weak_is_refused_before_anything_is_made(managed: LocalServer) -> None:
    dsn = make_login(managed, "LOGIN PASSWORD 'x' CREATEDB")
    control, _ = await control_of(managed)
    async with control:
        with pytest.raises(ServerUnsuitable, match="can't create the roles"):
            await shard.add(control, "main", dsn)
        assert await shard.listing(control) == []


async def test_sealed_mode_is_not_promised_where_the_grant_is_refused(managed: LocalServer) -> None:
    dsn = make_login(managed, STRONG)
    control, _ = await control_of(managed)
    async with control:
        with pytest.raises(ServerUnsuitable, match="backtrace_functions"):
            await shard.add(control, "main", dsn, binding="sealed")
