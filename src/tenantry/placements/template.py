"""The template: where the application's tables come from, so that every space has the same ones.

``sql:FOLDER`` is a folder of numbered SQL files, ``sqlalchemy:MODULE:METADATA`` a ``MetaData`` object, ``alembic:FILE``
an Alembic configuration. Each brings a schema up to date from whatever state it is in, with that schema first in the
search path.

Migrations run as ``tenantry_admin``: it may do what the owner of the tables may, and sees the rows of all tenants, so
that a migration can change data as well. What it makes belongs to ``tenantry_owner`` when its transaction commits.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import importlib.util
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import psycopg
from psycopg import sql

from tenantry.errors import InvalidSettings, MissingDependency, OperationFailed, TenantryError
from tenantry.perimeter.binder import OWNER
from tenantry.postgres import migrate
from tenantry.postgres.connect import connect, merge_dsn

if TYPE_CHECKING:
    from sqlalchemy import Connection, MetaData

LOCK_SECONDS = 10
"""How long a migration waits for a lock on a table that the application uses: meanwhile the application waits too."""

HAND_OVER = sql.SQL(f"REASSIGN OWNED BY CURRENT_USER TO {OWNER}")

_SHOWN = 200


class Template(Protocol):
    """A source of the application's tables."""

    def version(self) -> str:
        """A text that changes when the tables do."""
        ...

    async def apply(self, dsn: str, schema: str) -> None:
        """Bring a schema up to date.

        Args:
            dsn: the database, with the login of ``tenantry_admin``.
            schema: exists, and the owner may create in it.

        Raises:
            OperationFailed: the application's migrations failed.
            ServerUnsuitable: the schema is newer than they are, or one of them was changed after it had run.
        """
        ...


async def apply_new(template: Template, dsn: str, schemas: Sequence[str]) -> None:
    """Make the tables in schemas of one database that are empty: in one transaction if the template can, else one after
    the other.

    Raises:
        As :meth:`Template.apply`.
    """
    if isinstance(template, SqlFolder):
        await template.apply_new(dsn, schemas)
        return
    for schema in schemas:
        await template.apply(dsn, schema)


def parse_template(spec: str | None) -> Template:
    """The template that a setting names; None: no tables at all.

    Raises:
        InvalidSettings: another form, or what it names is not there.
    """
    if spec is None:
        return NoTables()
    kind, _, rest = spec.partition(":")
    match kind:
        case "sql" if rest:
            return SqlFolder(Path(rest))
        case "sqlalchemy" if ":" in rest:
            return Metadata(*rest.split(":", 1))
        case "alembic" if rest:
            return Alembic(Path(rest))
    raise InvalidSettings(
        f"template {spec!r} has no known form",
        hint="use 'sql:FOLDER', 'sqlalchemy:MODULE:METADATA' or 'alembic:FILE'",
    )


def _inside(dsn: str, schema: str) -> str:
    """The DSN of a connection that works in one schema."""
    return merge_dsn(dsn, options=f"-c search_path={schema},pg_temp -c lock_timeout={LOCK_SECONDS}s")


class NoTables:
    """A house whose tables are made by somebody else."""

    VERSION = "none"

    def version(self) -> str:
        """Always the same."""
        return self.VERSION

    async def apply(self, dsn: str, schema: str) -> None:
        """Nothing to do."""


class SqlFolder:
    """Numbered SQL files, run in order, each once per schema."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise InvalidSettings(f"the template folder {str(folder)!r} does not exist", hint="set 'template'")
        self._folder = folder

    def version(self) -> str:
        """The last number and a checksum over all files."""
        return migrate.version(migrate.read(self._folder))

    async def apply(self, dsn: str, schema: str) -> None:
        """Run the files that the schema has not seen."""
        conn = await connect(_inside(dsn, schema))
        try:
            await migrate.apply(conn, schema, migrate.read(self._folder), finish=HAND_OVER)
            await conn.execute(HAND_OVER)
        except psycopg.Error as error:
            raise _refused(error) from error
        finally:
            await conn.close()

    async def apply_new(self, dsn: str, schemas: Sequence[str]) -> None:
        """Run all files for all of the schemas, in one transaction."""
        conn = await connect(_inside(dsn, schemas[0]))
        try:
            await migrate.apply_new(conn, schemas, migrate.read(self._folder), finish=HAND_OVER)
        except psycopg.Error as error:
            raise _refused(error) from error
        finally:
            await conn.close()


class Metadata:
    """SQLAlchemy's ``MetaData``. It makes tables that are missing; a table that has changed needs a migration tool."""

    def __init__(self, module: str, name: str) -> None:
        self._module = module
        self._name = name

    def _load(self) -> MetaData:
        if importlib.util.find_spec("sqlalchemy") is None:
            raise MissingDependency("sqlalchemy", "sqlalchemy")
        from sqlalchemy import MetaData

        found = self._import()
        if not isinstance(found, MetaData):
            hint = f"name its metadata: '{self._name}.metadata'" if hasattr(found, "metadata") else "set 'template'"
            raise self._wrong(f"is a {type(found).__name__}, not a MetaData", hint)
        for table in found.tables.values():
            if table.schema is not None:
                hint = "leave the schema out: the binding's search path leads to each tenant's tables"
                raise self._wrong(f"puts the table {table.name} into the schema {table.schema}", hint)
        return found

    def _import(self) -> Any:
        folder = str(Path.cwd())
        sys.path.insert(0, folder)
        try:
            found: Any = importlib.import_module(self._module)
            for part in self._name.split("."):
                found = getattr(found, part)
        except Exception as error:  # the application's own modules may raise anything
            raise self._wrong(f"can't be imported: {type(error).__name__}: {error}", "set 'template'") from error
        finally:
            sys.path.remove(folder)
        return found

    def _wrong(self, what: str, hint: str) -> InvalidSettings:
        return InvalidSettings(f"the template {self._module}:{self._name} {what}", hint=hint)

    def version(self) -> str:
        """A checksum over the statements that make the tables."""
        from sqlalchemy.dialects import postgresql
        from sqlalchemy.schema import CreateIndex, CreateTable

        dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
        parts = []
        for _, table in sorted(self._load().tables.items()):
            parts.append(str(CreateTable(table).compile(dialect=dialect)))
            parts += sorted(str(CreateIndex(index).compile(dialect=dialect)) for index in table.indexes)
        return hashlib.sha256("".join(parts).encode()).hexdigest()[:16]

    async def apply(self, dsn: str, schema: str) -> None:
        """Make the tables that are missing.

        Raises:
            OperationFailed: a table is there but lacks columns, or a statement failed.
        """
        await asyncio.to_thread(self._apply, _inside(dsn, schema), schema)

    def _apply(self, dsn: str, schema: str) -> None:
        from sqlalchemy import create_engine
        from sqlalchemy.exc import DBAPIError
        from sqlalchemy.pool import NullPool

        metadata = self._load()
        engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(dsn), poolclass=NullPool)
        try:
            with engine.begin() as conn:
                metadata.create_all(conn)
                _check_columns(conn, metadata, schema)
                conn.exec_driver_sql(HAND_OVER.as_string())
        except DBAPIError as error:
            raise _refused(error.orig or error, error.statement) from error.orig


def _check_columns(conn: Connection, metadata: MetaData, schema: str) -> None:
    from sqlalchemy import inspect

    inspector = inspect(conn)
    for table in metadata.tables.values():
        there = {column["name"] for column in inspector.get_columns(table.name, schema=schema)}
        if missing := sorted({column.name for column in table.columns} - there):
            raise OperationFailed(
                f"the table {table.name} lacks the columns {', '.join(missing)}",
                where=f"schema {schema}",
                hint="create_all() does not alter tables: use Alembic or SQL files as the template",
            )


class Alembic:
    """Alembic's revisions, brought to their heads. Each run has a process of its own: Alembic keeps global state."""

    def __init__(self, config: Path) -> None:
        if not config.is_file():
            raise InvalidSettings(f"the Alembic configuration {str(config)!r} does not exist", hint="set 'template'")
        self._config = config

    def version(self) -> str:
        """The ids of the heads."""
        try:
            from alembic.config import Config
            from alembic.script import ScriptDirectory
        except ImportError:
            raise MissingDependency("alembic", "alembic") from None
        try:
            heads = ScriptDirectory.from_config(Config(str(self._config))).get_heads()
        except Exception as error:  # the revisions are the application's own modules
            what = f"the Alembic configuration {str(self._config)!r} can't be read: {error}"
            raise InvalidSettings(what, hint=f"run 'alembic --config {self._config} heads' to see why") from error
        return ",".join(sorted(heads)) or "empty"

    async def apply(self, dsn: str, schema: str) -> None:
        """Upgrade a schema to the heads."""
        task = {
            "config": str(self._config),
            "dsn": _inside(dsn, schema),
            "schema": schema,
            "finish": HAND_OVER.as_string(),
        }
        failure = await self._run(json.dumps(task).encode())
        conn = await connect(_inside(dsn, schema))
        try:
            await conn.execute(HAND_OVER)  # also what was not made in a transaction
        finally:
            await conn.close()
        if failure is not None:
            raise failure

    async def _run(self, task: bytes) -> TenantryError | None:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tenantry.placements.alembic_upgrade",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            answer, said = await process.communicate(task)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        try:
            told = json.loads(answer)
        except ValueError:
            last = said.decode(errors="replace").strip().splitlines()[-1:] or ["no word"]
            return OperationFailed(f"alembic ended with the status {process.returncode}: {last[0]}")
        return None if told is None else _alembic_failure(told)


def _alembic_failure(told: dict[str, Any]) -> OperationFailed:
    place = f" in {told['where']}" if told["where"] else ""
    failure = OperationFailed(f"alembic upgrade failed{place}: {told['message']}{_shown(told['statement'])}")
    if told["is_passing"]:
        failure.__cause__ = psycopg.OperationalError(told["message"])
    return failure


def _refused(error: BaseException, statement: str | None = None) -> OperationFailed:
    reason = str(error).strip().partition("\n")[0]
    return OperationFailed(f"the template can't be applied: {reason}{_shown(statement)}")


def _shown(statement: str | None) -> str:
    text = " ".join((statement or "").split())
    if not text:
        return ""
    return f": {text if len(text) <= _SHOWN else text[:_SHOWN] + '...'}"
