"""While a fleet is upgraded, processes of this version work on a catalog that a later version has migrated already."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from threading import Thread

import pytest

from tenantry import Router, Tenant
from tenantry.catalog.store import SCHEMA
from tenantry.catalog.view import CatalogView
from tenantry.errors import ServerUnsuitable
from tenantry.model import TenantState
from tenantry.postgres.migrate import Migration
from tenantry.postgres.server import LocalServer
from tenantry.service import tenant as tenants
from tests.catalog.conftest import LISTENING, Catalog, Events, build, drop_login
from tests.fixtures.house import House
from tests.fixtures.servers import fresh_database
from tests.upgrade.catalogs import MIGRATIONS, apply

LATER = Migration(
    len(MIGRATIONS) + 1,
    "later",
    """
    CREATE TABLE regions (name text PRIMARY KEY);
    INSERT INTO regions VALUES ('eu'), ('us');
    ALTER TABLE tenants ADD COLUMN region text NOT NULL DEFAULT 'eu' REFERENCES regions;
    ALTER TABLE plans ADD COLUMN price numeric;
    ALTER TABLE shards ADD COLUMN zone text NOT NULL DEFAULT 'a';
    ALTER TABLE placements ADD COLUMN replica bigint REFERENCES spaces;
    ALTER TABLE operations ADD COLUMN priority int NOT NULL DEFAULT 0;
    ALTER TABLE tenants DROP CONSTRAINT tenants_state_check, ADD CHECK (state <> '');
    CREATE INDEX tenants_region ON tenants (region);
    CREATE OR REPLACE VIEW library_tenants AS
      SELECT t.id, t.key, t.slug, t.name, t.plan, t.state, t.created_at,
             s.shard, s.database, s.schema, s.isolation, p.epoch, t.region
        FROM tenants t LEFT JOIN placements p ON p.tenant = t.id LEFT JOIN spaces s ON s.id = p.space;
    CREATE FUNCTION announce_regions() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
      PERFORM pg_notify('tenantry', 'region ' || NEW.name);
      RETURN NULL;
    END $$;
    CREATE TRIGGER announce AFTER INSERT OR UPDATE ON regions FOR EACH ROW EXECUTE FUNCTION announce_regions();
    """,
)
"""What a later version may do while this one still runs: it adds, and takes nothing away."""


@dataclass
class Window:
    """A catalog, and a view that was opened before the upgrade."""

    catalog: Catalog
    view: CatalogView
    events: Events

    def upgrade(self) -> None:
        """By a process of the later version."""
        assert apply(self.catalog.database.dsn(), [*MIGRATIONS, LATER]) == [LATER.number]


@pytest.fixture
def window(server: LocalServer) -> Iterator[Window]:
    with fresh_database(server) as database:
        catalog = build(database)
        catalog.add_tenant("acme")
        catalog.add_tenant("beta")
        view = CatalogView(catalog.dsn)
        events = Events(view)
        view.open()
        events.wait_for(LISTENING)
        view.fleet()
        yield Window(catalog, view, events)
        view.close()
    drop_login(catalog)


def test_a_process_from_before_the_upgrade_reads_and_hears_as_before(window: Window) -> None:
    catalog, view = window.catalog, window.view
    acme, fleet = view.find("slug", "acme"), view.fleet()
    window.upgrade()
    assert view.find("slug", "acme") is acme
    view.cache.clear()
    view.forget_fleet()
    assert view.find("slug", "acme") == acme
    assert view.find("slug", "beta").state is TenantState.ACTIVE
    assert view.fleet() == fleet
    catalog.run("UPDATE tenants SET plan = 'business' WHERE slug = 'acme'")
    window.events.wait_for(f"tenant {acme.id}")
    assert view.find("slug", "acme").plan == "business"


def test_a_process_that_starts_after_the_upgrade_reads_all_the_same(window: Window) -> None:
    window.upgrade()
    view = CatalogView(window.catalog.dsn)
    assert view.find("slug", "acme") == window.view.find("slug", "acme")
    assert view.fleet() == window.view.fleet()
    view.close()


def test_news_that_only_the_later_version_knows_makes_it_ask_again(window: Window) -> None:
    window.upgrade()
    acme = window.view.find("slug", "acme")
    window.catalog.run("INSERT INTO regions VALUES ('asia')")
    window.events.wait_for("region asia")
    assert len(window.view.cache) == 0
    assert window.view.find("slug", "acme") == acme


def test_a_word_that_only_the_later_version_knows_hits_one_tenant_and_says_what_to_do(window: Window) -> None:
    window.upgrade()
    window.catalog.run("UPDATE tenants SET state = 'archived' WHERE slug = 'beta'")
    with pytest.raises(ServerUnsuitable, match="the catalog says state 'archived'") as caught:
        window.view.find("slug", "beta")
    assert "update Tenantry" in str(caught.value.hint)
    assert window.view.find("slug", "acme").state is TenantState.ACTIVE


def test_what_is_known_is_read_while_the_migration_holds_its_locks(window: Window) -> None:
    acme = window.view.find("slug", "acme")
    with window.catalog.database.connect(options=f"-c search_path={SCHEMA}") as conn, conn.transaction():
        conn.execute(LATER.sql)
        assert window.view.find("slug", "acme") is acme
        assert window.view.fleet().house.tenant_column == "tenant_id"
        waiting = Thread(target=window.view.find, args=("slug", "beta"))
        waiting.start()
    waiting.join(30)
    assert window.view.find("slug", "beta").slug == "beta"


def test_a_control_plane_of_this_version_works_on_but_does_not_migrate(house: House) -> None:
    """The whole way: tenants are made, suspended and used, by this version's processes on the later catalog."""
    dsn = house.control_settings.control_dsn
    assert apply(dsn, [*MIGRATIONS, LATER]) == [LATER.number]

    async def work() -> Tenant:
        async with house.control() as control:
            with pytest.raises(ServerUnsuitable, match="which this version does not know"):
                await control.store.migrate()
            made = await tenants.create(control, "during", isolation="pooled")
            await tenants.suspend(control, "during")
            await tenants.resume(control, "during")
            return made

    made = asyncio.run(work())
    with Router(house.settings) as router, router.tenant_scope("during"), router.transaction() as conn:
        assert conn.execute("SELECT tenantry.current_tenant_v1()").fetchone() == (made.key,)
