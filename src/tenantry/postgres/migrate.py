"""Numbered SQL migrations of a schema: ``0001_what.sql``, ``0002_what.sql``...

Each runs in a transaction of its own together with its row in the schema's table ``migrations``. An advisory lock lets
one runner in at a time. What has been applied is compared by checksum: a file that was changed afterwards is refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources.abc import Traversable

from psycopg import AsyncConnection, sql

from tenantry.errors import InvalidSettings, ServerUnsuitable

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
    name = sql.Identifier(schema)
    await conn.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", (f"tenantry migrate {schema}",))
    try:
        await conn.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(name))
        await conn.execute(
            sql.SQL(
                "CREATE TABLE IF NOT EXISTS {}.migrations (number int PRIMARY KEY, name text NOT NULL,"
                " checksum text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
            ).format(name)
        )
        rows = await conn.execute(sql.SQL("SELECT number, checksum FROM {}.migrations").format(name))
        applied: dict[int, str] = dict(await rows.fetchall())
        _compare(schema, applied, migrations)
        pending = [migration for migration in migrations if migration.number not in applied]
        for migration in pending:
            await _run(conn, schema, migration)
        return pending
    finally:
        await conn.execute("SELECT pg_advisory_unlock(hashtextextended(%s, 0))", (f"tenantry migrate {schema}",))


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


async def _run(conn: AsyncConnection, schema: str, migration: Migration) -> None:
    name = sql.Identifier(schema)
    async with conn.transaction():
        await conn.execute(sql.SQL("SET LOCAL search_path = {}, pg_temp").format(name))
        await conn.execute(migration.sql)
        await conn.execute(
            sql.SQL("INSERT INTO {}.migrations (number, name, checksum) VALUES (%s, %s, %s)").format(name),
            (migration.number, migration.name, migration.checksum),
        )
