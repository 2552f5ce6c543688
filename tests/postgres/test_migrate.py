from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from tenantry.errors import InvalidSettings, OperationFailed, ServerUnsuitable
from tenantry.postgres.connect import connect
from tenantry.postgres.migrate import apply, read, version
from tests.fixtures.servers import Database

pytestmark = pytest.mark.anyio

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes migrations into a folder: ``write("CREATE ...", "ALTER ...")`` from number 1 on."""

    def write(*texts: str | bytes, start: int = 1) -> Path:
        for number, text in enumerate(texts, start):
            (tmp_path / f"{number:04}_m{number}.sql").write_bytes(text if isinstance(text, bytes) else text.encode())
        return tmp_path

    return write


async def run(database: Database, folder: Path, **options: sql.SQL) -> list[int]:
    conn = await connect(database.dsn())
    try:
        return [migration.number for migration in await apply(conn, "app", read(folder), **options)]
    finally:
        await conn.close()


def tables(database: Database) -> set[str]:
    with database.connect() as conn:
        rows = conn.execute("SELECT relname FROM pg_class WHERE relnamespace = 'app'::regnamespace AND relkind = 'r'")
        return {name for (name,) in rows} - {"tenantry_migrations"}


async def test_each_migration_runs_once(database: Database, write: Write) -> None:
    folder = write("CREATE TABLE a ()", "CREATE TABLE b ()")
    assert await run(database, folder) == [1, 2]
    assert await run(database, folder) == []
    write("CREATE TABLE c ()", start=3)
    assert await run(database, folder) == [3]
    assert tables(database) == {"a", "b", "c"}


async def test_a_file_without_a_statement_is_a_migration_too(database: Database, write: Write) -> None:
    assert await run(database, write("-- later\n", "")) == [1, 2]


FAILING = {
    "second statement": ("CREATE TABLE b ();\nCREATE TABLE b ();", "already exists: line 2: CREATE TABLE b"),
    "constraint": ("SELECT 1; -- one\n\nALTER TABLE a\n  ADD CHECK (n > 1);", "line 3: ALTER TABLE a ADD CHECK"),
    "unknown column": ("SELECT 1; SELECT m FROM a; SELECT 2", "line 1: SELECT m FROM a$"),
    "syntax": ("SELECT 1;\nCREATE TABEL b ();\nSELECT 2;", r'near "TABEL": line 2: CREATE TABEL b \(\)$'),
    "inside of a block": ("SELECT 1;\nDO $$ BEGIN\n  RAISE EXCEPTION 'not; today'; END $$;", "not; today: line 2: DO"),
    "copy": ("COPY a FROM STDIN", "copies from or to a client"),
    "commit": ("CREATE TABLE b ();\nCOMMIT;", "has a transaction of its own: line 2: COMMIT"),
    "begin": ("BEGIN; CREATE TABLE b ();", "has a transaction of its own: line 1: BEGIN"),
    "concurrently": (
        "CREATE INDEX CONCURRENTLY ON a (n)",
        "cannot run inside a transaction block: line 1: CREATE INDEX",
    ),
}


@pytest.mark.parametrize(("text", "message"), FAILING.values(), ids=FAILING)
async def test_a_failure_names_the_statement_and_leaves_nothing_of_its_migration(
    database: Database, write: Write, text: str, message: str
) -> None:
    folder = write("CREATE TABLE a (n int); INSERT INTO a VALUES (1)", text)
    with pytest.raises(OperationFailed, match=message) as caught:
        await run(database, folder)
    assert caught.value.message.startswith("migration 0002_m2 ")
    assert caught.value.where == "schema app"
    assert tables(database) == {"a"}
    write("CREATE TABLE b ()", start=2)
    assert await run(database, folder) == [2]


async def test_a_long_statement_is_cut(database: Database, write: Write) -> None:
    with pytest.raises(OperationFailed) as caught:
        await run(database, write("SELECT nothing, " + "1, " * 5000 + "1"))
    assert len(caught.value.message) < 400


async def test_savepoints_are_allowed(database: Database, write: Write) -> None:
    folder = write("SAVEPOINT s; CREATE TABLE a (); ROLLBACK TO s; CREATE TABLE b ();")
    assert await run(database, folder) == [1]
    assert tables(database) == {"b"}


async def test_the_last_statement_belongs_to_each_migrations_transaction(database: Database, write: Write) -> None:
    finish = sql.SQL("SELECT 1 / (1 - count(*)) FROM pg_class WHERE relname = 'b' AND pg_table_is_visible(oid)")
    with pytest.raises(psycopg.errors.DivisionByZero):
        await run(database, write("CREATE TABLE b ()"), finish=finish)
    assert tables(database) == set()
    assert await run(database, write("CREATE TABLE a ()"), finish=finish) == [1]


async def test_a_migration_that_was_changed_afterwards_is_refused(database: Database, write: Write) -> None:
    folder = write("CREATE TABLE a ()")
    await run(database, folder)
    with pytest.raises(ServerUnsuitable, match="0001_m1 has changed since"):
        await run(database, write("CREATE TABLE b ()"))
    (folder / "0001_m1.sql").unlink()
    with pytest.raises(ServerUnsuitable, match="at migration 1, which this version does not know"):
        await run(database, folder)


def test_numbers_have_no_gaps(write: Write) -> None:
    with pytest.raises(InvalidSettings, match=r"numbered \[2, 3\]") as caught:
        read(write("", "", start=2))
    assert caught.value.hint == "number them 0001, 0002, ... without gaps"


def test_a_number_is_nobody_elses(tmp_path: Path) -> None:
    for name in ("0001_a.sql", "0001_b.sql"):
        (tmp_path / name).touch()
    with pytest.raises(InvalidSettings, match=r"numbered \[1, 1\]"):
        read(tmp_path)


@pytest.mark.parametrize("name", ["1_a.sql", "0001-a.sql", "0001_A.sql", "０００１_a.sql", "shop.sql"])
def test_a_name_has_a_form(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(InvalidSettings, match="has no number"):
        read(tmp_path)


def test_other_files_are_passed_over(write: Write) -> None:
    folder = write("")
    (folder / "README.md").touch()
    assert len(read(folder)) == 1


@pytest.mark.parametrize("text", [b"SELECT '\xff'", b"SELECT 1\x00; DROP TABLE a"])
def test_a_file_is_a_text(write: Write, text: bytes) -> None:
    with pytest.raises(InvalidSettings, match=r"'0001_m1\.sql'"):
        read(write(text))


def test_the_version_tells_any_change(write: Write) -> None:
    versions = {version(read(write(text))) for text in ("", "SELECT 1", "SELECT 2")}
    versions.add(version(read(write("", start=2))))
    assert len(versions) == 4
