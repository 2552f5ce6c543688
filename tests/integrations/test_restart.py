"""The server restarts under a running application, or a pooler stands in front of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import text

from tenantry import AsyncRouter, Mode, Router
from tenantry.errors import ServerUnreachable
from tenantry.integrations.sqlalchemy import create_async_engine, create_engine
from tenantry.perimeter.bound import BoundConnection
from tenantry.postgres.server import THROWAWAY, LocalServer
from tests.fixtures.house import House

BOUND = text("SELECT tenantry.current_tenant_v1()")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    """In place of the session's: one that this module may stop."""
    with LocalServer(tmp_path_factory.mktemp("server"), settings=THROWAWAY) as running:
        yield running


def test_a_restart_between_transactions_goes_unseen(server: LocalServer, house: House) -> None:
    with Router(house.settings) as router:
        engine = create_engine(router)
        with router.tenant_scope("pooled-a") as tenant:
            for _ in range(2):
                with engine.connect() as one, engine.connect() as two, router.transaction() as three:
                    assert one.scalar(BOUND) == two.scalar(BOUND) == tenant.key
                    assert three.execute("SELECT tenantry.current_tenant_v1()").fetchone() == (tenant.key,)
                server.restart("immediate")
            with engine.connect() as conn:
                assert conn.scalar(BOUND) == tenant.key
        engine.dispose()


@pytest.mark.anyio
async def test_while_the_server_is_down_the_error_says_where_and_afterwards_all_is_well(
    server: LocalServer, house: House
) -> None:
    async with AsyncRouter(house.settings) as router, router.tenant_scope("pooled-a") as tenant:
        engine = create_async_engine(router)
        async with engine.connect() as conn, router.transaction():
            assert await conn.scalar(BOUND) == tenant.key
        server.stop()
        try:
            for _ in range(2):  # with a connection that was there before, and without
                with pytest.raises(ServerUnreachable) as caught:
                    async with engine.connect() as conn:
                        await conn.scalar(BOUND)
                assert "password" not in str(caught.value)
            with pytest.raises(ServerUnreachable):
                async with router.transaction():
                    pass
        finally:
            server.start()
        async with engine.connect() as conn, router.transaction():
            assert await conn.scalar(BOUND) == tenant.key
        await engine.dispose()


def test_behind_a_pooler_nothing_is_prepared_and_no_backend_is_named(house: House) -> None:
    """A pooler gives each transaction another backend, and to two clients the same."""
    with Router(house.settings.model_copy(update={"pooler": True})) as router:
        engine = create_engine(router)
        with router.tenant_scope("pooled-a") as tenant:
            for _ in range(10):
                with engine.connect() as conn, router.transaction() as direct:
                    assert conn.scalar(BOUND) == tenant.key
                    for driver in (conn.connection.driver_connection, direct):
                        assert isinstance(driver, BoundConnection)
                        assert (driver.prepare_threshold, driver.prepare_bind) == (None, False)
            route = router.route(tenant, Mode.READ_WRITE, router.view.fleet())
            assert route.mint(1) == route.mint(2)
        engine.dispose()
