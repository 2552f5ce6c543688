"""psycopg through a router: bound transactions on connections that nobody has to look after."""

# ruff: noqa: SIM117, RUF100  # the twin nests what only it could join
from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from tenantry import AsyncRouter, Tenant
from tenantry.catalog.fleet_view import ActiveKey
from tenantry.errors import CrossedTenants, NoCapacity, NoTenant, TenantSuspended
from tenantry.model import Mode
from tests.fixtures.house import House
from tests.integrations.conftest import AsyncSetting
from tests.integrations.havoc import admin, end_sessions, move

pytestmark = pytest.mark.anyio

LEVELS = ("pooled-a", "pooled-b", "schema-a", "database-a")
WHERE = "SELECT current_database(), current_schema(), tenantry.current_tenant_v1()"


async def one(router: AsyncRouter, query: str, **options: Any) -> tuple[Any, ...]:
    async with router.transaction(**options) as conn:
        row = await (await conn.execute(query)).fetchone()
        assert row
        return row


@pytest.mark.parametrize("slug", LEVELS)
async def test_a_transaction_begins_where_the_tenant_lives(setting_async: AsyncSetting, slug: str) -> None:
    router = setting_async.router
    async with router.tenant_scope(slug) as tenant:
        assert tenant.placement
        expected = (tenant.placement.database, tenant.placement.schema, tenant.key)
        assert await one(router, WHERE) == expected
    assert await one(router, WHERE, tenant=tenant) == expected


async def test_a_block_that_ends_well_commits_and_one_that_fails_does_not(setting_async: AsyncSetting) -> None:
    router = setting_async.router
    async with router.tenant_scope("pooled-a"):
        async with router.transaction() as conn:
            await conn.execute("INSERT INTO orders (note) VALUES ('kept')")
        with suppress(ZeroDivisionError):
            async with router.transaction() as conn:
                await conn.execute("INSERT INTO orders (note) VALUES ('lost')")
                raise ZeroDivisionError
        assert await one(router, "SELECT array_agg(note) FROM orders") == (["kept"],)


async def test_without_a_scope_there_is_no_transaction(setting_async: AsyncSetting) -> None:
    with pytest.raises(NoTenant):
        await one(setting_async.router, WHERE)


async def test_a_transaction_for_another_tenant_than_the_scopes_is_refused(setting_async: AsyncSetting) -> None:
    router, other = setting_async.router, setting_async.house.tenants["pooled-b"]
    async with router.tenant_scope("pooled-a"):
        with pytest.raises(CrossedTenants):
            await one(router, WHERE, tenant=other)


async def test_a_connection_is_refused_in_the_scope_of_another_tenant(setting_async: AsyncSetting) -> None:
    router = setting_async.router
    async with router.tenant_scope("pooled-a") as tenant, router.transaction() as conn:
        async with router.tenant_scope("pooled-b") as other:
            with pytest.raises(CrossedTenants):
                await conn.execute(WHERE)
            assert (await one(router, WHERE))[2] == other.key
        row = await (await conn.execute(WHERE)).fetchone()
        assert row
        assert row[2] == tenant.key


async def test_reading_scopes_refuse_writes_and_can_not_be_widened(setting_async: AsyncSetting) -> None:
    router = setting_async.router
    add = "INSERT INTO orders (note) VALUES ('x') RETURNING 1"
    async with router.tenant_scope("pooled-a", mode="ro"):
        for mode in (None, Mode.READ_WRITE):
            with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                await one(router, add, mode=mode)
    async with router.tenant_scope("pooled-a"):
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            await one(router, add, mode="ro")
        assert await one(router, add) == (1,)


async def test_a_tenant_that_has_moved_is_followed(setting_async: AsyncSetting, mover: Tenant) -> None:
    router, home = setting_async.router, setting_async.house.tenants["database-a"]
    assert home.placement
    async with router.tenant_scope(mover.slug):
        before = await one(router, WHERE)
        move(setting_async.house, mover, home)
        assert await one(router, WHERE) == (home.placement.database, home.placement.schema, mover.key)
        assert before[0] != home.placement.database


async def test_a_signing_key_that_was_rotated_unheard_of_is_fetched(setting_async: AsyncSetting) -> None:
    router = setting_async.router
    fleet = await router.view.fleet()
    router.view._fleet = replace(fleet, active_key=ActiveKey("gone", bytes(32)))
    async with router.tenant_scope("pooled-a") as tenant:
        assert (await one(router, WHERE))[2] == tenant.key
    assert router.view.known_fleet().active_key == fleet.active_key


async def test_a_tenant_that_the_database_says_is_suspended_is_refused(
    setting_async: AsyncSetting, mover: Tenant
) -> None:
    router = setting_async.router
    assert mover.placement
    async with router.tenant_scope(mover.slug):
        with admin(setting_async.house, mover.placement.database) as conn:
            conn.execute("UPDATE tenantry.residents SET state = 'suspended' WHERE code = %s", (mover.code,))
        with pytest.raises(TenantSuspended):
            await one(router, WHERE)


async def test_connections_that_the_server_has_ended_are_replaced_unseen(setting_async: AsyncSetting) -> None:
    router = setting_async.router
    async with router.tenant_scope("pooled-a"):
        async with router.transaction(), router.transaction(), router.transaction():
            pass
        assert len(router.pools.ledger) == 3
        end_sessions(setting_async.house)
        for _ in range(2):
            assert await one(router, WHERE)
        assert len(router.pools.ledger) == 1


async def test_a_connection_lost_in_the_middle_is_an_error_and_the_next_is_well(setting_async: AsyncSetting) -> None:
    router = setting_async.router
    async with router.tenant_scope("pooled-a"):
        with suppress(psycopg.OperationalError):
            async with router.transaction() as conn:
                await conn.execute(WHERE)
                end_sessions(setting_async.house)
                await conn.execute(WHERE)
                raise AssertionError("the connection is still there")
        assert await one(router, WHERE)


@pytest.mark.parametrize(
    ("dirt", "probe"),
    [
        ("PREPARE loot AS SELECT * FROM orders", "EXECUTE loot"),
        ("DECLARE loot CURSOR WITH HOLD FOR SELECT * FROM orders", "FETCH loot"),
        ("SET statement_timeout = '12345ms'", "SELECT 1 WHERE current_setting('statement_timeout') = '12345ms'"),
        ("SELECT set_config('x.loot', 'secret', false)", "SELECT 1 WHERE current_setting('x.loot', true) <> ''"),
    ],
)
async def test_what_a_tenant_leaves_behind_does_not_reach_the_next(
    setting_async: AsyncSetting, dirt: str, probe: str
) -> None:
    router = setting_async.router
    async with router.tenant_scope("pooled-a"), router.transaction() as conn:
        await conn.execute(dirt)
    async with router.tenant_scope("pooled-b") as tenant:
        assert (await one(router, WHERE))[2] == tenant.key
        with suppress(psycopg.errors.InvalidSqlStatementName, psycopg.errors.InvalidCursorName):
            async with router.transaction() as conn:
                assert await (await conn.execute(probe)).fetchall() == []


async def test_a_database_full_of_dirty_connections_serves_on(setting_async: AsyncSetting) -> None:
    router = setting_async.router
    async with router.tenant_scope("pooled-a"):
        async with router.transaction() as one_, router.transaction() as two, router.transaction() as three:
            for conn in (one_, two, three):
                await conn.execute("PREPARE loot AS SELECT 1")
    async with router.tenant_scope("pooled-b") as tenant:
        assert (await one(router, WHERE))[2] == tenant.key
    assert len(router.pools.ledger) == 1


async def test_what_is_set_on_the_connection_object_does_not_reach_the_next(setting_async: AsyncSetting) -> None:
    router = setting_async.router
    async with router.tenant_scope("pooled-a"):
        async with router.transaction() as conn:
            conn.row_factory = dict_row  # type: ignore[assignment]
        assert isinstance(await one(router, WHERE), tuple)


@pytest.mark.parametrize("attack", ["COMMIT; BEGIN; SELECT * FROM orders", "ROLLBACK; SELECT * FROM orders"])
async def test_what_follows_a_transaction_that_sql_ended_belongs_to_nobody(
    setting_async: AsyncSetting, attack: str
) -> None:
    router = setting_async.router
    async with router.tenant_scope("pooled-a"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="no tenant is bound"):
            await one(router, attack)
        assert await one(router, WHERE)


async def test_savepoints_cursors_copies_and_pipelines_belong_to_the_tenant(setting_async: AsyncSetting) -> None:
    router = setting_async.router
    async with router.tenant_scope("schema-a") as tenant, router.transaction() as conn:
        async with conn.transaction():
            await conn.execute("INSERT INTO orders (note) VALUES ('inner')")
        async with conn.pipeline():
            await conn.execute("INSERT INTO orders (note) VALUES ('piped')")
        async with conn.cursor(name="rows") as cursor:
            await cursor.execute("SELECT DISTINCT tenant_id FROM orders")
            assert await cursor.fetchall() == [(tenant.key,)]
        async with conn.cursor().copy("COPY (SELECT DISTINCT tenant_id FROM orders) TO STDOUT") as copy:
            assert await copy.read_row() == (str(tenant.key),)
            assert await copy.read_row() is None


async def test_no_connection_in_time_is_an_error_that_says_which_setting_to_raise(
    setting_async: AsyncSetting, house: House
) -> None:
    small = house.settings.model_copy(update={"pool_size": 1, "connect_seconds": 0.05})
    async with AsyncRouter(small) as router, router.tenant_scope("pooled-a"), router.transaction():
        with pytest.raises(NoCapacity, match="all 1 to this database") as caught:
            await one(router, WHERE)
    assert "pool_size" in str(caught.value.hint)


async def test_closing_a_router_closes_its_connections_and_it_opens_again(setting_async: AsyncSetting) -> None:
    router = setting_async.router
    async with router.tenant_scope("pooled-a"):
        assert await one(router, WHERE)
        await router.close()
        assert len(router.pools.ledger) == 0
        assert await one(router, WHERE)
