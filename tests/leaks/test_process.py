"""What a process says of itself: representations, errors with all that a reporter of crashes collects, pickles."""

from __future__ import annotations

import asyncio
import pickle
import traceback
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from pydantic import SecretStr
from sqlalchemy import text

from tenantry import AsyncRouter, Router
from tenantry import errors as errors_module
from tenantry.errors import MissingDependency, ServerUnreachable, TenantryError
from tenantry.integrations.asyncpg import create_pool
from tenantry.integrations.sqlalchemy import create_async_engine
from tenantry.model import Mode
from tenantry.postgres.connect import connect, connect_sync, merge_dsn, parse_dsn
from tenantry.service import house as houses
from tenantry.service import shard as shards
from tenantry.service.control import Control
from tenantry.service.local import Local
from tenantry.settings import Settings
from tests.leaks.conftest import Confession

pytestmark = pytest.mark.anyio


def chain(error: BaseException) -> Iterator[BaseException]:
    """An error with all that it came from, also what is not shown."""
    todo, seen = [error], set()
    while todo:
        each = todo.pop()
        if id(each) not in seen:
            seen.add(id(each))
            yield each
            todo += [other for other in (each.__cause__, each.__context__) if other is not None]


def collected(error: BaseException) -> str:
    """What a reporter of crashes sends away: messages, attributes, and every variable of every frame."""
    parts = []
    for each in chain(error):
        parts += [repr(each), str(each), repr(each.args), repr(vars(each)), repr(getattr(each, "__notes__", ""))]
        for frame, _ in traceback.walk_tb(each.__traceback__):
            if "/tests/" in frame.f_code.co_filename:
                continue
            for name, value in frame.f_locals.items():
                parts.append(f"{frame.f_code.co_filename}:{frame.f_code.co_name} {name} = {value!r}")
    return "\n".join(parts)


def wrong(dsn: str, **changes: Any) -> str:
    """The DSN of a server that does not answer, with the password of one that does."""
    return merge_dsn(dsn, port=1, **changes)


async def of_a_library(told: Confession) -> None:
    async with AsyncRouter(other_catalog(told, wrong(told.settings.catalog_dsn))):
        raise AssertionError


async def of_a_library_with_threads(told: Confession) -> None:
    settings = other_catalog(told, wrong(told.settings.catalog_dsn))
    await asyncio.to_thread(Router(settings).open)


async def of_a_wrong_login(told: Confession) -> None:
    dsn = merge_dsn(told.settings.catalog_dsn, user="postgres")
    async with AsyncRouter(other_catalog(told, dsn)):
        raise AssertionError


async def of_a_shard(told: Confession) -> None:
    async with AsyncRouter(told.settings) as router:
        tenant = await router.find("acme")
        _misdirect(router)
        async with router.transaction(tenant):
            raise AssertionError


async def of_a_shard_with_threads(told: Confession) -> None:
    with Router(told.settings) as router:
        tenant = router.find("acme")
        _misdirect(router)
        with router.transaction(tenant):
            raise AssertionError


async def of_a_shard_with_asyncpg(told: Confession) -> None:
    async with AsyncRouter(told.settings) as router:
        tenant = await router.find("acme")
        _misdirect(router)
        async with create_pool(router).transaction(tenant) as conn:
            await conn.fetch("SELECT 1")


async def of_a_shard_with_sqlalchemy(told: Confession) -> None:
    async with AsyncRouter(told.settings) as router, router.tenant_scope("acme"):
        _misdirect(router)
        async with create_async_engine(router).connect() as conn:
            await conn.execute(text("SELECT 1"))


async def of_a_refused_binding(told: Confession) -> None:
    async with AsyncRouter(told.settings) as router:
        tenant = await router.find("acme")
        fleet = router.view.known_fleet()
        target = router.target(tenant, fleet)
        route = router.route(tenant, Mode.READ_WRITE, fleet)
        async with router.pools.lease(target) as conn:
            conn.bind_to(lambda pid: route.mint(pid)[:-3] + "abc", route.guard)
            await conn.execute("SELECT 1")


async def of_a_statement(told: Confession) -> None:
    async with AsyncRouter(told.settings) as router, router.tenant_scope("acme"), router.transaction() as conn:
        await conn.execute("SELECT 1 / 0")


async def of_the_control_plane(told: Confession) -> None:
    dsn = wrong(told.control_settings.control_dsn)
    async with Control(told.control_settings.model_copy(update={"control": SecretStr(dsn)})):
        raise AssertionError


async def of_a_new_shard(told: Confession) -> None:
    async with Control(told.control_settings) as control:
        await shards.add(control, "second", wrong(told.server.dsn(tcp=True)))


async def of_a_catalog_that_went_away(told: Confession) -> None:
    async with Control(told.control_settings) as control:
        control.store.dsn = wrong(control.store.dsn)
        await houses.init(control)


async def of_a_connection(told: Confession) -> None:
    await connect(wrong(told.server.dsn(tcp=True)))


async def of_a_connection_of_a_thread(told: Confession) -> None:
    connect_sync(wrong(told.server.dsn(tcp=True)))


async def of_a_dsn(told: Confession) -> None:
    parse_dsn(f"{told.server.dsn(tcp=True)} nonsense")


def other_catalog(told: Confession, dsn: str) -> Settings:
    return told.settings.model_copy(update={"catalog": SecretStr(dsn), "connect_seconds": 0.5})


def _misdirect(router: Any) -> None:
    """Let the shards be where nobody listens."""
    target = router._target
    router._target = lambda *arguments: replace(target(*arguments), dsn=wrong(target(*arguments).dsn))


FAILURES: list[Callable[[Confession], Awaitable[None]]] = [
    of_a_library,
    of_a_library_with_threads,
    of_a_wrong_login,
    of_a_shard,
    of_a_shard_with_threads,
    of_a_shard_with_asyncpg,
    of_a_shard_with_sqlalchemy,
    of_a_refused_binding,
    of_a_statement,
    of_the_control_plane,
    of_a_new_shard,
    of_a_catalog_that_went_away,
    of_a_connection,
    of_a_connection_of_a_thread,
    of_a_dsn,
]


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: failure.__name__)
async def test_an_error_tells_no_secret_not_even_by_the_variables_of_its_frames(
    confession: Confession, failure: Callable[[Confession], Awaitable[None]]
) -> None:
    with pytest.raises((TenantryError, psycopg.Error)) as caught:
        await failure(confession)
    found = confession.found_in(collected(caught.value))
    assert not found, "\n".join(f"{name}: {text}" for name, text in found.items())


async def test_a_router_that_can_not_be_opened_leaves_no_task_behind(confession: Confession) -> None:
    """Else the end of the loop would wait for it."""
    before = asyncio.all_tasks()
    with pytest.raises(ServerUnreachable, match="password"):
        await of_a_wrong_login(confession)
    assert asyncio.all_tasks() == before


async def test_representations(confession: Confession) -> None:
    async with AsyncRouter(confession.settings) as router, Control(confession.control_settings) as control:
        tenant = await router.find("acme")
        fleet = await router.view.fleet()
        route = router.route(tenant, Mode.READ_WRITE, fleet)
        things = [
            confession.settings, confession.control_settings, router, router.view, router.pools, fleet, route,
            route.target, route.key, route.mint, tenant, control, control.store, control.estate, control.engine,
            confession.server, await control.store.shard("main"), [*fleet.logins.values()],
            houses.Initialised((), confession.settings.catalog_dsn),
            Local(confession.server.directory, True, 1, confession.server.dsn(tcp=True)),
        ]  # fmt: skip
        async with router.transaction(tenant) as conn:
            things += [conn, conn.pgconn, conn.info, router.pools.ledger]
            text = "\n".join(f"{thing!r} {thing}" for thing in things)
    assert confession.found_in(text) == {}


@pytest.mark.parametrize(
    "kind",
    [each for each in vars(errors_module).values() if isinstance(each, type) and issubclass(each, TenantryError)],
)
def test_an_error_goes_through_a_pickle_as_it_is(kind: type[TenantryError]) -> None:
    """As from a worker of multiprocessing or Celery."""
    error = kind("x", "y") if issubclass(kind, MissingDependency) else kind("what", where="where", hint="next")
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is kind
    assert (str(back), vars(back), back.as_dict()) == (str(error), vars(error), error.as_dict())


def test_a_lost_servers_error_goes_through_a_pickle_without_what_it_came_from(confession: Confession) -> None:
    with pytest.raises(ServerUnreachable) as caught:
        connect_sync(wrong(confession.server.dsn(tcp=True)))
    pickled = pickle.dumps(caught.value)
    assert confession.found_in(pickled.decode("latin-1")) == {}
    assert pickle.loads(pickled).where == caught.value.where
