"""Which requests get through the middleware, and what the others are told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Mount, Route

from tenantry import AsyncRouter, Tenant, current_tenant
from tenantry.context import current_scope
from tenantry.errors import (
    BindingRefused,
    InvalidClaim,
    InvalidInput,
    NoCapacity,
    NoTenant,
    PlanNotFound,
    ServerUnreachable,
    TenantMoved,
    TenantryError,
    TenantSuspended,
)
from tenantry.integrations.asgi import TenantMiddleware, on_tenantry_error
from tenantry.model import TenantState
from tenantry.resolve import Chain, Claim, CustomDomain, Function, Header, Path, RequestFacts, Resolver, Subdomain
from tenantry.resolve.problem import as_problem
from tests.fixtures.house import House

pytestmark = pytest.mark.anyio

BY_HOST = Subdomain("example.com")
MIXED = Chain(BY_HOST, Header("x-tenant"), Header("x-key", kind="key"))


async def who(request: Request) -> JSONResponse:
    scope = current_scope()
    return JSONResponse(
        {
            "tenant": scope and scope.tenant.slug,
            "state": getattr(request.state, "tenant", None) and request.state.tenant.slug,
            "root_path": request.scope.get("root_path"),
            "url": str(request.url_for("who")),
        }
    )


async def fail(request: Request) -> JSONResponse:
    raise request.app.state.error


def application() -> Starlette:
    inner = [Route("/who", who, name="who"), Route("/fail", fail)]
    return Starlette(routes=[*inner, Mount("/api", routes=inner), Route("/healthz", who), Route("/static/a.css", who)])


@asynccontextmanager
async def client(app: Any, host: str = "pooled-a.example.com", **options: Any) -> AsyncIterator[httpx2.AsyncClient]:
    transport = httpx2.ASGITransport(app=app, **options)
    async with httpx2.AsyncClient(transport=transport, base_url=f"http://{host}") as opened:
        yield opened


async def get(
    router: AsyncRouter,
    path: str = "/who",
    *,
    resolver: Chain | Resolver = BY_HOST,
    host: str = "pooled-a.example.com",
    headers: dict[str, str] | None = None,
    app: Starlette | None = None,
    root_path: str = "",
    **options: Any,
) -> httpx2.Response:
    wrapped = TenantMiddleware(app or application(), router, resolver, **options)
    async with client(wrapped, host, root_path=root_path) as opened:
        return await opened.get(path, headers=headers)


def assert_problem(answer: httpx2.Response, status: int, code: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    body: dict[str, Any] = answer.json()
    assert (body["status"], body["code"], body["type"]) == (status, code, "about:blank")
    return body


async def test_a_request_runs_for_its_tenant(router: AsyncRouter) -> None:
    answer = (await get(router)).json()
    assert (answer["tenant"], answer["state"]) == ("pooled-a", "pooled-a")


async def test_no_tenant_is_left_afterwards(router: AsyncRouter) -> None:
    await get(router)
    assert current_scope() is None


async def test_a_claim_of_a_key_finds_its_tenant(house: House, router: AsyncRouter) -> None:
    key = str(house.tenants["schema-a"].key)
    answer = await get(router, resolver=Header("x-tenant", kind="key"), headers={"x-tenant": key})
    assert answer.json()["tenant"] == "schema-a"


async def test_an_unknown_tenant_is_404_and_operators_advice_stays_inside(router: AsyncRouter) -> None:
    body = assert_problem(await get(router, host="nobody.example.com"), 404, "tenant-not-found")
    assert "hint" not in body
    assert "tenantry" not in body["detail"]


@pytest.mark.parametrize("value", ["abc", "99999999999999999999", "007"])
async def test_a_key_of_another_form_is_an_unknown_tenant(router: AsyncRouter, value: str) -> None:
    answer = await get(router, resolver=Header("x-tenant", kind="key"), headers={"x-tenant": value})
    assert_problem(answer, 404, "tenant-not-found")


async def test_a_request_that_names_nobody_is_404_and_says_where_was_looked(router: AsyncRouter) -> None:
    body = assert_problem(await get(router, host="example.com"), 404, "no-tenant")
    assert "subdomain of example.com" in body["detail"]


async def test_a_malformed_name_is_400(router: AsyncRouter) -> None:
    answer = await get(router, resolver=Header("x-tenant"), headers={"x-tenant": "acme'; DROP TABLE orders; --"})
    assert_problem(answer, 400, "unresolved")


async def test_two_hosts_in_one_request_are_400(router: AsyncRouter) -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    hosts = [(b"host", b"pooled-a.example.com"), (b"host", b"pooled-b.example.com")]
    scope = {"type": "http", "path": "/who", "headers": hosts, "method": "GET"}
    await TenantMiddleware(application(), router, BY_HOST)(scope, pytest.fail, send)
    assert sent[0]["status"] == 400


async def test_a_claim_that_is_not_valid_is_401_and_asks_for_a_better_one(router: AsyncRouter) -> None:
    def expired(facts: RequestFacts) -> str:
        raise InvalidClaim("the token has expired")

    answer = await get(router, resolver=Function(expired))
    assert_problem(answer, 401, "invalid-claim")
    assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'


async def test_two_claims_of_one_tenant_agree(house: House, router: AsyncRouter) -> None:
    key = str(house.tenants["pooled-a"].key)
    answer = await get(router, resolver=MIXED, headers={"x-tenant": "pooled-a", "x-key": key})
    assert answer.json()["tenant"] == "pooled-a"


@pytest.mark.parametrize("headers", [{"x-tenant": "pooled-b"}, {"x-key": "2"}, {"x-key": "987654"}])
async def test_a_contradiction_is_400_whether_or_not_the_other_tenant_exists(
    house: House, router: AsyncRouter, headers: dict[str, str]
) -> None:
    """On the host of one tenant nobody finds out who else is a customer."""
    assert str(house.tenants["pooled-b"].key) == "2"
    body = assert_problem(await get(router, resolver=MIXED, headers=headers), 400, "conflicting-tenants")
    assert "pooled" not in body["detail"]


async def test_existing_and_missing_tenants_get_the_very_same_contradiction(router: AsyncRouter) -> None:
    answers = [await get(router, resolver=MIXED, headers={"x-key": key}) for key in ("2", "987654", "not-a-key")]
    assert len({(answer.status_code, answer.content, str(answer.headers)) for answer in answers}) == 1


async def test_claims_that_all_name_nobody_are_404(router: AsyncRouter) -> None:
    answer = await get(router, resolver=MIXED, host="nobody.example.com", headers={"x-key": "987654"})
    assert_problem(answer, 404, "tenant-not-found")


class Stub(AsyncRouter):
    """A router that knows one tenant, in a state that would take minutes to bring about."""

    def __init__(self, house: House, state: TenantState | None = None, error: TenantryError | None = None) -> None:
        super().__init__(house.settings)
        self.tenant = replace(house.tenants["pooled-a"], state=state or TenantState.ACTIVE)
        self.error = error

    async def locate(self, claim: Claim) -> Tenant:
        if self.error:
            raise self.error
        return self.tenant


async def test_a_suspended_tenant_is_403(house: House) -> None:
    body = assert_problem(await get(Stub(house, TenantState.SUSPENDED)), 403, "tenant-suspended")
    assert "resume" not in str(body)


@pytest.mark.parametrize("state", [TenantState.DELETING, TenantState.DELETED])
async def test_a_deleted_tenant_looks_as_if_it_had_never_been(
    house: House, router: AsyncRouter, state: TenantState
) -> None:
    answer = await get(Stub(house, state))
    never = await get(router, host="nobody.example.com")
    assert (answer.status_code, answer.content, answer.headers) == (404, never.content, never.headers)


async def test_a_tenant_that_is_being_set_up_is_503_with_a_time_to_try_again(house: House) -> None:
    answer = await get(Stub(house, TenantState.PROVISIONING))
    assert_problem(answer, 503, "tenant-not-ready")
    assert int(answer.headers["retry-after"]) > 0


async def test_a_catalog_that_is_down_is_503_and_its_address_stays_inside(house: House) -> None:
    down = ServerUnreachable("can't connect to 10.0.0.5", where="tenantry_reader@10.0.0.5:5432/catalog")
    answer = await get(Stub(house, error=down))
    assert_problem(answer, 503, "server-unreachable")
    assert int(answer.headers["retry-after"]) > 0
    assert "10.0.0.5" not in answer.text


@pytest.mark.parametrize(
    ("error", "status"), [(NoCapacity("full"), 503), (TenantMoved("moved"), 503), (TenantSuspended("now"), 403)]
)
async def test_an_error_from_the_database_in_an_endpoint_is_told_in_the_same_way(
    router: AsyncRouter, error: TenantryError, status: int
) -> None:
    app = application()
    app.state.error = error
    app.add_exception_handler(TenantryError, on_tenantry_error)  # type: ignore[arg-type]
    answer = await get(router, "/fail", app=app)
    assert_problem(answer, status, error.code)
    assert ("retry-after" in answer.headers) == (status == 503)


async def test_inside_of_a_starlette_application_it_needs_no_exception_handler(router: AsyncRouter) -> None:
    app = application()
    app.state.error = NoCapacity("all 10 connections are in use")
    app.add_middleware(TenantMiddleware, router=router, resolver=BY_HOST)
    async with client(app) as opened:
        answer = await opened.get("/fail")
    assert_problem(answer, 503, "no-capacity")
    assert "10" not in answer.json()["detail"]


@pytest.mark.parametrize("error", [BindingRefused("clock"), PlanNotFound("gold"), InvalidInput("AUTOCOMMIT")])
async def test_a_fault_of_the_application_goes_up_to_whoever_logs_it(router: AsyncRouter, error: TenantryError) -> None:
    app = application()
    app.state.error = error
    app.add_exception_handler(TenantryError, on_tenantry_error)  # type: ignore[arg-type]
    with pytest.raises(type(error)):
        await get(router, "/fail", app=app)
    assert as_problem(error) is None
    assert current_scope() is None


async def test_an_answer_that_has_begun_is_not_begun_again(router: AsyncRouter) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise TenantMoved("too late")

    with pytest.raises(TenantMoved):
        await get(router, app=app)  # type: ignore[arg-type]


async def test_code_outside_of_a_scope_is_told_to_clients_without_advice_for_developers(router: AsyncRouter) -> None:
    app = application()
    app.state.error = NoTenant("this code runs outside a tenant scope")
    app.add_exception_handler(TenantryError, on_tenantry_error)  # type: ignore[arg-type]
    body = assert_problem(await get(router, "/fail", app=app, host="example.com", optional=True), 404, "no-tenant")
    assert "scope" not in str(body)


async def test_exempt_paths_need_no_tenant_and_get_none(router: AsyncRouter) -> None:
    for path in ("/healthz", "/static/a.css"):
        answer = await get(router, path, host="10.0.0.7:8000", exempt=["/healthz", "/static/*"])
        assert answer.json()["tenant"] is None


@pytest.mark.parametrize("path", ["/healthz/", "/healthzz", "/static", "/who"])
async def test_other_paths_are_not_exempt(router: AsyncRouter, path: str) -> None:
    answer = await get(router, path, host="10.0.0.7:8000", exempt=["/healthz", "/static/*"])
    assert_problem(answer, 404, "no-tenant")


async def test_with_optional_a_request_without_a_tenant_gets_through_and_a_wrong_one_does_not(
    router: AsyncRouter,
) -> None:
    assert (await get(router, host="example.com", optional=True)).json()["tenant"] is None
    assert (await get(router, host="nobody.example.com", optional=True)).status_code == 404


@pytest.mark.parametrize("root_path", ["", "/behind"])
async def test_the_tenants_part_of_the_path_moves_to_the_mount_point(router: AsyncRouter, root_path: str) -> None:
    for path in (f"{root_path}/t/pooled-b/who", "/t/pooled-b/who"):
        answer = (await get(router, path, resolver=Path("/t/{tenant}"), root_path=root_path)).json()
        assert (answer["tenant"], answer["root_path"]) == ("pooled-b", f"{root_path}/t/pooled-b")
        assert answer["url"].endswith(f"{root_path}/t/pooled-b/who")


async def test_mounted_applications_are_found_below_the_tenants_path(router: AsyncRouter) -> None:
    answer = await get(router, "/t/pooled-b/api/who", resolver=Path("/t/{tenant}"))
    assert answer.json()["tenant"] == "pooled-b"


async def test_a_custom_domain_that_nobody_has_is_404(router: AsyncRouter) -> None:
    chain = Chain(BY_HOST, CustomDomain(exclude=("example.com",)))
    assert_problem(await get(router, resolver=chain, host="shop.acme.org"), 404, "tenant-not-found")


async def test_lifespan_passes_through(router: AsyncRouter) -> None:
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    await TenantMiddleware(app, router, BY_HOST)({"type": "lifespan"}, pytest.fail, pytest.fail)  # type: ignore[arg-type]
    assert seen == ["lifespan"]


async def test_hundreds_of_requests_at_once_each_see_their_own_tenant(house: House, router: AsyncRouter) -> None:
    async def slow(request: Request) -> PlainTextResponse:
        before = current_tenant().slug
        for _ in range(3):
            await asyncio.sleep(0)
            assert current_tenant().slug == before
        return PlainTextResponse(before)

    app = TenantMiddleware(Starlette(routes=[Route("/", slow)]), router, BY_HOST)
    slugs = list(house.tenants) * 75
    async with client(app) as opened:
        answers = await asyncio.gather(*(opened.get(f"http://{slug}.example.com/") for slug in slugs))
    assert [answer.text for answer in answers] == slugs


@pytest.mark.parametrize("exempt", ["/healthz", ["healthz"], ["/*/a"], [5]])
async def test_a_wrong_list_of_exempt_paths_is_refused(router: AsyncRouter, exempt: Any) -> None:
    with pytest.raises(InvalidInput):
        TenantMiddleware(application(), router, BY_HOST, exempt=exempt)


async def test_something_else_than_an_async_router_is_refused() -> None:
    with pytest.raises(InvalidInput, match="AsyncRouter"):
        TenantMiddleware(application(), object(), BY_HOST)  # type: ignore[arg-type]
