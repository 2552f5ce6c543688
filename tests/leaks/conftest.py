"""A house on a server that tells all: every statement with its parameters, in the log and in pg_stat_statements."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import text

from tenantry import AsyncRouter, Router, Tenant
from tenantry.errors import TenantryError
from tenantry.integrations.asyncpg import create_pool
from tenantry.integrations.sqlalchemy import create_async_engine
from tenantry.model import Mode
from tenantry.perimeter.token import Signer
from tenantry.postgres.connect import parse_dsn
from tenantry.postgres.server import THROWAWAY, LocalServer
from tenantry.service import house as houses
from tenantry.service import key as keys
from tenantry.service import shard as shards
from tenantry.service import tenant as tenants
from tenantry.service.control import Control
from tenantry.settings import Settings
from tests.fixtures.house import TEMPLATE

TALKATIVE = {
    "log_connections": "on",
    "log_error_verbosity": "verbose",
    "log_min_duration_statement": "0",
    "log_min_messages": "debug1",
    "log_parameter_max_length": "-1",
    "log_parameter_max_length_on_error": "-1",
    "log_replication_commands": "on",
    "log_statement": "all",
    "pg_stat_statements.track": "all",
    "shared_preload_libraries": "pg_stat_statements",
}
SLUGS = {"acme": "pooled", "globex": "schema", "initech": "database"}
VALUE = "the value of one tenant alone"


@dataclass
class Confession:
    """A house that has lived for a while, what is secret in it, and where its server has written.

    Attributes:
        secrets: by name, each in every form in which it might be written.
        lines: what Python has logged meanwhile, at its most talkative.
    """

    server: LocalServer
    control_settings: Settings
    settings: Settings
    secrets: dict[str, set[str]] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)

    def log(self) -> str:
        """What the server has logged."""
        return Path(self.server.directory, "server", "log").read_text("utf-8", "replace")

    def found_in(self, text: str) -> dict[str, str]:
        """Which secrets stand in a text, each with its surroundings."""
        found = {}
        for name, forms in self.secrets.items():
            for form in forms:
                if (place := text.find(form)) >= 0:
                    found[name] = text[max(0, place - 150) : place + len(form)]
        return found


def forms(secret: str | bytes) -> set[str]:
    """How a secret may be written."""
    if isinstance(secret, str):
        return {secret}
    return {secret.hex(), repr(secret)[2:-1], secret.decode("latin-1")}


class Everything(logging.Handler):
    """Keeps what is logged, with the errors."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__(logging.NOTSET)
        self.setFormatter(logging.Formatter("%(name)s %(message)s"))
        self.lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@pytest.fixture(scope="module")
def confession() -> Iterator[Confession]:
    with LocalServer(settings={**THROWAWAY, **TALKATIVE}) as server, pytest.MonkeyPatch.context() as patch:
        with psycopg.connect(server.dsn(), autocommit=True) as conn:
            conn.execute("CREATE EXTENSION pg_stat_statements")
        dsn = server.dsn("catalog_confession", tcp=True)
        settings = Settings(catalog=dsn, control=dsn, template=f"sql:{TEMPLATE}", shared_tables=("countries",))
        told = Confession(server, settings, settings)
        tokens = told.secrets.setdefault("a token", set())
        mint = Signer.mint

        def noted(self: Signer, *arguments: Any, **claims: Any) -> str:
            token = mint(self, *arguments, **claims)
            tokens.add(token)
            return token

        patch.setattr(Signer, "mint", noted)
        handler = Everything(told.lines)
        loggers = [logging.getLogger(name) for name in (None, "psycopg", "psycopg.pool", "tenantry")]
        before = [(logger, logger.level, logger.propagate) for logger in loggers]  # commands make them quiet
        for logger in loggers:
            logger.setLevel(logging.DEBUG)
            logger.propagate = True
        logging.getLogger().addHandler(handler)
        try:
            made = asyncio.run(live(told))
            told.settings = Settings(catalog=told.secrets["the catalog's DSN"].copy().pop())
            work(told, made)
            asyncio.run(work_with_others(told, made))
        finally:
            logging.getLogger().removeHandler(handler)
            for logger, level, propagates in before:
                logger.setLevel(level)
                logger.propagate = propagates
        yield told


async def live(told: Confession) -> list[Tenant]:
    """What operators do."""
    await houses.create_database(told.control_settings.control_dsn)
    async with Control(told.control_settings, actor="test") as control:
        first = await houses.init(control)
        assert first.catalog_dsn is not None
        await shards.add(control, "main", told.server.dsn(tcp=True), database="app_confession")
        made = [await tenants.create(control, slug, isolation=level) for slug, level in SLUGS.items()]
        await keys.rotate(control)
        library = await houses.renew_login(control)
        passwords = {password(first.catalog_dsn), password(library)}
        rows = await control.store.fetch("credentials", ("main",))
        passwords |= {row["password"] for row in rows}
        told.secrets["a login's password"] = passwords
        told.secrets["the superuser's password"] = {password(told.server.dsn(tcp=True))}
        told.secrets["a signing key"] = {
            form for row in await control.store.fetch("keys") for form in forms(row["key"])
        }
        told.secrets["the catalog's DSN"] = {library}
    return made


async def work_with_others(told: Confession, made: list[Tenant]) -> None:
    """The same with other drivers and with an ORM's engine that shows what it does."""
    async with AsyncRouter(told.settings) as router:
        pool, engine = create_pool(router), create_async_engine(router, echo=False)
        for tenant in made:
            async with pool.transaction(tenant) as conn:
                assert await conn.fetchval("SELECT count(*) FROM orders WHERE note = $1", VALUE) == 1
            async with router.tenant_scope(tenant), engine.begin() as connection:
                await connection.execute(text("SELECT * FROM orders WHERE note = :note"), {"note": VALUE})
        await engine.dispose()


def password(dsn: str) -> str:
    return str(parse_dsn(dsn)["password"])


def work(told: Confession, made: list[Tenant]) -> None:
    """What applications do."""
    with Router(told.settings) as router:
        for tenant in made:
            with router.transaction(tenant) as conn:
                conn.execute("INSERT INTO orders (note) VALUES (%s)", (VALUE,))
                conn.execute("SELECT * FROM orders WHERE note = %s", (VALUE,), prepare=True)
            with router.transaction(tenant, mode=Mode.READ_ONLY) as conn:
                conn.execute("SELECT 1")
        gone = made[0].placement
        assert gone is not None
        with psycopg.connect(told.server.dsn(gone.database), autocommit=True) as root:
            root.execute("UPDATE tenantry.residents SET state = 'moved'")
            for tenant in made:
                try:
                    with router.transaction(tenant):
                        pass
                except TenantryError:
                    pass
            root.execute("UPDATE tenantry.residents SET state = 'open'")
