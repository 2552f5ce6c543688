"""A server that several share: the house is made once, as a template, and copied for each run and worker."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import sql

from tenantry.postgres import sqlfile
from tenantry.postgres.connect import connect_sync
from tenantry.settings import Settings
from tenantry.testing.blueprint import Blueprint, pointed
from tenantry.testing.server import PREFIX, ServerUnderTest

_SQL = sqlfile.load("tenantry.testing", "house.sql")
_DONE = "complete"

Conn = psycopg.Connection[Any]


@contextmanager
def cloned(server: ServerUnderTest, blueprint: Blueprint, settings: Settings) -> Iterator[None]:
    """The house of this run, for the length of the block.

    Raises:
        Conflict: the server belongs to a house that is none of tests.
        OperationFailed: the application's tables could not be made.
    """
    with connect_sync(server.dsn("postgres")) as conn:
        # Whoever holds this lock lives: others leave its databases alone.
        conn.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", (_name_of_lock(server.run),))
        with _alone(conn):
            _drop_leftovers(conn, server)
            template = _ensure_template(conn, server, blueprint, settings)
            _copy(conn, f"{template}_catalog", server.catalog)
            _copy(conn, f"{template}_app", server.pooled)
        try:
            with connect_sync(server.dsn(server.catalog)) as catalog:
                catalog.execute(_SQL["moved"], (server.pooled, f"{template}_app"))
            blueprint.adopt(settings, server.pooled)
            yield
        finally:
            _drop_run(conn, server, server.run)


@contextmanager
def _alone(conn: Conn) -> Iterator[None]:
    """A template can't be copied while somebody makes it."""
    conn.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", (PREFIX,))
    try:
        yield
    finally:
        conn.execute("SELECT pg_advisory_unlock(hashtextextended(%s, 0))", (PREFIX,))


def _name_of_lock(run: str) -> str:
    return f"{PREFIX} {run}"


def _ensure_template(conn: Conn, server: ServerUnderTest, blueprint: Blueprint, settings: Settings) -> str:
    """The name of the template; made if it is not there. A server has one: all houses on it share the roles."""
    template = f"{PREFIX}_tpl_{blueprint.fingerprint(settings)}"
    standing = dict(conn.execute(_SQL["templates"]).fetchall())
    if standing.get(f"{template}_catalog") == _DONE:
        return template
    for name in standing:
        _drop(conn, name)
    catalog, database = f"{template}_catalog", f"{template}_app"
    blueprint.build(pointed(settings, server.dsn(catalog)), server, database, take_over=bool(standing))
    conn.execute(sql.SQL("COMMENT ON DATABASE {} IS {}").format(sql.Identifier(catalog), sql.Literal(_DONE)))
    return template


def _copy(conn: Conn, template: str, name: str) -> None:
    query = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
    conn.execute(query.format(sql.Identifier(name), sql.Identifier(template)))


def _drop_leftovers(conn: Conn, server: ServerUnderTest) -> None:
    """What runs have left that were killed."""
    for (run,) in conn.execute(_SQL["leftovers"]).fetchall():
        query = "SELECT pg_try_advisory_lock(hashtextextended(%s, 0))"
        free = conn.execute(query, (_name_of_lock(run),)).fetchone()
        if free is not None and free[0]:
            _drop_run(conn, server, run)
            conn.execute("SELECT pg_advisory_unlock(hashtextextended(%s, 0))", (_name_of_lock(run),))


def _drop_run(conn: Conn, server: ServerUnderTest, run: str) -> None:
    catalog = f"{PREFIX}_{run}_catalog"
    if conn.execute("SELECT FROM pg_database WHERE datname = %s", (catalog,)).fetchone() is not None:
        with connect_sync(server.dsn(catalog)) as inside:
            try:
                own = inside.execute(_SQL["own_databases"]).fetchall()
            except psycopg.errors.UndefinedTable:  # it was killed before there were any
                own = []
        for (name,) in own:
            _drop(conn, name)
    _drop(conn, f"{PREFIX}_{run}_app")
    _drop(conn, catalog)


def _drop(conn: Conn, name: str) -> None:
    conn.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
