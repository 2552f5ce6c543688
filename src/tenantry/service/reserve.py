"""Give tenants homes that this process has in reserve: one statement of the catalog, and nothing else to wait for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID, uuid4

import psycopg

from tenantry.errors import KeyTaken, ServerUnreachable, SlugTaken
from tenantry.model import Isolation, KeyType, Tenant, TenantKey, TenantState
from tenantry.placements.warm import Reserved, Wish
from tenantry.service.control import Control

_LOST = "TN010"
_TRIES = 2


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


async def give(
    control: Control, tenants: Sequence[NewTenant], isolation: Isolation | None, shard: str | None
) -> list[Tenant] | None:
    """Give tenants homes that are in reserve, all or none. None: there are none for them, or they want what only an
    operation can do: keys of their own, plans that differ.

    Args:
        tenants: checked.
        isolation: None: the plan's.

    Raises:
        SlugTaken: somebody else has a slug.
        ServerUnreachable: the catalog does not answer.
    """
    plan = tenants[0].plan
    if any(tenant.key is not None or tenant.plan != plan for tenant in tenants):
        return None
    if (await control.store.house()).key_type is KeyType.TEXT:
        return None
    for _ in range(_TRIES):
        level = isolation or await control.reserve.level(plan)
        if level is None:
            return None
        wish = Wish(level, plan, shard)
        homes = await _homes(control, wish, len(tenants))
        if homes is None:
            return None
        try:
            return await _give(control, tenants, homes, chosen=isolation is not None)
        except psycopg.errors.UniqueViolation as error:
            if error.diag.constraint_name != "tenants_slug":
                return None  # somebody has chosen a key that was in reserve: a worker clears its home away
            control.reserve.put_back(wish, homes)
            raise taken(error) from None
        except psycopg.DatabaseError as error:
            control.reserve.put_back(wish, homes)
            if error.sqlstate != _LOST:
                raise
            await control.reserve.forget(wish)
    return None


async def _homes(control: Control, wish: Wish, count: int) -> list[Reserved] | None:
    if count == 1:
        home = await control.reserve.take(wish)
        return None if home is None else [home]
    drawn = list((await control.reserve.draw(wish, count)).homes)
    if len(drawn) < count:
        control.reserve.put_back(wish, drawn)
        return None
    return drawn


async def _give(
    control: Control, tenants: Sequence[NewTenant], homes: Sequence[Reserved], *, chosen: bool
) -> list[Tenant]:
    ids = [uuid4() for _ in tenants]
    created_at = None
    for is_first in (True, False):
        try:
            created_at = await _write(control, ids, tenants, homes, chosen=chosen)
        except ServerUnreachable:  # before the catalog could say whether it has done so; it was restarted, perhaps
            created_at = await _seen(control, ids)
        except psycopg.DatabaseError:
            created_at = None if is_first else await _seen(control, ids)
            if created_at is None:
                raise
        if created_at is not None:
            break
    else:
        raise ServerUnreachable("the catalog was lost before the tenant was created", hint="create it again")
    return [
        Tenant(id, home.key, new.slug, new.name or new.slug, new.plan, TenantState.ACTIVE, home.placement, created_at)
        for id, home, new in zip(ids, homes, tenants, strict=True)
    ]


async def _write(
    control: Control, ids: Sequence[UUID], tenants: Sequence[NewTenant], homes: Sequence[Reserved], *, chosen: bool
) -> datetime:
    version, holder, actor = homes[0].version, control.reserve.holder, control.actor
    if len(tenants) == 1:
        new, key = tenants[0], str(homes[0].key)
        how = "true" if chosen else "false"
        return await control.store.give(
            str(ids[0]), key, new.slug, new.name or new.slug, new.plan, how, version, holder, actor
        )
    columns = (
        list(ids),
        [str(home.key) for home in homes],
        [new.slug for new in tenants],
        [new.name or new.slug for new in tenants],
        [new.plan for new in tenants],
    )
    created_at: datetime = (await control.store.fetch("give_many", (*columns, chosen, version, holder, actor)))[0][
        "created_at"
    ]
    return created_at


async def _seen(control: Control, ids: Sequence[UUID]) -> datetime | None:
    """When the tenants were made; None: they were not."""
    found = await control.store.fetch("tenants_by_id", (list(ids),))
    return found[0]["created_at"] if found else None


def taken(error: psycopg.errors.UniqueViolation) -> SlugTaken | KeyTaken:
    """Somebody else has it. The server says what: ``Key (slug)=(acme)...``."""
    what, kind = ("slug", SlugTaken) if error.diag.constraint_name == "tenants_slug" else ("key", KeyTaken)
    value = (error.diag.message_detail or "").partition("=(")[2].rpartition(")")[0]
    return kind(f"the {what} {value!r} is taken")
