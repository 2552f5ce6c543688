"""FastAPI: the tenant as a dependency. The middleware is :class:`tenantry.integrations.asgi.TenantMiddleware`."""

from __future__ import annotations

from typing import Annotated

from tenantry.context import current_tenant
from tenantry.errors import MissingDependency
from tenantry.model import Tenant

try:
    from fastapi import Depends
except ImportError:
    raise MissingDependency("fastapi", "fastapi") from None


async def tenant() -> Tenant:
    """The tenant of the request.

    Raises:
        NoTenant: the request has none; the client gets 404.
    """
    return current_tenant()


CurrentTenant = Annotated[Tenant, Depends(tenant)]
"""A parameter of an endpoint or a dependency: ``async def orders(tenant: CurrentTenant)``."""
