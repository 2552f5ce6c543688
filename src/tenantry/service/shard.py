"""Shards: add, list, show, open, close."""

from __future__ import annotations

from secrets import token_urlsafe
from typing import Any

from psycopg import AsyncConnection

from tenantry.catalog import rows
from tenantry.catalog.store import fetch
from tenantry.errors import Conflict, InvalidInput, OperationFailed, ServerUnsuitable
from tenantry.model import BindingMode, Isolation, Shard, ShardState, parse_identifier, parse_name, shown
from tenantry.perimeter.apply import house_of
from tenantry.perimeter.binder import ADMIN, APP, OPERATOR
from tenantry.postgres.connect import connect, merge_dsn, parse_dsn, shown_dsn
from tenantry.service.control import Control

DATABASE = "tenantry"
"""The name of a shard's pooled database, unless another is given."""


async def add(
    control: Control,
    name: str,
    dsn: str,
    *,
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
        database: the pooled database; it is made if it is not there.
        binding: ``sealed`` or ``signed``; None: sealed where the server allows it.
        dedicated: takes only tenants that are sent here by name.
        closed: takes no tenants until it is opened.
        take_over: take the server from another house, whose applications can't log in any more.

    Raises:
        InvalidInput: a name or the DSN has a wrong form.
        ServerUnreachable, ServerUnsuitable: it does not answer, or can't be used.
        Conflict: there is a shard of this name, or the server belongs to another house.
        OperationFailed: something on the server failed; run it again when that is mended.
    """
    parse_name(name, "shard")
    parse_identifier(database, "database")
    mode = await _binding(dsn, control.settings.connect_seconds, binding)
    address = merge_dsn(dsn, user=None, password=None, dbname=None, options=None)
    house = await control.store.house()
    if not take_over:
        await _refuse_foreign(control, dsn)
    async with control.store.transaction() as conn:
        if not await fetch(conn, "new_shard", (name, address, dsn, mode, dedicated)):
            raise Conflict(f"there is a shard {name!r} already", hint="choose another name")
        for role in (APP, OPERATOR, ADMIN):
            await fetch(conn, "new_credential", (name, role, token_urlsafe(24)))
        where = (name, database, house.app_schema, Isolation.POOLED, "building")
        await fetch(conn, "new_space", where)
        args = {"shard": name, "closed": closed}
        operation = await control.engine.start(conn, "equip", args, [], control.actor)
    state = await control.engine.run(operation)
    if state != "done":
        raise OperationFailed(f"the shard is not ready ({state})", where=f"operation {operation['id']}")
    return await show(control, name)


async def _refuse_foreign(control: Control, dsn: str) -> None:
    """Roles and their passwords belong to the whole server, so it can't serve two houses."""
    ours = str((await control.store.fetch("house_id"))[0]["id"])
    conn = await connect(dsn, seconds=control.settings.connect_seconds)
    try:
        owner = await house_of(conn)
    finally:
        await conn.close()
    if owner not in (None, ours):
        raise Conflict("the server belongs to another house", where=owner, hint="use another server, or --take-over")


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
