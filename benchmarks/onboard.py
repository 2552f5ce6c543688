"""What it costs to take a tenant in, at each level, against one durable INSERT; and many at once, against bare SQL.

The create side is what a caller of the service gets: ``tenant.create`` on a control plane that is open. Both sides run
in one event loop, over the same driver. Homes are kept ready before the clock runs, as a worker does; what a process
does to have some in reserve is inside of the times.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence

import psycopg
from psycopg import AsyncConnection, sql

from benchmarks import _django
from benchmarks._harness import Ratio, Report, Side, note, report
from benchmarks._house import BenchHouse, bench_house
from tenantry.postgres.binaries import Binaries
from tenantry.service import house as houses
from tenantry.service import plan, tenant
from tenantry.service.control import Control

PAIRS = 7
CALLS = {"pooled": 200, "schema": 50, "database": 10}
BULK = 5000
BURST = 1000
GOAL = 2.0
BURST_GOAL = 0.9
"""Of the rate of bare DDL."""

_number = itertools.count(1)

# What a schema is made of, with the wall around its table.
_DDL = """
CREATE SCHEMA {s}
GRANT USAGE ON SCHEMA {s} TO tenantry_app, tenantry_operator, tenantry_admin
GRANT ALL ON SCHEMA {s} TO tenantry_owner
CREATE TABLE {s}.tenantry_migrations (number int PRIMARY KEY, name text NOT NULL, checksum text NOT NULL,
  applied_at timestamptz NOT NULL DEFAULT now())
INSERT INTO {s}.tenantry_migrations (number, name, checksum) VALUES (1, 'tables', 'x')
CREATE TABLE {s}.orders (tenant_id bigint NOT NULL, id bigint NOT NULL, note text NOT NULL, PRIMARY KEY (tenant_id, id))
ALTER TABLE {s}.tenantry_migrations OWNER TO tenantry_owner
ALTER TABLE {s}.orders OWNER TO tenantry_owner
ALTER TABLE {s}.orders ENABLE ROW LEVEL SECURITY
ALTER TABLE {s}.orders FORCE ROW LEVEL SECURITY
CREATE POLICY tenantry_isolation ON {s}.orders AS RESTRICTIVE FOR ALL TO PUBLIC USING ({using}) WITH CHECK ({check})
CREATE POLICY tenantry_access ON {s}.orders AS PERMISSIVE FOR ALL TO PUBLIC USING (true) WITH CHECK (true)
ALTER TABLE {s}.orders ALTER COLUMN tenant_id SET DEFAULT tenantry.current_tenant_v1()
GRANT SELECT, INSERT, UPDATE, DELETE ON {s}.orders TO tenantry_app
GRANT SELECT ON {s}.orders TO tenantry_operator
"""

_SHAPE = """
SELECT c.relname, c.relkind, c.relrowsecurity, c.relforcerowsecurity, c.relowner::regrole::text,
       (SELECT array_agg(a::text ORDER BY a::text) FROM unnest(c.relacl) a),
       (SELECT array_agg(p.polname ORDER BY p.polname) FROM pg_policy p WHERE p.polrelid = c.oid),
       (SELECT array_agg(format('%%s %%s', a.attname, format_type(a.atttypid, NULL)) ORDER BY a.attnum)
          FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0)
  FROM pg_class c WHERE c.relnamespace = %s::regnamespace ORDER BY 1
"""

Work = Callable[[], Awaitable[object]]


class Loop:
    """Runs coroutines one after the other in one event loop, so that pools stay open between the calls."""

    def __init__(self, house: BenchHouse) -> None:
        self._runner = asyncio.Runner()
        self._control = house.control()
        self.run(lambda control: control.__aenter__())
        self.bare: AsyncConnection = self._runner.run(AsyncConnection.connect(house.server.dsn(), autocommit=True))

    def run(self, what: Callable[[Control], Awaitable[object]]) -> object:
        """Run and wait."""

        async def call() -> object:
            return await what(self._control)

        return self._runner.run(call())

    def times(self, what: Callable[[Control], Awaitable[object]], calls: int) -> list[float]:
        """How long each of some calls takes, seconds."""

        async def call() -> list[float]:
            found = []
            for _ in range(calls):
                begin = time.perf_counter()
                await what(self._control)
                found.append(time.perf_counter() - begin)
            return found

        return self._runner.run(call())

    def close(self) -> None:
        """Close the pools."""
        self._runner.run(self.bare.close())
        self.run(lambda control: control.__aexit__(None, None, None))
        self._runner.close()


def creator(plan_name: str) -> Callable[[Control], Awaitable[object]]:
    """Creates a tenant of a plan."""
    return lambda control: tenant.create(control, f"t-{next(_number)}", plan=plan_name)


def inserter(loop: Loop) -> Callable[[Control], Awaitable[object]]:
    """One row, one durable commit."""
    return lambda _: loop.bare.execute("INSERT INTO bare (slug) VALUES (%s)", (f"t-{next(_number)}",))


def fill_warm(loop: Loop, name: str, count: int) -> None:
    """Keep homes ready, so that nothing is built while the clock runs."""

    async def fill(control: Control) -> None:
        await plan.change(control, name, warm=count)
        await houses.refill(control)
        await plan.change(control, name, warm=0)

    loop.run(fill)


def medians(made: Report, loop: Loop, level: str, plan_name: str) -> None:
    """Compare each call with each other call: the ratio of a pair is that of their medians; and of all the time."""
    calls = CALLS[level]
    ours, other = creator(plan_name), inserter(loop)
    for side in (ours, other):
        loop.times(side, calls)
    pairs = []
    for pair in range(PAIRS):
        sides = (ours, other) if pair % 2 else (other, ours)
        found = {side: loop.times(side, calls) for side in sides}
        pairs.append((found[ours], found[other]))
    what = f"create a tenant, {level}" + ("" if level == "pooled" else ", from the warm pool")
    _add(made, f"{what}, against INSERT + COMMIT: p50", pairs, statistics.median, GOAL)
    _add(made, f"{what}, against INSERT + COMMIT: mean", pairs, statistics.fmean, None)


def _add(
    made: Report,
    what: str,
    pairs: Sequence[tuple[Sequence[float], Sequence[float]]],
    of: Callable[[Sequence[float]], float],
    goal: float | None,
) -> None:
    timed = [(of(mine), of(theirs)) for mine, theirs in pairs]
    ratios = sorted(mine / theirs for mine, theirs in timed)
    median = statistics.median(ratios)
    us = [round(statistics.median(side) * 1e6, 1) for side in zip(*timed, strict=True)]
    met = None if goal is None else median <= goal
    low, high = round(ratios[0], 3), round(ratios[-1], 3)
    made.ratios.append(Ratio(what, round(median, 3), low, high, len(pairs), us[0], us[1], goal, met))
    note(f"  {what}: {median:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")


def bulk(made: Report, loop: Loop, conn: psycopg.Connection) -> None:
    """Thousands at once, against INSERT ... SELECT of as many rows."""

    def ours() -> object:
        first = next(_number)
        new = [tenant.NewTenant(f"bulk-{first}-{n}") for n in range(BULK)]
        return loop.run(lambda control: tenant.create_many(control, new))

    def other() -> object:
        query = "INSERT INTO bare (slug) SELECT format('bulk-%%s-%%s', %s::text, n) FROM generate_series(1, %s) n"
        return conn.execute(query, (next(_number), BULK))

    what = f"create {BULK:,} pooled tenants, against INSERT ... SELECT"
    made.compare(what, ours, other, calls=1, pairs=PAIRS, answers=False)
    made.count("pooled tenants per second in bulk", round(BULK / (made.ratios[-1].ours_us / 1e6)))


def burst(made: Report, loop: Loop, house: BenchHouse) -> None:
    """Schemas while none is ready, against the DDL that makes the same, in a plain loop over one connection."""

    def ours() -> object:
        new = [tenant.NewTenant(f"burst-{next(_number)}") for _ in range(BURST)]
        return loop.run(lambda control: tenant.create_many(control, new, isolation="schema"))

    with psycopg.connect(house.server.dsn("tenantry"), autocommit=True) as conn:
        statements = _statements(conn)

        def other() -> object:
            for _ in range(BURST):
                name = f"b_{next(_number)}"
                with conn.transaction():
                    for statement in statements:
                        conn.execute(statement.replace("{s}", name).encode())
            return None

        ours(), other()
        _compare_shapes(conn)
        what = f"{BURST:,} tenants, schema, none ready, against the same by DDL"
        goal = round(1 / BURST_GOAL, 3)
        made.compare(what, ours, other, calls=1, pairs=5, batch=BURST, goal=goal, answers=False)


def _statements(conn: psycopg.Connection) -> list[str]:
    """The policy's expressions are those that the database has: they differ by key and binding."""
    query = "SELECT pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid) FROM pg_policy"
    row = conn.execute(query + " WHERE polname = 'tenantry_isolation' LIMIT 1").fetchone()
    assert row is not None
    text = _DDL.replace(",\n  ", ", ").replace("{using}", row[0]).replace("{check}", row[1])
    return [line for line in text.splitlines() if line]


def _compare_shapes(conn: psycopg.Connection) -> None:
    """Both sides make the same."""
    shapes = []
    for pattern in ("t\\_%", "b\\_%"):
        row = conn.execute("SELECT nspname FROM pg_namespace WHERE nspname LIKE %s LIMIT 1", (pattern,)).fetchone()
        assert row is not None
        shapes.append(conn.execute(_SHAPE, (row[0],)).fetchall())
    if shapes[0] != shapes[1]:
        raise SystemExit(f"the schemas differ: {shapes[0]!r} and {shapes[1]!r}")


def database_maker(conn: psycopg.Connection) -> Side:
    """A database copied from a template."""

    def side() -> object:
        name = sql.Identifier(f"b_{next(_number)}")
        return conn.execute(sql.SQL("CREATE DATABASE {} STRATEGY wal_log").format(name))

    return side


def against_django(made: Report, loop: Loop, house: BenchHouse, conn: psycopg.Connection) -> None:
    """A schema from the warm pool, against django-tenants, which makes it when the tenant comes."""
    if not _django.is_there():
        note("  django-tenants is not installed, and not measured: pip install 'tenantry[bench]'")
        return
    conn.execute("CREATE DATABASE django")
    calls = 20
    fill_warm(loop, "business", calls * (PAIRS + 2))
    ours = creator("business")
    other = _django.creator(house.server.dsn("django"))
    what = "create a tenant, schema, from the warm pool, against django-tenants"
    made.compare(what, lambda: loop.run(ours), other, calls=calls, pairs=PAIRS, answers=False)


def measure(made: Report, house: BenchHouse) -> None:
    """All levels."""
    loop = Loop(house)
    with psycopg.connect(house.server.dsn(), autocommit=True) as conn:
        conn.execute("CREATE TABLE bare (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, slug text UNIQUE)")
        for level, name in (("pooled", "free"), ("schema", "business"), ("database", "enterprise")):
            if level != "pooled":
                fill_warm(loop, name, CALLS[level] * (PAIRS + 2))
            medians(made, loop, level, name)
        insert = inserter(loop)
        what = "a database by CREATE DATABASE, against INSERT + COMMIT"
        make = database_maker(conn)
        made.compare(what, make, lambda: loop.run(insert), calls=10, pairs=5, answers=False)
        bulk(made, loop, conn)
        against_django(made, loop, house, conn)
        burst(made, loop, house)
        conn.execute("CHECKPOINT")  # of tens of thousands of files: a server that is told to stop has less time for it
    loop.close()


if __name__ == "__main__":
    with report("onboard", Binaries.find().text) as result, bench_house() as benched:
        measure(result, benched)
