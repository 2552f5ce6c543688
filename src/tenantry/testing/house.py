"""The house of the tests: made once, emptied after each test."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Self

import psycopg
from psycopg import sql

from tenantry.errors import Conflict, InvalidInput
from tenantry.model import House, Isolation, Tenant
from tenantry.perimeter.apply import PerimeterPlan, plan_perimeter
from tenantry.postgres import sqlfile
from tenantry.postgres.connect import connect, connect_sync
from tenantry.service import tenant as tenants
from tenantry.service.control import Control
from tenantry.testing.blueprint import SHARD, Blueprint, run_apart
from tenantry.testing.clones import cloned
from tenantry.testing.server import ServerUnderTest

NAMES = ("acme", "globex")

_SQL = sqlfile.load("tenantry.testing", "house.sql")
_LOCK_SECONDS = 5


class TwoTenants(NamedTuple):
    """Two tenants of one house: ``acme, globex = two_tenants``."""

    acme: Tenant
    globex: Tenant


class HouseUnderTest:
    """A house that belongs to tests.

    Attributes:
        settings: for the application.
        control_settings: for operators: ``Control(house.control_settings)``.
        server: where it is.
    """

    def __init__(self, server: ServerUnderTest, blueprint: Blueprint) -> None:
        self.server = server
        self.settings = blueprint.settings(server.library_dsn, None)
        self.control_settings = blueprint.settings(server.library_dsn, server.dsn(server.catalog))
        self.house = House(blueprint.key_type, blueprint.tenant_column, blueprint.app_schema)
        self._connections: dict[str, psycopg.Connection[Any]] = {}
        self._tenants: dict[str, Tenant] = {}

    @classmethod
    @contextmanager
    def open(cls, server: ServerUnderTest, blueprint: Blueprint) -> Iterator[Self]:
        """A house for the length of the block.

        Raises:
            InvalidSettings: the settings hold a wrong value.
            OperationFailed: the application's tables could not be made.
            Conflict: the server belongs to a house that is none of tests.
        """
        house = cls(server, blueprint)
        try:
            if server.is_shared:
                with cloned(server, blueprint, house.control_settings):
                    yield house
            else:
                blueprint.build(house.control_settings, server, server.pooled)
                yield house
        finally:
            house._close()

    def _close(self) -> None:
        while self._connections:
            self._connections.popitem()[1].close()

    def create(self, slug: str, *, isolation: Isolation | str | None = None, **options: Any) -> Tenant:
        """A tenant, made at the first call of the run; later calls return it.

        Args:
            isolation: None: the plan's.
            options: as of ``tenantry.service.tenant.create``: name, key, plan.

        Raises:
            InvalidInput, Conflict: as that function; also if the tenant is there with other values.
        """
        found = self._tenants.get(slug)
        if found is None:

            async def work() -> Tenant:
                async with Control(self.control_settings, actor="pytest") as control:
                    return await tenants.create(control, slug, isolation=isolation, shard=SHARD, **options)

            found = self._tenants[slug] = run_apart(work)
        assert found.placement is not None
        asked = {"isolation": isolation, "plan": None, "name": None, "key": None, **options}
        there = {
            **{name: getattr(found, name) for name in asked if name != "isolation"},
            "isolation": found.placement.isolation,
        }
        for name, value in asked.items():
            if value is not None and value != there[name]:
                raise Conflict(f"{slug!r} is there with {name} {there[name]}", hint="choose another slug")
        return found

    def two_tenants(self, isolation: Isolation | str | Sequence[Isolation | str]) -> TwoTenants:
        """``acme`` and ``globex``. Where they are not pooled their slugs say so: ``acme-schema``.

        Args:
            isolation: of both, or of each.

        Raises:
            InvalidInput: another word, or another number of them.
        """
        levels = [isolation] * 2 if isinstance(isolation, str) else list(isolation)
        if len(levels) != 2:
            hint = "isolation='schema' or isolation=('schema', 'database')"
            raise InvalidInput(f"two tenants live at two levels, not {len(levels)}", hint=hint)
        made = []
        for name, level in zip(NAMES, levels, strict=True):
            slug = name if level == Isolation.POOLED else f"{name}-{level}"
            made.append(self.create(slug, isolation=level, name=name.title()))
        return TwoTenants(*made)

    def root(self, database: str | None = None) -> psycopg.Connection[Any]:
        """A superuser's connection (autocommit); it stays open until the house is gone.

        Args:
            database: None: the pooled one.
        """
        name = database or self.server.pooled
        conn = self._connections.get(name)
        if conn is None or conn.closed:
            conn = self._connections[name] = connect_sync(self.server.dsn(name))
            conn.execute(f"SET lock_timeout = '{_LOCK_SECONDS}s'")
        return conn

    def reset(self) -> None:
        """Delete the rows of all tenants, and let the numbers of their keys start again.

        Raises:
            Conflict: the test has left a transaction open that holds on to rows.
        """
        homes: dict[str, list[str]] = {}
        for database, schema in self.root(self.server.catalog).execute(_SQL["homes"]).fetchall():
            homes.setdefault(database, []).append(schema)
        for database, schemas in homes.items():
            query = sql.SQL(_SQL["empty"]).format(
                column=sql.Literal(self.house.tenant_column), schemas=sql.Literal(schemas)
            )
            try:
                self.root(database).execute(query)
            except psycopg.errors.LockNotAvailable as error:
                raise Conflict(
                    "the rows of a test can't be deleted: it has left a transaction open",
                    where=database,
                    hint="close the sessions and connections that the test opens; a fixture with 'yield' does it",
                ) from error

    def plan(self, database: str, schemas: Sequence[str]) -> PerimeterPlan:
        """What is missing from the wall of a database."""

        async def work() -> PerimeterPlan:
            async with Control(self.control_settings) as control:
                mode = (await control.store.shard(SHARD)).binding
            conn = await connect(self.server.dsn(database))
            try:
                shared = self.control_settings.shared_tables
                return await plan_perimeter(conn, self.house, mode, schemas, shared)
            finally:
                await conn.close()

        return run_apart(work)
