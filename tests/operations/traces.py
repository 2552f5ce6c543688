"""What is left of a tenant on the servers."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
from psycopg import sql

from tests.fixtures.house import House


def traces(house: House, *words: str) -> list[str]:
    """Every place on the servers, the catalog's database apart, that holds one of these words: rows of any table, the
    planner's statistics (extended ones are shown as hexadecimal), names."""
    found = []
    for server in house.servers:
        with psycopg.connect(server.dsn(), autocommit=True) as conn:
            rows = conn.execute("SELECT datname FROM pg_database WHERE datallowconn").fetchall()
            names = [name for (name,) in rows if not name.startswith("catalog_")]
        for name in names:
            with psycopg.connect(server.dsn(name), autocommit=True) as conn:
                found += [f"{name}.{place}" for place in _traces(conn, words)]
    return found


def _traces(conn: psycopg.Connection, words: tuple[str, ...]) -> Iterator[str]:
    tables = conn.execute(
        "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE c.relkind IN ('r', 'm') AND n.nspname <> 'information_schema'"
        " AND c.relname NOT IN ('pg_largeobject', 'pg_subscription', 'pg_user_mapping')"
    ).fetchall()
    for schema, table in tables:
        pattern = "(" + "|".join([*words, *(word.encode().hex() for word in words)]) + ")"
        query = sql.SQL("SELECT count(*) FROM {} AS t WHERE t::text ~ %s").format(sql.Identifier(schema, table))
        row = conn.execute(query, (pattern,)).fetchone()
        if row and row[0]:
            yield f"{schema}.{table} ({row[0]} rows)"
