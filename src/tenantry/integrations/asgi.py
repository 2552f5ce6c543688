"""Pure ASGI middleware: a request runs in the scope of its tenant, with everything that it starts (ASGI 3.0).

    app.add_middleware(TenantMiddleware, router=router, resolver=Subdomain("example.com"))

It calls the application in the task that called it, so the context is one and the same: for endpoints, dependencies,
background tasks, streaming bodies and exception handlers. Frameworks copy it to their threads.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from http import HTTPStatus
from typing import Any

from tenantry.context import tenant_scope
from tenantry.errors import InvalidInput, TenantryError
from tenantry.model import shown
from tenantry.resolve import Chain, RequestFacts, Resolver
from tenantry.resolve.entrance import Entrance, path_prefix
from tenantry.resolve.problem import Problem, as_problem
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
    here, as :func:`tenantry.resolve.problem.as_problem` says. The part of the path that named the tenant moves to
    ``root_path``.

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
        self._entrance = Entrance(resolver, exempt, optional=optional)

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
        claims = self._entrance.claims(facts)
        if not claims:
            await self.app(scope, receive, send)
            return
        tenant = await self._router.admit(claims)
        scope.setdefault("state", {})["tenant"] = tenant
        prefix = path_prefix(claims)
        with tenant_scope(tenant):
            await self.app(_below(scope, prefix) if prefix else scope, receive, send)


class ProblemResponse:
    """An ASGI application that answers every HTTP request with one problem."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        headers = [(name.encode(), value.encode()) for name, value in self._problem.headers.items()]
        await send({"type": "http.response.start", "status": self._problem.status, "headers": headers})
        await send({"type": "http.response.body", "body": self._problem.body})


async def on_tenantry_error(request: object, error: Exception) -> ProblemResponse:
    """An exception handler for Starlette and FastAPI, where the middleware is around the whole application:

        app.add_exception_handler(TenantryError, on_tenantry_error)

    With ``app.add_middleware(TenantMiddleware, ...)`` it is not needed.

    Raises:
        TenantryError: ``error`` itself, if it is the application's fault.
    """
    problem = as_problem(error) if isinstance(error, TenantryError) else None
    if problem is None:
        raise error
    return ProblemResponse(problem)


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
            await ProblemResponse(problem)(self._scope, _nothing, self._send)
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
