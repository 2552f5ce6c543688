"""The house: create its catalog, migrate its spaces, work on what is open."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from secrets import token_bytes, token_hex, token_urlsafe
from typing import Any

from psycopg import AsyncConnection, sql
from psycopg.types.json import Jsonb

from tenantry.catalog.store import fetch
from tenantry.errors import Conflict, InvalidInput, TenantryError
from tenantry.model import House, Isolation, KeyType, parse_identifier, shown
from tenantry.perimeter.token import KEY_BYTES
from tenantry.placements.levels import new_spaces
from tenantry.placements.space import Space
from tenantry.placements.sweep import sweep
from tenantry.postgres.connect import connect, merge_dsn, parse_dsn
from tenantry.postgres.discretion import verifier
from tenantry.service import key as keys
from tenantry.service.control import Control

log = logging.getLogger("tenantry.service")

LIBRARY = "tenantry_library"
LOGIN = "tenantry_reader"

_AT_ONCE = {Isolation.SCHEMA: 25, Isolation.DATABASE: 1}
"""Homes that one operation builds: who stops a worker waits for it."""

_PLANS = (
    ("free", Isolation.POOLED, 1, {"statement_timeout": "30s", "lock_timeout": "5s"}),
    ("business", Isolation.SCHEMA, 4, {"statement_timeout": "60s", "lock_timeout": "10s"}),
    ("enterprise", Isolation.DATABASE, 16, {"statement_timeout": "5min", "lock_timeout": "30s"}),
)


@dataclass(frozen=True, slots=True)
class Initialised:
    """What :func:`init` has made. ``catalog_dsn`` is the application's, and holds a password."""

    migrations: tuple[str, ...]
    catalog_dsn: str | None = field(repr=False)


async def init(
    control: Control,
    *,
    key_type: KeyType | str = KeyType.BIGINT,
    tenant_column: str = "tenant_id",
    app_schema: str = "public",
) -> Initialised:
    """Create the catalog, or bring it up to date: tables, first plans, a signing key, the application's login.

    The catalog's database is made if it is not there.

    Args:
        key_type: the type of the tenant column.
        tenant_column: its name.
        app_schema: the schema of the application's tables at the pooled level.

    Raises:
        InvalidInput: a value has a wrong form.
        Conflict: the catalog is there, and says otherwise.
        ServerUnreachable, ServerUnsuitable: the server can't be used.
    """
    wanted = _house(key_type, tenant_column, app_schema)
    async with control.store.connection() as conn, _alone(conn):
        return await _init(control, wanted)


@asynccontextmanager
async def _alone(conn: AsyncConnection[Any]) -> AsyncIterator[None]:
    """Keep others from making the same house meanwhile: roles and databases know no IF NOT EXISTS."""
    await conn.execute("SELECT pg_advisory_lock(hashtextextended('tenantry init', 0))")
    try:
        yield
    finally:
        await conn.execute("SELECT pg_advisory_unlock(hashtextextended('tenantry init', 0))")


async def _init(control: Control, wanted: House) -> Initialised:
    migrations = await control.store.migrate()
    async with control.store.transaction() as conn:
        await fetch(conn, "new_house", (wanted.key_type, wanted.tenant_column, wanted.app_schema))
        standing = await fetch(conn, "house")
        if House(KeyType(standing[0]["key_type"]), standing[0]["tenant_column"], standing[0]["app_schema"]) != wanted:
            raise Conflict(
                f"the catalog is there with keys of type {standing[0]['key_type']}, the tenant column"
                f" {standing[0]['tenant_column']} and the schema {standing[0]['app_schema']}",
                hint="leave these options out, or use another database for the catalog",
            )
        for name, isolation, weight, limits in _PLANS if not await fetch(conn, "plans") else ():
            await fetch(conn, "new_plan", (name, isolation, weight, Jsonb(limits), Jsonb({}), 0, 7 * 24 * 3600, 0))
        if not await fetch(conn, "keys"):
            await fetch(conn, "new_key", (token_hex(4), token_bytes(KEY_BYTES), "active", keys.DAYS))
    return Initialised(tuple(migrations), await _login(control))


def _house(key_type: KeyType | str, tenant_column: str, app_schema: str) -> House:
    try:
        kind = KeyType(key_type)
    except ValueError:
        raise InvalidInput(f"{shown(key_type)} is not a type of keys", hint="use bigint, uuid or text") from None
    return House(
        kind,
        parse_identifier(tenant_column, "tenant column"),
        parse_identifier(app_schema, "schema of the application"),
    )


async def create_database(dsn: str, *, seconds: float = 5.0) -> bool:
    """Make the database that a DSN names, if it is not there; whether it was made."""
    name = parse_dsn(dsn).get("dbname")
    if not name:
        raise InvalidInput("the DSN names no database", hint="add /DATABASE to it, for instance /tenantry_catalog")
    async with await connect(merge_dsn(dsn, dbname="postgres"), seconds=seconds) as conn, _alone(conn):
        found = await (await conn.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,))).fetchone()
        if found is None:
            query = sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name))
            await conn.execute(query)
        await conn.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(sql.Identifier(name)))
        return found is None


async def _login(control: Control) -> str | None:
    """The application's login to the catalog, made once; a second ``init`` does not change its password."""
    async with control.store.connection() as conn:
        found = await (await conn.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (LOGIN,))).fetchone()
        database = sql.Identifier(conn.info.dbname)
        password = token_urlsafe(24)
        if found is None:
            query = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {} IN ROLE {}")
            secret = sql.Literal(verifier(conn, LOGIN, password))
            await conn.execute(query.format(sql.Identifier(LOGIN), secret, sql.Identifier(LIBRARY)))
        await conn.execute(sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(database, sql.Identifier(LIBRARY)))
    return None if found is not None else merge_dsn(control.store.dsn, user=LOGIN, password=password)


async def renew_login(control: Control) -> str:
    """Give the application's login to the catalog a new password, and return its DSN. The old one is refused."""
    password = token_urlsafe(24)
    async with control.store.connection() as conn:
        secret = sql.Literal(verifier(conn, LOGIN, password))
        query = sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(LOGIN), secret)
        await conn.execute(query)
    await control.audit("login renew", LOGIN)
    return merge_dsn(control.store.dsn, user=LOGIN, password=password)


async def migrate(control: Control) -> str:
    """Bring every space to the template's version; a space that has it already costs one comparison."""
    async with control.store.transaction() as conn:
        operation = await control.engine.start(conn, "migrate", {}, [], control.actor)
    return await control.engine.run(operation)


async def behind(control: Control) -> list[Space]:
    """The spaces whose tables are not at the template's version: :func:`migrate` has to be run, or has failed there."""
    version = control.estate.template.version()
    spaces = [Space.of(row) for row in await control.store.fetch("spaces")]
    return [space for space in spaces if space.template != version]


async def refill(control: Control, *, until: asyncio.Event | None = None) -> int:
    """Build what is missing from the warm pools, and return how many homes were built.

    Args:
        until: when it is set, no further home is begun.

    Raises:
        OperationFailed: a home could not be built; the other pools have been refilled.
    """
    built = 0
    failed: TenantryError | None = None
    for (shard, level), count in (await missing_homes(control)).items():
        try:
            while count > 0 and not _is_set(until) and (more := await _build(control, shard, level, count)):
                built += more
                count -= more
        except TenantryError as error:
            log.error("%s (%s)", error, error.where)
            failed = failed or error
    if failed is not None:
        raise failed
    return built


async def missing_homes(control: Control) -> dict[tuple[str, Isolation], int]:
    """How many homes the warm pools lack, for each shard and level that has one."""
    wanted = await _wanted(control)
    missing = {}
    for shard in await control.store.fetch("open_shards", {"shard": None}):
        for level, (count, _) in wanted.items():
            ready = await control.store.fetch("ready_spaces", _pool(control, shard["name"], level))
            missing[shard["name"], level] = max(0, count - ready[0]["ready"])
    return missing


async def _wanted(control: Control) -> dict[Isolation, tuple[int, str]]:
    """How many homes each level is to have, and the plan that wants most."""
    wanted: dict[Isolation, tuple[int, str]] = {}
    for row in await control.store.fetch("plans"):
        level = Isolation(row["isolation"])
        if level is not Isolation.POOLED:
            wanted[level] = max(wanted.get(level, (0, "")), (row["warm"], row["name"]))
    return wanted


async def _build(control: Control, shard: str, level: Isolation, count: int) -> int:
    """Build at most so many homes, and return how many: fewer if others have filled the pool meanwhile."""
    wanted, plan = (await _wanted(control)).get(level, (0, ""))
    key_type = (await control.store.house()).key_type
    async with control.store.transaction() as conn:
        await conn.execute("SELECT pg_advisory_xact_lock(hashtextextended('tenantry refill', 0))")
        ready = (await fetch(conn, "ready_spaces", _pool(control, shard, level)))[0]["ready"]
        count = max(0, min(count, wanted - ready, _AT_ONCE[level]))
        if count == 0:
            return 0
        spaces = await new_spaces(control.estate, conn, [shard] * count, level)
        args: dict[str, Any] = {"spaces": [space.id for space in spaces]}
        if level is Isolation.DATABASE and await _draws_keys(conn, key_type):
            keys = [row["key"] for row in await fetch(conn, "new_keys", (key_type, count))]
            args |= {"keys": keys, "plan": plan}
        operation = await control.engine.start(conn, "refill", args, [], control.actor)
    await control.engine.run(operation)
    return count


async def _draws_keys(conn: AsyncConnection[Any], key_type: KeyType) -> bool:
    """Whether tenants get keys that we draw. Whoever has only brought numbers of its own would find one taken."""
    if key_type is KeyType.BIGINT:
        return bool((await fetch(conn, "draws_keys"))[0]["draws"])
    return key_type is KeyType.UUID


def _pool(control: Control, shard: str, level: Isolation) -> tuple[str, Isolation, str]:
    """Only homes of the template's version are handed out."""
    return shard, level, control.estate.template.version()


async def work(control: Control, *, until: asyncio.Event | None = None) -> int:
    """Finish or undo what was left open, clear away what others had in reserve when they died, renew the signing key
    before it ends, refill the warm pools.

    Returns how many operations were worked on. What fails is logged, and tried again when its time has come.

    Args:
        until: when it is set, no further operation is begun.

    Raises:
        ServerUnreachable: the catalog does not answer.
    """
    worked = 0
    while not _is_set(until):
        try:
            if await control.engine.work() is None:
                break
        except TenantryError as error:
            log.error("%s (%s)", error, error.where)
            await control.store.fetch("now")  # raises if it is the catalog that is away: every next turn would fail too
        worked += 1
    await sweep(control.estate)
    with suppress(TenantryError):
        worked += await refill(control, until=until)
    try:
        worked += await keys.renew(control)
    except TenantryError as error:
        log.error("the signing key could not be renewed: %s (%s)", error, error.where)
    return worked


def _is_set(event: asyncio.Event | None) -> bool:
    return event is not None and event.is_set()
