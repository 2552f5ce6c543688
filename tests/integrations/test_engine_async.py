"""An engine leads each transaction to where the tenant lives, and lets nothing through that has no tenant."""

# ruff: noqa: SIM117, RUF100  # the twin nests what only it could join
from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import event, literal_column, select, table, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from tenantry import Tenant
from tenantry.errors import CrossedTenants, InvalidInput, NoCapacity, NoTenant
from tests.integrations.conftest import AsyncConnection, AsyncSetting, close_async
from tests.integrations.havoc import admin, end_sessions, move

pytestmark = pytest.mark.anyio

LEVELS = ("pooled-a", "pooled-b", "schema-a", "database-a")
WHERE = text("SELECT current_database(), current_schema(), tenantry.current_tenant_v1()")
BACKEND = text("SELECT pg_backend_pid()")
ADD = text("INSERT INTO orders (note) VALUES (:note)")
NOTES = text("SELECT tenant_id, note FROM orders ORDER BY id")


async def rows(conn: AsyncConnection, statement: Any, **values: Any) -> Sequence[tuple[Any, ...]]:
    return [tuple(row) for row in await conn.execute(statement, values)]


async def scalar(setting: AsyncSetting, statement: Any, **options: Any) -> Any:
    async with setting.engine.connect() as conn:
        return await conn.scalar(statement)


@pytest.mark.parametrize("slug", LEVELS)
async def test_each_transaction_goes_to_where_its_tenant_lives(setting_async: AsyncSetting, slug: str) -> None:
    async with setting_async.router.tenant_scope(slug) as tenant, setting_async.engine.connect() as conn:
        assert tenant.placement
        expected = (tenant.placement.database, tenant.placement.schema, tenant.key)
        assert await rows(conn, WHERE) == [expected]
        await conn.commit()
        assert await rows(conn, WHERE) == [expected]


async def test_tenants_that_take_turns_see_their_own_rows(setting_async: AsyncSetting) -> None:
    for slug in LEVELS * 2:
        async with setting_async.router.tenant_scope(slug), setting_async.engine.begin() as conn:
            await conn.execute(ADD, {"note": slug})
    for slug in LEVELS:
        async with setting_async.router.tenant_scope(slug) as tenant, setting_async.engine.connect() as conn:
            assert set(await rows(conn, NOTES)) == {(tenant.key, slug)}


async def test_all_databases_share_the_engines_cache_of_statements(setting_async: AsyncSetting) -> None:
    compiled = set()
    for slug in LEVELS:
        async with setting_async.router.tenant_scope(slug), setting_async.engine.connect() as conn:
            await conn.execute(select(literal_column("note")).select_from(table("orders")))
            compiled.add(len(setting_async.core._compiled_cache or ()))
    assert compiled == {1}


async def test_without_a_scope_there_is_no_connection(setting_async: AsyncSetting) -> None:
    with pytest.raises(NoTenant):
        async with setting_async.engine.connect():
            pass
    assert len(setting_async.router.pools.ledger) == 0


async def test_a_scope_for_reading_refuses_to_write(setting_async: AsyncSetting) -> None:
    async with setting_async.router.tenant_scope("pooled-a", mode="ro"):
        with pytest.raises(DBAPIError, match="read-only transaction"):
            async with setting_async.engine.begin() as conn:
                await conn.execute(ADD, {"note": "x"})
        async with setting_async.engine.connect() as conn:
            await rows(conn, NOTES)


async def test_a_connection_of_one_tenant_is_refused_in_the_scope_of_another(setting_async: AsyncSetting) -> None:
    router = setting_async.router
    async with router.tenant_scope("pooled-a"), setting_async.engine.connect() as conn:
        await rows(conn, NOTES)
        async with router.tenant_scope("pooled-b"):
            with pytest.raises(CrossedTenants):
                await rows(conn, NOTES)
        await conn.rollback()
        async with router.tenant_scope("pooled-b"):
            with pytest.raises(CrossedTenants):  # also where it would begin anew
                await rows(conn, NOTES)
        assert await rows(conn, WHERE)


async def test_nested_scopes_each_have_their_transaction(setting_async: AsyncSetting) -> None:
    router, engine = setting_async.router, setting_async.engine
    async with router.tenant_scope("pooled-a") as a, engine.begin() as outer:
        await outer.execute(ADD, {"note": "outer"})
        async with router.tenant_scope("pooled-b") as b, engine.begin() as inner:
            await inner.execute(ADD, {"note": "inner"})
            assert (b.key, "inner") in await rows(inner, NOTES)
        assert (a.key, "outer") in await rows(outer, NOTES)


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
async def test_isolation_levels_work_and_do_not_stay(setting_async: AsyncSetting, level: str) -> None:
    show = text("SHOW transaction_isolation")
    async with setting_async.router.tenant_scope("pooled-a"):
        async with setting_async.engine.connect() as conn:
            await conn.execution_options(isolation_level=level)
            assert await conn.scalar(show) == level.lower()
        assert await scalar(setting_async, show) == "read committed"
        async with setting_async.engine.execution_options(isolation_level=level).connect() as conn:
            assert await conn.scalar(show) == level.lower()
        assert await scalar(setting_async, show) == "read committed"


async def test_autocommit_is_refused(setting_async: AsyncSetting) -> None:
    async with setting_async.router.tenant_scope("pooled-a"):
        async with setting_async.engine.connect() as conn:
            with pytest.raises(InvalidInput, match="AUTOCOMMIT"):
                await conn.execution_options(isolation_level="AUTOCOMMIT")
        with pytest.raises(InvalidInput, match="AUTOCOMMIT"):
            setting_async.engine.execution_options(isolation_level="AUTOCOMMIT")
        assert await scalar(setting_async, BACKEND)


async def test_savepoints_keep_the_binding(setting_async: AsyncSetting) -> None:
    async with setting_async.router.tenant_scope("pooled-a") as tenant, setting_async.engine.connect() as conn:
        with pytest.raises(IntegrityError):
            async with conn.begin_nested():
                await conn.execute(text("INSERT INTO customers (email) VALUES (NULL)"))
        assert (await rows(conn, WHERE))[0][2] == tenant.key


async def test_an_error_in_a_transaction_leaves_nothing_to_the_next(setting_async: AsyncSetting) -> None:
    for slug, note in (("pooled-a", "lost"), ("pooled-b", "kept")):
        async with setting_async.router.tenant_scope(slug) as tenant:
            with suppress(ZeroDivisionError):
                async with setting_async.engine.begin() as conn:
                    await conn.execute(ADD, {"note": note})
                    raise ZeroDivisionError
            async with setting_async.engine.connect() as conn:
                assert (tenant.key, note) not in await rows(conn, NOTES)


async def test_a_tenant_that_has_moved_is_followed_before_anything_has_run(
    setting_async: AsyncSetting, mover: Tenant
) -> None:
    house, router, engine = setting_async.house, setting_async.router, setting_async.engine
    home = house.tenants["database-a"]
    assert home.placement
    async with router.tenant_scope(mover.slug) as stale, engine.connect() as conn:
        await conn.execution_options(isolation_level="SERIALIZABLE")
        assert stale.placement
        assert (await rows(conn, WHERE))[0][0] == stale.placement.database
        await conn.commit()
        move(house, mover, home)
        # The same connection object: its next transaction begins in the other database, with its options.
        assert (await rows(conn, WHERE))[0] == (home.placement.database, home.placement.schema, mover.key)
        assert await conn.scalar(text("SHOW transaction_isolation")) == "serializable"
        await conn.rollback()
        async with engine.connect() as another:
            assert (await rows(another, WHERE))[0][0] == home.placement.database
            assert await another.scalar(text("SHOW transaction_isolation")) == "read committed"
    ledger = router.pools.ledger
    assert ledger.idle == len(ledger)


async def test_a_tenant_whose_old_database_is_gone_is_followed(setting_async: AsyncSetting, leaver: Tenant) -> None:
    house, router, engine = setting_async.house, setting_async.router, setting_async.engine
    home = house.tenants["schema-a"]
    assert home.placement
    assert leaver.placement
    async with router.tenant_scope(leaver.slug), engine.connect() as conn:
        await conn.execution_options(isolation_level="SERIALIZABLE")
        assert (await rows(conn, WHERE))[0][0] == leaver.placement.database
        await conn.rollback()
        move(house, leaver, home)
        with admin(house, "postgres") as superuser:
            superuser.execute(f'DROP DATABASE "{leaver.placement.database}" WITH (FORCE)')
        assert (await rows(conn, WHERE))[0] == (home.placement.database, home.placement.schema, leaver.key)
        assert await conn.scalar(text("SHOW transaction_isolation")) == "serializable"
        async with engine.connect() as another, router.transaction():
            assert (await rows(another, WHERE))[0][0] == home.placement.database
    ledger = router.pools.ledger
    assert ledger.idle == len(ledger)


async def test_connections_that_the_server_has_ended_are_replaced_unseen(setting_async: AsyncSetting) -> None:
    house, router, engine = setting_async.house, setting_async.router, setting_async.engine
    async with router.tenant_scope("pooled-a"), engine.connect() as one, engine.connect() as two:
        before = {await one.scalar(BACKEND), await two.scalar(BACKEND)}
        await one.rollback()
    assert end_sessions(house) >= 2
    async with router.tenant_scope("pooled-b"):
        for _ in range(3):
            assert await scalar(setting_async, BACKEND) not in before


async def test_a_connection_lost_in_the_middle_is_an_error_and_the_next_is_well(setting_async: AsyncSetting) -> None:
    house, router, engine = setting_async.house, setting_async.router, setting_async.engine
    async with router.tenant_scope("pooled-a"):
        async with engine.connect() as conn:
            await conn.execute(ADD, {"note": "cut off"})
            end_sessions(house)
            with pytest.raises(DBAPIError) as caught:
                await conn.execute(ADD, {"note": "cut off"})
            assert caught.value.connection_invalidated
        async with engine.connect() as conn:
            assert not [note for _, note in await rows(conn, NOTES) if note == "cut off"]


@pytest.mark.parametrize(
    ("dirt", "probe"),
    [
        ("PREPARE loot AS SELECT * FROM orders", "EXECUTE loot"),
        ("DECLARE loot CURSOR WITH HOLD FOR SELECT * FROM orders", "FETCH loot"),
        ("SET statement_timeout = '12345ms'", "SELECT 1 WHERE current_setting('statement_timeout') = '12345ms'"),
        ("SET search_path = pg_catalog", "SELECT 1 WHERE current_schema() = 'pg_catalog'"),
        ("SET default_transaction_read_only = on", "SELECT 1 WHERE current_setting('transaction_read_only') = 'on'"),
        ("SELECT set_config('x.loot', 'secret', false)", "SELECT 1 WHERE current_setting('x.loot', true) <> ''"),
    ],
)
async def test_what_a_tenant_leaves_on_its_connection_does_not_reach_the_next(
    setting_async: AsyncSetting, dirt: str, probe: str
) -> None:
    router, engine = setting_async.router, setting_async.engine
    async with router.tenant_scope("pooled-a"), engine.begin() as conn:
        await conn.execute(ADD, {"note": "a secret"})
        await conn.execute(text(dirt))
    async with router.tenant_scope("pooled-b") as tenant:
        async with engine.begin() as conn:
            await conn.execute(ADD, {"note": "clean"})
            assert {key for key, _ in await rows(conn, NOTES)} == {tenant.key}
        async with engine.connect() as conn:
            if probe.startswith("SELECT"):
                assert await rows(conn, text(probe)) == []
            else:
                with pytest.raises(DBAPIError, match="does not exist"):
                    await conn.execute(text(probe))


async def test_a_raw_connection_is_bound_as_well(setting_async: AsyncSetting) -> None:
    async with setting_async.router.tenant_scope("pooled-a") as tenant:
        proxied = await setting_async.engine.raw_connection()
        driver: Any = proxied.driver_connection
        cursor = await driver.execute("SELECT tenantry.current_tenant_v1()")
        assert await cursor.fetchone() == (tenant.key,)
        await close_async(proxied)
    async with setting_async.router.tenant_scope("pooled-b") as tenant, setting_async.engine.connect() as conn:
        assert (await rows(conn, WHERE))[0][2] == tenant.key


async def test_events_of_the_pool_are_heard_for_all_databases(setting_async: AsyncSetting) -> None:
    heard: list[str] = []
    for name in ("connect", "checkout", "checkin", "close"):
        event.listen(setting_async.core, name, lambda *arguments, name=name: heard.append(name))
    for slug in ("pooled-a", "database-a"):
        async with setting_async.router.tenant_scope(slug):
            assert await scalar(setting_async, BACKEND)
    await setting_async.engine.dispose()
    assert heard == ["connect", "checkout", "checkin"] * 2 + ["close"] * 2


async def test_a_listener_that_runs_statements_at_checkout_does_not_leave_them_unbound(
    setting_async: AsyncSetting,
) -> None:
    def check(connection: Any, *others: Any) -> None:
        cursor = connection.cursor()
        cursor.execute("SELECT 1")
        cursor.close()

    event.listen(setting_async.core, "checkout", check)
    async with setting_async.router.tenant_scope("pooled-a") as tenant, setting_async.engine.connect() as conn:
        assert (await rows(conn, WHERE))[0][2] == tenant.key


async def test_disposing_closes_what_is_idle_at_once_and_the_rest_when_it_comes_back(
    setting_async: AsyncSetting,
) -> None:
    engine, ledger = setting_async.engine, setting_async.router.pools.ledger
    async with setting_async.router.tenant_scope("pooled-a"), engine.connect() as busy:
        assert await busy.scalar(BACKEND)
        assert await scalar(setting_async, BACKEND)
        await engine.dispose()
        assert (len(ledger), ledger.idle) == (1, 0)
    assert len(ledger) == 0
    async with setting_async.router.tenant_scope("pooled-a"):
        assert await scalar(setting_async, BACKEND)


async def test_the_budget_holds_and_idle_databases_make_room(setting_async: AsyncSetting) -> None:
    router = setting_async.router
    ledger = router.pools.ledger
    ledger.budget = 2
    router.pools.seconds = 0.05
    for slug in ("pooled-a", "database-a", "schema-a", "database-a"):
        async with router.tenant_scope(slug), setting_async.engine.connect() as conn, router.transaction():
            assert await conn.scalar(BACKEND)
            assert len(ledger) <= 2
            with pytest.raises(NoCapacity, match="all 2"):
                await scalar(setting_async, BACKEND)
    assert ledger.idle == len(ledger) <= 2


async def test_no_session_of_the_server_is_left_in_a_transaction(setting_async: AsyncSetting) -> None:
    async with setting_async.router.tenant_scope("pooled-a") as tenant:
        async with setting_async.engine.connect() as conn:
            await rows(conn, NOTES)
        assert tenant.placement
        with admin(setting_async.house, tenant.placement.database) as conn_admin:
            states = conn_admin.execute("SELECT state FROM pg_stat_activity WHERE usename = 'tenantry_app'").fetchall()
    assert set(states) == {("idle",)}
