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


@dataclass(frozen=True, slots=True, eq=False)
class _Open:
    """A scope that has been entered, and the one around it."""

    scope: Scope
    around: _Open | None
    depth: int = 0


_DEEPEST = 1000
"""A job that starts its own successor from inside of its scope would nest for ever; there the chain is cut."""

_innermost: ContextVar[_Open | None] = ContextVar("tenantry_scope", default=None)
_left: ContextVar[tuple[_Open, ...]] = ContextVar("tenantry_left", default=())


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
    around = _innermost.get()
    depth = 0 if around is None else around.depth + 1
    if depth == _DEEPEST:
        around, depth = None, 0
    entered = _Open(Scope(tenant, Mode(mode)), around, depth)
    _innermost.set(entered)
    try:
        yield tenant
    finally:
        _leave(entered)


def _leave(entered: _Open) -> None:
    """End a scope. Generators that take turns may end theirs in any order; the tenant of one that has ended must not
    come back when another ends."""
    innermost, left = _innermost.get(), _left.get()
    if innermost is not entered:
        if entered in _chain(innermost):
            _left.set((*left, entered))
        return
    still_open = next((each for each in _chain(entered.around) if each not in left), None)
    _innermost.set(still_open)
    if left:
        _left.set(tuple(each for each in _chain(still_open) if each in left))


def _chain(innermost: _Open | None) -> Iterator[_Open]:
    while innermost is not None:
        yield innermost
        innermost = innermost.around


def current_scope() -> Scope | None:
    """The scope that the code runs in, or None."""
    innermost = _innermost.get()
    return None if innermost is None else innermost.scope


def current_tenant() -> Tenant:
    """The tenant that the code runs for.

    Raises:
        NoTenant: it runs outside a tenant scope.
    """
    innermost = _innermost.get()
    if innermost is None:
        raise NoTenant("this code runs outside a tenant scope")
    return innermost.scope.tenant
