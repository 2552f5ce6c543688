"""The tenant of the code that runs now: a context variable, so that each task and thread has its own (PEP 567).

Copies of a context carry it along: tasks, ``asyncio.to_thread``, Starlette's thread pool. A thread or an executor that
starts with an empty context has no tenant, and what it does is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from tenantry.errors import InvalidInput, NoTenant
from tenantry.model import Mode, Tenant


@dataclass(frozen=True, slots=True)
class Scope:
    """A tenant, and what may be done in its name."""

    tenant: Tenant
    mode: Mode = Mode.READ_WRITE


_scope: ContextVar[Scope | None] = ContextVar("tenantry_scope", default=None)


@contextmanager
def tenant_scope(tenant: Tenant, *, mode: Mode | str = Mode.READ_WRITE) -> Iterator[Tenant]:
    """Work for a tenant until the block ends; then for the one before.

    Args:
        tenant: from a router's ``find``; a router's own ``tenant_scope`` takes a slug.
        mode: ``ro`` to refuse writes.

    Raises:
        InvalidInput: something else than a tenant.
    """
    if not isinstance(tenant, Tenant):
        raise InvalidInput(
            f"tenant_scope() takes a Tenant, not {type(tenant).__name__}",
            hint="look it up with router.find(slug), or use router.tenant_scope(slug)",
        )
    token = _scope.set(Scope(tenant, Mode(mode)))
    try:
        yield tenant
    finally:
        _scope.reset(token)


def current_scope() -> Scope | None:
    """The scope that the code runs in, or None."""
    return _scope.get()


def current_tenant() -> Tenant:
    """The tenant that the code runs for.

    Raises:
        NoTenant: it runs outside a tenant scope.
    """
    scope = _scope.get()
    if scope is None:
        raise NoTenant("this code runs outside a tenant scope")
    return scope.tenant
