"""The pytest plugin, as an application uses it: the tests of the example run in a process of their own."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tenantry.postgres.binaries import Binaries
from tenantry.postgres.server import THROWAWAY, LocalServer

pytest_plugins = ["pytester"]

EXAMPLE = Path(__file__).parent / "example"


@pytest.fixture
def example(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A copy of the example, in the working directory."""
    for name in ("TENANTRY_CATALOG", "TENANTRY_TEST_DSN"):
        monkeypatch.delenv(name, raising=False)
    shutil.copytree(EXAMPLE, pytester.path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    return pytester


def run(example: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return example.run(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments, timeout=100)


def passed(result: pytest.RunResult) -> int:
    """How many tests passed, if nothing else happened."""
    outcomes = result.parseoutcomes()
    assert set(outcomes) == {"passed"}, result.stdout.str() + result.stderr.str()
    return outcomes["passed"]


def test_the_tests_of_an_application_pass_and_every_planted_fault_is_found(example: pytest.Pytester) -> None:
    assert passed(run(example, "test_shop.py", "test_async.py", "test_faults.py")) > 45


@pytest.mark.parametrize("key_type", ["uuid", "text"])
def test_other_keys_another_column_and_the_oldest_server(
    example: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, key_type: str, oldest: str
) -> None:
    monkeypatch.setenv("TENANTRY_PG_BIN", oldest)
    tables = example.path.joinpath("migrations", "0001_shop.sql")
    tables.write_text(
        tables.read_text().replace("tenant_id bigint", f"tenant_id {key_type}").replace("tenant_id", "owner")
    )
    with example.path.joinpath("pytest.ini").open("a") as file:
        file.write(f"tenantry_key_type = {key_type}\ntenantry_tenant_column = owner\ntenantry_app_schema = shop\n")
    assert passed(run(example, "test_shop.py")) == 4


@pytest.fixture
def oldest() -> str:
    """The folder of PostgreSQL 15's programs, or of the oldest that is here."""
    return str(min(Binaries.find_all(), key=lambda found: found.major).folder)


def names(example: pytest.Pytester) -> dict[str, str]:
    """The database of each worker; forgotten then."""
    found = dict(file.name.split(" ") for file in (example.path / "names").iterdir())
    shutil.rmtree(example.path / "names")
    return found


def test_each_worker_of_xdist_has_a_server(example: pytest.Pytester) -> None:
    assert passed(run(example, "-n", "2", "test_workers.py")) == 7
    assert set(names(example)) == {"gw0", "gw1"}


@pytest.fixture(scope="module")
def shared() -> Iterator[LocalServer]:
    """A server for tests, as a CI service gives it."""
    with LocalServer(settings=THROWAWAY) as running:
        yield running


def databases(server: LocalServer) -> set[str]:
    with psycopg.connect(server.dsn()) as conn:
        return {name for (name,) in conn.execute("SELECT datname FROM pg_database").fetchall()}


def test_workers_share_a_server_and_copy_one_house(
    example: pytest.Pytester, shared: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TENANTRY_TEST_DSN", shared.dsn(tcp=True))
    assert passed(run(example, "-n", "2", "test_workers.py")) == 7
    used = names(example)
    assert len(set(used.values())) == 2
    [template] = {name for name in databases(shared) if "_tpl_" in name and name.endswith("_app")}
    assert not databases(shared) & {*used.values(), *(name.replace("app", "catalog") for name in used.values())}
    assert not {name for name in databases(shared) if name.startswith("d_")}
    with psycopg.connect(shared.dsn(template)) as conn:
        made = conn.execute("SELECT oid FROM pg_database WHERE datname = current_database()").fetchone()

    assert passed(run(example, "test_workers.py")) == 7
    with psycopg.connect(shared.dsn(template)) as conn:
        query = "SELECT oid FROM pg_database WHERE datname = current_database()"
        assert conn.execute(query).fetchone() == made, "the second run has made the house anew"


def test_a_changed_template_is_made_anew_and_a_killed_runs_databases_go(
    example: pytest.Pytester, shared: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TENANTRY_TEST_DSN", shared.dsn(tcp=True))
    example.path.joinpath("test_killed.py").write_text(
        "import os\ndef test_killed(two_tenants, tenantry_house):\n"
        "    tenantry_house.create('alone', isolation='database')\n    os._exit(9)\n"
    )
    assert run(example, "test_killed.py").ret == 9
    left = {name for name in databases(shared) if name.startswith(("tenantry_test_", "d_")) and "_tpl_" not in name}
    assert {name.rpartition("_")[2] for name in left if name.startswith("tenantry_test_")} == {"app", "catalog"}
    assert {name for name in left if name.startswith("d_")}
    before = {name for name in databases(shared) if "_tpl_" in name}
    more = example.path.joinpath("migrations", "0002_more.sql")
    more.write_text("CREATE TABLE more (tenant_id bigint PRIMARY KEY);")
    example.path.joinpath("test_more.py").write_text(
        "def test_more(tenantry_router, two_tenants):\n"
        "    with tenantry_router.transaction(two_tenants.acme) as conn:\n"
        "        conn.execute('INSERT INTO more DEFAULT VALUES')\n"
    )
    assert passed(run(example, "test_more.py")) == 1
    after = databases(shared)
    assert not after & left
    assert len({name for name in after if "_tpl_" in name}) == 2
    assert not after & before


def test_a_server_of_another_house_is_left_alone(
    example: pytest.Pytester, server: LocalServer, make_house: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert callable(make_house)
    make_house()
    monkeypatch.setenv("TENANTRY_TEST_DSN", server.dsn(tcp=True))
    result = run(example, "test_workers.py", "-k", "turn or house")
    assert result.parseoutcomes()["errors"] == 6
    result.stdout.fnmatch_lines(["*Conflict: the server belongs to another house*"])


def test_rows_stay_for_as_long_as_the_ini_file_says(example: pytest.Pytester) -> None:
    with example.path.joinpath("pytest.ini").open("a") as file:
        file.write("tenantry_reset = module\n")
    text = "import pytest\n\n@pytest.mark.parametrize('n', range(2))\ndef test_rows(tenantry_router, two_tenants, n):\n"
    text += "    with tenantry_router.transaction(two_tenants.acme) as conn:\n"
    text += "        assert conn.execute('SELECT count(*) FROM customers').fetchone() == (n,)\n"
    text += "        conn.execute(\"INSERT INTO customers (email) VALUES (%s)\", (f'{n}@example.com',))\n"
    for name in ("test_one.py", "test_two.py"):
        example.path.joinpath(name).write_text(text)
    assert passed(run(example, "test_one.py", "test_two.py")) == 4


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("tenantry_template = sql:nowhere", "the template folder 'nowhere' does not exist"),
        ("tenantry_template = orm", "template 'orm' has no known form"),
        ("tenantry_key_type = colour", "'colour' is not a type of keys"),
        ("tenantry_dsn = postgresql://nobody@127.0.0.1:1/x", "can't connect"),
        ("tenantry_dsn = ://", "tenantry_dsn or TENANTRY_TEST_DSN: the DSN can't be parsed"),
        ("tenantry_dsn = ://\ntenantry_environment = true", "the DSN can't be parsed"),
        ("tenantry_reset = monthly", "tenantry_reset = 'monthly' is not 'test', 'module' or 'never'"),
    ],
)
def test_a_wrong_line_in_the_ini_file_is_named(example: pytest.Pytester, line: str, error: str) -> None:
    example.path.joinpath("pytest.ini").write_text(f"[pytest]\nasyncio_default_fixture_loop_scope = function\n{line}\n")
    example.path.joinpath("conftest.py").unlink()
    example.path.joinpath("test_one.py").write_text("def test_one(tenantry_settings): pass\ndef test_two(): pass\n")
    result = run(example, "test_one.py")
    assert result.ret != 0
    assert error in result.stdout.str() + result.stderr.str()


def test_a_project_that_does_not_use_it_pays_nothing(pytester: pytest.Pytester) -> None:
    heavy = ("psycopg", "pydantic", "tenantry.settings", "tenantry.routing.core")
    code = f"import sys\ndef test_one():\n    assert not [name for name in {heavy!r} if name in sys.modules]\n"
    pytester.makepyfile(code)
    result = run(pytester, "-p", "no:asyncio", "-p", "no:anyio", "-p", "no:xdist")
    assert passed(result) == 1
    assert "TENANTRY" not in result.stdout.str()


def test_its_fixtures_and_settings_are_explained(example: pytest.Pytester) -> None:
    shown = run(example, "--fixtures", "test_workers.py").stdout.str()
    for name in ("tenantry_house", "tenantry_settings", "tenantry_router", "two_tenants", "assert_no_leak"):
        assert name in shown
    assert "no docstring" not in shown.partition("tenantry.testing.plugin")[2].partition("---")[0]
    assert "@pytest.mark.tenantry(isolation='pooled')" in run(example, "--markers").stdout.str()
