"""Moves: a tenant slides along the scale while it works."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tenantry.errors import InvalidInput, OperationOpen, TenantUnavailable
from tenantry.model import Isolation, Tenant, TenantState
from tenantry.service.control import Control
from tenantry.service.tenant import parse_isolation, show

GRACE_SECONDS = 3600


async def move(
    control: Control,
    slug: str,
    *,
    to: Isolation | str | None = None,
    shard: str | None = None,
    grace: int = GRACE_SECONDS,
) -> Mapping[str, Any]:
    """Move a tenant that may be working to another isolation level or shard.

    Args:
        slug: whom.
        to: ``pooled``, ``schema`` or ``database``; None: as it is.
        shard: where to; None: it stays on its shard.
        grace: seconds for which the old place follows the new one, so that ``op undo`` brings the tenant back with what
            it has written since; then the old place is cleared.

    Returns:
        The operation, as :func:`tenantry.service.op.show` does: ``waiting`` while the grace period lasts, or because
        a transaction of the tenant takes long; ``done`` afterwards.

    Raises:
        InvalidInput: it lives there already, or ``grace`` is negative.
        TenantNotFound, ShardNotFound, NoCapacity: whom or where to is not there.
        TenantUnavailable: it is being made or deleted.
        OperationOpen: another operation of the tenant has not ended.
        OperationFailed: something is in the way, or a server failed; the tenant stays where it is, or a worker goes on.
    """
    if grace < 0:
        raise InvalidInput(f"a grace period of {grace} seconds", hint="use 0 or more")
    level = parse_isolation(to)
    if shard is not None:
        await control.store.shard(shard)
    tenant = await show(control, slug)
    target = _target(tenant, level, shard)
    async with control.store.transaction() as conn:
        args = {"isolation": target[0], "shard": target[1], "grace": grace}
        operation = await control.engine.start(conn, "move", args, [tenant.id], control.actor)
        now = await control.store.tenant(slug)
        if now.placement != tenant.placement or now.state != tenant.state:
            raise OperationOpen(f"the tenant {slug!r} has just been changed", hint="look at it again")
    await control.engine.run(operation)
    return await control.engine.show(operation["id"])


def _target(tenant: Tenant, level: Isolation | None, shard: str | None) -> tuple[Isolation, str]:
    place = tenant.placement
    if place is None or tenant.state not in (TenantState.ACTIVE, TenantState.SUSPENDED):
        raise TenantUnavailable(
            f"the tenant {tenant.slug!r} is {tenant.state}", hint="only one that works can be moved"
        )
    isolation, where = level or place.isolation, shard or place.shard
    if (isolation, where) == (place.isolation, place.shard):
        raise InvalidInput(
            f"the tenant {tenant.slug!r} lives there already: {isolation} on the shard {where!r}",
            hint="name another level with --to, or another shard with --shard",
        )
    return isolation, where
