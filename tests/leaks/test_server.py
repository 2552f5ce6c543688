"""What the server writes down of what it is asked."""

from __future__ import annotations

import asyncio

import psycopg

from tenantry.service import doctor
from tenantry.service.check import Status
from tenantry.service.doctor import judge_logging
from tests.leaks.conftest import VALUE, Confession


def test_the_log(confession: Confession) -> None:
    log = confession.log()
    assert "bind_v" in log
    assert "ALTER ROLE" in log
    assert confession.found_in(log) == {}


def test_the_log_holds_no_value_of_a_tenant(confession: Confession) -> None:
    log = confession.log()
    assert "INSERT INTO orders (note) VALUES ($1)" in log
    assert VALUE not in log


def test_the_statistics_of_statements(confession: Confession) -> None:
    with psycopg.connect(confession.server.dsn()) as conn:
        queries = "\n".join(query for (query,) in conn.execute("SELECT query FROM pg_stat_statements").fetchall())
    assert "bind_v" in queries
    assert "ALTER ROLE" in queries
    assert confession.found_in(queries) == {}
    assert VALUE not in queries


def test_what_python_logs(confession: Confession) -> None:
    text = "\n".join(confession.lines)
    assert "psycopg" in text
    assert confession.found_in(text) == {}
    assert VALUE not in text


def test_the_doctor_finds_nothing_to_say_of_a_talkative_server(confession: Confession) -> None:
    """What is set for the application's role is what counts, and our own sessions log nothing either."""
    found = {check.name: check for check in asyncio.run(doctor.examine(confession.control_settings))}
    assert found["shard main settings"].status is Status.OK
    assert found["catalog log"].status is Status.OK


def test_the_doctor_warns_where_the_roles_setting_is_missing(confession: Confession) -> None:
    with psycopg.connect(confession.server.dsn(), autocommit=True) as conn:
        conn.execute("ALTER ROLE tenantry_app RESET log_parameter_max_length")
        try:
            found = {check.name: check for check in asyncio.run(doctor.examine(confession.control_settings))}
        finally:
            conn.execute("ALTER ROLE tenantry_app SET log_parameter_max_length = 0")
    assert "tokens can get into the server's log" in found["shard main settings"].what
    assert [name for name, check in found.items() if "perimeter" in name and check.status is not Status.OK]


def test_a_login_that_can_not_keep_its_parameters_out_of_the_log_is_told_so() -> None:
    check = judge_logging("catalog log", logged=True)
    assert (check.status, "keys and passwords" in check.what) == (Status.WARNING, True)
