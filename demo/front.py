"""What stands in front of the application: the list of companies on the bare host, the style sheet, some headers."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from demo.app import DOMAIN
from demo.render import page
from demo.serve import ADDRESS
from demo.stage import LEVELS, level_of
from tenantry import Tenant
from tenantry.resolve import normalise_host
from tenantry.service import tenant
from tenantry.service.control import Control

HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self';"
    " base-uri 'none'; frame-ancestors 'none'",
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
}


@dataclass
class Level:
    """A level with the tenants that live on it."""

    title: str
    about: str
    tenants: list[Tenant] = field(default_factory=list)


class Front:
    """Sends requests that name no tenant to the landing page, and all others to the application.

    Args:
        application: of the companies.
        control: the control plane, which the landing page asks where everybody lives.
        port: that the landing page's links lead to.
    """

    def __init__(self, application: ASGIApp, control: Control, port: int) -> None:
        self._application = application
        self._control = control
        self._host = f"{DOMAIN}:{port}"
        self._static = StaticFiles(directory=Path(__file__).parent / "static")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI says."""

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        answer = Readable(scope, guarded, home=f"//{self._host}/") if _wants_page(scope) else guarded
        await self._choose(scope)(scope, receive, answer)

    def _choose(self, scope: Scope) -> ASGIApp:
        if scope["type"] != "http":
            return self._application
        if scope["path"].startswith("/static/"):
            return self._serve_static
        return self._landing if _is_bare(Headers(scope=scope)) else self._application

    async def _serve_static(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._static({**scope, "path": scope["path"].removeprefix("/static")}, receive, send)
        except HTTPException as error:
            await PlainTextResponse(error.detail, error.status_code)(scope, receive, send)

    async def _landing(self, scope: Scope, receive: Receive, send: Send) -> None:
        await (await self._landing_page(Request(scope)))(scope, receive, send)

    async def _landing_page(self, request: Request) -> Response:
        if request.url.path != "/":
            return page("error.html", status=404, message="there is no such page", hint=None, home="/")
        by_level: dict[str, list[Tenant]] = defaultdict(list)
        tenants = [each async for each in tenant.iterate(self._control) if each.placement]
        for each in tenants:
            by_level[level_of(each)].append(each)
        levels = [Level(name, about, by_level[name]) for name, (_, about) in LEVELS.items() if by_level[name]]
        return page("landing.html", levels=levels, tenants=tenants, host=self._host)


class Readable:
    """Shows people a problem of the middleware's (RFC 9457) as a page; all other answers go through as they are.

    Args:
        scope: of the request.
        send: where answers go to.
        home: where the page leads back to.
    """

    def __init__(self, scope: Scope, send: Send, *, home: str) -> None:
        self._scope = scope
        self._send = send
        self._home = home
        self._problem: bytes | None = None

    async def __call__(self, message: Message) -> None:
        """Send, as ASGI says."""
        if message["type"] == "http.response.start":
            if Headers(raw=message["headers"]).get("content-type") == "application/problem+json":
                self._problem = b""
                return
        elif self._problem is not None:
            self._problem += message.get("body", b"")
            if not message.get("more_body"):
                await self._show(json.loads(self._problem))
            return
        await self._send(message)

    async def _show(self, problem: dict[str, Any]) -> None:
        status, detail, hint = problem["status"], problem["detail"], problem.get("hint")
        shown = page("error.html", status=status, message=detail, hint=hint, home=self._home)
        await shown(self._scope, _nothing, self._send)


async def _nothing() -> Message:
    return {"type": "http.disconnect"}


def _wants_page(scope: Scope) -> bool:
    return scope["type"] == "http" and "text/html" in Headers(scope=scope).get("accept", "")


def _is_bare(headers: Headers) -> bool:
    return (
        len(headers.getlist("host")) == 1
        and normalise_host(headers["host"]) in (DOMAIN, ADDRESS)
        and not any(name in headers for name in ("x-tenant", "authorization"))
    )
