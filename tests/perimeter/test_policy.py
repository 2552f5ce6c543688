"""What the policy costs a tenant's own statements: the planner still sees the tenant, and uses its indexes."""

from __future__ import annotations

import re
from collections.abc import Iterator

import psycopg
import pytest

from tenantry.model import BindingMode, Isolation
from tests.fixtures.servers import fresh_database
from tests.fixtures.walls import Variant, Wall, build_in

VARIANTS = [
    Variant("server", BindingMode.SEALED, Isolation.POOLED),
    Variant("server15", BindingMode.SIGNED, Isolation.POOLED),
]


@pytest.fixture(scope="module", params=VARIANTS, ids=str)
def wall(request: pytest.FixtureRequest) -> Iterator[Wall]:
    """A tenant with 2,000 orders, and one with 20."""
    variant = request.param
    with (
        fresh_database(request.getfixturevalue(variant.server)) as database,
        Wall.of(build_in(database, variant.mode)) as wall,
    ):
        wall.admin().execute(
            wall.fill(
                "INSERT INTO app.orders (company_id, id, customer, amount) SELECT {a}, n + 10000, 100, n"
                " FROM generate_series(1, 1980) n; ANALYZE app.orders"
            )
        )
        yield wall


def explained(conn: psycopg.Connection, query: str) -> str:
    return "\n".join(row[0] for row in conn.execute(f"EXPLAIN {query}").fetchall())


def test_estimates_are_as_good_as_without_the_guard(wall: Wall) -> None:
    conn = wall.bound()
    for member, rows in ((wall.a, 2000), (wall.b, 20)):
        where = f"company_id = {member.literal}"
        estimate = int(re.findall(r"rows=(\d+)", explained(conn, f"SELECT * FROM orders WHERE {where}"))[0])
        assert rows * 0.9 <= estimate <= rows * 1.1 + 1
    join = "SELECT * FROM orders o JOIN customers c ON c.company_id = o.company_id AND c.id = o.customer"
    estimate = int(re.findall(r"rows=(\d+)", explained(conn, join))[0])
    assert estimate >= 500


def test_a_point_query_finds_its_index_by_the_policy_alone(wall: Wall) -> None:
    conn = wall.bound()
    plan = explained(conn, "SELECT * FROM orders WHERE id = 10500")
    assert re.search(r"Index Cond: \(\(company_id = .*\) AND \(id = 10500\)\)", plan), plan
    plan = explained(conn, "UPDATE orders SET note = 'x' WHERE amount = 500")
    assert re.search(r"Index Cond: \(\(company_id = .*\) AND \(amount = 500\)\)", plan), plan


def test_the_tenant_column_defaults_to_the_bound_tenant(wall: Wall) -> None:
    conn = wall.bound(wall.b)
    conn.execute("INSERT INTO bookings (room) VALUES (44)")
    assert conn.execute("SELECT company_id FROM bookings WHERE room = 44").fetchall() == [(wall.b.key,)]
    conn.rollback()
