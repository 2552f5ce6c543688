"""What a client is told of an error, as ``application/problem+json`` (RFC 9457). Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from http import HTTPStatus

from tenantry.errors import (
    InvalidClaim,
    InvalidKey,
    InvalidSlug,
    NoTenant,
    TenantDeleted,
    TenantMoved,
    TenantNotFound,
    TenantNotReady,
    TenantryError,
    TenantSuspended,
    Unavailable,
    Unresolved,
)


@dataclass(frozen=True, slots=True)
class Problem:
    """An answer that says what was wrong.

    Args:
        status: the HTTP status.
        code: for programs; an extension member, as the RFC calls it.
        detail: for people who use the application; nothing in it is for operators only.
        hint: what to do next, if the client can do something.
        retry_after: when to try again, seconds.
        challenge: what ``WWW-Authenticate`` asks for.
    """

    status: int
    code: str
    detail: str
    hint: str | None = None
    retry_after: int | None = None
    challenge: str | None = None

    @property
    def title(self) -> str:
        """What the status is called: ``Not Found``."""
        return HTTPStatus(self.status).phrase

    @property
    def body(self) -> bytes:
        """The JSON document."""
        parts = {"type": "about:blank", "title": self.title, "status": self.status, "detail": self.detail}
        parts |= {"code": self.code, "hint": self.hint} if self.hint else {"code": self.code}
        return json.dumps(parts).encode()

    @property
    def headers(self) -> dict[str, str]:
        """The response's headers. It may not be cached: what is wrong now may be right in a moment."""
        headers = {
            "content-type": "application/problem+json",
            "content-length": str(len(self.body)),
            "cache-control": "no-store",
        }
        if self.retry_after is not None:
            headers["retry-after"] = str(self.retry_after)
        if self.challenge is not None:
            headers["www-authenticate"] = self.challenge
        return headers


def as_problem(error: TenantryError) -> Problem | None:
    """What to tell a client of an error; None if nothing: it is a fault in the application, and not the client's.

    Messages for operators stay inside. A tenant that was deleted looks like one that never was.
    """
    match error:
        case TenantNotFound() | TenantDeleted():
            return Problem(TenantNotFound.status, TenantNotFound.code, "there is no such tenant")
        case TenantSuspended():
            return Problem(error.status, error.code, "this tenant is suspended")
        case TenantNotReady():
            return Problem(error.status, error.code, "this tenant is still being set up", retry_after=5)
        case TenantMoved():
            return Problem(error.status, error.code, "this tenant is being moved", retry_after=1)
        case Unavailable():
            return Problem(error.status, error.code, "the service can't answer at the moment", retry_after=5)
        case NoTenant() if error.hint == NoTenant.default_hint:  # raised by code that runs outside of a scope
            return Problem(error.status, error.code, "the request names no tenant")
        case InvalidClaim():
            challenge = 'Bearer error="invalid_token"'  # RFC 6750 section 3
            return Problem(error.status, error.code, error.message, error.hint, challenge=challenge)
        case Unresolved() | InvalidSlug() | InvalidKey():
            return Problem(error.status, error.code, error.message, error.hint)
        case _:
            return None
