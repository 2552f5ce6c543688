"""Schemas that are built together are as those that are built alone, whatever happens in between."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from tenantry import AsyncRouter
from tenantry.errors import TenantryError
from tenantry.service import house as houses
from tenantry.service import perimeter
from tenantry.service import plan as plans
from tenantry.service import tenant as tenants
from tenantry.service.tenant import NewTenant
from tests.fixtures.house import TEMPLATE, House, MakeHouse
from tests.fixtures.workers import Workers
from tests.operations.invariants import catalog, shard_database, violations
from tests.operations.recovery import recover

pytestmark = pytest.mark.anyio

_numbers = count(1)

# Another one for schemas of a crowd: who builds alike must not believe that all are alike.
UNLIKE = """DO $$ BEGIN
  IF (SELECT count(*) FROM pg_namespace WHERE nspname ~ '^t_') > 5 THEN
    CREATE TABLE secrets (tenant_id bigint NOT NULL, id bigint NOT NULL, PRIMARY KEY (tenant_id, id));
  END IF;
END $$;"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(TEMPLATE, tmp_path_factory.mktemp("template") / "sql"))


@pytest.fixture(scope="module")
def fleet(make_house: MakeHouse, folder: Path) -> House:
    add_migration(folder, UNLIKE)
    return make_house(template=f"sql:{folder}")


@pytest.fixture(autouse=True)
def all_is_as_it_must_be(fleet: House) -> Iterator[None]:
    yield
    assert violations(fleet) == []


def shapes(house: House) -> dict[str, tuple[object, ...]]:
    """What each schema of a tenant has, by its name."""
    with catalog(house) as conn:
        row = conn.execute("SELECT admin_dsn, database FROM spaces JOIN shards ON name = shard").fetchone()
    assert row is not None
    with shard_database(row["admin_dsn"], row["database"]) as conn:
        found = conn.execute(
            "SELECT n.nspname, n.nspacl::text, array_agg(concat_ws(' ', c.relname, c.relkind, c.relrowsecurity,"
            " c.relforcerowsecurity, c.relowner::regrole, c.relacl::text,"
            " (SELECT string_agg(polname, ',' ORDER BY polname) FROM pg_policy WHERE polrelid = c.oid))"
            " ORDER BY c.relname) AS relations FROM pg_namespace n JOIN pg_class c ON c.relnamespace = n.oid"
            " WHERE n.nspname ~ '^t_' AND c.relname !~ 'secrets' GROUP BY n.oid"
        ).fetchall()
    return {each["nspname"]: (each["nspacl"], tuple(each["relations"])) for each in found}


async def test_schemas_that_are_built_together_are_as_one_that_is_built_alone(fleet: House) -> None:
    async with fleet.control() as control:
        await tenants.create(control, "alone", isolation="schema")
        await tenants.create_many(control, [NewTenant(f"together-{n}") for n in range(30)], isolation="schema")
        found = shapes(fleet)
        assert len(found) == 31
        assert len(set(found.values())) == 1
        assert await houses.behind(control) == []
        assert [section.plan.changes for section in await perimeter.check(control) if section.plan.changes] == []
    async with AsyncRouter(fleet.settings) as router:
        for slug in ("alone", "together-0", "together-17"):
            async with router.tenant_scope(slug) as tenant, router.transaction() as conn:
                await conn.execute("INSERT INTO orders (note) VALUES (%s)", (slug,))
                rows = await (await conn.execute("SELECT tenant_id, note FROM orders")).fetchall()
                assert rows == [(tenant.key, slug)]


def add_migration(folder: Path, text: str) -> Path:
    file = folder / f"{len(list(folder.iterdir())) + 1:04}_more.sql"
    file.write_text(text)
    return file


async def test_what_is_wrong_with_one_of_them_is_said(fleet: House, folder: Path) -> None:
    bad = add_migration(folder, "CREATE TABLE wrong (tenant_id bigint, amount monney);")
    try:
        async with fleet.control() as control:
            with pytest.raises(TenantryError, match='type "monney" does not exist') as caught:
                await tenants.create_many(control, [NewTenant(f"bad-{n}") for n in range(5)], isolation="schema")
        assert "/t_" in str(caught.value.where)
    finally:
        bad.unlink()


@pytest.mark.slow
def test_a_worker_that_dies_anywhere_between_is_followed_by_another(fleet: House, workers: Workers) -> None:
    for number in count(1, 13):
        with catalog(fleet) as conn:
            conn.execute("UPDATE spaces SET template = 'other' WHERE state = 'ready' AND isolation <> 'pooled'")
            conn.execute("UPDATE plans SET warm = 6 WHERE name = 'business'")
        outcome = workers.run(fleet, "refill", statement=(number, "kill"))
        recover(fleet)
        with catalog(fleet) as conn:
            query = "SELECT id FROM spaces WHERE state = 'ready' AND isolation = 'schema' AND template <> 'other'"
            assert len(conn.execute(query).fetchall()) == 6
            conn.execute("UPDATE plans SET warm = 0")
        if not outcome.killed:
            break
    assert number > 26


async def test_a_worker_builds_many_in_one_operation(fleet: House) -> None:
    async with fleet.control() as control:
        with catalog(fleet) as conn:
            conn.execute("UPDATE spaces SET template = 'other' WHERE state = 'ready' AND isolation <> 'pooled'")
        await plans.change(control, "business", warm=7)
        before = operations(fleet)
        assert await houses.refill(control) == 7
        assert operations(fleet) == before + 1
        await plans.change(control, "business", warm=0)


def operations(house: House) -> int:
    with catalog(house) as conn:
        return len(conn.execute("SELECT id FROM operations WHERE kind = 'refill'").fetchall())
