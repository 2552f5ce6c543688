"""What it costs to take a tenant in, at each level, against one durable INSERT and against making its tables by DDL."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable

import psycopg
from psycopg import sql

from benchmarks._harness import Report, Side, report
from benchmarks._house import BenchHouse, bench_house
from tenantry.postgres.binaries import Binaries
from tenantry.service import house as houses
from tenantry.service import plan, tenant
from tenantry.service.control import Control

PAIRS = 5
CALLS = 20
WARM = (PAIRS + 2) * CALLS
BULK = 5000

_DDL = "CREATE TABLE {0}.orders (tenant_id bigint NOT NULL, id bigint NOT NULL, note text NOT NULL,"
_DDL += " PRIMARY KEY (tenant_id, id))"

_number = itertools.count(1)


class Loop:
    """Runs coroutines one after the other in one event loop, so that pools stay open between the calls."""

    def __init__(self, house: BenchHouse) -> None:
        self._runner = asyncio.Runner()
        self._control = house.control()
        self.run(lambda control: control.__aenter__())

    def run(self, what: Callable[[Control], Awaitable[object]]) -> object:
        """Run and wait."""

        async def call() -> object:
            return await what(self._control)

        return self._runner.run(call())

    def close(self) -> None:
        """Close the pools."""
        self.run(lambda control: control.__aexit__(None, None, None))
        self._runner.close()


def creator(loop: Loop, plan_name: str) -> Side:
    """A side that creates a tenant of a plan."""

    def side() -> object:
        return loop.run(lambda control: tenant.create(control, f"t-{next(_number)}", plan=plan_name))

    return side


def fill_warm(loop: Loop, name: str, count: int) -> None:
    """Keep homes ready, so that nothing is built while the clock runs."""

    async def fill(control: Control) -> None:
        await plan.change(control, name, warm=count)
        await houses.refill(control)

    loop.run(fill)


def inserter(conn: psycopg.Connection) -> Side:
    """One row, one durable commit."""

    def side() -> object:
        return conn.execute("INSERT INTO bare (slug) VALUES (%s)", (f"t-{next(_number)}",))

    return side


def schema_maker(conn: psycopg.Connection) -> Side:
    """A schema with the application's table, by DDL in one transaction."""

    def side() -> object:
        name = sql.Identifier(f"s_{next(_number)}")
        with conn.transaction():
            conn.execute(sql.SQL("CREATE SCHEMA {}").format(name))
            return conn.execute(sql.SQL(_DDL).format(name))

    return side


def database_maker(conn: psycopg.Connection) -> Side:
    """A database copied from a template."""

    def side() -> object:
        name = sql.Identifier(f"b_{next(_number)}")
        return conn.execute(sql.SQL("CREATE DATABASE {} STRATEGY wal_log").format(name))

    return side


def measure(made: Report, house: BenchHouse) -> None:
    """All levels."""
    loop = Loop(house)
    with psycopg.connect(house.server.dsn(), autocommit=True) as conn:
        conn.execute("CREATE TABLE bare (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, slug text UNIQUE)")
        insert = inserter(conn)
        for level, name in (("pooled", "free"), ("schema", "business"), ("database", "enterprise")):
            if level != "pooled":
                fill_warm(loop, name, WARM if level == "schema" else WARM // 2)
            calls = CALLS if level != "database" else CALLS // 2
            what = f"create a tenant, {level}" + ("" if level == "pooled" else ", from the warm pool")
            made.compare(
                f"{what}, against INSERT + COMMIT", creator(loop, name), insert, calls=calls, pairs=PAIRS, answers=False
            )
        made.compare(
            "a schema by DDL, against INSERT + COMMIT",
            schema_maker(conn),
            insert,
            calls=CALLS,
            pairs=PAIRS,
            answers=False,
        )
        made.compare(
            "a database by CREATE DATABASE, against INSERT + COMMIT",
            database_maker(conn),
            insert,
            calls=CALLS // 2,
            pairs=PAIRS,
            answers=False,
        )
        bulk(made, loop, conn)
    loop.close()


def bulk(made: Report, loop: Loop, conn: psycopg.Connection) -> None:
    """Thousands at once, against INSERT ... SELECT of as many rows."""

    def ours() -> object:
        first = next(_number)
        new = [tenant.NewTenant(f"bulk-{first}-{n}") for n in range(BULK)]
        return loop.run(lambda control: tenant.create_many(control, new))

    def other() -> object:
        first = next(_number)
        return conn.execute(
            "INSERT INTO bare (slug) SELECT format('bulk-%%s-%%s', %s::text, n) FROM generate_series(1, %s) n",
            (first, BULK),
        )

    made.compare(
        f"create {BULK:,} pooled tenants, against INSERT ... SELECT", ours, other, calls=1, pairs=PAIRS, answers=False
    )
    made.count("pooled tenants per second in bulk", round(BULK / (made.ratios[-1].ours_us / 1e6)))


if __name__ == "__main__":
    with report("onboard", Binaries.find().text) as result, bench_house() as benched:
        measure(result, benched)
