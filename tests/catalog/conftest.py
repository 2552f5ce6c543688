"""A catalog with a few tenants, its application's login, and views of it that say what happens to them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, LiteralString
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import sql

from tenantry.catalog.store import SCHEMA, CatalogStore
from tenantry.catalog.view import CatalogView
from tenantry.catalog.view_async import AsyncCatalogView
from tenantry.postgres.server import LocalServer
from tests.fixtures.servers import Database, fresh_database

LISTENING, LOST = "listening", "lost"
PATIENCE = 30

_SETUP = """
INSERT INTO house (key_type, tenant_column, app_schema) VALUES ('bigint', 'tenant_id', 'public');
INSERT INTO plans (name, isolation) VALUES ('free', 'pooled'), ('business', 'schema');
INSERT INTO shards (name, dsn, admin_dsn, binding)
  VALUES ('main', 'host=db', 'host=db user=root password=hunter2', 'sealed');
INSERT INTO credentials (shard, role, password)
  VALUES ('main', 'tenantry_app', 'app password'), ('main', 'tenantry_admin', 'admin password');
INSERT INTO spaces (shard, database, schema, isolation, state) VALUES ('main', 'app', 'public', 'pooled', 'ready');
INSERT INTO signing_keys (kid, key, state, not_after) VALUES
  ('k0', sha256('k0'), 'retiring', now() + '1 day'), ('k1', sha256('k1'), 'active', now() + '90 days'),
  ('k2', sha256('k2'), 'pending', now() + '90 days');
"""


@dataclass
class Catalog:
    """A catalog in a database of its own.

    Attributes:
        login: the application's.
    """

    database: Database
    login: str = field(default_factory=lambda: f"reader_{uuid4().hex[:8]}")
    password: str = field(default_factory=lambda: uuid4().hex)

    @property
    def dsn(self) -> str:
        """How an application connects."""
        return self.database.dsn(self.login, tcp=True, password=self.password)

    def run(self, query: LiteralString, *parameters: Any, quietly: bool = False) -> list[Any]:
        """Run a statement as the one who owns the catalog.

        Args:
            quietly: nobody is told: as if the notification were lost.
        """
        options = f"-c search_path={SCHEMA}" + (" -c session_replication_role=replica" if quietly else "")
        with self.database.connect(options=options) as conn:
            cursor = conn.execute(query, parameters)
            return cursor.fetchall() if cursor.description else []

    def add_tenant(self, slug: str, key: int | None = None) -> UUID:
        """A tenant that lives in the pooled space."""
        [(tenant,)] = self.run(
            "WITH t AS (INSERT INTO tenants (key, slug, name, plan, state)"
            " VALUES (coalesce(%s, nextval('tenant_keys')::text), %s, %s, 'free', 'active') RETURNING id)"
            " INSERT INTO placements (tenant, space, epoch) SELECT t.id, s.id, 1 FROM t, spaces s RETURNING tenant",
            str(key) if key is not None else None,
            slug,
            slug.title(),
        )
        assert isinstance(tenant, UUID)
        return tenant

    def end_sessions(self, name: str = "tenantry%") -> int:
        """End the sessions of applications; how many there were."""
        ended = self.run(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND usename = %s AND application_name LIKE %s",
            self.login,
            name,
        )
        return len(ended)


def build(database: Database) -> Catalog:
    """Migrate an empty database and fill in a fleet; tenants are for the tests to add."""

    async def migrate() -> None:
        await CatalogStore(database.dsn()).migrate()

    asyncio.run(migrate())
    catalog = Catalog(database)
    catalog.run(_SETUP)
    with database.connect() as conn:
        query = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {} IN ROLE tenantry_library")
        conn.execute(query.format(sql.Identifier(catalog.login), sql.Literal(catalog.password)))
    return catalog


def drop_login(catalog: Catalog) -> None:
    """Logins belong to the server, not to the database."""
    with psycopg.connect(catalog.database.server.dsn(), autocommit=True) as conn:
        conn.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(catalog.login)))


@pytest.fixture(scope="module")
def catalog(server: LocalServer) -> Iterator[Catalog]:
    """A catalog without tenants, shared by the tests of a module: each adds its own."""
    with fresh_database(server) as database:
        made = build(database)
        yield made
    drop_login(made)


@pytest.fixture
def slug(catalog: Catalog) -> str:
    """A tenant of the test's own."""
    made = f"tenant-{uuid4().hex[:8]}"
    catalog.add_tenant(made)
    return made


class Events:
    """What a view hears, in order, each after the view has acted on it. Made before the view is opened."""

    def __init__(self, view: CatalogView | AsyncCatalogView) -> None:
        self._queue: SimpleQueue[str] = SimpleQueue()
        heard, listening = view._heard, view._listening

        def hear(payload: str) -> None:
            heard(payload)
            self._queue.put(payload)

        def come_and_go(there: bool) -> None:
            listening(there)
            self._queue.put(LISTENING if there else LOST)

        vars(view).update(_heard=hear, _listening=come_and_go)

    def wait_for(self, *events: str) -> None:
        """Wait until each of these has come, in this order; others may come between."""
        for event in events:
            while self._queue.get(timeout=PATIENCE) != event:
                pass


@dataclass(frozen=True)
class AsyncSeen:
    """An open view that listens, and what happens to it."""

    catalog: Catalog
    view: AsyncCatalogView
    events: Events


@dataclass(frozen=True)
class Seen:
    """The same for threads."""

    catalog: Catalog
    view: CatalogView
    events: Events


@pytest.fixture
async def seen_async(catalog: Catalog, anyio_backend: str) -> AsyncIterator[AsyncSeen]:
    """For tests that have a twin; the twin's is :func:`seen`."""
    view = AsyncCatalogView(catalog.dsn)
    events = Events(view)
    await view.open()
    events.wait_for(LISTENING)
    yield AsyncSeen(catalog, view, events)
    await view.close()


@pytest.fixture
def seen(catalog: Catalog) -> Iterator[Seen]:
    """For the twins of async tests."""
    view = CatalogView(catalog.dsn)
    events = Events(view)
    view.open()
    events.wait_for(LISTENING)
    yield Seen(catalog, view, events)
    view.close()
