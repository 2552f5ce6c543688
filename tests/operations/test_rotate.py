"""Rotating the signing key: nobody notices, and the old key opens nothing afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from tenantry import AsyncRouter, Tenant
from tenantry.catalog.store import Conn, fetch
from tenantry.errors import BindingRefused
from tenantry.perimeter.bound_async import AsyncBoundConnection
from tenantry.perimeter.token import Signer
from tenantry.service import house as houses
from tenantry.service import key as keys
from tenantry.service import plan as plans
from tenantry.service import tenant as tenants
from tests.fixtures.house import House
from tests.fixtures.workers import Workers
from tests.operations.invariants import catalog, violations
from tests.operations.recovery import end_waiting

pytestmark = pytest.mark.anyio

SLUGS = ("pooled-a", "pooled-b", "schema-a", "database-a")


@pytest.fixture(autouse=True)
def all_is_as_it_must_be(house: House) -> Iterator[None]:
    yield
    end_waiting(house)
    asyncio.run(rotate_on(house))
    assert violations(house) == []


async def rotate_on(house: House) -> None:
    async with house.control() as control:
        await houses.work(control)


def signing_keys(house: House) -> dict[str, str]:
    with catalog(house) as conn:
        rows = conn.execute("SELECT kid, state FROM signing_keys ORDER BY created_at").fetchall()
    return {row["kid"]: row["state"] for row in rows}


async def test_tenants_work_on_while_keys_come_and_go(house: House) -> None:
    """Not even an overlap is needed while news travel: a refused transaction begins again with the new key."""
    done = dict.fromkeys(SLUGS, 0)
    stop = asyncio.Event()

    async def application(router: AsyncRouter, slug: str) -> None:
        while not stop.is_set():
            async with router.tenant_scope(slug), router.transaction() as conn:
                await conn.execute("INSERT INTO orders (note) VALUES ('rotating')")
            done[slug] += 1

    async with AsyncRouter(house.settings) as router, house.control() as control:
        jobs = [asyncio.create_task(application(router, slug)) for slug in SLUGS for _ in range(2)]
        seen = set()
        for _ in range(8):
            before = dict(done)
            assert await keys.rotate(control, overlap=0) == "done"
            seen |= set(signing_keys(house))
            while any(done[slug] == before[slug] for slug in SLUGS):
                await asyncio.sleep(0)
                for job in jobs:
                    if job.done():
                        job.result()
        stop.set()
        await asyncio.gather(*jobs)
        assert len(seen) == 8
        for slug in SLUGS:
            async with router.tenant_scope(slug), router.transaction() as conn:
                row = await (await conn.execute("SELECT count(*) FROM orders WHERE note = 'rotating'")).fetchone()
            assert row is not None
            assert row[0] == done[slug]


async def test_the_old_key_is_good_until_the_overlap_ends(house: House) -> None:
    [old] = [(row["kid"], row["key"]) for row in secrets(house)]
    async with house.control() as control:
        assert await keys.rotate(control, overlap=3600) == "waiting"
        assert sorted(signing_keys(house).values()) == ["active", "retiring"]
        for tenant in house.tenants.values():
            await bind(house, tenant, *old)
        end_waiting(house)
        await houses.work(control)
        for tenant in house.tenants.values():
            with pytest.raises(BindingRefused):
                await bind(house, tenant, *old)


async def test_a_database_that_is_made_later_does_not_know_the_old_key(house: House) -> None:
    """Though the template that it is copied from once did."""
    [old] = [(row["kid"], row["key"]) for row in secrets(house)]
    async with house.control() as control:
        await keys.rotate(control, overlap=0)
        late = await tenants.create(control, "late", isolation="database")
    with pytest.raises(BindingRefused):
        await bind(house, late, *old)
    [new] = [(row["kid"], row["key"]) for row in secrets(house)]
    await bind(house, late, *new)


@pytest.mark.parametrize("isolation", ["schema", "database"])
async def test_a_home_that_is_made_in_the_middle_of_a_rotation_knows_the_keys(
    house: House, workers: Workers, isolation: str
) -> None:
    """Its building has ended when the rotation begins, the catalog hears of it when the rotation is over."""
    slug = f"between-{isolation}"
    sleeper = workers.run(house, "create", slug, isolation=isolation, events=[("build", "acted", "stop")])
    async with house.control() as control:
        assert await keys.rotate(control, overlap=0) == "done"
        await plans.change(control, "free", limits={"statement_timeout": "29s"})
    assert workers.wake(sleeper).result
    assert violations(house) == []
    async with AsyncRouter(house.settings) as router, router.tenant_scope(slug), router.transaction() as conn:
        assert await (await conn.execute("SHOW statement_timeout")).fetchone() == ("29s",)


async def test_a_warm_home_that_is_built_in_the_middle_of_a_rotation_knows_the_keys(
    house: House, workers: Workers
) -> None:
    async with house.control() as control:
        await plans.change(control, "enterprise", warm=1)
        builder = workers.run(house, "refill", events=[("build", "acted", "stop")])
        assert await keys.rotate(control, overlap=0) == "done"
        assert workers.wake(builder).result == "1"
        await plans.change(control, "enterprise", warm=0)
    assert violations(house) == []


async def test_one_rotation_does_not_cut_the_overlap_of_another(house: House) -> None:
    [first] = signing_keys(house)
    async with house.control() as control:
        assert await keys.rotate(control, overlap=3600) == "waiting"
        assert await keys.rotate(control, overlap=0) == "done"
    assert signing_keys(house)[first] == "retiring"
    assert sorted(signing_keys(house).values()) == ["active", "retiring"]


async def test_rotations_at_the_same_moment_leave_one_active_key(house: House) -> None:
    async def rotate() -> str:
        async with house.control() as control:
            return await keys.rotate(control, overlap=0)

    assert await asyncio.gather(*(rotate() for _ in range(4)), return_exceptions=True) == ["done"] * 4
    assert list(signing_keys(house).values()) == ["active"]


async def test_who_tells_old_news_does_not_take_a_new_key_away(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody has read the keys, to tell a database of them; before he does, a rotation brings a new one."""
    has_read, may_tell = asyncio.Event(), asyncio.Event()

    async def fetch_slowly(conn: Conn, query: str, parameters: Any = ()) -> list[Any]:
        found = await fetch(conn, query, parameters)
        if query == "keys" and not has_read.is_set():
            has_read.set()
            await may_tell.wait()
        return found

    monkeypatch.setattr("tenantry.placements.estate.fetch", fetch_slowly)
    async with house.control() as control, house.control() as other:
        placement = house.tenants["pooled-a"].placement
        assert placement
        telling = asyncio.create_task(control.estate.inform("main", placement.database))
        await has_read.wait()
        rotating = asyncio.create_task(keys.rotate(other, overlap=0))
        while not rotating.done() and not is_waiting(house):  # noqa: ASYNC110 - the server tells nobody
            await asyncio.sleep(0)
        may_tell.set()
        await telling
        assert await rotating == "done"
    assert violations(house) == []


def is_waiting(house: House) -> bool:
    """Whether somebody waits for a lock in the catalog."""
    with catalog(house) as conn:
        found = conn.execute(
            "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        ).fetchall()
    return bool(found)


async def test_a_worker_renews_a_key_a_month_before_it_ends(house: House) -> None:
    [first] = signing_keys(house)
    async with house.control() as control:
        await houses.work(control)
        assert list(signing_keys(house)) == [first]
        with catalog(house) as conn:
            conn.execute("UPDATE signing_keys SET not_after = now() + interval '29 days'")
        assert await houses.work(control) == 1
        assert list(signing_keys(house).values()) == ["retiring", "active"]
        assert await houses.work(control) == 0  # the next one waits for the overlap


async def test_keys_are_listed_without_what_they_are(house: House) -> None:
    async with house.control() as control:
        [shown] = await keys.listing(control)
    assert sorted(shown) == ["created_at", "kid", "not_after", "state"]


def secrets(house: House) -> list[dict[str, Any]]:
    with catalog(house) as conn:
        return conn.execute("SELECT kid, key FROM signing_keys WHERE state = 'active'").fetchall()


async def bind(house: House, tenant: Tenant, kid: str, key: bytes) -> None:
    """Begin a transaction with a token of this key, as the application's role."""
    assert tenant.placement
    with catalog(house) as conn:
        row = conn.execute("SELECT password FROM credentials WHERE role = 'tenantry_app'").fetchone()
    assert row is not None
    database = tenant.placement.database
    dsn = house.servers[0].dsn(database, "tenantry_app", tcp=True, password=row["password"])
    signer = Signer(kid, key)
    async with await AsyncBoundConnection.connect(dsn) as bound:
        bound.bind_to(lambda pid: signer.mint(tenant.code, database, "tenantry_app", pid=pid))
        async with bound.transaction():
            await bound.execute("SELECT 1")
