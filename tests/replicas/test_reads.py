"""Where reads go, and that they see what was written."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from tenantry import AsyncRouter, Router
from tenantry.errors import InvalidInput
from tenantry.integrations import asyncpg
from tenantry.integrations.sqlalchemy import create_async_engine, create_engine
from tests.fixtures.proxy import Proxy
from tests.replicas.conftest import Replicated, is_standby, notes, write

IN_RECOVERY = "SELECT pg_is_in_recovery()"


def test_a_read_goes_to_the_replica_if_the_plan_says_so(replicated: Replicated, router: Router) -> None:
    assert is_standby(router, "reader")
    assert is_standby(router, "other")
    assert not is_standby(router, "homebody")
    with router.tenant_scope("reader"), router.transaction() as conn:
        assert conn.execute(IN_RECOVERY).fetchone() == (False,)


def test_a_read_sees_what_its_tenant_has_just_written(replicated: Replicated, router: Router) -> None:
    before = notes(router, "reader")
    with replicated.paused():
        write(router, "reader", "new")
        assert notes(router, "reader") == [*before, "new"]
        assert is_standby(router, "other")
    replicated.catch_up()
    assert notes(router, "reader") == [*before, "new"]
    assert is_standby(router, "reader")


def test_a_read_in_another_process_sees_the_write_whose_token_it_has(replicated: Replicated, router: Router) -> None:
    before = notes(router, "reader")
    with replicated.paused(), Router(replicated.settings) as elsewhere:
        notes(elsewhere, "reader")
        write(router, "reader", "theirs")
        with router.tenant_scope("reader"):
            token = router.last_write()
        assert token is not None
        assert notes(elsewhere, "reader") == before
        assert notes(elsewhere, "reader", after=token) == [*before, "theirs"]
        with pytest.raises(InvalidInput, match="not the position of a write"):
            notes(elsewhere, "reader", after="nonsense")


def test_a_replica_is_given_a_while_if_the_settings_say_so(replicated: Replicated) -> None:
    settings = replicated.settings.model_copy(update={"replica_wait": 10.0})
    with Router(settings) as router, psycopg.connect(replicated.standby.dsn(), autocommit=True) as conn:
        notes(router, "reader")
        with replicated.paused():
            write(router, "reader", "late")
            # The wall asks and waits; while it waits, replay goes on.
            conn.execute("SELECT pg_wal_replay_resume()")
            assert is_standby(router, "reader")


def test_reads_and_writes_cost_no_more_round_trips(replicated: Replicated) -> None:
    """BEGIN, floor, binding and statement are one, COMMIT and the question how far the log goes are another."""
    catalog = replicated.primary.dsn("tenantry_catalog")
    with (
        Proxy(replicated.primary.dsn(tcp=True)) as primary,
        Proxy(replicated.standby.dsn(tcp=True)) as standby,
        psycopg.connect(catalog, autocommit=True, options="-c search_path=tenantry_catalog") as conn,
    ):
        dsns = conn.execute("SELECT s.dsn, r.dsn FROM shards s, replicas r").fetchone()
        assert dsns
        _lead(conn, primary.through(dsns[0]), standby.through(dsns[1]))
        try:
            with Router(replicated.settings) as router:
                for _ in range(8):
                    write(router, "other", "x")
                    replicated.catch_up()
                    notes(router, "other")
                with primary.counting() as trips:
                    write(router, "other", "x")
                assert trips.count == 2
                replicated.catch_up()
                with primary.counting() as none, standby.counting() as trips:
                    notes(router, "other")
                assert (none.count, trips.count) == (0, 2)
        finally:
            _lead(conn, *dsns)


def _lead(conn: psycopg.Connection[Any], primary: str, standby: str) -> None:
    conn.execute("UPDATE shards SET dsn = %s", (primary,))
    conn.execute("UPDATE replicas SET dsn = %s", (standby,))


def test_what_only_a_primary_can_do_is_done_there(replicated: Replicated, router: Router) -> None:
    """A first statement that fails on a replica is the primary's."""
    assert is_standby(router, "other")
    with router.tenant_scope("other", mode="ro"), router.transaction() as conn:
        assert conn.execute("SELECT pg_is_in_recovery(), pg_current_wal_lsn() IS NOT NULL").fetchone() == (False, True)
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            conn.execute("INSERT INTO orders (note) VALUES ('no')")
    with (
        router.tenant_scope("other", mode="ro"),
        router.transaction() as conn,
        pytest.raises(psycopg.errors.SyntaxError),
    ):
        conn.execute("SELECT nonsense nonsense nonsense")


def test_a_snapshot_for_several_statements_is_taken_on_the_primary(replicated: Replicated, router: Router) -> None:
    with router.tenant_scope("other", mode="ro"), router.transaction() as conn:
        conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        assert conn.execute(IN_RECOVERY).fetchone() == (False,)
    with router.tenant_scope("other", mode="ro"), router.transaction() as conn:
        assert conn.isolation_level is None


SLOW_ON_STANDBY = "SELECT pg_is_in_recovery(), pg_sleep(CASE WHEN pg_is_in_recovery() THEN 60 ELSE 0 END) FROM {}"


def test_a_read_that_is_cancelled_for_the_sake_of_replay_is_answered_by_the_primary(
    replicated: Replicated, router: Router
) -> None:
    """The first statement, that is; a later one fails, as it does on every standby."""

    def read() -> Any:
        with router.tenant_scope("other", mode="ro"), router.transaction() as conn:
            return conn.execute(SLOW_ON_STANDBY.format("(SELECT count(*) FROM orders) AS counted")).fetchone()

    with (
        psycopg.connect(replicated.standby.dsn(), autocommit=True) as standby,
        psycopg.connect(replicated.primary.dsn("app"), autocommit=True) as admin,
        ThreadPoolExecutor(1) as executor,
    ):
        standby.execute("ALTER SYSTEM SET max_standby_streaming_delay = 0")
        standby.execute("SELECT pg_reload_conf()")
        reading = executor.submit(read)
        while not standby.execute("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'").fetchone():
            assert not reading.done()
        with admin.transaction():
            admin.execute("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE")
            admin.execute("COMMENT ON TABLE orders IS 'locked'")
        assert reading.result(timeout=30)[0] is False


def test_engines_read_from_replicas_too(replicated: Replicated, router: Router) -> None:
    engine = create_engine(router)
    with router.tenant_scope("reader", mode="ro"), engine.connect() as conn:
        assert conn.scalar(sa.text(IN_RECOVERY)) is True
    with replicated.paused():
        with router.tenant_scope("reader"), engine.begin() as conn:
            conn.execute(sa.text("INSERT INTO orders (note) VALUES ('by engine')"))
        with router.tenant_scope("reader", mode="ro"), engine.connect() as conn:
            assert "by engine" in conn.scalars(sa.text("SELECT note FROM orders")).all()
            assert conn.scalar(sa.text(IN_RECOVERY)) is False
    replicated.catch_up()
    with router.tenant_scope("reader", mode="ro"), engine.connect() as conn:
        assert conn.scalar(sa.text("SELECT pg_current_wal_lsn() IS NOT NULL")) is True  # on the primary
    engine.dispose()


@pytest.mark.anyio
async def test_tasks_read_from_replicas_too(replicated: Replicated) -> None:
    replicated.catch_up()
    async with AsyncRouter(replicated.settings) as router:
        engine = create_async_engine(router)
        for expected in (False, True):
            async with router.tenant_scope("reader", mode="ro"), router.transaction() as conn:
                assert await (await conn.execute(IN_RECOVERY)).fetchone() == (expected,)
            replicated.catch_up()
        async with router.tenant_scope("reader", mode="ro"), engine.connect() as connection:
            assert await connection.scalar(sa.text(IN_RECOVERY)) is True
        with replicated.paused():
            async with router.tenant_scope("reader"), router.transaction() as conn:
                await conn.execute("INSERT INTO orders (note) VALUES ('by task')")
            async with router.tenant_scope("reader", mode="ro"), engine.connect() as connection:
                assert "by task" in (await connection.scalars(sa.text("SELECT note FROM orders"))).all()
            async with router.tenant_scope("reader", mode="ro"), router.transaction() as conn:
                rows = await (await conn.execute("SELECT note FROM orders")).fetchall()
                assert ("by task",) in rows
        await engine.dispose()


@pytest.mark.anyio
async def test_asyncpg_reads_from_replicas_too(replicated: Replicated) -> None:
    replicated.catch_up()
    async with AsyncRouter(replicated.settings) as router:
        pool = asyncpg.create_pool(router)
        for expected in (False, True, True):
            async with router.tenant_scope("reader", mode="ro"):
                assert await pool.fetchval(IN_RECOVERY) is expected
            replicated.catch_up()
        with replicated.paused():
            async with router.tenant_scope("reader"):
                await pool.execute("INSERT INTO orders (note) VALUES ('by asyncpg')")
            async with router.tenant_scope("reader", mode="ro"):
                assert await pool.fetchval("SELECT count(*) FROM orders WHERE note = 'by asyncpg'") == 1
                assert await pool.fetchval(IN_RECOVERY) is False
            async with router.tenant_scope("other", mode="ro"):
                assert await pool.fetchval(IN_RECOVERY) is True
        replicated.catch_up()
        async with router.tenant_scope("reader", mode="ro"), pool.transaction() as conn:
            assert await conn.fetchval(IN_RECOVERY) is True
            assert await conn.fetchval("SELECT count(*) FROM orders WHERE note = 'by asyncpg'") == 1
        for _ in range(2):  # not prepared yet, and prepared
            async with router.tenant_scope("reader", mode="ro"), pool.transaction() as conn:
                assert await conn.fetchval("SELECT pg_current_wal_lsn() IS NOT NULL") is True
        async with router.tenant_scope("reader", mode="ro"), pool.transaction(isolation="repeatable_read") as conn:
            assert await conn.fetchval(IN_RECOVERY) is False
        await pool.close()


@pytest.mark.anyio
async def test_engines_with_asyncpg_read_from_replicas_too(replicated: Replicated) -> None:
    replicated.catch_up()
    async with AsyncRouter(replicated.settings) as router:
        engine = create_async_engine(router, driver="asyncpg")
        for expected in (False, True, True):
            async with router.tenant_scope("reader", mode="ro"), engine.connect() as conn:
                assert await conn.scalar(sa.text(IN_RECOVERY)) is expected
            replicated.catch_up()
        with replicated.paused():
            async with router.tenant_scope("reader"), engine.begin() as conn:
                await conn.execute(sa.text("INSERT INTO orders (note) VALUES ('by both')"))
            async with router.tenant_scope("reader", mode="ro"), engine.connect() as conn:
                assert "by both" in (await conn.scalars(sa.text("SELECT note FROM orders"))).all()
        await engine.dispose()
