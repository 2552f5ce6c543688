"""What the policies cost, against the same statements with ``WHERE tenant = constant`` and no policies.

Statements run inside one open transaction on both sides, so the binding is not part of it (that is ``bind``). Ten
tenants have TPC-H's tables, one of them more than the others; it is the one that is asked. Policies alone leave the
planner to guess how much a tenant has; what the ORM sends names the tenant too.

Where it is worse, the planner knows less. Policies alone give it the tenant only as it executes, so it takes the tenant
for an average one: nested loops are then too long for one that has a third of all rows (q11). And
behind a policy PostgreSQL uses no statistics for operators that are not leakproof, LIKE and the comparisons of numerics
among them ("Planner Statistics and Security" in its manual): q9 takes ``p_name LIKE '%green%'`` for 16 rows of 10,000
instead of 494, and nested loops instead of hashes and a parallel scan. Nothing but marking these operators leakproof
changes that.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import psycopg
from psycopg.sql import SQL, Identifier

from benchmarks._harness import Report, note, report
from benchmarks._house import BenchHouse, bench_house
from tenantry import Router, Tenant
from tenantry.postgres import sqlfile
from tenantry.postgres.binaries import Binaries
from tenantry.postgres.connect import merge_dsn
from tenantry.service import tenant

HERE = Path(__file__).parent
TABLES = ("region", "nation", "supplier", "part", "partsupp", "customer", "orders", "lineitem")
TENANTS = 10
ASKED = 3
SCALES = {ASKED: 0.05}
OTHERS = 0.01
GEOMETRIC_MEAN, WORST = 1.05, 1.15

_COPY = "COPY {} FROM STDIN (FORMAT csv, DELIMITER '|', QUOTE E'\\b')"
_PREDICATE = re.compile(r"/\*t (\w+)\*/")

POINT = "SELECT o_totalprice FROM orders o WHERE o_orderkey = %s /*t o*/"
RANGE = "SELECT sum(o_totalprice) FROM orders o WHERE o_orderdate BETWEEN '1995-01-01' AND '1995-02-01' /*t o*/"
UPDATE = "UPDATE orders o SET o_clerk = 'me' WHERE o_orderkey = %s /*t o*/"
INSERT = "INSERT INTO region VALUES (3, %s, 'new', '') RETURNING r_name"


def explicit(query: str) -> str:
    """The statement that names the tenant by itself."""
    return _PREDICATE.sub(rf"AND \1.tenant_id = {ASKED}", query)


def generate(folder: Path, scale: float) -> None:
    """TPC-H's tables as files."""
    program = Path(sys.executable).with_name("tpchgen-cli")
    subprocess.run([program, "-s", str(scale), "--format=tbl", "--output-dir", folder], check=True, capture_output=True)


def fill(dsn: str, files: dict[float, Path]) -> None:
    """Copy every tenant's rows into a database."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        for key, table in itertools.product(range(1, TENANTS + 1), TABLES):
            query = SQL(_COPY).format(Identifier(table))
            lines = (files[SCALES.get(key, OTHERS)] / f"{table}.tbl").read_text().splitlines()
            with conn.cursor().copy(query) as copy:
                for line in lines:
                    copy.write(f"{key}|{line.removesuffix('|')}\n")
        conn.execute("VACUUM (ANALYZE)")


def prepare(house: BenchHouse) -> tuple[Tenant, str]:
    """The tenant that is asked, and the database without policies."""

    async def create() -> Tenant:
        async with house.control() as control:
            made = [await tenant.create(control, f"tenant-{key}", key=key) for key in range(1, TENANTS + 1)]
        return made[ASKED - 1]

    asked = asyncio.run(create())
    with psycopg.connect(house.server.dsn(), autocommit=True) as conn:
        conn.execute("CREATE DATABASE bare")
        conn.execute("CREATE ROLE plain LOGIN PASSWORD 'plain'")
    with psycopg.connect(house.server.dsn("bare"), autocommit=True) as conn:
        conn.execute((HERE / "tpch" / "0001_tables.sql").read_bytes())
        conn.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO plain")
    with tempfile.TemporaryDirectory() as folder:
        files = {scale: Path(folder) / str(scale) for scale in {OTHERS, *SCALES.values()}}
        for scale, where in files.items():
            generate(where, scale)
        for database in ("tenantry", "bare"):
            fill(house.server.dsn(database), files)
    return asked, merge_dsn(house.server.dsn("bare"), user="plain", password="plain")


class Sides:
    """The open transactions of both sides."""

    def __init__(self, made: Report, walled: psycopg.Connection, bare: psycopg.Connection) -> None:
        self.made, self.walled, self.bare = made, walled, bare

    def compare(self, what: str, query: str, parameters: list[Any], *, calls: int, named: bool = False) -> float:
        """Time a statement with each of the parameters in turn; the median ratio.

        Args:
            named: whether our side's statement names the tenant as well, as the ORM's statements do.
        """
        ours_next, other_next = itertools.cycle(parameters), itertools.cycle(parameters)
        mine = explicit(query) if named else _PREDICATE.sub("", query)

        def ours() -> object:
            return answer(self.walled.execute(mine, next(ours_next)))

        def other() -> object:
            return answer(self.bare.execute(explicit(query), next(other_next)))

        self.made.compare(what, ours, other, calls=calls)
        median = self.made.ratios[-1].median
        if median > WORST:
            self.show(what, mine, explicit(query), parameters[0])
        return median

    def show(self, what: str, mine: str, theirs: str, parameters: Any) -> None:
        """Both plans, for whoever watches."""
        for name, conn, text in (("policies", self.walled, mine), ("explicit", self.bare, theirs)):
            plan = conn.execute(f"EXPLAIN (COSTS OFF) {text}", parameters).fetchall()
            note(f"-- {what}, {name}")
            note("\n".join(line for (line,) in plan))


def answer(cursor: psycopg.Cursor[Any]) -> object:
    """What a statement tells."""
    return cursor.fetchall() if cursor.description else cursor.rowcount


def measure(made: Report, house: BenchHouse) -> None:
    """Simple statements, then TPC-H's."""
    asked, bare_dsn = prepare(house)
    with Router(house.settings) as router, psycopg.connect(bare_dsn) as bare, router.transaction(asked) as walled:
        for conn in (walled, bare):
            conn.execute("SET LOCAL statement_timeout = 0")
            conn.execute("SET LOCAL jit = off")
        sides = Sides(made, walled, bare)
        keys = [(row[0],) for row in bare.execute("SELECT o_orderkey FROM orders WHERE tenant_id = 3 LIMIT 500")]
        queries = sqlfile.parse((HERE / "tpch.sql").read_text())
        for named in (False, True):
            series = "policies and predicate" if named else "policies"
            ratios = [
                sides.compare(f"point read, {series}", POINT, keys, calls=2000, named=named),
                sides.compare(f"range read, {series}", RANGE, [()], calls=100, named=named),
                sides.compare(f"update, {series}", UPDATE, keys, calls=500, named=named),
            ]
            if not named:
                ratios.append(sides.compare("insert, policies", INSERT, [(n,) for n in range(100, 20000)], calls=1000))
            for name, query in queries.items():
                ratios.append(sides.compare(f"TPC-H {name}, {series}", query, [None], calls=2, named=named))
            made.count(f"geometric mean, {series}", round(statistics.geometric_mean(ratios), 3), GEOMETRIC_MEAN)
            made.count(f"worst ratio, {series}", round(max(ratios), 3), WORST)


if __name__ == "__main__":
    with report("walls", Binaries.find().text) as result, bench_house(template=HERE / "tpch") as made_house:
        measure(result, made_house)
