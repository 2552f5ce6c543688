"""Walls with a hole, applications with a fault: each is found, and the message says what, where and what to do."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

FAULTS = {
    "no row security": (
        "ALTER TABLE orders DISABLE ROW LEVEL SECURITY",
        "ALTER TABLE orders ENABLE ROW LEVEL SECURITY",
        (
            r"orders: bound to acme, SELECT reads 1 row of other tenants: 'globex\w+' of globex \(orders.note\)"
            r"[\s\S]*why: row security is not enabled and forced\s+do: 'tenantry perimeter apply' closes it"
        ),
    ),
    "no row security, as nobody": (
        "ALTER TABLE events DISABLE ROW LEVEL SECURITY",
        "ALTER TABLE events ENABLE ROW LEVEL SECURITY",
        r"events: bound to no tenant, SELECT reads 2 rows",
    ),
    "a permissive policy without the restrictive one": (
        (
            "ALTER POLICY tenantry_isolation ON orders RENAME TO gone; ALTER POLICY gone ON orders USING (true)"
            " WITH CHECK (true)"
        ),
        (
            "ALTER POLICY gone ON orders USING (tenant_id OPERATOR(tenantry.===) (SELECT tenantry.current_tenant_v1())"
            " AND tenant_id = (SELECT tenantry.current_tenant_v1())) WITH CHECK (tenant_id = (SELECT"
            " tenantry.current_tenant_v1())); ALTER POLICY gone ON orders RENAME TO tenantry_isolation"
        ),
        r"orders: bound to globex, DELETE deletes a row of acme[\s\S]*the policy tenantry_isolation is missing",
    ),
    "a policy that forgets writes": (
        "ALTER POLICY tenantry_isolation ON orders WITH CHECK (true)",
        "ALTER POLICY tenantry_isolation ON orders WITH CHECK (tenant_id = (SELECT tenantry.current_tenant_v1()))",
        r"orders: bound to acme, INSERT writes a row in the name of globex",
    ),
    "a view of a superuser's": (
        "CREATE VIEW everything AS SELECT id, note FROM orders; GRANT SELECT ON everything TO tenantry_app",
        "DROP VIEW everything",
        r"everything: bound to acme, SELECT reads values of globex in note[\s\S]*view reads with its owner's rights",
    ),
    "a sum over all": (
        "CREATE VIEW totals AS SELECT count(*) FROM orders; GRANT SELECT ON totals TO tenantry_app",
        "DROP VIEW totals",
        r"totals: bound to acme, it shows other rows than its definition does",
    ),
    "a materialized view": (
        (
            "CREATE MATERIALIZED VIEW report AS SELECT * FROM customers WITH NO DATA;"
            " GRANT SELECT ON report TO tenantry_app"
        ),
        "DROP MATERIALIZED VIEW report",
        r"report: bound to acme, SELECT reads 1 row of other tenants",
    ),
    "a function of a superuser's": (
        (
            "CREATE FUNCTION notes() RETURNS SETOF text LANGUAGE sql SECURITY DEFINER AS 'SELECT note FROM orders';"
            " GRANT EXECUTE ON FUNCTION notes TO tenantry_app"
        ),
        "DROP FUNCTION notes",
        r"notes\(\): bound to acme, a call returns values of globex: 'globex\w+'[\s\S]*its owner postgres",
    ),
    "a function that finds by what it is given": (
        (
            "CREATE FUNCTION who(address text) RETURNS bigint LANGUAGE sql SECURITY DEFINER AS"
            " 'SELECT tenant_id FROM customers WHERE email = $1'; GRANT EXECUTE ON FUNCTION who TO tenantry_app"
        ),
        "DROP FUNCTION who",
        r"who\(text\): it runs as postgres, who sees all tenants",
    ),
    "a table for all to write": (
        "CREATE TABLE board (line text); GRANT SELECT, INSERT ON board TO tenantry_app",
        "DROP TABLE board",
        r"board: it has no column tenant_id, and every tenant may write it",
    ),
    "a table for all to read": (
        "CREATE TABLE notices (line text); GRANT SELECT ON notices TO tenantry_app",
        "DROP TABLE notices",
        r"notices: it has no column tenant_id, and every tenant reads it\n\s+why: .*\n\s+do: name it in the setting",
    ),
    "a table in another schema": (
        (
            "CREATE SCHEMA other; GRANT USAGE ON SCHEMA other TO tenantry_app;"
            " CREATE TABLE other.copies AS TABLE orders; INSERT INTO other.copies (tenant_id) VALUES (2), (1);"
            " GRANT SELECT ON other.copies TO tenantry_app"
        ),
        "DROP SCHEMA other CASCADE",
        r"other.copies: bound to acme, SELECT reads 1 row of other tenants",
    ),
    "a foreign key without the tenant": (
        (
            "CREATE UNIQUE INDEX lone ON customers (id); CREATE TABLE notes (tenant_id bigint DEFAULT"
            " tenantry.current_tenant_v1(), id int PRIMARY KEY, customer bigint REFERENCES customers (id));"
            " GRANT SELECT, INSERT, UPDATE, DELETE ON notes TO tenantry_app"
        ),
        "DROP TABLE notes; DROP INDEX lone",
        r"notes: a row refers to a row of globex by notes_customer_fkey",
    ),
    "a wall that is too high": (
        "CREATE POLICY a_b ON events AS RESTRICTIVE FOR SELECT USING (false)",
        "DROP POLICY a_b ON events",
        r"events: acme sees 0 of its own 1 row there",
    ),
    "TRUNCATE": (
        "GRANT TRUNCATE ON orders TO tenantry_app",
        "REVOKE TRUNCATE ON orders FROM tenantry_app",
        r"orders: bound to acme, TRUNCATE deletes[\s\S]*do: 'tenantry perimeter apply' closes it",
    ),
    "a trigger that writes for another": (
        (
            "CREATE FUNCTION spread() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN"
            " UPDATE customers SET extra = jsonb_build_object('seen', NEW.note) WHERE tenant_id <> NEW.tenant_id;"
            " RETURN NEW; END $$; CREATE TRIGGER spread AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION spread()"
        ),
        "DROP TRIGGER spread ON orders; DROP FUNCTION spread",
        r"customers: bound to acme, SELECT reads values of globex in extra",
    ),
    "a sequence that may be turned back": (
        "GRANT UPDATE ON SEQUENCE orders_id_seq TO tenantry_app",
        "REVOKE UPDATE ON SEQUENCE orders_id_seq FROM tenantry_app",
        r"orders_id_seq: everybody may turn the sequence back",
    ),
    "a table that can't be filled": (
        (
            "CREATE TABLE odd (tenant_id bigint NOT NULL, id int PRIMARY KEY, kind text NOT NULL"
            " CHECK (kind ~ '^#{40}$')); GRANT SELECT, INSERT ON odd TO tenantry_app"
        ),
        "DROP TABLE odd",
        r"could not be looked at\s+odd: no row can be made up for acme: [\s\S]*allow=\['odd'\]",
    ),
}


@contextmanager
def planted(house: Any, fault: str) -> Iterator[str]:
    plant, undo, expected = FAULTS[fault]
    house.root().execute(plant)
    try:
        yield expected
    finally:
        house.reset()
        house.root().execute(undo)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_hole_is_found(tenantry_house: Any, assert_no_leak: Any, fault: str) -> None:
    with planted(tenantry_house, fault) as expected, pytest.raises(AssertionError, match=expected) as found:
        assert_no_leak()
    print(f"\n== {fault}\n{found.value}")


def test_the_wall_is_whole_again(assert_no_leak: Any) -> None:
    assert assert_no_leak().report


@pytest.mark.tenantry(isolation="database")
def test_a_tenant_among_the_residents_of_anothers_database_is_found(
    tenantry_house: Any, assert_no_leak: Any, two_tenants: Any
) -> None:
    acme, globex = two_tenants
    root = tenantry_house.root(globex.placement.database)
    query = "INSERT INTO tenantry.residents SELECT %s, %s, 1, 'open', schema, plan FROM tenantry.residents"
    root.execute(query, (acme.code, acme.key))
    try:
        found = rf"{globex.placement.database}: acme-database can be bound in the database of globex-database"
        with pytest.raises(AssertionError, match=found):
            assert_no_leak()
    finally:
        root.execute("DELETE FROM tenantry.residents WHERE code = %s", (acme.code,))


def test_what_may_be_left_out_is_named(tenantry_house: Any, assert_no_leak: Any) -> None:
    with planted(tenantry_house, "a table that can't be filled"):
        assert_no_leak(allow=["odd"])
        with pytest.raises(AssertionError, match="odd"):
            assert_no_leak(allow=["orders"])


def test_without_filling_the_tests_rows_are_all_there_is(assert_no_leak: Any) -> None:
    with pytest.raises(AssertionError, match=r"customers: acme has no row there\n"):
        assert_no_leak(fill=False)


def test_a_cache_without_the_tenant_is_found(client: Any, assert_no_leak: Any, two_tenants: Any) -> None:
    acme, globex = two_tenants
    with assert_no_leak() as leak:
        first = client.get("/orders/cached", headers={"X-Tenant": acme.slug})
        leak.in_(first, tenant=acme)
        second = client.get("/orders/cached", headers={"X-Tenant": globex.slug})
        with pytest.raises(AssertionError, match=r"gave globex holds 'acme\w+' of acme \(orders.note\)[\s\S]*a cache"):
            leak.in_(second, tenant=globex)


def test_a_look_at_an_error_page_is_none(client: Any, assert_no_leak: Any, two_tenants: Any) -> None:
    with assert_no_leak(two_tenants.acme) as leak:
        with pytest.raises(AssertionError, match="holds nothing of acme either"):
            leak.in_(client.get("/nowhere", headers={"X-Tenant": "acme"}))
        leak.in_("no orders yet", empty=True)


def test_a_write_past_the_wall_is_found(tenantry_house: Any, assert_no_leak: Any, two_tenants: Any) -> None:
    change = r"orders: while the application worked for acme, rows of globex changed: other values than before"
    with pytest.raises(AssertionError, match=change), assert_no_leak(two_tenants.acme):
        tenantry_house.root().execute("UPDATE orders SET amount = amount + 1")
    gone = r"events: while the application worked for acme, rows of globex changed: 2 rows before, 0 after"
    with pytest.raises(AssertionError, match=gone), assert_no_leak(two_tenants.acme):
        tenantry_house.root().execute("DELETE FROM events WHERE tenant_id = %s", (two_tenants.globex.key,))


def test_what_is_logged_is_read_too(assert_no_leak: Any, two_tenants: Any) -> None:
    log = logging.getLogger("shop")
    told = r"the log: while the application worked for acme, it logged 'globex"
    with pytest.raises(AssertionError, match=told), assert_no_leak(two_tenants.acme):
        log.warning("mailed to %s", assert_no_leak.secrets.of("globex")[0].value.upper())


def test_the_error_of_the_block_is_the_one_that_is_shown(assert_no_leak: Any) -> None:
    with pytest.raises(ZeroDivisionError), assert_no_leak():
        assert 1 / 0


def test_rows_of_the_tests_own_count(tenantry_router: Any, assert_no_leak: Any, two_tenants: Any) -> None:
    acme, globex = two_tenants
    with tenantry_router.transaction(globex) as conn:
        conn.execute("INSERT INTO customers (email) VALUES ('someone.special@globex.test')")
    found = r"'someone.special@globex.test' of globex \(customers.email\)"
    with assert_no_leak(acme) as leak, pytest.raises(AssertionError, match=found):
        leak.in_(b'{"email": "Someone.Special@globex.test"}')


def test_a_stranger_is_refused(tenantry_house: Any, assert_no_leak: Any) -> None:
    from tenantry.errors import InvalidInput

    with pytest.raises(InvalidInput, match="none of the two"):
        assert_no_leak(tenantry_house.create("initech"))


def test_an_open_transaction_is_named(tenantry_house: Any, tenantry_settings: Any, two_tenants: Any) -> None:
    from tenantry import Router
    from tenantry.errors import Conflict

    with Router(tenantry_settings) as router, router.transaction(two_tenants.acme) as conn:
        conn.execute("INSERT INTO customers (email) VALUES ('a@b')")
        tenantry_house.reset()  # nobody sees it yet
    tenantry_house.root().execute("SET lock_timeout = '50ms'")
    with Router(tenantry_settings) as router, router.transaction(two_tenants.acme) as conn:
        conn.execute("UPDATE customers SET email = 'c@d'")
        with pytest.raises(Conflict, match="left a transaction open"):
            tenantry_house.reset()
    tenantry_house.root().execute("SET lock_timeout = '5s'")


def test_it_works_in_a_scope_and_with_an_open_transaction(
    tenantry_router: Any, assert_no_leak: Any, two_tenants: Any
) -> None:
    with tenantry_router.tenant_scope("globex"), tenantry_router.transaction() as conn:
        conn.execute("SELECT * FROM orders")
        assert assert_no_leak().report


def test_psycopg_is_still_itself(tenantry_house: Any) -> None:
    with pytest.raises(psycopg.errors.UndefinedTable):
        tenantry_house.root().execute("SELECT * FROM nowhere")
