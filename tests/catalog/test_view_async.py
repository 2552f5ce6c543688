"""The library's view of the catalog: what it knows costs nothing, what changes it hears, what it missed can't hurt."""

# ruff: noqa: SIM117, RUF100  # the twin nests what only it could join
from __future__ import annotations

from collections.abc import Hashable
from contextlib import AsyncExitStack
from typing import LiteralString
from uuid import UUID, uuid4

import pytest

from tenantry.catalog import listen
from tenantry.catalog.listen import CHANNEL
from tenantry.catalog.view_async import AsyncCatalogView
from tenantry.errors import (
    NotFound,
    PlanNotFound,
    ServerUnreachable,
    ServerUnsuitable,
    TenantNotFound,
)
from tenantry.model import Placement, ShardState, TenantState
from tests.catalog.conftest import LISTENING, LOST, AsyncSeen, Catalog, Events, drop_login
from tests.fixtures.proxy import Proxy
from tests.fixtures.servers import Database, MakeDatabase

pytestmark = pytest.mark.anyio


# A hit costs no I/O


async def test_what_it_knows_costs_no_round_trip(catalog: Catalog, slug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listen, "_BEAT_SECONDS", 3600.0)
    with Proxy(catalog.dsn) as proxy:
        view = AsyncCatalogView(proxy.through(catalog.dsn))
        events = Events(view)
        await view.open()
        events.wait_for(LISTENING)
        await view.fleet()
        with proxy.counting() as trips:
            first = await view.find("slug", slug)
        assert trips.count > 0
        with proxy.counting() as trips:
            for _ in range(1000):
                assert await view.find("slug", slug) is first
                assert await view.find("id", first.id) is first
                assert view.peek(first.id) is first
                await view.fleet()
        assert trips.count == 0
        await view.close()


async def test_a_tenant_is_found_by_each_of_its_names(seen_async: AsyncSeen, slug: str) -> None:
    catalog, view = seen_async.catalog, seen_async.view
    tenant = await view.find("slug", slug)
    domain = f"{slug}.example"
    catalog.run("INSERT INTO domains (domain, tenant) VALUES (%s, %s)", domain, tenant.id)
    seen_async.events.wait_for("new", "new")
    assert tenant.placement == Placement("main", "app", "public", tenant.placement.isolation, 1)  # type: ignore[union-attr]
    for kind, value in (("slug", slug), ("key", tenant.key), ("id", tenant.id), ("domain", domain)):
        view.cache.clear()
        assert await view.find(kind, value) == tenant
    assert len(view.cache) == 1


async def test_only_what_was_asked_for_is_kept(seen_async: AsyncSeen, slug: str) -> None:
    for n in range(10):
        seen_async.catalog.add_tenant(f"{slug}-{n}")
    seen_async.events.wait_for(*["new"] * 11)
    await seen_async.view.find("slug", f"{slug}-3")
    assert len(seen_async.view.cache) == 1


async def test_it_opens_at_its_first_use_and_again_after_it_was_closed(catalog: Catalog, slug: str) -> None:
    view = AsyncCatalogView(catalog.dsn)
    with pytest.raises(NotFound, match="not open"):
        view.known_fleet()
    for _ in range(2):
        assert (await view.find("slug", slug)).slug == slug
        assert view.known_fleet() == await view.fleet()
        await view.close()
        await view.close()
        assert len(view.cache) == 0


# What changes is heard


CHANGES: dict[str, LiteralString] = {
    "its name": "UPDATE tenants SET name = 'Changed' WHERE id = %s",
    "its slug": "UPDATE tenants SET slug = slug || '-b' WHERE id = %s",
    "its plan": "UPDATE tenants SET plan = 'business' WHERE id = %s",
    "its state": "UPDATE tenants SET state = 'suspended' WHERE id = %s",
    "its epoch": "UPDATE placements SET epoch = epoch + 1 WHERE tenant = %s",
    "its placement": "DELETE FROM placements WHERE tenant = %s",
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
async def test_a_change_of_a_tenant_is_heard(seen_async: AsyncSeen, slug: str, change: LiteralString) -> None:
    view = seen_async.view
    before = await view.find("slug", slug)
    seen_async.catalog.run(change, before.id)
    seen_async.events.wait_for(f"tenant {before.id}")
    assert view.peek(before.id) is None
    after = await view.find("id", before.id)
    assert after != before
    assert after == await view.refresh(before)


@pytest.mark.parametrize(
    "change",
    ["DELETE FROM domains WHERE tenant = %s", "UPDATE domains SET domain = 'b.' || domain WHERE tenant = %s"],
    ids=["removed", "changed"],
)
async def test_a_domain_that_a_tenant_lost_leads_nowhere(
    seen_async: AsyncSeen, slug: str, change: LiteralString
) -> None:
    catalog, view = seen_async.catalog, seen_async.view
    tenant = await view.find("slug", slug)
    catalog.run("INSERT INTO domains (domain, tenant) VALUES (%s, %s)", f"{slug}.example", tenant.id)
    assert await view.find("domain", f"{slug}.example") == tenant
    catalog.run(change, tenant.id)
    seen_async.events.wait_for(f"tenant {tenant.id}")
    with pytest.raises(TenantNotFound):
        await view.find("domain", f"{slug}.example")


async def test_a_tenant_that_is_gone_is_not_found(seen_async: AsyncSeen, slug: str) -> None:
    view = seen_async.view
    tenant = await view.find("slug", slug)
    seen_async.catalog.run("DELETE FROM placements WHERE tenant = %s", tenant.id)
    seen_async.catalog.run("DELETE FROM tenants WHERE id = %s", tenant.id)
    seen_async.events.wait_for(f"tenant {tenant.id}", f"tenant {tenant.id}")
    with pytest.raises(TenantNotFound):
        await view.find("slug", slug)
    with pytest.raises(TenantNotFound):
        await view.refresh(tenant)


async def test_a_deleted_tenants_slug_is_nobodys_until_somebody_else_takes_it(seen_async: AsyncSeen, slug: str) -> None:
    catalog, view = seen_async.catalog, seen_async.view
    old = await view.find("slug", slug)
    catalog.run("UPDATE tenants SET state = 'deleted' WHERE id = %s", old.id)
    seen_async.events.wait_for(f"tenant {old.id}")
    with pytest.raises(TenantNotFound):
        await view.find("slug", slug)
    assert (await view.find("id", old.id)).state is TenantState.DELETED
    new = catalog.add_tenant(slug)
    seen_async.events.wait_for("new")
    assert (await view.find("slug", slug)).id == new


async def test_who_was_unknown_is_found_as_soon_as_it_comes(seen_async: AsyncSeen) -> None:
    view, slug = seen_async.view, f"late-{uuid4().hex[:8]}"
    for _ in range(2):
        with pytest.raises(TenantNotFound, match=slug):
            await view.find("slug", slug)
    seen_async.catalog.add_tenant(slug)
    seen_async.events.wait_for("new")
    tenant = await view.find("slug", slug)
    with pytest.raises(TenantNotFound):
        await view.find("domain", f"{slug}.example")
    seen_async.catalog.run("INSERT INTO domains (domain, tenant) VALUES (%s, %s)", f"{slug}.example", tenant.id)
    seen_async.events.wait_for("new")
    assert await view.find("domain", f"{slug}.example") == tenant


async def test_many_changes_at_once_are_one_notification(seen_async: AsyncSeen, slug: str) -> None:
    view = seen_async.view
    seen_async.catalog.run(
        "INSERT INTO tenants (key, slug, name, plan, state) SELECT nextval('tenant_keys')::text, %s || n, '', 'free',"
        " 'active' FROM generate_series(0, 100) n",
        f"{slug}-",
    )
    seen_async.events.wait_for("new", "new")
    before = [await view.find("slug", f"{slug}-{n}") for n in range(101)]
    seen_async.catalog.run("UPDATE tenants SET plan = 'business' WHERE slug LIKE %s", f"{slug}-%")
    seen_async.events.wait_for("*")
    assert len(view.cache) == 0
    assert {(await view.find("id", tenant.id)).plan for tenant in before} == {"business"}


FLEET: dict[str, LiteralString] = {
    "a plan": "UPDATE plans SET weight = weight + 1 WHERE name = 'free'",
    "a shard": "UPDATE shards SET dedicated = NOT dedicated",
    "a password": "UPDATE credentials SET password = password || '!' WHERE role = 'tenantry_app'",
    "a key": "UPDATE signing_keys SET kid = kid || 'x' WHERE state = 'active'",
}


@pytest.mark.parametrize("change", FLEET.values(), ids=FLEET)
async def test_a_change_of_the_fleet_is_heard(seen_async: AsyncSeen, change: LiteralString) -> None:
    view = seen_async.view
    before = await view.fleet()
    assert await view.fleet() is before
    seen_async.catalog.run(change)
    seen_async.events.wait_for("fleet")
    after = await view.fleet()
    assert after != before
    assert await view.fleet() is view.known_fleet() is after


async def test_what_comes_and_goes_in_the_fleet_is_heard(seen_async: AsyncSeen) -> None:
    catalog, view = seen_async.catalog, seen_async.view
    catalog.run("INSERT INTO plans (name, isolation) VALUES ('gold', 'database')")
    seen_async.events.wait_for("fleet")
    assert (await view.fleet()).plan("gold").name == "gold"
    catalog.run("DELETE FROM plans WHERE name = 'gold'")
    seen_async.events.wait_for("fleet")
    with pytest.raises(PlanNotFound):
        (await view.fleet()).plan("gold")
    catalog.run("UPDATE shards SET state = 'closed' WHERE name = 'main'")
    seen_async.events.wait_for("fleet")
    assert (await view.fleet()).shard("main").state is ShardState.CLOSED


NOISE = [
    "",
    " ",
    "*",
    "tenant",
    "tenant ",
    "tenant not-a-uuid",
    "tenant '; DROP TABLE tenants; --",
    "x" * 7999,
    "Ünï 🎉",
]


async def test_noise_on_the_channel_makes_it_ask_again_and_no_more(seen_async: AsyncSeen, slug: str) -> None:
    """Whoever may connect to the catalog's database may notify."""
    view = seen_async.view
    before = await view.find("slug", slug)
    for noise in NOISE:
        seen_async.catalog.run("SELECT pg_notify(%s, %s)", CHANNEL, noise)
        seen_async.events.wait_for(noise)
        assert await view.find("slug", slug) == before
    seen_async.catalog.run("UPDATE tenants SET name = 'Heard' WHERE slug = %s", slug)
    seen_async.events.wait_for(f"tenant {before.id}")
    assert (await view.find("slug", slug)).name == "Heard"


# What was missed


async def test_a_session_that_the_server_ended_goes_unseen(seen_async: AsyncSeen, slug: str) -> None:
    catalog, view = seen_async.catalog, seen_async.view
    assert view._pool is not None
    async with AsyncExitStack() as stack:  # as many idle connections as there can be
        for _ in range(4):
            await stack.enter_async_context(view._pool.connection())
    assert catalog.end_sessions("tenantry") >= 4
    assert (await view.find("slug", slug)).slug == slug


async def test_after_a_gap_it_forgets_everything_because_it_can_not_know_what_it_missed(
    seen_async: AsyncSeen, slug: str
) -> None:
    catalog, view = seen_async.catalog, seen_async.view
    seen_async.events.wait_for("new")  # of this tenant: after it nothing more comes
    before, fleet = await view.find("slug", slug), await view.fleet()
    catalog.run("UPDATE tenants SET plan = 'business' WHERE id = %s", before.id, quietly=True)
    catalog.run("UPDATE plans SET weight = weight + 1", quietly=True)
    assert await view.find("slug", slug) is before  # nothing could tell it
    assert catalog.end_sessions("tenantry listen") >= 1
    seen_async.events.wait_for(LOST, LISTENING)
    assert (await view.find("slug", slug)).plan == "business"
    assert await view.fleet() != fleet


@pytest.mark.parametrize(("stale_seconds", "expected"), [(0.0, "business"), (3600.0, "free")])
async def test_without_notifications_it_is_as_stale_as_it_may_be(
    catalog: Catalog, slug: str, stale_seconds: float, expected: str
) -> None:
    view = AsyncCatalogView(catalog.dsn, stale_seconds=stale_seconds)
    events = Events(view)
    await view.open()
    events.wait_for(LISTENING)
    before = await view.find("slug", slug)
    assert view._listener is not None
    view._listener.stop()
    catalog.run("UPDATE tenants SET plan = 'business' WHERE slug = %s", slug)
    assert (await view.find("slug", slug)).plan == expected
    assert (await view.refresh(before)).plan == "business"
    await view.close()


# Names that nobody has


async def test_who_is_known_to_be_nobody_is_not_asked_for_again_at_once(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listen, "_BEAT_SECONDS", 3600.0)
    with Proxy(catalog.dsn) as proxy:
        view = AsyncCatalogView(proxy.through(catalog.dsn), cache_size=100)
        events = Events(view)
        await view.open()
        events.wait_for(LISTENING)
        for n in range(300):
            with pytest.raises(TenantNotFound):
                await view.find("slug", f"nobody-{n}")
        with proxy.counting() as trips:
            with pytest.raises(TenantNotFound):
                await view.find("slug", "nobody-299")
        assert trips.count == 0
        assert len(view.cache._absent) == 100
        await view.close()


HOSTILE: list[tuple[str, Hashable]] = [
    ("slug", ""),
    ("slug", "a\0b"),
    ("slug", "\ud800"),
    ("slug", "' OR true; --"),
    ("slug", "x" * 65536),
    ("slug", "аcme"),
    ("domain", "\0"),
    ("domain", "x" * 65536),
    ("key", "' OR true; --"),
    ("key", 2**200),
    ("key", None),
    ("id", "not a uuid"),
    ("id", UUID(int=0)),
    ("id", None),
]


@pytest.mark.parametrize(("kind", "value"), HOSTILE, ids=lambda value: ascii(value)[:20])
async def test_what_can_not_be_a_name_is_nobodys(seen_async: AsyncSeen, kind: str, value: Hashable) -> None:
    for _ in range(2):
        with pytest.raises(TenantNotFound, match=f"no tenant with the {kind}") as caught:
            await seen_async.view.find(kind, value)
        assert str(caught.value).isascii()
        assert len(str(caught.value)) < 200


# Catalogs that can't be used


async def test_where_there_is_no_catalog_it_says_how_to_make_one(database: Database) -> None:
    view = AsyncCatalogView(database.dsn(tcp=True))
    for _ in range(2):
        with pytest.raises(NotFound, match="there is no catalog") as caught:
            await view.open()
        assert caught.value.where == f"postgres@127.0.0.1:{database.server.port}/{database.name}"
        assert "tenantry init" in str(caught.value.hint)
    await view.close()


async def test_an_empty_catalog_says_how_to_fill_it(catalog: Catalog, make_database: MakeDatabase) -> None:
    view = AsyncCatalogView(catalog.dsn)
    house = catalog.run("DELETE FROM house RETURNING *")
    try:
        with pytest.raises(NotFound, match="the catalog is empty") as caught:
            await view.open()
        assert "tenantry init" in str(caught.value.hint)
    finally:
        catalog.run("INSERT INTO house VALUES (%s, %s, %s, %s, %s)", *house[0])
        await view.close()


async def test_a_wrong_password_is_named_and_not_repeated(catalog: Catalog) -> None:
    wrong = catalog.database.dsn(catalog.login, tcp=True, password="hunter2")
    view = AsyncCatalogView(wrong, connect_seconds=1)
    with pytest.raises(ServerUnreachable, match="password authentication failed") as caught:
        await view.open()
    assert caught.value.where == f"{catalog.login}@127.0.0.1:{catalog.database.server.port}/{catalog.database.name}"
    assert "password" in str(caught.value.hint)
    assert "hunter2" not in repr(caught.value.as_dict())
    await view.close()


async def test_a_login_without_the_right_to_read_is_named(catalog: Catalog) -> None:
    stranger = Catalog(catalog.database)
    catalog.run("SELECT 1")
    with catalog.database.connect() as conn:
        conn.execute(f"CREATE ROLE {stranger.login} LOGIN PASSWORD '{stranger.password}'")
    view = AsyncCatalogView(stranger.dsn)
    with pytest.raises(ServerUnsuitable, match="may not read the catalog") as caught:
        await view.open()
    assert "tenantry init" in str(caught.value.hint)
    await view.close()
    drop_login(stranger)


async def test_a_fleet_that_can_not_be_read_any_more_is_used_as_it_is_known(seen_async: AsyncSeen, slug: str) -> None:
    """The login has lost its rights, or a later version has brought words that this one does not know."""
    catalog, view = seen_async.catalog, seen_async.view
    seen_async.events.wait_for("new")
    fleet, tenant = await view.fleet(), await view.find("slug", slug)
    with catalog.database.connect() as conn:
        conn.execute(f"REVOKE tenantry_library FROM {catalog.login}")
        try:
            catalog.end_sessions("tenantry")
            view.forget_fleet()
            assert await view.fleet() is fleet
            assert await view.find("slug", slug) is tenant
            with pytest.raises(ServerUnsuitable):
                await view.find("slug", "somebody-else")
        finally:
            conn.execute(f"GRANT tenantry_library TO {catalog.login}")
    assert await view.fleet() == fleet
