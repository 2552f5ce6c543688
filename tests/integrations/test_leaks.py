"""How tenants leak into each other where roles, settings or search paths last as long as a session of the server, and
where the tenant is kept per thread: each way is tried here."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import signal
import traceback
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session

from tenantry import AsyncRouter, Router, Tenant, current_tenant
from tenantry.errors import CrossedTenants, NoTenant
from tenantry.integrations.sqlalchemy import create_async_engine, create_engine
from tests.fixtures.house import House
from tests.integrations.shop import Order

BOUND = text("SELECT tenantry.current_tenant_v1()")
KEYS = text("SELECT DISTINCT tenant_id FROM orders")


@pytest.fixture
def narrow(house: House) -> Iterator[tuple[Router, Engine]]:
    """One connection for everybody, so that each gets what the one before has left."""
    settings = house.settings.model_copy(update={"pool_size": 1, "pool_budget": 1})
    with Router(settings) as router:
        engine = create_engine(router)
        for slug in house.tenants:
            with router.tenant_scope(slug), Session(engine) as session, session.begin():
                session.add(Order(note=slug))
        yield router, engine
        engine.dispose()


Narrow = tuple[Router, Engine]


def test_after_a_rollback_a_session_still_sees_its_tenant_only(narrow: Narrow) -> None:
    router, engine = narrow
    with router.tenant_scope("pooled-a") as tenant, Session(engine) as session:
        session.execute(KEYS)
        session.rollback()
        assert session.execute(KEYS).all() == [(tenant.key,)]


def test_after_an_error_and_a_retry_a_session_still_sees_its_tenant_only(narrow: Narrow) -> None:
    router, engine = narrow
    with router.tenant_scope("pooled-a") as tenant, Session(engine) as session:
        for _ in range(2):
            with suppress(DBAPIError):
                session.execute(text("SELECT 1 / 0"))
            session.rollback()
            assert session.execute(KEYS).all() == [(tenant.key,)]


def test_a_rollback_does_not_bring_back_the_tenant_that_committed_last(narrow: Narrow) -> None:
    router, engine = narrow
    with router.tenant_scope("pooled-a"), Session(engine) as session:
        session.execute(KEYS)
        session.commit()
    with router.tenant_scope("pooled-b") as tenant, Session(engine) as session:
        session.execute(KEYS)
        session.rollback()
        assert session.execute(KEYS).all() == [(tenant.key,)]


def test_a_session_without_a_scope_does_not_run_as_the_tenant_that_was_there_last(narrow: Narrow) -> None:
    router, engine = narrow
    with router.tenant_scope("pooled-a"), Session(engine) as session, session.begin():
        session.execute(KEYS)
    with Session(engine) as session, pytest.raises(NoTenant):
        session.execute(KEYS)


@pytest.mark.parametrize(
    "injected",
    [
        "RESET ROLE",
        "SET ROLE tenantry_owner",
        "SET SESSION AUTHORIZATION postgres",
        "RESET ALL",
        "DISCARD ALL",
        "SET search_path = pg_catalog",
        "SELECT set_config('backtrace_functions', 'tenantry_{other}', false)",
        "SELECT set_config('tenantry.seal', '{other}', false)",
        "SELECT set_config('app.tenant_id', '{other}', false)",
        "SET row_security = off",
        "CREATE TEMP TABLE orders AS SELECT 1 AS tenant_id",
        "SELECT tenantry.bind_v1('1.k.{other}.9999999999.0.rw.0.00')",
    ],
)
def test_injected_sql_does_not_become_another_tenant_in_this_transaction_or_the_next(
    house: House, narrow: Narrow, injected: str
) -> None:
    router, engine = narrow
    sql = injected.format(other=house.tenants["pooled-b"].code)
    for slug in ("pooled-a", "pooled-b"):
        with router.tenant_scope(slug) as tenant, Session(engine) as session:
            for _ in range(2):
                with suppress(DBAPIError):
                    session.execute(text(sql))
                    rows = session.execute(text("SELECT DISTINCT tenant_id FROM public.orders")).all()
                    assert rows == [(tenant.key,)]
                session.commit() if session.is_active else session.rollback()
            assert session.execute(KEYS).all() == [(tenant.key,)]


def test_a_raw_connection_in_autocommit_mode_belongs_to_nobody_and_is_not_used_again(narrow: Narrow) -> None:
    router, engine = narrow
    with router.tenant_scope("pooled-a") as tenant:
        proxied = engine.raw_connection()
        driver: Any = proxied.driver_connection
        driver.autocommit = True
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="no tenant is bound"):
            driver.execute("SELECT * FROM orders")
        proxied.close()
        assert driver.closed
        with engine.connect() as conn:
            assert conn.scalar(BOUND) == tenant.key


@pytest.mark.anyio
async def test_after_a_cancellation_the_connection_is_not_the_tenants_any_more(house: House) -> None:
    settings = house.settings.model_copy(update={"pool_size": 1, "pool_budget": 1})
    async with AsyncRouter(settings) as router:
        engine = create_async_engine(router)

        async def work(running: asyncio.Event) -> None:
            async with router.tenant_scope("pooled-a"), AsyncSession(engine) as session:
                session.add(Order(note="cancelled"))
                await session.flush()
                running.set()
                await session.execute(text("SELECT pg_sleep(600)"))

        for _ in range(3):
            running = asyncio.Event()
            task = asyncio.create_task(work(running))
            await running.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            async with router.tenant_scope("pooled-b") as tenant, engine.connect() as conn:
                assert await conn.scalar(BOUND) == tenant.key
            async with router.tenant_scope("pooled-a"), AsyncSession(engine) as session:
                assert not (await session.scalars(select(Order).where(Order.note == "cancelled"))).all()
        assert router.pools.ledger.idle == len(router.pools.ledger)
        await engine.dispose()


@pytest.mark.anyio
async def test_generators_and_threads_of_two_tasks_do_not_swap_tenants(
    router: AsyncRouter, sync_router: Router, async_engine: AsyncEngine, engine: Engine
) -> None:
    turn = asyncio.Barrier(2)

    def in_thread() -> Any:
        with engine.connect() as conn:
            return conn.scalar(BOUND)

    async def steps() -> AsyncIterator[Any]:
        for _ in range(5):
            await turn.wait()
            async with async_engine.connect() as conn:
                yield await conn.scalar(BOUND)
            await turn.wait()
            yield await asyncio.to_thread(in_thread)

    async def task(slug: str) -> set[Any]:
        async with router.tenant_scope(slug) as tenant:
            seen = {step async for step in steps()}
            assert current_tenant() is tenant
            return seen

    a, b = await asyncio.gather(task("pooled-a"), task("database-a"))
    assert (a, b) == ({(await router.find("pooled-a")).key}, {(await router.find("database-a")).key})


@pytest.mark.anyio
async def test_a_generator_that_enters_another_tenants_scope_can_not_use_its_callers_transaction(
    router: AsyncRouter, async_engine: AsyncEngine
) -> None:
    """A scope that is open while a generator waits is its caller's scope as well: that is how contexts are. What the
    caller has open belongs to its own tenant and is refused meanwhile."""

    async def rows_of(slug: str) -> AsyncIterator[Any]:
        async with router.tenant_scope(slug), async_engine.connect() as conn:
            for row in (await conn.execute(KEYS)).all():
                yield row

    async with router.tenant_scope("pooled-a") as a, async_engine.connect() as conn:
        await conn.execute(text("INSERT INTO orders (note) VALUES ('x')"))
        async with router.tenant_scope("pooled-b"), async_engine.begin() as other:
            await other.execute(text("INSERT INTO orders (note) VALUES ('x')"))
        generator = rows_of("pooled-b")
        async for _ in generator:
            with pytest.raises(CrossedTenants):
                await conn.execute(BOUND)
        assert current_tenant() is a
        assert await conn.scalar(BOUND) == a.key


def test_threads_without_a_context_have_no_tenant_even_after_one_that_had(narrow: Narrow) -> None:
    router, engine = narrow

    def bound(slug: str | None) -> Any:
        if slug is None:
            with engine.connect() as conn:
                return conn.scalar(BOUND)
        with router.tenant_scope(slug), engine.connect() as conn:
            return conn.scalar(BOUND)

    with ThreadPoolExecutor(1) as executor, router.tenant_scope("pooled-a"):
        assert executor.submit(bound, "pooled-b").result() == router.find("pooled-b").key
        with pytest.raises(NoTenant):
            executor.submit(bound, None).result()


@pytest.mark.anyio
async def test_two_tasks_on_one_connection_take_turns(router: AsyncRouter) -> None:
    async with router.tenant_scope("pooled-a") as tenant, router.transaction() as conn:

        async def ask(n: int) -> Any:
            return await (await conn.execute("SELECT %s::int, tenantry.current_tenant_v1()", (n,))).fetchone()

        assert await asyncio.gather(*(ask(n) for n in range(20))) == [(n, tenant.key) for n in range(20)]


def test_a_session_that_nobody_closed_gives_its_connection_back_without_its_tenant(narrow: Narrow) -> None:
    router, engine = narrow
    with router.tenant_scope("pooled-a"):
        conn = engine.connect()
        conn.execute(text("INSERT INTO orders (note) VALUES ('forgotten')"))
        del conn
        gc.collect()
    with router.tenant_scope("pooled-b") as tenant, engine.connect() as conn:
        assert conn.scalar(BOUND) == tenant.key
    with router.tenant_scope("pooled-a"), engine.connect() as conn:
        assert not conn.execute(text("SELECT FROM orders WHERE note = 'forgotten'")).all()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_works_on_connections_of_its_own(narrow: Narrow) -> None:
    """As with a server that loads the application and then forks its workers."""
    router, engine = narrow
    backend = text("SELECT pg_backend_pid(), tenantry.current_tenant_v1()")
    with router.tenant_scope("pooled-a") as tenant, engine.connect() as conn:
        before = conn.execute(backend).one()
        conn.rollback()
        child = os.fork()
        if child == 0:
            signal.alarm(30)
            try:
                with pytest.raises(CrossedTenants, match="child"):
                    conn.execute(backend)
                with Router.tenant_scope(router, "pooled-b") as other, engine.connect() as own:
                    pid, key = own.execute(backend).one()
                    assert (pid != before[0], key) == (True, other.key)
                with router.transaction(tenant) as direct:
                    assert direct.info.backend_pid not in (pid, before[0])
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert conn.execute(backend).one() == before
    with router.tenant_scope("pooled-b"), engine.connect() as conn:
        assert conn.execute(backend).one()[0] == before[0]


@pytest.mark.slow
def test_one_connection_serves_a_thousand_transactions_of_many_fates(house: House, narrow: Narrow) -> None:
    """Whatever the one before has done, the next sees its own tenant and nothing else."""
    router, engine = narrow
    fates: dict[str, Any] = {
        "commits": lambda session: session.commit(),
        "rolls back": lambda session: session.rollback(),
        "forgets": lambda session: None,
        "fails": lambda session: session.execute(text("SELECT 1 / 0")),
        "raises": lambda session: 1 / 0,
        "times out": lambda session: [
            session.execute(text("SET LOCAL statement_timeout = '1ms'")),
            session.execute(text("SELECT pg_sleep(60)")),
        ],
        "prepares": lambda session: [session.execute(text("PREPARE p AS SELECT * FROM orders")), session.commit()],
        "holds": lambda session: [
            session.execute(text("DECLARE c CURSOR WITH HOLD FOR SELECT * FROM orders")),
            session.commit(),
        ],
        "sets": lambda session: [session.execute(text("SET search_path = pg_catalog")), session.commit()],
        "carries": lambda session: [session.execute(text("SET x.loot = 'secret'")), session.commit()],
        "nests": lambda session: session.begin_nested(),
        "ends by SQL": lambda session: session.execute(text("COMMIT")),
        "invalidates": lambda session: session.invalidate(),
        "crosses": lambda session: _cross(router, session),
    }
    chance = random.Random(20260601)
    for n in range(1000):
        slug, fate = chance.choice(list(house.tenants)), chance.choice(list(fates))
        expected = suppress(DBAPIError, ZeroDivisionError)
        with router.tenant_scope(slug) as tenant, expected, Session(engine) as session:
            session.add(Order(note=f"{n} {fate}"))
            assert session.execute(KEYS).all() == [(tenant.key,)], (n, fate)
            assert session.scalar(text("SELECT current_setting('x.loot', true)")) in (None, ""), (n, fate)
            fates[fate](session)
    with router.tenant_scope("pooled-a"), Session(engine) as session:
        kept = {note.split(" ", 1)[1] for note in session.scalars(select(Order.note)) if note[0].isdigit()}
    assert kept <= {"commits", "prepares", "holds", "sets", "carries", "ends by SQL"}
    assert router.pools.ledger.idle == len(router.pools.ledger) <= 1


def _cross(router: Router, session: Session) -> None:
    other = "schema-a" if current_tenant().slug != "schema-a" else "pooled-b"
    with router.tenant_scope(other), pytest.raises(CrossedTenants):
        session.execute(KEYS)


@pytest.mark.anyio
async def test_one_connection_serves_many_cancelled_tasks(house: House) -> None:
    """Tasks are cancelled wherever they happen to be: waiting for the connection, beginning, asking, committing."""
    chance = random.Random(20260602)
    settings = house.settings.model_copy(update={"pool_size": 1, "pool_budget": 1})
    async with AsyncRouter(settings) as router:
        engine = create_async_engine(router)
        kept: list[tuple[str, str]] = []

        async def work(n: int, slug: str) -> None:
            note = f"task {n}"
            async with router.tenant_scope(slug) as tenant:
                async with AsyncSession(engine) as session:
                    session.add(Order(note=note))
                    await session.flush()
                    assert (await session.execute(KEYS)).all() == [(tenant.key,)]
                    await session.commit()
                kept.append((slug, note))

        for round_ in range(40):
            slugs = [chance.choice(list(house.tenants)) for _ in range(5)]
            tasks = [asyncio.create_task(work(round_ * 5 + n, slug)) for n, slug in enumerate(slugs)]
            for _ in range(chance.randrange(60)):
                await asyncio.sleep(0)
            for task in chance.sample(tasks, 2):
                task.cancel()
            for outcome in await asyncio.gather(*tasks, return_exceptions=True):
                assert outcome is None or isinstance(outcome, asyncio.CancelledError), outcome
        assert router.pools.ledger.idle == len(router.pools.ledger) <= 1
        for slug in house.tenants:
            async with router.tenant_scope(slug), AsyncSession(engine) as session:
                found = set(await session.scalars(select(Order.note).where(Order.note.startswith("task "))))
            assert {note for owner, note in kept if owner == slug} <= found
        await engine.dispose()


def test_a_connection_taken_by_hand_ends_with_the_router(house: House) -> None:
    router = Router(house.settings)
    with router.tenant_scope("pooled-a") as tenant:
        assert isinstance(tenant, Tenant)
        with router.transaction() as conn:
            router.close()
        with pytest.raises(psycopg.OperationalError):
            conn.execute("SELECT 1")
