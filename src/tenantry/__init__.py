"""The tenancy layer of a Python SaaS on PostgreSQL: many tenants in one house, each with their own privacy."""

from tenantry.context import current_tenant, tenant_scope
from tenantry.errors import TenantryError
from tenantry.model import Isolation, Mode, Placement, Plan, Shard, Tenant
from tenantry.routing.router import Router
from tenantry.routing.router_async import AsyncRouter
from tenantry.settings import Settings

__all__ = [
    "AsyncRouter",
    "Isolation",
    "Mode",
    "Placement",
    "Plan",
    "Router",
    "Settings",
    "Shard",
    "Tenant",
    "TenantryError",
    "current_tenant",
    "tenant_scope",
]
