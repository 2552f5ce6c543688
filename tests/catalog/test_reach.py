"""Connections that have to answer in time, and processes that inherit them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from threading import Event, Thread

import psycopg
import pytest

from tenantry.catalog.reach import answers_within, refusal
from tenantry.errors import ServerUnsuitable
from tests.catalog.conftest import Catalog
from tests.fixtures.servers import Database

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def conns(database: Database) -> Iterator[list[psycopg.Connection]]:
    with ExitStack() as stack:
        yield [stack.enter_context(database.connect()) for _ in range(3)]


def test_a_connection_that_takes_too_long_is_ended(conns: list[psycopg.Connection]) -> None:
    with pytest.raises(psycopg.OperationalError), answers_within(conns[0], 0.1):
        conns[0].execute("SELECT pg_sleep(60)")
    assert conns[0].closed


def test_one_that_answers_is_left_alone_also_later(conns: list[psycopg.Connection]) -> None:
    with answers_within(conns[0], 0.2):
        conns[0].execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError), answers_within(conns[1], 0.4):
        conns[1].execute("SELECT pg_sleep(60)")
    assert conns[0].execute("SELECT 2").fetchone() == (2,)


def test_each_has_its_own_time(conns: list[psycopg.Connection]) -> None:
    patient, hasty, _ = conns
    entered, done = Event(), Event()

    def wait() -> None:
        with answers_within(patient, 60):
            entered.set()
            done.wait(60)

    thread = Thread(target=wait)
    thread.start()
    assert entered.wait(30)
    with pytest.raises(psycopg.OperationalError), answers_within(hasty, 0.1):
        hasty.execute("SELECT pg_sleep(60)")
    done.set()
    thread.join(30)
    assert patient.execute("SELECT 1").fetchone() == (1,)


def test_no_time_at_all_is_too_little(conns: list[psycopg.Connection]) -> None:
    with pytest.raises(psycopg.OperationalError), answers_within(conns[0], 0.0):
        conns[0].execute("SELECT pg_sleep(60)")


def test_an_error_of_the_statement_is_the_statements(conns: list[psycopg.Connection]) -> None:
    with pytest.raises(psycopg.errors.DivisionByZero), answers_within(conns[0], 60):
        conns[0].execute("SELECT 1 / 0")
    assert conns[0].execute("SELECT 1").fetchone() == (1,)


def test_why_a_server_can_not_be_reached_is_said_once_it_is_known(catalog: Catalog) -> None:
    assert refusal(catalog.dsn, 5) is None
    error = refusal(catalog.database.dsn("nobody-at-all", tcp=True, password="x"), 5)
    assert error is not None
    assert "password authentication failed" in str(error)
    assert not isinstance(error, ServerUnsuitable)


FORK = """
import os, sys
from tenantry.catalog.view import CatalogView
from tests.catalog.conftest import LISTENING, Events

view = CatalogView(sys.argv[1])
events = Events(view)
view.open()
events.wait_for(LISTENING)
first = view.find("slug", sys.argv[2])
view.find("id", first.id)

def check(who):
    assert view.find("slug", sys.argv[2]) == first
    assert view.fleet().house.tenant_column == "tenant_id"
    print(who, "well", flush=True)

child = os.fork()
if child == 0:
    assert len(view.cache) == 0, "the child knows nothing yet"
    check("child")
    events.wait_for(LISTENING)
    view.close()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert view.peek(first.id) is first
view.cache.clear()
check("parent")
view.close()
"""


def test_a_forked_child_has_a_view_of_its_own_and_leaves_its_parents_alone(catalog: Catalog, slug: str) -> None:
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK, catalog.dsn, slug]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "child well\nparent well\n", done.stderr
    assert done.returncode == 0, done.stderr
