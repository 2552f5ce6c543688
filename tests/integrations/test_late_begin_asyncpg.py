"""asyncpg's transactions begin with their first statement, whatever that is; and elsewhere, where they can't here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from io import BytesIO
from typing import Any

import asyncpg  # type: ignore[import-untyped]
import pytest
from sqlalchemy import text

from tenantry import AsyncRouter, Tenant
from tenantry.errors import CrossedTenants, TenantSuspended
from tenantry.integrations.asyncpg import Pool, create_pool
from tenantry.integrations.sqlalchemy import create_async_engine
from tests.fixtures.house import House
from tests.integrations.havoc import admin, end_sessions, move

pytestmark = pytest.mark.anyio

WHERE = "SELECT current_database()::text, tenantry.current_tenant_v1()"
Rows = list[tuple[Any, ...]]
First = Callable[[Any], Awaitable[Rows]]


@pytest.fixture
async def pool(router: AsyncRouter) -> AsyncIterator[Pool]:
    made = create_pool(router)
    yield made
    await made.close()


async def known(conn: Any) -> Rows:
    """Prepared by an earlier transaction: it travels with BEGIN."""
    return [tuple(row) for row in await conn.fetch(WHERE)]


async def one_row(conn: Any) -> Rows:
    return [tuple(await conn.fetchrow(WHERE))]


async def unknown(conn: Any) -> Rows:
    return [tuple(row) for row in await conn.fetch(f"{WHERE} -- {id(conn)}")]


async def with_parameters(conn: Any) -> Rows:
    return [tuple(row) for row in await conn.fetch(f"{WHERE} WHERE $1 = 1", 1)]


async def without_a_result(conn: Any) -> Rows:
    assert await conn.execute("SELECT 1; SELECT 2") == "SELECT 1"
    return await known(conn)


async def prepared(conn: Any) -> Rows:
    statement = await conn.prepare(WHERE)
    return [tuple(row) for row in await statement.fetch()]


async def by_cursor(conn: Any) -> Rows:
    query = f"{WHERE} FROM generate_series(1, 5)"
    rows = [tuple(row) async for row in conn.cursor(query, prefetch=2)]
    assert len(rows) == 5
    return rows[:1]


async def by_held_cursor(conn: Any) -> Rows:
    cursor = await conn.cursor(f"{WHERE} FROM generate_series(1, 3)")
    return [tuple(row) for row in await cursor.fetch(1)]


async def many(conn: Any) -> Rows:
    await conn.executemany("SELECT $1::int", [(1,), (2,)])
    return await known(conn)


async def copied(conn: Any) -> Rows:
    out = BytesIO()
    await conn.copy_from_query(WHERE, output=out)
    database, tenant = out.getvalue().decode().split()
    return [(database, int(tenant))]


async def in_a_block(conn: Any) -> Rows:
    with suppress(ZeroDivisionError):
        async with conn.transaction():
            await conn.execute("INSERT INTO orders (note) VALUES ('undone')")
            raise ZeroDivisionError
    async with conn.transaction():
        assert await conn.fetch("SELECT note FROM orders") == []
        return await known(conn)


FIRSTS = (
    known,
    one_row,
    unknown,
    with_parameters,
    without_a_result,
    prepared,
    by_cursor,
    by_held_cursor,
    many,
    copied,
    in_a_block,
)


async def warm(pool: Pool, router: AsyncRouter, slug: str) -> None:
    """Have one connection with all statements prepared."""
    async with router.tenant_scope(slug):
        for first in FIRSTS:
            async with pool.transaction() as conn:
                await first(conn)


@pytest.mark.parametrize("first", FIRSTS)
async def test_the_first_statement_may_be_anything(router: AsyncRouter, pool: Pool, first: First) -> None:
    for slug in ("pooled-a", "schema-a", "database-a", "pooled-a", "pooled-a"):
        async with router.tenant_scope(slug) as tenant, pool.transaction() as conn:
            assert tenant.placement
            assert conn.is_in_transaction()
            assert await first(conn) == [(tenant.placement.database, tenant.key)]
            assert conn.is_in_transaction()


@pytest.mark.parametrize("first", FIRSTS)
async def test_a_tenant_that_moves_before_the_first_statement_is_followed(
    house: House, router: AsyncRouter, pool: Pool, mover: Tenant, first: First
) -> None:
    home = house.tenants["database-a"]
    assert home.placement
    await warm(pool, router, mover.slug)
    async with router.tenant_scope(mover.slug):
        async with pool.transaction() as conn:
            move(house, mover, home)
            assert await first(conn) == [(home.placement.database, mover.key)]
            await conn.execute("INSERT INTO orders (note) VALUES ('there')")
        async with pool.transaction() as conn:
            assert await conn.fetchval("SELECT note FROM orders") == "there"
            await conn.execute("DELETE FROM orders")
    assert router.pools.ledger.idle == len(router.pools.ledger)


@pytest.mark.parametrize("heard", [False, True], ids=["unheard of", "heard of"])
@pytest.mark.parametrize("first", FIRSTS)
async def test_a_connection_lost_before_the_first_statement_is_replaced(
    house: House, router: AsyncRouter, pool: Pool, first: First, heard: bool
) -> None:
    await warm(pool, router, "pooled-a")
    async with router.tenant_scope("pooled-a") as tenant, pool.transaction() as conn:
        end_sessions(house)
        while heard and conn.gate.is_connected():  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(0)
        assert tenant.placement
        assert await first(conn) == [(tenant.placement.database, tenant.key)]
    assert len(router.pools.ledger) == 1


async def test_a_backend_left_dirty_by_another_tenant_is_left_before_the_first_statement(
    router: AsyncRouter, pool: Pool
) -> None:
    await warm(pool, router, "pooled-a")
    async with router.tenant_scope("pooled-a"), pool.transaction() as conn:
        await conn.execute("PREPARE loot AS SELECT 1")
        dirty = conn.get_server_pid()
    async with router.tenant_scope("pooled-b") as tenant, pool.transaction() as conn:
        assert (await known(conn))[0][1] == tenant.key
        assert conn.get_server_pid() != dirty


async def test_a_binding_that_was_refused_has_not_looked_for_what_the_last_tenant_left(
    house: House, router: AsyncRouter, pool: Pool, mover: Tenant
) -> None:
    """The next one of the same tenant looks."""
    assert mover.placement
    await warm(pool, router, "pooled-a")
    async with router.tenant_scope("pooled-a"), pool.transaction() as conn:
        await conn.execute("PREPARE loot AS SELECT 1")
    state = "UPDATE tenantry.residents SET state = %s WHERE code = %s"
    with admin(house, mover.placement.database) as conn:
        conn.execute(state, ("suspended", mover.code))
        async with router.tenant_scope(mover.slug):
            with pytest.raises(TenantSuspended):
                async with pool.transaction() as bound:
                    await known(bound)
            conn.execute(state, ("open", mover.code))
            async with pool.transaction() as bound:
                await known(bound)
                with pytest.raises(asyncpg.InvalidSQLStatementNameError):
                    await bound.fetch("EXECUTE loot")


async def test_nothing_of_the_application_has_run_where_the_binding_is_refused(
    house: House, router: AsyncRouter, pool: Pool, mover: Tenant
) -> None:
    assert mover.placement
    run = "SELECT nextval('public.ran')"
    with admin(house, mover.placement.database) as conn:
        conn.execute("CREATE SEQUENCE public.ran")
        conn.execute("GRANT USAGE ON SEQUENCE public.ran TO tenantry_app")
    async with router.tenant_scope(mover.slug):
        assert await pool.fetchval(run) == 1
        with admin(house, mover.placement.database) as conn:
            conn.execute("UPDATE tenantry.residents SET state = 'suspended' WHERE code = %s", (mover.code,))
        with pytest.raises(TenantSuspended):
            await pool.fetchval(run)
    with admin(house, mover.placement.database) as conn:
        assert conn.execute("SELECT last_value FROM public.ran").fetchone() == (1,)
        conn.execute("DROP SEQUENCE public.ran")


async def test_a_statement_whose_connection_is_ended_is_not_repeated(
    house: House, router: AsyncRouter, pool: Pool
) -> None:
    """Whoever ends it does not want to see it again."""
    home = house.tenants["pooled-a"]
    assert home.placement
    run = "SELECT nextval('public.ran'), pg_sleep($1)"
    with admin(house, home.placement.database) as conn:
        conn.execute("CREATE SEQUENCE public.ran")
        conn.execute("GRANT USAGE ON SEQUENCE public.ran TO tenantry_app")
    async with router.tenant_scope("pooled-a"):
        await pool.fetch(run, 0)  # prepared
        other = asyncio.create_task(asyncio.to_thread(end_sleepers, house))
        with pytest.raises((asyncpg.PostgresConnectionError, asyncpg.AdminShutdownError)):
            await pool.fetch(run, 60)
        await other
        await known_again(pool)
    with admin(house, home.placement.database) as conn:
        assert conn.execute("SELECT last_value FROM public.ran").fetchone() == (2,)
        conn.execute("DROP SEQUENCE public.ran")


def end_sleepers(house: House) -> None:
    """Wait until a session of the application sleeps, and end it."""
    query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
    with admin(house, "postgres") as conn:
        while not conn.execute(f"{query} AND usename = 'tenantry_app'").fetchall():
            pass


async def known_again(pool: Pool) -> None:
    async with pool.transaction() as conn:
        assert await known(conn)


async def test_a_first_statement_that_fails_is_the_caller_s_error(router: AsyncRouter, pool: Pool) -> None:
    async with router.tenant_scope("pooled-a") as tenant:
        for _ in range(3):
            with pytest.raises(asyncpg.DivisionByZeroError):
                await pool.fetch("SELECT 1 / $1::int", 0)
            async with pool.transaction() as conn:
                assert (await known(conn))[0][1] == tenant.key
        assert len(router.pools.ledger) == 1


async def test_words_of_the_binder_in_a_statement_s_error_are_the_statement_s(router: AsyncRouter, pool: Pool) -> None:
    """SQL can raise what it likes; it is not taken for a refused binding, and not sent again."""
    run = "SELECT tenantry.bind_v1($1)"
    async with router.tenant_scope("pooled-a"):
        for _ in range(2):
            async with pool.transaction() as conn:
                pid = conn.get_server_pid()
                with pytest.raises(asyncpg.InsufficientPrivilegeError, match="tenantry: the tenant token"):
                    await conn.fetch(run, "forged")
                assert conn.get_server_pid() == pid
                await conn.execute("ROLLBACK")
                await conn.execute("BEGIN")


async def test_a_parameter_that_asyncpg_refuses_leaves_a_transaction_that_goes_on(
    router: AsyncRouter, pool: Pool
) -> None:
    async with router.tenant_scope("pooled-a") as tenant:
        for wrong in ((), ("x",), (1, 2), (2**80,)):
            async with pool.transaction() as conn:
                with pytest.raises((asyncpg.DataError, asyncpg.InterfaceError)):
                    await conn.fetch("SELECT $1::int", *wrong)
                assert await conn.fetchval("SELECT $1::int", 5) == 5
                assert (await known(conn))[0][1] == tenant.key
        assert len(router.pools.ledger) == 1


@pytest.mark.parametrize("interrupt", ["cancelled", "timed out"])
async def test_a_first_statement_that_is_interrupted_leaves_a_clean_connection_and_is_not_repeated(
    router: AsyncRouter, pool: Pool, interrupt: str
) -> None:
    run = "SELECT pg_sleep($1)"
    async with router.tenant_scope("pooled-a") as tenant:
        await pool.fetch(run, 0)
        async with pool.transaction() as conn:
            pid = conn.get_server_pid()
            if interrupt == "timed out":
                with pytest.raises(TimeoutError):
                    await conn.fetch(run, 600, timeout=0.05)
            else:
                task = asyncio.create_task(conn.fetch(run, 600))
                await asyncio.sleep(0.01)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            with pytest.raises(asyncpg.InFailedSQLTransactionError):
                await conn.fetch(run, 0)
            with suppress(asyncpg.InFailedSQLTransactionError):
                await conn.execute("ROLLBACK")
        async with pool.transaction() as conn:
            assert (await known(conn))[0][1] == tenant.key
            assert conn.get_server_pid() == pid


async def test_a_first_statement_beside_another_is_refused_and_the_other_goes_on(
    router: AsyncRouter, pool: Pool
) -> None:
    run = "SELECT pg_sleep($1), 'done'"
    async with router.tenant_scope("pooled-a"):
        await pool.fetch(run, 0)
        async with pool.transaction() as conn:
            first = asyncio.create_task(conn.fetchval(run, 0.05, column=1))
            await asyncio.sleep(0)
            for _ in range(2):
                with pytest.raises(asyncpg.InterfaceError, match="another operation is in progress"):
                    await conn.fetch(run, 0)
            assert await first == "done"


async def test_the_first_statement_in_another_tenant_s_scope_is_refused(router: AsyncRouter, pool: Pool) -> None:
    await warm(pool, router, "pooled-a")
    async with router.tenant_scope("pooled-a") as tenant, pool.transaction() as conn:
        async with router.tenant_scope("pooled-b"):
            for first in FIRSTS:
                with pytest.raises(CrossedTenants):
                    await first(conn)
        assert (await known(conn))[0][1] == tenant.key


async def test_a_transaction_without_statements_is_none(house: House, router: AsyncRouter, pool: Pool) -> None:
    await warm(pool, router, "pooled-a")
    async with router.tenant_scope("pooled-a"):
        async with pool.transaction():
            end_sessions(house)
        with suppress(ZeroDivisionError):
            async with pool.transaction() as conn:
                kept = conn.gate
                raise ZeroDivisionError
        assert kept.due is None


@pytest.mark.parametrize("statement", ["one", "many", "streamed"])
@pytest.mark.parametrize("lost", [False, True], ids=["moved", "lost"])
async def test_an_engine_follows_before_its_first_statement(
    house: House, router: AsyncRouter, mover: Tenant, statement: str, lost: bool
) -> None:
    engine = create_async_engine(router, driver="asyncpg")
    home = mover if lost else house.tenants["database-a"]
    assert home.placement
    insert, where = text("INSERT INTO orders (note) VALUES (:n)"), text(WHERE)
    async with router.tenant_scope(mover.slug):
        for behind in (False, True):
            async with engine.begin() as conn:
                if behind:
                    end_sessions(house) if lost else move(house, mover, home)
                expected = [((home if behind else mover).placement.database, mover.key)]  # type: ignore[union-attr]
                if statement == "many":
                    await conn.execute(insert, [{"n": "there"}, {"n": "too"}])
                elif statement == "streamed":
                    assert [tuple(row) async for row in await conn.stream(where)] == expected
                assert [tuple(row) for row in await conn.execute(where)] == expected
                await conn.execute(text("DELETE FROM orders"))
    await engine.dispose()
