"""A house whose shard has a replica: a real standby that replays what the primary streams."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tenantry import Router
from tenantry.model import Tenant
from tenantry.postgres.server import THROWAWAY, LocalServer
from tenantry.service import house as houses
from tenantry.service import plan as plans
from tenantry.service import replica as replicas
from tenantry.service import shard as shards
from tenantry.service import tenant as tenants
from tenantry.service.control import Control
from tenantry.settings import Settings
from tests.fixtures.house import TEMPLATE
from tests.fixtures.standby import make_standby

SLUGS = ("reader", "other", "homebody")


@dataclass
class Replicated:
    """``reader`` and ``other`` have a plan that reads from replicas, ``homebody`` has not."""

    control_settings: Settings
    settings: Settings
    primary: LocalServer
    standby: LocalServer

    def control(self) -> Control:
        return Control(self.control_settings, actor="test")

    def run(self, verb: Any) -> Any:
        """Run ``verb(control)`` from a test that is not async."""

        async def run() -> Any:
            async with self.control() as control:
                return await verb(control)

        return asyncio.run(run())

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The standby receives, but replays nothing."""
        with psycopg.connect(self.standby.dsn(), autocommit=True) as conn:
            conn.execute("SELECT pg_wal_replay_pause()")
            while conn.execute("SELECT pg_get_wal_replay_pause_state()").fetchone() != ("paused",):
                time.sleep(0)
            try:
                yield
            finally:
                conn.execute("SELECT pg_wal_replay_resume()")

    def catch_up(self) -> None:
        """Wait until the standby has replayed all."""
        with psycopg.connect(self.primary.dsn(), autocommit=True) as conn:
            lsn = conn.execute("SELECT pg_current_wal_insert_lsn()").fetchone()
        with psycopg.connect(self.standby.dsn(), autocommit=True) as conn:
            while conn.execute("SELECT pg_last_wal_replay_lsn() >= %s", lsn).fetchone() != (True,):
                time.sleep(0)


def is_standby(router: Router, slug: str, **options: Any) -> bool:
    """Whether a read of a tenant is answered by the replica."""
    with router.tenant_scope(slug, mode="ro", **options), router.transaction() as conn:
        row = conn.execute("SELECT pg_is_in_recovery()").fetchone()
    assert row is not None
    return bool(row[0])


def notes(router: Router, slug: str, **options: Any) -> list[str]:
    """What a read of a tenant finds."""
    with router.tenant_scope(slug, mode="ro", **options), router.transaction() as conn:
        return [note for (note,) in conn.execute("SELECT note FROM orders ORDER BY id")]


def write(router: Router, slug: str, note: str) -> None:
    """One commit."""
    with router.tenant_scope(slug), router.transaction() as conn:
        conn.execute("INSERT INTO orders (note) VALUES (%s)", (note,))


def build(primary: LocalServer, standby: LocalServer, binding: str | None) -> Replicated:
    """A catalog and a shard on the primary; its tenants; a replica ``r1``."""
    dsn = primary.dsn("tenantry_catalog", tcp=True)
    settings = Settings(catalog=dsn, control=dsn, template=f"sql:{TEMPLATE}", shared_tables=("countries",))

    async def make() -> str:
        await houses.create_database(dsn)
        async with Control(settings, actor="test") as control:
            made = await houses.init(control)
            await shards.add(control, "main", primary.dsn(tcp=True), database="app", binding=binding)
            await replicas.add(control, "main", "r1", f"host=127.0.0.1 port={standby.port}")
            await plans.create(control, "reading", replica_seconds=600)
            for slug in SLUGS:
                plan = "free" if slug == "homebody" else "reading"
                await tenants.create(control, slug, plan=plan)
        assert made.catalog_dsn
        return made.catalog_dsn

    return Replicated(settings, Settings(catalog=asyncio.run(make())), primary, standby)


@contextmanager
def replicated_house(binding: str | None = None) -> Iterator[Replicated]:
    """A house of its own."""
    folder = Path(tempfile.mkdtemp(prefix="tenantry-test-"))
    folder.chmod(0o711)
    try:
        with LocalServer(folder / "one", settings=THROWAWAY) as primary:
            standby = make_standby(primary, folder / "two")
            try:
                yield build(primary, standby, binding)
            finally:
                standby.stop("immediate")
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def replicated() -> Iterator[Replicated]:
    """One for the module."""
    with replicated_house() as made:
        made.catch_up()
        yield made


@pytest.fixture
def router(replicated: Replicated) -> Iterator[Router]:
    """A router that knows where the primary's log is."""
    replicated.catch_up()
    with Router(replicated.settings) as made:
        for slug in ("reader", "other"):
            notes(made, slug)
        yield made


def tenant(router: Router, slug: str) -> Tenant:
    """As the router knows it."""
    return router.find(slug)
