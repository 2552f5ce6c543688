"""A shard's primary is lost, and its standby takes over."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
import sqlalchemy.exc
from sqlalchemy import text

from tenantry import AsyncRouter, Router
from tenantry.errors import ServerUnreachable
from tenantry.integrations.sqlalchemy import create_async_engine, create_engine
from tenantry.postgres.connect import merge_dsn, parse_dsn
from tenantry.postgres.server import THROWAWAY, LocalServer
from tenantry.service import doctor
from tenantry.service import house as houses
from tenantry.service import shard as shards
from tenantry.service import tenant as tenants
from tenantry.service.check import Status
from tenantry.service.control import Control
from tenantry.settings import Settings
from tests.fixtures.house import TEMPLATE, House
from tests.fixtures.standby import both, make_standby, promote, wait_for_each_other

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

SLUGS = ("pooled-a", "pooled-b", "database-a")


@dataclass
class Pair:
    """A house whose only shard has a standby."""

    house: House
    primary: LocalServer
    standby: LocalServer

    def lead_to(self, address: str) -> None:
        """Let applications go there."""

        async def run() -> None:
            async with self.house.control() as control:
                await shards.change(control, "main", address=address)

        asyncio.run(run())


@pytest.fixture
def pair() -> Iterator[Pair]:
    folder = Path(tempfile.mkdtemp(prefix="tenantry-test-"))
    folder.chmod(0o711)
    try:
        with LocalServer(settings=THROWAWAY) as catalog, LocalServer(folder / "one", settings=THROWAWAY) as primary:
            standby = make_standby(primary, folder / "two")
            try:
                wait_for_each_other(primary)
                yield Pair(asyncio.run(_build(catalog, primary, standby)), primary, standby)
            finally:
                standby.stop("immediate")
    finally:
        shutil.rmtree(folder)


async def _build(catalog: LocalServer, primary: LocalServer, standby: LocalServer) -> House:
    dsn = catalog.dsn("tenantry_catalog", tcp=True)
    settings = Settings(catalog=dsn, control=dsn, template=f"sql:{TEMPLATE}", shared_tables=("countries",))
    await houses.create_database(dsn)
    async with Control(settings, actor="test") as control:
        made = await houses.init(control)
        where = merge_dsn(primary.dsn(tcp=True), **both(primary, standby))
        await shards.add(control, "main", where, database="app")
        for slug in SLUGS:
            await tenants.create(control, slug, isolation=slug.partition("-")[0])
    assert made.catalog_dsn
    return House(settings, Settings(catalog=made.catalog_dsn), (primary, standby))


class Application:
    """Writes numbers for each tenant, one after the other, and remembers those that were confirmed."""

    def __init__(self, router: AsyncRouter) -> None:
        self.router = router
        self.engine = create_async_engine(router)
        self.confirmed: dict[str, list[int]] = {slug: [] for slug in SLUGS}
        self.failures: list[Exception] = []
        self.stopped, self.written = asyncio.Event(), asyncio.Condition()

    async def write(self, slug: str, note: str) -> None:
        if slug == "pooled-b":
            async with self.router.tenant_scope(slug), self.engine.begin() as conn:
                await conn.execute(text("INSERT INTO orders (note) VALUES (:note)"), {"note": note})
        else:
            async with self.router.tenant_scope(slug), self.router.transaction() as direct:
                await direct.execute("INSERT INTO orders (note) VALUES (%s)", (note,))

    async def run(self, slug: str) -> None:
        number = 0
        while not self.stopped.is_set():
            number += 1
            try:
                await self.write(slug, str(number))
            except Exception as error:
                self.failures.append(error)
                await asyncio.sleep(0)
            else:
                async with self.written:
                    self.confirmed[slug].append(number)
                    self.written.notify_all()

    async def all_write(self, more: int) -> None:
        """Wait until each tenant has written so many more."""
        goals = {slug: len(done) + more for slug, done in self.confirmed.items()}
        async with self.written:
            await self.written.wait_for(lambda: all(len(self.confirmed[slug]) >= goals[slug] for slug in SLUGS))


async def test_applications_go_on_with_the_standby_and_nothing_that_was_confirmed_is_lost(pair: Pair) -> None:
    async with AsyncRouter(pair.house.settings) as router:
        application = Application(router)
        running = [asyncio.create_task(application.run(slug)) for slug in SLUGS]
        await application.all_write(20)
        await asyncio.to_thread(pair.primary.crash)
        await asyncio.to_thread(promote, pair.standby)
        await application.all_write(20)
        application.stopped.set()
        await asyncio.gather(*running)
        await application.engine.dispose()
        for error in application.failures:
            assert isinstance(error, (ServerUnreachable, psycopg.OperationalError, sqlalchemy.exc.OperationalError))
        for slug in SLUGS:
            async with router.tenant_scope(slug) as tenant, router.transaction() as conn:
                rows = await (await conn.execute("SELECT tenant_id, note::int FROM orders")).fetchall()
            assert {key for key, _ in rows} == {tenant.key}
            assert set(application.confirmed[slug]) <= {note for _, note in rows}
    async with pair.house.control() as control:
        for level in ("pooled", "database"):
            await tenants.create(control, f"after-{level}", isolation=level)


def ask(face: str, router: Router) -> None:
    """One transaction."""
    with router.tenant_scope("pooled-a"):
        if face == "psycopg":
            with router.transaction() as conn:
                conn.execute("SELECT 1")
        else:
            with create_engine(router).connect() as connection:
                connection.execute(text("SELECT 1"))


def test_a_standby_that_applications_are_led_to_says_what_it_is(pair: Pair) -> None:
    pair.lead_to(f"host=127.0.0.1 port={pair.standby.port}")
    for face in ("psycopg", "sqlalchemy"):
        with Router(pair.house.settings) as router, pytest.raises(ServerUnreachable, match="is a standby") as caught:
            ask(face, router)
        assert "target_session_attrs=read-write" in str(caught.value.hint)
    found = {check.name: check for check in asyncio.run(doctor.examine(pair.house.control_settings))}
    check = found["shard main login"]
    assert (check.status, "reach a standby" in check.what) == (Status.FAILED, True)


def test_connections_that_were_there_before_find_the_new_primary(pair: Pair) -> None:
    """A planned switch: the primary ends in order, and nothing is lost between transactions."""
    with Router(pair.house.settings) as router:
        engine = create_engine(router)
        for round_ in range(2):
            for slug in SLUGS:
                with router.tenant_scope(slug) as tenant, router.transaction() as conn, engine.connect() as other:
                    assert conn.execute("SELECT tenantry.current_tenant_v1()").fetchone() == (tenant.key,)
                    assert other.scalar(text("SELECT tenantry.current_tenant_v1()")) == tenant.key
            if round_ == 0:
                pair.primary.stop("fast")
                promote(pair.standby)
        engine.dispose()


async def test_the_house_can_be_told_where_the_shard_is_now(pair: Pair) -> None:
    """For a shard that was added with one address."""
    async with pair.house.control() as control:
        await shards.change(control, "main", dsn=pair.primary.dsn(tcp=True))
        async with AsyncRouter(pair.house.settings) as router, router.tenant_scope("pooled-a") as tenant:
            async with router.transaction() as conn:
                await conn.execute("SELECT 1")
            while not router.view.cache.listening:  # noqa: ASYNC110 - else it would not ask the catalog anew
                await asyncio.sleep(0)
            await asyncio.to_thread(pair.primary.crash)
            await asyncio.to_thread(promote, pair.standby)
            changed = await shards.change(control, "main", dsn=pair.standby.dsn(tcp=True))
            assert f"port={pair.standby.port}" in changed.dsn
            async with router.transaction() as conn:  # the news, or the catalog itself, has led it there
                cursor = await conn.execute("SELECT tenantry.current_tenant_v1()")
                assert await cursor.fetchone() == (tenant.key,)


@pytest.fixture
def catalog_pair() -> Iterator[tuple[LocalServer, LocalServer]]:
    """A server for catalogs, and its standby."""
    folder = Path(tempfile.mkdtemp(prefix="tenantry-test-"))
    folder.chmod(0o711)
    try:
        with LocalServer(folder / "one", settings=THROWAWAY) as primary:
            standby = make_standby(primary, folder / "two")
            try:
                wait_for_each_other(primary)
                yield primary, standby
            finally:
                standby.stop("immediate")
    finally:
        shutil.rmtree(folder)


async def test_the_catalog_can_fail_over_too(catalog_pair: tuple[LocalServer, LocalServer]) -> None:
    primary, standby = catalog_pair
    hosts = both(primary, standby)
    dsn = merge_dsn(primary.dsn("tenantry_catalog", tcp=True), **hosts)
    settings = Settings(catalog=dsn, control=dsn, template=f"sql:{TEMPLATE}", shared_tables=("countries",))
    with LocalServer(settings=THROWAWAY) as shard:
        await houses.create_database(dsn)
        async with Control(settings, actor="test") as control:
            made = await houses.init(control)
            await shards.add(control, "main", shard.dsn(tcp=True), database="app")
            await tenants.create(control, "early")
            assert made.catalog_dsn
            assert parse_dsn(made.catalog_dsn)["port"] == hosts["port"]
            async with AsyncRouter(Settings(catalog=made.catalog_dsn)) as router:
                await router.find("early")
                await asyncio.to_thread(primary.crash)
                await asyncio.to_thread(promote, standby)
                await tenants.create(control, "late")
                while not router.view.cache.listening:  # noqa: ASYNC110 - until then it says what it knows
                    await asyncio.sleep(0)
                async with router.tenant_scope("late"), router.transaction() as conn:
                    await conn.execute("SELECT 1")
