"""The engine with operations made for the purpose: what it promises whatever the steps do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tenantry.catalog.store import CatalogStore, Conn
from tenantry.errors import (
    InvalidInput,
    OperationFailed,
    OperationNotFound,
    OperationOpen,
    ServerUnreachable,
    TenantryError,
)
from tenantry.hookspecs import hookimpl
from tenantry.operations.claim import Claim
from tenantry.operations.engine import Engine
from tenantry.operations.steps import Kind, Step, Wait, Work
from tenantry.placements.estate import Estate
from tests.fixtures.house import House, MakeHouse
from tests.operations.invariants import catalog
from tests.operations.recovery import expire

pytestmark = pytest.mark.anyio

SOON = timedelta(hours=1)


@dataclass
class World:
    """What the steps act upon: ``done`` are effects outside of the catalog, ``log`` is everything that happened."""

    done: list[str] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    failures: dict[str, list[BaseException]] = field(default_factory=dict)

    def step(self, name: str, *, final: bool = False) -> Step:
        """A step that leaves a mark, and fails as often as it was told to."""

        async def act(work: Work) -> None:
            self.log.append(f"act {name}")
            self.fail(f"act {name}")
            if name not in self.done:
                self.done.append(name)

        async def record(work: Work, conn: Conn) -> Mapping[str, Any]:
            await conn.execute(
                "INSERT INTO audit_log (actor, action, subject) VALUES ('x', %s, %s)", (name, str(work.operation))
            )
            self.fail(f"record {name}")
            return {"said": name, "before": [output["said"] for output in work.outputs.values()]}

        async def undo_act(work: Work) -> None:
            self.log.append(f"undo {name}")
            self.fail(f"undo {name}")
            if name in self.done:
                self.done.remove(name)

        async def undo_record(work: Work, conn: Conn) -> None:
            self.log.append(f"forget {name}")
            self.fail(f"forget {name}")

        return Step(name, act, record, undo_act, undo_record, final=final)

    def kind(self, *names: str, final: str | None = None) -> Kind:
        return Kind("test", [self.step(name, final=name == final) for name in names])

    def fail(self, where: str) -> None:
        if self.failures.get(where):
            raise self.failures[where].pop(0)


@dataclass
class Bench:
    """An engine that knows one kind of operation."""

    engine: Engine
    store: CatalogStore

    async def start(self, *tenants: UUID, **args: Any) -> Mapping[str, Any]:
        async with self.store.transaction() as conn:
            return await self.engine.start(conn, "test", args, tenants, "tester")

    async def run(self, *tenants: UUID) -> str:
        return await self.engine.run(await self.start(*tenants))


@pytest.fixture(scope="module")
def empty(make_house: MakeHouse) -> House:
    """A house without tables: only its catalog is used."""
    return make_house(template=None)


@pytest.fixture(autouse=True)
def clean(empty: House) -> Iterator[None]:
    yield
    with catalog(empty) as conn:
        conn.execute("DELETE FROM operation_tenants")
        conn.execute("UPDATE operations SET state = 'done'")


@asynccontextmanager
async def bench(house: House, kind: Kind, *, lease: float = 3600.0) -> AsyncIterator[Bench]:
    store = CatalogStore(house.control_settings.control_dsn)
    async with store, Estate(store, house.control_settings) as estate:
        yield Bench(Engine(store, estate, [kind], lease_seconds=lease), store)


def newest(house: House) -> dict[str, Any]:
    with catalog(house) as conn:
        row = conn.execute("SELECT * FROM operations ORDER BY id DESC LIMIT 1").fetchone()
    assert row is not None
    return row


def steps_of(house: House, operation: int) -> list[str]:
    with catalog(house) as conn:
        rows = conn.execute(
            "SELECT step FROM operation_steps WHERE operation = %s ORDER BY at", (operation,)
        ).fetchall()
    return [row["step"] for row in rows]


def recorded(house: House, operation: int) -> list[str]:
    """What the steps have written into the catalog."""
    with catalog(house) as conn:
        rows = conn.execute("SELECT action FROM audit_log WHERE subject = %s ORDER BY id", (str(operation),)).fetchall()
    return [row["action"] for row in rows]


def new_tenant(house: House) -> UUID:
    tenant = uuid4()
    with catalog(house) as conn:
        conn.execute(
            "INSERT INTO tenants (id, key, slug, name, plan, state) VALUES (%s, %s, %s, 'x', 'free', 'active')",
            (tenant, str(tenant), f"t-{tenant.hex[:8]}"),
        )
    return tenant


def let_go(house: House) -> None:
    """What was postponed comes up."""
    with catalog(house) as conn:
        conn.execute("UPDATE operations SET resume_at = now() WHERE resume_at IS NOT NULL")


async def test_steps_run_in_order_and_see_what_earlier_ones_put_down(empty: House) -> None:
    world = World()
    async with bench(empty, world.kind("a", "b", "c")) as it:
        assert await it.run() == "done"
        with catalog(empty) as conn:
            rows = conn.execute(
                "SELECT output FROM operation_steps WHERE operation = %s ORDER BY at", (newest(empty)["id"],)
            ).fetchall()
    assert [row["output"]["before"] for row in rows] == [[], ["a"], ["a", "b"]]
    assert world.log == ["act a", "act b", "act c"]
    assert newest(empty)["state"] == "done"
    assert newest(empty)["finished_at"] is not None


async def test_a_step_that_has_finished_does_not_run_again(empty: House) -> None:
    world = World(failures={"act b": [ServerUnreachable("away")]})
    async with bench(empty, world.kind("a", "b")) as it:
        with pytest.raises(OperationFailed):
            await it.run()
        let_go(empty)
        assert await it.engine.work() == "done"
    assert world.log == ["act a", "act b", "act b"]


async def test_what_a_step_changes_in_the_catalog_comes_with_its_journal_row_or_not_at_all(empty: House) -> None:
    world = World(failures={"record b": [ServerUnreachable("away")]})
    async with bench(empty, world.kind("a", "b")) as it:
        with pytest.raises(OperationFailed):
            await it.run()
    operation = newest(empty)["id"]
    assert steps_of(empty, operation) == recorded(empty, operation) == ["a"]


@pytest.mark.parametrize(
    "error",
    [
        ServerUnreachable("away"),
        psycopg.OperationalError("the connection is lost"),
        psycopg.errors.AdminShutdown("terminating"),
        psycopg.errors.DeadlockDetected("deadlock"),
        ConnectionResetError("reset"),
        TimeoutError(),
    ],
)
async def test_a_server_that_is_away_is_tried_again_later(empty: House, error: Exception) -> None:
    world = World(failures={"act b": [error]})
    async with bench(empty, world.kind("a", "b")) as it:
        with pytest.raises(OperationFailed, match="test stopped at the step 'b'") as caught:
            await it.run()
        assert "tenantry worker" in str(caught.value.hint)
        assert newest(empty)["state"] == "pending"
        assert newest(empty)["resume_at"] > datetime.now(UTC) - SOON
        assert await it.engine.work() is None  # not at once
        let_go(empty)
        assert await it.engine.work() == "done"
    assert newest(empty)["error"] is None


async def test_an_error_with_a_passing_cause_is_passing_too(empty: House) -> None:
    error = OperationFailed("the template can't be applied")
    error.__cause__ = psycopg.OperationalError("the connection is lost")
    world = World(failures={"act a": [error]})
    async with bench(empty, world.kind("a")) as it:
        with pytest.raises(OperationFailed, match="stopped"):
            await it.run()
    assert newest(empty)["state"] == "pending"


async def test_after_some_attempts_it_is_undone(empty: House) -> None:
    world = World(failures={"act b": [ServerUnreachable("away")] * 20})
    async with bench(empty, world.kind("a", "b")) as it:
        with pytest.raises(OperationFailed):
            await it.run()
        for attempt in range(20):
            let_go(empty)
            try:
                await it.engine.work()
            except ServerUnreachable:
                break
            except OperationFailed:
                assert newest(empty)["attempt"] == attempt + 1
    assert newest(empty)["state"] == "undone"
    assert world.log.count("act b") == 6
    assert world.done == []


async def test_attempts_are_counted_anew_after_each_step(empty: House) -> None:
    world = World(failures={"act a": [ServerUnreachable("away")] * 5, "act b": [ServerUnreachable("away")] * 5})
    async with bench(empty, world.kind("a", "b")) as it:
        for attempt in range(10):
            let_go(empty)
            with pytest.raises(OperationFailed):
                await (it.run() if attempt == 0 else it.engine.work())
        let_go(empty)
        assert await it.engine.work() == "done"


@pytest.mark.parametrize("error", [InvalidInput("no"), psycopg.errors.SyntaxError("no"), KeyError("no"), OSError("no")])
async def test_what_will_never_succeed_is_undone_in_reverse(empty: House, error: Exception) -> None:
    world = World(failures={"act c": [error]})
    async with bench(empty, world.kind("a", "b", "c", "d")) as it:
        with pytest.raises(TenantryError, match="no"):
            await it.run()
    assert world.log[3:] == ["undo c", "forget c", "undo b", "forget b", "undo a", "forget a"]
    assert world.done == []
    operation = newest(empty)
    assert (operation["state"], operation["error"]["step"]) == ("undone", "c")
    assert steps_of(empty, operation["id"]) == []


async def test_an_error_of_ours_comes_out_as_it_is_and_says_where(empty: House) -> None:
    world = World(failures={"act a": [InvalidInput("that can't be", hint="do this")]})
    async with bench(empty, world.kind("a")) as it:
        with pytest.raises(InvalidInput, match="that can't be") as caught:
            await it.run()
    assert caught.value.where == f"operation {newest(empty)['id']}"
    assert caught.value.hint == "do this"


async def test_an_error_that_says_where_keeps_its_place(empty: House) -> None:
    world = World(failures={"act a": [InvalidInput("that can't be", where="table x")]})
    async with bench(empty, world.kind("a")) as it:
        with pytest.raises(InvalidInput) as caught:
            await it.run()
    assert caught.value.where == "table x"


async def test_predecessors_are_named_once_for_each_shard(empty: House) -> None:
    async with bench(empty, World().kind("a")) as it:
        claim = Claim(it.store, {**await it.start(), "predecessors": ["me", "other"]}, 1.0, me="me")
    assert [claim.predecessors(shard) for shard in ("one", "one", "two")] == [["other"], (), ["other"]]


async def test_another_error_names_the_operation_and_the_step(empty: House) -> None:
    world = World(failures={"act b": [psycopg.errors.UndefinedTable('relation "x" does not exist\nLINE 1')]})
    async with bench(empty, world.kind("a", "b")) as it:
        with pytest.raises(OperationFailed) as caught:
            await it.run()
    assert caught.value.message == "test failed at the step 'b' and was undone: relation \"x\" does not exist"
    assert newest(empty)["error"] == {"step": "b", "code": "42P01", "message": 'relation "x" does not exist'}


@pytest.mark.parametrize("error", [InvalidInput("no"), ServerUnreachable("away")])
async def test_past_the_point_of_no_return_it_only_goes_forward(empty: House, error: Exception) -> None:
    world = World(failures={"act c": [error] * 9})
    async with bench(empty, world.kind("a", "b", "c", final="b")) as it:
        for attempt in range(9):
            let_go(empty)
            with pytest.raises(OperationFailed, match="stopped"):
                await (it.run() if attempt == 0 else it.engine.work())
        let_go(empty)
        assert await it.engine.work() == "done"
    assert world.done == ["a", "b", "c"]


async def test_an_undoing_that_fails_is_tried_again_and_keeps_the_first_error(empty: House) -> None:
    world = World(failures={"act b": [InvalidInput("no")], "undo a": [ServerUnreachable("away"), KeyError("odd")]})
    async with bench(empty, world.kind("a", "b")) as it:
        with pytest.raises(OperationFailed, match="undoing test stopped at the step 'a': away"):
            await it.run()
        assert newest(empty)["state"] == "undoing"
        assert newest(empty)["error"]["message"] == "no"
        assert newest(empty)["error"]["undo"] == {
            "step": "a",
            "code": "server-unreachable",
            "message": "away",
            "hint": ServerUnreachable.default_hint,
        }
        assert await it.engine.work() is None
        let_go(empty)
        with pytest.raises(OperationFailed, match="odd"):
            await it.engine.work()
        let_go(empty)
        assert await it.engine.work() == "undone"
    assert newest(empty)["state"] == "undone"
    assert world.done == []


async def test_what_waits_holds_its_tenants_and_goes_on_at_its_time(empty: House) -> None:
    until: list[datetime] = [datetime.now(UTC) + SOON]
    world = World(failures={"act b": [Wait(until[0])]})
    tenant = new_tenant(empty)
    async with bench(empty, world.kind("a", "b")) as it:
        assert await it.run(tenant) == "waiting"
        assert newest(empty)["resume_at"] == until[0]
        with pytest.raises(OperationOpen):
            await it.start(tenant)
        assert await it.engine.work() is None
        let_go(empty)
        assert await it.engine.work() == "done"
        assert await it.engine.open_operation(tenant) is None
        assert await it.run(tenant) == "done"


async def test_a_tenant_has_one_open_operation_however_many_ask_at_once(empty: House) -> None:
    world = World(failures={"act a": [Wait(datetime.now(UTC) + SOON)]})
    tenant = new_tenant(empty)
    async with bench(empty, world.kind("a")) as it:
        found = await asyncio.gather(*(it.run(tenant) for _ in range(6)), return_exceptions=True)
    assert sorted(str(each) if isinstance(each, str) else type(each).__name__ for each in found) == [
        *["OperationOpen"] * 5,
        "waiting",
    ]


async def test_a_tenant_is_free_when_its_operation_was_undone(empty: House) -> None:
    world = World(failures={"act a": [InvalidInput("no")]})
    tenant = new_tenant(empty)
    async with bench(empty, world.kind("a")) as it:
        with pytest.raises(InvalidInput):
            await it.run(tenant)
        assert await it.run(tenant) == "done"


async def test_nobody_takes_an_operation_whose_worker_lives(empty: House) -> None:
    world = World()
    async with bench(empty, world.kind("a")) as mine, bench(empty, world.kind("a")) as theirs:
        claimed = await mine.start()
        assert await theirs.engine.work() is None
        assert await mine.engine.run(claimed) == "done"


async def test_a_process_does_not_take_from_itself_what_it_is_at_work_on(empty: House) -> None:
    """However late its heartbeat is: it would end its own sessions."""
    acting, going_on = asyncio.Event(), asyncio.Event()

    async def act(work: Work) -> None:
        acting.set()
        await going_on.wait()

    async with bench(empty, Kind("test", [Step("long", act)])) as it:
        running = asyncio.create_task(it.run())
        await acting.wait()
        expire(empty)
        assert await it.engine.work() is None
        going_on.set()
        assert await running == "done"


async def test_who_lost_an_operation_can_neither_commit_nor_undo(empty: House) -> None:
    world = World()
    async with bench(empty, world.kind("a", "b")) as mine, bench(empty, world.kind("a", "b")) as theirs:
        claimed = await mine.start()
        expire(empty)
        assert await theirs.engine.work() == "done"
        assert await mine.engine.run(claimed) == "running"
        assert newest(empty)["state"] == "done"
    assert recorded(empty, claimed["id"]) == ["a", "b"]


async def test_who_lost_an_operation_and_then_fails_does_not_undo_it(empty: House) -> None:
    world = World()
    other = World(failures={"act a": [InvalidInput("no")]})
    async with bench(empty, other.kind("a", "b")) as mine, bench(empty, world.kind("a", "b")) as theirs:
        claimed = await mine.start()
        expire(empty)
        assert await theirs.engine.work() == "done"
        assert await mine.engine.run(claimed) == "running"
    assert other.log == ["act a"]
    assert newest(empty)["state"] == "done"


async def test_only_who_did_not_let_go_is_a_predecessor(empty: House) -> None:
    world = World(failures={"act a": [ServerUnreachable("away")]})
    async with bench(empty, world.kind("a")) as first, bench(empty, world.kind("a")) as second:
        with pytest.raises(OperationFailed):
            await first.run()
        let_go(empty)
        assert await second.engine.work() == "done"
        assert newest(empty)["predecessors"] == []
        await first.start()
        expire(empty)
        await second.engine.work()
        assert newest(empty)["predecessors"] == [claimed_owner(first)]


def claimed_owner(it: Bench) -> str:
    return it.engine._estate.name


async def test_a_lease_is_kept_as_long_as_a_step_takes(empty: House) -> None:
    going_on = asyncio.Event()

    async def act(work: Work) -> None:
        await going_on.wait()

    async with bench(empty, Kind("test", [Step("long", act)]), lease=0.3) as it:
        claimed = await it.start()
        before = newest(empty)["lease_until"]
        running = asyncio.create_task(it.engine.run(claimed))
        while newest(empty)["lease_until"] <= before + timedelta(seconds=0.3):
            await asyncio.sleep(0)
            assert await it.engine.work() is None
        going_on.set()
        assert await running == "done"


async def test_operations_of_another_version_are_left_alone(empty: House) -> None:
    world = World()
    async with bench(empty, world.kind("a")) as it:
        await it.start()
        with catalog(empty) as conn:
            conn.execute("UPDATE operations SET kind = 'later' WHERE state = 'running'")
        expire(empty)
        assert await it.engine.work() is None
        assert [row["kind"] for row in await it.engine.unfinished()] == ["later"]
        assert [row["stalled"] for row in await it.engine.unfinished()] == [True]


async def test_what_waits_can_be_called_back(empty: House) -> None:
    world = World(failures={"act b": [Wait(datetime.now(UTC) + SOON)]})
    async with bench(empty, world.kind("a", "b")) as it:
        await it.run()
        await it.engine.recall(newest(empty)["id"])
    assert newest(empty)["state"] == "undone"
    assert world.done == []


async def test_what_has_failed_for_now_can_be_called_back(empty: House) -> None:
    world = World(failures={"act b": [ServerUnreachable("away")]})
    async with bench(empty, world.kind("a", "b")) as it:
        with pytest.raises(OperationFailed):
            await it.run()
        await it.engine.recall(newest(empty)["id"])
    assert newest(empty)["state"] == "undone"


async def test_what_is_at_work_or_over_or_past_return_can_not_be_called_back(empty: House) -> None:
    world = World(failures={"act b": [Wait(datetime.now(UTC) + SOON)], "act c": [ServerUnreachable("away")]})
    async with bench(empty, world.kind("a", "b", "c", final="c")) as it:
        claimed = await it.start()
        with pytest.raises(OperationOpen):
            await it.engine.recall(claimed["id"])
        assert await it.engine.run(claimed) == "waiting"
        let_go(empty)
        with pytest.raises(OperationFailed):
            await it.engine.work()
        with pytest.raises(OperationOpen):
            await it.engine.recall(claimed["id"])
        let_go(empty)
        assert await it.engine.work() == "done"
        with pytest.raises(OperationOpen):
            await it.engine.recall(claimed["id"])


async def test_a_cancelled_task_lets_go_at_once(empty: House) -> None:
    acting = asyncio.Event()

    async def act(work: Work) -> None:
        acting.set()
        await asyncio.Event().wait()

    world = World()
    async with bench(empty, Kind("test", [world.step("a"), Step("b", act)])) as it:
        running = asyncio.create_task(it.run())
        await acting.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert newest(empty)["state"] == "pending"
        async with bench(empty, Kind("test", [world.step("a"), world.step("b")])) as other:
            assert await other.engine.work() == "done"
    assert world.log == ["act a", "act b"]


async def test_a_plugin_that_fails_when_all_is_done_changes_nothing(empty: House) -> None:
    class Plugin:
        @hookimpl
        def operation_moment(self, moment: str) -> None:
            if moment == "after":
                raise KeyError("plugin")

    world = World()
    async with bench(empty, world.kind("a")) as it:
        it.engine.hooks.register(Plugin())
        with pytest.raises(KeyError):
            await it.run()
    assert newest(empty)["state"] == "done"


async def test_an_operation_is_shown(empty: House) -> None:
    async with bench(empty, World().kind("a")) as it:
        await it.run()
        shown = await it.engine.show(newest(empty)["id"])
        assert (shown["kind"], shown["state"], shown["step"], shown["actor"]) == ("test", "done", "a", "tester")
        with pytest.raises(OperationNotFound):
            await it.engine.show(0)


FAILURES = st.dictionaries(
    st.sampled_from([f"{what} {name}" for what in ("act", "record", "undo", "forget") for name in "abcd"]),
    st.lists(st.sampled_from(["passing", "lasting", "wait", "lost"]), max_size=3),
    max_size=5,
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(failures=FAILURES, final=st.sampled_from([None, "b", "d"]))
async def test_whatever_fails_in_the_end_all_is_done_or_nothing(
    empty: House, failures: dict[str, list[str]], final: str | None
) -> None:
    """Errors of all sorts, waits, and workers that are lost in the middle, at any step, doing or undoing."""
    errors: dict[str, BaseException] = {
        "passing": ServerUnreachable("away"),
        "lasting": InvalidInput("no"),
        "wait": Wait(datetime.now(UTC) + SOON),
        "lost": asyncio.CancelledError(),
    }
    world = World(failures={where: [errors[what] for what in kinds] for where, kinds in failures.items()})
    tenant = new_tenant(empty)
    async with bench(empty, world.kind("a", "b", "c", "d", final=final)) as it:
        claimed = await it.start(tenant)
        for attempt in range(60):
            with suppress(TenantryError, asyncio.CancelledError):
                await (it.engine.run(claimed) if attempt == 0 else it.engine.work(claimed["id"]))
            if newest(empty)["state"] in ("done", "undone"):
                break
            let_go(empty)
        state = newest(empty)["state"]
        assert world.done == {"done": ["a", "b", "c", "d"], "undone": []}[state]
        assert steps_of(empty, claimed["id"]) == world.done
        assert await it.engine.open_operation(tenant) is None
        if f"act {final}" in world.log:
            assert state == "done"
