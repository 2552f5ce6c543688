"""Catalogs at any version, with data in them, and what can be compared of them."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from tenantry.catalog.store import SCHEMA
from tenantry.postgres import migrate
from tenantry.postgres.connect import connect
from tenantry.postgres.migrate import TABLE, Migration
from tests.fixtures.servers import Database

DATA = Path(__file__).parent / "data"
MIGRATIONS = migrate.read(files("tenantry.catalog").joinpath("migrations"))
"""The numbered files, as they are shipped."""

Rows = dict[str, list[dict[str, Any]]]


def apply(dsn: str, migrations: Sequence[Migration]) -> list[int]:
    """Run a runner; the numbers of what it applied."""

    async def run() -> list[int]:
        conn = await connect(dsn)
        try:
            return [each.number for each in await migrate.apply(conn, SCHEMA, migrations)]
        finally:
            await conn.close()

    return asyncio.run(run())


def fill(database: Database, version: int) -> None:
    """Put in the data of this version and of those before it."""
    with database.connect(options=f"-c search_path={SCHEMA}") as conn:
        for each in MIGRATIONS[:version]:
            file = DATA / f"{each.number:04}_{each.name}.sql"
            if file.exists():
                conn.execute(file.read_bytes())


def rows(database: Database) -> Rows:
    """All rows of all tables but the list of migrations, in an order of their own."""
    with database.connect(options=f"-c search_path={SCHEMA}") as conn:
        return {table: sorted(_rows(conn, table), key=repr) for table in _tables(conn) if table != TABLE}


def _tables(conn: psycopg.Connection) -> list[str]:
    found = conn.execute("SELECT tablename FROM pg_tables WHERE schemaname = %s ORDER BY tablename", (SCHEMA,))
    return [name for (name,) in found]


def _rows(conn: psycopg.Connection, table: str) -> list[dict[str, Any]]:
    query = sql.SQL("SELECT to_jsonb(t) FROM {} t").format(sql.Identifier(table))
    return [row for (row,) in conn.execute(query)]


def dump(database: Database) -> str:
    """The schema as ``pg_dump`` sees it; skips the test where that program is not installed beside the server."""
    program = database.server.binaries.tool("pg_dump")
    if not program.exists():
        pytest.skip(f"there is no pg_dump in {program.parent}")
    command = [str(program), "--schema-only", f"--schema={SCHEMA}", f"--dbname={database.dsn()}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return "\n".join(line for line in done.stdout.splitlines() if line and not line.startswith(("--", "\\")))
