"""Three tenants work through one pool of two connections, and everything that can go wrong does, in any order.

One thread drives all of them, so that a failure can be repeated and shrunk: transactions of several tenants are open at
the same time, and their statements are mixed. What is read is compared with what each tenant has written.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any

import psycopg
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from sqlalchemy import Engine, text
from sqlalchemy.exc import SQLAlchemyError

from tenantry import AsyncRouter, Router, Tenant
from tenantry.context import tenant_scope
from tenantry.errors import NoCapacity, TenantryError
from tests.fixtures.house import House

CONNECTIONS = 2
"""How many the application may have."""

FAILURES = (psycopg.Error, SQLAlchemyError, TenantryError)
"""How a statement may fail."""

NOTHING = "SELECT 1 WHERE false"
DIRT = (
    ("DECLARE loot CURSOR WITH HOLD FOR SELECT note FROM orders", "FETCH ALL FROM loot"),
    ("SELECT set_config('x.loot', 'secret', false)", "SELECT 1 WHERE current_setting('x.loot', true) <> ''"),
    ("SET statement_timeout = '1h'", "SELECT 1 WHERE current_setting('statement_timeout') = '1h'"),
    ("SET search_path = pg_catalog", "SELECT 1 WHERE current_setting('search_path') = 'pg_catalog'"),
    (
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
        "SELECT 1 WHERE current_setting('transaction_read_only')::bool",
    ),
    ("PREPARE loot AS SELECT 'loot'", "EXECUTE loot"),
    ("LISTEN loot", NOTHING),
    ("SELECT setseed({seed})", "SELECT 1 WHERE random() = {first}"),
    ("SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE", NOTHING),
    ("SET ROLE tenantry_app", NOTHING),
    ("DEALLOCATE ALL", NOTHING),
)
"""What a tenant leaves on its backend, and a statement that has rows where the next one meets it. Each tenant has a
seed of its own: it may well come back to a connection where it finds its own."""

SEEDS = (0.25, 0.5, 0.75)


@dataclass
class Ground:
    """What all examples share: a house, and an application with its pool."""

    house: House
    router: Router
    engine: Engine
    async_router: AsyncRouter
    loop: asyncio.AbstractEventLoop
    admin: psycopg.Connection
    tenants: tuple[Tenant, ...]
    rows: dict[str, set[str]] = field(default_factory=dict)
    operations: int = 0
    foreign: int = 0
    number: int = 0
    firsts: dict[float, float] = field(default_factory=dict)

    def dirt(self, slug: str, dirt: tuple[str, str]) -> tuple[str, str]:
        """What a tenant leaves behind, and what finds it."""
        seed = SEEDS[self.slugs.index(slug)]
        if seed not in self.firsts:
            row = self.admin.execute("SELECT random() FROM setseed(%s)", (seed,)).fetchone()
            assert row is not None
            self.firsts[seed] = row[0]
        return dirt[0].replace("{seed}", str(seed)), dirt[1].replace("{first}", repr(self.firsts[seed]))

    @property
    def slugs(self) -> list[str]:
        """The tenants' names."""
        return [tenant.slug for tenant in self.tenants]

    def find(self, slug: str) -> Tenant:
        """The tenant with this name."""
        return next(tenant for tenant in self.tenants if tenant.slug == slug)

    def other(self, slug: str) -> Tenant:
        """Somebody else."""
        return next(tenant for tenant in self.tenants if tenant.slug != slug)


@dataclass
class Work:
    """An open transaction of a tenant.

    Attributes:
        run: executes a statement and returns its rows.
        added: what it has written so far.
        well: whether it may commit.
    """

    slug: str
    by: str
    stack: ExitStack
    conn: Any
    run: Callable[[str], list[Any]]
    added: set[str] = field(default_factory=set)
    well: bool = True

    @property
    def pgconn(self) -> Any:
        """libpq's connection."""
        driver = self.conn.connection.driver_connection if hasattr(self.conn, "exec_driver_sql") else self.conn
        return driver.pgconn


class Soak(RuleBasedStateMachine):
    """The operations."""

    ground: Ground

    def __init__(self) -> None:
        super().__init__()
        self.open: list[Work] = []

    @initialize()
    def begin(self) -> None:
        """All tenants have what they had."""
        for slug in self.ground.slugs:
            self.ground.rows.setdefault(slug, set())

    def teardown(self) -> None:
        """Roll back what is open, look at everything once more, and clear it away."""
        while self.open:
            self.end(self.open[0], commit=False)
        for slug in self.ground.slugs:
            self.start(slug, by="psycopg")
            if self.open:
                self.check(self.open[0])
                if self.do(self.open[0], "DELETE FROM orders") is not None:
                    self.ground.rows[slug] = set()
                self.end(self.open[0], commit=True)

    # -- what a tenant does

    @precondition(lambda self: len(self.open) <= CONNECTIONS)
    @rule(which=st.integers(0, 2), by=st.sampled_from(["psycopg", "engine"]))
    def open_one(self, which: int, by: str) -> None:
        """Begin a transaction; where the pool is exhausted, that is said."""
        self.start(self.ground.slugs[which], by=by)

    @precondition(lambda self: self.open)
    @rule(which=st.integers(0, 9))
    def write(self, which: int) -> None:
        """Write a row."""
        work = self.pick(which)
        self.ground.number += 1
        note = f"{work.slug}/{self.ground.number}"
        if self.do(work, f"INSERT INTO orders (note) VALUES ('{note}')") is not None:
            work.added.add(note)

    @precondition(lambda self: self.open)
    @rule(which=st.integers(0, 9))
    def read(self, which: int) -> None:
        """Read everything."""
        self.check(self.pick(which))

    @precondition(lambda self: self.open)
    @rule(which=st.integers(0, 9), how=st.sampled_from(["SELECT", "UPDATE", "DELETE", "INSERT"]))
    def reach_for_others(self, which: int, how: str) -> None:
        """Reach for another tenant's rows by its key."""
        work = self.pick(which)
        key = self.ground.other(work.slug).key
        statement = {
            "SELECT": f"SELECT note FROM orders WHERE tenant_id = {key}",
            "UPDATE": f"UPDATE orders SET note = 'mine' WHERE tenant_id = {key} RETURNING note",
            "DELETE": f"DELETE FROM orders WHERE tenant_id = {key} RETURNING note",
            "INSERT": f"INSERT INTO orders (tenant_id, note) VALUES ({key}, 'planted') RETURNING note",
        }[how]
        self.count_foreign(self.do(work, statement) or [])

    @precondition(lambda self: self.open)
    @rule(which=st.integers(0, 9), commit=st.booleans())
    def close_one(self, which: int, commit: bool) -> None:
        """End a transaction."""
        self.end(self.pick(which), commit=commit)

    @rule(dice=st.randoms(use_true_random=False))
    def be_busy(self, dice: Random) -> None:
        """A hundred of the above, in an order of their own."""
        for _ in range(100):
            which = dice.randrange(10)
            if not self.open or (len(self.open) < CONNECTIONS and dice.random() < 0.1):
                self.start(self.ground.slugs[which % 3], by=dice.choice(["psycopg", "engine"]))
            elif dice.random() < 0.15:
                self.end(self.pick(which), commit=dice.random() < 0.8)
            else:
                dice.choice([self.write, self.read, self.read, self.reach])(which)

    def reach(self, which: int) -> None:
        """Look for another tenant's rows."""
        work = self.pick(which)
        key = self.ground.other(work.slug).key
        self.count_foreign(self.do(work, f"SELECT note FROM orders WHERE tenant_id = {key}") or [])

    # -- what goes wrong

    @precondition(lambda self: self.open)
    @rule(
        which=st.integers(0, 9),
        statement=st.sampled_from(
            [
                "SELECT 1 / 0",
                "SELECT * FROM nowhere",
                "SET LOCAL statement_timeout = '1ms'; SELECT pg_sleep(1)",
                "SELECT note FROM orders; SELECT 1 / 0",
                "COMMIT",
                "ROLLBACK; BEGIN",
                "",
            ]
        ),
    )
    def fail(self, which: int, statement: str) -> None:
        """A statement that fails, takes too long, or ends the transaction behind the driver's back."""
        work = self.pick(which)
        ends = statement.startswith(("COMMIT", "ROLLBACK"))
        work.well = work.well and not ends
        alive = statement == "COMMIT" and self.do(work, "SELECT 1") is not None
        if self.do(work, statement) is not None and alive:
            self.ground.rows[work.slug] |= work.added
        if ends:  # whatever a transaction that had failed has written is gone
            work.added = set()
        rows = self.do(work, "SELECT note FROM orders")
        self.count_foreign([row for row in rows or [] if not row[0].startswith(f"{work.slug}/")])

    @precondition(lambda self: self.open)
    @rule(which=st.integers(0, 9), dirt=st.sampled_from(DIRT))
    def leave_dirt(self, which: int, dirt: tuple[str, str]) -> None:
        """Leave something on the backend; another tenant, who has it next, looks for it."""
        work = self.pick(which)
        left, found = self.ground.dirt(work.slug, dirt)
        self.write(which)
        self.do(work, left)
        self.end(work, commit=True)
        before = len(self.open)
        self.start(self.ground.other(work.slug).slug, by=work.by)
        if len(self.open) > before:
            rows = self.do(self.open[-1], found) or []
            self.count_foreign([row for row in rows if not str(row[0]).startswith(f"{self.open[-1].slug}/")])

    @rule()
    def lose_connections(self) -> None:
        """The server ends every session of the application."""
        self.ground.operations += 1
        self.ground.admin.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = 'tenantry_app'"
        )
        for work in self.open:
            work.well = False

    @rule(which=st.integers(0, 2))
    def cancel_a_task(self, which: int) -> None:
        """A task is cancelled in the middle of a statement, and the next one takes its connection."""
        slug = self.ground.slugs[which]
        with suppress(*FAILURES):
            asyncio.run_coroutine_threadsafe(self.cancelled(slug), self.ground.loop).result(60)
        self.ground.operations += 2

    @precondition(lambda self: self.open)
    @rule(which=st.integers(0, 9))
    def cancel_a_statement(self, which: int) -> None:
        """A statement is cancelled from another thread."""
        work = self.pick(which)
        with suppress(*FAILURES):  # the connection may be lost
            cancel = work.pgconn.get_cancel()
            timer = threading.Timer(0.002, lambda: suppressed(cancel.cancel))
            timer.start()
            self.do(work, "SELECT pg_sleep(0.05)")
            timer.join()

    # -- how

    async def cancelled(self, slug: str) -> None:
        """Cancel a reader; then read for another tenant."""
        router = self.ground.async_router

        async def sleep() -> None:
            async with router.tenant_scope(slug), router.transaction() as conn:
                await conn.execute("SELECT note, pg_sleep(%s) FROM orders", (0.05,))

        task = asyncio.create_task(sleep())
        await asyncio.sleep(0.002)
        task.cancel()
        with suppress(asyncio.CancelledError, *FAILURES):
            await task
        other = self.ground.other(slug)
        async with router.tenant_scope(other.slug), router.transaction() as conn:
            rows = await (await conn.execute("SELECT note FROM orders")).fetchall()
        self.count_foreign([row for row in rows if not row[0].startswith(f"{other.slug}/")])

    def start(self, slug: str, *, by: str) -> None:
        """Open a transaction, if the pool has a connection left."""
        self.ground.operations += 1
        tenant, stack = self.ground.find(slug), ExitStack()
        with ExitStack() as opening, suppress(NoCapacity):
            if by == "psycopg":
                conn: Any = opening.enter_context(self.ground.router.transaction(tenant))
                run = lambda query: fetched(conn.execute(query))  # noqa: E731
            else:
                with tenant_scope(tenant):
                    conn = opening.enter_context(self.ground.engine.connect())
                opening.enter_context(scoped_begin(conn, tenant))
                run = lambda query: [tuple(row) for row in rows_of(conn, tenant, query)]  # noqa: E731
            stack = opening.pop_all()
            self.open.append(Work(slug, by, stack, conn, run))

    def pick(self, which: int) -> Work:
        """One of the open transactions."""
        return self.open[which % len(self.open)]

    def do(self, work: Work, statement: str) -> list[Any] | None:
        """Execute; None where it fails, and with it the transaction."""
        self.ground.operations += 1
        try:
            return work.run(statement)
        except FAILURES:
            work.well = False
            return None

    def check(self, work: Work) -> None:
        """It sees its tenant's rows: what is committed, and what it has written itself."""
        rows = self.do(work, "SELECT note FROM orders")
        if rows is None:
            return
        seen = {row[0] for row in rows}
        self.count_foreign([note for note in seen if not note.startswith(f"{work.slug}/")])
        assert seen == self.ground.rows[work.slug] | work.added, "rows are lost, or were never committed"

    def end(self, work: Work, *, commit: bool) -> None:
        """Commit or roll back."""
        self.ground.operations += 1
        self.open.remove(work)
        try:
            if commit and work.well:
                work.stack.close()
                self.ground.rows[work.slug] |= work.added
            else:
                error = ZeroDivisionError()
                with suppress(ZeroDivisionError):
                    if not work.stack.__exit__(type(error), error, None):
                        raise error
        except FAILURES:
            assert not commit or not work.well, "a commit failed without a reason"

    def count_foreign(self, rows: list[Any]) -> None:
        """Count rows that are another tenant's."""
        self.ground.foreign += len(rows)
        assert not rows, f"foreign rows: {rows}"


@contextmanager
def scoped_begin(conn: Any, tenant: Tenant) -> Iterator[None]:
    """A transaction of an engine's connection; each of its steps is taken in the tenant's scope."""
    with tenant_scope(tenant):
        block = conn.begin()
    try:
        yield
    except BaseException:
        with tenant_scope(tenant):
            block.rollback()
            conn.close()
        raise
    with tenant_scope(tenant):
        block.commit()
        conn.close()


def rows_of(conn: Any, tenant: Tenant, query: str) -> list[Any]:
    """Execute with an engine's connection."""
    with tenant_scope(tenant):
        result = conn.execute(text(query.replace(":", r"\:")))
        return list(result) if result.returns_rows else []


def fetched(cursor: Any) -> list[Any]:
    """The rows of psycopg's cursor, if there are any."""
    return list(cursor.fetchall()) if cursor.description else []


def suppressed(call: Callable[[], object]) -> None:
    """Call; the connection may be gone."""
    with suppress(Exception):
        call()
