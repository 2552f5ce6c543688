"""Two thousand tenants with a schema each: the server's memory and the latency of a router, whose connections each keep
to their own tenants, against a pool that gives any connection to any tenant.

Both sides have as many connections, bind their transactions in the same way, and are asked by as many threads for the
same tenants in random order, in turns. The other side is psycopg's own pool.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import psycopg
from psycopg_pool import ConnectionPool

from benchmarks._harness import Ratio, Report, note, report
from benchmarks._house import BenchHouse, bench_house
from tenantry import Router, Tenant
from tenantry.context import Scope
from tenantry.perimeter.bound import BoundConnection
from tenantry.postgres.binaries import Binaries
from tenantry.postgres.connect import merge_dsn
from tenantry.service import tenant as tenants

TENANTS = 2000
CONNECTIONS = 10
THREADS = 4
WARM_UP = 40_000
REQUESTS = 4000
PAIRS = 7
_SOME = 20
PART, LATENCY = 0.2, 1.1
PEER = "peer"

_PEOPLE = """
SELECT c.name, o.state, n.body FROM customers c JOIN orders o ON o.customer_id = c.id
  JOIN notes n ON n.customer_id = c.id WHERE c.id = %s
"""
_THINGS = """
SELECT p.name, i.quantity, y.amount FROM items i JOIN products p ON p.id = i.product_id
  JOIN payments y ON y.order_id = i.order_id WHERE i.order_id = %s
"""
STATEMENTS = _PEOPLE, _THINGS
_ROWS = """
INSERT INTO {schema}.customers VALUES ({tenant}, 1, 'customer of {tenant}');
INSERT INTO {schema}.orders VALUES ({tenant}, 1, 1, 'paid');
INSERT INTO {schema}.products VALUES ({tenant}, 1, 'product of {tenant}', 1);
INSERT INTO {schema}.items VALUES ({tenant}, 1, 1, 1);
INSERT INTO {schema}.payments VALUES ({tenant}, 1, 1, {tenant});
INSERT INTO {schema}.notes VALUES ({tenant}, 1, 1, 'note of {tenant}');
"""
_RESIDENTS = """
INSERT INTO tenantry.residents (code, tenant, epoch, state, schema, plan)
  SELECT n::text, n, 1, 'open', 's' || n, r.plan FROM generate_series(2, {tenants}) n, tenantry.residents r;
"""
_CATALOG = """
INSERT INTO spaces (shard, database, schema, isolation, state, template)
  SELECT s.shard, s.database, 's' || n, s.isolation, s.state, s.template FROM generate_series(2, {tenants}) n, spaces s
   WHERE s.isolation = 'schema' AND s.state = 'occupied';
INSERT INTO tenants (id, key, slug, name, plan, state)
  SELECT lpad(to_hex(n), 32, '0')::uuid, n::text, 't' || n, 'Tenant ' || n, 'free', 'active'
    FROM generate_series(2, {tenants}) n;
INSERT INTO placements (tenant, space, epoch)
  SELECT t.id, s.id, 1 FROM tenants t JOIN spaces s ON s.schema = 's' || t.key;
ANALYZE;
"""

Ask = Callable[[int], tuple[object, ...]]


def fill(house: BenchHouse) -> None:
    """One tenant by the service; the others' schemas are copies of its own, walls included."""

    async def create() -> Tenant:
        async with house.control() as control:
            return await tenants.create(control, "t1", key=1, isolation="schema")

    placement = asyncio.run(create()).placement
    assert placement is not None
    dsn = house.server.dsn(placement.database)
    program = house.server.binaries.tool("pg_dump")
    command = [str(program), "--schema-only", f"--schema={placement.schema}", f"--dbname={dsn}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    text = "".join(line for line in done.stdout.splitlines(keepends=True) if not line.startswith(("\\", "--", "SET ")))
    text = text.replace("SELECT pg_catalog.set_config('search_path', '', false);", "")

    def copy(numbers: range) -> None:
        with psycopg.connect(dsn, autocommit=True) as conn:  # one that has made many schemas makes each more slowly
            for number in numbers:
                rows = _ROWS.format(schema=f"s{number}", tenant=number)
                conn.execute((text.replace(placement.schema, f"s{number}") + rows).encode())

    with ThreadPoolExecutor(2) as executor:
        starts = range(2, TENANTS + 1, _SOME)
        list(executor.map(copy, [range(start, min(start + _SOME, TENANTS + 1)) for start in starts]))
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(_ROWS.format(schema=placement.schema, tenant=1).encode())
        conn.execute(_RESIDENTS.format(tenants=TENANTS).encode())
        conn.execute("ANALYZE")
    options = "-c search_path=tenantry_catalog -c session_replication_role=replica"
    with psycopg.connect(merge_dsn(house.control_settings.control_dsn, options=options), autocommit=True) as catalog:
        catalog.execute(_CATALOG.format(tenants=TENANTS).encode())


def by_router(router: Router, found: Sequence[Tenant], number: int) -> tuple[object, ...]:
    """One request, on a connection that the router chooses."""
    with router.transaction(found[number]) as conn:
        return tuple(row for each in STATEMENTS for row in conn.execute(each, (1,)).fetchall())


def by_pool(
    pool: ConnectionPool[BoundConnection], router: Router, found: Sequence[Tenant], number: int
) -> tuple[object, ...]:
    """The same, on whatever connection is next."""
    tenant = found[number]
    route = router.way(Scope(tenant), router.view.peek(tenant.id) or tenant, router.view.fleet())
    with pool.connection() as conn:
        route.bind(conn)
        conn.begin_late()
        try:
            with conn.transaction():
                return tuple(row for each in STATEMENTS for row in conn.execute(each, (1,)).fetchall())
        finally:
            conn.unbind()


def run(ask: Ask, executor: ThreadPoolExecutor, numbers: Sequence[int]) -> list[float]:
    """The seconds that each request took, with all threads at work."""

    def work(part: Sequence[int]) -> list[float]:
        times = []
        for number in part:
            begin = time.perf_counter()
            ask(number)
            times.append(time.perf_counter() - begin)
        return times

    parts = [numbers[n::THREADS] for n in range(THREADS)]
    return [each for times in executor.map(work, parts) for each in times]


def private_mebibytes(house: BenchHouse, name: str) -> tuple[float, int]:
    """What the backends of one side have for themselves, and how many they are."""
    with psycopg.connect(house.server.dsn()) as conn:
        query = "SELECT pid FROM pg_stat_activity WHERE application_name = %s AND usename = 'tenantry_app'"
        pids = [pid for (pid,) in conn.execute(query, (name,))]
    kilobytes = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith(("Private_Clean:", "Private_Dirty:")):
                kilobytes += int(line.split()[1])
    return kilobytes / 1024, len(pids)


def measure(made: Report, house: BenchHouse) -> None:
    """Interleave."""
    begin = time.perf_counter()
    fill(house)
    note(f"  {TENANTS} schemas in {time.perf_counter() - begin:.0f} s")
    with Router(house.settings) as router, ThreadPoolExecutor(THREADS) as executor:
        found = [router.find(f"t{number}") for number in range(1, TENANTS + 1)]
        dsn = router.target(found[0], router.view.fleet()).dsn
        pool = ConnectionPool(
            merge_dsn(dsn, application_name=PEER),
            connection_class=BoundConnection,
            min_size=CONNECTIONS,
            max_size=CONNECTIONS,
            open=True,
        )
        with pool:
            ours: Ask = partial(by_router, router, found)
            other: Ask = partial(by_pool, pool, router, found)
            for number in (0, TENANTS - 1):
                if ours(number) != other(number):
                    raise SystemExit("the answers differ")
            chosen = random.Random(1)
            for _ in range(WARM_UP // REQUESTS):
                for ask in (ours, other):
                    run(ask, executor, chosen.choices(range(TENANTS), k=REQUESTS))
                note(f"  MiB: ours {private_mebibytes(house, 'tenantry')}, other {private_mebibytes(house, PEER)}")
            _compare(made, house, executor, ours, other)


def _compare(made: Report, house: BenchHouse, executor: ThreadPoolExecutor, ours: Ask, other: Ask) -> None:
    timed = []
    chosen = random.Random(2)
    for pair in range(PAIRS):
        numbers = chosen.choices(range(TENANTS), k=REQUESTS)
        sides = (ours, other) if pair % 2 else (other, ours)
        seconds = {side: run(side, executor, numbers) for side in sides}
        timed.append((seconds[ours], seconds[other]))
    for what, of in (("p50", statistics.median), ("mean", statistics.fmean)):
        pairs = [(of(mine), of(theirs)) for mine, theirs in timed]
        ratios = sorted(mine / theirs for mine, theirs in pairs)
        median = statistics.median(ratios)
        goal = LATENCY if what == "p50" else None
        made.ratios.append(
            Ratio(
                f"{what} of a request, {THREADS} threads",
                round(median, 3),
                round(ratios[0], 3),
                round(ratios[-1], 3),
                PAIRS,
                round(statistics.median(mine for mine, _ in pairs) * 1e6, 1),
                round(statistics.median(theirs for _, theirs in pairs) * 1e6, 1),
                goal,
                None if goal is None else median <= goal,
            )
        )
        note(f"  {what}: {median:.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})")
    (mine, count), (theirs, others) = (private_mebibytes(house, name) for name in ("tenantry", PEER))
    made.count("MiB of the server's sessions, ours", round(mine, 1))
    made.count("MiB of the server's sessions, the other's", round(theirs, 1))
    made.count("connections, ours", count, others)
    made.count("part of the other's memory", round(mine / theirs, 3), PART)


if __name__ == "__main__":
    with (
        report("schemas", Binaries.find().text) as result,
        bench_house(template=Path(__file__).with_suffix("")) as made_house,
    ):
        measure(result, made_house)
        made_house.server.stop("immediate")  # a checkpoint of so many files takes a minute
