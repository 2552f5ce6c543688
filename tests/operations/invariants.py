"""What must hold in a house when no operation is open, whatever was killed before."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from tenantry.model import KeyType, encode_key, parse_key
from tenantry.placements.database import TEMPLATE_DATABASE
from tenantry.postgres.connect import merge_dsn
from tests.fixtures.house import House

Row = dict[str, Any]

_END_SECONDS = 5.0

RESIDENT_STATES = {"active": "open", "suspended": "suspended", "deleting": "suspended"}


@contextmanager
def catalog(house: House) -> Iterator[psycopg.Connection[Row]]:
    """The catalog, with every right."""
    dsn = merge_dsn(house.control_settings.control_dsn, options="-c search_path=tenantry_catalog")
    with psycopg.connect(dsn, autocommit=True, row_factory=dict_row) as conn:
        yield conn


@contextmanager
def shard_database(admin_dsn: str, database: str | None = None) -> Iterator[psycopg.Connection[Row]]:
    """A database of a shard, with every right."""
    dsn = admin_dsn if database is None else merge_dsn(admin_dsn, dbname=database)
    with psycopg.connect(dsn, autocommit=True, row_factory=dict_row) as conn:
        yield conn


def violations(house: House) -> list[str]:
    """Everything that is not as it must be."""
    with catalog(house) as conn:
        found = [*_catalog(conn)]
        for shard in conn.execute("SELECT * FROM shards ORDER BY name").fetchall():
            found += [f"{shard['name']}: {what}" for what in _shard(conn, shard)]
    return found


def _rows(conn: psycopg.Connection[Row], query: str, *parameters: Any) -> list[Row]:
    return conn.execute(sql.SQL(query), parameters).fetchall()


def _catalog(conn: psycopg.Connection[Row]) -> Iterable[str]:
    for row in _rows(conn, "SELECT id, kind, state, step FROM operations WHERE state NOT IN ('done', 'undone')"):
        yield f"operation {row['id']} ({row['kind']}) is {row['state']} after {row['step']}"
    for row in _rows(conn, "SELECT slug FROM tenants WHERE state = 'provisioning'"):
        yield f"tenant {row['slug']} hangs in provisioning"
    for row in _rows(
        conn,
        "SELECT r.key, s.state FROM reserved r JOIN spaces s ON s.id = r.space"
        " WHERE r.holder IS NOT NULL OR s.state <> 'ready' OR s.isolation <> 'database'",
    ):
        yield f"the key {row['key']} is in reserve, its home is {row['state']}"
    if _rows(conn, "SELECT FROM operation_tenants"):
        yield "a tenant is held by an operation that has ended"
    for row in _rows(
        conn,
        "SELECT t.slug, t.state FROM tenants t LEFT JOIN placements p ON p.tenant = t.id"
        " WHERE (p.tenant IS NULL) <> (t.state = 'deleted')",
    ):
        yield f"tenant {row['slug']} is {row['state']}, which does not go with its placement"
    for row in _rows(
        conn,
        "SELECT s.id, s.isolation, s.state, count(p.*) AS tenants"
        " FROM spaces s LEFT JOIN placements p ON p.space = s.id GROUP BY s.id",
    ):
        allowed = {"ready": 0, "occupied": 1, "template": 0}.get(row["state"])
        if allowed is None or (row["isolation"] != "pooled" and row["tenants"] != allowed):
            yield f"space {row['id']} ({row['isolation']}) is {row['state']} with {row['tenants']} tenants"
    keys = [row["state"] for row in _rows(conn, "SELECT state FROM signing_keys")]
    if keys.count("active") != 1 or "pending" in keys:
        yield f"the signing keys are {keys}"
    for row in _rows(conn, "SELECT slug FROM tenants WHERE state = 'deleting' AND delete_after IS NULL"):
        yield f"tenant {row['slug']} is deleting, nobody knows until when"


def _shard(conn: psycopg.Connection[Row], shard: Row) -> Iterable[str]:
    spaces = _rows(conn, "SELECT * FROM spaces WHERE shard = %s", shard["name"])
    with shard_database(shard["admin_dsn"]) as server:
        there = {row["datname"]: row for row in _rows(server, "SELECT datname, datallowconn FROM pg_database")}
        names = _sessions(server)
    if names:
        yield f"sessions are left: {[row['application_name'] for row in names]}"
    if there.get(TEMPLATE_DATABASE, {"datallowconn": True})["datallowconn"]:
        yield "the template database is missing, or can be connected to"
    wanted = {space["database"] for space in spaces}
    for name in sorted(wanted - there.keys()):
        yield f"the database {name} is missing"
    for name in sorted(name for name in there.keys() - wanted if name.startswith("d_")):
        yield f"the database {name} belongs to nobody"
    for name in sorted((wanted & there.keys()) - {TEMPLATE_DATABASE}):
        with shard_database(shard["admin_dsn"], name) as database:
            inside = [space for space in spaces if space["database"] == name]
            yield from (f"{name}: {what}" for what in _database(conn, database, shard["name"], inside))


def _sessions(server: psycopg.Connection[Row]) -> list[Row]:
    """Sessions of control planes. Those whose client has just gone take a moment to end."""
    query = "SELECT pid, application_name FROM pg_stat_activity WHERE application_name ~ '^tenantry [0-9a-f]{12} '"
    until = time.monotonic() + _END_SECONDS
    while (names := _rows(server, query)) and time.monotonic() < until:
        time.sleep(0.05)
    return names


def _database(
    conn: psycopg.Connection[Row], database: psycopg.Connection[Row], shard: str, spaces: Sequence[Row]
) -> Iterable[str]:
    name = database.info.dbname
    key_type, column = _rows(conn, "SELECT key_type, tenant_column FROM house")[0].values()
    tenants = _rows(
        conn,
        "SELECT t.key, t.state, t.plan, p.epoch, s.schema FROM tenants t JOIN placements p ON p.tenant = t.id"
        " JOIN spaces s ON s.id = p.space WHERE s.shard = %s AND s.database = %s",
        shard,
        name,
    )
    expected = {_code(row["key"], key_type): {**row, "state": RESIDENT_STATES[row["state"]]} for row in tenants}
    own = _in_databases_of_their_own(conn, shard, key_type)
    standing = {
        row.pop("code"): row
        for row in _rows(database, "SELECT code, state, plan, epoch, schema FROM tenantry.residents")
    }
    if any(space["isolation"] == "pooled" for space in spaces):  # it knows who lives in the others
        listed = {code: row["schema"] for code, row in standing.items() if row["state"] == "moved"}
        standing = {code: row for code, row in standing.items() if row["state"] != "moved"}
        if listed != own:
            yield f"it believes that {listed} live in databases of their own, should be {own}"
    for row in _rows(
        conn,
        "SELECT r.key FROM reserved r JOIN spaces s ON s.id = r.space WHERE s.database = %s AND s.shard = %s",
        name,
        shard,
    ):
        resident = standing.pop(_code(row["key"], key_type), None)
        if resident is None or (resident["state"], resident["epoch"]) != ("open", 1):
            yield f"the key {row['key']} is in reserve, its resident is {resident}"
    for code in sorted(expected.keys() ^ standing.keys()):
        yield f"{code} is {'a resident' if code in standing else 'missing among the residents'}"
    for code in sorted(expected.keys() & standing.keys()):
        for what in ("state", "plan", "epoch", "schema"):
            if expected[code][what] != standing[code][what]:
                yield f"{code}: {what} is {standing[code][what]}, should be {expected[code][what]}"
    yield from _traces(database)
    yield from _knowledge(conn, database)
    yield from _schemas(database, {space["schema"] for space in spaces})
    for space in spaces:
        keys = {row["key"] for row in tenants if row["schema"] == space["schema"]}
        for table, key in _foreign_rows(database, space["schema"], column, keys):
            yield f"{space['schema']}.{table} has rows of {key}, who does not live there"


def _in_databases_of_their_own(conn: psycopg.Connection[Row], shard: str, key_type: str) -> dict[str, str]:
    """Codes of tenants, and their databases."""
    return {
        _code(row["key"], key_type): row["database"]
        for row in _rows(
            conn,
            "SELECT t.key, s.database FROM tenants t JOIN placements p ON p.tenant = t.id"
            " JOIN spaces s ON s.id = p.space WHERE s.shard = %s AND s.isolation = 'database'",
            shard,
        )
    }


def _traces(database: psycopg.Connection[Row]) -> Iterable[str]:
    """What moves leave behind."""
    for row in _rows(database, "SELECT code FROM tenantry.residents WHERE gate IS NOT NULL"):
        yield f"the door of {row['code']} was left half closed"
    for row in _rows(database, "SELECT name FROM tenantry.streams"):
        yield f"the note of the stream {row['name']} is left"
    for row in _rows(database, "SELECT pubname FROM pg_publication"):
        yield f"the publication {row['pubname']} is left"
    for row in _rows(
        database, "SELECT slot_name FROM pg_replication_slots WHERE database = current_database() AND NOT temporary"
    ):
        yield f"the slot {row['slot_name']} is left"


def _code(key: str, key_type: str) -> str:
    return encode_key(parse_key(key, KeyType(key_type)))


def _knowledge(conn: psycopg.Connection[Row], database: psycopg.Connection[Row]) -> Iterable[str]:
    kids = {row["kid"] for row in _rows(conn, "SELECT kid FROM signing_keys")}
    known = {row["kid"] for row in _rows(database, "SELECT kid FROM tenantry_priv.signing_keys")}
    if kids != known:
        yield f"it knows the keys {sorted(known)}, should know {sorted(kids)}"
    limits = {row["name"]: row["limits"] for row in _rows(conn, "SELECT name, limits FROM plans")}
    told = {row["name"]: row["limits"] for row in _rows(database, "SELECT name, limits FROM tenantry.plans")}
    for plan, values in limits.items():
        pairs = told.get(plan)
        if pairs is None or dict(zip(pairs[::2], pairs[1::2], strict=True)) != values:
            yield f"it believes that plan {plan} has {pairs}, should be {values}"


def _schemas(database: psycopg.Connection[Row], wanted: set[str]) -> Iterable[str]:
    there = {row["nspname"] for row in _rows(database, "SELECT nspname FROM pg_namespace")}
    for schema in sorted(wanted - there):
        yield f"the schema {schema} is missing"
    for schema in sorted(schema for schema in there - wanted if schema.startswith("t_")):
        yield f"the schema {schema} belongs to nobody"


def _foreign_rows(
    database: psycopg.Connection[Row], schema: str, column: str, keys: set[str]
) -> Iterator[tuple[str, str]]:
    tables = _rows(
        database,
        "SELECT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = %s"
        " WHERE c.relnamespace = to_regnamespace(quote_ident(%s)) AND c.relkind = 'r'",
        column,
        schema,
    )
    for row in tables:
        query = sql.SQL("SELECT DISTINCT {}::text AS key FROM ONLY {}").format(
            sql.Identifier(column), sql.Identifier(schema, row["relname"])
        )
        for found in database.execute(query).fetchall():
            if found["key"] not in keys:
                yield row["relname"], found["key"]
