"""The Flask extension: where the tenant is, what needs none, and who answers for errors."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from flask import (
    Blueprint,
    Flask,
    Response,
    current_app,
    g,
    render_template_string,
    request,
    stream_with_context,
    url_for,
)
from werkzeug.serving import make_server

from tenantry import Router, TenantryError, current_tenant
from tenantry.context import current_scope
from tenantry.errors import (
    BindingRefused,
    InvalidInput,
    NoCapacity,
    NoTenant,
    TenantNotFound,
)
from tenantry.integrations.flask import Tenantry
from tenantry.resolve import Chain, Header, Path, Subdomain
from tests.fixtures.house import House

BY_HOST = Subdomain("example.com")
HOST = "pooled-a.example.com"


def slug() -> str:
    scope = current_scope()
    return scope.tenant.slug if scope else "nobody"


def who() -> str:
    return slug()


def where() -> str:
    return url_for("who") + " " + request.script_root


def page() -> str:
    return render_template_string("{{ current_tenant().name }}")


async def later() -> str:
    return slug()


def fail() -> str:
    raise current_app.config["ERROR"]


def stream() -> Response:
    g.color = "red"
    seen: list[str] = current_app.config["SEEN"]

    def parts() -> Iterator[str]:
        for _ in range(3):
            yield f"{slug()} {g.color}\n"
        seen.append(f"streamed {slug()}")

    response = Response(stream_with_context(parts()))
    response.call_on_close(lambda: seen.append(f"closed {slug()}"))
    return response


def plain_stream() -> Response:
    return Response(f"{slug()}\n" for _ in range(2))


def application() -> Flask:
    """An application that says where it has seen whom."""
    app = Flask("shop")
    seen: list[str] = []
    app.config["SEEN"] = seen

    @app.before_request
    def before() -> None:
        seen.append(f"before {slug()}")

    @app.after_request
    def after(response: Response) -> Response:
        seen.append(f"after {slug()}")
        response.headers["access-control-allow-origin"] = "*"
        return response

    @app.teardown_request
    def teardown(error: BaseException | None) -> None:
        seen.append(f"teardown {slug()}")

    @app.teardown_appcontext
    def teardown_app(error: BaseException | None) -> None:
        seen.append(f"end {slug()}")

    views: list[tuple[str, Any]] = [("/", who), ("/where", where), ("/page", page), ("/later", later), ("/fail", fail)]
    for path, view in [*views, ("/stream", stream), ("/plain-stream", plain_stream)]:
        app.add_url_rule(path, view.__name__, view)
    app.add_url_rule("/healthz", "health", who)
    pages = Blueprint("pages", "pages")
    pages.add_url_rule("/welcome", "welcome", who)
    pages.add_url_rule("/terms", "terms", who)
    app.register_blueprint(pages)
    return app


@pytest.fixture
def app(sync_router: Router) -> Flask:
    app = application()
    Tenantry(app, sync_router, BY_HOST)
    return app


def get(app: Flask, path: str = "/", host: str = HOST, **headers: str) -> Any:
    return app.test_client().get(path, base_url=f"http://{host}", headers=headers, buffered=True)


def assert_problem(answer: Any, status: int, code: str) -> Any:
    assert (answer.status_code, answer.mimetype) == (status, "application/problem+json"), answer.text
    assert answer.json["code"] == code
    return answer.json


def test_the_tenant_is_there_in_hooks_views_templates_and_teardown(app: Flask) -> None:
    assert get(app).text == "pooled-a"
    assert app.config["SEEN"] == [f"{where} pooled-a" for where in ("before", "after", "teardown", "end")]
    assert get(app, "/page").text == "pooled-a"
    assert current_scope() is None


def test_an_async_view_has_the_tenant(app: Flask) -> None:
    assert get(app, "/later").text == "pooled-a"
    assert current_scope() is None


def test_streamed_bodies_have_the_tenant_to_their_end(app: Flask) -> None:
    assert get(app, "/stream").text == "pooled-a red\n" * 3
    assert get(app, "/plain-stream").text == "pooled-a\n" * 2
    assert {"streamed pooled-a", "closed pooled-a"} <= set(app.config["SEEN"])
    assert not any("nobody" in each for each in app.config["SEEN"])


def test_a_client_that_looks_into_the_request_afterwards_works(app: Flask) -> None:
    with app.test_client() as client:
        assert client.get("/", base_url=f"http://{HOST}").text == "pooled-a"
        assert request.environ["tenantry.tenant"].slug == "pooled-a"


def test_what_can_not_be_answered_is_told_through_the_application(app: Flask) -> None:
    answer = get(app, host="nobody.example.com")
    assert_problem(answer, 404, "tenant-not-found")
    assert answer.headers["access-control-allow-origin"] == "*"
    assert app.config["SEEN"] == ["after nobody", "teardown nobody", "end nobody"]
    assert_problem(get(app, host="example.com"), 404, "no-tenant")
    assert_problem(get(app, "/no/such/route", host="nobody.example.com"), 404, "tenant-not-found")


def test_the_applications_own_error_handlers_come_first(app: Flask) -> None:
    @app.errorhandler(TenantNotFound)
    def lost(error: TenantNotFound) -> tuple[str, int]:
        return "Nobody of that name.", 404

    assert get(app, host="nobody.example.com").text == "Nobody of that name."
    assert_problem(get(app, host="example.com"), 404, "no-tenant")


def test_errors_of_views_are_told_if_the_client_can_do_something(app: Flask) -> None:
    app.config["ERROR"] = NoCapacity("all 10 connections are in use")
    answer = get(app, "/fail")
    assert "10" not in assert_problem(answer, 503, "no-capacity")["detail"]
    assert int(answer.headers["retry-after"]) > 0
    app.config["ERROR"] = BindingRefused("clock")
    assert get(app, "/fail").status_code == 500
    app.testing = True
    with pytest.raises(BindingRefused):
        get(app, "/fail")
    assert current_scope() is None


def test_exempt_paths_endpoints_blueprints_and_views_need_no_tenant(sync_router: Router) -> None:
    app = application()
    tenantry = Tenantry(app, sync_router, BY_HOST, exempt=["/healthz", "/none*", "who", "pages.*", "static"])

    @app.route("/bare")
    @tenantry.exempt
    def bare() -> str:
        return slug()

    for path in ("/healthz", "/", "/welcome", "/terms", "/bare"):
        assert get(app, path, host="10.0.0.7:8000").text == "nobody"
        assert get(app, path).text == "nobody"
    assert get(app, "/nonesuch", host="10.0.0.7:8000").status_code == get(app, "/static/x.css").status_code == 404
    assert_problem(get(app, "/page", host="10.0.0.7:8000"), 404, "no-tenant")


def test_what_flask_refuses_flask_answers(app: Flask, sync_router: Router) -> None:
    app.config["TRUSTED_HOSTS"] = [".example.com"]
    assert get(app).text == "pooled-a"
    assert_problem(get(app, host="pooled-a.example.org"), 404, "no-tenant")
    assert app.test_client().delete("/", base_url=f"http://{HOST}").status_code == 405
    tenantless = application()
    tenantless.config["TRUSTED_HOSTS"] = [".example.com"]
    Tenantry(tenantless, sync_router, BY_HOST, optional=True)
    assert get(tenantless, host="pooled-a.example.org").status_code == 400


def test_one_endpoint_of_a_blueprint_can_be_exempt(sync_router: Router) -> None:
    app = application()
    Tenantry(app, sync_router, BY_HOST, exempt=["pages.terms"])
    assert get(app, "/terms", host="example.com").text == "nobody"
    assert_problem(get(app, "/welcome", host="example.com"), 404, "no-tenant")


def test_a_request_without_a_tenant_gets_through_where_that_is_allowed(sync_router: Router) -> None:
    app = application()
    Tenantry(app, sync_router, Chain(BY_HOST, Header("x-tenant")), optional=True)
    assert get(app, host="example.com").text == "nobody"
    assert_problem(get(app, host="nobody.example.com"), 404, "tenant-not-found")
    assert_problem(get(app, **{"x-tenant": "pooled-b"}), 400, "conflicting-tenants")


def test_the_tenants_part_of_the_path_is_not_part_of_the_routes(sync_router: Router) -> None:
    app = application()
    Tenantry(app, sync_router, Path("/t/{tenant}"), exempt=["/healthz", "who"])
    assert get(app, "/t/schema-a/where").text == "/t/schema-a/ /t/schema-a"
    assert get(app, "/t/schema-a/").text == "schema-a"
    assert get(app, "/").text == "nobody"


def test_factories_give_the_application_later_and_a_second_time_is_refused(sync_router: Router) -> None:
    extension = Tenantry(resolver=BY_HOST)
    first, second = application(), application()
    for app in (first, second):
        extension.init_app(app, sync_router)
        assert get(app).text == "pooled-a"
        assert app.extensions["tenantry"] is extension
    with pytest.raises(InvalidInput, match="already"):
        extension.init_app(second, sync_router)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"router": None}, "None is not a Router"),
        ({"router": object()}, "is not a Router"),
        ({"resolver": None}, "no resolver"),
        ({"resolver": "subdomain"}, "is not a resolver"),
        ({"exempt": "/healthz"}, "exempt is one text"),
        ({"exempt": ["static/*"]}, "is not a path"),
        ({"exempt": [""]}, "is not a path"),
    ],
)
def test_a_wrong_setting_is_refused_at_once(sync_router: Router, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        Tenantry(application(), **{"router": sync_router, "resolver": BY_HOST, **arguments})


def test_code_outside_of_requests_has_no_tenant(app: Flask) -> None:
    with app.app_context(), pytest.raises(NoTenant):
        current_tenant()


def test_a_real_server_writes_to_each_tenant_its_own_rows(house: House, sync_router: Router) -> None:
    app = Flask("shop")
    Tenantry(app, sync_router, Header("x-tenant"))

    @app.post("/orders")
    def add() -> str:
        with sync_router.transaction() as conn:
            conn.execute("INSERT INTO orders (note) VALUES (%s)", (f"flask {current_tenant().slug}",))
        return ""

    @app.get("/orders")
    def orders() -> Response:
        def rows() -> Iterator[str]:
            for _ in range(2):
                with sync_router.transaction() as conn:
                    found = conn.execute("SELECT note FROM orders WHERE note LIKE 'flask %'").fetchall()
                yield ",".join(note for (note,) in found) + "\n"

        return Response(rows())

    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        with httpx2.Client(base_url=f"http://127.0.0.1:{server.server_port}") as client:
            for each in house.tenants:
                assert client.post("/orders", headers={"x-tenant": each}).status_code == 200
            for each in house.tenants:
                assert client.get("/orders", headers={"x-tenant": each}).text == f"flask {each}\n" * 2
            assert client.get("/orders").status_code == 404
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_the_root_of_errors_may_be_handled_by_the_application(app: Flask) -> None:
    @app.errorhandler(TenantryError)
    def sorry(error: TenantryError) -> tuple[str, int]:
        return error.code, error.status

    assert get(app, host="nobody.example.com").text == "tenant-not-found"
