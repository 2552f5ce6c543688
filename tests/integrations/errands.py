"""What tests run in other processes: functions that can be imported there."""

from __future__ import annotations

import os
from functools import cache

from tenantry import Router, Settings, current_tenant
from tenantry.context import current_scope


@cache
def router_of(catalog: str) -> Router:
    """The router of the process that calls it."""
    return Router(Settings(catalog=catalog))


def seen() -> tuple[int, str | None, str | None]:
    """The process, and the tenant and mode of the scope there."""
    scope = current_scope()
    return (os.getpid(), scope.tenant.slug, scope.mode) if scope else (os.getpid(), None, None)


def place_order(catalog: str, note: str) -> tuple[int, int]:
    """Insert an order; the process that did it, and its backend."""
    with router_of(catalog).transaction() as conn:
        conn.execute("INSERT INTO orders (note) VALUES (%s)", (f"{current_tenant().slug}: {note}",))
        return os.getpid(), conn.info.backend_pid
