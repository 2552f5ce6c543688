"""Homes in reserve: a tenant is one statement, and nothing that happens in between leaves anything behind."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import psycopg
import pytest

from tenantry import AsyncRouter, Isolation, Tenant
from tenantry.errors import KeyTaken, NoCapacity, PlanNotFound, SlugTaken, TenantNotFound
from tenantry.model import encode_key
from tenantry.placements.residents import ask
from tenantry.placements.warm import Reserved, Wish
from tenantry.postgres import pool
from tenantry.postgres.connect import merge_dsn
from tenantry.postgres.discretion import NO_PARAMETERS
from tenantry.postgres.express import Express
from tenantry.service import doctor
from tenantry.service import house as houses
from tenantry.service import plan as plans
from tenantry.service import shard as shards
from tenantry.service import tenant as tenants
from tenantry.service.check import Status
from tenantry.service.control import Control
from tenantry.service.tenant import NewTenant
from tests.fixtures.house import House, MakeHouse
from tests.fixtures.workers import Workers
from tests.operations.invariants import catalog, shard_database, violations
from tests.operations.recovery import expire, recover

pytestmark = pytest.mark.anyio

_numbers = count(1)
LEVELS = ("pooled", "schema", "database")


@pytest.fixture(scope="module")
def fleet(make_house: MakeHouse) -> House:
    """One shard, with homes kept ready."""
    made = make_house()

    async def fill() -> None:
        async with made.control() as control:
            await tenants.create(control, "first")
            for name in ("business", "enterprise"):
                await plans.change(control, name, warm=2)
            await houses.refill(control)

    asyncio.run(fill())
    return made


@pytest.fixture(autouse=True)
def all_is_as_it_must_be(fleet: House) -> Iterator[None]:
    yield
    assert violations(fleet) == []


@pytest.fixture
def slug() -> str:
    return f"tenant-{next(_numbers)}"


async def full(house: House) -> None:
    async with house.control() as control:
        await houses.refill(control)


def query(house: House, text: str, *parameters: Any) -> list[dict[str, Any]]:
    with catalog(house) as conn:
        cursor = conn.execute(text, parameters)
        return cursor.fetchall() if cursor.description is not None else []


def residents(house: House) -> dict[str, str]:
    """The residents of the pooled database, with their states."""
    row = query(house, "SELECT admin_dsn, database FROM spaces JOIN shards ON name = shard WHERE isolation = 'pooled'")[
        0
    ]
    with shard_database(row["admin_dsn"], row["database"]) as conn:
        found = conn.execute("SELECT code, state FROM tenantry.residents").fetchall()
    return {each["code"]: each["state"] for each in found}


async def works(house: House, tenant: Tenant | str) -> None:
    """A tenant writes, and reads its own."""
    async with AsyncRouter(house.settings) as router:
        name = tenant if isinstance(tenant, str) else tenant.slug
        async with router.tenant_scope(name) as found, router.transaction() as conn:
            await conn.execute("INSERT INTO orders (note) VALUES (%s)", (name,))
            rows = await (await conn.execute("SELECT tenant_id, note FROM orders")).fetchall()
            assert rows == [(found.key, name)]


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many statements were sent: by cursors to any server, and by the express to the catalog."""
    found: Counter[str] = Counter()
    execute, call = psycopg.AsyncCursor.execute, Express.call

    async def counted(*arguments: Any, **options: Any) -> Any:
        found["cursors"] += arguments[1] != NO_PARAMETERS  # a pool may open a connection at any moment
        return await execute(*arguments, **options)

    async def counted_call(*arguments: Any) -> Any:
        found["express"] += 1
        return await call(*arguments)

    monkeypatch.setattr(psycopg.AsyncCursor, "execute", counted)
    monkeypatch.setattr(Express, "call", counted_call)
    return found


async def hold(control: Control, wish: Wish, number: int = 1) -> list[Reserved]:
    """Take homes into hand."""
    homes = list((await control.reserve.draw(wish, number)).homes)
    control.reserve.put_back(wish, homes)
    return homes


class TestOneStatement:
    @pytest.mark.parametrize("level", LEVELS)
    async def test_a_home_in_hand_is_given_by_one_statement(
        self, fleet: House, sent: Counter[str], slug: str, level: str
    ) -> None:
        await full(fleet)
        async with fleet.control() as control:
            plan = {"pooled": "free", "schema": "business", "database": "enterprise"}[level]
            await tenants.create(control, f"{slug}-first", plan=plan)
            await hold(control, Wish(Isolation(level), plan))
            sent.clear()
            made = await tenants.create(control, slug, plan=plan)
            assert (sent["express"], sent["cursors"]) == (1, 0)
            shown = await tenants.show(control, slug)
            assert made == shown
            assert made.placement is not None
            assert made.placement.isolation == level
        await works(fleet, made)

    async def test_the_more_are_wanted_the_more_are_taken_into_hand_at_once(
        self, fleet: House, sent: Counter[str], slug: str
    ) -> None:
        async with fleet.control() as control:
            await tenants.create(control, f"{slug}-first")
            sent.clear()
            for number in range(100):
                await tenants.create(control, f"{slug}-{number}")
        assert sent["express"] == 100
        assert sent["cursors"] < 100

    async def test_it_is_an_operation_that_can_be_looked_at(self, fleet: House, slug: str) -> None:
        async with fleet.control() as control:
            made = await tenants.create(control, slug)
            [found] = query(fleet, "SELECT * FROM operations WHERE args -> 'tenants' ? %s", str(made.id))
            shown = await control.engine.show(found["id"])
        assert (shown["kind"], shown["state"], shown["step"], shown["actor"]) == ("provision", "done", "give", "test")
        [step] = query(fleet, "SELECT step, output FROM operation_steps WHERE operation = %s", found["id"])
        assert step["step"] == "give"
        [line] = query(fleet, "SELECT actor, action FROM audit_log WHERE subject = %s", str(made.id))
        assert (line["actor"], line["action"]) == ("test", "tenant create")

    async def test_an_application_that_knew_it_was_not_there_hears_of_it(self, fleet: House, slug: str) -> None:
        async with AsyncRouter(fleet.settings) as router, fleet.control() as control:
            with pytest.raises(TenantNotFound):
                async with router.tenant_scope(slug):
                    pass
            await tenants.create(control, slug)
            for _ in range(100):
                try:
                    async with router.tenant_scope(slug):
                        return
                except TenantNotFound:
                    await asyncio.sleep(0.02)
        pytest.fail("it never hears of it")

    @pytest.mark.parametrize("level", LEVELS)
    async def test_what_was_not_given_is_given_back(self, fleet: House, slug: str, level: str) -> None:
        await full(fleet)
        before = residents(fleet), query(fleet, "SELECT id, state FROM spaces ORDER BY id")
        async with fleet.control() as control:
            homes = await hold(control, Wish(Isolation(level), "free"), 5)
            assert len(homes) == {"pooled": 5, "schema": 1, "database": 1}[level]
            assert len(residents(fleet)) == len(before[0]) + len(homes)
        assert (residents(fleet), query(fleet, "SELECT id, state FROM spaces ORDER BY id")) == before

    async def test_a_database_gets_the_plan_of_its_tenant(self, fleet: House, slug: str) -> None:
        await full(fleet)
        async with fleet.control() as control:
            made = await tenants.create(control, slug, plan="free", isolation="database")
        await works(fleet, made)  # and what its database believes is compared afterwards


class TestNobodyComesIn:
    @pytest.mark.parametrize("level", LEVELS)
    async def test_nobody_enters_a_home_that_is_in_reserve(self, fleet: House, level: str) -> None:
        """There is no tenant of that key, so there is nobody to make a token for."""
        await full(fleet)
        async with fleet.control() as control, AsyncRouter(fleet.settings) as router:
            for home in await hold(control, Wish(Isolation(level), "free")):
                with pytest.raises(TenantNotFound):
                    await router.find(key=home.key)

    async def test_an_application_can_not_see_what_is_in_reserve(self, fleet: House) -> None:
        with psycopg.connect(fleet.settings.catalog_dsn) as conn, pytest.raises(psycopg.errors.InsufficientPrivilege):
            conn.execute("SELECT * FROM tenantry_catalog.reserved")

    async def test_an_application_can_not_make_tenants(self, fleet: House) -> None:
        call = "SELECT tenantry_catalog.provision_v1(gen_random_uuid(), '1', 'x', 'x', 'free', false, NULL, 'me', 'me')"
        dsn = merge_dsn(fleet.settings.catalog_dsn, options="-c search_path=tenantry_catalog")
        with psycopg.connect(dsn) as conn, pytest.raises(psycopg.errors.InsufficientPrivilege):
            conn.execute(call)

    async def test_whoever_wakes_up_when_its_time_is_over_lets_nobody_in(self, fleet: House) -> None:
        async with fleet.control() as control:
            late = {"until": datetime.now(UTC) - timedelta(seconds=1), "plan": "free", "state": "open"}
            columns = {"codes": ["909090"], "keys": [909090], "schemas": ["t_909090"]}
            place = ("main", query(fleet, "SELECT database FROM spaces WHERE isolation = 'pooled'")[0]["database"])
            for name in ("reserve", "reserve_own"):
                assert await ask(control.estate, place, name, {**late, **columns}) == []
        assert "909090" not in residents(fleet)

    async def test_the_key_of_a_home_in_reserve_can_not_be_chosen(self, fleet: House, slug: str) -> None:
        async with fleet.control() as control:
            [home] = await hold(control, Wish(Isolation.POOLED, "free"))
            with pytest.raises(KeyTaken, match=f"'{home.key}' is taken"):
                await tenants.create(control, slug, key=home.key)


class TestConflicts:
    async def test_two_that_want_the_last_home_both_get_one(self, fleet: House, slug: str) -> None:
        for level in ("schema", "database"):
            query(fleet, "UPDATE plans SET warm = 1 WHERE isolation = %s", level)
            await full(fleet)
            ready = query(fleet, "SELECT count(*) FROM spaces WHERE state = 'ready' AND isolation = %s", level)
            jobs = ready[0]["count"] + 1
            async with fleet.control() as one, fleet.control() as two:
                found = await asyncio.gather(
                    *(tenants.create((one, two)[n % 2], f"{slug}-{level}-{n}", isolation=level) for n in range(jobs))
                )
            assert len({(each.placement.database, each.placement.schema) for each in found if each.placement}) == jobs
            assert len({each.key for each in found}) == jobs
        query(fleet, "UPDATE plans SET warm = 2 WHERE isolation <> 'pooled'")

    async def test_one_of_those_who_want_a_slug_gets_it(self, fleet: House, slug: str) -> None:
        async with fleet.control() as one, fleet.control() as two:
            jobs = [tenants.create(each, slug) for each in (one, two, one, two)]
            found = await asyncio.gather(*jobs, return_exceptions=True)
            assert sorted(type(each).__name__ for each in found) == ["SlugTaken"] * 3 + ["Tenant"]
            with pytest.raises(SlugTaken, match=f"the slug '{slug}' is taken"):
                await tenants.create(one, slug)
            await tenants.create(one, f"{slug}-next")  # with the home that nobody got

    async def test_many_are_made_whole_or_not_at_all(self, fleet: House, slug: str) -> None:
        wanted = [NewTenant(f"{slug}-{n}") for n in range(30)]
        async with fleet.control() as control:
            await tenants.create(control, f"{slug}-17")
            with pytest.raises(SlugTaken, match=f"'{slug}-17' is taken"):
                await tenants.create_many(control, wanted)
            with pytest.raises(SlugTaken, match="stands twice"):
                await tenants.create_many(control, [NewTenant(f"{slug}-x"), NewTenant(f"{slug}-x")])
            assert query(fleet, "SELECT slug FROM tenants WHERE slug LIKE %s", f"{slug}-%") == [{"slug": f"{slug}-17"}]
            made = await tenants.create_many(control, [each for each in wanted if each.slug != f"{slug}-17"])
            assert [each.slug for each in made] == [each.slug for each in wanted if each.slug != f"{slug}-17"]
            assert made[3] == await tenants.show(control, made[3].slug)
        await works(fleet, made[3])

    async def test_what_has_changed_since_is_looked_at_again(self, fleet: House, slug: str) -> None:
        """By others, who tell nobody: a plan has another level, a shard is closed, a plan is gone, tables are newer."""
        await full(fleet)
        async with fleet.control() as control, fleet.control() as other:
            await plans.create(other, slug, isolation="pooled")
            await hold(control, Wish(Isolation.SCHEMA, "free"))
            await hold(control, Wish(Isolation.POOLED, slug))
            await plans.change(other, slug, isolation="schema")
            made = await tenants.create(control, f"{slug}-2", plan=slug)
            assert made.placement is not None
            assert made.placement.isolation == "schema"
            await shards.close(other, "main")
            with pytest.raises(NoCapacity):
                await tenants.create(control, f"{slug}-3", plan="free")
            await shards.open_(other, "main")
            query(fleet, "UPDATE spaces SET template = 'older' WHERE state = 'reserved'")
            await tenants.create(control, f"{slug}-4", isolation="schema")
            assert query(fleet, "SELECT id FROM spaces WHERE template = 'older' AND state = 'occupied'") == []
            with pytest.raises(PlanNotFound):
                await tenants.create(control, f"{slug}-5", plan="gone")
        async with fleet.control() as control:
            await houses.migrate(control)


class TestDeath:
    @pytest.mark.slow
    @pytest.mark.parametrize("level", LEVELS)
    def test_what_a_dead_process_held_is_cleared_away(
        self, fleet: House, workers: Workers, slug: str, level: str
    ) -> None:
        """Killed before each of its statements: then it is a tenant, or nothing is left of it."""
        asyncio.run(full(fleet))
        number = 0
        while True:
            number += 1
            outcome = workers.run(fleet, "create", f"{slug}-{number}", isolation=level, statement=(number, "kill"))
            if not outcome.killed:
                break
            recover(fleet)
            assert len(query(fleet, "SELECT id FROM spaces WHERE state = 'ready' AND isolation = 'schema'")) >= 2
        assert number > 5

    async def test_a_home_that_is_somebody_s_is_let_be(self, fleet: House, slug: str) -> None:
        """The catalog has forgotten its tenant: as when it was restored from a copy that was made before."""
        await full(fleet)
        made = []
        async with fleet.control() as control:
            for level in LEVELS:
                made.append(await tenants.create(control, f"{slug}-{level}", isolation=level))
                await works(fleet, made[-1])
        for each in made:
            forget(fleet, each)
        async with fleet.control() as control, AsyncRouter(fleet.settings) as router:
            assert await houses.work(control) >= 0
            assert query(fleet, "SELECT key FROM reserved WHERE holder IS NOT NULL") == []
            for each in made:
                async with router.transaction(each) as conn:
                    rows = await (await conn.execute("SELECT note FROM orders")).fetchall()
                assert rows == [(each.slug,)]
            found = {check.name: check for check in await doctor.examine(fleet.control_settings)}
            assert found["shard main residents"].status is Status.FAILED
            assert "unknown to the catalog" in found["shard main residents"].what
            more = [await tenants.create(control, f"{slug}-{level}-more", isolation=level) for level in LEVELS]
            assert {each.key for each in more}.isdisjoint(each.key for each in made)
        for each in made:
            remember(fleet, each)

    async def test_a_home_that_nobody_has_used_is_ready_again(self, fleet: House) -> None:
        await full(fleet)
        before = residents(fleet)
        async with fleet.control() as dead, fleet.control() as control:
            for level in LEVELS:
                await dead.reserve.draw(Wish(Isolation(level), "free"), 1)
            assert residents(fleet) != before
            assert await houses.work(control) == 0  # its time is not over
            expire(fleet)
            await houses.work(control)
        assert residents(fleet) == before
        missing = query(fleet, "SELECT isolation, count(*) FROM spaces WHERE state = 'ready' GROUP BY 1 ORDER BY 1")
        assert {row["isolation"]: row["count"] for row in missing}["schema"] >= 2
        assert {row["isolation"]: row["count"] for row in missing}["database"] >= 2

    async def test_a_process_whose_time_is_over_gives_nothing_away(self, fleet: House, slug: str) -> None:
        async with fleet.control() as control, fleet.control() as other:
            [home] = await hold(control, Wish(Isolation.POOLED, "free"))
            expire(fleet)
            await houses.work(other)
            made = await tenants.create(control, slug)
            assert made.key != home.key
        assert encode_key(home.key) not in residents(fleet)

    async def test_a_lease_that_has_run_out_counts_before_a_worker_comes(self, fleet: House, slug: str) -> None:
        async with fleet.control() as control:
            [home] = await hold(control, Wish(Isolation.POOLED, "free"))
            expire(fleet)
            assert (await tenants.create(control, slug)).key != home.key
            await houses.work(control)

    async def test_a_key_that_another_process_holds_can_not_be_given(self, fleet: House, slug: str) -> None:
        async with fleet.control() as control, fleet.control() as other:
            homes = await hold(other, Wish(Isolation.POOLED, "free"))
            control.reserve.put_back(Wish(Isolation.POOLED, "free"), homes)
            assert (await tenants.create(control, slug)).key != homes[0].key
            control.reserve._shelves.clear()

    @pytest.mark.parametrize("level", ["schema", "database"])
    async def test_a_home_that_is_ready_to_a_catalog_that_has_forgotten_its_tenant_is_not_given(
        self, fleet: House, slug: str, level: str
    ) -> None:
        await full(fleet)
        async with fleet.control() as control:
            made = await tenants.create(control, slug, isolation=level)
            await works(fleet, made)
            query(fleet, "UPDATE spaces SET state = 'building' WHERE state = 'ready' AND isolation = %s", level)
            forget(fleet, made)
            if level == "schema":
                query(fleet, "DELETE FROM reserved WHERE holder IS NOT NULL")
            query(fleet, "UPDATE reserved SET holder = NULL, until = NULL")
            query(fleet, "UPDATE spaces SET state = 'ready' WHERE state = 'reserved'")
            with pytest.raises(KeyTaken, match="a resident that the catalog does not know"):
                await tenants.create(control, f"{slug}-squatter", isolation=level)
            async with AsyncRouter(fleet.settings) as router, router.transaction(made) as conn:
                assert await (await conn.execute("SELECT note FROM orders")).fetchall() == [(slug,)]
            query(fleet, "DELETE FROM reserved WHERE key = %s", str(made.key))
            remember(fleet, made)
            query(
                fleet,
                "UPDATE spaces SET state = 'occupied' WHERE id IN (SELECT space FROM placements)"
                " AND isolation <> 'pooled'",
            )
            query(fleet, "UPDATE spaces SET state = 'ready' WHERE state = 'building'")

    @pytest.mark.parametrize("done", [True, False])
    async def test_a_connection_that_is_lost_at_the_worst_moment_makes_one_tenant(
        self, fleet: House, slug: str, monkeypatch: pytest.MonkeyPatch, done: bool
    ) -> None:
        call = Express.call
        lost: list[Any] = []

        async def lose(express: Express, values: Any) -> str:
            if lost:
                return await call(express, values)
            lost.append(values)
            if done:
                await call(express, values)
            raise psycopg.OperationalError("the server closed the connection unexpectedly")

        async with fleet.control() as control:
            monkeypatch.setattr(Express, "call", lose)
            made = await tenants.create(control, slug)
            assert made == await tenants.show(control, slug)
        assert lost

    async def test_a_catalog_that_was_restarted_is_not_noticed(
        self, fleet: House, slug: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pool, "_BELIEVED_SECONDS", 0)
        async with fleet.control() as control:
            await tenants.create(control, f"{slug}-early")
            await hold(control, Wish(Isolation.POOLED, "free"))
            with catalog(fleet) as conn:
                conn.execute(
                    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name = 'tenantry'"
                )
            await tenants.create(control, f"{slug}-later")


def forget(house: House, tenant: Tenant) -> None:
    """The catalog believes that a dead process has the tenant's home in reserve."""
    with catalog(house) as conn, conn.transaction():
        row = conn.execute("DELETE FROM placements WHERE tenant = %s RETURNING space", (tenant.id,)).fetchone()
        assert row is not None
        conn.execute("DELETE FROM tenants WHERE id = %s", (tenant.id,))
        conn.execute("UPDATE spaces SET state = 'reserved' WHERE id = %s AND isolation <> 'pooled'", (row["space"],))
        conn.execute(
            "INSERT INTO reserved VALUES (%s, %s, 'free', 'tenantry dead', now() - interval '1 second')",
            (str(tenant.key), row["space"]),
        )


def remember(house: House, tenant: Tenant) -> None:
    """As an operator does."""
    place = tenant.placement
    assert place is not None
    with catalog(house) as conn, conn.transaction():
        conn.execute(
            "INSERT INTO tenants (id, key, slug, name, plan, state) VALUES (%s, %s, %s, %s, %s, 'active')",
            (tenant.id, str(tenant.key), tenant.slug, tenant.name, tenant.plan),
        )
        conn.execute(
            "INSERT INTO placements (tenant, space, epoch)"
            " SELECT %s, id, 1 FROM spaces WHERE shard = %s AND database = %s AND schema = %s",
            (tenant.id, place.shard, place.database, place.schema),
        )
