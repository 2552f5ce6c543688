"""The facts of a request: what ASGI and WSGI servers hand over, and what is not believed."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest

from tenantry.errors import Unresolved
from tenantry.resolve import RequestFacts


def scope(*headers: tuple[bytes, bytes], **more: Any) -> dict[str, Any]:
    return {"type": "http", "scheme": "https", "path": "/", "headers": headers, **more}


def test_an_http_scope_is_read() -> None:
    facts = RequestFacts.from_asgi(
        scope((b"host", b"Acme.example.com:443"), (b"X-Tenant", b"acme"), client=("203.0.113.9", 5000), path="/orders")
    )
    assert (facts.scheme, facts.host, facts.path) == ("https", "Acme.example.com:443", "/orders")
    assert facts.client == "203.0.113.9"
    assert facts.header("x-TENANT") == "acme"


def test_a_websocket_scope_is_read() -> None:
    facts = RequestFacts.from_asgi({"type": "websocket", "path": "/ws", "headers": [(b"host", b"acme.example.com")]})
    assert (facts.scheme, facts.host, facts.path) == ("ws", "acme.example.com", "/ws")


def test_another_scope_is_refused() -> None:
    with pytest.raises(Unresolved, match="'lifespan' is not a request"):
        RequestFacts.from_asgi({"type": "lifespan"})


@pytest.mark.parametrize("second", [b"globex.example.com", b"acme.example.com"])
def test_two_host_headers_are_refused_even_if_they_agree(second: bytes) -> None:
    with pytest.raises(Unresolved, match="2 Host headers"):
        RequestFacts.from_asgi(scope((b"host", b"acme.example.com"), (b"Host", second)))


def test_the_host_is_empty_without_a_host_header_whatever_a_proxy_or_the_server_say() -> None:
    asgi = RequestFacts.from_asgi(scope((b"x-forwarded-host", b"acme.example.com"), server=("acme.example.com", 80)))
    wsgi = RequestFacts.from_wsgi({"SERVER_NAME": "acme.example.com", "HTTP_X_FORWARDED_HOST": "acme.example.com"})
    assert (asgi.host, wsgi.host) == ("", "")


@pytest.mark.parametrize(
    ("path", "root", "below"),
    [
        ("/app/t/acme", "/app", "/t/acme"),
        ("/app/t/acme", "/app/", "/t/acme"),
        ("/app", "/app", "/"),
        ("/apple/t/acme", "/app", "/apple/t/acme"),
        ("/t/acme", "/app", "/t/acme"),
        ("/t/acme", "", "/t/acme"),
    ],
)
def test_the_path_is_read_below_the_mount_point(path: str, root: str, below: str) -> None:
    assert RequestFacts.from_asgi(scope(path=path, root_path=root)).path == below


def test_a_wsgi_environment_is_read() -> None:
    environ: dict[str, Any] = {
        "HTTP_HOST": "acme.example.com",
        "PATH_INFO": "/t/caf\u00c3\u00a9",
        "SCRIPT_NAME": "/app",
    }
    setup_testing_defaults(environ)
    facts = RequestFacts.from_wsgi(environ | {"HTTP_X_TENANT": "acme", "REMOTE_ADDR": "203.0.113.9"})
    assert (facts.scheme, facts.host, facts.path) == ("http", "acme.example.com", "/t/café")
    assert (facts.header("x-tenant"), facts.client) == ("acme", "203.0.113.9")


def test_a_wsgi_path_that_is_not_utf_8_is_refused() -> None:
    with pytest.raises(Unresolved, match="not UTF-8"):
        RequestFacts.from_wsgi({"PATH_INFO": "/t/\xff"})


def test_a_header_sent_twice_counts_once_if_both_are_the_same() -> None:
    assert RequestFacts.from_asgi(scope((b"x-tenant", b"acme"), (b"x-tenant", b"acme"))).header("x-tenant") == "acme"


def test_a_header_sent_twice_with_different_values_is_refused() -> None:
    facts = RequestFacts.from_asgi(scope((b"x-tenant", b"acme"), (b"X-Tenant", b"globex")))
    with pytest.raises(Unresolved, match="'x-tenant' was sent 2 times") as caught:
        facts.header("x-tenant")
    assert "acme" not in caught.value.message


def test_nobody_can_change_the_facts() -> None:
    facts = RequestFacts.from_asgi(scope((b"host", b"acme.example.com")))
    with pytest.raises(FrozenInstanceError):
        facts.host = "globex.example.com"  # type: ignore[misc]
    with pytest.raises(TypeError):
        facts.headers["host"] = ("globex.example.com",)  # type: ignore[index]


def test_a_trusted_proxys_header_replaces_the_host() -> None:
    facts = RequestFacts.from_asgi(scope((b"host", b"10.0.0.7"), (b"x-forwarded-host", b"acme.example.com")))
    assert facts.behind("x-forwarded-host").host == "acme.example.com"
    assert facts.host == "10.0.0.7"


def test_a_request_that_did_not_come_through_the_trusted_proxy_is_refused() -> None:
    with pytest.raises(Unresolved, match="'x-forwarded-host' is missing"):
        RequestFacts.from_asgi(scope((b"host", b"acme.example.com"))).behind("x-forwarded-host")
