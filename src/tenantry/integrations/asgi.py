"""Pure ASGI middleware: a request runs in the scope of its tenant, with everything that it starts (ASGI 3.0).

    app.add_middleware(TenantMiddleware, router=router, resolver=Subdomain("example.com"))

It calls the application in the task that called it, so the context is one and the same: for endpoints, dependencies,
background tasks, streaming bodies and exception handlers. Frameworks copy it to their threads.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Iterable, MutableMapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from tenantry.context import tenant_scope
from tenantry.errors import (
    ConflictingTenants,
    InvalidClaim,
    InvalidInput,
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
from tenantry.model import Tenant, shown
from tenantry.resolve import Chain, Claim, RequestFacts, Resolver, agree, as_chain
from tenantry.routing.core import admitted
from tenantry.routing.router_async import AsyncRouter

log = logging.getLogger("tenantry.asgi")

Message = MutableMapping[str, Any]
ASGIScope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[ASGIScope, Receive, Send], Awaitable[None]]

_POLICY_VIOLATION = 1008  # RFC 6455 section 7.4.1
_TRY_AGAIN_LATER = 1013
_LONGEST_REASON = 123  # bytes: a control frame has 125, the code takes two


class TenantMiddleware:
    """Finds the tenant of each HTTP request and WebSocket, and works for it until the application has returned.

    The tenant is ``current_tenant()``, and ``request.state.tenant`` in Starlette. What can't be answered is answered
    here, as :func:`as_problem` says. The part of the path that named the tenant moves to ``root_path``.

    Args:
        app: the application.
        router: looks tenants up, and leads their transactions.
        resolver: says which tenant a request names.
        exempt: paths that need no tenant, such as health checks: exact ones, or beginnings that end with ``*``.
        optional: whether a request that names no tenant gets through, without a tenant.

    Raises:
        InvalidInput: a wrong kind of router or resolver, or a path that does not begin with ``/``.
    """

    def __init__(
        self,
        app: ASGIApp,
        router: AsyncRouter,
        resolver: Chain | Resolver,
        *,
        exempt: Sequence[str] = ("/healthz",),
        optional: bool = False,
    ) -> None:
        if not isinstance(router, AsyncRouter):
            raise InvalidInput(
                f"{shown(router)} is not an AsyncRouter", hint="TenantMiddleware(app, AsyncRouter(), ...)"
            )
        self.app = app
        self._router = router
        self._chain = as_chain(resolver)
        paths = _checked(exempt)
        self._exempt = frozenset(path for path in paths if not path.endswith("*"))
        self._exempt_below = tuple(path[:-1] for path in paths if path.endswith("*"))
        self._optional = optional

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        """One connection, as ASGI has it."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        answer = _Answer(scope, send)
        try:
            await self._serve(scope, receive, answer.send)
        except TenantryError as error:
            problem = as_problem(error)
            if problem is None or answer.is_begun:
                raise
            if problem.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                log.warning("%s: %s", error.code, error.message, extra={"where": error.where, "hint": error.hint})
            await answer.refuse(problem)

    async def _serve(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        facts = RequestFacts.from_asgi(scope)
        claims = () if self._is_exempt(facts.path) else self._claims(facts)
        if not claims:
            await self.app(scope, receive, send)
            return
        tenant = await self._agreed(claims)
        admitted(tenant)
        scope.setdefault("state", {})["tenant"] = tenant
        prefix = next((claim.path_prefix for claim in claims if claim.path_prefix), "")
        with tenant_scope(tenant):
            await self.app(_below(scope, prefix) if prefix else scope, receive, send)

    def _is_exempt(self, path: str) -> bool:
        return path in self._exempt or path.startswith(self._exempt_below)

    def _claims(self, facts: RequestFacts) -> tuple[Claim, ...]:
        try:
            return self._chain.resolve(facts)
        except NoTenant:
            if self._optional:
                return ()
            raise

    async def _agreed(self, claims: Sequence[Claim]) -> Tenant:
        """The tenant that all claims mean.

        A claim of nobody contradicts a claim of somebody, as one of somebody else does: otherwise the answer to a
        header ``X-Tenant: globex`` on another tenant's host would tell whether Globex is a customer.
        """
        found = [(claim, await self._located(claim)) for claim in claims]
        first, leader = found[0]
        for claim, tenant in found:
            if (tenant is None) is not (leader is None):
                raise ConflictingTenants(f"{first.source} and {claim.source} name different tenants")
        if leader is None:
            raise TenantNotFound("no claim of the request names a tenant that exists")
        return agree([(claim, tenant) for claim, tenant in found if tenant is not None])

    async def _located(self, claim: Claim) -> Tenant | None:
        try:
            return await self._router.locate(claim)
        except (TenantNotFound, InvalidKey):
            return None


@dataclass(frozen=True, slots=True)
class Problem:
    """An answer that says what was wrong, as ``application/problem+json`` (RFC 9457). It is an ASGI application.

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
    def body(self) -> bytes:
        """The JSON document."""
        title = HTTPStatus(self.status).phrase
        parts = {"type": "about:blank", "title": title, "status": self.status, "detail": self.detail}
        parts |= {"code": self.code, "hint": self.hint} if self.hint else {"code": self.code}
        return json.dumps(parts).encode()

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
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
        return [(name.encode(), value.encode()) for name, value in headers.items()]

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        """Answer an HTTP request."""
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        await send({"type": "http.response.body", "body": self.body})


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


async def on_tenantry_error(request: object, error: Exception) -> Problem:
    """An exception handler for Starlette and FastAPI, where the middleware is around the whole application:

        app.add_exception_handler(TenantryError, on_tenantry_error)

    With ``app.add_middleware(TenantMiddleware, ...)`` it is not needed.

    Raises:
        TenantryError: ``error`` itself, if it is the application's fault.
    """
    problem = as_problem(error) if isinstance(error, TenantryError) else None
    if problem is None:
        raise error
    return problem


class _Answer:
    """Knows how far the application has come with its answer, and gives another one if it has not begun."""

    def __init__(self, scope: ASGIScope, send: Send) -> None:
        self._scope = scope
        self._send = send
        self._last = ""

    @property
    def is_begun(self) -> bool:
        """Whether it is too late for another answer. An open WebSocket can still be closed with a reason."""
        return self._last.startswith("http.") or self._last in ("websocket.close", "websocket.http.response.start")

    async def send(self, message: Message) -> None:
        self._last = message["type"]
        await self._send(message)

    async def refuse(self, problem: Problem) -> None:
        if self._scope["type"] == "http":
            await problem(self._scope, _nothing, self._send)
            return
        again = problem.retry_after is not None and self._last
        reason = problem.detail.encode()[:_LONGEST_REASON].decode(errors="ignore")
        code = _TRY_AGAIN_LATER if again else _POLICY_VIOLATION
        await self._send({"type": "websocket.close", "code": code, "reason": reason})


async def _nothing() -> Message:
    return {"type": "http.disconnect"}


def _below(scope: ASGIScope, prefix: str) -> ASGIScope:
    """The scope for an application that is mounted at the prefix. ``path`` then contains ``root_path`` (ASGI 2.5)."""
    root, path = scope.get("root_path") or "", scope["path"]
    root = root.rstrip("/")
    if not (path == root or path.startswith(f"{root}/")):
        path = root + path
    return {**scope, "root_path": root + prefix, "path": path}


def _checked(paths: Iterable[str]) -> tuple[str, ...]:
    if isinstance(paths, str):
        raise InvalidInput(f"exempt is one text, {shown(paths)}", hint=f"give a list: [{paths!r}]")
    for path in (paths := tuple(paths)):
        if not str(path).startswith("/") or "*" in path[:-1]:
            raise InvalidInput(
                f"{shown(path)} is not a path", hint="write an exact path, '/healthz', or a beginning, '/static/*'"
            )
    return paths
