"""The catalog's server crashes, or stalls: the view goes on with what it knows, and heals when the server is back."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import pytest
from psycopg_pool import base

from tenantry.catalog import listen
from tenantry.catalog.view_async import AsyncCatalogView
from tenantry.errors import ServerUnreachable
from tenantry.postgres.server import THROWAWAY, LocalServer
from tests.catalog.conftest import LISTENING, LOST, Catalog, Events
from tests.fixtures.proxy import Proxy

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    """In place of the session's: one that this module may crash."""
    with LocalServer(tmp_path_factory.mktemp("server"), settings=THROWAWAY) as running:
        yield running


async def opened(dsn: str, *, stale_seconds: float = 3600.0) -> tuple[AsyncCatalogView, Events]:
    view = AsyncCatalogView(dsn, stale_seconds=stale_seconds, connect_seconds=1)
    events = Events(view)
    await view.open()
    events.wait_for(LISTENING)
    await view.fleet()
    return view, events


@pytest.mark.parametrize("stale_seconds", [3600.0, 0.0], ids=["fresh", "stale"])
async def test_a_crash_of_the_catalog_is_survived_with_what_is_known_and_heals(
    server: LocalServer, catalog: Catalog, slug: str, stale_seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base.AttemptWithBackoff, "INITIAL_DELAY", 3600.0)  # as after an outage of many minutes
    monkeypatch.setattr("tenantry.catalog.view_async._MISSED_FLEET_SECONDS", 0.0)
    view, events = await opened(catalog.dsn, stale_seconds=stale_seconds)
    tenant, fleet = await view.find("slug", slug), await view.fleet()
    catalog.run("UPDATE tenants SET plan = 'business' WHERE slug = %s", slug, quietly=True)
    catalog.run("UPDATE plans SET weight = weight + 1", quietly=True)
    server.crash()
    try:
        events.wait_for(LOST)
        for _ in range(100):
            assert await view.find("slug", slug) is tenant
            assert await view.fleet() is fleet
            assert view.peek(tenant.id) is tenant
        for name in ("nobody", "nobody", "somebody"):
            with pytest.raises(ServerUnreachable, match="the catalog does not answer") as caught:
                await view.find("slug", name)
            assert str(server.port) in str(caught.value.where)
        with pytest.raises(ServerUnreachable):
            await view.refresh(tenant)
    finally:
        server.start()
    events.wait_for(LISTENING)
    assert (await view.find("slug", slug)).plan == "business"
    assert await view.fleet() != fleet
    await view.close()


async def test_while_the_catalog_is_away_one_asks_and_the_others_do_not_wait(
    server: LocalServer, catalog: Catalog, slug: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tenantry.catalog.view_async._AWAY_SECONDS", 3600.0)
    view, events = await opened(catalog.dsn)
    assert view._pool is not None
    server.stop()
    try:
        events.wait_for(LOST)
        for expected in (1, 0):
            asked = view._pool.get_stats().get("requests_errors", 0)
            for _ in range(100):
                with pytest.raises(ServerUnreachable):
                    await view.find("slug", slug)
            assert view._pool.get_stats().get("requests_errors", 0) - asked == expected
    finally:
        server.start()
    events.wait_for(LISTENING)  # ends the wait
    assert (await view.find("slug", slug)).slug == slug
    await view.close()


async def test_a_catalog_that_is_away_from_the_start_is_named_and_used_when_it_comes(
    server: LocalServer, catalog: Catalog, slug: str
) -> None:
    view = AsyncCatalogView(catalog.dsn, connect_seconds=1)
    events = Events(view)
    server.stop()
    try:
        with pytest.raises(ServerUnreachable, match="refused") as caught:
            await view.open()
        assert "host, port" in str(caught.value.hint)
    finally:
        server.start()
    events.wait_for(LISTENING)
    await view.open()
    assert (await view.find("slug", slug)).slug == slug
    await view.close()


async def test_a_catalog_that_stalls_is_noticed_though_its_connections_stay_open(
    catalog: Catalog, slug: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listen, "_BEAT_SECONDS", 0.05)
    with Proxy(catalog.dsn) as proxy:
        view, events = await opened(proxy.through(catalog.dsn))
        tenant, late = await view.find("slug", slug), f"late-{uuid4().hex[:8]}"
        proxy.hold()
        catalog.run("UPDATE tenants SET plan = 'business' WHERE slug = %s", slug)
        catalog.add_tenant(late)
        events.wait_for(LOST)
        assert await view.find("slug", slug) is tenant
        with pytest.raises(ServerUnreachable):
            await view.find("slug", late)
        proxy.release()
        events.wait_for(LISTENING)
        assert (await view.find("slug", slug)).plan == "business"
        assert (await view.find("slug", late)).slug == late
        await view.close()


async def test_it_closes_while_the_catalog_stalls(catalog: Catalog, slug: str) -> None:
    with Proxy(catalog.dsn) as proxy:
        view, _ = await opened(proxy.through(catalog.dsn))
        listener = view._listener
        proxy.hold()
        await view.close()
        assert listener is not None
        assert not listener._thread.is_alive()
