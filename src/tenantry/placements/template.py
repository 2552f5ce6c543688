"""The template: where the application's tables come from, so that every space has the same ones.

``sql:FOLDER`` is a folder of numbered SQL files, ``sqlalchemy:MODULE:METADATA`` a ``MetaData`` object, ``alembic:FILE``
an Alembic configuration. Each brings a schema up to date from whatever state it is in, as the role that owns the
application's tables, with that schema first in the search path.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tenantry.errors import InvalidSettings, MissingDependency, OperationFailed
from tenantry.perimeter.binder import OWNER
from tenantry.postgres import migrate
from tenantry.postgres.connect import connect, merge_dsn

if TYPE_CHECKING:
    from sqlalchemy import MetaData


class Template(Protocol):
    """A source of the application's tables."""

    def version(self) -> str:
        """A text that changes when the tables do."""
        ...

    async def apply(self, dsn: str, schema: str) -> None:
        """Bring a schema up to date.

        Args:
            dsn: the database, with a login that may act as the owner of the application's tables.
            schema: exists, and the owner may create in it.

        Raises:
            OperationFailed: the application's migrations failed.
        """
        ...


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


def owner_dsn(dsn: str, schema: str) -> str:
    """The DSN of a connection that acts as the owner of the application's tables, in one schema."""
    return merge_dsn(dsn, options=f"-c role={OWNER} -c search_path={schema},pg_temp -c lock_timeout=10s")


class NoTables:
    """A house whose tables are made by somebody else."""

    def version(self) -> str:
        """Always the same."""
        return "none"

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
        conn = await connect(owner_dsn(dsn, schema))
        try:
            await migrate.apply(conn, schema, migrate.read(self._folder))
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
        sys.path.insert(0, str(Path.cwd()))
        try:
            target: Any = importlib.import_module(self._module)
            for part in self._name.split("."):
                target = getattr(target, part)
        except (ImportError, AttributeError) as error:
            raise InvalidSettings(
                f"the template {self._module}:{self._name} can't be imported: {error}", hint="set 'template'"
            ) from error
        finally:
            sys.path.pop(0)
        metadata: MetaData = target
        return metadata

    def version(self) -> str:
        """A checksum over the statements that make the tables."""
        from sqlalchemy.dialects import postgresql
        from sqlalchemy.schema import CreateIndex, CreateTable

        dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
        parts = []
        for table in self._load().sorted_tables:
            parts.append(str(CreateTable(table).compile(dialect=dialect)))
            parts += sorted(str(CreateIndex(index).compile(dialect=dialect)) for index in table.indexes)
        return hashlib.sha256("".join(parts).encode()).hexdigest()[:16]

    async def apply(self, dsn: str, schema: str) -> None:
        """Make the tables that are missing.

        Raises:
            OperationFailed: a table is there but lacks columns.
        """
        await asyncio.to_thread(self._apply, owner_dsn(dsn, schema), schema)

    def _apply(self, dsn: str, schema: str) -> None:
        import psycopg
        from sqlalchemy import create_engine, inspect
        from sqlalchemy.pool import NullPool

        metadata = self._load()
        engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(dsn), poolclass=NullPool)
        with engine.begin() as conn:
            metadata.create_all(conn)
            inspector = inspect(conn)
            for table in metadata.sorted_tables:
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
        return ",".join(sorted(ScriptDirectory.from_config(Config(str(self._config))).get_heads())) or "empty"

    async def apply(self, dsn: str, schema: str) -> None:
        """Upgrade a schema to the heads."""
        task = {"config": str(self._config), "dsn": owner_dsn(dsn, schema), "schema": schema}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tenantry.placements.alembic_upgrade",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate(json.dumps(task).encode())
        if process.returncode != 0:
            last = output.decode(errors="replace").strip().splitlines()[-1:] or ["no output"]
            raise OperationFailed(f"alembic upgrade failed: {last[0]}", where=f"schema {schema}")
