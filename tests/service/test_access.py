"""Operators' access to all tenants: explicit, on record, read-only unless told otherwise."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from tenantry import Router
from tenantry.errors import InvalidInput, NotFound, PerimeterError, ShardNotFound
from tenantry.perimeter.binder import ADMIN, APP, OPERATOR
from tenantry.service.access import all_tenants
from tests.fixtures.house import House
from tests.operations.invariants import catalog

pytestmark = pytest.mark.anyio

REASON = "ticket 4711: which tenants have open orders?"


@pytest.fixture(scope="module", autouse=True)
def _rows(house: House) -> None:
    with Router(house.settings) as router:
        for slug in house.tenants:
            with router.tenant_scope(slug), router.transaction() as conn:
                conn.execute("INSERT INTO orders (note) VALUES (%s)", (slug,))


def log(house: House) -> list[dict[str, Any]]:
    with catalog(house) as conn:
        return conn.execute(
            "SELECT actor, action, subject, reason, detail FROM audit_log WHERE action LIKE 'all tenants%' ORDER BY id"
        ).fetchall()


async def count(conn: Any) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = await (await conn.execute("SELECT note FROM orders ORDER BY note")).fetchall()
    return rows


async def test_an_operator_sees_the_rows_of_all_tenants(house: House) -> None:
    async with house.control() as control, all_tenants(control, "main", reason=REASON) as conn:
        assert await count(conn) == [("pooled-a",), ("pooled-b",)]


async def test_an_operator_sees_a_tenant_s_own_database(house: House) -> None:
    placement = house.tenants["database-a"].placement
    assert placement
    async with house.control() as control, all_tenants(control, "main", placement.database, reason=REASON) as conn:
        assert await count(conn) == [("database-a",)]


async def test_who_when_where_and_why_is_on_record_before_anything_is_seen(house: House) -> None:
    before = len(log(house))
    async with house.control() as control:
        async with all_tenants(control, "main", reason=REASON):
            [begin] = log(house)[before:]
            assert (begin["actor"], begin["action"], begin["reason"]) == ("test", "all tenants begin", REASON)
            assert begin["subject"].startswith("main/app_")
            assert begin["detail"] == {"role": OPERATOR}
        async with all_tenants(control, "main", reason=REASON, write=True):
            pass
    lines = log(house)[before:]
    assert [line["action"].split()[-1] for line in lines] == ["begin", "end"] * 2
    assert lines[-1]["detail"] == {"role": ADMIN}


async def test_an_end_is_on_record_when_the_block_fails(house: House) -> None:
    before = len(log(house))
    async with house.control() as control:
        with pytest.raises(ZeroDivisionError):
            async with all_tenants(control, "main", reason=REASON):
                raise ZeroDivisionError
    assert [line["action"].split()[-1] for line in log(house)[before:]] == ["begin", "end"]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE orders SET note = 'x'",
        "DELETE FROM orders",
        "INSERT INTO orders (tenant_id, note) VALUES (1, 'x')",
        "TRUNCATE orders",
        "CREATE TABLE loot AS SELECT * FROM orders",
        "SELECT * FROM orders FOR UPDATE",
        "SET default_transaction_read_only = off; DELETE FROM orders",
        "BEGIN READ WRITE; DELETE FROM orders; COMMIT",
        "SET ROLE tenantry_admin",
        "SET SESSION AUTHORIZATION tenantry_admin",
        "SELECT * FROM tenantry_priv.signing_keys",
        "UPDATE tenantry.residents SET state = 'open'",
        "SELECT tenantry_priv.keep_keys_v1('{}')",
    ],
)
async def test_a_reader_can_not_write_whatever_it_tries(house: House, statement: str) -> None:
    async with house.control() as control:
        with pytest.raises(PerimeterError, match="access to all tenants only reads") as caught:
            async with all_tenants(control, "main", reason=REASON) as conn:
                await conn.execute(statement)
        assert "write=True" in str(caught.value.hint)
        async with all_tenants(control, "main", reason=REASON) as conn:
            assert await count(conn) == [("pooled-a",), ("pooled-b",)]


async def test_a_writer_writes_for_any_tenant(house: House) -> None:
    async with house.control() as control, all_tenants(control, "main", reason=REASON, write=True) as conn:
        done = await conn.execute("UPDATE orders SET amount = 5")
        assert done.rowcount == 2
    with Router(house.settings) as router, router.tenant_scope("pooled-b"), router.transaction() as own:
        assert own.execute("SELECT amount FROM orders").fetchall() == [(5,)]


@pytest.mark.parametrize("reason", ["", "short", " " * 50, "x" * 1001, "\0" * 20, None, 12345678, b"why is that so"])
async def test_without_a_reason_there_is_no_access(house: House, reason: Any) -> None:
    before = len(log(house))
    async with house.control() as control:
        with pytest.raises(InvalidInput, match="is not a reason"):
            async with all_tenants(control, "main", reason=reason):
                pytest.fail("it got in")
    assert len(log(house)) == before


@pytest.mark.parametrize(
    "database", ["postgres", "template1", "tenantry_template", "", "nowhere", "app'; --", "x" * 500]
)
async def test_a_database_without_tenants_is_not_opened(house: House, database: str) -> None:
    async with house.control() as control:
        with pytest.raises(NotFound, match="there is no database"):
            async with all_tenants(control, "main", database, reason=REASON):
                pytest.fail("it got in")
        with pytest.raises(ShardNotFound):
            async with all_tenants(control, "mars", database, reason=REASON):
                pytest.fail("it got in")


async def test_the_application_can_neither_log_in_as_an_operator_nor_become_one(house: House) -> None:
    with catalog(house) as conn:
        rows = conn.execute("SELECT role, password FROM credentials").fetchall()
    passwords = {row["role"]: row["password"] for row in rows}
    assert len(set(passwords.values())) == 3
    placement = house.tenants["pooled-a"].placement
    assert placement
    for role in (OPERATOR, ADMIN):
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(house.servers[0].dsn(placement.database, role, tcp=True, password=passwords[APP]))
        with psycopg.connect(
            house.servers[0].dsn(placement.database, APP, tcp=True, password=passwords[APP]), autocommit=True
        ) as conn_app:
            for statement in (f"SET ROLE {role}", f"SET SESSION AUTHORIZATION {role}"):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    conn_app.execute(statement)


async def test_what_an_application_knows_of_the_catalog_opens_no_operator_s_door(house: House) -> None:
    """It reads its own login there and no other's."""
    with psycopg.connect(house.settings.catalog_dsn, autocommit=True) as conn:
        rows = conn.execute("SELECT role FROM tenantry_catalog.library_shards").fetchall()
        assert rows == [(APP,)]
        for table in ("credentials", "audit_log", "signing_keys", "shards"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                conn.execute(f"SELECT * FROM tenantry_catalog.{table}")


@pytest.mark.parametrize(
    "statement", ["DELETE FROM audit_log", "UPDATE audit_log SET reason = 'none'", "TRUNCATE audit_log"]
)
async def test_the_record_only_grows(house: House, statement: str) -> None:
    async with house.control() as control:
        await control.audit("test", "x", "to be removed")
        before = len(log(house))
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="the audit log only grows"):
            async with control.store.connection() as conn:
                await conn.execute(statement)
    assert len(log(house)) == before
