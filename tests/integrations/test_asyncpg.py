"""asyncpg through a router: bound transactions on connections that nobody has to look after."""

from __future__ import annotations

import asyncio
import gc
import io
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any
from uuid import uuid4

import asyncpg  # type: ignore[import-untyped]
import pytest

from tenantry import AsyncRouter, Tenant
from tenantry.catalog.fleet_view import ActiveKey
from tenantry.errors import CrossedTenants, NoCapacity, NoTenant, ServerUnreachable, TenantSuspended
from tenantry.integrations.asyncpg import Pool, create_pool
from tenantry.model import Mode
from tests.fixtures.house import House
from tests.integrations.havoc import admin, end_sessions, move

pytestmark = pytest.mark.anyio

LEVELS = ("pooled-a", "pooled-b", "schema-a", "database-a")
WHERE = "SELECT current_database(), current_schema(), tenantry.current_tenant_v1()"


@pytest.fixture
async def pool(router: AsyncRouter) -> AsyncIterator[Pool]:
    made = create_pool(router)
    yield made
    await made.close()


async def one(pool: Pool, query: str, **options: Any) -> tuple[Any, ...]:
    async with pool.transaction(**options) as conn:
        return tuple(await conn.fetchrow(query))


@pytest.mark.parametrize("slug", LEVELS)
async def test_a_transaction_begins_where_the_tenant_lives(router: AsyncRouter, pool: Pool, slug: str) -> None:
    async with router.tenant_scope(slug) as tenant:
        assert tenant.placement
        expected = (tenant.placement.database, tenant.placement.schema, tenant.key)
        for _ in range(2):
            assert await one(pool, WHERE) == expected
    assert await one(pool, WHERE, tenant=tenant) == expected


async def test_tenants_that_take_turns_see_their_own_rows(router: AsyncRouter, pool: Pool) -> None:
    note = uuid4().hex
    for slug in LEVELS:
        async with router.tenant_scope(slug), pool.transaction() as conn:
            await conn.execute("INSERT INTO orders (note) VALUES ($1)", f"{note} {slug}")
    for slug in LEVELS:
        async with router.tenant_scope(slug) as tenant, pool.transaction() as conn:
            rows = await conn.fetch("SELECT tenant_id, note FROM orders WHERE starts_with(note, $1)", note)
            assert [tuple(row) for row in rows] == [(tenant.key, f"{note} {slug}")]
    pooled = [key for key in (place.key for place in router.pools.ledger._idle) if key.target.database != "x"]
    assert len(pooled) == 2, "one connection serves all tenants of a database"


async def test_a_block_that_ends_well_commits_and_one_that_fails_does_not(router: AsyncRouter, pool: Pool) -> None:
    kept, lost = uuid4().hex, uuid4().hex
    async with router.tenant_scope("pooled-a"):
        async with pool.transaction() as conn:
            await conn.execute("INSERT INTO orders (note) VALUES ($1)", kept)
        with suppress(ZeroDivisionError):
            async with pool.transaction() as conn:
                await conn.execute("INSERT INTO orders (note) VALUES ($1)", lost)
                raise ZeroDivisionError
        async with pool.transaction() as conn:
            found = await conn.fetch("SELECT note FROM orders WHERE note = ANY ($1)", [kept, lost])
        assert [row["note"] for row in found] == [kept]
        assert router.pools.ledger.idle == len(router.pools.ledger) == 1


async def test_without_a_scope_there_is_no_transaction(pool: Pool) -> None:
    with pytest.raises(NoTenant):
        await one(pool, WHERE)


async def test_a_transaction_for_another_tenant_than_the_scopes_is_refused(
    house: House, router: AsyncRouter, pool: Pool
) -> None:
    async with router.tenant_scope("pooled-a"):
        with pytest.raises(CrossedTenants):
            await one(pool, WHERE, tenant=house.tenants["pooled-b"])


async def test_whatever_speaks_is_refused_in_the_scope_of_another_tenant(router: AsyncRouter, pool: Pool) -> None:
    async with router.tenant_scope("pooled-a") as tenant, pool.transaction() as conn:
        prepared: Any = await conn.prepare(WHERE)
        cursor: Any = await conn.cursor("SELECT generate_series(1, 3)")
        nested: Any = conn.transaction
        speeches: list[Callable[[], Any]] = [
            lambda: conn.execute("SELECT 1"),
            lambda: conn.execute("SELECT $1::int", 1),
            lambda: conn.fetchval("SELECT 1"),
            lambda: conn.executemany("SELECT $1::int", [(1,)]),
            lambda: conn.prepare("SELECT 2"),
            lambda: prepared.fetchrow(),
            lambda: cursor.fetch(1),
            lambda: conn.copy_from_query("SELECT 1", output="/dev/null"),
            lambda: conn.copy_to_table("orders", source=io.BytesIO(), columns=["note"]),
            lambda: nested().start(),
        ]
        async with router.tenant_scope("pooled-b") as other:
            for speak in speeches:
                with pytest.raises(CrossedTenants):
                    await speak()
            assert (await one(pool, WHERE))[2] == other.key
        assert (await prepared.fetchrow())[2] == tenant.key


async def test_a_block_may_end_in_the_scope_of_another_tenant(router: AsyncRouter, pool: Pool) -> None:
    """Generators that take turns do so. What was done is kept or undone; only nothing more can be done."""
    note = uuid4().hex
    async with router.tenant_scope("pooled-a"):
        block = pool.transaction()
        conn = await block.__aenter__()
        await conn.execute("INSERT INTO orders (note) VALUES ($1)", note)
        async with router.tenant_scope("pooled-b"):
            await block.__aexit__(None, None, None)
        assert await one(pool, f"SELECT count(*) FROM orders WHERE note = '{note}'") == (1,)


async def test_reading_scopes_refuse_writes_and_can_not_be_widened(router: AsyncRouter, pool: Pool) -> None:
    add = "INSERT INTO orders (note) VALUES ('x') RETURNING 1"
    async with router.tenant_scope("pooled-a", mode="ro"):
        for mode in (None, "rw"):
            with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
                await one(pool, add, mode=mode)
        assert await one(pool, "SELECT 1") == (1,)
    async with router.tenant_scope("pooled-a"):
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            await one(pool, add, mode="ro")
        assert await one(pool, add) == (1,)


async def test_a_tenant_that_has_moved_is_followed(
    house: House, router: AsyncRouter, pool: Pool, mover: Tenant
) -> None:
    home = house.tenants["database-a"]
    assert home.placement
    async with router.tenant_scope(mover.slug):
        before = await one(pool, WHERE)
        move(house, mover, home)
        assert await one(pool, WHERE) == (home.placement.database, home.placement.schema, mover.key)
        assert before[0] != home.placement.database
    assert router.pools.ledger.idle == len(router.pools.ledger) == 1


async def test_a_signing_key_that_was_rotated_unheard_of_is_fetched(router: AsyncRouter, pool: Pool) -> None:
    fleet = await router.view.fleet()
    router.view._fleet = replace(fleet, active_key=ActiveKey("gone", bytes(32)))
    async with router.tenant_scope("pooled-a") as tenant:
        assert (await one(pool, WHERE))[2] == tenant.key
    assert router.view.known_fleet().active_key == fleet.active_key


async def test_a_tenant_that_the_database_says_is_suspended_is_refused(
    house: House, router: AsyncRouter, pool: Pool, mover: Tenant
) -> None:
    assert mover.placement
    async with router.tenant_scope(mover.slug):
        with admin(house, mover.placement.database) as conn:
            conn.execute("UPDATE tenantry.residents SET state = 'suspended' WHERE code = %s", (mover.code,))
        with pytest.raises(TenantSuspended):
            await one(pool, WHERE)
    async with router.tenant_scope("pooled-a"):
        assert await one(pool, WHERE)
    assert router.pools.ledger.idle == len(router.pools.ledger) == 1, "the refused connection is well and was used"


async def test_connections_that_the_server_has_ended_are_replaced_unseen(
    house: House, router: AsyncRouter, pool: Pool
) -> None:
    async with router.tenant_scope("pooled-a"):
        async with pool.transaction(), pool.transaction(), pool.transaction():
            pass
        assert len(router.pools.ledger) == 3
        end_sessions(house)
        for _ in range(2):
            assert await one(pool, WHERE)
        assert len(router.pools.ledger) == 1


async def test_a_connection_that_was_lost_a_moment_ago_and_unheard_of_is_replaced(
    house: House, router: AsyncRouter, pool: Pool
) -> None:
    """The loop has read the server's last words, but not yet that it has gone."""
    async with router.tenant_scope("pooled-a"):
        assert await one(pool, WHERE)
        [place] = router.pools.ledger._idle
        end_sessions(house)
        assert not place.item.is_closed()
        assert await one(pool, WHERE)


async def test_a_connection_lost_in_the_middle_is_an_error_and_the_next_is_well(
    house: House, router: AsyncRouter, pool: Pool
) -> None:
    async with router.tenant_scope("pooled-a"):

        async def work() -> None:
            async with pool.transaction() as conn:
                await conn.fetch(WHERE)
                end_sessions(house)
                await conn.fetch(WHERE)

        with pytest.raises((asyncpg.PostgresConnectionError, asyncpg.AdminShutdownError)):
            await work()
        assert len(router.pools.ledger) == 0
        assert await one(pool, WHERE)


@pytest.mark.parametrize(
    ("dirt", "probe"),
    [
        ("PREPARE loot AS SELECT * FROM orders", "EXECUTE loot"),
        ("DECLARE loot CURSOR WITH HOLD FOR SELECT * FROM orders", "FETCH loot"),
        ("SET statement_timeout = '12345ms'", "SELECT 1 WHERE current_setting('statement_timeout') = '12345ms'"),
        ("SET search_path = pg_catalog", "SELECT 1 WHERE current_schema() = 'pg_catalog'"),
        ("SET default_transaction_read_only = on", "SELECT 1 WHERE current_setting('transaction_read_only') = 'on'"),
        ("SELECT set_config('x.loot', 'secret', false)", "SELECT 1 WHERE current_setting('x.loot', true) <> ''"),
        ("DEALLOCATE ALL", "SELECT 1 WHERE false"),
        ("CREATE TEMPORARY TABLE orders (note text)", "SELECT 1 FROM pg_temp.orders"),
    ],
)
async def test_what_a_tenant_leaves_behind_does_not_reach_the_next(
    router: AsyncRouter, pool: Pool, dirt: str, probe: str
) -> None:
    async with router.tenant_scope("pooled-a"), pool.transaction() as conn:
        await conn.fetch("SELECT note FROM orders")  # a statement that asyncpg has prepared
        with suppress(asyncpg.InsufficientPrivilegeError):
            await conn.execute(dirt)
    async with router.tenant_scope("pooled-b") as tenant:
        assert (await one(pool, WHERE))[2] == tenant.key
        gone = (asyncpg.InvalidSQLStatementNameError, asyncpg.InvalidCursorNameError, asyncpg.UndefinedTableError)
        with suppress(*gone):
            async with pool.transaction() as conn:
                await conn.fetch("SELECT note FROM orders")
                assert await conn.fetch(probe) == []


async def test_a_database_full_of_dirty_connections_serves_on(router: AsyncRouter, pool: Pool) -> None:
    async with (
        router.tenant_scope("pooled-a"),
        pool.transaction() as one_,
        pool.transaction() as two,
        pool.transaction() as three,
    ):
        for conn in (one_, two, three):
            await conn.execute("PREPARE loot AS SELECT 1")
    async with router.tenant_scope("pooled-b") as tenant:
        assert (await one(pool, WHERE))[2] == tenant.key
    assert len(router.pools.ledger) == 1


async def test_a_statement_dropped_behind_asyncpgs_back_costs_the_connection(router: AsyncRouter, pool: Pool) -> None:
    async with router.tenant_scope("pooled-a"):
        with suppress(asyncpg.InvalidSQLStatementNameError):
            async with pool.transaction() as conn:
                await conn.fetch(WHERE)
                await conn.execute("DISCARD PLANS; DEALLOCATE ALL")
                await conn.fetch(WHERE)
        assert len(router.pools.ledger) == 0


async def test_the_names_of_statements_can_not_be_guessed(router: AsyncRouter, pool: Pool) -> None:
    """SQL of one tenant could drop them under another."""
    names = []
    async with router.tenant_scope("pooled-a"), pool.transaction() as first, pool.transaction() as second:
        for conn in (first, second):
            names.append((await conn.prepare("SELECT 1")).get_name())
            names.append(conn._con.gate._binding.name)
    statements, bindings = {name[:-2] for name in names[::2]}, set(names[1::2])
    assert len(statements) == len(bindings) == 2
    assert all(len(name.rsplit("_", 1)[1]) == 32 for name in bindings)


@pytest.mark.parametrize("attack", ["COMMIT; BEGIN; SELECT * FROM orders", "ROLLBACK; SELECT * FROM orders"])
async def test_what_follows_a_transaction_that_sql_ended_belongs_to_nobody(
    router: AsyncRouter, pool: Pool, attack: str
) -> None:
    async with router.tenant_scope("pooled-a"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="no tenant is bound"):
            async with pool.transaction() as conn:
                await conn.execute(attack)
        assert await one(pool, WHERE)


async def test_savepoints_cursors_copies_and_many_rows_belong_to_the_tenant(router: AsyncRouter, pool: Pool) -> None:
    async with router.tenant_scope("schema-a") as tenant, pool.transaction() as conn:
        async with conn.transaction():
            await conn.execute("INSERT INTO orders (note) VALUES ('inner')")
        with suppress(ZeroDivisionError):
            async with conn.transaction():
                await conn.execute("INSERT INTO orders (note) VALUES ('undone')")
                raise ZeroDivisionError
        await conn.executemany("INSERT INTO orders (note) VALUES ($1)", [("many",)] * 3)
        async for row in conn.cursor("SELECT DISTINCT tenant_id FROM orders"):
            assert tuple(row) == (tenant.key,)
        pieces: list[bytes] = []

        async def take(piece: bytes) -> None:
            pieces.append(piece)

        await conn.copy_from_query("SELECT DISTINCT tenant_id FROM orders", output=take)
        assert b"".join(pieces) == f"{tenant.key}\n".encode()
        assert await conn.fetchval("SELECT count(*) FROM orders WHERE note IN ('undone', 'many', 'inner')") == 4


async def test_no_connection_in_time_is_an_error_that_says_which_setting_to_raise(house: House) -> None:
    small = house.settings.model_copy(update={"pool_size": 1, "connect_seconds": 0.05})
    async with AsyncRouter(small) as router, router.tenant_scope("pooled-a"):
        pool = create_pool(router)
        async with pool.transaction():
            with pytest.raises(NoCapacity, match="all 1 to this database") as caught:
                await one(pool, WHERE)
        assert await one(pool, WHERE)
    assert "pool_size" in str(caught.value.hint)


async def test_pools_and_the_routers_own_transactions_share_one_budget(router: AsyncRouter, pool: Pool) -> None:
    ledger = router.pools.ledger
    ledger.budget = 2
    router.pools.seconds = 0.05
    for slug in ("pooled-a", "database-a", "schema-a", "database-a"):
        async with router.tenant_scope(slug), pool.transaction() as conn, router.transaction():
            assert await conn.fetchval("SELECT 1")
            assert len(ledger) <= 2
            with pytest.raises(NoCapacity, match="all 2"):
                await one(create_pool(router), WHERE)
    assert ledger.idle == len(ledger) <= 2


async def test_a_cancelled_task_leaves_no_place_and_no_transaction(
    house: House, router: AsyncRouter, pool: Pool
) -> None:
    running = asyncio.Event()

    async def work() -> None:
        async with pool.transaction() as conn:
            await conn.execute("INSERT INTO orders (note) VALUES ('cancelled')")
            running.set()
            await conn.execute("SELECT pg_sleep(600)")

    async with router.tenant_scope("pooled-a") as tenant:
        task = asyncio.create_task(work())
        await running.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        ledger = router.pools.ledger
        assert ledger.idle == len(ledger) <= 1
        assert await one(pool, "SELECT count(*) FROM orders WHERE note = 'cancelled'") == (0,)
        assert tenant.placement
        with admin(house, tenant.placement.database) as conn:
            states = conn.execute("SELECT state FROM pg_stat_activity WHERE usename = 'tenantry_app'").fetchall()
        assert set(states) == {("idle",)}


async def test_a_statement_that_runs_out_of_time_does_not_spoil_the_transaction(
    router: AsyncRouter, pool: Pool
) -> None:
    async with router.tenant_scope("pooled-a") as tenant:
        with pytest.raises(TimeoutError):
            async with pool.transaction() as conn:
                await conn.execute("SELECT pg_sleep(600)", timeout=0.05)
        assert (await one(pool, WHERE))[2] == tenant.key


async def test_what_is_kept_beyond_its_block_is_of_no_use(router: AsyncRouter, pool: Pool) -> None:
    async with router.tenant_scope("pooled-a"):
        async with pool.transaction() as conn:
            prepared = await conn.prepare("SELECT 1")
        async with pool.transaction():
            for speak in (conn.fetch, prepared.fetch):
                with pytest.raises(asyncpg.InterfaceError, match="released"):
                    await speak("SELECT 1")


async def test_an_operation_that_still_runs_costs_the_connection(router: AsyncRouter, pool: Pool) -> None:
    tasks: list[asyncio.Task[Any]] = []

    async def work() -> None:
        async with pool.transaction() as conn:
            tasks.append(asyncio.create_task(conn.execute("SELECT pg_sleep(600)")))
            await asyncio.sleep(0)

    async with router.tenant_scope("pooled-a"):
        with pytest.raises(asyncpg.InterfaceError, match="another operation is in progress"):
            await work()
        with pytest.raises((asyncpg.ConnectionDoesNotExistError, asyncpg.InterfaceError)):
            await tasks[0]
        assert len(router.pools.ledger) == 0
        assert await one(pool, WHERE)


@pytest.mark.parametrize("change", ["codec", "log", "query", "end", "listener"])
async def test_what_is_set_on_the_connection_object_does_not_reach_the_next(
    router: AsyncRouter, pool: Pool, change: str
) -> None:
    def hear(*arguments: Any) -> None:
        pass

    async with router.tenant_scope("pooled-a"):
        async with pool.transaction() as conn:
            match change:
                case "codec":
                    await conn.set_type_codec("json", schema="pg_catalog", encoder=str, decoder=lambda text: "theirs")
                case "log":
                    conn.add_log_listener(hear)
                case "query":
                    conn.add_query_logger(hear)
                case "end":
                    conn.add_termination_listener(hear)
                case "listener":
                    await conn.add_listener("news", hear)
        assert len(router.pools.ledger) == 0
        assert await one(pool, "SELECT '1'::json") == ("1",)


@pytest.mark.parametrize("slug", LEVELS)
async def test_statements_of_the_pool_run_each_in_a_transaction_of_the_tenant(
    router: AsyncRouter, pool: Pool, slug: str
) -> None:
    note = uuid4().hex
    async with router.tenant_scope(slug) as tenant:
        assert await pool.execute("INSERT INTO orders (note) VALUES ($1)", note) == "INSERT 0 1"
        await pool.executemany("INSERT INTO orders (note) VALUES ($1)", [(note,), (note,)])
        find = "SELECT tenant_id, note FROM orders WHERE note = $1"
        assert [tuple(row) for row in await pool.fetch(find, note)] == [(tenant.key, note)] * 3
        assert tuple(await pool.fetchrow(find, note)) == (tenant.key, note)
        assert await pool.fetchval(find, note, column=1) == note
        with pytest.raises(asyncpg.UndefinedTableError):
            await pool.execute("SELECT * FROM nowhere")
        with pytest.raises(TimeoutError):
            await pool.fetch("SELECT pg_sleep(600)", timeout=0.05)
    with pytest.raises(NoTenant):
        await pool.fetch("SELECT 1")
    assert router.pools.ledger.idle == len(router.pools.ledger)


async def test_the_token_is_in_no_statements_text(house: House, router: AsyncRouter, pool: Pool) -> None:
    async with router.tenant_scope("pooled-a") as tenant, pool.transaction() as conn:
        pid = conn.get_server_pid()
        await conn.gate.begin_due()
        assert tenant.placement
        with admin(house, tenant.placement.database) as admins:
            row = admins.execute("SELECT query FROM pg_stat_activity WHERE pid = %s", (pid,)).fetchone()
    assert row == ("SELECT WHERE tenantry.bind_v1($1, $2) IS NULL",)


async def test_a_server_that_does_not_answer_is_named(house: House, router: AsyncRouter, pool: Pool) -> None:
    tenant = house.tenants["pooled-a"]
    fleet = await router.view.fleet()
    target = router.target(tenant, fleet)
    wrong = replace(target, dsn=target.dsn.replace("password=", "password=x"))
    with pytest.raises(ServerUnreachable, match="password authentication failed"):
        await pool.take(replace(router.route(tenant, Mode.READ_WRITE, fleet), target=wrong))
    assert len(router.pools.ledger) == 0


async def test_closing_closes_what_nobody_uses(router: AsyncRouter, pool: Pool) -> None:
    async with router.tenant_scope("pooled-a"):
        assert await one(pool, WHERE)
        async with router.transaction():
            pass
        await pool.close()
        assert len(router.pools.ledger) == 1
        assert await one(pool, WHERE)
        await router.close()
        assert len(router.pools.ledger) == 0
        assert await one(pool, WHERE)


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_pool_works_in_one_loop_after_the_other(house: House) -> None:
    """What the first loop has left open is of no use in the second, and no harm."""
    router = AsyncRouter(house.settings)
    pool = create_pool(router)

    async def run() -> None:
        assert (await one(pool, WHERE, tenant=house.tenants["pooled-a"]))[2]

    async def last() -> None:
        await run()
        await pool.close()
        router.pools.ledger.close()

    asyncio.run(run())
    asyncio.run(last())
    gc.collect()
