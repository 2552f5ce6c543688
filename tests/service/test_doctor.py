"""The doctor finds what is broken on a real house, names what to do, and breaks nothing itself."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest

from tenantry.perimeter.binder import APP
from tenantry.postgres.connect import merge_dsn
from tenantry.service import house as houses
from tenantry.service import perimeter, plan
from tenantry.service.check import Check, Status
from tenantry.service.control import Control
from tenantry.service.doctor import examine, judge_key, judge_migrations
from tenantry.service.doctor_shards import judge_clock, judge_settings
from tenantry.settings import Settings
from tests.fixtures.house import TEMPLATE, House

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def doctor(house: House, **changes: Any) -> dict[str, Check]:
    """What the doctor finds, by name; with some settings changed."""
    control = house.control_settings
    settings = {
        "catalog": house.settings.catalog_dsn,
        "control": control.control_dsn,
        "template": control.template,
        "shared_tables": control.shared_tables,
        **changes,
    }
    found = asyncio.run(examine(Settings(**settings)))
    assert len({check.name for check in found}) == len(found)
    return {check.name: check for check in found}


def wrong(checks: dict[str, Check]) -> set[str]:
    """The names of what has failed."""
    return {name for name, check in checks.items() if check.status is Status.FAILED}


def operate(house: House, verb: Callable[[Control], Any]) -> Any:
    async def run() -> Any:
        async with house.control() as control:
            return await verb(control)

    return asyncio.run(run())


@contextmanager
def catalog(house: House) -> Iterator[psycopg.Connection]:
    options = "-c search_path=tenantry_catalog"
    with psycopg.connect(merge_dsn(house.control_settings.control_dsn, options=options), autocommit=True) as conn:
        yield conn


@contextmanager
def pooled(house: House) -> Iterator[psycopg.Connection]:
    placement = house.tenants["pooled-a"].placement
    assert placement is not None
    with psycopg.connect(house.servers[0].dsn(placement.database), autocommit=True) as conn:
        yield conn


def test_a_house_that_is_well_is_said_to_be(house: House) -> None:
    checks = doctor(house)
    assert wrong(checks) == set()
    assert {name for name, check in checks.items() if check.status is Status.SKIPPED} == set()
    assert {name for name, check in checks.items() if check.status is Status.WARNING} <= {
        "catalog version",
        "shard main version",
    }
    assert checks["shard main binding"].what.startswith("sealed: ")
    assert checks["shard main perimeter"].what == "closed: 2 databases, 3 schemas"
    assert checks["template"].what.startswith("all 4 spaces are at version 0001-")
    assert checks["shard main settings"].what == "fit for tenants"


def test_every_check_that_is_not_well_says_what_to_do(house: House) -> None:
    dsn = merge_dsn(house.control_settings.control_dsn, dbname="postgres")
    for checks in (doctor(house), doctor(house, control=dsn), doctor(house, control="host=127.0.0.1 port=1")):
        bad = [check for check in checks.values() if check.status in (Status.WARNING, Status.FAILED)]
        assert [check.name for check in bad if not check.next] == []


def test_the_doctor_changes_nothing(house: House) -> None:
    def state() -> list[Any]:
        with catalog(house) as conn:
            tables = ("audit_log", "operations", "spaces", "signing_keys", "shards", "tenants")
            return [conn.execute(f"SELECT * FROM {table} ORDER BY 1".encode()).fetchall() for table in tables]

    before = state()
    doctor(house)
    assert state() == before


def test_settings_that_can_t_be_read_are_the_first_to_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENANTRY_CONFIG", str(tmp_path / "none.toml"))
    first, *rest = asyncio.run(examine())
    assert (first.name, first.status, first.what) == ("settings", Status.FAILED, "setting 'catalog': Field required")
    assert {check.status for check in rest} == {Status.SKIPPED}


def test_an_application_s_machine_looks_at_what_it_can(house: House) -> None:
    checks = doctor(house, control=None)
    assert checks["catalog login"].status is Status.OK
    assert checks["shards"].status is Status.SKIPPED
    assert "no setting 'control'" in checks["shards"].what


def test_an_application_that_may_change_the_catalog_is_warned_of(house: House) -> None:
    check = doctor(house, catalog=house.control_settings.control_dsn)["catalog login"]
    assert (check.status, "who may change the catalog" in check.what) == (Status.WARNING, True)


def test_a_database_without_a_catalog_is_named(house: House) -> None:
    checks = doctor(house, control=merge_dsn(house.control_settings.control_dsn, dbname="postgres"))
    assert wrong(checks) == {"catalog migrations"}
    assert checks["catalog migrations"].what == "there is no catalog"
    assert checks["shards"].status is Status.SKIPPED


def test_a_catalog_that_is_away_leaves_the_rest_skipped(house: House) -> None:
    checks = doctor(house, control="postgresql://postgres@127.0.0.1:1/x")
    assert wrong(checks) == {"catalog"}
    assert "Connection refused" in checks["catalog"].what
    assert checks["signing key"].status is checks["shards"].status is Status.SKIPPED


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("DELETE FROM tenantry_migrations WHERE number = 3", "1 are missing, from 0003 on"),
        ("UPDATE tenantry_migrations SET checksum = 'x' WHERE number = 2", "migration 0002 differs"),
        ("INSERT INTO tenantry_migrations VALUES (9999, 'later', 'x')", "the catalog is at migration 9999"),
    ],
)
def test_migrations_of_another_version_are_named(house: House, change: str, words: str) -> None:
    with catalog(house) as conn:
        rows = conn.execute("SELECT * FROM tenantry_migrations").fetchall()
        conn.execute(change.encode())
        try:
            check = doctor(house)["catalog migrations"]
        finally:
            conn.execute("TRUNCATE tenantry_migrations")
            conn.cursor().executemany("INSERT INTO tenantry_migrations VALUES (%s, %s, %s, %s)", rows)
    assert (check.status, words in check.what) == (Status.FAILED, True), check


def test_no_migrations_at_all_means_no_catalog() -> None:
    assert judge_migrations("catalog migrations", []).what == "there is no catalog"


def key(left: timedelta) -> Any:
    return {"kid": "k1", "created_at": NOW - timedelta(days=60), "not_after": NOW + left}


@pytest.mark.parametrize(
    ("left", "status", "words"),
    [
        (timedelta(days=30), Status.OK, "k1 is 60 days old and expires in 30 days"),
        (timedelta(days=13), Status.WARNING, "expires in 13 days"),
        (timedelta(0), Status.FAILED, "k1 has expired"),
        (timedelta(days=-1), Status.FAILED, "k1 has expired"),
    ],
)
def test_a_key_is_judged_by_what_is_left_of_its_time(left: timedelta, status: Status, words: str) -> None:
    check = judge_key("signing key", key(left), NOW)
    assert (check.status, words in check.what) == (status, True)


def test_a_house_without_an_active_key_is_named(house: House) -> None:
    with catalog(house) as conn:
        conn.execute("UPDATE signing_keys SET state = 'retiring'")
        try:
            check = doctor(house)["signing key"]
        finally:
            conn.execute("UPDATE signing_keys SET state = 'active'")
    assert (check.status, "there is no active key" in check.what) == (Status.FAILED, True)


STATES = {
    "stalled": (
        "UPDATE operations SET state = 'running', lease_until = now() - interval '1 minute' WHERE id = %s",
        Status.FAILED,
        "1 have lost their worker",
        "tenantry worker --once",
    ),
    "failing": (
        """UPDATE operations SET state = 'pending', lease_until = NULL, resume_at = now() + interval '1 minute',
           error = '{"message": "disk full"}' WHERE id = %s""",
        Status.WARNING,
        "1 have failed and are tried again",
        "mend what their errors name",
    ),
    "overdue": (
        """UPDATE operations SET state = 'waiting', lease_until = NULL, resume_at = now() - interval '1 hour'
           WHERE id = %s""",
        Status.WARNING,
        "no worker runs",
        "keep 'tenantry worker' running",
    ),
}


@pytest.mark.parametrize(("change", "status", "what", "step"), STATES.values(), ids=STATES)
def test_operations_that_nobody_works_on_are_named(
    house: House, change: str, status: Status, what: str, step: str
) -> None:
    async def begin(control: Control) -> int:
        async with control.store.transaction() as conn:
            row = await control.engine.start(conn, "migrate", {}, [], "test")
        return int(row["id"])

    operation = operate(house, begin)
    with catalog(house) as conn:
        conn.execute(change.encode(), (operation,))
        check = doctor(house)["operations"]
        conn.execute("UPDATE operations SET state = 'pending', resume_at = NULL WHERE id = %s", (operation,))
    assert (check.status, what in check.what, step in (check.next or "")) == (status, True, True), check
    assert f"operation {operation} (migrate, " in (check.where or "")
    operate(house, houses.work)
    assert doctor(house)["operations"].status is Status.OK


def test_a_warm_pool_below_its_size_is_named_until_it_is_refilled(house: House) -> None:
    operate(house, lambda control: plan.change(control, "business", warm=2))
    check = doctor(house)["warm pools"]
    assert (check.status, check.what) == (Status.WARNING, "missing: 2 of schema on main")
    operate(house, houses.refill)
    assert doctor(house)["warm pools"].status is Status.OK


def test_what_a_dead_process_has_in_reserve_is_named_until_a_worker_comes(house: House) -> None:
    with catalog(house) as conn:
        conn.execute(
            "INSERT INTO reserved (key, space, plan, holder, until)"
            " SELECT '77001', id, 'free', 'gone', now() - interval '1 hour' FROM spaces WHERE isolation = 'pooled'"
        )
    check = doctor(house)["warm pools"]
    assert (check.status, "1 home still in reserve" in check.what) == (Status.WARNING, True)
    operate(house, houses.work)
    assert doctor(house)["warm pools"].status is Status.OK


def test_spaces_behind_the_template_are_named(house: House, tmp_path: Path) -> None:
    folder = tmp_path / "template"
    shutil.copytree(TEMPLATE, folder)
    last = max(int(file.name[:4]) for file in folder.glob("*.sql"))
    (folder / f"{last + 1:04}_more.sql").write_text("SELECT 1;")
    check = doctor(house, template=f"sql:{folder}")["template"]
    assert (check.status, "spaces are not at version" in check.what) == (Status.WARNING, True)
    assert check.next == "run 'tenantry migrate'"
    assert "main/" in (check.where or "")


def test_a_template_that_can_t_be_read_is_named(house: House, tmp_path: Path) -> None:
    assert doctor(house, template=f"sql:{tmp_path / 'gone'}")["template"].status is Status.FAILED
    assert doctor(house, template="sqlalchemy:no.such.module:metadata")["template"].status is Status.FAILED
    assert doctor(house, template=None)["template"].status is Status.SKIPPED


@contextmanager
def shard_with(house: House, **columns: str) -> Iterator[None]:
    with catalog(house) as conn:
        for column, value in columns.items():
            conn.execute(f"ALTER TABLE shards ADD old_{column} text".encode())
            conn.execute(f"UPDATE shards SET old_{column} = {column}, {column} = %s".encode(), (value,))
        try:
            yield
        finally:
            for column in columns:
                conn.execute(f"UPDATE shards SET {column} = old_{column}".encode())
                conn.execute(f"ALTER TABLE shards DROP old_{column}".encode())


def test_a_shard_that_is_away_is_named_and_its_walls_are_skipped(house: House) -> None:
    with shard_with(house, admin_dsn="host=127.0.0.1 port=1 user=postgres"):
        checks = doctor(house)
    assert wrong(checks) == {"shard main"}
    skipped = {name for name, check in checks.items() if check.status is Status.SKIPPED}
    assert skipped >= {"shard main login", "shard main perimeter", "shard main clock"}


def test_signed_mode_where_sealed_would_be_allowed_is_named(house: House) -> None:
    with shard_with(house, binding="signed"):
        check = doctor(house)["shard main binding"]
    assert (check.status, "this server would allow sealed" in check.what) == (Status.WARNING, True)


GOOD = {
    "max_prepared_transactions": "0",
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
    "wal_level": "logical",
    "max_connections": "100",
    "superuser_reserved_connections": "3",
}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, None),
        ({"max_prepared_transactions": "10"}, "max_prepared_transactions > 0"),
        ({"log_parameter_max_length": "-1"}, "tokens can get into the server's log"),
        ({"log_parameter_max_length_on_error": "100"}, "tokens can get into the server's log"),
        ({"wal_level": "replica"}, "wal_level is replica"),
        ({"max_connections": "52"}, "one process may open 50 connections, the server allows 49"),
        ({"max_connections": "53"}, None),
    ],
)
def test_settings_of_a_server_are_judged(changed: dict[str, str], words: str | None) -> None:
    found = list(judge_settings("settings", {**GOOD, **changed}, Settings(catalog="x", pool_budget=50)))
    if words is None:
        assert found == []
        return
    [check] = found
    assert (check.status, words in check.what) == (Status.WARNING, True)


@pytest.mark.parametrize(
    ("ahead", "status"),
    [
        (0.0, Status.OK),
        (-3.0, Status.OK),
        (14.9, Status.OK),
        (15.0, Status.WARNING),
        (-15.0, Status.WARNING),
        (-3600.0, Status.WARNING),
        (60.0, Status.FAILED),
    ],
)
def test_a_clock_is_judged_by_the_life_of_a_token(ahead: float, status: Status) -> None:
    assert judge_clock("clock", ahead, 60).status is status


def test_a_machine_whose_clock_is_behind_is_told_that_its_tokens_arrive_expired(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = __import__("time").time
    monkeypatch.setattr("tenantry.service.doctor_shards.time", SimpleNamespace(time=lambda: real() - 100))
    check = doctor(house)["shard main clock"]
    assert (check.status, "every token has expired before it arrives" in check.what) == (Status.FAILED, True)
    assert "100" in check.what


def test_a_login_that_does_not_work_is_named(house: House) -> None:
    with catalog(house) as conn:
        conn.execute("UPDATE credentials SET password = password || 'x' WHERE role = %s", (APP,))
        try:
            check = doctor(house)["shard main login"]
        finally:
            conn.execute("UPDATE credentials SET password = rtrim(password, 'x') WHERE role = %s", (APP,))
    assert (check.status, f'password authentication failed for user "{APP}"' in check.what) == (Status.FAILED, True)


@pytest.mark.parametrize(("option", "words"), [("SUPERUSER", "is a superuser"), ("BYPASSRLS", "bypasses row security")])
def test_a_role_to_which_the_wall_does_not_apply_is_named(house: House, option: str, words: str) -> None:
    with pooled(house) as conn:
        conn.execute(f"ALTER ROLE {APP} {option}".encode())
        try:
            checks = doctor(house)
        finally:
            conn.execute(f"ALTER ROLE {APP} NO{option}".encode())
    assert (checks["shard main login"].status, words in checks["shard main login"].what) == (Status.FAILED, True)
    assert checks["shard main login"].next == "close it now: 'tenantry perimeter apply'"


def test_a_tenant_table_that_came_later_without_a_policy_is_found_and_mended_as_told(house: House) -> None:
    with pooled(house) as conn:
        conn.execute("CREATE TABLE late (tenant_id bigint NOT NULL, id int, PRIMARY KEY (tenant_id, id))")
        database = conn.info.dbname
    check = doctor(house)[f"perimeter main/{database}"]
    assert check.status is Status.FAILED
    assert "public.late: row security is not enabled and forced" in (check.where or "")
    assert f"tenantry perimeter apply --shard main --database {database}" in (check.next or "")
    operate(house, lambda control: perimeter.apply(control, shard="main", database=database))
    assert doctor(house)["shard main perimeter"].status is Status.OK


def test_a_database_that_does_not_know_the_active_key_is_found_and_mended_as_told(house: House) -> None:
    with pooled(house) as conn:
        conn.execute("DELETE FROM tenantry_priv.signing_keys")
        database = conn.info.dbname
    checks = doctor(house)
    check = checks[f"perimeter main/{database}"]
    assert (check.status, "it refuses every transaction" in check.what) == (Status.FAILED, True)
    operate(house, lambda control: perimeter.apply(control, shard="main", database=database))
    assert wrong(doctor(house)) == set()


def test_a_database_that_is_gone_is_named_and_the_others_are_looked_at(house: House) -> None:
    """Last in this file: nothing brings it back."""
    placement = house.tenants["database-a"].placement
    assert placement is not None
    with pooled(house) as conn:
        conn.execute(f"DROP DATABASE {placement.database} WITH (FORCE)".encode())
    checks = doctor(house)
    assert wrong(checks) == {f"perimeter main/{placement.database}"}
    assert "does not exist" in checks[f"perimeter main/{placement.database}"].what


def test_a_house_without_shards_is_told_how_to_add_one(house: House) -> None:
    """Later still: its shards go with their tenants."""
    with catalog(house) as conn:
        conn.execute("TRUNCATE shards, tenants CASCADE")
    check = doctor(house)["shards"]
    assert (check.status, check.next) == (Status.WARNING, "tenantry shard add NAME DSN")
