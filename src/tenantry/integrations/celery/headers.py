"""What a message says about its tenant, in headers of plain text. Pure.

``tenantry_tenant`` is ``id:UUID``, ``slug:SLUG`` or ``nobody``; ``tenantry_mode`` is ``rw`` or ``ro``. It is a claim
and no proof: the worker looks the tenant up. ``tenantry_after`` may be there: what reads from a replica must see.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self
from uuid import UUID

from tenantry.context import Scope
from tenantry.errors import InvalidInput, InvalidSlug, Unresolved
from tenantry.model import Mode, Tenant, parse_slug, shown

TENANT = "tenantry_tenant"
MODE = "tenantry_mode"
AFTER = "tenantry_after"
_NOBODY = "nobody"


@dataclass(frozen=True, slots=True)
class Recipient:
    """For whom a task runs.

    Args:
        tenant: its id, its slug, or None: nobody.
        mode: what the task may do in the tenant's name.
        after: what a router's ``last_write`` has returned, so that the task sees what had been written.
    """

    tenant: UUID | str | None = None
    mode: Mode = Mode.READ_WRITE
    after: str | None = None

    @classmethod
    def of(cls, scope: Scope | None) -> Self:
        """The tenant of a scope; nobody outside of one."""
        return cls() if scope is None else cls(scope.tenant.id, scope.mode, scope.after)

    @classmethod
    def named(cls, tenant: Tenant | str) -> Self:
        """A tenant, or one with a slug.

        Raises:
            InvalidSlug: a text that is none.
            InvalidInput: something else.
        """
        if isinstance(tenant, Tenant):
            return cls(tenant.id)
        if isinstance(tenant, str):
            return cls(parse_slug(tenant))
        raise InvalidInput(f"{shown(tenant)} is not a tenant", hint="give a Tenant or its slug")

    @classmethod
    def read(cls, headers: Mapping[str, Any] | None) -> Self | None:
        """What a message's headers say; None if nothing.

        Raises:
            Unresolved: something else than we write.
        """
        value = (headers or {}).get(TENANT)
        if value is None or headers is None:
            return None
        kind, _, name = str(value).partition(":")
        after = None if headers.get(AFTER) is None else str(headers[AFTER])
        try:
            mode = Mode(headers.get(MODE, Mode.READ_WRITE))
            match kind:
                case "id":
                    return cls(UUID(name), mode, after)
                case "slug":
                    return cls(parse_slug(name), mode, after)
                case "nobody" if not name:
                    return cls()
        except (ValueError, InvalidSlug):
            pass
        raise Unresolved(
            f"the task's headers name no tenant that could exist: {shown(value)}, {shown(headers.get(MODE))}",
            hint=f"send tasks through Celery with Tenantry, or write {TENANT}='slug:SLUG' and {MODE}='rw'",
        )

    @property
    def is_nobody(self) -> bool:
        """Whether no tenant is meant."""
        return self.tenant is None

    @property
    def headers(self) -> dict[str, str]:
        """The headers that say so."""
        if self.tenant is None:
            return {TENANT: _NOBODY}
        after = {AFTER: self.after} if self.after is not None else {}
        kind = "id" if isinstance(self.tenant, UUID) else "slug"
        return {TENANT: f"{kind}:{self.tenant}", MODE: str(self.mode), **after}


def without(headers: Mapping[str, Any] | None) -> dict[str, Any]:
    """Headers without ours."""
    return {name: value for name, value in (headers or {}).items() if name not in (TENANT, MODE, AFTER)}
