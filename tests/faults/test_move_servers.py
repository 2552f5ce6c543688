"""A server dies while a tenant moves between two others, or is moved away from it: it ends up in one place, whole."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from itertools import count

import pytest

from tenantry import TenantryError
from tenantry.hookspecs import hookimpl
from tenantry.postgres.server import THROWAWAY, LocalServer
from tenantry.service import house as houses
from tenantry.service import move as moves
from tenantry.service import shard as shards
from tenantry.service.control import Control
from tenantry.settings import Settings
from tests.fixtures.house import TEMPLATE, House
from tests.operations.invariants import catalog
from tests.operations.ledger import Ledger
from tests.operations.recovery import recover

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SERVERS = ("catalog", "source", "target")
MOMENTS = (("copy", "before"), ("copy", "acted"), ("follow", "acted"), ("switch", "before"), ("switch", "acted"))

_number = count(1)


class Town:
    """A house with each of its parts on a server of its own."""

    def __init__(self, servers: dict[str, LocalServer]) -> None:
        self.servers = servers
        dsn = servers["catalog"].dsn("tenantry_catalog", tcp=True)
        control = Settings(
            catalog=dsn, control=dsn, template=f"sql:{TEMPLATE}", shared_tables=("countries",), connect_seconds=2
        )

        async def build() -> str:
            await houses.create_database(dsn)
            async with Control(control, actor="test") as plane:
                made = await houses.init(plane)
                for name in ("source", "target"):
                    await shards.add(plane, name, servers[name].dsn(tcp=True), database="app")
            assert made.catalog_dsn
            return made.catalog_dsn

        library = Settings(catalog=asyncio.run(build()), connect_seconds=2)
        self.house = House(control, library, (servers["source"], servers["target"]))


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    """Three servers that may be crashed, and come up again on the same port."""
    with ExitStack() as stack:
        yield Town(
            {
                name: stack.enter_context(LocalServer(tmp_path_factory.mktemp(name), settings=THROWAWAY))
                for name in SERVERS
            }
        )


class Crash:
    """Kills a server, with all its processes, at a moment, and starts it again."""

    def __init__(self, server: LocalServer, step: str, moment: str) -> None:
        self._server = server
        self._when = step, moment
        self.done = False

    @hookimpl
    def operation_moment(self, step: str, moment: str) -> None:
        """As the hook says."""
        if (step, moment) == self._when and not self.done:
            self.done = True
            self._server.crash()
            self._server.start()


@pytest.mark.parametrize("which", SERVERS)
@pytest.mark.parametrize(("step", "moment"), MOMENTS)
def test_a_server_that_dies_loses_nothing(town: Town, which: str, step: str, moment: str) -> None:
    house = town.house
    ledger = Ledger(house, house.create(f"mover-{next(_number)}", isolation="pooled", shard="source"), tolerant=True)
    crash = Crash(town.servers[which], step, moment)

    async def move() -> None:
        async with house.control() as control:
            control.engine.hooks.register(crash)
            with suppress(TenantryError):
                await moves.move(control, ledger.tenant.slug, shard="target", grace=0)

    with ledger.writing():
        ledger.grow(10)
        asyncio.run(move())
        assert crash.done
        recover(house)
        ledger.grow(10)
    ledger.check()
    with catalog(house) as conn:
        row = conn.execute(
            "SELECT s.shard FROM placements p JOIN spaces s ON s.id = p.space WHERE p.tenant = %s", (ledger.tenant.id,)
        ).fetchone()
    assert row is not None
    assert row["shard"] in ("source", "target")
