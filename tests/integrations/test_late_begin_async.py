"""A transaction begins with its first statement, whatever that is; and elsewhere, where it can't begin here."""

# ruff: noqa: SIM117, RUF100  # the twin nests what only it could join
from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from threading import Thread
from typing import Any

import psycopg
import pytest
from psycopg.pq import TransactionStatus
from sqlalchemy import text

from tenantry import Tenant
from tenantry.errors import CrossedTenants, TenantSuspended
from tenantry.perimeter.bound_async import AsyncBoundConnection
from tests.fixtures.house import House
from tests.integrations.conftest import AsyncSetting, serialize_async, stream_async
from tests.integrations.havoc import admin, end_sessions, move

pytestmark = pytest.mark.anyio

WHERE = "SELECT current_database(), tenantry.current_tenant_v1()"
Rows = list[tuple[Any, ...]]
First = Callable[[AsyncBoundConnection], Awaitable[Rows]]


async def plain(conn: AsyncBoundConnection) -> Rows:
    return await (await conn.execute(WHERE)).fetchall()


async def with_parameters(conn: AsyncBoundConnection) -> Rows:
    return await (await conn.execute(f"{WHERE} WHERE %s = 1", (1,))).fetchall()


async def prepared(conn: AsyncBoundConnection) -> Rows:
    return await (await conn.execute(WHERE, prepare=True)).fetchall()


async def binary(conn: AsyncBoundConnection) -> Rows:
    return await (await conn.execute(WHERE, binary=True)).fetchall()


async def several_statements(conn: AsyncBoundConnection) -> Rows:
    cursor = await conn.execute(f"SELECT 1; {WHERE}")
    assert cursor.nextset()
    return await cursor.fetchall()


async def streamed(conn: AsyncBoundConnection) -> Rows:
    rows = conn.cursor().stream(WHERE)
    return [(database, tenant) async for database, tenant in rows]


async def copied(conn: AsyncBoundConnection) -> Rows:
    async with conn.cursor().copy(f"COPY ({WHERE}) TO STDOUT") as copy:
        copy.set_types(["text", "int8"])
        return [(database, tenant) async for database, tenant in copy.rows()]


async def server_side(conn: AsyncBoundConnection) -> Rows:
    async with conn.cursor("held") as cursor:
        await cursor.execute(WHERE)
        return await cursor.fetchall()


async def many(conn: AsyncBoundConnection) -> Rows:
    cursor = conn.cursor()
    await cursor.executemany(f"{WHERE} WHERE %s = 1", [(1,)], returning=True)
    return await cursor.fetchall()


async def in_a_block(conn: AsyncBoundConnection) -> Rows:
    with suppress(ZeroDivisionError):
        async with conn.transaction():
            await conn.execute("INSERT INTO orders (note) VALUES ('undone')")
            raise ZeroDivisionError
    async with conn.transaction():
        assert await (await conn.execute("SELECT note FROM orders")).fetchall() == []
        return await plain(conn)


async def in_a_pipeline(conn: AsyncBoundConnection) -> Rows:
    async with conn.pipeline():
        return await plain(conn)


async def by_the_second_cursor(conn: AsyncBoundConnection) -> Rows:
    first, second = conn.cursor(), conn.cursor()
    await first.execute("SELECT 1")
    await second.execute(WHERE)
    return await second.fetchall()


FIRSTS = (
    plain,
    with_parameters,
    prepared,
    binary,
    several_statements,
    streamed,
    copied,
    server_side,
    many,
    in_a_block,
    in_a_pipeline,
    by_the_second_cursor,
)


async def warm(setting_async: AsyncSetting, slug: str) -> None:
    """Have one connection, with the binding prepared on it."""
    async with setting_async.router.tenant_scope(slug), setting_async.router.transaction() as conn:
        await plain(conn)


def end_sleepers(house: House) -> None:
    """Wait until a session of the application sleeps, and end it."""
    query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
    with admin(house, "postgres") as conn:
        while not conn.execute(f"{query} AND usename = 'tenantry_app'").fetchall():
            pass


@pytest.mark.parametrize("first", FIRSTS)
async def test_the_first_statement_may_be_anything(setting_async: AsyncSetting, first: First) -> None:
    router = setting_async.router
    for slug in ("pooled-a", "schema-a", "database-a", "pooled-a"):
        async with router.tenant_scope(slug) as tenant, router.transaction() as conn:
            assert tenant.placement
            assert await first(conn) == [(tenant.placement.database, tenant.key)]
            assert conn.info.transaction_status == TransactionStatus.INTRANS


@pytest.mark.parametrize("first", FIRSTS)
async def test_a_tenant_that_moves_before_the_first_statement_is_followed(
    setting_async: AsyncSetting, mover: Tenant, first: First
) -> None:
    router, home = setting_async.router, setting_async.house.tenants["database-a"]
    assert home.placement
    await warm(setting_async, mover.slug)
    async with router.tenant_scope(mover.slug):
        async with router.transaction() as conn:
            move(setting_async.house, mover, home)
            assert await first(conn) == [(home.placement.database, mover.key)]
            await conn.execute("INSERT INTO orders (note) VALUES ('there')")
        async with router.transaction() as conn:
            assert await (await conn.execute("SELECT note FROM orders")).fetchall() == [("there",)]
            await conn.execute("DELETE FROM orders")
    assert router.pools.ledger.idle == len(router.pools.ledger)


@pytest.mark.parametrize("first", FIRSTS)
async def test_a_connection_lost_before_the_first_statement_is_replaced(
    setting_async: AsyncSetting, first: First
) -> None:
    router = setting_async.router
    await warm(setting_async, "pooled-a")
    async with router.tenant_scope("pooled-a") as tenant, router.transaction() as conn:
        end_sessions(setting_async.house)
        assert tenant.placement
        assert await first(conn) == [(tenant.placement.database, tenant.key)]
    assert len(router.pools.ledger) == 1


async def test_nothing_of_the_application_has_run_where_the_binding_is_refused(
    setting_async: AsyncSetting, mover: Tenant
) -> None:
    router = setting_async.router
    await warm(setting_async, mover.slug)
    assert mover.placement
    with admin(setting_async.house, mover.placement.database) as conn:
        conn.execute("CREATE SEQUENCE public.ran")
        conn.execute("GRANT USAGE ON SEQUENCE public.ran TO tenantry_app")
        conn.execute("UPDATE tenantry.residents SET state = 'suspended' WHERE code = %s", (mover.code,))
    async with router.tenant_scope(mover.slug):
        with pytest.raises(TenantSuspended):
            async with router.transaction() as bound:
                await bound.execute("SELECT nextval('public.ran') WHERE %s = 1", (1,))
    with admin(setting_async.house, mover.placement.database) as conn:
        assert conn.execute("SELECT is_called FROM public.ran").fetchone() == (False,)
        conn.execute("DROP SEQUENCE public.ran")


async def test_a_statement_whose_connection_is_ended_is_not_repeated(setting_async: AsyncSetting) -> None:
    """Whoever ends it does not want to see it again."""
    router, house = setting_async.router, setting_async.house
    await warm(setting_async, "pooled-a")
    home = house.tenants["pooled-a"]
    assert home.placement
    with admin(house, home.placement.database) as conn:
        conn.execute("CREATE SEQUENCE public.ran")
        conn.execute("GRANT USAGE ON SEQUENCE public.ran TO tenantry_app")
    other = Thread(target=end_sleepers, args=(house,))
    other.start()
    async with router.tenant_scope("pooled-a"):
        with pytest.raises(psycopg.errors.AdminShutdown):
            async with router.transaction() as bound:
                await bound.execute("SELECT nextval('public.ran'), pg_sleep(%s)", (60,))
    other.join()
    with admin(house, home.placement.database) as conn:
        assert conn.execute("SELECT last_value, is_called FROM public.ran").fetchone() == (1, True)
        conn.execute("DROP SEQUENCE public.ran")


async def test_a_first_statement_that_fails_is_the_caller_s_error(setting_async: AsyncSetting) -> None:
    router = setting_async.router
    async with router.tenant_scope("pooled-a") as tenant:
        for query in ("SELECT 1 / %s", "SELECT missing WHERE 1 = %s"):
            for prepare in (False, True, True):
                with pytest.raises((psycopg.errors.DivisionByZero, psycopg.errors.UndefinedColumn)):
                    async with router.transaction() as conn:
                        await conn.execute(query, (0,), prepare=prepare)
                async with router.transaction() as conn:
                    assert (await plain(conn))[0][1] == tenant.key


async def test_after_a_failed_first_statement_the_transaction_has_failed(setting_async: AsyncSetting) -> None:
    router = setting_async.router
    async with router.tenant_scope("pooled-a"):
        with suppress(psycopg.errors.InFailedSqlTransaction):
            async with router.transaction() as conn:
                with pytest.raises(psycopg.errors.DivisionByZero):
                    await conn.execute("SELECT 1 / %s", (0,))
                await conn.execute("SELECT 1")
                raise AssertionError("a failed transaction went on")


async def test_statements_that_psycopg_prepares_by_itself_are_prepared(setting_async: AsyncSetting) -> None:
    router = setting_async.router
    async with router.tenant_scope("pooled-a"):
        for number in range(12):
            async with router.transaction() as conn:
                cursor = await conn.execute("SELECT %s::int + 1", (number,))
                assert await cursor.fetchone() == (number + 1,)
                assert len(conn._prepared._names) == (number >= 5)


async def test_options_that_are_set_before_the_first_statement_hold(setting_async: AsyncSetting) -> None:
    router = setting_async.router
    async with router.tenant_scope("pooled-a"), router.transaction() as conn:
        await serialize_async(conn)
        row = await (await conn.execute("SELECT current_setting('transaction_isolation')")).fetchone()
        assert row == ("serializable",)


async def test_the_first_statement_in_another_tenant_s_scope_is_refused(setting_async: AsyncSetting) -> None:
    router = setting_async.router
    async with router.tenant_scope("pooled-a") as tenant, router.transaction() as conn:
        async with router.tenant_scope("pooled-b"):
            for first in FIRSTS[:4]:
                with pytest.raises(CrossedTenants):
                    await first(conn)
        assert (await plain(conn))[0][1] == tenant.key


async def test_a_transaction_without_statements_is_none(setting_async: AsyncSetting) -> None:
    router = setting_async.router
    await warm(setting_async, "pooled-a")
    async with router.tenant_scope("pooled-a"):
        async with router.transaction() as conn:
            end_sessions(setting_async.house)
        with suppress(ZeroDivisionError):
            async with router.transaction():
                raise ZeroDivisionError
        assert not conn.due


async def test_a_cursor_that_was_made_earlier_never_meets_another_tenant(
    setting_async: AsyncSetting, mover: Tenant
) -> None:
    """It was made on a session that its connection has left."""
    router, home = setting_async.router, setting_async.house.tenants["database-a"]
    await warm(setting_async, mover.slug)
    async with router.tenant_scope(mover.slug), router.transaction() as conn:
        earlier = conn.cursor()
        old = conn.pgconn
        move(setting_async.house, mover, home)
        await plain(conn)
        assert conn.pgconn is not old
        assert earlier._pgconn is old
        with pytest.raises(psycopg.OperationalError, match="closed"):
            old.exec_(b"SELECT 1")
        await earlier.execute(WHERE)
        assert (await earlier.fetchall())[0][1] == mover.key


@pytest.mark.parametrize("statement", ["one", "many", "streamed", "no parameters"])
@pytest.mark.parametrize("lost", [False, True], ids=["moved", "lost"])
async def test_an_engine_follows_before_its_first_statement(
    setting_async: AsyncSetting, mover: Tenant, statement: str, lost: bool
) -> None:
    house, router, engine = setting_async.house, setting_async.router, setting_async.engine
    home = mover if lost else house.tenants["database-a"]
    assert home.placement
    async with router.tenant_scope(mover.slug):
        async with engine.begin() as conn:
            await conn.execute(text("SELECT 1"))
        async with engine.begin() as conn:
            if lost:
                end_sessions(house)
            else:
                move(house, mover, home)
            if statement == "many":
                await conn.execute(text("INSERT INTO orders (note) VALUES (:n)"), [{"n": "there"}, {"n": "too"}])
            elif statement == "streamed":
                assert (await stream_async(conn, text(WHERE)))[0][1] == mover.key
            elif statement == "no parameters":
                await conn.exec_driver_sql("SELECT 1", execution_options={"no_parameters": True})
            rows = (await conn.execute(text(WHERE))).all()
            assert [tuple(row) for row in rows] == [(home.placement.database, mover.key)]
        async with engine.begin() as conn:
            await conn.execute(text("DELETE FROM orders"))
    assert router.pools.ledger.idle == len(router.pools.ledger)
