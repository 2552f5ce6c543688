"""The Litestar plugin: where the tenant is, what needs none, and what clients are told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from litestar import Litestar, Request, Response, WebSocket, get, post, websocket
from litestar.background_tasks import BackgroundTask
from litestar.di import NamedDependency, Provide
from litestar.exceptions import WebSocketDisconnect
from litestar.params import FromPath
from litestar.response import Stream
from litestar.testing import TestClient

from tenantry import AsyncRouter, TenantryError, current_tenant
from tenantry.context import current_scope
from tenantry.errors import BindingRefused, InvalidInput, NoCapacity
from tenantry.integrations.litestar import CurrentTenant, TenantryPlugin
from tenantry.resolve import Chain, Header, Path, Subdomain
from tests.fixtures.house import House

pytestmark = pytest.mark.anyio

BY_HOST = Subdomain("example.com")
A = "http://pooled-a.example.com"


def slug() -> str:
    scope = current_scope()
    return scope.tenant.slug if scope else "nobody"


@get("/")
async def who() -> str:
    return slug()


@get("/thread", sync_to_thread=True)
def thread() -> str:
    return slug()


@get("/dependency")
async def dependency(request: Request[Any, Any, Any], tenant: CurrentTenant) -> list[str]:
    return [tenant.slug, request.state.tenant.slug]


async def session() -> AsyncIterator[str]:
    yield slug()
    seen.append(f"cleanup {slug()}")


seen: list[str] = []


@get("/later", dependencies={"session": Provide(session)})
async def later(session: NamedDependency[str]) -> Response[str]:
    async def after() -> None:
        seen.append(f"background {slug()}")

    return Response(session, background=BackgroundTask(after))


@get("/stream")
async def stream() -> Stream:
    async def parts() -> AsyncIterator[str]:
        for _ in range(3):
            await asyncio.sleep(0)
            yield f"{slug()}\n"

    return Stream(parts())


@get("/healthz")
async def health() -> str:
    return slug()


@get("/pricing", tenant=False)
async def pricing() -> str:
    return slug()


@get("/fail")
async def fail(request: Request[Any, Any, Any]) -> None:
    raise request.app.state.error


@get("/t/{name:str}/orders")
async def below(name: FromPath[str]) -> list[str]:
    return [name, slug()]


@websocket("/ws")
async def socket(socket: WebSocket[Any, Any, Any]) -> None:
    await socket.accept()
    await socket.send_text(slug())
    await socket.close()


HANDLERS = [who, thread, dependency, later, stream, health, pricing, fail, below, socket]


def application(router: AsyncRouter, resolver: Any = BY_HOST, **options: Any) -> Litestar:
    more = {name: options.pop(name) for name in ("exception_handlers", "debug", "dependencies") if name in options}
    return Litestar([*HANDLERS], plugins=[TenantryPlugin(router, resolver, **options)], openapi_config=None, **more)


def connected(app: Litestar) -> httpx2.AsyncClient:
    """A client in the test's own loop; Litestar's have one of their own."""
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url=A)  # type: ignore[arg-type]


async def ask(app: Litestar, url: str = f"{A}/", **headers: str) -> Any:
    async with connected(app) as client:
        return await client.get(url, headers=headers)


def assert_problem(answer: Any, status: int, code: str) -> Any:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == code
    return answer.json()


async def test_the_tenant_is_there_in_handlers_threads_dependencies_bodies_and_background_tasks(
    router: AsyncRouter,
) -> None:
    seen.clear()
    app = application(router)
    async with connected(app) as client:
        for path in ("/", "/thread", "/later"):
            assert (await client.get(path)).text == "pooled-a"
        assert (await client.get("/dependency")).json() == ["pooled-a", "pooled-a"]
        assert (await client.get("/stream")).text == "pooled-a\n" * 3
    assert sorted(seen) == ["background pooled-a", "cleanup pooled-a"]
    assert current_scope() is None


async def test_what_can_not_be_answered_is_told(router: AsyncRouter) -> None:
    app = application(router, Chain(BY_HOST, Header("x-tenant")))
    assert_problem(await ask(app, "http://nobody.example.com/"), 404, "tenant-not-found")
    assert_problem(await ask(app, "http://example.com/"), 404, "no-tenant")
    assert_problem(await ask(app, f"{A}/", **{"x-tenant": "pooled-b"}), 400, "conflicting-tenants")


async def test_errors_of_handlers_are_told_if_the_client_can_do_something(router: AsyncRouter) -> None:
    app = application(router)
    app.state.error = NoCapacity("all 10 connections are in use")
    answer = await ask(app, f"{A}/fail")
    assert "10" not in assert_problem(answer, 503, "no-capacity")["detail"]
    assert int(answer.headers["retry-after"]) > 0
    app.state.error = BindingRefused("the clock of 10.0.0.5 is late")
    answer = await ask(app, f"{A}/fail")
    assert (answer.status_code, answer.json()["detail"]) == (500, "Internal Server Error")
    app.debug = True
    assert "the clock of 10.0.0.5 is late" in (await ask(app, f"{A}/fail")).text
    assert current_scope() is None


async def test_an_applications_own_handler_of_errors_stays(router: AsyncRouter) -> None:
    def sorry(request: Request[Any, Any, Any], error: TenantryError) -> Response[str]:
        return Response(error.code, status_code=error.status)

    app = application(router, exception_handlers={TenantryError: sorry})
    assert (await ask(app, "http://nobody.example.com/")).text == "tenant-not-found"


async def test_an_applications_own_dependency_stays(router: AsyncRouter) -> None:
    async def mine() -> Any:
        return current_tenant()

    app = application(router, dependencies={"tenant": Provide(mine)})
    assert (await ask(app, f"{A}/dependency")).json() == ["pooled-a", "pooled-a"]


async def test_exempt_paths_and_handlers_need_no_tenant(router: AsyncRouter) -> None:
    app = application(router)
    for path in ("/healthz", "/pricing"):
        assert (await ask(app, f"http://10.0.0.7:8000{path}")).text == "nobody"
    assert (await ask(application(router, optional=True), "http://example.com/")).text == "nobody"


async def test_a_tenant_in_the_path_is_part_of_the_routes(router: AsyncRouter) -> None:
    app = application(router, Path("/t/{tenant}"))
    assert (await ask(app, f"{A}/t/schema-a/orders")).json() == ["schema-a", "schema-a"]


def test_a_websocket_has_the_tenant_and_one_for_nobody_is_closed(house: House) -> None:
    with TestClient(application(AsyncRouter(house.settings)), base_url=A) as client:
        with client.websocket_connect("/ws") as opened:
            assert opened.receive_text() == "pooled-a"
        with (
            pytest.raises(WebSocketDisconnect) as caught,
            client.websocket_connect("/ws", headers={"host": "x.example.com"}),
        ):
            pass
    assert (caught.value.code, caught.value.detail) == (1008, "there is no such tenant")


def test_the_router_opens_and_closes_with_the_application(house: House) -> None:
    router = AsyncRouter(house.settings)
    with TestClient(application(router), base_url=A) as client:
        assert router.view.known_fleet().shards
        assert client.get("/").text == "pooled-a"
    assert len(router.view.cache) == 0


async def test_requests_at_once_each_write_for_their_own_tenant(house: House, router: AsyncRouter) -> None:
    @post("/orders")
    async def add() -> list[str]:
        async with router.transaction() as conn:
            await conn.execute("INSERT INTO orders (note) VALUES (%s)", (f"litestar {current_tenant().slug}",))
            found = await conn.execute("SELECT DISTINCT note FROM orders WHERE note LIKE 'litestar %'")
            return [note for (note,) in await found.fetchall()]

    app = Litestar([add], plugins=[TenantryPlugin(router, BY_HOST)])
    async with connected(app) as client:
        slugs = list(house.tenants) * 5
        answers = await asyncio.gather(*(client.post(f"http://{each}.example.com/orders") for each in slugs))
    assert [answer.json() for answer in answers] == [[f"litestar {each}"] for each in slugs]


@pytest.mark.parametrize("wrong", [{"router": object()}, {"exempt": ["healthz"]}, {"resolver": "subdomain"}])
async def test_a_wrong_setting_is_refused_at_once(router: AsyncRouter, wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        TenantryPlugin(**{"router": router, "resolver": BY_HOST, **wrong})
