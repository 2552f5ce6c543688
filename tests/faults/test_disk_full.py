"""A shard's disk is full while tenants are taken in: the operation stops, and goes on when there is space again."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from tenantry import Router
from tenantry.errors import OperationFailed, TenantNotReady
from tenantry.postgres.server import THROWAWAY, LocalServer
from tenantry.service import house as houses
from tenantry.service import shard as shards
from tenantry.service import tenant as tenants
from tenantry.service.control import Control
from tenantry.settings import Settings
from tests.fixtures.house import TEMPLATE, House
from tests.operations.invariants import catalog, violations
from tests.operations.recovery import expire, recover

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

MEGABYTES = 160
SETTINGS = {**THROWAWAY, "max_wal_size": "32MB", "min_wal_size": "32MB", "wal_recycle": "off"}


@dataclass
class Disk:
    """A small disk, a shard on it, and what fills the rest."""

    house: House
    shard: LocalServer
    folder: Path

    def fill(self, left: int) -> None:
        """Leave so many kilobytes."""
        with psycopg.connect(self.shard.dsn(), autocommit=True) as conn:
            conn.execute("CHECKPOINT")
        free = shutil.disk_usage(self.folder).free - left * 1024
        with (self.folder / "ballast").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, free)

    def empty(self) -> None:
        """Make space, and start the server if the want of it has ended it."""
        (self.folder / "ballast").unlink(missing_ok=True)
        self.shard.start()


@pytest.fixture(scope="module")
def small() -> Iterator[Path]:
    """A file system of its own in memory."""
    folder = Path(tempfile.mkdtemp(prefix="tenantry-test-"))
    options = f"size={MEGABYTES}m,mode=711"
    try:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)], capture_output=True, text=True
        )
        if done.returncode != 0:
            pytest.skip(f"a small file system can't be mounted here (run as root): {done.stderr.strip()}")
        yield folder
        subprocess.run(["umount", str(folder)], check=True)
    finally:
        folder.rmdir()


@pytest.fixture(scope="module")
def disk(small: Path) -> Iterator[Disk]:
    with LocalServer(settings=THROWAWAY) as server, LocalServer(small / "shard", settings=SETTINGS) as shard:
        dsn = server.dsn("tenantry_catalog", tcp=True)
        settings = Settings(
            catalog=dsn, control=dsn, template=f"sql:{TEMPLATE}", shared_tables=("countries",), connect_seconds=1
        )

        async def build() -> str:
            await houses.create_database(dsn)
            async with Control(settings, actor="test") as control:
                made = await houses.init(control)
                await shards.add(control, "main", shard.dsn(tcp=True), database="app")
                await tenants.create(control, "old", isolation="pooled")
            assert made.catalog_dsn
            return made.catalog_dsn

        library = Settings(catalog=asyncio.run(build()), connect_seconds=1)
        made = Disk(House(settings, library, (shard,)), shard, small)
        yield made
        made.empty()


@pytest.fixture(autouse=True)
def all_is_well_afterwards(disk: Disk) -> Iterator[None]:
    yield
    disk.empty()
    recover(disk.house)


def databases(disk: Disk) -> int:
    with psycopg.connect(disk.shard.dsn(), autocommit=True) as conn:
        row = conn.execute("SELECT count(*) FROM pg_database WHERE datname LIKE 'd\\_%'").fetchone()
    assert row is not None
    return int(row[0])


@pytest.mark.parametrize("left", [64, 1024])
async def test_a_tenant_that_finds_no_space_is_taken_in_when_there_is_some(disk: Disk, left: int) -> None:
    slug = f"big-{left}"
    await asyncio.to_thread(disk.fill, left)
    async with disk.house.control() as control:
        with pytest.raises(OperationFailed, match="provision stopped at the step 'build'") as caught:
            await tenants.create(control, slug, isolation="database")
    assert "tenantry worker" in str(caught.value.hint)
    await asyncio.to_thread(disk.empty)
    with Router(disk.house.settings) as router, pytest.raises(TenantNotReady), router.tenant_scope(slug):
        pass
    await asyncio.to_thread(recover, disk.house)
    assert violations(disk.house) == []
    with Router(disk.house.settings) as router, router.tenant_scope(slug), router.transaction() as conn:
        conn.execute("INSERT INTO orders (note) VALUES ('there is space')")


async def test_if_it_stays_full_the_tenant_is_undone_and_leaves_nothing(disk: Disk) -> None:
    before = databases(disk)
    await asyncio.to_thread(disk.fill, 2048)
    async with disk.house.control() as control:
        with pytest.raises(OperationFailed):
            await tenants.create(control, "unlucky", isolation="database")
        with catalog(disk.house) as conn:
            conn.execute("UPDATE operations SET attempt = 5 WHERE state = 'pending'")
        expire(disk.house)
        await houses.work(control)
    await asyncio.to_thread(disk.empty)
    await asyncio.to_thread(recover, disk.house)
    assert (violations(disk.house), databases(disk)) == ([], before)
    async with disk.house.control() as control:
        await tenants.create(control, "unlucky", isolation="pooled")  # the slug is free again
        await tenants.delete(control, "unlucky", confirm="unlucky", grace=0)


def test_those_who_live_there_read_on_and_are_told_why_they_can_t_write(disk: Disk) -> None:
    with Router(disk.house.settings) as router:

        def run(statement: str) -> object:
            with router.tenant_scope("old"), router.transaction() as conn:
                return conn.execute(statement.encode()).fetchone()

        run("INSERT INTO orders (note) VALUES ('early') RETURNING 1")
        disk.fill(64)
        with pytest.raises(psycopg.OperationalError):
            run("INSERT INTO orders (note) SELECT repeat('x', 8000) FROM generate_series(1, 20000) RETURNING 1")
        disk.empty()
        assert run("SELECT count(*) FROM orders WHERE note = 'early'") == (1,)
        assert run("SELECT count(*) FROM orders") == (1,)
