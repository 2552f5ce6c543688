"""Tenants, plans, shards and the rest as JSON-ready data."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from tenantry.model import Plan, Replica, Shard, Tenant
from tenantry.service.perimeter import Section

Form = dict[str, Any]


def tenant(value: Tenant) -> Form:
    """A tenant, with its placement or None."""
    return asdict(value)


def place(value: Tenant) -> str:
    """Where a tenant lives, in a word: ``shard/database/schema``."""
    placement = value.placement
    return f"{placement.shard}/{placement.database}/{placement.schema}" if placement is not None else ""


def plan(value: Plan, tenants: int | None = None) -> Form:
    """A plan, with the number of its tenants if that is known."""
    names = ("name", "isolation", "weight", "limits", "features", "warm", "grace", "replica_seconds")
    form: Form = {name: getattr(value, name) for name in names}
    form |= {"limits": dict(value.limits), "features": dict(value.features)}
    return form if tenants is None else {**form, "tenants": tenants}


def shard(value: Shard, tenants: int | None = None, warm: int | None = None) -> Form:
    """A shard, with its numbers of tenants and ready homes if they are known."""
    form = asdict(value)
    return form if tenants is None else {**form, "tenants": tenants, "warm": warm}


def replica(value: Replica) -> Form:
    """A replica of a shard."""
    return asdict(value)


def section(value: Section) -> Form:
    """What is missing from the wall of some schemas of a database."""
    return {
        "shard": value.shard,
        "database": value.database,
        "schemas": list(value.schemas),
        "closed": value.plan.closed,
        "changes": [asdict(change) for change in value.plan.changes],
        "findings": [asdict(finding) for finding in value.plan.findings],
    }
