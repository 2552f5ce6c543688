"""The application that a web server serves, from the middleware that finds the tenant to the pages."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.exception_handlers import http_exception_handler, request_validation_exception_handler
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from sqlalchemy.ext.asyncio import async_sessionmaker
from starlette.exceptions import HTTPException as StarletteHTTPException

from demo import api, pages
from demo.render import page
from tenantry import AsyncRouter
from tenantry.integrations.asgi import TenantMiddleware
from tenantry.integrations.sqlalchemy import create_async_engine
from tenantry.resolve import Chain, Header, JwtClaim, Subdomain

DOMAIN = "localhost"
"""Every name below it leads to this machine (RFC 6761 section 6.3)."""

ISSUER = AUDIENCE = "ads-demo"


def create_app(router: AsyncRouter, secret: str) -> FastAPI:
    """The application.

    Args:
        router: leads each tenant's transactions to where it lives.
        secret: what signs the tokens of API clients, at least 32 bytes.
    """
    engine = create_async_engine(router)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await engine.dispose()

    app = FastAPI(
        title="Advertising", docs_url=None, redoc_url=None, openapi_url="/api/openapi.json", lifespan=lifespan
    )
    app.state.sessions = async_sessionmaker(engine, expire_on_commit=False)
    app.include_router(api.router)
    app.include_router(pages.router)
    app.add_exception_handler(StarletteHTTPException, _explain)
    app.add_exception_handler(RequestValidationError, _explain)
    app.add_middleware(TenantMiddleware, router=router, resolver=resolver(secret))
    return app


def resolver(secret: str) -> Chain:
    """Who a request belongs to: its host, a header for curl, a token. All that answer have to mean the same tenant."""
    token = JwtClaim(keys=secret, algorithms=["HS256"], issuer=ISSUER, audience=AUDIENCE)
    return Chain(Subdomain(DOMAIN), Header("x-tenant"), token)


async def _explain(request: Request, error: Exception) -> Response:
    """Errors as JSON to programs, and as a page to people."""
    is_api = request.url.path.startswith("/api/")
    if isinstance(error, RequestValidationError):
        return await request_validation_exception_handler(request, error) if is_api else _error(404, "no such page")
    assert isinstance(error, StarletteHTTPException)
    return await http_exception_handler(request, error) if is_api else _error(error.status_code, error.detail)


def _error(status: int, message: str) -> Response:
    return page("error.html", status=status, message=message, hint=None, home="/")
