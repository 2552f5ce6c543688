"""Read the facts of a server and a database from PostgreSQL's catalogs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from psycopg import AsyncConnection
from psycopg.rows import dict_row

from tenantry.perimeter.facts import CLOSED_FUNCTIONS, DatabaseFacts, Row, SchemaFacts, ServerFacts
from tenantry.postgres import sqlfile

_SQL = sqlfile.load("tenantry.perimeter", "sql/inspect.sql")


async def read_server(conn: AsyncConnection[Any]) -> ServerFacts:
    """Read the server's facts."""
    return ServerFacts(
        server=(await _rows(conn, "server"))[0],
        roles=await _rows(conn, "roles"),
        memberships=await _rows(conn, "memberships"),
        role_settings=await _rows(conn, "role_settings"),
        parameter_grants=await _rows(conn, "parameter_grants"),
    )


async def read_database(conn: AsyncConnection[Any], schemas: Sequence[str]) -> DatabaseFacts:
    """Read the facts of the database that ``conn`` is in."""
    functions = await _rows(conn, "binder_functions")
    tables = await _rows(conn, "binder_tables")
    has_keys = {"tenantry_priv.signing_keys", "tenantry_priv.seal_key"} <= {row["name"] for row in tables}
    keys = (await _rows(conn, "keys"))[0] if has_keys else {"signing": 0, "seal": 0}
    opened = await _rows(conn, "open_functions", names=list(CLOSED_FUNCTIONS))
    return DatabaseFacts(
        database=conn.info.dbname,
        superuser=(await _rows(conn, "server"))[0]["superuser"],
        owners=await _rows(conn, "owners", schemas=list(schemas)),
        database_grants=await _rows(conn, "database_grants"),
        schema_grants=await _rows(conn, "schema_grants", schemas=list(schemas)),
        functions=functions,
        operators=await _rows(conn, "binder_operators"),
        tables=tables,
        open_functions=[row["name"] for row in opened],
        open_views=[row["name"] for row in await _rows(conn, "open_views")],
        binder_calls=[row["name"] for row in await _rows(conn, "binder_calls")],
        signing_keys=keys["signing"],
        seal_keys=keys["seal"],
    )


async def read_schemas(conn: AsyncConnection[Any], schemas: Sequence[str], column: str) -> SchemaFacts:
    """Read the application's relations in ``schemas``; ``column`` is the tenant column."""
    where = {"schemas": list(schemas), "column": column}
    return SchemaFacts(
        relations=await _rows(conn, "relations", **where),
        strays=await _rows(conn, "strays", schemas=list(schemas)),
        policies=await _rows(conn, "policies", **where),
        indexes=await _rows(conn, "indexes", **where),
        foreign_keys=await _rows(conn, "foreign_keys", **where),
        definer_functions=await _rows(conn, "definer_functions", **where),
        searches=await _searches(conn, schemas, column),
        seeks=await _rows(conn, "seeks", schemas=list(schemas)),
        seek_schemas=[row["name"] for row in await _rows(conn, "seek_schemas")],
    )


async def _searches(conn: AsyncConnection[Any], schemas: Sequence[str], column: str) -> list[Row]:
    """The columns that seeks are asked for, each with how many tenants its table holds."""
    indexes = [row["oid"] for row in await _rows(conn, "asking", schemas=list(schemas))]
    found = await _rows(conn, "searches", indexes=indexes, column=column) if indexes else []
    tables = {row["name"] for row in await _rows(conn, "binder_tables")} if found else set()
    crowds = await _rows(conn, "crowds") if "tenantry.residents" in tables else []
    residents = {row["schema"]: row["residents"] for row in crowds}
    return [{**row, "residents": residents.get(row["schema"], 0)} for row in found]


async def _rows(conn: AsyncConnection[Any], query: str, **parameters: Any) -> list[Row]:
    async with conn.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(_SQL[query], parameters or None)
        return await cursor.fetchall()
