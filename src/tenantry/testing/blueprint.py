"""How the house of the tests is made."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, TypeVar

import pytest
from psycopg import sql
from pydantic import SecretStr

from tenantry.errors import InvalidInput
from tenantry.model import KeyType, shown
from tenantry.placements.template import parse_template
from tenantry.postgres.connect import connect_sync, parse_dsn
from tenantry.postgres.discretion import verifier
from tenantry.service import house as houses
from tenantry.service import shard as shards
from tenantry.service.control import Control
from tenantry.settings import Settings, load
from tenantry.testing.server import ServerUnderTest

SHARD = "main"

T = TypeVar("T")


@dataclass(frozen=True)
class Blueprint:
    """What the ini file says of the house; what it does not say, ``tenantry.toml`` and the environment do."""

    template: str | None
    shared_tables: tuple[str, ...] | None
    key_type: KeyType
    tenant_column: str
    app_schema: str

    @classmethod
    def of(cls, config: pytest.Config) -> Blueprint:
        """From pytest's ini file.

        Raises:
            InvalidInput: it names another type of keys.
        """
        name = config.getini("tenantry_key_type")
        if name not in [each.value for each in KeyType]:
            raise InvalidInput(f"{shown(name)} is not a type of keys", hint="use bigint, uuid or text")
        return cls(
            template=config.getini("tenantry_template") or None,
            shared_tables=tuple(config.getini("tenantry_shared_tables")) or None,
            key_type=KeyType(name),
            tenant_column=config.getini("tenantry_tenant_column"),
            app_schema=config.getini("tenantry_app_schema"),
        )

    def settings(self, catalog: str, control: str | None) -> Settings:
        """The settings of a process of the house.

        Raises:
            InvalidSettings: ``tenantry.toml`` or the environment holds a wrong value.
        """
        given: dict[str, Any] = {"catalog": catalog, "control": control}
        if self.template is not None:
            given["template"] = self.template
        if self.shared_tables is not None:
            given["shared_tables"] = self.shared_tables
        return load(**given)

    def fingerprint(self, settings: Settings) -> str:
        """A word that changes when the house would."""
        tables = parse_template(settings.template).version()
        parts = (tables, *settings.shared_tables, self.key_type, self.tenant_column, self.app_schema)
        return hashlib.sha256("\0".join((version("tenantry"), *parts)).encode()).hexdigest()[:8]

    def build(self, settings: Settings, server: ServerUnderTest, database: str, *, take_over: bool = False) -> None:
        """Make a house: its catalog, one shard with this pooled database, the application's tables, the wall.

        Raises:
            OperationFailed: the application's tables could not be made.
            Conflict: the server belongs to a house that is none of tests.
        """

        async def work() -> None:
            await houses.create_database(settings.control_dsn)
            async with Control(settings, actor="pytest") as control:
                await houses.init(
                    control, key_type=self.key_type, tenant_column=self.tenant_column, app_schema=self.app_schema
                )
                await shards.add(control, SHARD, server.root, database=database, take_over=take_over)

        run_apart(work)
        _set_password(server)

    def adopt(self, settings: Settings, database: str) -> None:
        """Do for the copy of a house what PostgreSQL does not copy: grants on the databases themselves."""

        async def work() -> None:
            async with Control(settings, actor="pytest") as control:
                await houses.create_database(settings.control_dsn)
                await houses.init(
                    control, key_type=self.key_type, tenant_column=self.tenant_column, app_schema=self.app_schema
                )
                await control.estate.wall(SHARD, database, [self.app_schema])

        run_apart(work)


def pointed(settings: Settings, control: str) -> Settings:
    """The same settings for another catalog."""
    return settings.model_copy(update={"control": SecretStr(control)})


def run_apart(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine in a thread without a tenant: the test may be in a loop of its own, and in a scope."""
    with ThreadPoolExecutor(1, thread_name_prefix="tenantry-test") as executor:
        return executor.submit(Context().run, asyncio.run, work()).result()


def _set_password(server: ServerUnderTest) -> None:
    login = parse_dsn(server.library_dsn)
    query = sql.SQL("ALTER ROLE {} PASSWORD {}")
    with connect_sync(server.dsn("postgres")) as conn:
        secret = verifier(conn, login["user"], login["password"])
        conn.execute(query.format(sql.Identifier(login["user"]), sql.Literal(secret)))
