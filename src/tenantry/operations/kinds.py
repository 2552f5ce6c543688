"""All kinds of operations."""

from __future__ import annotations

from tenantry.operations.delete import DELETE
from tenantry.operations.equip import EQUIP
from tenantry.operations.migrate import MIGRATE
from tenantry.operations.move import MOVE
from tenantry.operations.provision import PROVISION
from tenantry.operations.publish import PUBLISH
from tenantry.operations.refill import REFILL
from tenantry.operations.resume import RESUME
from tenantry.operations.rotate import ROTATE
from tenantry.operations.suspend import SUSPEND

KINDS = (PROVISION, SUSPEND, RESUME, DELETE, REFILL, EQUIP, ROTATE, PUBLISH, MIGRATE, MOVE)
