"""Where new tenants go, and what is left when they can't go anywhere."""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tenantry import AsyncRouter, Isolation
from tenantry.errors import (
    InvalidSettings,
    KeyTaken,
    NoCapacity,
    OperationFailed,
    ShardNotFound,
    SlugTaken,
    TenantryError,
)
from tenantry.model import Tenant
from tenantry.placements.levels import LEVELS
from tenantry.placements.space import Space
from tenantry.placements.template import parse_template
from tenantry.service import house as houses
from tenantry.service import shard as shards
from tenantry.service import tenant as tenants
from tenantry.service.control import Control
from tenantry.service.tenant import NewTenant
from tests.fixtures.house import TEMPLATE, House, MakeHouse
from tests.operations.invariants import catalog, shard_database, violations

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The application's migrations, to be added to."""
    return Path(shutil.copytree(TEMPLATE, tmp_path_factory.mktemp("template") / "sql"))


@pytest.fixture(scope="module")
def fleet(make_house: MakeHouse, folder: Path) -> House:
    """Two shards alike."""
    return make_house(second=True, template=f"sql:{folder}")


@pytest.fixture(autouse=True)
def all_is_as_it_must_be(fleet: House) -> Iterator[None]:
    yield
    assert violations(fleet) == []
    run(fleet, "UPDATE shards SET state = 'open', dedicated = false")
    run(fleet, "UPDATE plans SET warm = 0")
    asyncio.run(clear_out(fleet))


async def clear_out(house: House) -> None:
    """Remove the homes that nobody has claimed."""
    async with house.control() as control:
        for row in await control.store.fetch("spaces"):
            space = Space.of(row)
            if space.state == "ready" and space.isolation is not Isolation.POOLED:
                await LEVELS[space.isolation].drop(control.estate, space)
                await control.store.fetch("drop_spaces", ([space.id],))


def run(house: House, query: str, *parameters: Any) -> None:
    with catalog(house) as conn:
        conn.execute(query, parameters)


def count(house: House, query: str) -> int:
    with catalog(house) as conn:
        row = conn.execute(query).fetchone()
    assert row is not None
    return int(row["count"])


async def make(house: House, *slugs: str, **options: Any) -> list[Tenant]:
    async with house.control() as control:
        return [await tenants.create(control, slug, **options) for slug in slugs]


def add_migration(folder: Path, sql: str) -> Path:
    file = folder / f"{len(list(folder.iterdir())) + 1:04}_more.sql"
    file.write_text(sql)
    return file


def homes(found: list[Tenant]) -> list[tuple[str, str]]:
    return [(each.placement.database, each.placement.schema) for each in found if each.placement]


def shard_names(found: list[Tenant]) -> list[str]:
    return [each.placement.shard for each in found if each.placement]


async def warm_up(house: House, level: str, number: int) -> None:
    run(house, "UPDATE plans SET warm = CASE WHEN isolation = %s THEN %s ELSE 0 END", level, number)
    async with house.control() as control:
        await houses.refill(control)


async def at_once(house: House, *jobs: dict[str, Any]) -> list[Any]:
    """Create tenants at the same moment, each from a control plane of its own."""

    async def create(job: dict[str, Any]) -> Tenant:
        async with house.control() as control:
            return await tenants.create(control, **job)

    return await asyncio.gather(*map(create, jobs), return_exceptions=True)


class TestPlaces:
    @pytest.mark.parametrize("isolation", ["pooled", "schema", "database"])
    async def test_the_emptiest_shard_takes_the_next_tenant(self, fleet: House, isolation: str) -> None:
        await make(fleet, f"first-{isolation}", shard="main")
        await make(fleet, f"second-{isolation}", shard="main")
        assert shard_names(await make(fleet, f"third-{isolation}", isolation=isolation)) == ["second"]
        await make(fleet, f"fourth-{isolation}", shard="second")

    async def test_many_that_need_new_homes_are_spread_over_the_shards(self, fleet: House) -> None:
        async with fleet.control() as control:
            before = Counter({shard.name: number for shard, number, _ in await shards.listing(control)})
            wanted = [NewTenant(f"spread-{n}") for n in range(4 + abs(before["main"] - before["second"]))]
            await tenants.create_many(control, wanted, isolation="schema")
            after = Counter({shard.name: number for shard, number, _ in await shards.listing(control)})
        assert after["main"] == after["second"]

    async def test_a_closed_shard_takes_no_new_tenants_and_keeps_its_own(self, fleet: House) -> None:
        found = await make(fleet, "stays", shard="main")
        async with fleet.control() as control:
            await shards.close(control, "main")
        assert set(shard_names(await make(fleet, "goes-1", "goes-2", "goes-3"))) == {"second"}
        async with AsyncRouter(fleet.settings) as router, router.tenant_scope("stays"), router.transaction() as conn:
            await conn.execute("INSERT INTO orders (note) VALUES ('x')")
        assert shard_names(found) == ["main"]

    @pytest.mark.parametrize("isolation", ["pooled", "schema", "database"])
    async def test_a_closed_shard_takes_none_by_name_either(self, fleet: House, isolation: str) -> None:
        async with fleet.control() as control:
            await shards.close(control, "main")
            with pytest.raises(NoCapacity, match="the shard 'main' is closed") as caught:
                await tenants.create(control, "refused", isolation=isolation, shard="main")
        assert caught.value.hint == "run 'tenantry shard open main'"
        assert count(fleet, "SELECT count(*) FROM tenants WHERE slug = 'refused'") == 0

    @pytest.mark.parametrize("isolation", ["pooled", "schema", "database"])
    async def test_without_an_open_shard_nothing_is_left_behind(self, fleet: House, isolation: str) -> None:
        run(fleet, "UPDATE shards SET state = 'closed'")
        before = count(fleet, "SELECT count(*) FROM spaces"), count(fleet, "SELECT count(*) FROM tenants")
        with pytest.raises(NoCapacity, match="no open shard"):
            await make(fleet, "nowhere", isolation=isolation)
        assert (count(fleet, "SELECT count(*) FROM spaces"), count(fleet, "SELECT count(*) FROM tenants")) == before

    async def test_a_slug_and_a_key_are_free_again_when_there_was_no_place(self, fleet: House) -> None:
        run(fleet, "UPDATE shards SET state = 'closed'")
        with pytest.raises(NoCapacity):
            await make(fleet, "later", key=4711)
        run(fleet, "UPDATE shards SET state = 'open'")
        assert [each.key for each in await make(fleet, "later", key=4711)] == [4711]

    @pytest.mark.parametrize("isolation", ["pooled", "schema", "database"])
    async def test_a_dedicated_shard_takes_tenants_by_name_only(self, fleet: House, isolation: str) -> None:
        run(fleet, "UPDATE shards SET dedicated = true WHERE name = 'second'")
        slugs = [f"{name}-{isolation}" for name in ("any-1", "any-2", "any-3")]
        assert set(shard_names(await make(fleet, *slugs, isolation=isolation))) == {"main"}
        named = await make(fleet, f"named-{isolation}", isolation=isolation, shard="second")
        assert shard_names(named) == ["second"]

    async def test_an_unknown_shard_is_refused_before_anything_is_put_down(self, fleet: House) -> None:
        before = count(fleet, "SELECT count(*) FROM operations")
        with pytest.raises(ShardNotFound):
            await make(fleet, "unplaced", shard="third")
        assert count(fleet, "SELECT count(*) FROM operations") == before


class TestWarm:
    async def test_a_ready_home_is_claimed_without_any_ddl(self, fleet: House) -> None:
        """An event trigger in the pooled database refuses DDL; the databases of the server are counted."""
        await warm_up(fleet, "schema", 1)
        with pooled(fleet) as database:
            database.execute(
                "CREATE FUNCTION no_ddl() RETURNS event_trigger LANGUAGE plpgsql AS"
                " $$ BEGIN RAISE 'DDL on the request path: %', tg_tag; END $$"
            )
            database.execute("CREATE EVENT TRIGGER no_ddl ON ddl_command_start EXECUTE FUNCTION no_ddl()")
        try:
            [tenant] = await make(fleet, "quick-schema", isolation="schema", shard="main")
        finally:
            with pooled(fleet) as database:
                database.execute("SET event_triggers = off") if database.info.server_version >= 170000 else None
                database.execute("DROP EVENT TRIGGER no_ddl")
                database.execute("DROP FUNCTION no_ddl()")
        assert tenant.placement
        assert tenant.placement.isolation is Isolation.SCHEMA

    async def test_a_ready_database_is_claimed_without_making_one(self, fleet: House) -> None:
        await warm_up(fleet, "database", 1)
        before = databases(fleet)
        [tenant] = await make(fleet, "quick-database", isolation="database", shard="main")
        assert databases(fleet) == before
        assert tenant.placement
        assert tenant.placement.database in before

    @pytest.mark.parametrize("isolation", ["schema", "database"])
    async def test_many_at_once_never_claim_the_same_home(self, fleet: House, isolation: str) -> None:
        await warm_up(fleet, isolation, 2)  # on each of two shards, so half of the tenants find one
        jobs = [{"slug": f"crowd-{isolation}-{n}", "isolation": isolation} for n in range(8)]
        found = await at_once(fleet, *jobs)
        assert not [each for each in found if isinstance(each, Exception)]
        places = Counter(zip(shard_names(found), homes(found), strict=True))
        assert len(places) == len(jobs)
        assert count(fleet, "SELECT count(*) FROM spaces WHERE state = 'ready'") == 2

    async def test_many_at_once_in_one_process_do_not_get_into_each_others_way(self, fleet: House) -> None:
        await warm_up(fleet, "schema", 2)
        async with fleet.control() as control:
            jobs = [
                tenants.create(control, f"task-{n}", isolation=level) for n, level in enumerate(list(Isolation) * 5)
            ]
            found = await asyncio.gather(*jobs)
        assert len({tenant.key for tenant in found}) == 15

    async def test_a_worker_refills_what_was_claimed(self, fleet: House) -> None:
        await warm_up(fleet, "schema", 1)
        await make(fleet, "claims-1", isolation="schema", shard="main")
        async with fleet.control() as control:
            assert await houses.work(control) == 1
            assert await houses.work(control) == 0
        assert warm(fleet) == {"main": 1, "second": 1}

    async def test_each_open_shard_has_a_pool_but_dedicated_ones(self, fleet: House) -> None:
        run(fleet, "UPDATE shards SET dedicated = true WHERE name = 'second'")
        await warm_up(fleet, "database", 2)
        assert warm(fleet) == {"main": 2}
        run(fleet, "UPDATE shards SET dedicated = false, state = 'closed' WHERE name = 'second'")
        async with fleet.control() as control:
            assert await houses.refill(control) == 0
        run(fleet, "UPDATE shards SET state = 'open'")
        async with fleet.control() as control:
            assert await houses.refill(control) == 2

    async def test_a_dedicated_shard_s_ready_homes_are_not_given_to_others(self, fleet: House) -> None:
        await warm_up(fleet, "schema", 1)
        run(fleet, "UPDATE shards SET dedicated = true WHERE name = 'second'")
        assert shard_names(await make(fleet, "o-1", "o-2", isolation="schema")) == ["main", "main"]
        assert warm(fleet) == {"second": 1}

    async def test_workers_that_refill_at_once_build_no_more_than_is_wanted(self, fleet: House) -> None:
        run(fleet, "UPDATE plans SET warm = 3 WHERE isolation = 'schema'")

        async def refill() -> int:
            async with fleet.control() as control:
                return await houses.refill(control)

        assert sum(await asyncio.gather(*(refill() for _ in range(4)))) == 6
        assert warm(fleet) == {"main": 3, "second": 3}

    @pytest.mark.parametrize("isolation", ["schema", "database"])
    async def test_a_home_of_an_older_template_is_not_handed_out(
        self, fleet: House, folder: Path, isolation: str
    ) -> None:
        await warm_up(fleet, isolation, 1)
        table = f"more_{isolation}"
        add_migration(
            folder, f"CREATE TABLE {table} (tenant_id bigint NOT NULL, id bigint, PRIMARY KEY (tenant_id, id));"
        )
        [early] = await make(fleet, f"early-{isolation}", isolation=isolation, shard="main")
        assert has_table(fleet, early, table)
        assert warm(fleet) == {}
        async with fleet.control() as control:
            missing = await houses.missing_homes(control)
        assert sum(missing.values()) == 2
        async with fleet.control() as control:
            assert await houses.migrate(control) == "done"
            assert await houses.behind(control) == []
        assert warm(fleet) == {"main": 1, "second": 1}
        before = count(fleet, "SELECT count(*) FROM spaces")
        [late] = await make(fleet, f"late-{isolation}", isolation=isolation, shard="main")
        assert has_table(fleet, late, table)
        assert count(fleet, "SELECT count(*) FROM spaces") == before

    async def test_a_home_is_not_taken_back_by_a_migration_that_it_was_claimed_in(self, fleet: House) -> None:
        """The migration read that it was ready, and notes its version when somebody lives there."""
        await warm_up(fleet, "schema", 1)
        async with fleet.control() as control, fleet.control() as other:
            run(fleet, "UPDATE spaces SET template = 'older' WHERE state = 'ready'")
            bring_up = control.estate.bring_up

            async def claim_first(space: Any) -> Any:
                run(fleet, "UPDATE spaces SET template = %s WHERE id = %s", control.estate.template.version(), space.id)
                if space.isolation is Isolation.SCHEMA:
                    await tenants.create(other, f"between-{space.id}", isolation="schema", shard=space.shard)
                return await bring_up(space)

            control.estate.bring_up = claim_first  # type: ignore[method-assign]
            await houses.migrate(control)
        assert warm(fleet) == {}


class TestConflicts:
    async def test_one_of_two_that_want_a_slug_at_the_same_moment_gets_it(self, fleet: House) -> None:
        found = await at_once(fleet, *[{"slug": "twins", "isolation": level} for level in ("pooled", "schema")] * 2)
        assert sorted(type(each).__name__ for each in found) == ["SlugTaken"] * 3 + ["Tenant"]

    async def test_one_of_two_that_want_a_key_at_the_same_moment_gets_it(self, fleet: House) -> None:
        found = await at_once(fleet, *[{"slug": f"key-twin-{n}", "key": 31337} for n in range(4)])
        assert sorted(type(each).__name__ for each in found) == ["KeyTaken"] * 3 + ["Tenant"]

    async def test_a_slug_or_key_that_is_taken_is_refused(self, fleet: House) -> None:
        await make(fleet, "mine", key=990_000)
        with pytest.raises(SlugTaken, match="'mine' is taken"):
            await make(fleet, "mine")
        with pytest.raises(KeyTaken, match="'990000' is taken"):
            await make(fleet, "yours", key=990_000)

    async def test_a_batch_is_made_whole_or_not_at_all(self, fleet: House) -> None:
        await make(fleet, "there")
        async with fleet.control() as control:
            with pytest.raises(SlugTaken):
                await tenants.create_many(control, [NewTenant("new-1"), NewTenant("there"), NewTenant("new-2")])
        assert count(fleet, "SELECT count(*) FROM tenants WHERE slug LIKE 'new-_'") == 0


class TestFailures:
    async def test_a_home_that_can_not_be_built_is_undone_and_says_why(self, fleet: House, folder: Path) -> None:
        bad = add_migration(folder, "CREATE TABLE wrong (tenant_id bigint, amount monney);")
        try:
            for isolation in ("schema", "database"):
                with pytest.raises(TenantryError, match='type "monney" does not exist') as caught:
                    await make(fleet, "unlucky", isolation=isolation, shard="main")
                assert str(caught.value.where).startswith("main/")
            assert count(fleet, "SELECT count(*) FROM tenants WHERE slug = 'unlucky'") == 0
        finally:
            bad.unlink()
        async with fleet.control() as control:
            await houses.migrate(control)

    @pytest.mark.parametrize("isolation", ["schema", "database"])
    async def test_a_process_that_does_not_know_the_template_makes_no_homes_without_tables(
        self, fleet: House, isolation: str
    ) -> None:
        settings = fleet.control_settings.model_copy(update={"template": None})
        async with Control(settings) as control:
            with pytest.raises(InvalidSettings, match="setting 'template' is missing"):
                await tenants.create(control, "bare", isolation=isolation)
            with pytest.raises(InvalidSettings, match="setting 'template' is missing"):
                await houses.migrate(control)

    async def test_a_pool_that_can_not_be_refilled_does_not_stop_the_worker(self, fleet: House, folder: Path) -> None:
        bad = add_migration(folder, "SELECT 1 / 0;")
        run(fleet, "UPDATE plans SET warm = 1 WHERE isolation = 'schema'")
        try:
            async with fleet.control() as control:
                with pytest.raises(OperationFailed, match="division by zero"):
                    await houses.refill(control)
                assert await houses.work(control) == 0
        finally:
            bad.unlink()
        assert warm(fleet) == {}

    async def test_a_database_that_has_not_heard_of_a_plan_is_told(self, fleet: House) -> None:
        run(fleet, "INSERT INTO plans (name, isolation) VALUES ('unheard', 'pooled')")
        assert [each.plan for each in await make(fleet, "first-heard", plan="unheard", shard="main")] == ["unheard"]
        async with fleet.control() as control:
            await control.estate.inform_all()


def pooled(house: House) -> Any:
    with catalog(house) as conn:
        row = conn.execute(
            "SELECT admin_dsn, database FROM spaces JOIN shards ON name = shard"
            " WHERE isolation = 'pooled' AND shard = 'main'"
        ).fetchone()
    assert row is not None
    return shard_database(row["admin_dsn"], row["database"])


def databases(house: House) -> set[str]:
    with pooled(house) as conn:
        return {row["datname"] for row in conn.execute("SELECT datname FROM pg_database").fetchall()}


def warm(house: House) -> dict[str, int]:
    """The homes that can be handed out, by shard."""
    version = parse_template(house.control_settings.template).version()
    with catalog(house) as conn:
        rows = conn.execute(
            "SELECT shard, count(*) FROM spaces WHERE state = 'ready' AND isolation <> 'pooled' AND template = %s"
            " GROUP BY shard",
            (version,),
        ).fetchall()
    return {row["shard"]: row["count"] for row in rows}


def has_table(house: House, tenant: Tenant, name: str) -> bool:
    assert tenant.placement
    with catalog(house) as conn:
        row = conn.execute("SELECT admin_dsn FROM shards WHERE name = %s", (tenant.placement.shard,)).fetchone()
    assert row is not None
    with shard_database(row["admin_dsn"], tenant.placement.database) as conn:
        query = "SELECT to_regclass(format('%%I.%%I', %s::text, %s::text)) IS NOT NULL AS there"
        found = conn.execute(query, (tenant.placement.schema, name)).fetchone()
    return bool(found and found["there"])
