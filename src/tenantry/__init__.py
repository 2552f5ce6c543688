"""The tenancy layer of a Python SaaS on PostgreSQL: many tenants in one house, each with their own privacy."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tenantry.context import carry_scope, current_tenant, tenant_scope
    from tenantry.errors import TenantryError
    from tenantry.model import Isolation, Mode, Placement, Plan, Shard, Tenant
    from tenantry.routing.processes import carry_to_process
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
    "carry_scope",
    "carry_to_process",
    "current_tenant",
    "tenant_scope",
]

_HOME = {
    "AsyncRouter": "routing.router_async",
    "Router": "routing.router",
    "Settings": "settings",
    "TenantryError": "errors",
    "carry_scope": "context",
    "carry_to_process": "routing.processes",
    "current_tenant": "context",
    "load_ipython_extension": "integrations.jupyter",
    "tenant_scope": "context",
    "unload_ipython_extension": "integrations.jupyter",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is used first: pytest loads our plugin in every project that has us installed."""
    if name not in __all__ and name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOME.get(name, 'model')}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
