"""Reads how the tables of a schema stand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from psycopg import AsyncConnection, sql
from psycopg.rows import dict_row

from tenantry.postgres import sqlfile
from tenantry.stream.shape import Column, Identity, Shape, Table

_SQL = sqlfile.load("tenantry.stream", "inspect.sql")


async def read_shape(conn: AsyncConnection[Any], schema: str, column: str) -> Shape:
    """How the tables of a schema stand now.

    Args:
        conn: any session there; it is in no transaction, or its transaction goes on.
        schema: the application's.
        column: the tenant column.
    """
    where = {"schema": sql.Identifier(schema).as_string(conn), "column": column}
    async with conn.transaction(), conn.cursor(row_factory=dict_row) as cursor:
        await cursor.execute("SELECT set_config('search_path', %s, true)", (where["schema"],))
        found = {}
        for name in ("tables", "identities", "triggers", "sequences"):
            found[name] = await (await cursor.execute(_SQL[name], where)).fetchall()
    identities: dict[int, list[Identity]] = {}
    for row in found["identities"]:
        known = Identity(row["name"], row["identity"], row["index"], tuple(row["columns"] or ()))
        identities.setdefault(row["root"], []).append(known)
    tables = {row["name"]: _table(row, identities.get(row["oid"], ())) for row in found["tables"]}
    triggers = tuple((row["table"], row["name"]) for row in found["triggers"])
    return Shape(schema, column, tables, tuple(row["name"] for row in found["sequences"]), triggers)


def _table(row: Mapping[str, Any], identities: Sequence[Identity]) -> Table:
    columns = tuple(Column(**column) for column in row["columns"] or ())
    return Table(row["oid"], row["name"], row["kind"], row["persistence"], row["walled"], columns, tuple(identities))
