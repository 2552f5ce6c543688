"""The fixture itself: an attack that finds nothing is only worth something where there is something to find."""

from __future__ import annotations

from tests.fixtures.walls import Wall


def test_each_tenant_sees_its_own_rows_and_no_others(wall: Wall) -> None:
    for member, other in ((wall.a, wall.b), (wall.b, wall.a)):
        conn = wall.bound(member)
        for table, rows in (("customers", 20), ("orders", 20), ("events", 4), ("documents", 2), ("paid_orders", 10)):
            found = conn.execute(f"SELECT * FROM {table}").fetchall()
            assert len(found) == rows
            assert other.word not in str(found)


def test_both_tenants_have_rows_for_a_superuser_to_see(wall: Wall) -> None:
    for member in (wall.a, wall.b):
        for table in ("customers", "orders", "events", "documents", "contracts"):
            rows = wall.admin(member).execute(f"SELECT * FROM {member.schema}.{table}").fetchall()
            assert member.word in str(rows)
