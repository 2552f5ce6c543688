"""Plans: create, list, show, change, delete."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from psycopg.types.json import Jsonb

from tenantry.catalog import rows
from tenantry.catalog.store import Conn, fetch
from tenantry.errors import Conflict, InUse, InvalidInput
from tenantry.model import Isolation, Plan, parse_name, shown
from tenantry.service.control import Control
from tenantry.service.tenant import parse_isolation

LIMITS = (
    "statement_timeout",
    "lock_timeout",
    "idle_in_transaction_session_timeout",
    "transaction_timeout",
    "work_mem",
)
"""PostgreSQL settings that a plan may limit; the binding sets them for each transaction."""

_DURATION = re.compile(r"[0-9]{1,9}(ms|s|min|h)?", re.ASCII)
_SIZE = re.compile(r"[0-9]{1,9}(kB|MB|GB)", re.ASCII)


async def create(
    control: Control,
    name: str,
    *,
    isolation: Isolation | str = Isolation.POOLED,
    weight: int = 1,
    limits: Mapping[str, str] | None = None,
    features: Mapping[str, Any] | None = None,
    warm: int = 0,
    grace: int = 7 * 24 * 3600,
    replica_seconds: int = 0,
) -> Plan:
    """Create a plan.

    Args:
        isolation: of tenants that are created with it.
        weight: its tenants' share of the time, against other plans'.
        limits: see :data:`LIMITS`.
        features: anything that is JSON.
        warm: how many empty homes of this isolation are kept ready on each open shard.
        grace: how long a deleted tenant can be brought back, seconds.
        replica_seconds: how old what its tenants read may be where they only read, so that replicas may answer; 0: the
            primary answers all.

    Raises:
        InvalidInput: a value has a wrong form.
        Conflict: there is a plan of this name.
        OperationFailed: the plan is made, but a database could not be told yet; a worker tries again.
    """
    plan = _checked(name, isolation, weight, limits or {}, features or {}, warm, grace, replica_seconds)
    async with control.store.transaction() as conn:
        if not await fetch(conn, "new_plan", (plan.name, *_row(plan))):
            raise Conflict(f"there is a plan {name!r} already", hint=f"change it with 'tenantry plan change {name}'")
        operation = await _publish(control, conn, "plan create", name)
    await control.engine.run(operation)
    return plan


async def change(control: Control, name: str, **changes: Any) -> Plan:
    """Change some values of a plan; the others stay. Limits hold from each tenant's next transaction on.

    Raises:
        PlanNotFound: there is none of this name.
        InvalidInput: a value has a wrong form.
        OperationFailed: the plan is changed, but a database could not be told yet; a worker tries again.
    """
    old = await show(control, name)
    values: dict[str, Any] = {
        each: changes.get(each) if changes.get(each) is not None else getattr(old, each)
        for each in ("isolation", "weight", "limits", "features", "warm", "grace", "replica_seconds")
    }
    plan = _checked(name, **values)
    async with control.store.transaction() as conn:
        await fetch(conn, "change_plan", (*_row(plan), name))
        operation = await _publish(control, conn, "plan change", name)
    await control.engine.run(operation)
    return plan


async def show(control: Control, name: str) -> Plan:
    """The plan of this name.

    Raises:
        PlanNotFound: there is none.
    """
    return await control.store.plan(name)


async def listing(control: Control) -> list[tuple[Plan, int]]:
    """All plans, each with the number of its tenants."""
    return [(rows.plan(row), row["tenants"]) for row in await control.store.fetch("plans")]


async def delete(control: Control, name: str) -> None:
    """Delete a plan that no tenant has, or ever had.

    Raises:
        PlanNotFound: there is none.
        InUse: tenants have it.
    """
    await show(control, name)
    if not await control.store.fetch("drop_plan", (name,)):
        raise InUse(f"tenants have, or had, the plan {name!r}")
    await control.audit("plan delete", name)


def parse_limits(limits: Mapping[str, Any]) -> dict[str, str]:
    """Limits from outside, checked.

    Raises:
        InvalidInput: an unknown setting, or not a duration or size in PostgreSQL's form.
    """
    for name, value in limits.items():
        if name not in LIMITS:
            raise InvalidInput(f"{shown(name)} is not a limit", hint=f"use one of {', '.join(LIMITS)}")
        form = _SIZE if name == "work_mem" else _DURATION
        if not isinstance(value, str) or not form.fullmatch(value):
            hint = "use a number with kB, MB or GB" if form is _SIZE else "use a number with ms, s, min or h"
            raise InvalidInput(f"{shown(value)} is not a value for {name}", hint=hint)
    return dict(limits)


def _checked(
    name: str,
    isolation: Isolation | str,
    weight: int,
    limits: Mapping[str, str],
    features: Mapping[str, Any],
    warm: int,
    grace: int,
    replica_seconds: int,
) -> Plan:
    _check_number("weight", weight, 1, 1_000_000)
    _check_number("warm", warm, 0, 10_000)
    _check_number("grace", grace, 0, 10 * 365 * 24 * 3600)
    _check_number("number of seconds that reads may be old", replica_seconds, 0, 3600)
    level = parse_isolation(isolation)
    assert level is not None
    limits = parse_limits(limits)
    return Plan(parse_name(name, "plan"), level, weight, limits, dict(features), warm, grace, replica_seconds)


def _row(plan: Plan) -> tuple[Any, ...]:
    limits, features = Jsonb(dict(plan.limits)), Jsonb(dict(plan.features))
    return plan.isolation, plan.weight, limits, features, plan.warm, plan.grace, plan.replica_seconds


def _check_number(what: str, value: object, least: int, most: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise InvalidInput(f"{shown(value)} is not a {what}", hint=f"use a whole number from {least} to {most:,}")


async def _publish(control: Control, conn: Conn, action: str, name: str) -> Mapping[str, Any]:
    """Every database knows every plan's limits: the binding reads them there."""
    await fetch(conn, "audit", (control.actor, action, name, None, Jsonb({})))
    return await control.engine.start(conn, "publish", {}, [], control.actor)
