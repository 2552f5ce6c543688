"""Rows for the tables of ``knotted``, and a search for what is left of a tenant."""

from __future__ import annotations

import psycopg
from psycopg import sql

from tests.fixtures.house import House

ROWS = """
INSERT INTO regions VALUES (%(key)s, 1, %(word)s), (%(key)s, 2, %(word)s);
INSERT INTO stores VALUES (%(key)s, 1, %(word)s, 1), (%(key)s, 2, %(word)s, 2);
INSERT INTO staff VALUES (%(key)s, 1, %(word)s, 1, NULL), (%(key)s, 2, %(word)s, 1, 1), (%(key)s, 3, %(word)s, 2, 3);
INSERT INTO teams VALUES (%(key)s, 1, %(word)s, 1);
INSERT INTO people VALUES (%(key)s, 1, %(word)s, 1);
WITH egg AS (INSERT INTO eggs VALUES (%(key)s, 1, %(word)s, 1)) INSERT INTO hens VALUES (%(key)s, 1, %(word)s, 1);
INSERT INTO events VALUES (%(key)s, 1, %(word)s), (%(key)s, 2, %(word)s);
INSERT INTO details VALUES (%(key)s, 1, %(word)s, 1), (%(key)s, 2, %(word)s, 2);
INSERT INTO vehicles VALUES (%(key)s, 1, %(word)s);
INSERT INTO trips VALUES (%(key)s, 1, %(word)s, 2);
INSERT INTO history (tenant_id, word) VALUES (%(key)s, %(word)s);
"""
"""One statement a line: run by the application, bound to the tenant."""

CARS = "INSERT INTO cars VALUES (%(key)s, 2, %(word)s)"
"""Run before them by an operator: the application reaches a table that inherits by its parent only."""

WORDS = 19
"""How many rows that makes."""


def found(house: House, *texts: str) -> list[str]:
    """Every table, and every name of a database, schema or role, that holds one of the texts; on both servers."""
    places = []
    for number, server in enumerate(house.servers):
        with psycopg.connect(server.dsn(), autocommit=True) as conn:
            names = conn.execute("SELECT datname FROM pg_database WHERE datallowconn ORDER BY datname").fetchall()
        for (database,) in names:
            with psycopg.connect(server.dsn(database), autocommit=True) as conn:
                places += [f"{number}/{database}/{table}" for table in _tables_with(conn, texts)]
    return places


def _tables_with(conn: psycopg.Connection, texts: tuple[str, ...]) -> list[str]:
    """Also the system's tables: statistics hold values of rows."""
    tables = conn.execute(
        "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE c.relkind IN ('r', 'm') AND n.nspname NOT LIKE 'pg_toast%' ORDER BY 1, 2"
    ).fetchall()
    one = "SELECT {} WHERE EXISTS (SELECT FROM ONLY {} AS t WHERE t::text LIKE ANY (%(texts)s))"
    parts = [
        sql.SQL(one).format(sql.Literal(f"{schema}.{table}"), sql.Identifier(schema, table)) for schema, table in tables
    ]
    query = sql.SQL(" UNION ALL ").join(parts)
    return [table for (table,) in conn.execute(query, {"texts": [f"%{text}%" for text in texts]}).fetchall()]


def contents(house: House, text: str) -> dict[str, list[str]]:
    """All rows that hold a text, by table: to compare."""
    rows: dict[str, list[str]] = {}
    for place in found(house, text):
        number, database, table = place.split("/")
        schema, name = table.split(".")
        if schema in ("pg_catalog", "tenantry_catalog"):
            continue
        with psycopg.connect(house.servers[int(number)].dsn(database)) as conn:
            query = sql.SQL("SELECT t::text FROM ONLY {} AS t WHERE t::text LIKE %s ORDER BY 1")
            done = conn.execute(query.format(sql.Identifier(schema, name)), (f"%{text}%",)).fetchall()
        rows[place] = [row for (row,) in done]
    return rows
