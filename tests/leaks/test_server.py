"""What the server writes down of what it is asked."""

from __future__ import annotations

import psycopg

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
