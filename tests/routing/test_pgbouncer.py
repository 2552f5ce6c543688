"""PgBouncer in transaction mode stands between the application and its shard: nothing changes for tenants."""

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from sqlalchemy import text

from tenantry import AsyncRouter, Router
from tenantry.errors import BindingRefused, InvalidSettings, ServerFull, ServerUnreachable
from tenantry.integrations import asyncpg
from tenantry.integrations.sqlalchemy import create_async_engine, create_engine
from tenantry.postgres.server import THROWAWAY, LocalServer
from tenantry.service import doctor, perimeter
from tenantry.service.check import Status
from tenantry.settings import Settings
from tests.fixtures.house import House
from tests.fixtures.pgbouncer import PREPARES_SINCE, MakeBouncer, PgBouncer, lead_through
from tests.fixtures.proxy import Proxy

pytestmark = pytest.mark.anyio

SLUGS = ("pooled-a", "pooled-b", "schema-a", "database-a")
SESSIONS = 2
WHO = "SELECT tenantry.current_tenant_v1()"
PID = "SELECT pg_backend_pid()"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    """In place of the session's: one that this module may stop."""
    with LocalServer(tmp_path_factory.mktemp("server"), settings=THROWAWAY) as running:
        yield running


@pytest.fixture(scope="module")
def bouncer(house: House, make_bouncer: MakeBouncer) -> PgBouncer:
    made = make_bouncer(default_pool_size=SESSIONS)
    asyncio.run(lead_through(house, made.address))
    return made


@pytest.fixture
def through(house: House, bouncer: PgBouncer) -> Iterator[PgBouncer]:
    """The house's PgBouncer; if a test leads its applications elsewhere, they come back."""
    yield bouncer
    asyncio.run(lead_through(house, bouncer.address))


@pytest.fixture
def settings(house: House, through: PgBouncer) -> Settings:
    return house.settings.model_copy(update={"pooler": True})


@pytest.fixture
async def router(settings: Settings) -> AsyncIterator[AsyncRouter]:
    async with AsyncRouter(settings) as opened:
        yield opened


def superuser(house: House, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
    with psycopg.connect(house.servers[0].dsn(), autocommit=True) as conn:
        return conn.execute(query.encode(), parameters).fetchall()


def sessions(house: House) -> set[int]:
    """The sessions of applications that the server has."""
    query = "SELECT pid FROM pg_stat_activity WHERE usename = 'tenantry_app'"
    return {pid for (pid,) in superuser(house, query)}


WRITE = "INSERT INTO orders (note) VALUES ('{}')"
READ = f"SELECT tenant_id, split_part(note, '/', 1), ({WHO}), pg_backend_pid() FROM orders"
Work = Callable[[str, int], Any]


def _threads(work: Work) -> None:
    with ThreadPoolExecutor(10) as pool:
        for done in [pool.submit(work, slug, number) for number in range(15) for slug in SLUGS]:
            done.result()


async def _tasks(work: Work) -> None:
    await asyncio.gather(*(work(slug, number) for number in range(15) for slug in SLUGS))


class Witness:
    """What transactions saw, checked: rows of their own tenant only."""

    def __init__(self) -> None:
        self.tenants_of: dict[int, set[str]] = defaultdict(set)

    def saw(self, slug: str, key: Any, rows: Any) -> None:
        assert rows
        assert {(tenant, name, bound) for tenant, name, bound, _ in rows} == {(key, slug, key)}
        self.tenants_of[rows[0][3]].add(slug)

    def check(self) -> None:
        """Few sessions have served many transactions, and each of them more than one tenant of the pooled database."""
        assert len(self.tenants_of) <= SESSIONS * 2  # two databases
        assert any({"pooled-a", "pooled-b", "schema-a"} <= slugs for slugs in self.tenants_of.values())


async def test_tasks_of_many_tenants_share_few_sessions_and_see_their_own_rows(router: AsyncRouter) -> None:
    witness = Witness()

    async def work(slug: str, number: int) -> None:
        async with router.tenant_scope(slug) as tenant:
            async with router.transaction() as conn:
                await conn.execute(WRITE.format(f"{slug}/{number}").encode())
            async with router.transaction() as conn:
                witness.saw(slug, tenant.key, await (await conn.execute(READ.encode())).fetchall())

    await _tasks(work)
    witness.check()


def test_threads_of_many_tenants_share_few_sessions_and_see_their_own_rows(settings: Settings) -> None:
    witness = Witness()
    with Router(settings) as router:

        def work(slug: str, number: int) -> None:
            with router.tenant_scope(slug) as tenant, router.transaction() as conn:
                conn.execute(WRITE.format(f"{slug}/{number}").encode())
                witness.saw(slug, tenant.key, conn.execute(READ.encode()).fetchall())

        _threads(work)
    witness.check()


async def test_sqlalchemy_with_tasks_does_the_same(router: AsyncRouter) -> None:
    witness, engine = Witness(), create_async_engine(router)

    async def work(slug: str, number: int) -> None:
        async with router.tenant_scope(slug) as tenant, engine.begin() as conn:
            await conn.execute(text(WRITE.format(f"{slug}/{number}")))
            witness.saw(slug, tenant.key, (await conn.execute(text(READ))).fetchall())

    await _tasks(work)
    await engine.dispose()
    witness.check()


async def test_asyncpg_does_the_same(router: AsyncRouter) -> None:
    witness, pool = Witness(), asyncpg.create_pool(router)

    async def work(slug: str, number: int) -> None:
        async with router.tenant_scope(slug) as tenant, pool.transaction() as conn:
            await conn.execute(WRITE.format(f"{slug}/{number}"))
            witness.saw(slug, tenant.key, [tuple(row) for row in await conn.fetch(READ)])

    await _tasks(work)
    await pool.close()
    witness.check()


def test_sqlalchemy_with_threads_does_the_same(settings: Settings) -> None:
    witness = Witness()
    with Router(settings) as router:
        engine = create_engine(router)

        def work(slug: str, number: int) -> None:
            with router.tenant_scope(slug) as tenant, engine.begin() as conn:
                conn.execute(text(WRITE.format(f"{slug}/{number}")))
                witness.saw(slug, tenant.key, conn.execute(text(READ)).fetchall())

        _threads(work)
        engine.dispose()
    witness.check()


def test_a_pooler_costs_no_round_trip(house: House, settings: Settings, through: PgBouncer) -> None:
    with Proxy(f"host=127.0.0.1 port={through.port}") as proxy:
        asyncio.run(lead_through(house, proxy.through(through.address)))
        with Router(settings) as router, router.tenant_scope("pooled-a"):
            found = []
            for _ in range(8):
                with proxy.counting() as trips, router.transaction() as conn:
                    conn.execute("SELECT note FROM orders WHERE id = 1")
                found.append(trips.count)
    assert found[1:] == [2] * 7  # BEGIN with the binding and the statement, COMMIT; the first also connects


# What SQL of one tenant leaves behind


def leave(router: Router, slug: str, statement: str) -> int:
    with router.tenant_scope(slug), router.transaction() as conn:
        (pid,) = conn.execute(PID).fetchone() or (0,)
        conn.execute(statement.encode())
    return int(pid)


def meet(router: Router, slug: str) -> tuple[int, tuple[Any, ...]]:
    """The session that a transaction was given, and what it finds there."""
    query = (
        f"SELECT pg_backend_pid(), {WHO[7:]}, current_setting('standard_conforming_strings'),"
        " current_setting('client_encoding'), current_setting('default_transaction_read_only'),"
        " current_setting('role'), current_setting('search_path'), current_setting('statement_timeout')"
    )
    with router.tenant_scope(slug), router.transaction() as conn:
        pid, *found = conn.execute(query.encode()).fetchone() or ()
    return pid, tuple(found)


DIRT = (
    "PREPARE planted AS SELECT 1",
    "DECLARE planted CURSOR WITH HOLD FOR SELECT 1",
    "SET default_transaction_isolation = 'serializable'",
)


@pytest.fixture
def one_session(house: House, through: PgBouncer, make_bouncer: MakeBouncer) -> PgBouncer:
    """A PgBouncer with a single session to each database: whoever comes gets the one that others have left."""
    made = make_bouncer(default_pool_size=1)
    asyncio.run(lead_through(house, made.address))
    return made


@pytest.mark.parametrize("statement", DIRT)
def test_a_session_that_sql_has_left_dirty_is_discarded_and_nobody_notices(
    settings: Settings, one_session: PgBouncer, statement: str
) -> None:
    with Router(settings) as attacker, Router(settings) as other:
        _, clean = meet(other, "pooled-b")
        dirty = leave(attacker, "pooled-a", statement)
        pid, found = meet(other, "pooled-b")
        assert (pid != dirty, found) == (True, clean)
        assert meet(attacker, "pooled-a")[0] == pid  # and it stays well


@pytest.mark.parametrize("statement", DIRT)
def test_sqlalchemy_discards_it_as_well(settings: Settings, one_session: PgBouncer, statement: str) -> None:
    with Router(settings) as attacker, Router(settings) as other:
        engine = create_engine(other)
        dirty = leave(attacker, "pooled-a", statement)
        with other.tenant_scope("pooled-b") as tenant, engine.connect() as conn:
            assert (conn.scalar(text(WHO)), conn.scalar(text(PID)) != dirty) == (tenant.key, True)
        engine.dispose()


@pytest.mark.parametrize("statement", DIRT)
async def test_asyncpg_discards_it_as_well(router: AsyncRouter, one_session: PgBouncer, statement: str) -> None:
    pool = asyncpg.create_pool(router)
    async with router.tenant_scope("pooled-a"), router.transaction() as conn:
        row = await (await conn.execute(PID)).fetchone()
        await conn.execute(statement.encode())
    for _ in range(3):
        async with router.tenant_scope("pooled-b") as tenant, pool.transaction() as direct:
            assert await direct.fetchval(WHO) == tenant.key
            assert await direct.fetchval(PID) != (row or (0,))[0]
    await pool.close()


def test_more_dirty_sessions_than_connections_of_the_process_are_no_more_than_work(
    house: House, settings: Settings, make_bouncer: MakeBouncer
) -> None:
    many = make_bouncer(default_pool_size=12)
    asyncio.run(lead_through(house, many.address))
    started = threading.Barrier(12)
    with Router(settings.model_copy(update={"pool_size": 12})) as attacker:

        def plant(_: int) -> int:
            with attacker.tenant_scope("pooled-a"), attacker.transaction() as conn:
                started.wait(30)
                conn.execute("PREPARE planted AS SELECT 1")
                return int((conn.execute(PID).fetchone() or (0,))[0])

        with ThreadPoolExecutor(12) as pool:
            dirty = set(pool.map(plant, range(12)))
    assert len(dirty) == 12
    with Router(settings.model_copy(update={"pool_size": 1})) as router:
        assert meet(router, "pooled-b")[0] not in dirty


@pytest.mark.parametrize(
    "statement",
    [
        "SET standard_conforming_strings = off",
        "SET client_encoding = 'LATIN1'",
        "SET default_transaction_read_only = on",
        "SET search_path = pg_catalog",
        "SET statement_timeout = 1",
        "LISTEN planted",
        "SELECT set_config('TimeZone', 'Asia/Tokyo', false), setseed(0)",
    ],
)
def test_settings_of_one_tenant_reach_no_other(settings: Settings, one_session: PgBouncer, statement: str) -> None:
    with Router(settings) as attacker, Router(settings) as other:
        before = meet(other, "pooled-b")
        assert leave(attacker, "pooled-a", statement) == before[0]
        assert meet(other, "pooled-b") == before
        assert meet(attacker, "pooled-b") == before


def test_a_reset_after_each_transaction_keeps_the_session(
    house: House, settings: Settings, make_bouncer: MakeBouncer
) -> None:
    resetting = make_bouncer(default_pool_size=1, server_reset_query="DISCARD ALL", server_reset_query_always=1)
    asyncio.run(lead_through(house, resetting.address))
    with Router(settings) as attacker, Router(settings) as other:
        for statement in DIRT:
            dirty = leave(attacker, "pooled-a", statement)
            assert meet(other, "pooled-b")[0] == dirty


# Cancelled, cut off, restarted


def wait_for(house: House, words: str) -> None:
    """Wait until a statement runs."""
    query = "SELECT 1 FROM pg_stat_activity WHERE query LIKE %s AND state = 'active' AND pid <> pg_backend_pid()"
    while not superuser(house, query, f"%{words}%"):
        pass


async def test_a_cancelled_query_leaves_the_next_transaction_to_its_own_tenant(
    house: House, router: AsyncRouter, one_session: PgBouncer
) -> None:
    async def sleep() -> None:
        async with router.tenant_scope("pooled-a"), router.transaction() as conn:
            await conn.execute("INSERT INTO orders (note) VALUES ('pooled-a/cancelled')")
            await conn.execute("SELECT pg_sleep(600)")

    for _ in range(3):
        task = asyncio.create_task(sleep())
        await asyncio.to_thread(wait_for, house, "pg_sleep(600)")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        for slug in ("pooled-b", "pooled-a"):
            async with router.tenant_scope(slug) as tenant, router.transaction() as conn:
                assert await (await conn.execute(WHO)).fetchone() == (tenant.key,)
                query = "SELECT count(*) FROM orders WHERE note = 'pooled-a/cancelled'"
                assert await (await conn.execute(query)).fetchone() == (0,)


def test_a_query_that_another_thread_cancels_fails_alone(
    house: House, settings: Settings, one_session: PgBouncer
) -> None:
    with Router(settings) as router, router.tenant_scope("pooled-a") as tenant:

        def cancel(conn: psycopg.Connection) -> None:
            wait_for(house, "pg_sleep(601)")
            conn.cancel_safe()

        def run() -> None:
            with router.transaction() as conn, ThreadPoolExecutor(1) as pool:
                pool.submit(cancel, conn)
                conn.execute("SELECT pg_sleep(601)")

        with pytest.raises(psycopg.errors.QueryCanceled):
            run()
        with router.transaction() as conn:
            assert conn.execute(WHO).fetchone() == (tenant.key,)


def test_a_client_that_leaves_in_mid_transaction_leaves_nothing(settings: Settings, one_session: PgBouncer) -> None:
    with Router(settings) as router:

        def vanish() -> None:
            with router.tenant_scope("pooled-a"), router.transaction() as conn:
                conn.execute("INSERT INTO orders (note) VALUES ('pooled-a/left')")
                conn.pgconn.finish()
                conn.execute("SELECT 1")

        with pytest.raises(psycopg.OperationalError):
            vanish()
        for slug in ("pooled-b", "pooled-a"):
            with router.tenant_scope(slug) as tenant, router.transaction() as conn:
                assert conn.execute(WHO).fetchone() == (tenant.key,)
                found = conn.execute("SELECT count(*) FROM orders WHERE note = 'pooled-a/left'").fetchone()
                assert found == (0,)


def test_sessions_that_the_server_ends_go_unseen_between_transactions(house: House, settings: Settings) -> None:
    with Router(settings) as router, router.tenant_scope("pooled-a") as tenant:
        with router.transaction() as conn:
            assert conn.execute(WHO).fetchone() == (tenant.key,)
        query = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = 'tenantry_app'"
        assert superuser(house, query)
        with router.transaction() as conn:
            assert conn.execute(WHO).fetchone() == (tenant.key,)

        def lose() -> None:
            with router.transaction() as conn:
                conn.execute(WHO)
                superuser(house, query)
                conn.execute(WHO)

        with pytest.raises(psycopg.OperationalError):
            lose()
        with router.transaction() as conn:
            assert conn.execute(WHO).fetchone() == (tenant.key,)


def test_a_restart_of_the_server_or_of_the_pooler_goes_unseen_between_transactions(
    server: LocalServer, settings: Settings, through: PgBouncer
) -> None:
    restarts: list[Callable[[], None]] = [lambda: server.restart("immediate"), server.restart, through.restart]
    with Router(settings) as router, router.tenant_scope("pooled-a") as tenant:
        for restart in restarts:
            with router.transaction() as conn:
                assert conn.execute(WHO).fetchone() == (tenant.key,)
            restart()
        with router.transaction() as conn:
            assert conn.execute(WHO).fetchone() == (tenant.key,)


def wait_for_waiting(bouncer: PgBouncer) -> None:
    while not sum(pool["cl_waiting"] for pool in bouncer.admin("SHOW POOLS")):
        pass


async def test_while_the_pooler_is_paused_transactions_wait_and_reconnect_gives_new_sessions(
    house: House, router: AsyncRouter, through: PgBouncer
) -> None:
    async with router.tenant_scope("pooled-a") as tenant:
        async with router.transaction() as conn:
            assert await (await conn.execute(WHO)).fetchone() == (tenant.key,)
        before = sessions(house)
        await asyncio.to_thread(through.admin, "PAUSE")

        async def one() -> tuple[Any, ...] | None:
            async with router.transaction() as conn:
                return await (await conn.execute(WHO)).fetchone()

        tasks = [asyncio.create_task(one()) for _ in range(5)]
        await asyncio.to_thread(wait_for_waiting, through)
        assert not any(task.done() for task in tasks)
        await asyncio.to_thread(through.admin, "RESUME")
        assert await asyncio.gather(*tasks) == [(tenant.key,)] * 5
        await asyncio.to_thread(through.admin, "RECONNECT")
        assert await one() == (tenant.key,)
        assert not before & sessions(house)


# A process that does not know of the pooler


def without_pooler(house: House) -> Settings:
    return house.settings.model_copy(update={"pooler": False})


def test_a_process_that_does_not_know_of_the_pooler_is_told(house: House, through: PgBouncer) -> None:
    with Router(without_pooler(house)) as router, router.tenant_scope("pooled-a"):
        with (
            pytest.raises(ServerUnreachable, match="unsupported startup parameter") as caught,
            router.transaction() as conn,
        ):
            conn.execute(WHO)
        assert "set pooler = true" in str(caught.value.hint)


async def test_a_pooler_that_lets_it_in_does_not_let_it_bind_and_the_doctor_says_why(
    house: House, through: PgBouncer, make_bouncer: MakeBouncer
) -> None:
    lenient = make_bouncer(ignore_startup_parameters="options")
    await lead_through(house, lenient.address)
    async with AsyncRouter(without_pooler(house)) as router, router.tenant_scope("pooled-a"):
        with pytest.raises(BindingRefused):
            async with router.transaction() as conn:
                await conn.execute(WHO)
    found = {check.name: check for check in await doctor.examine(house.control_settings)}["shard main login"]
    assert (found.status, "'pooler' is off" in found.what) == (Status.WARNING, True)
    known = house.control_settings.model_copy(update={"pooler": True})
    found = {check.name: check for check in await doctor.examine(known)}["shard main login"]
    assert (found.status, "through a pooler" in found.what) == (Status.OK, True)


async def test_defaults_that_a_tenant_plants_on_the_role_are_named_and_removed(
    house: House, router: AsyncRouter, one_session: PgBouncer
) -> None:
    """Without a pooler connections start with settings of their own; a pooler's sessions start with the role's."""
    async with router.tenant_scope("pooled-a"), router.transaction() as conn:
        await conn.execute("ALTER ROLE tenantry_app SET work_mem = '64kB'")
    found = [check for check in await doctor.examine(house.control_settings) if check.status is Status.FAILED]
    assert any("work_mem" in str(check.where) for check in found)
    async with house.control() as control:
        await perimeter.apply(control)
    query = "SELECT 1 FROM pg_db_role_setting WHERE 'work_mem=64kB' = ANY (setconfig)"
    assert await asyncio.to_thread(superuser, house, query) == []


async def test_a_pooler_without_room_for_another_client_is_waited_for(
    house: House, settings: Settings, make_bouncer: MakeBouncer
) -> None:
    small = make_bouncer(max_client_conn=1)
    await lead_through(house, small.address)
    async with AsyncRouter(settings) as first, AsyncRouter(settings) as second:
        async with first.tenant_scope("pooled-a"), first.transaction() as conn:
            await conn.execute(WHO)
            hasty = settings.model_copy(update={"connect_seconds": 0.2})
            async with AsyncRouter(hasty) as third, third.tenant_scope("pooled-b"):
                with pytest.raises(ServerFull, match="no more connections allowed"):
                    async with third.transaction() as other:
                        await other.execute(WHO)
        async with second.tenant_scope("pooled-b") as tenant, second.transaction() as other:  # the first gives it up
            assert await (await other.execute(WHO)).fetchone() == (tenant.key,)


# Prepared statements


def test_without_leave_nothing_is_prepared(settings: Settings, one_session: PgBouncer) -> None:
    with Router(settings) as router, router.tenant_scope("pooled-a"):
        for _ in range(10):
            with router.transaction() as conn:
                assert (conn.prepare_threshold, conn.prepare_bind) == (None, False)
                conn.execute("SELECT %s::int", (1,))


@pytest.fixture
def preparing(house: House, through: PgBouncer, make_bouncer: MakeBouncer) -> PgBouncer:
    if through.version() < PREPARES_SINCE:
        found, needed = (".".join(map(str, version)) for version in (through.version(), PREPARES_SINCE))
        pytest.skip(
            f"PgBouncer {found} forwards no prepared statements: {needed} is needed; name one: TENANTRY_PGBOUNCER"
        )
    made = make_bouncer(default_pool_size=SESSIONS, max_prepared_statements=50)
    asyncio.run(lead_through(house, made.address))
    return made


PREPARED = "SELECT tenant_id, %s::text FROM orders LIMIT 1"


def test_a_pooler_that_keeps_prepared_statements_apart_lets_us_have_them(
    settings: Settings, preparing: PgBouncer
) -> None:
    with Router(settings.model_copy(update={"pooler_prepares": True})) as router:

        def work(number: int) -> None:
            with router.tenant_scope(SLUGS[number % 4]) as tenant, router.transaction() as conn:
                conn.execute("INSERT INTO orders DEFAULT VALUES")
                found = conn.execute(PREPARED, (tenant.slug,), prepare=True).fetchone()
                assert found == (tenant.key, tenant.slug)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(80)))
        with router.tenant_scope("pooled-a"), pytest.raises(ZeroDivisionError), router.transaction():
            raise ZeroDivisionError  # psycopg now drops what it has prepared
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(40)))


DEALLOCATE = """DO $$ BEGIN
  FOR number IN 0..50 LOOP
    BEGIN
      EXECUTE 'DEALLOCATE "PGBOUNCER_' || number || '"';
    EXCEPTION WHEN invalid_sql_statement_name THEN NULL;
    END;
  END LOOP;
END $$"""
"""Of all that a pooler has prepared; it names them by number."""


@pytest.mark.parametrize("face", ["psycopg", "sqlalchemy"])
def test_who_drops_the_prepared_statements_of_others_fails_them_once(
    settings: Settings, house: House, make_bouncer: MakeBouncer, preparing: PgBouncer, face: str
) -> None:
    """PgBouncer does not see what SQL drops by name. psycopg drops all after a rollback, and that it does see."""
    alone = make_bouncer(default_pool_size=1, max_prepared_statements=50)
    asyncio.run(lead_through(house, alone.address))
    preparing_settings = settings.model_copy(update={"pooler_prepares": True})
    with Router(settings) as attacker, Router(preparing_settings) as router, router.tenant_scope("pooled-b") as tenant:
        engine = create_engine(router, connect_args={"prepare_threshold": 0})

        def work() -> Any:
            if face == "sqlalchemy":
                with engine.begin() as conn:  # after a rollback psycopg would prepare anew
                    return conn.scalar(text(WHO))
            with router.transaction() as conn:
                return (conn.execute(WHO, prepare=True).fetchone() or (None,))[0]

        assert [work(), work()] == [tenant.key] * 2
        leave(attacker, "pooled-a", DEALLOCATE)
        with pytest.raises(Exception, match=r"prepared statement .* does not exist"):
            work()
        assert [work(), work()] == [tenant.key] * 2
        engine.dispose()


def test_prepared_statements_need_a_pooler_to_keep_them_apart(house: House) -> None:
    with pytest.raises(InvalidSettings, match="pooler_prepares"):
        Router(house.settings.model_copy(update={"pooler_prepares": True, "pooler": False}))
