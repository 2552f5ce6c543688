"""A WSGI application (PEP 3333) that runs in the scope of a tenant until its body has been sent. Pure.

Whoever calls it goes on without the tenant, also while the body waits between two chunks: the application runs in a
context of its own. So a server that forgets to call ``close()`` leaves nothing behind in its thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextvars import Context, copy_context
from typing import Any

from tenantry.context import tenant_scope
from tenantry.model import Tenant

Environ = dict[str, Any]
StartResponse = Callable[..., Callable[[bytes], object]]
WSGIApp = Callable[[Environ, StartResponse], Iterable[bytes]]

TENANT = "tenantry.tenant"
"""Where the environment has the tenant."""


def run_for(tenant: Tenant, app: WSGIApp, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """What the application answers; it and its body run in the tenant's scope."""
    context = copy_context()
    context.run(tenant_scope(tenant).__enter__)  # it ends with the context
    environ[TENANT] = tenant
    body = context.run(app, environ, start_response)
    return body if is_file(body, environ) else Body(body, context)


def is_file(body: object, environ: Environ) -> bool:
    """Whether a body is a file that the server may send in its own way, as long as it is not wrapped."""
    wrapper = environ.get("wsgi.file_wrapper")
    return isinstance(wrapper, type) and isinstance(body, wrapper)


class Body:
    """A body whose chunks are made in a context."""

    def __init__(self, body: Iterable[bytes], context: Context) -> None:
        self._body = body
        self._context = context
        self._chunks: Iterator[bytes] | None = None

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._chunks is None:
            self._chunks = self._context.run(iter, self._body)
        return self._context.run(next, self._chunks)

    def close(self) -> None:
        """Close the application's body."""
        close = getattr(self._body, "close", None)
        if close is not None:
            self._context.run(close)


def below(environ: Environ, prefix: str) -> Environ:
    """The environment for an application that is mounted at a prefix of the path."""
    mounted = prefix.encode().decode("latin-1")  # as PEP 3333 has it
    path = environ.get("PATH_INFO", "").removeprefix(mounted)
    return {**environ, "SCRIPT_NAME": environ.get("SCRIPT_NAME", "") + mounted, "PATH_INFO": path}
