"""Tenants: create, list, show, suspend, resume, delete."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any
from uuid import UUID, uuid4

import psycopg

from tenantry.catalog import rows
from tenantry.catalog.store import Conn, fetch
from tenantry.errors import (
    InvalidInput,
    KeyTaken,
    OperationFailed,
    OperationOpen,
    SlugTaken,
    TenantDeleted,
    TenantUnavailable,
)
from tenantry.model import Isolation, KeyType, Tenant, TenantKey, TenantState, parse_key, parse_slug, shown
from tenantry.service.control import Control
from tenantry.service.reserve import NewTenant as NewTenant
from tenantry.service.reserve import give, taken

BATCH = 1000
"""Tenants of one operation when many are created at once."""

_NAME_LENGTH = 200
_PAGE = 1000


async def create(
    control: Control,
    slug: str,
    *,
    name: str | None = None,
    key: TenantKey | None = None,
    plan: str = "free",
    isolation: Isolation | str | None = None,
    shard: str | None = None,
) -> Tenant:
    """Create a tenant and return it, ready to work.

    Args:
        isolation: None: the plan's.
        shard: None: the emptiest open one.

    Raises:
        InvalidSlug, InvalidKey, InvalidInput: a value has a wrong form.
        SlugTaken, KeyTaken: somebody else has it.
        PlanNotFound, ShardNotFound, NoCapacity: there is no place for it.
        OperationFailed: a server failed; nothing is left behind, or a worker finishes it.
    """
    chosen = parse_isolation(isolation)
    new = await parse_tenant(control, NewTenant(slug, name, key, plan))
    created = await give(control, [new], chosen, shard)
    if created is None:
        if shard is not None:
            await control.store.shard(shard)
        level = (await control.store.plan(plan)).isolation
        created = await _create_batch(control, [new], chosen or level, shard)
    return created[0]


async def create_many(
    control: Control,
    tenants: Sequence[NewTenant],
    *,
    isolation: Isolation | str | None = None,
    shard: str | None = None,
) -> list[Tenant]:
    """Create tenants, in operations of at most :data:`BATCH`; each operation is done whole or not at all.

    Raises:
        As :func:`create`; the message names the first tenant at fault.
    """
    chosen = parse_isolation(isolation)
    if shard is not None:
        await control.store.shard(shard)
    groups: dict[tuple[Isolation, str], list[NewTenant]] = {}
    plans = {name: await control.store.plan(name) for name in {tenant.plan for tenant in tenants}}
    for tenant in tenants:
        level = chosen or plans[tenant.plan].isolation
        at_once = level is Isolation.POOLED and tenant.key is None
        group = groups.setdefault((level, tenant.plan if at_once else ""), [])
        group.append(await parse_tenant(control, tenant))
    created: list[Tenant] = []
    for (level, plan), group in groups.items():
        for start in range(0, len(group), BATCH):
            batch = group[start : start + BATCH]
            given = await _give_batch(control, batch, chosen, shard) if plan else None
            created += given or await _create_batch(control, batch, level, shard)
    return created


async def _give_batch(
    control: Control, tenants: Sequence[NewTenant], isolation: Isolation | None, shard: str | None
) -> list[Tenant] | None:
    async with control.store.connection() as conn:
        await _refuse_taken(conn, tenants, [])
    return await give(control, tenants, isolation, shard)


def parse_isolation(value: Isolation | str | None) -> Isolation | None:
    """An isolation from outside, checked.

    Raises:
        InvalidInput: another word.
    """
    try:
        return None if value is None else Isolation(value)
    except ValueError:
        raise InvalidInput(f"{shown(value)} is not an isolation", hint="use pooled, schema or database") from None


async def parse_tenant(control: Control, tenant: NewTenant) -> NewTenant:
    """A tenant from outside, with its slug, name and key checked.

    Raises:
        InvalidSlug, InvalidKey, InvalidInput: a value has a wrong form.
    """
    house = await control.store.house()
    slug = parse_slug(tenant.slug)
    name: object = tenant.name if tenant.name is not None else slug
    if not isinstance(name, str) or not name.strip() or len(name) > _NAME_LENGTH or not name.isprintable():
        hint = f"use 1 to {_NAME_LENGTH} printable characters"
        raise InvalidInput(f"{shown(name)} is not a name for a tenant", where=slug, hint=hint)
    key = None if tenant.key is None else parse_key(tenant.key, house.key_type)
    return NewTenant(slug, name, key, tenant.plan)


async def _create_batch(
    control: Control, tenants: Sequence[NewTenant], isolation: Isolation, shard: str | None
) -> list[Tenant]:
    ids = [uuid4() for _ in tenants]
    async with control.store.transaction() as conn:
        keys = await _keys(control, conn, tenants)
        await _refuse_taken(conn, tenants, keys)
        try:
            await fetch(
                conn,
                "new_tenants",
                (
                    ids,
                    keys,
                    [tenant.slug for tenant in tenants],
                    [tenant.name for tenant in tenants],
                    [tenant.plan for tenant in tenants],
                ),
            )
        except psycopg.errors.UniqueViolation as error:
            raise taken(error) from None
        args = {"isolation": isolation, "shard": shard}
        operation = await control.engine.start(conn, "provision", args, ids, control.actor)
    state = await control.engine.run(operation)
    created = await _by_id(control, ids)
    if state != "done" and [tenant.state for tenant in created] != [TenantState.ACTIVE] * len(ids):
        raise OperationFailed("provisioning goes on in another process", where=f"operation {operation['id']}")
    return created


async def _keys(control: Control, conn: Conn, tenants: Sequence[NewTenant]) -> list[str]:
    key_type = (await control.store.house()).key_type
    if key_type is KeyType.TEXT:
        return [tenant.slug if tenant.key is None else str(tenant.key) for tenant in tenants]
    given = {str(tenant.key) for tenant in tenants if tenant.key is not None}
    drawn: set[str] = set()
    fresh: list[str] = []
    missing = len(tenants) - sum(tenant.key is not None for tenant in tenants)
    while len(fresh) < missing:  # a number may be another's of these tenants
        rows = await fetch(conn, "new_keys", (key_type, missing + len(given)))
        fresh += [row["key"] for row in rows if row["key"] not in given | drawn]
        drawn |= {row["key"] for row in rows}
    numbers = iter(fresh)
    return [next(numbers) if tenant.key is None else str(tenant.key) for tenant in tenants]


async def _refuse_taken(conn: Conn, tenants: Sequence[NewTenant], keys: Sequence[str]) -> None:
    slugs = [tenant.slug for tenant in tenants]
    for what, values, error in (("slug", slugs, SlugTaken), ("key", list(keys), KeyTaken)):
        if len(set(values)) < len(values):
            twice = next(value for value in values if values.count(value) > 1)
            raise error(f"the {what} {twice!r} stands twice among the tenants to create")
    for row in await fetch(conn, "taken", {"slugs": slugs, "keys": list(keys)}):
        if row["slug"] is not None:
            raise SlugTaken(f"the slug {row['slug']!r} is taken")
        raise KeyTaken(f"the key {row['key']!r} is taken", hint="a deleted tenant's key is never used again")


async def _by_id(control: Control, ids: Sequence[UUID]) -> list[Tenant]:
    key_type = (await control.store.house()).key_type
    found = {row["id"]: rows.tenant(row, key_type) for row in await control.store.fetch("tenants_by_id", (list(ids),))}
    return [found[each] for each in ids if each in found]


async def show(control: Control, slug: str) -> Tenant:
    """The tenant with this slug.

    Raises:
        TenantNotFound: there is none.
    """
    return await control.store.tenant(slug)


async def iterate(
    control: Control,
    *,
    state: str | None = None,
    plan: str | None = None,
    shard: str | None = None,
    isolation: str | None = None,
) -> AsyncIterator[Tenant]:
    """All tenants in the order of their slugs, read in pages; deleted ones only if asked for.

    Raises:
        InvalidInput: a filter has an unknown word.
    """
    if state is not None and state not in list(TenantState):
        raise InvalidInput(f"{shown(state)} is not a state", hint=f"use one of {', '.join(TenantState)}")
    level = parse_isolation(isolation)
    key_type = (await control.store.house()).key_type
    after = ""
    while True:
        where: Mapping[str, Any] = {"state": state, "plan": plan, "shard": shard, "isolation": level}
        page = await control.store.fetch("tenants", {**where, "after": after, "limit": _PAGE})
        for row in page:
            yield rows.tenant(row, key_type)
        if len(page) < _PAGE:
            return
        after = page[-1]["slug"]


async def suspend(control: Control, slug: str) -> Tenant:
    """Refuse the tenant's requests from now on; running transactions end in peace. Twice does no harm.

    Raises:
        TenantNotFound: there is none.
        TenantUnavailable: it is being made or deleted.
    """
    tenant = await show(control, slug)
    if tenant.state is TenantState.SUSPENDED:
        return tenant
    if tenant.state is not TenantState.ACTIVE:
        raise TenantUnavailable(f"the tenant {slug!r} is {tenant.state}", hint="only an active tenant can be suspended")
    await _operate(control, "suspend", tenant, {})
    return await show(control, slug)


async def resume(control: Control, slug: str) -> Tenant:
    """Let a suspended tenant work again, or bring back one whose grace period has not ended. Twice does no harm.

    Raises:
        TenantNotFound: there is none.
        TenantDeleted: its deletion has begun to clear.
        TenantUnavailable: it is being made.
    """
    tenant = await show(control, slug)
    operation = await control.engine.open_operation(tenant.id)
    if operation is not None and operation["kind"] == "delete":
        try:
            await control.engine.recall(operation["id"])
        except OperationOpen:
            raise TenantDeleted(f"the tenant {slug!r} is being cleared", hint="restore it from a backup") from None
    elif tenant.state is TenantState.SUSPENDED:
        await _operate(control, "resume", tenant, {})
    elif tenant.state is not TenantState.ACTIVE:
        raise TenantUnavailable(f"the tenant {slug!r} is {tenant.state}")
    return await show(control, slug)


async def delete(control: Control, slug: str, *, confirm: str, grace: int | None = None) -> str:
    """Shut a tenant now, and leave nothing of it behind when its grace period ends.

    Args:
        confirm: the slug once more.
        grace: seconds in which ``resume`` brings it back; None: the plan's.

    Returns:
        ``waiting`` for the grace period, or ``done``.

    Raises:
        InvalidInput: ``confirm`` is another slug, or ``grace`` is negative.
        TenantNotFound: there is none.
        OperationOpen: it is being deleted already, or another operation has not ended.
    """
    if confirm != slug:
        raise InvalidInput(f"{shown(confirm)} is not the slug of the tenant to delete", hint=f"confirm with {slug!r}")
    if grace is not None and grace < 0:
        raise InvalidInput(f"a grace period of {grace} seconds", hint="use 0 or more")
    tenant = await show(control, slug)
    if tenant.state not in (TenantState.ACTIVE, TenantState.SUSPENDED):
        raise OperationOpen(f"the tenant {slug!r} is {tenant.state}")
    seconds = (await control.store.plan(tenant.plan)).grace if grace is None else grace
    return await _operate(control, "delete", tenant, {"grace": seconds, "was": tenant.state})


async def _operate(control: Control, kind: str, tenant: Tenant, args: Mapping[str, Any]) -> str:
    async with control.store.transaction() as conn:
        operation = await control.engine.start(conn, kind, args, [tenant.id], control.actor)
        # Only now nobody else can change the tenant: what was decided on may be past.
        now = await fetch(conn, "tenants_by_id", ([tenant.id],))
        if not now or now[0]["state"] != tenant.state:
            state = now[0]["state"] if now else "gone"
            raise OperationOpen(f"the tenant {tenant.slug!r} has just become {state}", hint="look at it again")
    return await control.engine.run(operation)
