"""An answer that news has overtaken on its way is not kept: neither of a tenant nor of the fleet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tenantry.catalog.fleet_view import FleetView
from tenantry.catalog.view_async import AsyncCatalogView
from tests.catalog.conftest import LISTENING, Catalog, Events
from tests.fixtures.proxy import Proxy

pytestmark = pytest.mark.anyio


class SlowView(AsyncCatalogView):
    """A view whose first reading of the fleet after ``slow`` is set comes back only when it is let go."""

    def __init__(self, dsn: str) -> None:
        super().__init__(dsn)
        self.slow = False
        self.has_read, self.go = asyncio.Event(), asyncio.Event()

    async def _read_fleet(self) -> FleetView:
        slow, self.slow = self.slow, False
        fleet = await super()._read_fleet()
        if slow:
            self.has_read.set()
            await self.go.wait()
        return fleet


@pytest.fixture
async def slow(catalog: Catalog, anyio_backend: str) -> AsyncIterator[SlowView]:
    view = SlowView(catalog.dsn)
    events = Events(view)
    await view.open()
    events.wait_for(LISTENING)
    await view.fleet()
    view.slow = True
    view.forget_fleet()
    yield view
    await view.close()


async def test_the_answer_goes_to_who_asked_but_is_not_kept(catalog: Catalog, slug: str) -> None:
    """The real notification is switched off; what is left is the moment at which it would have come."""
    with Proxy(catalog.dsn) as proxy:
        view = AsyncCatalogView(proxy.through(catalog.dsn))
        events = Events(view)
        await view.open()
        events.wait_for(LISTENING)
        await view.fleet()
        proxy.hold()
        asking = asyncio.create_task(view.find("slug", slug))
        while not await asyncio.to_thread(proxy.held.wait, 0.1):
            pass
        catalog.run("UPDATE tenants SET plan = 'business' WHERE slug = %s", slug, quietly=True)
        [(tenant_id,)] = catalog.run("SELECT id FROM tenants WHERE slug = %s", slug)
        view._heard(f"tenant {tenant_id}")
        proxy.release()
        assert (await asking).plan == "free"
        assert (await view.find("slug", slug)).plan == "business"
        await view.close()


async def test_the_fleet_as_it_was_does_not_replace_the_fleet_as_it_is(catalog: Catalog, slow: SlowView) -> None:
    early = asyncio.create_task(slow.fleet())
    await slow.has_read.wait()
    catalog.run("UPDATE plans SET weight = weight + 1", quietly=True)
    slow.forget_fleet()
    late = await slow.fleet()
    slow.go.set()
    assert await early != late
    assert await slow.fleet() == late


async def test_while_one_reads_the_fleet_the_others_go_on_with_what_is_known(slow: SlowView) -> None:
    known = slow.known_fleet()
    reading = asyncio.create_task(slow.fleet())
    await slow.has_read.wait()
    assert await slow.fleet() is known
    slow.go.set()
    assert await reading is await slow.fleet()


async def test_a_reading_that_was_cancelled_is_made_up_for(catalog: Catalog, slow: SlowView) -> None:
    catalog.run("UPDATE plans SET weight = weight + 1", quietly=True)
    known = slow.known_fleet()
    reading = asyncio.create_task(slow.fleet())
    await slow.has_read.wait()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert await slow.fleet() != known


async def test_many_that_ask_at_once_get_the_same(catalog: Catalog, slug: str) -> None:
    view = AsyncCatalogView(catalog.dsn)
    found = await asyncio.gather(*(view.find("slug", slug) for _ in range(50)))
    assert {tenant.slug for tenant in found} == {slug}
    await view.close()


async def test_who_gives_up_waiting_leaves_a_view_that_works(catalog: Catalog, slug: str) -> None:
    with Proxy(catalog.dsn) as proxy:
        view = AsyncCatalogView(proxy.through(catalog.dsn))
        events = Events(view)
        await view.open()
        events.wait_for(LISTENING)
        await view.fleet()
        proxy.hold()
        asking = [asyncio.create_task(view.find("slug", slug)) for _ in range(8)]
        while not await asyncio.to_thread(proxy.held.wait, 0.1):
            pass
        for task in asking:
            task.cancel()
        proxy.release()
        await asyncio.wait(asking)
        assert (await view.find("slug", slug)).slug == slug
        await view.close()
