"""Writes across the border"""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from tests.attacks.attacker import Attacker, blind, refused
from tests.fixtures.walls import Wall

attack = pytest.mark.attack


MERGE = "MERGE INTO {b_schema}.bookings t USING (SELECT generate_series(1, 9) AS n) s "
UPSERT = "INSERT INTO {b_schema}.bookings (room) VALUES (1) ON CONFLICT (company_id, room) DO UPDATE SET room = 6"


def rows_of_b(wall: Wall) -> list[tuple[object, ...]]:
    """All of B's rows in all tables, as they stand."""
    admin = wall.admin(wall.b)
    found: list[tuple[object, ...]] = []
    for table in ("customers", "orders", "events", "documents", "bookings"):
        query = wall.fill(f"SELECT t::text FROM {{b_schema}}.{table} t WHERE company_id = {{b}} ORDER BY 1")
        found += admin.execute(query).fetchall()
    return found


@pytest.fixture(autouse=True)
def _b_is_untouched(wall: Wall) -> Iterator[None]:
    """Whatever a test of this file tries, B's rows are as before, and there is none more in B's name."""
    before = rows_of_b(wall)
    yield
    wall.end_transactions()
    assert rows_of_b(wall) == before


@attack("I048", "Insert in B's name")
@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO {b_schema}.customers (company_id, email) VALUES ({b}, 'x')",
        "INSERT INTO {b_schema}.customers (company_id, email) SELECT {b}, email FROM {b_schema}.customers",
        "INSERT INTO {b_schema}.bookings VALUES ({b}, 2) ON CONFLICT DO NOTHING",
        "INSERT INTO {b_schema}.bookings VALUES ({b}, 1) ON CONFLICT (company_id, room) DO UPDATE SET room = 5",
        "INSERT INTO {b_schema}.events (company_id, at, payload) VALUES ({b}, '2026-01-01', '1')",
        "WITH x AS (INSERT INTO {b_schema}.bookings VALUES ({b}, 3) RETURNING *) SELECT * FROM x",
        "DO $$ BEGIN INSERT INTO {b_schema}.bookings VALUES ({b}, 3); END $$",
        MERGE + "ON t.room = s.n AND t.company_id = {b} WHEN NOT MATCHED THEN INSERT VALUES ({b}, 4)",
    ],
)
def test_i048_insert(wall: Wall, attacker: Attacker, statement: str) -> None:
    """INSERT, ON CONFLICT, MERGE, CTE, DO, through the parent of a partition."""
    loot = attacker.run(statement)
    attacker.conn.commit()
    if loot.error is not None:
        refused(loot)
    blind(loot, wall)


@attack("I049", "Give a row to B, take one of B's")
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE {a_schema}.bookings SET company_id = {b}, room = 9",
        "UPDATE {a_schema}.orders SET company_id = {b}, id = id + 1000",
        "UPDATE {a_schema}.events SET company_id = {b}",
        "UPDATE {a_schema}.customers SET company_id = {b}",
    ],
)
def test_i049_update(attacker: Attacker, statement: str) -> None:
    """UPDATE of the tenant column."""
    refused(attacker.run(statement))


@attack("I049", "Change B's rows")
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE {b_schema}.orders SET note = 'mine' WHERE company_id = {b}",
        "UPDATE {b_schema}.orders SET company_id = {a} WHERE company_id = {b}",
        "UPDATE {b_schema}.orders SET note = 'mine' WHERE id >= 500",
        "DELETE FROM {b_schema}.orders WHERE company_id = {b}",
        "DELETE FROM {b_schema}.customers WHERE id >= 500",
        "DELETE FROM {b_schema}.orders o USING {b_schema}.customers c WHERE c.company_id = {b}",
        MERGE + "ON t.room = s.n WHEN MATCHED THEN DELETE",
        MERGE + "ON t.company_id = {b} WHEN MATCHED THEN UPDATE SET company_id = {a}",
    ],
)
def test_i049_change(wall: Wall, attacker: Attacker, statement: str) -> None:
    """UPDATE, DELETE, MERGE on rows of B: they match nothing."""
    loot = attacker.run(statement + " RETURNING *" if statement.startswith(("UPDATE", "DELETE")) else statement)
    assert loot.error is None
    assert loot.rows == []
    attacker.conn.commit()


@attack("I051", "ON CONFLICT DO UPDATE with a condition that fails")
def test_i051_on_conflict_where(wall: Wall, attacker: Attacker) -> None:
    """Conflict with B's row, and a condition whose error would print it."""
    for key in ("{a}", "{b}"):
        loot = attacker.run(
            f"INSERT INTO {{b_schema}}.customers (company_id, id, email) VALUES ({key}, 505, 'bravo-505@example.com')"
            " ON CONFLICT (company_id, id) DO UPDATE SET email = 'x' WHERE customers.secret::int = 1"
        )
        assert f"{wall.b.word}-secret" not in loot.text
    attacker.conn.rollback()


@attack("I052", "ON CONFLICT through a view")
def test_i052_on_conflict_view(attacker: Attacker) -> None:
    """Views are for reading only."""
    for statement in ("INSERT INTO {v} (customer, amount) VALUES (100, 1) ON CONFLICT DO NOTHING", "DELETE FROM {v}"):
        refused(attacker.run(statement.replace("{v}", "{b_schema}.paid_orders")))


@attack("I053", "TRUNCATE")
def test_i053_truncate(attacker: Attacker) -> None:
    """TRUNCATE empties a table for all, whatever the policies say."""
    for table in ("orders", "customers CASCADE", "events", "events_2026", "documents", "countries", "audit_log"):
        refused(attacker.run(f"TRUNCATE {{b_schema}}.{table}"))


@attack("I054", "Triggers and rules")
@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TRIGGER t AFTER INSERT ON {b_schema}.orders FOR EACH ROW EXECUTE FUNCTION {b_schema}.order_count()",
        "CREATE RULE r AS ON INSERT TO {b_schema}.orders DO ALSO NOTIFY x",
        "CREATE FUNCTION {b_schema}.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END'",
        "CREATE FUNCTION pg_temp.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END'",
        "ALTER TABLE {b_schema}.orders DISABLE TRIGGER ALL",
        "SET session_replication_role = replica",
        "CREATE EVENT TRIGGER e ON ddl_command_start EXECUTE FUNCTION {b_schema}.order_count()",
    ],
)
def test_i054_triggers(attacker: Attacker, statement: str) -> None:
    """Code of the attacker that B's writes would run."""
    refused(attacker.run(statement))


@attack("I055", "A foreign key as a probe")
def test_i055_references(attacker: Attacker) -> None:
    """A table of one's own that refers to others' rows."""
    refused(attacker.run("CREATE TABLE {b_schema}.probe (k bigint REFERENCES {b_schema}.countries)"))
    refused(attacker.run("CREATE TEMP TABLE probe (a bigint)"))
    refused(attacker.run("ALTER TABLE {b_schema}.orders ADD FOREIGN KEY (note) REFERENCES {b_schema}.countries"))


@attack("I056", "Refer to B's row")
def test_i056_foreign_key(wall: Wall, attacker: Attacker) -> None:
    """An order of A for a customer of B: for A's key it does not exist, and the error tells nothing of B."""
    for customer in (505, 123456):
        loot = attacker.run(f"INSERT INTO {{b_schema}}.orders (customer, amount) VALUES ({customer}, 1)")
        refused(loot, "23503")
        blind(loot, wall)
    refused(attacker.run("UPDATE {a_schema}.orders SET customer = 505"), "23503")


@attack("I058", "Errors of foreign keys that print rows")
def test_i058_error_detail(wall: Wall, attacker: Attacker) -> None:
    """Delete and change customers that orders refer to, with constraints and conditions that fail."""
    for statement in (
        "UPDATE {a_schema}.customers SET id = id + 400",
        "UPDATE {a_schema}.orders SET amount = -1",
        "INSERT INTO {a_schema}.customers (id, email) VALUES (505, NULL)",
        "INSERT INTO {a_schema}.orders (id, customer, amount) VALUES (505, 100, 0)",
        "INSERT INTO {a_schema}.events (at, payload) VALUES ('1999-01-01', '1')",
    ):
        loot = attacker.run(statement)
        assert loot.sqlstate in ("23503", "23514", "23502", "23505")
        blind(loot, wall)


@attack("I059", "Hold B's rows fast")
def test_i059_block_deletes(wall: Wall, attacker: Attacker) -> None:
    """Refer to B's customer, lock it, so that B can't delete it."""
    attacker.run("INSERT INTO {b_schema}.orders (customer, amount) VALUES (505, 1)")
    attacker.run("SELECT * FROM {b_schema}.customers FOR UPDATE")
    victim = wall.bound(wall.b)
    victim.execute("SET LOCAL lock_timeout = '2s'")
    victim.execute("DELETE FROM customers WHERE id = 505")
    victim.rollback()


@attack("I060", "Turn a sequence back")
@pytest.mark.parametrize(
    "statement",
    [
        "SELECT setval('{b_schema}.orders_id_seq', 1)",
        "ALTER SEQUENCE {b_schema}.orders_id_seq RESTART",
        "SELECT * FROM {b_schema}.orders_id_seq",
        "TRUNCATE {b_schema}.orders RESTART IDENTITY",
        "DROP SEQUENCE {b_schema}.orders_id_seq",
    ],
)
def test_i060_setval(attacker: Attacker, statement: str) -> None:
    """Collisions for everybody."""
    refused(attacker.run(statement))


@attack(
    "I061",
    "Lock a table",
    state="residual",
    reason="whoever may update a table may lock it. The plan's timeouts end it, unless the attacker raises them; others"
    " need a lock_timeout. A schema of its own does not save a tenant from it, a database of its own does",
)
def test_i061_lock_table(wall: Wall, attacker: Attacker) -> None:
    """LOCK TABLE orders, and wait."""
    assert attacker.run("LOCK TABLE {b_schema}.orders IN ACCESS EXCLUSIVE MODE").error is None
    victim = wall.bound(wall.b)
    victim.execute("SET LOCAL lock_timeout = '20ms'")
    if wall.shares_backend:
        with pytest.raises(psycopg.errors.LockNotAvailable):
            victim.execute("SELECT 1 FROM orders")
    else:
        victim.execute("SELECT 1 FROM orders")


@attack("I062", "A transaction that stays")
def test_i062_prepare_transaction(attacker: Attacker) -> None:
    """PREPARE TRANSACTION keeps locks after the session; max_prepared_transactions is 0."""
    attacker.run("UPDATE orders SET note = note")
    refused(attacker.raw("PREPARE TRANSACTION 'x'"), "55000")


@attack("I206", "RETURNING old and new")
def test_i206_returning_old(wall: Wall, attacker: Attacker) -> None:
    """The row before and after a write, which PostgreSQL 18 returns."""
    if wall.version < 18:
        pytest.skip("PostgreSQL 18 brings it")
    for statement in (
        "UPDATE {b_schema}.orders SET note = 'x' RETURNING old.*, new.*",
        "DELETE FROM {b_schema}.orders RETURNING old.*, new.*",
        UPSERT + " RETURNING old.*, new.*",
        MERGE + "ON false WHEN NOT MATCHED BY SOURCE THEN DELETE RETURNING merge_action(), old.*, new.*",
    ):
        loot = attacker.run(statement)
        assert loot.error is None
        assert all(str(wall.b.key) not in map(str, row) for row in loot.rows)
        blind(loot, wall)
    attacker.conn.rollback()


@attack(
    "I207",
    "Rows of one's own in B's schema",
    state="residual",
    reason="one login serves all schemas of a database, and a row of A in B's table is a row of A: B never sees it, it"
    " takes no key of B's, and clearing B's schema removes it. A database of its own closes this",
)
def test_i207_rows_in_other_schema(wall: Wall, attacker: Attacker) -> None:
    """INSERT a row of A into B's table."""
    loot = attacker.run("INSERT INTO {b_schema}.bookings (room) VALUES (1) ON CONFLICT DO NOTHING RETURNING company_id")
    assert loot.error is None
    assert {row[0] for row in loot.rows} <= {wall.a.key}
    attacker.conn.rollback()


@attack(
    "I208",
    "Use up a sequence",
    state="residual",
    reason="whoever may insert may call nextval(). Numbers of a bigint can't be used up; give no column an integer"
    " sequence",
)
def test_i208_sequence_use(attacker: Attacker) -> None:
    """nextval() in a loop leaves gaps."""
    assert attacker.run("SELECT nextval('{b_schema}.orders_id_seq') FROM generate_series(1, 3)").error is None
