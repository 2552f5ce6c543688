"""A million tenants in shared tables against one tenant with as many rows: resolve, bind, and read one row.

The requests go round a working set of tenants, as a process of an application has one; the view knows them after the
first round. Both houses stand on one server each, with the same settings.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import psycopg

from benchmarks._harness import Ratio, Report, note, report
from benchmarks._house import BenchHouse, bench_house
from tenantry import Router
from tenantry.postgres.binaries import Binaries
from tenantry.postgres.connect import merge_dsn
from tenantry.resolve import Subdomain
from tenantry.resolve.request import RequestFacts
from tenantry.service import tenant

TENANTS = 1_000_000
WORKING_SET = 4000
CALLS = 2000
PAIRS = 7
GOAL, MEBIBYTES = 1.05, 200.0

_CATALOG = """
INSERT INTO tenants (id, key, slug, name, plan, state)
  SELECT lpad(to_hex(n), 32, '0')::uuid, n::text, 't' || n, 'Tenant ' || n, 'free', 'active'
    FROM generate_series(2, {tenants}) n;
INSERT INTO placements (tenant, space, epoch)
  SELECT t.id, p.space, 1 FROM tenants t, (SELECT space FROM placements) p WHERE t.key <> '1';
ANALYZE;
"""
_RESIDENTS = """
INSERT INTO tenantry.residents (code, tenant, epoch, state, schema, plan)
  SELECT n::text, n, 1, 'open', r.schema, r.plan FROM generate_series(2, {tenants}) n, tenantry.residents r;
INSERT INTO orders SELECT n, 1, 'note of ' || n FROM generate_series(1, {tenants}) n;
"""
_ROWS = "INSERT INTO orders SELECT 1, n, 'note of ' || n FROM generate_series(1, {tenants}) n;"


def fill(house: BenchHouse, *, many: bool) -> None:
    """A tenant ``t1`` with all rows, or a million tenants with one each."""

    async def create() -> None:
        async with house.control() as control:
            await tenant.create(control, "t1", key=1)

    asyncio.run(create())
    if many:
        options = "-c search_path=tenantry_catalog -c session_replication_role=replica"
        dsn = merge_dsn(house.control_settings.control_dsn, options=options)
        with psycopg.connect(dsn, autocommit=True) as catalog:
            catalog.execute(_CATALOG.format(tenants=TENANTS).encode())
    with psycopg.connect(house.server.dsn("tenantry"), autocommit=True) as shard:
        shard.execute((_RESIDENTS if many else _ROWS).format(tenants=TENANTS).encode())
        shard.execute("VACUUM (ANALYZE)")


def reader(router: Router, numbers: list[int], *, many: bool) -> Callable[[], str]:
    """What answers one request after the other."""
    resolver, turn = Subdomain("example.com"), itertools.cycle(numbers)

    def read() -> str:
        number = next(turn)
        host = f"t{number if many else 1}.example.com"
        claim = resolver.resolve(RequestFacts("https", host, "/"))
        assert claim is not None
        with router.transaction(router.locate(claim)) as conn:
            row = conn.execute("SELECT note FROM orders WHERE id = %s", (1 if many else number,)).fetchone()
        assert row is not None
        return str(row[0])

    return read


def p50(read: Callable[[], str]) -> float:
    """Seconds of the call in the middle."""
    times = []
    for _ in range(CALLS):
        begin = time.perf_counter()
        read()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def resident_mebibytes() -> float:
    """What this process has in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def measure(made: Report, million: BenchHouse, single: BenchHouse) -> None:
    """Interleave."""
    fill(million, many=True)
    fill(single, many=False)
    note("  filled")
    numbers = random.Random(1).sample(range(1, TENANTS + 1), WORKING_SET)
    with Router(million.settings) as first, Router(single.settings) as second:
        ours, other = reader(first, numbers, many=True), reader(second, numbers, many=False)
        for _ in range(WORKING_SET):
            if ours() != other():
                raise SystemExit("the answers differ")
        timed = []
        for pair in range(PAIRS):
            first_of_other = p50(other) if pair % 2 else 0.0
            mine = p50(ours)
            timed.append((mine, first_of_other or p50(other)))
        made.count("MiB resident, of the whole process", round(resident_mebibytes(), 1), MEBIBYTES)
    ratios = sorted(mine / theirs for mine, theirs in timed)
    median = statistics.median(ratios)
    made.ratios.append(
        Ratio(
            what="p50 with 1,000,000 tenants against one",
            median=round(median, 3),
            low=round(ratios[0], 3),
            high=round(ratios[-1], 3),
            pairs=PAIRS,
            ours_us=round(statistics.median(mine for mine, _ in timed) * 1e6, 1),
            other_us=round(statistics.median(theirs for _, theirs in timed) * 1e6, 1),
            goal=GOAL,
            met=median <= GOAL,
        )
    )
    note(f"  p50: {median:.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})")


if __name__ == "__main__":
    with report("scale", Binaries.find().text) as result, bench_house() as of_many, bench_house() as of_one:
        measure(result, of_many, of_one)
