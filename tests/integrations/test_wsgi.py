"""WSGI: which requests get through, what the others are told, and how long the tenant is there."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from io import BytesIO, StringIO
from typing import Any
from wsgiref.handlers import SimpleHandler
from wsgiref.validate import validator

import httpx2
import pytest
from werkzeug.serving import make_server
from werkzeug.test import Client
from werkzeug.test import TestResponse as Answer
from werkzeug.wsgi import FileWrapper

from tenantry import Router, current_tenant
from tenantry.context import current_scope
from tenantry.errors import (
    BindingRefused,
    InvalidClaim,
    InvalidInput,
    NoCapacity,
    ServerUnreachable,
    TenantryError,
    TenantSuspended,
)
from tenantry.integrations.wsgi import TenantMiddleware
from tenantry.model import TenantState
from tenantry.resolve import Chain, Claim, Function, Header, Path, RequestFacts, Subdomain
from tests.fixtures.house import House

BY_HOST = Subdomain("example.com")
MIXED = Chain(BY_HOST, Header("x-tenant"), Header("x-key", kind="key"))
HOST = "pooled-a.example.com"


def slug() -> str:
    scope = current_scope()
    return scope.tenant.slug if scope else "nobody"


def who(environ: Any, start_response: Any) -> Iterable[bytes]:
    start_response("200 OK", [("content-type", "application/json")])
    tenant = environ.get("tenantry.tenant")
    seen = [slug(), tenant and tenant.slug, environ["SCRIPT_NAME"], environ["PATH_INFO"]]
    return [json.dumps(seen).encode()]


def failing(error: TenantryError) -> Any:
    def fail(environ: Any, start_response: Any) -> Iterable[bytes]:
        raise error

    return fail


def get(
    router: Router, path: str = "/", *, app: Any = who, resolver: Any = BY_HOST, host: str = HOST, **more: Any
) -> Answer:
    headers = more.pop("headers", None)
    wrapped = validator(TenantMiddleware(app, router, resolver, **more))
    return Client(wrapped).get(path, base_url=f"http://{host}", headers=headers, buffered=True)


def consume(router: Router, app: Any) -> bytes:
    """What a server sends of an answer."""
    environ = {"HTTP_HOST": HOST, "PATH_INFO": "/"}
    body: Any = TenantMiddleware(app, router, BY_HOST)(environ, lambda *_: lambda _: None)
    with closing(body):
        return b"".join(body)


def assert_problem(answer: Answer, status: int, code: str) -> Any:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    body = json.loads(answer.data)
    assert (body["status"], body["code"]) == (status, code)
    return body


def test_a_request_runs_for_its_tenant_and_nothing_is_left_afterwards(sync_router: Router) -> None:
    assert get(sync_router).json == ["pooled-a", "pooled-a", "", "/"]
    assert current_scope() is None


@pytest.mark.parametrize(
    ("host", "headers", "status", "code"),
    [
        ("nobody.example.com", {}, 404, "tenant-not-found"),
        ("example.com", {}, 404, "no-tenant"),
        ("a.b.example.com", {}, 400, "unresolved"),
        (HOST, {"x-tenant": "pooled-b"}, 400, "conflicting-tenants"),
        (HOST, {"x-key": "987654"}, 400, "conflicting-tenants"),
        (HOST, {"x-tenant": "no slug"}, 400, "unresolved"),
    ],
)
def test_what_can_not_be_answered_is_told(
    sync_router: Router, host: str, headers: dict[str, str], status: int, code: str
) -> None:
    assert_problem(get(sync_router, resolver=MIXED, host=host, headers=headers), status, code)


class Stub(Router):
    """A router that knows one tenant, in a state that would take minutes to bring about."""

    def __init__(self, house: House, state: TenantState | None = None, error: TenantryError | None = None) -> None:
        super().__init__(house.settings)
        self.tenant = replace(house.tenants["pooled-a"], state=state or TenantState.ACTIVE)
        self.error = error

    def locate(self, claim: Claim) -> Any:
        if self.error:
            raise self.error
        return self.tenant


def test_a_tenant_that_may_not_work_is_refused(house: House, sync_router: Router) -> None:
    assert_problem(get(Stub(house, TenantState.SUSPENDED)), 403, "tenant-suspended")
    never = get(sync_router, host="nobody.example.com")
    deleted = get(Stub(house, TenantState.DELETED))
    assert (deleted.status, deleted.data, deleted.headers) == (never.status, never.data, never.headers)


def test_a_catalog_that_is_down_is_503_and_its_address_stays_inside(house: House) -> None:
    answer = get(Stub(house, error=ServerUnreachable("can't connect to 10.0.0.5", where="10.0.0.5")))
    assert_problem(answer, 503, "server-unreachable")
    assert int(answer.headers["retry-after"]) > 0
    assert "10.0.0.5" not in answer.text


def test_a_claim_that_is_not_valid_asks_for_a_better_one(sync_router: Router) -> None:
    def expired(facts: RequestFacts) -> str:
        raise InvalidClaim("the token has expired")

    answer = get(sync_router, resolver=Function(expired))
    assert_problem(answer, 401, "invalid-claim")
    assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'


def test_errors_of_the_application_are_told_if_the_client_can_do_something(sync_router: Router) -> None:
    assert_problem(get(sync_router, app=failing(NoCapacity("all 10 are in use"))), 503, "no-capacity")
    with pytest.raises(BindingRefused):
        consume(sync_router, failing(BindingRefused("clock")))
    assert current_scope() is None


def test_exempt_paths_need_no_tenant_and_get_none(sync_router: Router) -> None:
    for path in ("/healthz", "/static/a.css"):
        answer = get(sync_router, path, host="10.0.0.7:8000", exempt=["/healthz", "/static/*"])
        assert answer.json[0] == "nobody"  # type: ignore[index]
    assert_problem(get(sync_router, "/static", host="10.0.0.7", exempt=["/static/*"]), 404, "no-tenant")
    assert get(sync_router, host="example.com", optional=True).json == ["nobody", None, "", "/"]


def test_the_tenants_part_of_the_path_moves_to_the_mount_point(sync_router: Router) -> None:
    answer = get(sync_router, "/t/pooled-b/orders/\u00f6", resolver=Path("/t/{tenant}"))
    mounted, path = answer.json[2:]  # type: ignore[index]
    assert (mounted, path.encode("latin-1").decode()) == ("/t/pooled-b", "/orders/\u00f6")


class Slowly:
    """A body that notes for whom its parts run."""

    def __init__(self, parts: int = 2, error: TenantryError | None = None, at: int = 0) -> None:
        self.seen: list[str] = []
        self._parts = iter(range(parts))
        self._error, self._at = error, at

    def __call__(self, environ: Any, start_response: Any) -> Iterable[bytes]:
        self.seen.append(f"call {slug()}")
        start_response("200 OK", [("content-type", "text/plain")])
        return self

    def __iter__(self) -> Iterator[bytes]:
        self.seen.append(f"iter {slug()}")
        return self

    def __next__(self) -> bytes:
        part = next(self._parts)
        self.seen.append(f"part {slug()}")
        if self._error and part == self._at:
            raise self._error
        return b"part "

    def close(self) -> None:
        self.seen.append(f"close {slug()}")


def test_the_tenant_is_there_until_the_body_is_closed_and_never_outside_of_the_application(sync_router: Router) -> None:
    body = Slowly()
    environ: dict[str, Any] = {"HTTP_HOST": HOST, "PATH_INFO": "/", "SCRIPT_NAME": ""}
    sent: Any = TenantMiddleware(body, sync_router, BY_HOST)(environ, lambda *_: lambda _: None)
    chunks = []
    for chunk in sent:
        assert current_scope() is None
        chunks.append(chunk)
    sent.close()
    assert chunks == [b"part ", b"part "]
    assert body.seen == [f"{what} pooled-a" for what in ("call", "iter", "part", "part", "close")]
    assert current_scope() is None


def test_a_server_that_closes_nothing_leaves_no_tenant_in_its_thread(sync_router: Router) -> None:
    def stream(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield slug().encode()
        yield slug().encode()

    app = TenantMiddleware(stream, sync_router, BY_HOST, exempt=["/healthz"])
    first = iter(app({"HTTP_HOST": HOST, "PATH_INFO": "/"}, lambda *_: lambda _: None))
    assert next(first) == b"pooled-a"
    second = iter(app({"HTTP_HOST": HOST, "PATH_INFO": "/healthz"}, lambda *_: lambda _: None))
    assert next(second) == b"nobody"
    assert next(first) == b"pooled-a"


def test_a_body_that_fails_before_its_first_part_is_still_told(sync_router: Router) -> None:
    body, output = Slowly(error=TenantSuspended("now")), BytesIO()
    environ = {"HTTP_HOST": HOST, "PATH_INFO": "/", "REQUEST_METHOD": "GET", "SERVER_PROTOCOL": "HTTP/1.1"}
    SimpleHandler(BytesIO(), output, StringIO(), environ).run(TenantMiddleware(body, sync_router, BY_HOST))
    headers, _, told = output.getvalue().partition(b"\r\n\r\n")
    assert headers.startswith(b"HTTP/1.0 403 Forbidden")
    assert json.loads(told)["code"] == "tenant-suspended"
    assert body.seen[-1] == "close pooled-a"


def test_a_body_that_fails_later_is_not_begun_again(sync_router: Router) -> None:
    body = Slowly(error=TenantSuspended("now"), at=1)
    with pytest.raises(TenantSuspended):
        consume(sync_router, body)

    def written(environ: Any, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("content-type", "text/plain")])(b"begun")
        raise TenantSuspended("now")

    with pytest.raises(TenantSuspended):
        consume(sync_router, written)


def test_a_file_reaches_the_server_as_a_file(sync_router: Router, tmp_path: Any) -> None:
    (tmp_path / "logo").write_bytes(b"logo")

    def send(environ: Any, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        file: Iterable[bytes] = environ["wsgi.file_wrapper"]((tmp_path / "logo").open("rb"))
        return file

    environ = {"HTTP_HOST": HOST, "PATH_INFO": "/", "wsgi.file_wrapper": FileWrapper}
    body: Any = TenantMiddleware(send, sync_router, BY_HOST)(environ, lambda *_: lambda _: None)
    assert isinstance(body, FileWrapper)
    assert b"".join(body) == b"logo"
    body.close()


@contextmanager
def served(app: Any) -> Iterator[str]:
    """A real server with a thread for each request."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def orders(router: Router) -> Callable[[Any, Any], Iterator[bytes]]:
    """An application that writes a row and streams what the tenant has, in transactions of their own."""

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        with router.transaction() as conn:
            conn.execute("INSERT INTO orders (note) VALUES (%s)", (f"wsgi {current_tenant().slug}",))
        start_response("200 OK", [("content-type", "text/plain")])
        for _ in range(3):
            with router.transaction() as conn:
                rows = conn.execute("SELECT DISTINCT note FROM orders WHERE note LIKE 'wsgi %'").fetchall()
            yield f"{','.join(note for (note,) in rows)}\n".encode()

    return app


def test_a_threaded_server_streams_to_many_tenants_at_once(house: House, sync_router: Router) -> None:
    by_header = Header("x-tenant")
    slugs = list(house.tenants) * 10
    with (
        served(TenantMiddleware(orders(sync_router), sync_router, by_header)) as url,
        httpx2.Client() as client,
        ThreadPoolExecutor(8) as executor,
    ):
        answers = list(executor.map(lambda each: client.get(url, headers={"x-tenant": each}).text, slugs))
    assert answers == [f"wsgi {each}\n" * 3 for each in slugs]


@pytest.mark.parametrize("wrong", [{"exempt": "/healthz"}, {"exempt": ["healthz"]}, {"router": object()}])
def test_a_wrong_setting_is_refused_at_once(sync_router: Router, wrong: dict[str, Any]) -> None:
    arguments: dict[str, Any] = {"router": sync_router, "resolver": BY_HOST} | wrong
    with pytest.raises(InvalidInput):
        TenantMiddleware(who, **arguments)
