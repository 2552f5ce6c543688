"""Rotating the signing key: what threads, and processes that miss the news, notice of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

import pytest

from tenantry import AsyncRouter, Router
from tenantry.errors import BindingRefused
from tenantry.service import house as houses
from tenantry.service import key
from tests.fixtures.house import House
from tests.operations.invariants import catalog, violations
from tests.operations.recovery import end_waiting

pytestmark = pytest.mark.anyio


@contextmanager
def lost_news(house: House) -> Iterator[None]:
    """Nobody hears of new keys, and nobody knows that."""
    with catalog(house) as conn:
        conn.execute("ALTER TABLE signing_keys DISABLE TRIGGER announce")
        try:
            yield
        finally:
            conn.execute("ALTER TABLE signing_keys ENABLE TRIGGER announce")


def used(router: Router | AsyncRouter) -> str:
    """The id of the key that a process signs with."""
    return router.view.known_fleet().signing_key().kid


def write(router: Router, slug: str) -> None:
    with router.tenant_scope(slug), router.transaction() as conn:
        conn.execute("INSERT INTO orders (note) VALUES ('rotating')")


async def test_threads_work_on_while_keys_come_and_go(house: House) -> None:
    stop, failed = Event(), []
    done = dict.fromkeys(house.tenants, 0)

    def application(router: Router, slug: str) -> None:
        try:
            while not stop.is_set():
                write(router, slug)
                done[slug] += 1
        except Exception as error:
            failed.append(error)

    def all_go_on(before: dict[str, int]) -> None:
        while not failed and any(done[slug] == before[slug] for slug in done):
            stop.wait(0.001)

    with Router(house.settings) as router:
        threads = [Thread(target=application, args=(router, slug)) for slug in house.tenants for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            async with house.control() as control:
                for _ in range(5):
                    before = dict(done)
                    assert await key.rotate(control, overlap=0) == "done"
                    await asyncio.to_thread(all_go_on, before)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
    assert failed == []
    assert violations(house) == []


async def test_a_process_that_misses_the_news_works_on_and_finds_the_new_key_when_the_old_one_is_refused(
    house: House,
) -> None:
    async with AsyncRouter(house.settings) as router, house.control() as control:
        with Router(house.settings) as threads:
            for slug in house.tenants:  # each has a connection to where the tenant lives
                await awrite(router, slug)
                write(threads, slug)
            old = used(router)
            with lost_news(house):
                assert await key.rotate(control, overlap=3600) == "waiting"
                for slug in house.tenants:
                    await awrite(router, slug)
                    write(threads, slug)
                assert used(router) == used(threads) == old
                end_waiting(house)
                await houses.work(control)
                assert old not in {row["kid"] for row in await key.listing(control)}
                for slug in house.tenants:
                    await awrite(router, slug)
                    write(threads, slug)
            assert used(router) == used(threads) != old


async def awrite(router: AsyncRouter, slug: str) -> None:
    async with router.tenant_scope(slug), router.transaction() as conn:
        await conn.execute("INSERT INTO orders (note) VALUES ('rotating')")


async def test_a_token_that_stays_refused_is_not_tried_for_ever(house: House) -> None:
    """A database that nobody has told of the key: the second refusal is the application's."""
    placement = house.tenants["database-a"].placement
    assert placement is not None
    async with AsyncRouter(house.settings) as router, house.control() as control:
        async with control.estate.root("main", placement.database) as root:
            await root.execute("DELETE FROM tenantry_priv.signing_keys")
        with pytest.raises(BindingRefused):
            await awrite(router, "database-a")
        await control.estate.inform("main", placement.database)
        await awrite(router, "database-a")
