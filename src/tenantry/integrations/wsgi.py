"""WSGI middleware (PEP 3333): a request runs in the scope of its tenant, until its body has been sent and closed.

application = TenantMiddleware(application, Router(), Subdomain("example.com"))
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from http import HTTPStatus
from typing import Any

from tenantry.errors import InvalidInput, TenantryError
from tenantry.model import shown
from tenantry.resolve import Chain, RequestFacts, Resolver
from tenantry.resolve.entrance import Entrance, path_prefix
from tenantry.resolve.problem import Problem, as_problem
from tenantry.resolve.wsgi import Environ, StartResponse, WSGIApp, below, is_file, run_for
from tenantry.routing.router import Router

log = logging.getLogger("tenantry.wsgi")


class TenantMiddleware:
    """Finds the tenant of each request, and works for it until the body is closed, however slowly it is sent.

    The tenant is ``current_tenant()``, and ``environ["tenantry.tenant"]``. What can't be answered is answered here, as
    :func:`tenantry.resolve.problem.as_problem` says. The part of the path that named the tenant moves to
    ``SCRIPT_NAME``.

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
        app: WSGIApp,
        router: Router,
        resolver: Chain | Resolver,
        *,
        exempt: Sequence[str] = ("/healthz",),
        optional: bool = False,
    ) -> None:
        if not isinstance(router, Router):
            raise InvalidInput(f"{shown(router)} is not a Router", hint="TenantMiddleware(app, Router(), ...)")
        self.app = app
        self._router = router
        self._entrance = Entrance(resolver, exempt, optional=optional)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """One request, as WSGI has it."""
        answer = _Answer(start_response)
        try:
            body = self._serve(environ, answer.start)
        except TenantryError as error:
            return [answer.refuse(error)]
        return body if is_file(body, environ) else _Told(body, answer)

    def _serve(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        claims = self._entrance.claims(RequestFacts.from_wsgi(environ))
        if not claims:
            return self.app(environ, start_response)
        tenant = self._router.admit(claims)
        prefix = path_prefix(claims)
        return run_for(tenant, self.app, below(environ, prefix) if prefix else environ, start_response)


class _Answer:
    """Knows whether an answer has been sent already, and gives another one if not.

    Headers go out with the first part of the body that is not empty; until then they can be replaced.
    """

    def __init__(self, start_response: StartResponse) -> None:
        self._start_response = start_response
        self._started = False
        self.is_sent = False

    def start(self, status: str, headers: Any, exc_info: Any = None) -> Callable[[bytes], object]:
        self._started = True
        write = self._start_response(status, headers, exc_info) if exc_info else self._start_response(status, headers)

        def noted(data: bytes) -> object:
            self.is_sent = True
            return write(data)

        return noted

    def refuse(self, error: TenantryError) -> bytes:
        """Answer with what a client is told of an error: the whole body. Raise it again if that is nothing."""
        problem = as_problem(error)
        if problem is None or self.is_sent:
            raise error
        if problem.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            log.warning("%s: %s", error.code, error.message, extra={"where": error.where, "hint": error.hint})
        status = f"{problem.status} {problem.title}"
        if self._started:
            self._start_response(status, _headers(problem), sys.exc_info())
        else:
            self._start_response(status, _headers(problem))
        return problem.body


class _Told:
    """A body; if it fails before any of it was sent, the client is told why."""

    def __init__(self, body: Iterable[bytes], answer: _Answer) -> None:
        self._body = body
        self._answer = answer
        self._chunks: Iterator[bytes] | None = None

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            self._chunks = iter(self._body) if self._chunks is None else self._chunks
            chunk = next(self._chunks)
        except TenantryError as error:
            self._chunks = iter(())
            return self._answer.refuse(error)
        self._answer.is_sent = self._answer.is_sent or bool(chunk)
        return chunk

    def close(self) -> None:
        close = getattr(self._body, "close", None)
        if close is not None:
            close()


def _headers(problem: Problem) -> list[tuple[str, str]]:
    return list(problem.headers.items())
