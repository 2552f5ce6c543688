"""Everything that runs because of a request runs for its tenant, and for nobody once it is over."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

import httpx2
import pytest
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session, sessionmaker
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from tenantry import AsyncRouter, Router, current_tenant
from tenantry.context import current_scope
from tenantry.errors import NoTenant
from tenantry.integrations.asgi import TenantMiddleware
from tenantry.integrations.fastapi import CurrentTenant
from tenantry.integrations.sqlalchemy import create_engine
from tenantry.resolve import Subdomain
from tests.fixtures.house import House
from tests.integrations.shop import Order

pytestmark = pytest.mark.anyio

Ask = Callable[..., Any]
places = APIRouter()


class Notes:
    """What code without an answer of its own has seen."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str | None]] = []

    def take(self, where: str) -> None:
        scope = current_scope()
        self.seen.append((where, scope.tenant.slug if scope else None))


class Refused(Exception):
    """The application's own error."""


def sync_dependency() -> str:
    return current_tenant().slug


async def async_dependency() -> str:
    return current_tenant().slug


def sync_yield(request: Request) -> Iterator[str]:
    request.app.state.notes.take("sync before")
    yield current_tenant().slug
    request.app.state.notes.take("sync after")


async def async_yield(request: Request) -> AsyncIterator[str]:
    request.app.state.notes.take("async before")
    yield current_tenant().slug
    request.app.state.notes.take("async after")


async def async_session(request: Request) -> AsyncIterator[AsyncSession]:
    async with request.app.state.async_sessions.begin() as session:
        yield session


def sync_session(request: Request) -> Iterator[Session]:
    with request.app.state.sync_sessions.begin() as session:
        yield session


@places.get("/async")
async def async_endpoint(tenant: CurrentTenant) -> list[str]:
    return [current_tenant().slug, tenant.slug]


@places.get("/sync")
def sync_endpoint(tenant: CurrentTenant) -> list[str]:
    assert threading.current_thread() is not threading.main_thread()
    return [current_tenant().slug, tenant.slug]


@places.get("/dependencies")
def dependencies(
    a: Annotated[str, Depends(sync_dependency)],
    b: Annotated[str, Depends(async_dependency)],
    c: Annotated[str, Depends(sync_yield)],
    d: Annotated[str, Depends(async_yield)],
) -> list[str]:
    return [a, b, c, d]


@places.get("/background")
async def background(request: Request, tasks: BackgroundTasks) -> list[str]:
    notes = request.app.state.notes

    async def in_loop() -> None:
        notes.take("async task")

    tasks.add_task(in_loop)
    tasks.add_task(notes.take, "sync task")
    return [current_tenant().slug]


@places.get("/stream")
async def stream(request: Request) -> StreamingResponse:
    async def lines() -> AsyncIterator[str]:
        for _ in range(3):
            await asyncio.sleep(0)
            yield f"{current_tenant().slug}\n"
        request.app.state.notes.take("async stream")

    return StreamingResponse(lines())


@places.get("/sync-stream")
def sync_stream(request: Request) -> StreamingResponse:
    def lines() -> Iterator[str]:
        for _ in range(3):
            yield f"{current_tenant().slug}\n"
        request.app.state.notes.take("sync stream")

    return StreamingResponse(lines())


@places.get("/refused")
async def refused() -> None:
    raise Refused


@places.get("/broken")
async def broken() -> None:
    raise ZeroDivisionError


@places.get("/threads")
async def threads() -> list[str | None]:
    def here() -> str | None:
        scope = current_scope()
        return scope.tenant.slug if scope else None

    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(1) as executor:
        bare = await loop.run_in_executor(executor, here)
    return [await asyncio.to_thread(here), await asyncio.create_task(asyncio.to_thread(here)), bare]


async def on_refused(request: Request, error: Exception) -> Response:
    return PlainTextResponse(f"{current_tenant().slug} {request.state.tenant.slug}")


async def on_anything(request: Request, error: Exception) -> Response:
    request.app.state.notes.take("outermost handler")
    return PlainTextResponse(request.state.tenant.slug, status_code=500)


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture
def app(notes: Notes) -> FastAPI:
    """An application with every kind of place that code can run in."""
    made = FastAPI(exception_handlers={Refused: on_refused, Exception: on_anything})
    made.state.notes = notes
    made.include_router(places)
    return made


def client(app: Any, router: AsyncRouter) -> httpx2.AsyncClient:
    wrapped = TenantMiddleware(app, router, Subdomain("example.com"))
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app=wrapped, raise_app_exceptions=False))


@pytest.fixture
async def ask(app: FastAPI, router: AsyncRouter) -> AsyncIterator[Ask]:
    async with client(app, router) as opened:

        async def get(path: str, slug: str = "pooled-a") -> httpx2.Response:
            return await opened.get(f"http://{slug}.example.com{path}")

        yield get


@pytest.mark.parametrize("path", ["/async", "/sync"])
async def test_endpoints(ask: Ask, path: str) -> None:
    assert (await ask(path)).json() == ["pooled-a"] * 2


async def test_dependencies_also_after_their_yield(ask: Ask, notes: Notes) -> None:
    assert (await ask("/dependencies")).json() == ["pooled-a"] * 4
    places = ("sync before", "async before", "async after", "sync after")
    assert notes.seen == [(place, "pooled-a") for place in places]


async def test_background_tasks(ask: Ask, notes: Notes) -> None:
    assert (await ask("/background")).json() == ["pooled-a"]
    assert notes.seen == [("async task", "pooled-a"), ("sync task", "pooled-a")]


@pytest.mark.parametrize(("path", "end"), [("/stream", "async stream"), ("/sync-stream", "sync stream")])
async def test_streaming_bodies(ask: Ask, notes: Notes, path: str, end: str) -> None:
    assert (await ask(path)).text.split() == ["pooled-a"] * 3
    assert notes.seen == [(end, "pooled-a")]


async def test_exception_handlers(ask: Ask) -> None:
    assert (await ask("/refused")).text == "pooled-a pooled-a"


async def test_the_outermost_handler_when_the_middleware_is_around_the_application(ask: Ask, notes: Notes) -> None:
    answer = await ask("/broken")
    assert (answer.status_code, answer.text) == (500, "pooled-a")
    assert notes.seen == [("outermost handler", "pooled-a")]


async def test_the_outermost_handler_has_the_request_when_the_middleware_is_inside(
    app: FastAPI, router: AsyncRouter, notes: Notes
) -> None:
    """Starlette's own place for middleware is inside of the handler for ``Exception``: the scope has ended there."""
    app.add_middleware(TenantMiddleware, router=router, resolver=Subdomain("example.com"))
    transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://pooled-a.example.com") as opened:
        answer = await opened.get("/broken")
    assert answer.text == "pooled-a"
    assert notes.seen == [("outermost handler", None)]


async def test_threads_that_copy_the_context_have_the_tenant_and_others_have_none(ask: Ask) -> None:
    assert (await ask("/threads")).json() == ["pooled-a", "pooled-a", None]


async def test_a_mounted_application(app: FastAPI, router: AsyncRouter) -> None:
    outer = FastAPI()
    outer.mount("/shop", app)
    async with client(outer, router) as opened:
        answer = await opened.get("http://pooled-b.example.com/shop/sync")
    assert answer.json() == ["pooled-b"] * 2


async def test_a_task_that_outlives_its_request_keeps_the_tenant_that_it_began_with(router: AsyncRouter) -> None:
    go, tasks = asyncio.Event(), []

    async def later() -> str:
        await go.wait()
        return current_tenant().slug

    async def app(scope: Any, receive: Any, send: Any) -> None:
        tasks.append(asyncio.create_task(later()))
        await PlainTextResponse(current_tenant().slug)(scope, receive, send)

    async with client(app, router) as opened:
        for slug in ("pooled-a", "pooled-b"):
            await opened.get(f"http://{slug}.example.com/")
    go.set()
    assert await asyncio.gather(*tasks) == ["pooled-a", "pooled-b"]
    with pytest.raises(NoTenant):
        current_tenant()


async def test_a_client_that_goes_away_in_the_middle_leaves_nothing_behind(
    router: AsyncRouter, async_engine: AsyncEngine
) -> None:
    """The server cancels the request while it holds a transaction with a row in it."""
    reached = asyncio.Event()
    sessions = async_sessionmaker(async_engine)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async with sessions.begin() as session:
            session.add(Order(note="never"))
            await session.flush()
            reached.set()
            await asyncio.Event().wait()

    async with client(app, router) as opened:
        request = asyncio.create_task(opened.get("http://pooled-a.example.com/"))
        await reached.wait()
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
    ledger = router.pools.ledger
    assert ledger.idle == len(ledger)
    assert current_scope() is None
    for slug in ("pooled-a", "pooled-b"):
        async with router.tenant_scope(slug), sessions() as session:
            assert not (await session.scalars(select(Order).where(Order.note == "never"))).all()


@pytest.fixture
def shop(async_engine: AsyncEngine, sync_router: Router) -> FastAPI:
    """An application that writes and counts rows, in the loop and in threads."""
    made = FastAPI()
    made.state.async_sessions = async_sessionmaker(async_engine)
    made.state.sync_sessions = sessionmaker(create_engine(sync_router))
    notes = select(Order.tenant_id, Order.note).distinct()

    @made.get("/async/{note}")
    async def add(note: str, session: Annotated[AsyncSession, Depends(async_session)]) -> JSONResponse:
        session.add(Order(note=note))
        await session.flush()
        return JSONResponse([list(row) for row in await session.execute(notes)])

    @made.get("/sync/{note}")
    def sync_add(note: str, session: Annotated[Session, Depends(sync_session)]) -> JSONResponse:
        session.add(Order(note=note))
        session.flush()
        return JSONResponse([list(row) for row in session.execute(notes)])

    @made.get("/fails/{note}")
    async def fail(note: str, session: Annotated[AsyncSession, Depends(async_session)]) -> None:
        session.add(Order(note="lost"))
        await session.flush()
        raise Refused

    return made


async def test_interleaved_requests_of_all_tenants_never_see_anothers_rows(
    house: House, router: AsyncRouter, sync_router: Router, shop: FastAPI, async_engine: AsyncEngine
) -> None:
    slugs = [(kind, slug) for _ in range(30) for slug in house.tenants for kind in ("async", "sync", "fails")]
    async with client(shop, router) as opened:
        calls = (opened.get(f"http://{slug}.example.com/{kind}/{slug}") for kind, slug in slugs)
        answers = await asyncio.gather(*calls)
    for (kind, slug), answer in zip(slugs, answers, strict=True):
        if kind == "fails":
            assert answer.status_code == 500
        else:
            assert answer.json() == [[house.tenants[slug].key, slug]], answer.text
    for slug in house.tenants:
        async with router.tenant_scope(slug), async_engine.connect() as conn:
            assert await conn.scalar(select(func.count()).select_from(Order)) == 60
    for ledger in (router.pools.ledger, sync_router.pools.ledger):
        assert ledger.idle == len(ledger) <= ledger.budget
