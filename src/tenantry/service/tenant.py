"""Tenants: create, list, show, suspend, resume, delete."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
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

BATCH = 1000
"""Tenants of one operation when many are created at once."""

_NAME_LENGTH = 200
_PAGE = 1000


@dataclass(frozen=True, slots=True)
class NewTenant:
    """A tenant to be created.

    Args:
        slug: its name in URLs.
        name: the organisation's name; None: the slug.
        key: what the application stores in its tenant column; None: the next number, a random UUID, or the slug.
        plan: the name of its plan.
    """

    slug: str
    name: str | None = None
    key: TenantKey | None = None
    plan: str = "free"


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
    created = await create_many(control, [NewTenant(slug, name, key, plan)], isolation=isolation, shard=shard)
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
    groups: dict[Isolation, list[NewTenant]] = {}
    plans = {name: await control.store.plan(name) for name in {tenant.plan for tenant in tenants}}
    for tenant in tenants:
        groups.setdefault(chosen or plans[tenant.plan].isolation, []).append(await parse_tenant(control, tenant))
    created: list[Tenant] = []
    for level, group in groups.items():
        for start in range(0, len(group), BATCH):
            created += await _create_batch(control, group[start : start + BATCH], level, shard)
    return created


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
            raise _just_taken(error) from None
        args = {"isolation": isolation, "shard": shard}
        operation = await control.engine.start(conn, "provision", args, ids, control.actor)
    state = await control.engine.run(operation)
    created = await _by_id(control, ids)
    if state != "done" and [tenant.state for tenant in created] != [TenantState.ACTIVE] * len(ids):
        raise OperationFailed("provisioning goes on in another process", where=f"operation {operation['id']}")
    return created


async def _keys(control: Control, conn: Conn, tenants: Sequence[NewTenant]) -> list[str]:
    key_type = (await control.store.house()).key_type
    missing = sum(tenant.key is None for tenant in tenants)
    given = {str(tenant.key) for tenant in tenants if tenant.key is not None}
    numbers = iter(await _new_numbers(conn, missing, given) if key_type is KeyType.BIGINT else ())
    keys = []
    for tenant in tenants:
        if tenant.key is not None:
            keys.append(str(tenant.key))
        elif key_type is KeyType.BIGINT:
            keys.append(next(numbers))
        else:
            keys.append(str(uuid4()) if key_type is KeyType.UUID else tenant.slug)
    return keys


async def _new_numbers(conn: Conn, count: int, given: set[str]) -> list[str]:
    """The next numbers that are nobody's key. Those that operators have chosen themselves are passed over, in ever
    larger steps: there may be a million of them in a row."""
    numbers: list[str] = []
    drawn = count
    while len(numbers) < count:
        found = [str(row["key"]) for row in await fetch(conn, "new_keys", (drawn,))]
        taken = given | {row["key"] for row in await fetch(conn, "taken", ([], found))}
        numbers += [number for number in found if number not in taken]
        drawn *= 2
    return numbers[:count]


def _just_taken(error: psycopg.errors.UniqueViolation) -> SlugTaken | KeyTaken:
    """Somebody else has taken it between our look and our writing. The server says what: ``Key (slug)=(acme)...``."""
    what, kind = ("slug", SlugTaken) if error.diag.constraint_name == "tenants_slug" else ("key", KeyTaken)
    value = (error.diag.message_detail or "").partition("=(")[2].rpartition(")")[0]
    return kind(f"the {what} {value!r} has just been taken by somebody else")


async def _refuse_taken(conn: Conn, tenants: Sequence[NewTenant], keys: Sequence[str]) -> None:
    slugs = [tenant.slug for tenant in tenants]
    for what, values, error in (("slug", slugs, SlugTaken), ("key", list(keys), KeyTaken)):
        if len(set(values)) < len(values):
            twice = next(value for value in values if values.count(value) > 1)
            raise error(f"the {what} {twice!r} stands twice among the tenants to create")
    for row in await fetch(conn, "taken", (slugs, list(keys))):
        if row["slug"] in slugs and row["state"] != TenantState.DELETED:
            raise SlugTaken(f"the slug {row['slug']!r} is taken")
        if row["key"] in keys:
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
