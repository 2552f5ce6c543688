"""The audit log only grows, also for the one who owns it; what a superuser can do all the same is known."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from tenantry.catalog.store import SCHEMA
from tests.catalog.conftest import Catalog

LINE = "INSERT INTO audit_log (actor, action, subject, reason) VALUES ('ada', 'tenant delete', 'acme', 'asked for')"
READ = "SELECT id, at, actor, action, subject, reason, detail FROM audit_log ORDER BY id"


@pytest.fixture
def owner(catalog: Catalog) -> Iterator[psycopg.Connection]:
    """Who owns the catalog without being a superuser, as on a managed server."""
    with catalog.database.connect(options=f"-c search_path={SCHEMA}") as conn:
        name = f"owner_{catalog.login}"
        role = sql.Identifier(name)
        old = conn.execute("SELECT tableowner FROM pg_tables WHERE tablename = 'audit_log'").fetchone()
        assert old is not None
        conn.execute(sql.SQL("CREATE ROLE {}").format(role))
        conn.execute(sql.SQL("GRANT USAGE, CREATE ON SCHEMA {} TO {}").format(sql.Identifier(SCHEMA), role))
        conn.execute(sql.SQL("ALTER TABLE audit_log OWNER TO {}").format(role))
        conn.execute(sql.SQL("SET ROLE {}").format(role))
        yield conn
        conn.execute("RESET ROLE")
        conn.execute(sql.SQL("ALTER TABLE audit_log OWNER TO {}").format(sql.Identifier(old[0])))
        conn.execute(sql.SQL("DROP OWNED BY {}").format(role))
        conn.execute(sql.SQL("DROP ROLE {}").format(role))


CHANGES = {
    "change a line": "UPDATE audit_log SET actor = 'somebody else'",
    "change none": "UPDATE audit_log SET actor = 'somebody else' WHERE false",
    "remove a line": "DELETE FROM audit_log WHERE id = 1",
    "empty it": "TRUNCATE audit_log",
    "empty it and its numbers": "TRUNCATE audit_log RESTART IDENTITY CASCADE",
    "change by conflict": "INSERT INTO audit_log (id, actor, action, subject) OVERRIDING SYSTEM VALUE"
    " VALUES (1, 'x', 'x', 'x') ON CONFLICT (id) DO UPDATE SET actor = excluded.actor",
    "change by merge": "MERGE INTO audit_log a USING (SELECT 1 AS id) x ON a.id = x.id"
    " WHEN MATCHED THEN UPDATE SET actor = 'x'",
    "remove by merge": "MERGE INTO audit_log a USING (SELECT 1 AS id) x ON a.id = x.id WHEN MATCHED THEN DELETE",
    "change in a query": "WITH x AS (UPDATE audit_log SET actor = 'x' RETURNING id) SELECT * FROM x",
    "without triggers": "SET session_replication_role = replica",
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_lines_are_neither_changed_nor_removed_by_the_owner(owner: psycopg.Connection, change: str) -> None:
    owner.execute(LINE)
    before = owner.execute(READ).fetchall()
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        owner.execute(change)
    assert owner.execute(READ).fetchall() == before


@pytest.mark.parametrize("change", [each for each in CHANGES.values() if "session_replication_role" not in each])
def test_nor_by_a_superuser_by_mistake(catalog: Catalog, change: str) -> None:
    catalog.run(LINE)
    before = catalog.run(READ)
    refused = pytest.raises(psycopg.errors.InsufficientPrivilege, match="tenantry: the audit log only grows")
    with catalog.database.connect(options=f"-c search_path={SCHEMA}") as conn, refused:
        conn.execute(change)
    assert catalog.run(READ) == before


def test_lines_are_added(owner: psycopg.Connection) -> None:
    before = owner.execute(READ).fetchall()
    owner.execute(LINE)
    after = owner.execute(READ).fetchall()
    assert after[:-1] == before
    assert after[-1][2:6] == ("ada", "tenant delete", "acme", "asked for")
    assert not before or after[-1][0] > before[-1][0]


DELIBERATE = {
    "the owner switches the trigger off": "ALTER TABLE audit_log DISABLE TRIGGER audit_log_grows",
    "the owner drops the trigger": "DROP TRIGGER audit_log_grows ON audit_log",
}


@pytest.mark.parametrize("preparation", DELIBERATE.values(), ids=DELIBERATE)
def test_what_the_owner_can_do_on_purpose_is_what_the_page_says(owner: psycopg.Connection, preparation: str) -> None:
    """This is a limit, not a promise: see docs/reference/catalog.md."""
    owner.execute(LINE)
    with owner.transaction(force_rollback=True):
        owner.execute(preparation)
        assert owner.execute("DELETE FROM audit_log").rowcount > 0


def test_what_a_superuser_can_do_on_purpose_is_what_the_page_says(catalog: Catalog) -> None:
    catalog.run(LINE)
    options = f"-c search_path={SCHEMA} -c session_replication_role=replica"
    with catalog.database.connect(options=options) as conn, conn.transaction(force_rollback=True):
        assert conn.execute("DELETE FROM audit_log").rowcount > 0
