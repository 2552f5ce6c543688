"""Litestar: a plugin with the middleware, the tenant as a dependency, answers to errors, and the router's lifespan.

app = Litestar(route_handlers=[...], plugins=[TenantryPlugin(AsyncRouter(), Subdomain("example.com"))])
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from tenantry.context import current_tenant, tenant_scope
from tenantry.errors import InvalidInput, MissingDependency, TenantryError
from tenantry.model import Tenant, shown
from tenantry.resolve import Chain, RequestFacts, Resolver
from tenantry.resolve.entrance import Entrance
from tenantry.resolve.problem import as_problem
from tenantry.routing.router_async import AsyncRouter

try:
    from litestar import Request, Response
    from litestar.config.app import AppConfig
    from litestar.di import NamedDependency, Provide
    from litestar.enums import ScopeType
    from litestar.exceptions import WebSocketException
    from litestar.exceptions.responses import create_debug_response, create_exception_response
    from litestar.middleware import ASGIMiddleware
    from litestar.params import SkipValidation
    from litestar.plugins import InitPlugin
    from litestar.types import ASGIApp, Receive, Scope, Send
except ImportError:
    raise MissingDependency("litestar", "litestar") from None

log = logging.getLogger("tenantry.litestar")

_POLICY_VIOLATION = 1008  # RFC 6455 section 7.4.1

CurrentTenant = NamedDependency[SkipValidation[Tenant]]
"""A parameter named ``tenant``: ``async def orders(tenant: CurrentTenant)``."""


class TenantryPlugin(InitPlugin):
    """Finds the tenant of each request and WebSocket that has a route, and works for it until the handler is done.

    The tenant is ``current_tenant()``, the dependency ``tenant``, and ``request.state.tenant``. What can't be answered
    is told as :func:`tenantry.resolve.problem.as_problem` says, if the application has no handler of its own for
    ``TenantryError``. A handler with ``tenant=False`` needs no tenant. The router opens and closes with the
    application.

    Litestar finds the route before any middleware runs, so a tenant in the path is part of the routes.

    Args:
        router: looks tenants up, and leads their transactions.
        resolver: says which tenant a request names.
        exempt: paths that need no tenant, such as health checks: exact ones, or beginnings that end with ``*``.
        optional: whether a request that names no tenant gets through, without a tenant.

    Raises:
        InvalidInput: a wrong kind of router or resolver, or a path that does not begin with ``/``.
    """

    def __init__(
        self,
        router: AsyncRouter,
        resolver: Chain | Resolver,
        *,
        exempt: Sequence[str] = ("/healthz",),
        optional: bool = False,
    ) -> None:
        if not isinstance(router, AsyncRouter):
            raise InvalidInput(f"{shown(router)} is not an AsyncRouter", hint="TenantryPlugin(AsyncRouter(), ...)")
        self._router = router
        self._middleware = TenantMiddleware(router, Entrance(resolver, exempt, optional=optional))

    def on_app_init(self, app_config: AppConfig) -> AppConfig:
        """Called by Litestar."""
        app_config.middleware = [self._middleware, *app_config.middleware]
        app_config.dependencies = {"tenant": Provide(_tenant), **app_config.dependencies}
        app_config.exception_handlers = {TenantryError: _tell, **app_config.exception_handlers}
        app_config.lifespan = [self._router, *app_config.lifespan]
        app_config.signature_namespace.setdefault("CurrentTenant", CurrentTenant)
        return app_config


class TenantMiddleware(ASGIMiddleware):
    """What the plugin puts outermost."""

    def __init__(self, router: AsyncRouter, entrance: Entrance) -> None:
        self._router = router
        self._entrance = entrance

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        """One connection."""
        if scope["route_handler"].opt.get("tenant") is False:
            await next_app(scope, receive, send)
            return
        try:
            claims = self._entrance.claims(RequestFacts.from_asgi(scope))
            tenant = await self._router.admit(claims) if claims else None
        except TenantryError as error:
            problem = as_problem(error)
            if scope["type"] == ScopeType.WEBSOCKET and problem is not None:
                raise WebSocketException(detail=problem.detail, code=_POLICY_VIOLATION) from error
            raise
        if tenant is None:
            await next_app(scope, receive, send)
            return
        scope["state"]["tenant"] = tenant
        with tenant_scope(tenant):
            await next_app(scope, receive, send)


async def _tenant() -> Tenant:
    return current_tenant()


def _tell(request: Request[Any, Any, Any], error: TenantryError) -> Response[Any]:
    problem = as_problem(error)
    if problem is None:
        return (create_debug_response if request.app.debug else create_exception_response)(request, error)
    if problem.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        log.warning("%s: %s", error.code, error.message, extra={"where": error.where, "hint": error.hint})
    return Response(problem.body, status_code=problem.status, headers=problem.headers)
