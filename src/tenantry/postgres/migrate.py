"""Numbered SQL migrations of a schema: ``0001_what.sql``, ``0002_what.sql``...

Each runs in a transaction of its own together with its row in the schema's table ``tenantry_migrations``. A lock on it
lets one runner in at a time. What has been applied is compared by checksum: a file that was changed afterwards is
refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources.abc import Traversable

from psycopg import AsyncConnection, errors, sql

from tenantry.errors import InvalidSettings, ServerUnsuitable

TABLE = "tenantry_migrations"

_FILE = re.compile(r"([0-9]{4})_([a-z0-9_]+)\.sql", re.ASCII)


@dataclass(frozen=True, slots=True)
class Migration:
    """One file: its number, its name and its SQL."""

    number: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        """SHA-256 of the SQL, hex."""
        return sha256(self.sql.encode()).hexdigest()


def read(folder: Traversable) -> list[Migration]:
    """The migrations of a folder in order.

    Raises:
        InvalidSettings: a file's name has another form, or the numbers have gaps or repeat.
    """
    found = []
    for entry in folder.iterdir():
        if not entry.name.endswith(".sql"):
            continue
        match = _FILE.fullmatch(entry.name)
        if match is None:
            raise InvalidSettings(
                f"migration {entry.name!r} has no number", where=str(folder), hint="name it like 0001_what_it_does.sql"
            )
        found.append(Migration(int(match[1]), match[2], entry.read_text("utf-8")))
    found.sort(key=lambda migration: migration.number)
    if [migration.number for migration in found] != list(range(1, len(found) + 1)):
        raise InvalidSettings(
            f"the migrations are numbered {[migration.number for migration in found]}",
            where=str(folder),
            hint="number them 0001, 0002, ... without gaps",
        )
    return found


def version(migrations: Sequence[Migration]) -> str:
    """A text that differs when any migration differs: the last number and a checksum over all."""
    digest = sha256("".join(migration.checksum for migration in migrations).encode()).hexdigest()[:12]
    return f"{len(migrations):04}-{digest}"


async def apply(conn: AsyncConnection, schema: str, migrations: Sequence[Migration]) -> list[Migration]:
    """Bring a schema up to date and return what was applied.

    Args:
        conn: an autocommit connection whose role may create in the database.
        schema: made if it is not there; first in the search path while a migration runs.
        migrations: all of them, in order.

    Raises:
        ServerUnsuitable: the schema is newer than these migrations, or an applied one has been changed.
    """
    table = sql.Identifier(schema, TABLE)
    await _make_table(conn, schema, table)
    _compare(schema, await _applied(conn, table), migrations)
    done = []
    for migration in migrations:
        async with conn.transaction():
            await conn.execute(sql.SQL("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE").format(table))
            if migration.number not in await _applied(conn, table):
                await _run(conn, schema, table, migration)
                done.append(migration)
    return done


async def _make_table(conn: AsyncConnection, schema: str, table: sql.Identifier) -> None:
    """Two runners may be here at once: the second waits for the first and finds the table made."""
    has_schema = await (await conn.execute("SELECT to_regnamespace(quote_ident(%s))", (schema,))).fetchone()
    try:
        if has_schema == (None,):
            await conn.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))
        await conn.execute(
            sql.SQL(
                "CREATE TABLE IF NOT EXISTS {} (number int PRIMARY KEY, name text NOT NULL,"
                " checksum text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
            ).format(table)
        )
    except (errors.UniqueViolation, errors.DuplicateSchema, errors.DuplicateTable):
        await _make_table(conn, schema, table)


async def _applied(conn: AsyncConnection, table: sql.Identifier) -> dict[int, str]:
    rows = await conn.execute(sql.SQL("SELECT number, checksum FROM {}").format(table))
    return dict(await rows.fetchall())


def _compare(schema: str, applied: dict[int, str], migrations: Sequence[Migration]) -> None:
    known = {migration.number: migration for migration in migrations}
    for number, checksum in sorted(applied.items()):
        if number not in known:
            raise ServerUnsuitable(
                f"schema {schema} is at migration {number}, which this version does not know",
                hint="run the version that made it, or a later one",
            )
        if known[number].checksum != checksum:
            raise ServerUnsuitable(
                f"migration {number:04}_{known[number].name} has changed since schema {schema} applied it",
                hint="restore the file, and put the change into a new migration",
            )


async def _run(conn: AsyncConnection, schema: str, table: sql.Identifier, migration: Migration) -> None:
    await conn.execute(sql.SQL("SET LOCAL search_path = {}, pg_temp").format(sql.Identifier(schema)))
    await conn.execute(migration.sql)
    await conn.execute(
        sql.SQL("INSERT INTO {} (number, name, checksum) VALUES (%s, %s, %s)").format(table),
        (migration.number, migration.name, migration.checksum),
    )
