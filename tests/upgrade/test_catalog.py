"""The catalog comes out the same whether it was made at once, or made earlier, used, and upgraded."""

from __future__ import annotations

import asyncio

import psycopg
import pytest

from tenantry.catalog.store import CatalogStore
from tenantry.catalog.view import CatalogView
from tenantry.errors import NotFound, TenantNotFound
from tenantry.model import Isolation, KeyType, ShardState, TenantState
from tenantry.postgres.migrate import TABLE
from tests.fixtures.servers import Database, MakeDatabase
from tests.upgrade.catalogs import DATA, MIGRATIONS, apply, dump, fill, rows
from tools.catalog_schema import read, render

LATEST = len(MIGRATIONS)
EARLIER = range(1, LATEST)


def schema(database: Database) -> str:
    with database.connect() as conn:
        return render(read(conn))


@pytest.mark.parametrize("version", [*EARLIER, LATEST])
def test_every_table_of_a_version_has_data_to_be_upgraded(database: Database, version: int) -> None:
    """Or the tests below would prove nothing: who adds a table adds a row in tests/upgrade/data."""
    apply(database.dsn(), MIGRATIONS[:version])
    fill(database, version)
    assert [table for table, found in rows(database).items() if not found] == []


def test_each_file_of_data_belongs_to_a_migration() -> None:
    names = {f"{each.number:04}_{each.name}.sql" for each in MIGRATIONS}
    assert {file.name for file in DATA.iterdir()} <= names


@pytest.mark.parametrize("version", EARLIER)
def test_an_upgrade_from_any_version_gives_the_same_schema_and_keeps_the_data(
    make_database: MakeDatabase, version: int
) -> None:
    fresh, old = make_database(), make_database()
    apply(fresh.dsn(), MIGRATIONS)
    assert apply(old.dsn(), MIGRATIONS[:version]) == list(range(1, version + 1))
    fill(old, version)
    before = rows(old)
    assert apply(old.dsn(), MIGRATIONS) == list(range(version + 1, LATEST + 1))
    assert schema(old) == schema(fresh)
    after = rows(old)
    for table, expected in before.items():
        known = [{name: row[name] for name in expected[0]} for row in after[table]]  # later ones may have more columns
        assert sorted(known, key=repr) == expected


def test_an_upgrade_one_version_at_a_time_gives_the_same_schema(make_database: MakeDatabase) -> None:
    fresh, old = make_database(), make_database()
    apply(fresh.dsn(), MIGRATIONS)
    for version in (*EARLIER, LATEST):
        assert apply(old.dsn(), MIGRATIONS[:version]) == [version]
    assert schema(old) == schema(fresh)
    assert apply(old.dsn(), MIGRATIONS) == []


@pytest.mark.parametrize("version", EARLIER)
def test_pg_dump_sees_no_difference_either(make_database: MakeDatabase, version: int) -> None:
    fresh, old = make_database(), make_database()
    apply(fresh.dsn(), MIGRATIONS)
    apply(old.dsn(), MIGRATIONS[:version])
    fill(old, version)
    apply(old.dsn(), MIGRATIONS)
    assert dump(old) == dump(fresh)


@pytest.mark.parametrize("version", [*EARLIER, LATEST])
def test_what_was_there_before_is_read_by_this_version(database: Database, version: int) -> None:
    apply(database.dsn(), MIGRATIONS[:version])
    fill(database, version)
    apply(database.dsn(), MIGRATIONS)
    view = CatalogView(database.dsn())
    fleet = view.fleet()
    assert (fleet.house.key_type, fleet.house.tenant_column) == (KeyType.TEXT, "org_id")
    assert fleet.plan("free").limits == {"lock_timeout": "5s"}
    assert fleet.shard("big-one").state is ShardState.CLOSED
    assert fleet.logins["main"].role == "tenantry_app"
    assert fleet.signing_key().kid == "k2"
    acme, umlaut, big = (view.find("slug", slug) for slug in ("acme", "umlaut", "big"))
    assert acme == view.find("domain", "acme.example") == view.find("key", "acme")
    assert acme.placement is not None
    assert acme.placement.isolation is Isolation.POOLED
    assert (umlaut.key, umlaut.state) == ("Ünï 🎉", TenantState.SUSPENDED)
    assert big.placement is not None
    assert (big.placement.shard, big.placement.epoch) == ("big-one", 2)
    with pytest.raises(TenantNotFound):
        view.find("slug", "gone")
    view.close()
    assert asyncio.run(stored(database)) == (acme.id, "enterprise", "org_id")
    with database.connect() as conn:  # numbers go on where they were
        assert conn.execute("SELECT nextval('tenantry_catalog.tenant_keys')").fetchone() == (42,)


async def stored(database: Database) -> tuple[object, str, str]:
    """What the control plane reads."""
    async with CatalogStore(database.dsn()) as store:
        tenant, plan, house = await store.tenant("acme"), await store.plan("enterprise"), await store.house()
        return tenant.id, plan.name, house.tenant_column


@pytest.mark.parametrize("version", [1, 2], ids=["no operations, no views", "no views"])
def test_a_catalog_that_has_not_been_upgraded_yet_is_named_as_such(database: Database, version: int) -> None:
    apply(database.dsn(), MIGRATIONS[:version])
    fill(database, version)
    view = CatalogView(database.dsn())
    with pytest.raises(NotFound, match="older than this version") as caught:
        view.open()
    assert "tenantry init" in str(caught.value.hint)
    view.close()


def test_the_audit_log_can_not_be_emptied_at_any_version(database: Database) -> None:
    apply(database.dsn(), MIGRATIONS[:1])
    fill(database, 1)
    for version in range(1, LATEST + 1):
        apply(database.dsn(), MIGRATIONS[:version])
        with database.connect() as conn, pytest.raises(psycopg.errors.InsufficientPrivilege):
            conn.execute("TRUNCATE tenantry_catalog.audit_log")
        with database.connect() as conn:
            assert conn.execute(f"SELECT count(*) FROM tenantry_catalog.{TABLE}").fetchone() == (version,)
