"""No foreign row, whatever goes wrong: ``make soak`` takes 1,000,000 operations, CI some thousands.

``make soak OPERATIONS=50000 SEED=7`` repeats a run, and looks for the shortest way to a failure.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import threading
from collections.abc import Iterator

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tenantry import AsyncRouter, Router
from tenantry.integrations.sqlalchemy import create_engine
from tests.fixtures.house import House, MakeHouse
from tests.soak.machine import CONNECTIONS, Ground, Soak

OPERATIONS = int(os.environ.get("TENANTRY_SOAK", "4000"))
SEED = int(os.environ.get("TENANTRY_SOAK_SEED") or random.SystemRandom().randrange(2**32))
STEPS = 60
PATIENCE = 0.02
"""How long to wait for a connection of an exhausted pool, seconds."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(0)]


@pytest.fixture(scope="module")
def soaked(make_house: MakeHouse) -> House:
    """A house whose application has two connections for all its tenants."""
    made = make_house(pool_size=CONNECTIONS, pool_budget=CONNECTIONS)
    for slug in ("alpha", "bravo", "charlie"):
        made.tenants[slug] = made.create(slug, isolation="pooled")
    return made


@pytest.fixture
def ground(soaked: House) -> Iterator[Ground]:
    """The application."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    async_router = AsyncRouter(soaked.settings)
    with Router(soaked.settings) as router, psycopg.connect(soaked.servers[0].dsn(), autocommit=True) as admin:
        router.pools.seconds = async_router.pools.seconds = PATIENCE
        engine = create_engine(router)
        yield Ground(soaked, router, engine, async_router, loop, admin, tuple(soaked.tenants.values()))
        engine.dispose()
    asyncio.run_coroutine_threadsafe(async_router.close(), loop).result(60)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def test_no_tenant_meets_a_row_of_another(ground: Ground) -> None:
    print(f"seed {SEED}, {OPERATIONS:,} operations", file=sys.stderr)
    machine = type("Run", (Soak,), {"ground": ground})
    run = settings(
        max_examples=100,
        stateful_step_count=STEPS,
        deadline=None,
        database=None,
        derandomize=False,
        phases=(Phase.generate, Phase.shrink) if "TENANTRY_SOAK" in os.environ else (Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    turn = 0
    while ground.operations < OPERATIONS:
        run_state_machine_as_test(seed(SEED + turn)(machine), settings=settings(run, max_examples=20))
        turn += 1
    print(f"{ground.operations:,} operations, {ground.foreign} foreign rows", file=sys.stderr)
    assert ground.foreign == 0
