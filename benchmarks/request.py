"""What the tenancy layer costs per ASGI request, the database apart: resolve the tenant, admit it, open its scope.

Both sides are the same Starlette application, called in this process as a server calls it; ours has the middleware in
front. The catalog's view is warm, as it is for all but a tenant's first request.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from benchmarks._harness import Report, report
from benchmarks._house import BenchHouse, bench_house
from tenantry import AsyncRouter
from tenantry.integrations.asgi import TenantMiddleware
from tenantry.postgres.binaries import Binaries
from tenantry.resolve import Header, Path, Subdomain
from tenantry.service import tenant

GOAL_MICROSECONDS = 15.0
REQUESTS = 3000
PAIRS = 9

App = Callable[..., Awaitable[None]]


async def hello(request: Request) -> PlainTextResponse:
    """The application."""
    return PlainTextResponse("hello")


def scope_of(where: str, headers: dict[str, str]) -> dict[str, Any]:
    """A request as a server makes it of what a browser sends."""
    usual = {
        "host": "acme.example.com",
        "user-agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0",
        "accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
        "accept-encoding": "gzip, deflate, br",
        "cookie": "session=0123456789abcdef0123456789abcdef",
    }
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "https",
        "path": where,
        "raw_path": where.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in {**usual, **headers}.items()],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8000),
    }


async def receive() -> dict[str, Any]:
    """A body without bytes."""
    return {"type": "http.request", "body": b"", "more_body": False}


async def answer(app: App, scope: dict[str, Any]) -> bytes:
    """The body of the answer."""
    parts = []

    async def send(message: Any) -> None:
        parts.append(message.get("body", b""))

    await app({**scope, "headers": list(scope["headers"])}, receive, send)
    return b"".join(parts)


async def microseconds(app: App, scope: dict[str, Any]) -> float:
    """Per request."""

    async def send(message: Any) -> None:
        pass

    begin = time.perf_counter()
    for _ in range(REQUESTS):
        await app({**scope}, receive, send)
    return (time.perf_counter() - begin) / REQUESTS * 1e6


async def measure(made: Report, router: AsyncRouter) -> None:
    """All resolvers that do no cryptography."""
    bare = Starlette(routes=[Route("/", hello)])
    for what, resolver, headers, where in (
        ("subdomain", Subdomain("example.com"), {}, "/"),
        ("header", Header("x-tenant"), {"x-tenant": "acme"}, "/"),
        ("path", Path(), {}, "/t/acme/"),
    ):
        ours = TenantMiddleware(bare, router, resolver)
        with_tenant, without = scope_of(where, headers), scope_of("/", headers)
        if await answer(ours, with_tenant) != await answer(bare, without):
            raise SystemExit(f"{what}: the answers differ")
        await microseconds(ours, with_tenant)
        pairs = []
        for pair in range(PAIRS):
            first = await microseconds(bare, without) if pair % 2 else 0.0
            mine = await microseconds(ours, with_tenant)
            pairs.append(mine - (first or await microseconds(bare, without)))
        made.count(f"microseconds beyond bare Starlette, {what}", round(statistics.median(pairs), 1), GOAL_MICROSECONDS)


async def run(made: Report, house: BenchHouse) -> None:
    """Measure."""
    async with house.control() as control:
        await tenant.create(control, "acme")
    async with AsyncRouter(house.settings) as router:
        await measure(made, router)


if __name__ == "__main__":
    with report("request", Binaries.find().text) as result, bench_house() as made_house:
        asyncio.run(run(result, made_house))
