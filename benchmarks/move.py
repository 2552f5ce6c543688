"""What a tenant notices of being moved while it writes, and what would be the least that it could notice.

A tenant with two writers and one reader moves to and fro: from shared tables to a schema of the same database, to
another server, and back. The *pause* of a move is the longest that one of its transactions took meanwhile. The *floor*
is measured in the same run: one commit, and the time until a change stands at the other side, and one transaction of
the tenant, for which the door has to wait. ``MOVES=200`` moves so often.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from benchmarks._harness import Report, note, report
from benchmarks._house import BenchHouse, bench_house
from tenantry import Router
from tenantry.model import Tenant
from tenantry.perimeter.binder import ADMIN
from tenantry.postgres.binaries import Binaries
from tenantry.postgres.server import LocalServer
from tenantry.service import move as moves
from tenantry.service import shard, tenant
from tenantry.service.control import Control
from tenantry.stream.path import Path
from tenantry.stream.transfer import Site, Transfer

MOVES = int(os.environ.get("MOVES", "40"))
ROWS = 5000
WRITERS = 2
HOPS = 200
STATIONS = (("schema", "main"), ("pooled", "second"), ("database", "second"), ("pooled", "main"))


@dataclass
class Load:
    """The tenant at work: how long each of its transactions took, and which rows it was told have been written."""

    settings: BenchHouse
    tenant: Tenant
    latencies: list[tuple[float, float]] = field(default_factory=list)
    written: list[str] = field(default_factory=list)
    failed: int = 0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Work until the block ends."""
        over = threading.Event()
        with Router(self.settings.settings) as router:
            tasks = [partial(self._write, router, over, number) for number in range(WRITERS)]
            threads = [threading.Thread(target=task) for task in [*tasks, partial(self._read, router, over)]]
            for thread in threads:
                thread.start()
            try:
                yield
            finally:
                over.set()
                for thread in threads:
                    thread.join()

    def _write(self, router: Router, over: threading.Event, number: int) -> None:
        for turn in iter(int, 1):
            name = f"writer {number} {turn} {time.perf_counter_ns()}"
            if self._timed(router, f"INSERT INTO orders (id, note) VALUES ({time.perf_counter_ns()}, '{name}')"):
                self.written.append(name)
            if over.wait(0.002):
                return

    def _read(self, router: Router, over: threading.Event) -> None:
        while not over.wait(0.001):
            self._timed(router, "SELECT note FROM orders LIMIT 1")

    def _timed(self, router: Router, statement: str) -> bool:
        begin = time.perf_counter()
        try:
            with router.tenant_scope(self.tenant), router.transaction() as conn:
                conn.execute(statement.encode())
        except Exception as error:
            note(f"  failed: {error!r}")
            self.failed += 1
            return False
        self.latencies.append((begin, time.perf_counter() - begin))
        return True

    def between(self, begin: float, end: float) -> list[float]:
        """How long the transactions took that were at work in a time."""
        return [seconds for start, seconds in self.latencies if start + seconds >= begin and start <= end]


async def hops(control: Control, moving: Tenant) -> list[float]:
    """How long it takes from a commit to its change at another database of the server, in seconds."""
    assert moving.placement is not None
    place, estate = moving.placement, control.estate
    other = await tenant.create(control, "elsewhere", isolation="database")
    assert other.placement is not None
    sites = []
    for where in (place, other.placement):
        dsn = await estate.login_dsn(where.shard, ADMIN, where.database)
        sites.append(Site(partial(estate.root, where.shard, where.database), dsn))
    path = Path(place.schema, other.placement.schema, "tenant_id", moving.key, moving.key)
    transfer = Transfer("tenantry_hops", path, sites[0], sites[1], filtered=True)
    await transfer.begin()
    found = []
    async with transfer.following() as following:
        await following.catch_up(60)
        for _ in range(HOPS):
            begin = time.perf_counter()
            await following.catch_up(60)
            found.append(time.perf_counter() - begin)
    await transfer.end()
    return found


async def measure(made: Report, house: BenchHouse, second: LocalServer) -> None:
    """To and fro."""
    async with house.control() as control:
        await shard.add(control, "second", second.dsn())
        moving = await tenant.create(control, "mover", isolation="pooled", shard="main")
        with Router(house.settings) as router, router.tenant_scope(moving), router.transaction() as conn:
            conn.execute(
                "INSERT INTO orders (id, note) SELECT n, repeat('x', 100) FROM generate_series(1, %s) n", (ROWS,)
            )
        load = Load(house, moving)
        pauses, during = [], []
        with load.running():
            await asyncio.sleep(2)
            floor = [hop + statistics.median(load.between(0, 1e12)) for hop in await hops(control, moving)]
            quiet = time.perf_counter()
            await asyncio.sleep(3)
            before = load.between(quiet, time.perf_counter())
            for number in range(MOVES):
                to, where = STATIONS[number % len(STATIONS)]
                begin = time.perf_counter()
                await moves.move(control, "mover", to=to, shard=where, grace=0)
                found = load.between(begin, time.perf_counter())
                pauses.append(max(found))
                during += found
            await asyncio.sleep(1)
        made.count("moves", MOVES)
        made.count("failed requests", load.failed, 0)
        with Router(house.settings) as router, router.tenant_scope("mover"), router.transaction() as conn:
            there = {row[0] for row in conn.execute("SELECT note FROM orders WHERE note LIKE 'writer %'").fetchall()}
        made.count("rows written during all this", len(load.written))
        made.count("rows lost", len(set(load.written) - there), 0)
        tell(made, pauses, floor, before, during)


def tell(made: Report, pauses: list[float], floor: list[float], before: list[float], during: list[float]) -> None:
    """The figures."""
    made.count("pause, median, ms", round(statistics.median(pauses) * 1000, 1))
    made.count("pause, 99th percentile, ms", round(percentile(pauses, 99) * 1000, 1))
    made.count("floor, median, ms", round(statistics.median(floor) * 1000, 1))
    made.count("floor, 99th percentile, ms", round(percentile(floor, 99) * 1000, 1))
    made.count("pause against floor, median", round(statistics.median(pauses) / statistics.median(floor), 2), 2)
    made.count("pause against floor, 99th percentile", round(percentile(pauses, 99) / percentile(floor, 99), 2), 10)
    made.count(
        "the tenant's transactions during moves against before, median",
        round(statistics.median(during) / statistics.median(before), 2),
        1.05,
    )


def percentile(values: list[float], percent: int) -> float:
    """The nearest one."""
    return sorted(values)[min(len(values) - 1, len(values) * percent // 100)]


def main() -> None:
    """Run it."""
    with (
        report("move", Binaries.find().text) as made,
        bench_house() as house,
        LocalServer(settings={"shared_buffers": "256MB", "max_connections": "60"}) as second,
    ):
        asyncio.run(measure(made, house, second))


if __name__ == "__main__":
    main()
