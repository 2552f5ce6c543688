"""Plans, shards, the perimeter, keys, the house: what their commands say and do."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tenantry.postgres.connect import parse_dsn
from tenantry.postgres.server import LocalServer
from tests.cli.conftest import Run, Start, finish
from tests.fixtures.house import House

pytestmark = pytest.mark.usefixtures("at")


def fresh() -> str:
    return f"n-{uuid.uuid4().hex[:10]}"


def execute(house: House, query: str, database: str | None = None) -> None:
    """As the superuser, in the pooled database."""
    placement = house.tenants["pooled-a"].placement
    assert placement is not None
    with psycopg.connect(house.servers[0].dsn(database or placement.database), autocommit=True) as conn:
        conn.execute(query.encode())


def test_a_plan_lives_from_create_to_delete(run: Run) -> None:
    name = fresh()
    options = ("--isolation", "schema", "--weight", "4", "--warm", "0", "--grace", "3600", "--replica-seconds", "60")
    limits = ("--limit", "statement_timeout=30s", "--limit", "work_mem=8MB")
    features = ("--feature", "seats=25", "--feature", "support=phone", "--feature", 'tags=["a", "b"]')
    made = run("plan", "create", name, *options, *limits, *features, "--json").json
    assert made == {
        "name": name,
        "isolation": "schema",
        "weight": 4,
        "limits": {"statement_timeout": "30s", "work_mem": "8MB"},
        "features": {"seats": 25, "support": "phone", "tags": ["a", "b"]},
        "warm": 0,
        "grace": 3600,
        "replica_seconds": 60,
    }
    shown = run("plan", "show", name).out
    assert "  limits     statement_timeout=30s, work_mem=8MB\n" in shown
    assert "  grace      1 h\n" in shown
    assert "  replicas   at most 1 min behind\n" in shown
    assert [each["tenants"] for each in run("plan", "list", "--json").json if each["name"] == name] == [0]
    assert run("plan", "delete", name).out == f"deleted plan {name}\n"
    assert run("plan", "show", name, "--json").error["code"] == "plan-not-found"


def test_a_change_of_a_plan_leaves_the_rest_as_it_was(run: Run) -> None:
    name = fresh()
    run("plan", "create", name, "--limit", "statement_timeout=30s", "--limit", "lock_timeout=5s", "--feature", "a=1")
    changes = ("--limit", "lock_timeout=1s", "--no-limit", "statement_timeout", "--feature", "b=2", "--no-feature", "a")
    changed = run("plan", "change", name, *changes, "--weight", "9", "--json").json
    assert changed["limits"] == {"lock_timeout": "1s"}
    assert changed["features"] == {"b": 2}
    assert (changed["weight"], changed["isolation"], changed["grace"]) == (9, "pooled", 604800)


def test_the_limits_of_a_plan_hold_from_the_next_transaction_on(run: Run) -> None:
    name, slug = fresh(), fresh()
    run("plan", "create", name, "--limit", "statement_timeout=40s")
    run("tenant", "create", slug, "--plan", name)
    for timeout in ("40s", "50s"):
        run("plan", "change", name, "--limit", f"statement_timeout={timeout}")
        assert run("sql", slug, "--csv", "-c", "SHOW statement_timeout").out == f"statement_timeout\n{timeout}\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--limit", "statement_timeout"), "'statement_timeout' is not a limit"),
        (("--limit", "log_statement=all"), "'log_statement' is not a limit"),
        (("--limit", "statement_timeout=soon"), "'soon' is not a value for statement_timeout"),
        (("--weight", "0"), "0 is not a weight"),
        (("--warm", "-1"), "-1 is not a warm"),
        (("--isolation", "padded"), "'padded' is not an isolation"),
        (("--feature", "=1"), "'=1' is not a feature"),
    ],
)
def test_a_wrong_value_of_a_plan_is_refused(run: Run, options: tuple[str, ...], message: str) -> None:
    answer = run("plan", "create", fresh(), *options)
    assert (answer.code, answer.err.splitlines()[0]) == (2, f"error[invalid-input]: {message}")
    assert "  next:   " in answer.err


def test_what_a_plan_does_not_have_can_t_be_removed(run: Run) -> None:
    assert "the plan has no limit 'work_mem'" in run("plan", "change", "free", "--no-limit", "work_mem").err


def test_a_plan_with_tenants_is_in_use(run: Run) -> None:
    answer = run("plan", "delete", "free", "--json")
    assert (answer.code, answer.error["code"]) == (4, "in-use")


def test_a_closed_shard_takes_no_tenants_until_it_is_opened(run: Run) -> None:
    try:
        for _ in range(2):
            assert "  state    closed\n" in run("shard", "close", "main").out
        answer = run("tenant", "create", fresh())
        assert "no open shard takes" in answer.err
        assert "next:   add a shard with 'tenantry shard add'" in answer.err
    finally:
        assert run("shard", "open", "main", "--json").json["state"] == "open"
    assert run("tenant", "create", fresh()).code == 0


def test_applications_can_be_led_elsewhere_and_back(run: Run) -> None:
    [main] = run("shard", "list", "--json").json
    try:
        changed = run("shard", "change", "main", "--address", "host=pgbouncer port=6432")
        assert "  where    host=pgbouncer port=6432\n" in changed.out
    finally:
        assert run("shard", "change", "main", "--address", main["dsn"], "--json").json["dsn"] == main["dsn"]
    assert "there is nothing to change" in run("shard", "change", "main").err


def test_shards_are_shown_with_their_tenants_and_without_passwords(run: Run) -> None:
    [main] = run("shard", "list", "--json").json
    assert (main["name"], main["state"], main["binding"]) == ("main", "open", "sealed")
    assert main["tenants"] >= 4
    for verb in (("list",), ("show", "main"), ("show", "main", "--json")):
        assert "password" not in run("shard", *verb).out


def test_the_wall_is_closed_and_opens_with_a_table_that_came_by_hand(run: Run, at: House) -> None:
    """A tenant table that is added later, without a policy, is found by check, plan and doctor; apply closes it."""
    assert run("perimeter", "check").out == "closed\n"
    assert run("perimeter", "plan").out == "-- The wall is closed; there is nothing to change.\n"
    execute(at, "CREATE TABLE late (tenant_id bigint NOT NULL, id int, PRIMARY KEY (tenant_id, id))")
    check, plan, doctor = run("perimeter", "check"), run("perimeter", "plan"), run("doctor")
    assert (check.code, plan.code, doctor.code) == (1, 0, 1)
    assert "public.late: row security is not enabled and forced\n" in check.out
    assert "  next:   'tenantry perimeter apply --shard main --database app_" in check.out
    assert "ALTER TABLE public.late FORCE ROW LEVEL SECURITY;" in plan.out
    assert "public.late: row security is not enabled and forced" in doctor.out
    assert run("perimeter", "check", "--json").json["closed"] is False
    applied = run("perimeter", "apply")
    assert (applied.code, applied.out.splitlines()[-1]) == (0, "closed")
    assert run("perimeter", "check", "--json").json == {"closed": True, "sections": []}
    assert run("perimeter", "apply").out == "closed\n"


def test_the_plan_of_the_wall_is_sql_that_can_be_reviewed_and_run(run: Run, at: House, own_folder: Path) -> None:
    execute(at, "CREATE TABLE by_hand (tenant_id bigint NOT NULL, id int, PRIMARY KEY (tenant_id, id))")
    answer = run("perimeter", "plan", "--shard", "main", "-o", "wall.sql")
    assert (answer.code, answer.out, answer.err) == (0, "", "wrote wall.sql\n")
    execute(at, (own_folder / "wall.sql").read_text())
    assert run("perimeter", "check").code == 0


def test_what_sql_can_t_mend_is_a_finding_and_ends_with_1(run: Run, at: House) -> None:
    execute(at, "CREATE TABLE loose (tenant_id bigint NOT NULL, id int PRIMARY KEY)")
    try:
        applied = run("perimeter", "apply")
        assert (applied.code, applied.out.splitlines()[-1]) == (1, "open: see the findings")
        checked = run("perimeter", "check")
        assert (checked.code, checked.out.startswith("finding (high): main/app_")) == (1, True)
        assert "  next:   replace it by one that contains tenant_id\n" in checked.out
        assert "-- To mend it: replace it" in run("perimeter", "plan").out
    finally:
        execute(at, "DROP TABLE loose")


def test_a_database_that_is_not_there_is_not_found(run: Run) -> None:
    answer = run("perimeter", "check", "--shard", "main", "--database", "mars", "--json")
    assert (answer.code, answer.error["code"]) == (3, "not-found")


def test_a_key_is_rotated_and_never_shown(run: Run) -> None:
    [before] = [key["kid"] for key in run("key", "list", "--json").json if key["state"] == "active"]
    assert run("key", "rotate", "--overlap", "0").out == "rotated: the new key signs\n"
    after = run("key", "list", "--json").json
    assert [(set(key), key["state"]) for key in after] == [({"kid", "state", "created_at", "not_after"}, "active")]
    assert before not in run("key", "list").out
    assert run("sql", "database-a", "-c", "SELECT 1").code == 0


def test_an_old_key_that_is_still_good_is_retired_by_a_worker(run: Run) -> None:
    assert run("key", "rotate", "--json").json == {"state": "waiting"}
    assert sorted(key["state"] for key in run("key", "list", "--json").json) == ["active", "retiring"]
    left = run("worker", "--once", "--json").json["left"]
    assert left == {"waiting": 1}


def test_migrate_and_refill_say_what_they_did(run: Run) -> None:
    assert run("migrate").out == "every space has the template's version\n"
    name = fresh()
    run("plan", "create", name, "--isolation", "schema", "--warm", "2")
    try:
        assert run("refill").out == "built 2 homes\n"
        assert run("refill", "--json").json == {"built": 0}
        assert [shard["warm"] for shard in run("shard", "list", "--json").json] == [2]
    finally:
        run("plan", "delete", name)


def test_a_worker_finishes_a_deletion_and_ends_at_sigterm(run: Run, at: House, start: Start) -> None:
    slug = fresh()
    run("tenant", "create", slug, "--isolation", "schema")
    process = start("worker", "--interval", "0.1", "--json", stderr=subprocess.PIPE)
    assert process.stderr is not None
    assert json.loads(process.stderr.readline())["message"] == "working, looking every 0.1 s"
    run("tenant", "delete", slug, "--confirm", slug, "--grace", "1")
    said: list[str] = []
    while not any("(delete): did forget" in line for line in said):
        said.append(json.loads(process.stderr.readline())["message"])
    assert run("tenant", "show", slug).code == 3
    process.send_signal(signal.SIGTERM)
    answer = finish(process)
    messages = [json.loads(line)["message"] for line in answer.err.splitlines()]
    assert (answer.code, messages[-1]) == (0, "ended")


def test_a_worker_outlives_a_catalog_that_is_away_for_a_while(run: Run, at: House, start: Start) -> None:
    """Its connections are ended under it; it says so, and goes on at the next turn."""
    process = start("worker", "--interval", "0.1", env={**os.environ, "TENANTRY_CONNECT_SECONDS": "0.5"})
    assert process.stderr is not None
    process.stderr.readline()
    with psycopg.connect(at.servers[0].dsn(), autocommit=True) as conn:
        name = parse_dsn(at.control_settings.control_dsn)["dbname"]
        conn.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
        conn.execute(query, (name,))
        line = ""
        while "looking again in 0.1 s" not in line:
            line = process.stderr.readline()
        conn.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    slug = fresh()
    run("tenant", "create", slug)
    run("tenant", "delete", slug, "--confirm", slug, "--grace", "1")
    while "(delete): did forget" not in line:
        line = process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    assert finish(process).code == 0


@pytest.fixture
def at_work(at: House, start: Start) -> Iterator[tuple[subprocess.Popen[str], psycopg.Connection]]:
    """A worker in the middle of an operation, with the connection whose end lets it go on."""

    async def begin() -> None:
        async with at.control() as control, control.store.transaction() as conn:
            operation = await control.engine.start(conn, "migrate", {}, [], "test")
            await conn.execute(
                "UPDATE operations SET state = 'pending', lease_until = NULL WHERE id = %s", (operation["id"],)
            )

    asyncio.run(begin())
    with psycopg.connect(at.control_settings.control_dsn) as conn:
        conn.execute("LOCK TABLE tenantry_catalog.operation_steps")
        process = start("worker", "--interval", "0.1")
        waiting = "relation = 'tenantry_catalog.operation_steps'::regclass AND NOT granted"
        query = f"SELECT count(*) FROM pg_locks WHERE {waiting}".encode()
        while conn.execute(query).fetchone() == (0,):
            assert process.poll() is None
        yield process, conn


def read_until(process: subprocess.Popen[str], words: str) -> None:
    """Read a worker's log up to a line with these words."""
    assert process.stderr is not None
    while line := process.stderr.readline():
        if words in line:
            return
    raise AssertionError(f"{words!r} was never said")


def test_a_worker_that_is_told_to_end_finishes_what_it_is_at(
    at_work: tuple[subprocess.Popen[str], psycopg.Connection],
) -> None:
    process, conn = at_work
    process.send_signal(signal.SIGTERM)
    read_until(process, "ending after what is at work")
    assert process.poll() is None
    conn.rollback()
    read_until(process, "(migrate): did spaces")
    answer = finish(process)
    assert (answer.code, "ended" in answer.err) == (0, True)


def test_a_worker_that_is_told_twice_ends_at_once_and_another_one_goes_on(
    run: Run, at: House, at_work: tuple[subprocess.Popen[str], psycopg.Connection]
) -> None:
    process, conn = at_work
    process.send_signal(signal.SIGTERM)
    read_until(process, "ending after what is at work")
    process.send_signal(signal.SIGTERM)
    answer = finish(process)
    assert (answer.code, "Traceback" in answer.err) == (0, False)
    assert "ended at once; another worker goes on where this one stopped" in answer.err
    conn.rollback()
    execute(at, "UPDATE tenantry_catalog.operations SET lease_until = now()", database=conn.info.dbname)
    done = run("worker", "--once", "--json").json
    assert (done["worked"] >= 1, "running" in done["left"]) == (True, False)


@pytest.mark.parametrize("interval", ["0", "-1", "1e9", "nan"])
def test_a_worker_refuses_an_interval_that_makes_no_sense(run: Run, interval: str) -> None:
    answer = run("worker", f"--interval={interval}")
    assert (answer.code, "use 0.1 to 3600" in answer.err) == (2, True)


def test_a_second_server_is_taken_in_by_its_dsn_from_standard_input(run: Run, second_server: LocalServer) -> None:
    dsn = second_server.dsn(tcp=True)
    added = run("shard", "add", "second", "-", "--take-over", "--dedicated", "--database", "app_second", stdin=dsn)
    assert added.code == 0, added.err
    assert added.out.startswith("added shard second: sealed, open, at host=127.0.0.1 port=")
    again = run("shard", "add", "second", dsn)
    assert (again.code, "there is a shard 'second' already" in again.err) == (4, True)
    slug = fresh()
    made = run("tenant", "create", slug, "--isolation", "database", "--shard", "second", "--json").json
    assert made["placement"]["shard"] == "second"
    assert run("sql", slug, "-c", "INSERT INTO orders (note) VALUES ('here')").code == 0
    assert {check["status"] for check in run("doctor", "--json").json["checks"]} <= {"ok", "warning"}
