"""A replica that is behind, away, promoted or strange: reads are answered, and never by what is too old."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import psycopg
import pytest
from sqlalchemy import text

from tenantry import Router
from tenantry.context import Scope
from tenantry.errors import Conflict, InvalidInput, NotFound, ShardNotFound, TenantSuspended
from tenantry.integrations.sqlalchemy import create_engine
from tenantry.model import Mode
from tenantry.placements.replicas import wait_until_replayed
from tenantry.postgres.server import THROWAWAY, LocalServer
from tenantry.routing.replicas import Replicas
from tenantry.service import doctor
from tenantry.service import plan as plans
from tenantry.service import replica as replicas
from tenantry.service import shard as shards
from tenantry.service import tenant as tenants
from tenantry.service.check import Status
from tests.fixtures.pgbouncer import PgBouncer, find, logins
from tests.fixtures.standby import promote
from tests.replicas.conftest import Replicated, is_standby, notes, replicated_house, write

pytestmark = pytest.mark.slow


@pytest.fixture
def replicated() -> Iterator[Replicated]:
    """A house that a test may break."""
    with replicated_house() as made:
        made.catch_up()
        yield made


@pytest.fixture
def router(replicated: Replicated) -> Iterator[Router]:
    with Router(replicated.settings) as made:
        notes(made, "reader")
        yield made


def believe(router: Router, what: Replicas) -> None:
    """Let a router start anew with what it knows of replicas."""
    router.replicas = what
    router._forget_routes()


class Later:
    """A clock that can be moved ahead."""

    ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


def test_a_replica_that_is_lost_costs_nothing_but_itself(replicated: Replicated, router: Router) -> None:
    assert is_standby(router, "reader")
    replicated.standby.crash()
    for _ in range(3):
        assert not is_standby(router, "reader")
    believe(router, Replicas())  # as if it had been left alone for long enough
    replicated.standby.start()
    assert not is_standby(router, "reader")
    replicated.catch_up()
    assert is_standby(router, "reader")


def test_a_replica_that_was_promoted_is_none_any_more(replicated: Replicated, router: Router) -> None:
    assert is_standby(router, "reader")
    promote(replicated.standby)
    with router.tenant_scope("reader", mode="ro"), router.transaction() as conn:
        assert conn.execute("SELECT inet_server_port()").fetchone() == (replicated.primary.port,)
    write(router, "reader", "after")
    assert "after" in notes(router, "reader")
    with psycopg.connect(replicated.standby.dsn("app")) as conn:
        assert conn.execute("SELECT count(*) FROM orders WHERE note = 'after'").fetchone() == (0,)


def test_reads_are_never_older_than_the_plan_says(replicated: Replicated, router: Router) -> None:
    later = Later()
    believe(router, Replicas(clock=later))
    notes(router, "reader")
    with replicated.paused():
        write(router, "other", "news")
        assert is_standby(router, "reader")
        later.ahead = 601.0
        assert not is_standby(router, "reader")  # nothing is known of the primary any more
        for _ in range(2):
            assert not is_standby(router, "reader")  # it is, and the replica is behind


def test_a_tenant_that_does_not_live_here_any_more_is_not_served_by_what_is_old(
    replicated: Replicated, router: Router
) -> None:
    """A process that has not heard of it: the replica refuses, or is too old to be asked."""
    later = Later()
    believe(router, Replicas(clock=later))
    notes(router, "reader")
    stale = Scope(router.find("reader"), Mode.READ_ONLY)
    fleet = router.view.fleet()

    async def suspend(control: object) -> None:
        await tenants.suspend(control, "reader")  # type: ignore[arg-type]

    def read() -> bool:
        route = router.way(stale, stale.tenant, fleet)
        place = router.pools.take(route.target)
        route.bind(place.item)
        try:
            with place.item.transaction():
                row = place.item.execute("SELECT pg_is_in_recovery()").fetchone()
                return bool(row[0])
        finally:
            router.pools.give(place)

    with replicated.paused():
        replicated.run(suspend)
        assert read()  # it was let in a moment ago, as far as this process can know
        later.ahead = 601.0
        with pytest.raises(TenantSuspended):
            read()
    replicated.catch_up()
    believe(router, Replicas())
    router.replicas.ended(stale.tenant.id, "main", 600, time.monotonic(), ("0/1", "0/1"), wrote=False)
    with pytest.raises(TenantSuspended):
        read()
    with pytest.raises(TenantSuspended):
        is_standby(router, "reader")


def test_walls_in_signed_mode_are_read_in_the_same_way() -> None:
    with replicated_house("signed") as house, Router(house.settings) as router:
        notes(router, "reader")
        house.catch_up()
        assert is_standby(router, "reader")
        with house.paused():
            write(router, "reader", "signed")
            assert notes(router, "reader") == ["signed"]
            assert notes(router, "other") == []


def test_a_pooler_may_stand_before_a_replica(replicated: Replicated) -> None:
    if find() is None:
        pytest.skip("PgBouncer is not on this machine: apt-get install pgbouncer (its service need not run)")
    known = logins(replicated.primary)
    with PgBouncer(replicated.standby, known) as bouncer, PgBouncer(replicated.primary, known) as before:

        async def lead(control: object) -> None:
            await shards.change(control, "main", address=before.address)  # type: ignore[arg-type]
            await control.store.fetch("drop_replica", ("main", "r1"))  # type: ignore[attr-defined]
            await control.store.fetch("new_replica", ("main", "r2", bouncer.address))  # type: ignore[attr-defined]

        replicated.run(lead)
        replicated.catch_up()
        with Router(replicated.settings.model_copy(update={"pooler": True})) as router:
            notes(router, "reader")
            for n in range(3):
                assert is_standby(router, "reader")
                write(router, "reader", str(n))
                assert notes(router, "reader")[-1] == str(n)
                replicated.catch_up()
            engine = create_engine(router)
            with router.tenant_scope("reader", mode="ro"), engine.connect() as conn:
                assert conn.scalar(text("SELECT pg_is_in_recovery()")) is True
            engine.dispose()


def test_who_changes_where_a_tenant_lives_can_wait_for_replicas(replicated: Replicated, router: Router) -> None:
    finished: list[str] = []

    async def change(control: object) -> None:
        estate = control.estate  # type: ignore[attr-defined]
        async with estate.root("main", "app") as conn:
            await conn.execute("UPDATE tenantry.residents SET state = 'suspended'")
        waiting = asyncio.create_task(wait_until_replayed(estate, "main"))
        waiting.add_done_callback(lambda _: finished.append("waited"))
        with psycopg.connect(replicated.standby.dsn("app"), autocommit=True) as standby:
            for _ in range(3):
                assert standby.execute("SELECT count(*) FROM tenantry.residents WHERE state = 'open'").fetchone() == (
                    3,
                )
                await asyncio.sleep(0)
                assert not finished
            standby.execute("SELECT pg_wal_replay_resume()")
            await asyncio.wait_for(waiting, 30)
            assert standby.execute("SELECT count(*) FROM tenantry.residents WHERE state = 'open'").fetchone() == (0,)

    async def without_an_answer(control: object) -> None:
        await plans.change(control, "reading", replica_seconds=1)  # type: ignore[arg-type]
        await asyncio.wait_for(wait_until_replayed(control.estate, "main"), 30)  # type: ignore[attr-defined]

    with replicated.paused():
        replicated.run(change)
    replicated.standby.crash()
    replicated.run(without_an_answer)


# The verbs


def test_replicas_are_added_listed_and_removed(replicated: Replicated, router: Router) -> None:
    assert is_standby(router, "reader")
    standby = f"host=127.0.0.1 port={replicated.standby.port}"

    async def verbs(control: object) -> None:
        with pytest.raises(Conflict, match="there is a replica 'r1'"):
            await replicas.add(control, "main", "r1", standby)  # type: ignore[arg-type]
        with pytest.raises(Conflict, match="is no standby: it is the shard 'main' itself"):
            await replicas.add(control, "main", "r2", f"host=127.0.0.1 port={replicated.primary.port}")  # type: ignore[arg-type]
        with pytest.raises(InvalidInput, match="names a user"):
            await replicas.add(control, "main", "r2", f"{standby} user=postgres")  # type: ignore[arg-type]
        with pytest.raises(ShardNotFound):
            await replicas.add(control, "nowhere", "r2", standby)  # type: ignore[arg-type]
        with pytest.raises(ShardNotFound):
            await replicas.listing(control, "nowhere")  # type: ignore[arg-type]
        assert [each.name for each in await replicas.listing(control)] == ["r1"]  # type: ignore[arg-type]
        assert (await replicas.remove(control, "main", "r1")).name == "r1"  # type: ignore[arg-type]
        with pytest.raises(NotFound, match="has no replica 'r1'"):
            await replicas.remove(control, "main", "r1")  # type: ignore[arg-type]

    replicated.run(verbs)
    with Router(replicated.settings) as other:
        notes(other, "reader")
        assert not is_standby(other, "reader")


def test_a_standby_of_another_server_is_refused(replicated: Replicated) -> None:
    with LocalServer(settings=THROWAWAY) as other:
        with psycopg.connect(other.dsn(), autocommit=True) as conn, psycopg.connect(replicated.primary.dsn()) as ours:
            secret = ours.execute("SELECT rolpassword FROM pg_authid WHERE rolname = 'postgres'").fetchone()
            assert secret
            conn.execute(f"ALTER ROLE postgres PASSWORD '{secret[0]}'".encode())

        async def add(control: object) -> None:
            await replicas.add(control, "main", "r2", f"host=127.0.0.1 port={other.port}")  # type: ignore[arg-type]

        with pytest.raises(Conflict, match="is no standby of the shard 'main'"):
            replicated.run(add)


def test_the_doctor_says_how_a_replica_is(replicated: Replicated) -> None:
    async def look(control: object) -> dict[str, tuple[Status, str]]:
        found = await doctor.examine_shard(control, "main")  # type: ignore[arg-type]
        return {check.name: (check.status, check.what) for check in found}

    status, what = replicated.run(look)["replica main:r1"]
    assert (status, "caught up" in what) == (Status.OK, True)
    with replicated.paused():
        with psycopg.connect(replicated.primary.dsn("app"), autocommit=True) as conn:
            conn.execute("CREATE TABLE x ()")
        status, what = replicated.run(look)["replica main:r1"]
        assert (status, "bytes behind" in what) == (Status.WARNING, True)
    promote(replicated.standby)
    status, what = replicated.run(look)["replica main:r1"]
    assert (status, "no standby" in what) == (Status.FAILED, True)
    replicated.standby.crash()
    assert replicated.run(look)["replica main:r1"][0] is Status.FAILED
