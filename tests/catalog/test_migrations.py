"""The catalog's migrations: run by two at once, broken off, tampered with."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tenantry.catalog.store import SCHEMA, CatalogStore
from tenantry.errors import InvalidSettings, ServerUnsuitable, TenantryError
from tenantry.postgres import migrate
from tenantry.postgres.connect import connect
from tenantry.postgres.migrate import TABLE, Migration
from tenantry.postgres.server import THROWAWAY, LocalServer
from tests.fixtures.servers import Database
from tests.upgrade.catalogs import MIGRATIONS, apply, fill, rows
from tools.catalog_schema import read

LATEST = len(MIGRATIONS)
NAMES = [f"{each.number:04}_{each.name}" for each in MIGRATIONS]


def run(database: Database, query: str) -> None:
    with database.connect(options=f"-c search_path={SCHEMA}") as conn:
        conn.execute(query)


async def together(dsns: Sequence[str]) -> list[list[Migration]]:
    """Runners that begin at the same moment, each with a connection that is there already."""
    conns = await asyncio.gather(*(connect(dsn) for dsn in dsns))
    try:
        return await asyncio.gather(*(migrate.apply(conn, SCHEMA, MIGRATIONS) for conn in conns))
    finally:
        for conn in conns:
            await conn.close()


def test_a_catalog_is_made_once_and_then_left_alone(database: Database) -> None:
    store = CatalogStore(database.dsn())
    assert asyncio.run(store.migrate()) == NAMES
    assert asyncio.run(store.migrate()) == []
    with database.connect() as conn:
        found = conn.execute(f"SELECT number, name, checksum FROM {SCHEMA}.{TABLE} ORDER BY number").fetchall()
    assert found == [(each.number, each.name, each.checksum) for each in MIGRATIONS]


def test_runners_that_begin_at_once_apply_each_migration_once(database: Database) -> None:
    done = asyncio.run(together([database.dsn()] * 5))
    assert sorted(each.number for one in done for each in one) == list(range(1, LATEST + 1))
    with database.connect() as conn:
        assert len(read(conn).migrations) == LATEST


def test_two_catalogs_on_one_server_can_be_made_at_once() -> None:
    """They share a role, and the first to come makes it."""
    with LocalServer(settings=THROWAWAY) as server, psycopg.connect(server.dsn(), autocommit=True) as conn:
        for _ in range(2):
            names = [f"catalog_{n}" for n in range(3)]
            for name in names:
                conn.execute(f"CREATE DATABASE {name}")
            done = asyncio.run(together([server.dsn(name) for name in names]))
            assert [len(one) for one in done] == [LATEST] * 3
            for name in names:
                conn.execute(f"DROP DATABASE {name} WITH (FORCE)")
            conn.execute("DROP ROLE tenantry_library")


@pytest.mark.parametrize("number", range(1, LATEST + 1))
def test_a_migration_that_fails_leaves_nothing_behind_and_can_be_run_again(database: Database, number: int) -> None:
    broken = [replace(each, sql=f"{each.sql}\nSELECT 1 / 0;") if each.number == number else each for each in MIGRATIONS]
    with pytest.raises((psycopg.errors.DivisionByZero, TenantryError)):
        apply(database.dsn(), broken)
    with database.connect() as conn:
        assert [each[0] for each in read(conn).migrations] == list(range(1, number))
    fill(database, number - 1)
    before = rows(database)
    assert apply(database.dsn(), MIGRATIONS) == list(range(number, LATEST + 1))
    after = rows(database)
    assert {table: [_kept(row, before[table]) for row in after[table]] for table in before} == before


def _kept(row: dict[str, Any], before: list[dict[str, Any]]) -> dict[str, Any]:
    """A row without the columns that have been added."""
    return {name: value for name, value in row.items() if name in before[0]} if before else row


@pytest.mark.parametrize("number", range(1, LATEST + 1))
def test_a_runner_that_is_killed_in_the_middle_is_made_up_for(database: Database, number: int) -> None:
    suicidal = "SELECT pg_terminate_backend(pg_backend_pid());"
    killed = [replace(each, sql=f"{each.sql}\n{suicidal}") if each.number == number else each for each in MIGRATIONS]
    with pytest.raises((psycopg.OperationalError, TenantryError)):
        apply(database.dsn(), killed)
    assert apply(database.dsn(), MIGRATIONS) == list(range(number, LATEST + 1))


@pytest.mark.parametrize("number", range(1, LATEST + 1))
def test_a_migration_that_was_changed_after_it_was_applied_is_refused(database: Database, number: int) -> None:
    changed = [replace(each, sql=f"{each.sql}\n-- !") if each.number == number else each for each in MIGRATIONS]
    apply(database.dsn(), changed)
    with pytest.raises(ServerUnsuitable, match=f"migration {NAMES[number - 1]} has changed") as caught:
        asyncio.run(CatalogStore(database.dsn()).migrate())
    assert caught.value.hint == "restore the file, and put the change into a new migration"


def test_a_catalog_of_a_later_version_is_refused_and_left_alone(database: Database) -> None:
    later = Migration(LATEST + 1, "later", "CREATE TABLE later ();")
    apply(database.dsn(), [*MIGRATIONS, later])
    with pytest.raises(ServerUnsuitable, match=f"is at migration {LATEST + 1}, which this version does not know") as e:
        asyncio.run(CatalogStore(database.dsn()).migrate())
    assert e.value.hint == "run the version that made it, or a later one"
    with database.connect() as conn:
        assert len(read(conn).migrations) == LATEST + 1


@pytest.mark.parametrize("number", range(1, LATEST))
def test_a_gap_in_what_was_applied_is_refused(database: Database, number: int) -> None:
    apply(database.dsn(), MIGRATIONS)
    run(database, f"DELETE FROM {TABLE} WHERE number = {number}")
    with pytest.raises(ServerUnsuitable, match=f"up to {LATEST}, but not {number}") as caught:
        asyncio.run(CatalogStore(database.dsn()).migrate())
    assert caught.value.where == f"{SCHEMA}.{TABLE}"
    assert "backup" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("files", "match"),
    [
        (("0001_a.sql", "0003_c.sql"), r"numbered \[1, 3\]"),
        (("0002_b.sql",), r"numbered \[2\]"),
        (("0001_a.sql", "0001_b.sql"), r"numbered \[1, 1\]"),
        (("0001_a.sql", "2_b.sql"), "'2_b.sql' has no number"),
        (("0001_a.sql", "0002-b.sql"), "'0002-b.sql' has no number"),
        (("0001_a.sql", "٠٠٠٢_b.sql"), "has no number"),
    ],
)
def test_files_that_are_not_numbered_one_by_one_are_refused(tmp_path: Path, files: tuple[str, ...], match: str) -> None:
    for name in files:
        (tmp_path / name).write_text("SELECT 1;")
    with pytest.raises(InvalidSettings, match=match) as caught:
        migrate.read(tmp_path)
    assert caught.value.where == str(tmp_path)
    assert "0001" in str(caught.value.hint)
