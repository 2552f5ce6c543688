"""A function in another process, for the tenant of the present one.

Only the tenant's id and the mode travel. The other process looks the tenant up with a router of its own, so that a
tenant that has moved is found where it lives now, and one that was suspended since is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, ParamSpec, TypeVar
from uuid import UUID

from tenantry.context import present_scope
from tenantry.errors import InvalidInput
from tenantry.model import Mode, shown
from tenantry.routing.router import Router

P = ParamSpec("P")
R = TypeVar("R")

MakeRouter = Callable[[], Router]
"""Gives the router of the process in which it is called, the same at each call."""


def carry_to_process(function: Callable[P, R], router: MakeRouter) -> Callable[P, R]:
    """A function that runs in the present scope's tenant in whatever process it is called.

        executor.submit(carry_to_process(work, get_router), 1, 2)

    It can be pickled if ``function`` and ``router`` can: they stand at the top of a module.

    Args:
        function: what to run. An async function or a generator is refused: it would run after the scope has ended.
        router: called in the other process; it returns the router there.

    Raises:
        NoTenant: there is no scope to carry.
        InvalidInput: ``function`` can't be carried, or ``router`` can't be called.
    """
    if not callable(router):
        raise InvalidInput(
            f"{shown(router)} stays in this process",
            hint="give a function of a module that returns the router of the process which calls it",
        )
    scope = present_scope(function)
    return Job(function, router, scope.tenant.id, scope.mode, scope.after)


@dataclass(frozen=True)
class Job(Generic[P, R]):
    """A function, and the tenant that it is for."""

    function: Callable[P, R]
    router: MakeRouter
    tenant_id: UUID
    mode: Mode
    after: str | None = None

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """What the function returns or raises.

        Raises:
            TenantNotFound: there is no such tenant any more.
            TenantSuspended, TenantDeleted, TenantNotReady: it may not work now.
            ServerUnreachable: the catalog does not answer.
        """
        router = self.router()
        with router.tenant_scope(router.find(tenant_id=self.tenant_id), mode=self.mode, after=self.after):
            return self.function(*args, **kwargs)
