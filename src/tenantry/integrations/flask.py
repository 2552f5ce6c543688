"""Flask: each request runs in the scope of its tenant, also its streamed body, its async views and its teardown.

Tenantry(app, Router(), Subdomain("example.com"))
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from http import HTTPStatus
from typing import Any, TypeVar

from tenantry.context import current_tenant
from tenantry.errors import InvalidInput, MissingDependency, TenantryError
from tenantry.model import shown
from tenantry.resolve import Chain, RequestFacts, Resolver
from tenantry.resolve.entrance import Entrance, path_prefix
from tenantry.resolve.problem import as_problem
from tenantry.resolve.wsgi import Environ, StartResponse, WSGIApp, below, run_for
from tenantry.routing.router import Router

try:
    from flask import Flask, Response, request
    from werkzeug.exceptions import HTTPException
except ImportError:
    raise MissingDependency("flask", "flask") from None

log = logging.getLogger("tenantry.flask")

View = TypeVar("View", bound=Callable[..., Any])

_REFUSED = "tenantry.refused"


class Tenantry:
    """An extension that finds the tenant of each request.

    The tenant is ``current_tenant()``, also in templates. Errors go through the application's own error handlers, and
    through its ``after_request`` functions; what nobody handles is answered as
    :func:`tenantry.resolve.problem.as_problem` says. The part of the path that named the tenant moves to
    ``request.script_root``: routes are written without it, and ``url_for`` gives URLs with it.

    Args:
        app: the application; None: :meth:`init_app` gets it.
        router: looks tenants up, and leads their transactions.
        resolver: says which tenant a request names.
        exempt: what needs no tenant: paths (``/healthz``, ``/static/*``), endpoints (``auth.login``) and blueprints
            (``auth.*``). See also :meth:`exempt`.
        optional: whether a request that names no tenant gets through, without a tenant.

    Raises:
        InvalidInput: a wrong kind of application, router, resolver or exemption.
    """

    def __init__(
        self,
        app: Flask | None = None,
        router: Router | None = None,
        resolver: Chain | Resolver | None = None,
        *,
        exempt: Sequence[str] = ("/healthz", "static"),
        optional: bool = False,
    ) -> None:
        if isinstance(exempt, str):
            raise InvalidInput(f"exempt is one text, {shown(exempt)}", hint=f"give a list: [{exempt!r}]")
        self._router = router
        self._resolver = resolver
        self._paths = tuple(each for each in exempt if "/" in each or not each)
        self._endpoints = frozenset(exempt) - set(self._paths)
        self._views: set[Callable[..., Any]] = set()
        self._optional = optional
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask, router: Router | None = None, resolver: Chain | Resolver | None = None) -> None:
        """Serve an application; several may share an extension.

        Args:
            router: if it was not given before.
            resolver: if it was not given before.
        """
        router, resolver = router or self._router, resolver or self._resolver
        if not isinstance(router, Router):
            raise InvalidInput(f"{shown(router)} is not a Router", hint="Tenantry(app, Router(), resolver)")
        if resolver is None:
            raise InvalidInput("no resolver is given", hint="Tenantry(app, router, Subdomain('example.com'))")
        if "tenantry" in app.extensions:
            raise InvalidInput("the Flask application has the extension already", hint="call init_app(app) once")
        app.extensions["tenantry"] = self
        entrance = Entrance(resolver, self._paths, optional=self._optional)
        app.wsgi_app = _Door(self, app, router, entrance)  # type: ignore[method-assign]
        app.before_request_funcs.setdefault(None, []).insert(0, _raise_refusal)
        app.register_error_handler(TenantryError, _tell)
        app.jinja_env.globals["current_tenant"] = current_tenant

    def exempt(self, view: View) -> View:
        """A decorator for views that need no tenant; it stands below ``@app.route``."""
        self._views.add(view)
        return view

    def needs_none(self, app: Flask, environ: Environ) -> bool:
        """Whether a request goes to an endpoint that needs no tenant."""
        if not self._endpoints and not self._views:
            return False
        try:
            adapter = app.create_url_adapter(app.request_class(environ))
            endpoint = adapter.match()[0] if adapter is not None else None
        except HTTPException:  # the application will say so itself
            return False
        if endpoint is None:
            return False
        names = {endpoint, f"{endpoint.rpartition('.')[0]}.*"}
        return not self._endpoints.isdisjoint(names) or app.view_functions.get(endpoint) in self._views


class _Door:
    """Stands where Flask's WSGI application stood."""

    def __init__(self, extension: Tenantry, app: Flask, router: Router, entrance: Entrance) -> None:
        self._extension = extension
        self._flask = app
        self._app: WSGIApp = app.wsgi_app
        self._router = router
        self._entrance = entrance

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if self._extension.needs_none(self._flask, environ):
            return self._app(environ, start_response)
        try:
            claims = self._entrance.claims(RequestFacts.from_wsgi(environ))
            tenant = self._router.admit(claims) if claims else None
        except TenantryError as error:
            return self._app({**environ, _REFUSED: error}, start_response)
        if tenant is None:
            return self._app(environ, start_response)
        prefix = path_prefix(claims)
        return run_for(tenant, self._app, below(environ, prefix) if prefix else environ, start_response)


def _raise_refusal() -> None:
    """Before everything else: here the application's error handlers see why its request has no tenant."""
    error = request.environ.get(_REFUSED)
    if error is not None:
        raise error


def _tell(error: TenantryError) -> Response:
    """The answer, unless the application has a handler of its own for the error."""
    problem = as_problem(error)
    if problem is None:
        raise error
    if problem.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        log.warning("%s: %s", error.code, error.message, extra={"where": error.where, "hint": error.hint})
    return Response(problem.body, problem.status, problem.headers)
