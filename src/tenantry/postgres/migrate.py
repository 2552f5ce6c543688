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

from psycopg import AsyncConnection, errors, generators, pq, sql
from psycopg.abc import PQGen

from tenantry.errors import InvalidSettings, OperationFailed, ServerUnsuitable
from tenantry.postgres.statements import Statement, split

TABLE = "tenantry_migrations"

_TABLE = """CREATE TABLE IF NOT EXISTS {} (number int PRIMARY KEY, name text NOT NULL, checksum text NOT NULL,
  applied_at timestamptz NOT NULL DEFAULT now())"""

_SHOWN = 200
_ENDS = re.compile(
    r"(begin|start\s+transaction|commit|end|rollback(?!\s+to\b)|abort|prepare\s+transaction)\b", re.IGNORECASE
)
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
        found.append(Migration(int(match[1]), match[2], _text(entry)))
    found.sort(key=lambda migration: migration.number)
    if [migration.number for migration in found] != list(range(1, len(found) + 1)):
        raise InvalidSettings(
            f"the migrations are numbered {[migration.number for migration in found]}",
            where=str(folder),
            hint="number them 0001, 0002, ... without gaps",
        )
    return found


def _text(entry: Traversable) -> str:
    try:
        text = entry.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidSettings(f"migration {entry.name!r} is not UTF-8: {error.reason} at byte {error.start}") from None
    if "\0" in text:  # the server's protocol would end the text there
        raise InvalidSettings(f"migration {entry.name!r} holds a NUL character")
    return text


def version(migrations: Sequence[Migration]) -> str:
    """A text that differs when any migration differs: the last number and a checksum over all."""
    digest = sha256("".join(migration.checksum for migration in migrations).encode()).hexdigest()[:12]
    return f"{len(migrations):04}-{digest}"


async def apply(
    conn: AsyncConnection, schema: str, migrations: Sequence[Migration], *, finish: sql.SQL | None = None
) -> list[Migration]:
    """Bring a schema up to date and return what was applied.

    Args:
        conn: an autocommit connection whose role may create in the database.
        schema: made if it is not there; first in the search path while a migration runs.
        migrations: all of them, in order.
        finish: the last statement of each migration's transaction.

    Raises:
        ServerUnsuitable: the schema is newer than these migrations, or an applied one has been changed or left out.
        OperationFailed: a statement failed; those migrations that came before are applied.
    """
    table = sql.Identifier(schema, TABLE)
    await _make_table(conn, schema, table, finish)
    _compare(schema, await _applied(conn, table), migrations)
    done = []
    for migration in migrations:
        async with conn.transaction():
            await conn.execute(sql.SQL("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE").format(table))
            if migration.number not in await _applied(conn, table):
                await _run(conn, schema, table, migration)
                if finish is not None:
                    await conn.execute(finish)
                done.append(migration)
    return done


async def apply_new(
    conn: AsyncConnection, schemas: Sequence[str], migrations: Sequence[Migration], *, finish: sql.SQL
) -> None:
    """Run all migrations in schemas that are empty, all in one transaction.

    Args:
        conn, finish: as for :func:`apply`.

    Raises:
        OperationFailed: a statement failed, and nothing was done.
    """
    for migration in migrations:
        _refuse_transactions(schemas[0], migration, split(migration.sql))
    async with conn.transaction():
        for schema in schemas:
            results = await conn.wait(_send(conn.pgconn, _script(schema, migrations).encode(conn.info.encoding)))
            if results[-1].status != pq.ExecStatus.COMMAND_OK:
                raise errors.error_from_result(results[-1], encoding=conn.info.encoding)
        await conn.execute(finish)


def _script(schema: str, migrations: Sequence[Migration]) -> str:
    """All that makes an empty schema what it is to be. The search path is set again for each migration, which may have
    changed it."""
    table = sql.Identifier(schema, TABLE)
    path = sql.SQL("SET LOCAL search_path = {}, pg_temp").format(sql.Identifier(schema)).as_string(None)
    parts = [sql.SQL(_TABLE).format(table).as_string(None)]
    for migration in migrations:
        row = sql.SQL("INSERT INTO {} (number, name, checksum) VALUES ({}, {}, {})").format(
            table, migration.number, migration.name, migration.checksum
        )
        parts += [path, migration.sql, row.as_string(None)]
    return "\n;\n".join(parts)


async def _make_table(conn: AsyncConnection, schema: str, table: sql.Identifier, finish: sql.SQL | None = None) -> None:
    """Two runners may be here at once: the second waits for the first and finds the table made."""
    has_schema = await (await conn.execute("SELECT to_regnamespace(quote_ident(%s))", (schema,))).fetchone()
    try:
        async with conn.transaction():
            if has_schema == (None,):
                await conn.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))
            await conn.execute(sql.SQL(_TABLE).format(table))
            if finish is not None:  # here too: a runner in another schema must find nothing to hand over
                await conn.execute(finish)
    except (errors.UniqueViolation, errors.DuplicateSchema, errors.DuplicateTable):
        await _make_table(conn, schema, table, finish)


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
    missing = set(range(1, len(applied) + 1)) - set(applied)
    if missing:
        raise ServerUnsuitable(
            f"schema {schema} has applied migrations up to {max(applied)}, but not {min(missing)}",
            where=f"{schema}.{TABLE}",
            hint="restore the rows that were deleted there, or the schema from a backup",
        )


async def _run(conn: AsyncConnection, schema: str, table: sql.Identifier, migration: Migration) -> None:
    await conn.execute(sql.SQL("SET LOCAL search_path = {}, pg_temp").format(sql.Identifier(schema)))
    await _run_statements(conn, schema, migration)
    await conn.execute(
        sql.SQL("INSERT INTO {} (number, name, checksum) VALUES (%s, %s, %s)").format(table),
        (migration.number, migration.name, migration.checksum),
    )


async def _run_statements(conn: AsyncConnection, schema: str, migration: Migration) -> None:
    """All at once, in one round trip; the server answers each statement, so the one that failed is known."""
    statements = split(migration.sql)
    _refuse_transactions(schema, migration, statements)
    if not statements:
        return
    results = await conn.wait(_send(conn.pgconn, migration.sql.encode(conn.info.encoding)))
    if results[-1].status == pq.ExecStatus.FATAL_ERROR:
        error = errors.error_from_result(results[-1], encoding=conn.info.encoding)
        at = _failing(statements, len(results), error.diag.statement_position)
        what = f"failed: {str(error).strip().partition(chr(10))[0]}: {_shown(at)}"
        raise _failed(schema, migration, what, hint=error.diag.message_hint) from error
    if results[-1].status in (pq.ExecStatus.COPY_IN, pq.ExecStatus.COPY_OUT):
        await conn.close()
        raise _failed(schema, migration, "copies from or to a client", hint="use INSERT")


def _refuse_transactions(schema: str, migration: Migration, statements: Sequence[Statement]) -> None:
    for statement in statements:
        if _ENDS.match(statement.text):
            what = f"has a transaction of its own: {_shown(statement)}"
            raise _failed(schema, migration, what, hint="leave it out: each file runs in one transaction")


def _failing(statements: Sequence[Statement], results: int, position: str | None) -> Statement:
    """The server reads all of the text before it runs the first statement, so its position counts for more."""
    if position is not None:
        return [each for each in statements if each.start < int(position)][-1]
    return statements[min(results, len(statements)) - 1]


def _send(pgconn: pq.abc.PGconn, text: bytes) -> PQGen[list[pq.abc.PGresult]]:
    pgconn.send_query(text)
    results: list[pq.abc.PGresult] = yield from generators.execute(pgconn)
    return results


def _shown(statement: Statement) -> str:
    text = " ".join(statement.text.split())
    return f"line {statement.line}: {text if len(text) <= _SHOWN else text[:_SHOWN] + '...'}"


def _failed(schema: str, migration: Migration, what: str, *, hint: str | None) -> OperationFailed:
    return OperationFailed(
        f"migration {migration.number:04}_{migration.name} {what}", where=f"schema {schema}", hint=hint
    )
