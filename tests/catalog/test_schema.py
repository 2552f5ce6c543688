"""``schema.sql`` and the reference page say what the migrations make, whichever server is asked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tenantry.catalog.store import SCHEMA
from tenantry.postgres.server import LocalServer
from tests.fixtures.servers import Database, fresh_database
from tests.upgrade.catalogs import MIGRATIONS, apply, dump, fill, rows
from tools import catalog_schema
from tools.catalog_page import BEGIN, END, render_page
from tools.catalog_schema import PAGE, SNAPSHOT, faults, read, render

LATEST = len(MIGRATIONS)


@pytest.fixture(scope="module")
def migrated(server: LocalServer) -> Iterator[Database]:
    """A catalog that the migrations have made; nobody leaves a change in it."""
    with fresh_database(server) as database:
        apply(database.dsn(), MIGRATIONS)
        yield database


def test_the_snapshot_and_the_page_say_what_the_migrations_make(migrated: Database) -> None:
    with migrated.connect() as conn:
        assert faults(read(conn), SNAPSHOT.read_text("utf-8"), PAGE.read_text("utf-8")) == []


def test_they_do_so_on_the_oldest_server_too(server15: LocalServer) -> None:
    with fresh_database(server15) as database:
        apply(database.dsn(), MIGRATIONS)
        with database.connect() as conn:
            assert render(read(conn)) == SNAPSHOT.read_text("utf-8")


def test_the_snapshot_loaded_into_an_empty_database_makes_the_same_catalog(
    database: Database, migrated: Database
) -> None:
    with database.connect() as conn:
        conn.execute(SNAPSHOT.read_bytes())
    with database.connect() as conn, migrated.connect() as other:
        assert read(conn) == read(other)
    assert rows(database) == rows(migrated)
    assert apply(database.dsn(), MIGRATIONS) == []
    assert dump(database) == dump(migrated)


def test_the_snapshot_can_be_loaded_by_the_oldest_server(server15: LocalServer) -> None:
    with fresh_database(server15) as database:
        with database.connect() as conn:
            conn.execute(SNAPSHOT.read_bytes())
        assert apply(database.dsn(), MIGRATIONS) == []


def test_the_snapshot_is_for_empty_databases_and_changes_no_other(database: Database) -> None:
    apply(database.dsn(), MIGRATIONS)
    fill(database, LATEST)
    before = rows(database)
    with database.connect() as conn, pytest.raises(psycopg.errors.DuplicateSchema):
        conn.execute(SNAPSHOT.read_bytes())
    assert rows(database) == before


CHANGES = {
    "a table": "CREATE TABLE more (id bigint)",
    "a column": "ALTER TABLE plans ADD COLUMN more text",
    "a default": "ALTER TABLE plans ALTER COLUMN warm SET DEFAULT 1",
    "a type": "ALTER TABLE plans ALTER COLUMN warm TYPE bigint",
    "a null": "ALTER TABLE plans ALTER COLUMN warm DROP NOT NULL",
    "a check": "ALTER TABLE plans DROP CONSTRAINT plans_warm_check",
    "an index": "DROP INDEX tenants_plan",
    "a trigger": "DROP TRIGGER audit_log_grows ON audit_log",
    "a function": "CREATE OR REPLACE FUNCTION announce_new() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN END'",
    "a view": "DROP VIEW library_keys; CREATE VIEW library_keys AS SELECT * FROM signing_keys",
    "an option of a view": "ALTER VIEW library_keys SET (security_invoker = true)",
    "a grant": "GRANT SELECT ON signing_keys TO tenantry_library",
    "a grant on a column": "GRANT SELECT (admin_dsn) ON shards TO tenantry_library",
    "a grant to everybody": "GRANT SELECT ON signing_keys TO PUBLIC",
    "a sequence": "CREATE SEQUENCE more",
    "an owned sequence": "CREATE SEQUENCE more OWNED BY plans.warm",
    "a migration": "UPDATE tenantry_migrations SET checksum = 'x' WHERE number = 1",
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_any_other_schema_is_told_apart(migrated: Database, change: str) -> None:
    with migrated.connect(options=f"-c search_path={SCHEMA}") as conn, conn.transaction(force_rollback=True):
        conn.execute(change)
        found = faults(read(conn), SNAPSHOT.read_text("utf-8"), PAGE.read_text("utf-8"))
    assert found[0] == (
        "src/tenantry/catalog/schema.sql is not what the migrations make; run: python -m tools.catalog_schema --write"
    )


# The page: its form is written, its words are kept


def page_of(migrated: Database, before: str) -> tuple[str, list[str]]:
    with migrated.connect() as conn:
        return render_page(read(conn).tables, before)


def test_a_page_without_words_says_of_everything_that_words_are_missing(migrated: Database) -> None:
    page, silent = page_of(migrated, f"# Title\n\n{BEGIN}{END}The end.\n")
    assert page.startswith(f"# Title\n\n{BEGIN}")
    assert page.endswith(f"{END}The end.\n")
    assert {"house", "house.key_type", "library_keys.kid"} <= set(silent)
    with migrated.connect() as conn:
        assert f"docs/reference/catalog.md does not say what {silent[0]} is; put a sentence there" in faults(
            read(conn), SNAPSHOT.read_text("utf-8"), page
        )


def test_what_people_wrote_is_kept_and_what_is_gone_is_left_out(migrated: Database) -> None:
    empty, _ = page_of(migrated, BEGIN + END)
    row, purpose = "| `key_type` | `text` | ? |", "### `house`\n\n?\n"
    assert row in empty
    assert purpose in empty
    written = empty.replace(row, "| `key_type` | `int` | The type, `a` or **b**. |")
    written = written.replace(purpose, "### `house`\n\nOne row.\n\nAnd a second paragraph.\n")
    written = written.replace("### `plans`", "### `gone`\n\nA table that was.\n\n| column | x |\n|--|\n\n### `plans`")
    page, silent = page_of(migrated, written)
    assert "| `key_type` | `text` | The type, `a` or **b**. |" in page
    assert "One row.\n\nAnd a second paragraph.\n\n| column" in page
    assert "gone" not in page
    assert "house" not in silent
    assert "house.key_type" not in silent
    assert page_of(migrated, page) == (page, silent)


def test_a_page_without_its_marks_is_an_error(migrated: Database) -> None:
    for page in ("", BEGIN, END + BEGIN):
        with pytest.raises(ValueError, match="the page needs the marks"):
            page_of(migrated, page)


# The command


def test_it_checks_and_writes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    snapshot, page = tmp_path / "schema.sql", tmp_path / "catalog.md"
    snapshot.write_text("")
    page.write_text(PAGE.read_text("utf-8").replace("may be null", "may be whatever"))
    monkeypatch.setattr(catalog_schema, "ROOT", tmp_path)
    monkeypatch.setattr(catalog_schema, "SNAPSHOT", snapshot)
    monkeypatch.setattr(catalog_schema, "PAGE", page)
    schema = catalog_schema.build()
    monkeypatch.setattr(catalog_schema, "build", lambda: schema)  # a server for each call would tell nothing more
    assert catalog_schema.main(["--check"]) == 1
    assert "schema.sql is not what" in capsys.readouterr().err
    assert catalog_schema.main(["--write"]) == 0
    assert snapshot.read_text("utf-8") == SNAPSHOT.read_text("utf-8")
    assert page.read_text("utf-8") == PAGE.read_text("utf-8")
    assert catalog_schema.main(["--check"]) == 0


def test_without_a_server_it_says_that_nothing_was_looked_at(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TENANTRY_PG_BIN", str(tmp_path))
    assert catalog_schema.main(["--check"]) == 2
    assert "nothing was looked at" in capsys.readouterr().err
