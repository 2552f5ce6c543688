"""What a resolver may look at: one request as frozen data, made from an ASGI scope or a WSGI environment. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Self

from tenantry.errors import Unresolved
from tenantry.model import shown


@dataclass(frozen=True, slots=True)
class RequestFacts:
    """One request, before anybody knows whose it is.

    Args:
        scheme: ``http``, ``https``, ``ws`` or ``wss``.
        host: the ``Host`` header as received, unchecked; empty if there was none. ``X-Forwarded-Host`` is never read.
        path: the decoded path below the application's mount point.
        headers: lower-case names to all values in the order of arrival.
        client: the address of the peer, if the server tells it.
    """

    scheme: str
    host: str
    path: str
    headers: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))
    client: str | None = None

    @classmethod
    def from_asgi(cls, scope: Mapping[str, Any]) -> Self:
        """The facts of an ASGI ``http`` or ``websocket`` scope.

        Raises:
            Unresolved: another kind of scope, or more than one ``Host`` header (RFC 9112 section 3.2).
        """
        if scope["type"] not in ("http", "websocket"):
            raise Unresolved(f"a scope of type {shown(scope['type'])} is not a request")
        headers = _AsgiHeaders(scope.get("headers", ()))
        client = scope.get("client")
        return cls(
            scheme=scope.get("scheme") or ("http" if scope["type"] == "http" else "ws"),
            host=_only_host(headers.get("host", ())),
            path=_below(scope["path"], scope.get("root_path") or ""),
            headers=headers,
            client=client[0] if client else None,
        )

    @classmethod
    def from_wsgi(cls, environ: Mapping[str, Any]) -> Self:
        """The facts of a WSGI environment (PEP 3333).

        ``SERVER_NAME`` never stands in for a missing ``Host`` header: it is the server's name, not the client's wish.

        Raises:
            Unresolved: the path is not UTF-8.
        """
        named = ((name[5:], value) for name, value in environ.items() if name.startswith("HTTP_"))
        headers = _multi_map([(name.replace("_", "-").lower(), value) for name, value in named])
        return cls(
            scheme=environ.get("wsgi.url_scheme", "http"),
            host=_only_host(headers.get("host", ())),
            path=_utf8(environ.get("PATH_INFO", "")) or "/",
            headers=headers,
            client=environ.get("REMOTE_ADDR") or None,
        )

    def header(self, name: str) -> str | None:
        """The value of a header; None if it was not sent.

        Raises:
            Unresolved: it was sent more than once, with different values.
        """
        values = self.headers.get(name.lower(), ())
        if len(set(values)) > 1:
            raise Unresolved(
                f"header '{name}' was sent {len(values)} times with different values",
                hint="send it once; a proxy that sets it has to replace what the client sent",
            )
        return values[0] if values else None

    def behind(self, host_header: str) -> Self:
        """The same request with the host that a trusted proxy reports in ``host_header``.

        Raises:
            Unresolved: the header is missing, so that the request did not come through that proxy, or is repeated.
        """
        host = self.header(host_header)
        if host is None:
            raise Unresolved(
                f"the proxy's header '{host_header}' is missing",
                hint="send requests through the proxy, and let it set this header on each of them",
            )
        return replace(self, host=host)


class _AsgiHeaders(Mapping[str, tuple[str, ...]]):
    """The headers of an ASGI scope. A resolver reads one of them, so the others are not decoded."""

    __slots__ = ("_pairs",)

    def __init__(self, pairs: Iterable[tuple[bytes, bytes]]) -> None:
        self._pairs = tuple(pairs)

    def __getitem__(self, name: str) -> tuple[str, ...]:
        wanted = name.encode("latin-1", "replace")
        found = tuple([value.decode("latin-1") for each, value in self._pairs if each.lower() == wanted])
        if not found:
            raise KeyError(name)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(name.decode("latin-1").lower() for name, _ in self._pairs))

    def __len__(self) -> int:
        return len({name.lower() for name, _ in self._pairs})

    def __repr__(self) -> str:
        return repr(dict(self))


def _multi_map(pairs: list[tuple[str, str]]) -> Mapping[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for name, value in pairs:
        found[name] = (*found.get(name, ()), value)
    return MappingProxyType(found)


def _only_host(hosts: tuple[str, ...]) -> str:
    if len(hosts) > 1:
        raise Unresolved(f"the request has {len(hosts)} Host headers", hint="send exactly one")
    return hosts[0] if hosts else ""


def _below(path: str, root: str) -> str:
    """Servers differ in whether ``path`` contains ``root_path``; both forms are read (as Starlette does)."""
    root = root.rstrip("/")
    inside = root and (path == root or path.startswith(f"{root}/"))
    return path[len(root) :] or "/" if inside else path


def _utf8(path: str) -> str:
    try:
        return path.encode("latin-1").decode()
    except UnicodeError:
        raise Unresolved("the path of the request is not UTF-8", hint="percent-encode the UTF-8 bytes") from None
