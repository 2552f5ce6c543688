"""WebSockets run for their tenant, or are closed with a reason."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.testclient import TestClient, WebSocketTestSession
from starlette.websockets import WebSocket, WebSocketDisconnect

from tenantry import AsyncRouter, current_tenant
from tenantry.errors import NoCapacity, TenantryError, TenantSuspended
from tenantry.integrations.asgi import TenantMiddleware
from tenantry.resolve import Subdomain
from tests.fixtures.house import House

Endpoint = Callable[[WebSocket], Awaitable[None]]


@contextmanager
def connected(house: House, endpoint: Endpoint, host: str = "pooled-a.example.com") -> Iterator[WebSocketTestSession]:
    """A client of one endpoint; the application runs in a loop of its own."""
    router = AsyncRouter(house.settings)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with router:
            yield

    app = Starlette(routes=[WebSocketRoute("/", endpoint)], lifespan=lifespan)
    wrapped = TenantMiddleware(app, router, Subdomain("example.com"))
    with TestClient(wrapped) as client, client.websocket_connect(f"ws://{host}/") as socket:
        yield socket


def test_a_websocket_runs_for_its_tenant(house: House) -> None:
    async def endpoint(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text(f"{current_tenant().slug} {socket.state.tenant.slug}")
        await socket.close()

    with connected(house, endpoint) as socket:
        assert socket.receive_text() == "pooled-a pooled-a"


def test_a_websocket_of_nobody_is_refused_before_it_is_accepted(house: House) -> None:
    async def endpoint(socket: WebSocket) -> None:
        raise AssertionError("reached")

    with pytest.raises(WebSocketDisconnect) as caught, connected(house, endpoint, "nobody.example.com"):
        pass
    assert (caught.value.code, caught.value.reason) == (1008, "there is no such tenant")


@pytest.mark.parametrize(("error", "code"), [(TenantSuspended("now"), 1008), (NoCapacity("full"), 1013)])
def test_an_open_websocket_is_closed_with_a_reason(house: House, error: TenantryError, code: int) -> None:
    async def endpoint(socket: WebSocket) -> None:
        await socket.accept()
        raise error

    with connected(house, endpoint) as socket, pytest.raises(WebSocketDisconnect) as caught:
        socket.receive_text()
    assert caught.value.code == code


def test_an_endpoint_that_fails_before_it_accepts_refuses_the_websocket(house: House) -> None:
    async def endpoint(socket: WebSocket) -> None:
        raise NoCapacity("full")

    with pytest.raises(WebSocketDisconnect) as caught, connected(house, endpoint):
        pass
    assert caught.value.code == 1008
