"""Shards: add, list, show, change, open, close."""

from __future__ import annotations

from secrets import token_urlsafe
from typing import Any, LiteralString

import psycopg
from psycopg import AsyncConnection

from tenantry.catalog import rows
from tenantry.catalog.store import fetch
from tenantry.errors import Conflict, InvalidInput, OperationFailed, ServerUnreachable, ServerUnsuitable
from tenantry.model import BindingMode, Isolation, Shard, ShardState, parse_identifier, parse_name, shown
from tenantry.perimeter.apply import house_of
from tenantry.perimeter.binder import ADMIN, APP, OPERATOR
from tenantry.placements.database import TEMPLATE_DATABASE
from tenantry.postgres.connect import connect, merge_dsn, parse_dsn, shown_dsn
from tenantry.service.control import Control
from tenantry.settings import Dsn

DATABASE = "tenantry"
"""The name of a shard's pooled database, unless another is given."""

_NOT_A_PLACE = ("user", "password", "dbname", "options", "passfile", "service")
"""What an address for applications has no say in, and must not give away."""

_RESERVED = ("postgres", "template0", "template1", TEMPLATE_DATABASE)


async def add(
    control: Control,
    name: str,
    dsn: str,
    *,
    address: str | None = None,
    database: str = DATABASE,
    binding: BindingMode | str | None = None,
    dedicated: bool = False,
    closed: bool = False,
    take_over: bool = False,
) -> Shard:
    """Take a PostgreSQL server in as a shard: roles, logins, the pooled and the template database.

    Args:
        dsn: with a superuser's login, for any database of the server; since PostgreSQL 16 one that may create roles
            and databases, bypass row security and replicate is enough, in signed mode.
        address: where applications connect, without login and database, such as a pooler's; None: where ``dsn`` leads.
        database: the pooled database; it is made if it is not there.
        binding: ``sealed`` or ``signed``; None: sealed where the server allows it.
        dedicated: takes only tenants that are sent here by name.
        closed: takes no tenants until it is opened.
        take_over: take the server from another house, whose applications can't log in any more.

    Raises:
        InvalidInput: a name or the DSN has a wrong form.
        ServerUnreachable, ServerUnsuitable: it does not answer, or can't be used.
        Conflict: there is a shard of this name, the server is a shard already or belongs to another house, or the
            database holds tenants of another house.
        OperationFailed: something on the server failed; run it again when that is mended.
    """
    dsn = Dsn(dsn)
    parse_name(name, "shard")
    if parse_identifier(database, "database") in _RESERVED:
        raise InvalidInput(f"{database!r} can't hold tenants", hint="choose another name for the pooled database")
    if await control.store.fetch("shard", (name,)):
        raise _taken(name)
    where = _place(dsn) if address is None else parse_address(address)
    mode = await _binding(dsn, control.settings.connect_seconds, binding)
    house = await control.store.house()
    await _refuse_used(control, dsn, take_over=take_over)
    await _refuse_full(control, dsn, database)
    async with control.store.transaction() as conn:
        if not await fetch(conn, "new_shard", (name, where, dsn, mode, dedicated)):
            raise _taken(name)
        for role in (APP, OPERATOR, ADMIN):
            await fetch(conn, "new_credential", (name, role, token_urlsafe(24)))
        space = (name, database, house.app_schema, Isolation.POOLED, "building")
        await fetch(conn, "new_space", space)
        args = {"shard": name, "closed": closed}
        operation = await control.engine.start(conn, "equip", args, [], control.actor)
    state = await control.engine.run(operation)
    if state != "done":
        raise OperationFailed(f"the shard is not ready ({state})", where=f"operation {operation['id']}")
    return await show(control, name)


def _place(dsn: str) -> str:
    return merge_dsn(dsn, **dict.fromkeys(_NOT_A_PLACE))


def parse_address(address: str) -> str:
    """Where applications connect, from outside, checked.

    Raises:
        InvalidInput: it is no DSN, names no host, or something that an application brings itself.
    """
    parameters = parse_dsn(address)
    if found := [each for each in _NOT_A_PLACE if parameters.get(each)]:
        raise InvalidInput(
            f"the address for applications names a {found[0]}",
            hint="give host and port only: each transaction brings its own login and database",
        )
    if not parameters.get("host") and not parameters.get("hostaddr"):
        raise InvalidInput("the address for applications names no host", hint="write it as 'host=HOST port=PORT'")
    return _place(address)


async def change(control: Control, name: str, *, dsn: str | None = None, address: str | None = None) -> Shard:
    """Say where a shard is now: after a failover to another host, or when a pooler is put before it.

    Args:
        dsn: as in :func:`add`; the server must be this shard, or a copy of it. None: as it is.
        address: as in :func:`add`. None: where ``dsn`` leads, if the old address was where the old one led; else as it
            is.

    Raises:
        ShardNotFound: there is none of this name.
        InvalidInput: nothing is to change, or a value has a wrong form.
        ServerUnreachable: the server does not answer.
        Conflict: the server is not this shard.
    """
    old = await show(control, name)
    if dsn is None and address is None:
        raise InvalidInput("there is nothing to change", hint="name --dsn, --address or both")
    login = (await control.store.fetch("admin_dsn", (name,)))[0]["admin_dsn"]
    where = old.dsn if address is None else parse_address(address)
    if dsn is not None:
        await _binding(dsn, control.settings.connect_seconds, old.binding)
        await _refuse_other(control, name, dsn)
        if address is None and old.dsn == _place(login):
            where = _place(dsn)
    await control.store.fetch("shard_address", (where, dsn or login, name))
    await control.audit("shard change", name)
    return await show(control, name)


async def _refuse_other(control: Control, name: str, dsn: str) -> None:
    """A server that is another shard would be told to do what it must not; one without the databases could not."""
    ours = str((await control.store.fetch("house_id"))[0]["id"])
    conn = await connect(dsn, seconds=control.settings.connect_seconds)
    try:
        owner, started = await house_of(conn), await _started(conn)
        found = await (await conn.execute("SELECT datname FROM pg_database")).fetchall()
    finally:
        await conn.close()
    if owner != ours:
        raise Conflict("the server does not belong to this house", where=shown_dsn(dsn), hint="name the shard's own")
    for shard, _, _ in await listing(control):
        if shard.name != name and started == await _started_of(control, shard.name):
            raise Conflict(f"the server is the shard {shard.name!r}", where=shown_dsn(dsn), hint="name the shard's own")
    needed = {row["database"] for row in await control.store.fetch("spaces") if row["shard"] == name}
    if missing := sorted(needed - {database for (database,) in found}):
        what = f"the server has no database {missing[0]!r}, where tenants of the shard live"
        raise Conflict(what, where=shown_dsn(dsn), hint="name the shard's own, or a copy of it")


def _taken(name: str) -> Conflict:
    return Conflict(f"there is a shard {name!r} already", hint="choose another name")


async def _refuse_used(control: Control, dsn: str, *, take_over: bool) -> None:
    """Roles and their passwords belong to the whole server: it serves one house, as one shard."""
    ours = str((await control.store.fetch("house_id"))[0]["id"])
    conn = await connect(dsn, seconds=control.settings.connect_seconds)
    try:
        owner, started = await house_of(conn), await _started(conn)
    finally:
        await conn.close()
    if owner == ours:
        for shard, _, _ in await listing(control):
            if started == await _started_of(control, shard.name):
                raise Conflict(f"the server is the shard {shard.name!r} already", hint="use another server")
    elif owner is not None and not take_over:
        raise Conflict("the server belongs to another house", where=owner, hint="use another server, or --take-over")


async def _started_of(control: Control, shard: str) -> Any:
    """None: the shard does not answer, so it is another one than a server that does."""
    try:
        async with control.estate.root(shard) as conn:
            return await _started(conn)
    except ServerUnreachable:
        return None


async def _started(conn: AsyncConnection[Any]) -> Any:
    """When a server was started, to the microsecond: no two have that in common, and everybody may ask."""
    return (await (await conn.execute("SELECT pg_postmaster_start_time()")).fetchall())[0][0]


async def _refuse_full(control: Control, dsn: str, database: str) -> None:
    """The pooled database may be an application's own, but tenants of another house would be taken for ours."""
    conn = await connect(dsn, seconds=control.settings.connect_seconds)
    try:
        query = "SELECT 1 FROM pg_database WHERE datname = %s"
        if await (await conn.execute(query, (database,))).fetchone() is None:
            return
    finally:
        await conn.close()
    conn = await connect(merge_dsn(dsn, dbname=database), seconds=control.settings.connect_seconds)
    try:
        what = (
            "a catalog"
            if await _has_catalog(conn)
            else "tenants of another house"
            if await _has_tenants(conn)
            else None
        )
    finally:
        await conn.close()
    if what is not None:
        hint = "choose another one with --database, or drop it if nobody needs it"
        raise Conflict(f"the database {database!r} holds {what}", hint=hint)


async def _has_catalog(conn: AsyncConnection[Any]) -> bool:
    return await _is(conn, "SELECT to_regnamespace('tenantry_catalog') IS NOT NULL")


async def _has_tenants(conn: AsyncConnection[Any]) -> bool:
    try:
        there = await _is(conn, "SELECT to_regclass('tenantry.residents') IS NOT NULL")
        return there and await _is(conn, "SELECT EXISTS (SELECT FROM tenantry.residents)")
    except psycopg.errors.InsufficientPrivilege:  # there is a wall, and it is not ours
        return True


async def _is(conn: AsyncConnection[Any], query: LiteralString) -> bool:
    return bool((await (await conn.execute(query)).fetchall())[0][0])


async def _binding(dsn: str, seconds: float, wanted: BindingMode | str | None) -> BindingMode:
    if not parse_dsn(dsn).get("user"):
        raise InvalidInput("the DSN names no user", hint="name the login that may create roles and databases")
    try:
        mode = None if wanted is None else BindingMode(wanted)
    except ValueError:
        raise InvalidInput(f"{shown(wanted)} is not a binding mode", hint="use sealed or signed") from None
    conn = await connect(dsn, seconds=seconds)
    try:
        await _refuse_weak(conn, dsn)
        sealable = await can_seal(conn)
        if mode is BindingMode.SEALED and not sealable:
            raise ServerUnsuitable(
                "this login can't grant SET ON PARAMETER backtrace_functions", hint="use a superuser, or signed mode"
            )
        return mode or (BindingMode.SEALED if sealable else BindingMode.SIGNED)
    finally:
        await conn.close()


async def _refuse_weak(conn: AsyncConnection[Any], dsn: str) -> None:
    """Without a superuser, since PostgreSQL 16 whoever may create roles may pass on what it has itself."""
    row = await (
        await conn.execute(
            "SELECT rolsuper, rolcreaterole AND rolcreatedb AND rolbypassrls AND rolreplication"
            " FROM pg_roles WHERE rolname = current_user"
        )
    ).fetchone()
    superuser, strong = row or (False, False)
    if superuser or (strong and conn.info.server_version >= 160000):
        return
    raise ServerUnsuitable(
        "this login can't create the roles of the perimeter",
        where=shown_dsn(dsn),
        hint="use a superuser, or since PostgreSQL 16 a role with CREATEROLE, CREATEDB, BYPASSRLS and REPLICATION",
    )


async def can_seal(conn: AsyncConnection[Any]) -> bool:
    """Whether this login may make the grant that sealed mode stands on."""
    row = await (
        await conn.execute(
            "SELECT rolsuper OR has_parameter_privilege('backtrace_functions', 'SET WITH GRANT OPTION')"
            " FROM pg_roles WHERE rolname = current_user"
        )
    ).fetchone()
    return row is not None and bool(row[0])


async def show(control: Control, name: str) -> Shard:
    """The shard of this name.

    Raises:
        ShardNotFound: there is none.
    """
    return await control.store.shard(name)


async def listing(control: Control) -> list[tuple[Shard, int, int]]:
    """All shards, each with its numbers of tenants and of ready homes."""
    return [(rows.shard(row), row["tenants"], row["warm"]) for row in await control.store.fetch("shards")]


async def close(control: Control, name: str) -> Shard:
    """Let no new tenants onto a shard; those that are there stay. Twice does no harm."""
    return await _set(control, name, ShardState.CLOSED)


async def open_(control: Control, name: str) -> Shard:
    """Let new tenants onto a shard. Twice does no harm."""
    return await _set(control, name, ShardState.OPEN)


async def _set(control: Control, name: str, state: ShardState) -> Shard:
    await show(control, name)
    await control.store.fetch("shard_state", (state, name))
    await control.audit(f"shard {state}", name)
    return await show(control, name)
