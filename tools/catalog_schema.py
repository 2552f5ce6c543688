"""Write what the catalog's migrations amount to: ``python -m tools.catalog_schema --check | --write``.

``src/tenantry/catalog/schema.sql`` is the catalog as it stands after all migrations, to be read in one piece; loaded
into an empty database it makes the same catalog. ``docs/reference/catalog.md`` describes it; see ``catalog_page.py``.
Both come out the same whichever version of PostgreSQL they are made with.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from tenantry.catalog.store import SCHEMA, CatalogStore
from tenantry.errors import TenantryError
from tenantry.postgres import sqlfile
from tenantry.postgres.server import THROWAWAY, LocalServer
from tools.catalog_page import render_page

ROOT = Path(__file__).resolve().parents[1]
SNAPSHOT = ROOT / "src" / "tenantry" / "catalog" / "schema.sql"
PAGE = ROOT / "docs" / "reference" / "catalog.md"

_SQL = sqlfile.parse(Path(__file__).with_suffix(".sql").read_text("utf-8"))
_HEAD = """\
-- The catalog as its migrations leave it, to be read in one piece.
-- Written by tools/catalog_schema.py from the migrations: change those instead.

CREATE SCHEMA {schema};
SET search_path = {schema}, pg_temp;
"""
_ROLE = """\
DO $$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{role}') THEN
    CREATE ROLE {role} NOLOGIN;
  END IF;
END $$;
"""


@dataclass(frozen=True)
class Column:
    """A column of a table or a view."""

    name: str
    type: str
    required: bool
    is_identity: bool
    default: str | None


@dataclass(frozen=True)
class Table:
    """A table, or a view if it has a ``definition``."""

    name: str
    definition: str | None
    options: Sequence[str]
    columns: Sequence[Column]
    constraints: Mapping[str, str]
    indexes: Sequence[str]
    triggers: Sequence[str]


@dataclass(frozen=True)
class Schema:
    """What there is in a schema, in the order in which it was made."""

    tables: Sequence[Table]
    sequences: Sequence[str]
    functions: Sequence[str]
    grants: Sequence[tuple[str, str, Sequence[str]]]
    migrations: Sequence[tuple[int, str, str]]


def read(conn: psycopg.Connection[Any]) -> Schema:
    """The catalog's schema in a database."""
    conn.execute(sql.SQL("SET search_path = {}").format(sql.Identifier(SCHEMA)))

    def ask(name: str) -> list[dict[str, Any]]:
        with conn.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(_SQL[name].encode(), {"schema": SCHEMA}).fetchall()

    columns, constraints, indexes, triggers = (ask(n) for n in ("columns", "constraints", "indexes", "triggers"))
    tables = [
        Table(
            table["name"],
            _view(table["definition"]) if table["is_view"] else None,
            table["options"] or (),
            [_column(row) for row in columns if row["oid"] == table["oid"]],
            {row["name"]: _plain(row["definition"]) for row in constraints if row["oid"] == table["oid"]},
            [_plain(row["definition"]).replace(" USING btree", "") for row in indexes if row["oid"] == table["oid"]],
            [row["definition"] for row in triggers if row["oid"] == table["oid"]],
        )
        for table in ask("tables")
    ]
    return Schema(
        tables,
        [row["name"] for row in ask("sequences")],
        [_function(row["definition"]) for row in ask("functions")],
        list(_grants(ask("grants"))),
        [(row["number"], row["name"], row["checksum"]) for row in ask("migrations")],
    )


def _column(row: Mapping[str, Any]) -> Column:
    default = row["default"].removesuffix(f"::{row['type']}") if row["default"] is not None else None
    type_ = row["type"].replace("timestamp with time zone", "timestamptz")
    return Column(row["name"], type_, row["required"], row["is_identity"], default)


def _plain(definition: str) -> str:
    """As people write it: the server says the type of every text, and ``IN`` in its own way."""
    plain = re.sub(r"('(?:[^']|'')*')::text\b(?!\[)", r"\1", definition)
    return re.sub(r"(\w+) = ANY \(ARRAY\[([^]]*)\]\)", r"\1 IN (\2)", plain)


def _view(definition: str) -> str:
    """Up to PostgreSQL 15, columns carry the name of the table also where there is only one."""
    text = " ".join(definition.removesuffix(";").split())
    only = re.search(r" FROM (\w+)(?: (?!WHERE\b)(\w+))?(?: WHERE |$)", text)
    if only:
        text = text.replace(f"{only[2] or only[1]}.", "")
    text = re.sub(r" (FROM|LEFT JOIN|WHERE) ", r"\n\1 ", _plain(text))
    lines = (textwrap.wrap(line, 110, subsequent_indent="  ", break_long_words=False) for line in text.splitlines())
    return "\n".join(line for wrapped in lines for line in wrapped)


def _function(definition: str) -> str:
    head, mark, body = definition.replace(f"{SCHEMA}.", "").partition("AS $function$")
    head = " ".join(head.replace("CREATE OR REPLACE", "CREATE").split())
    return f"{head} {mark}{body.rstrip()}".replace("$function$", "$$")


def _grants(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str, Sequence[str]]]:
    for (role, privilege), group in groupby(rows, lambda row: (row["role"], row["privilege"])):
        yield role, privilege, [row["what"] for row in group]


def render(schema: Schema) -> str:
    """The text of ``schema.sql``."""
    parts = [_HEAD.format(schema=SCHEMA)]
    parts += [f"CREATE SEQUENCE {name};\n" for name in schema.sequences]
    parts += [_table(table) for table in schema.tables if table.definition is None]
    parts += [_create_view(table) for table in schema.tables if table.definition is not None]
    parts += [f"{function};\n" for function in schema.functions]
    parts.append("".join(_trigger(trigger) for table in schema.tables for trigger in table.triggers))
    parts += [_ROLE.format(role=role) for role in sorted({role for role, _, _ in schema.grants} - {"PUBLIC"})]
    parts.append("".join(f"GRANT {what} ON {', '.join(on)} TO {role};\n" for role, what, on in schema.grants))
    rows = ",\n".join(f"  ({number}, '{name}', '{checksum}')" for number, name, checksum in schema.migrations)
    parts.append(f"INSERT INTO tenantry_migrations (number, name, checksum) VALUES\n{rows};\n")
    return "\n".join(parts)


def _table(table: Table) -> str:
    name_width = max(len(column.name) for column in table.columns)
    type_width = max(len(column.type) for column in table.columns)
    lines = [
        f"{column.name:{name_width}} {column.type:{type_width}} {_rest(column)}".rstrip() for column in table.columns
    ]
    lines += [f"CONSTRAINT {name} {definition}" for name, definition in table.constraints.items()]
    indexes = "".join(f"{index};\n" for index in table.indexes)
    return f"CREATE TABLE {table.name} (\n  " + ",\n  ".join(lines) + f"\n){_options(table)};\n{indexes}"


def _create_view(table: Table) -> str:
    return f"CREATE VIEW {table.name}{_options(table)} AS\n{table.definition};\n"


def _options(table: Table) -> str:
    return f" WITH ({', '.join(table.options)})" if table.options else ""


def _rest(column: Column) -> str:
    identity = "GENERATED ALWAYS AS IDENTITY" if column.is_identity else ""
    default = f"DEFAULT {column.default}" if column.default is not None else ""
    return " ".join(part for part in ("NOT NULL" if column.required else "", identity, default) if part)


def _trigger(definition: str) -> str:
    return re.sub(r" (?=REFERENCING|FOR EACH)", "\n  ", definition, count=1) + ";\n"


def build() -> Schema:
    """The schema that the migrations make, on a server of its own.

    Raises:
        TenantryError: there is no PostgreSQL server on this machine, or it can't be started.
    """
    with LocalServer(settings=THROWAWAY) as server:
        asyncio.run(CatalogStore(server.dsn()).migrate())
        with psycopg.connect(server.dsn(), autocommit=True) as conn:
            return read(conn)


def faults(schema: Schema, snapshot: str, page: str) -> list[str]:
    """How the two files differ from what the migrations make, in sentences that say what to do."""
    write = "run: python -m tools.catalog_schema --write"
    found = []
    if snapshot != render(schema):
        found.append(f"{_name(SNAPSHOT)} is not what the migrations make; {write}")
    wanted, silent = render_page(schema.tables, page)
    if page != wanted:
        found.append(f"{_name(PAGE)} does not have the tables and columns that the migrations make; {write}")
    return found + [f"{_name(PAGE)} does not say what {name} is; put a sentence there" for name in silent]


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare or write both files."""
    parser = argparse.ArgumentParser(description="Write what the catalog's migrations amount to.")
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--check", action="store_true", help="say what is out of date and exit 1; change nothing")
    action.add_argument("--write", action="store_true", help="write schema.sql, and the tables of the page")
    chosen = parser.parse_args(arguments)
    try:
        schema = build()
    except TenantryError as error:
        print(f"nothing was looked at: {error}; {error.hint}", file=sys.stderr)
        return 2
    if chosen.write:
        SNAPSHOT.write_text(render(schema), "utf-8")
        PAGE.write_text(render_page(schema.tables, PAGE.read_text("utf-8"))[0], "utf-8")
    found = faults(schema, SNAPSHOT.read_text("utf-8"), PAGE.read_text("utf-8"))
    for fault in found:
        print(fault, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
