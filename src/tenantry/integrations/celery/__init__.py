"""Celery: a message carries the tenant that it was sent for, and the task runs in that tenant's scope.

app = Celery("shop", broker=...)
Tenantry(app, Router())

@app.task
def bill(month: str) -> None: ...

with router.tenant_scope("acme"):
    bill.delay("2026-11")
"""

from __future__ import annotations

from tenantry.errors import MissingDependency

try:
    import celery as celery
except ImportError:
    raise MissingDependency("celery", "celery") from None

from tenantry.integrations.celery.extension import Tenantry
from tenantry.integrations.celery.task import TenantTask

__all__ = ["TenantTask", "Tenantry"]
