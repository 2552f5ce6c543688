"""``tenantry init`` and ``tenantry local``: from an empty folder to a house, and again."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from tenantry.cli import config_file
from tenantry.errors import Conflict
from tenantry.postgres.server import LocalServer
from tests.cli.conftest import Run, Start, finish
from tests.fixtures.house import TEMPLATE, MakeHouse

OPTIONS = ("--template", f"sql:{TEMPLATE}", "--shared-table", "countries")


@pytest.fixture
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A folder for a kept server, which is removed with it."""
    folder = str(tmp_path_factory.mktemp("place") / "server")
    yield folder
    LocalServer(folder).remove()


def test_a_stranger_comes_from_an_empty_folder_to_a_tenant_s_first_row(run: Run, own_folder: Path, place: str) -> None:
    """One long story: each command stands on the one before."""
    made = run("init", "--local", place, *OPTIONS)
    assert made.code == 0, made.err
    assert made.out.startswith("The house stands.\n")
    assert "  shards    main (sealed, open)\n" in made.out
    assert "  tenantry tenant create acme\n" in made.out
    file = own_folder / "tenantry.toml"
    assert file.stat().st_mode & 0o777 == 0o600
    settings = tomllib.loads(file.read_text())
    assert set(settings) == {"catalog", "control", "template", "shared_tables"}
    assert ("tenantry_reader" in settings["catalog"], "user=postgres" in settings["control"]) == (True, True)

    assert run("tenant", "create", "acme").code == 0
    assert run("sql", "acme", "-c", "INSERT INTO orders (note) VALUES ('first')").out == "INSERT 0 1\n"
    report = run("doctor", "--json")
    assert (report.code, report.json["ok"]) == (0, True)

    text = file.read_text()
    again = run("init", "--local", place, *OPTIONS)
    assert (again.code, file.read_text()) == (0, text)
    assert f"  settings  {file.name} (was there)\n" in again.out
    assert run("init", "--local", place).code == 0  # what is not said stays as it is
    assert run("sql", "acme", "--csv", "-c", "SELECT note FROM orders").out == "note\nfirst\n"

    assert run("local", "stop", place).out.startswith("stopped: ")
    stopped = run("local", "status", place, "--json")
    assert (stopped.code, stopped.json["running"]) == (1, False)
    away = run("tenant", "list")
    assert (away.code, "error[server-unreachable]: can't connect: " in away.err) == (5, True)
    assert "Connection refused" in away.err
    assert run("local", "stop", place).code == 0
    for _ in range(2):
        assert run("local", "start", place, "--json").json["running"] is True
    assert run("local", "status", place).code == 0
    assert run("sql", "acme", "--csv", "-c", "SELECT note FROM orders").out == "note\nfirst\n"


def test_the_server_goes_on_when_the_command_has_ended(start: Start, run: Run, place: str) -> None:
    assert finish(start("local", "start", place)).code == 0
    found = run("local", "status", place, "--json")
    assert (found.code, found.json["running"]) == (0, True)
    assert "password" not in found.out
    assert "dsn" not in found.json


def test_a_folder_without_a_server_has_none_to_stop(run: Run, own_folder: Path) -> None:
    for verb in ("stop", "status"):
        answer = run("local", verb, "nothing-here")
        assert (answer.code, answer.err.splitlines()[0]) == (3, "error[not-found]: there is no local server")
        assert run("local", verb, "").code == 3
    assert list(own_folder.iterdir()) == []


@pytest.fixture
def catalog(server: LocalServer, make_house: MakeHouse) -> str:
    """The DSN of a catalog that is not there yet; dropped with the module's houses."""
    return server.dsn(f"catalog_{uuid4().hex[:8]}", tcp=True)


@pytest.fixture
def no_reader(server: LocalServer) -> Iterator[None]:
    """A server on which nobody has made the application's login yet."""
    with psycopg.connect(server.dsn(), autocommit=True) as conn:
        there = conn.execute("SELECT FROM pg_roles WHERE rolname = 'tenantry_reader'").fetchone() is not None
        if there:
            conn.execute("ALTER ROLE tenantry_reader RENAME TO set_aside")
        yield
        if there:
            for (name,) in conn.execute("SELECT datname FROM pg_database WHERE datname LIKE 'catalog_%'").fetchall():
                conn.execute(f"DROP DATABASE {name} WITH (FORCE)")
            conn.execute("DROP ROLE tenantry_reader")
            conn.execute("ALTER ROLE set_aside RENAME TO tenantry_reader")


@pytest.mark.usefixtures("no_reader")
def test_a_catalog_by_its_dsn_has_no_shard_until_one_is_added(run: Run, catalog: str, own_folder: Path) -> None:
    options = ("--key-type", "uuid", "--tenant-column", "org_id", "--app-schema", "shop")
    made = run("init", "--catalog", "-", *options, "--json", stdin=catalog)
    assert made.code == 0, made.err
    assert (made.json["shards"], made.json["wrote"]) == ([], True)
    assert len(made.json["migrations"]) > 0
    assert "password" not in made.out
    assert run("init", "--catalog", catalog).code == 0  # without the options: they stay as they were made
    other = run("init", "--catalog", catalog, "--key-type", "text")
    assert (other.code, "keys of type uuid, the tenant column org_id and the schema shop" in other.err) == (4, True)
    homeless = run("tenant", "create", "acme")
    assert (homeless.code, "next:   add a shard with 'tenantry shard add'" in homeless.err) == (5, True), homeless.err


@pytest.mark.usefixtures("no_reader")
def test_a_file_of_another_house_is_never_overwritten(run: Run, catalog: str, own_folder: Path) -> None:
    assert run("init", "--catalog", catalog).code == 0
    text = (own_folder / "tenantry.toml").read_text()
    other = run("init", "--catalog", catalog.replace("catalog_", "catalog_2"))
    assert other.code == 4
    assert other.err.startswith("error[conflict]: tenantry.toml belongs to another house, at postgres@127.0.0.1:")
    assert "next:   work in another folder, or move the file away" in other.err
    template = run("init", "--catalog", catalog, "--template", f"sql:{TEMPLATE}")
    assert (template.code, "tenantry.toml says something else of template" in template.err) == (4, True)
    assert (own_folder / "tenantry.toml").read_text() == text


@pytest.mark.usefixtures("no_reader")
def test_a_lost_file_is_made_again_with_a_new_password(run: Run, catalog: str, own_folder: Path) -> None:
    """As it is after a run that was killed between making the login and writing the file."""
    assert run("init", "--catalog", catalog).code == 0
    first = tomllib.loads((own_folder / "tenantry.toml").read_text())["catalog"]
    (own_folder / "tenantry.toml").unlink()
    lost = run("init", "--catalog", catalog)
    assert (lost.code, "its password is not known here" in lost.err) == (4, True)
    assert "--new-password" in lost.err
    assert run("init", "--catalog", catalog, "--new-password").code == 0
    second = tomllib.loads((own_folder / "tenantry.toml").read_text())["catalog"]
    psycopg.connect(second).close()
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(first)
    there = run("init", "--catalog", catalog, "--new-password")
    assert (there.code, "this one is there" in there.err) == (4, True)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, "the catalog needs one place"),
        (("--local", "a", "--catalog", "b"), 2, "the catalog needs one place"),
        (("--catalog", "postgres//nonsense"), 2, "the DSN can't be parsed"),
        (("--catalog", "postgresql://postgres@127.0.0.1:1/c"), 5, "Connection refused"),
        (("--catalog", "host=127.0.0.1 port=1"), 2, "the DSN names no database"),
        (("--local", "x", "--template", "sql:nowhere"), 2, "the template folder 'nowhere' does not exist"),
        (("--local", "x", "--template", "magic"), 2, "template 'magic' has no known form"),
        (("--local", "", "--key-type", "uuid"), 2, "empty name"),
    ],
)
def test_wrong_options_build_nothing(
    run: Run, own_folder: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    answer = run("init", *arguments)
    assert (answer.code, words in answer.err) == (code, True), answer.err
    assert "  next:   " in answer.err
    assert list(own_folder.iterdir()) == []


@pytest.mark.parametrize(
    "option", [("--key-type", "float"), ("--tenant-column", "x; --"), ("--app-schema", "Quoted Name")]
)
def test_a_wrong_name_makes_no_catalog(run: Run, catalog: str, own_folder: Path, option: tuple[str, ...]) -> None:
    answer = run("init", "--catalog", catalog, *option)
    assert (answer.code, answer.err.startswith("error[invalid-input]: ")) == (2, True)
    assert list(own_folder.iterdir()) == []


def test_a_file_that_is_no_toml_is_left_alone(run: Run, catalog: str, own_folder: Path) -> None:
    (own_folder / "tenantry.toml").write_text("catalog = ")
    answer = run("init", "--catalog", catalog)
    assert (answer.code, "where:  tenantry.toml" in answer.err) == (2, True)
    assert (own_folder / "tenantry.toml").read_text() == "catalog = "
    assert "error[invalid-settings]" in run("tenant", "list").err


def test_a_file_that_can_t_be_written_is_noticed_before_anything_is_built(
    run: Run, catalog: str, own_folder: Path
) -> None:
    answer = run("--config", "no/such/folder.toml", "init", "--catalog", catalog)
    assert (answer.code, "the file can't be written: No such file or directory" in answer.err) == (2, True)
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        psycopg.connect(catalog)


VALUES = ["plain", 'quote " and \\ backslash', "tab\tnew\nline", "Ünï 京都", "\x7f\x01", "'''", "#"]


@pytest.mark.parametrize("value", VALUES)
def test_what_is_written_is_read_back(own_folder: Path, value: str) -> None:
    file = own_folder / "t.toml"
    config_file.write(file, {"catalog": value, "shared_tables": (value, "b")})
    assert config_file.read(file) == {"catalog": value, "shared_tables": [value, "b"]}
    assert sorted(each.name for each in own_folder.iterdir()) == ["t.toml"]


def test_a_file_that_is_there_is_not_written_over(own_folder: Path) -> None:
    file = own_folder / "t.toml"
    file.write_text("mine = 1")
    with pytest.raises(Conflict):
        config_file.write(file, {"catalog": "x"})
    assert [each.read_text() for each in own_folder.iterdir()] == ["mine = 1"]


@pytest.mark.slow
def test_what_a_killed_run_has_left_is_finished_by_the_next(
    run: Run, start: Start, own_folder: Path, place: str
) -> None:
    """It is killed while it makes the first shard; the next one waits until nobody can be at work on that any more."""
    process = start("init", "--local", place, *OPTIONS)
    while not (own_folder / "tenantry.toml").exists():
        assert process.poll() is None
    process.kill()
    assert process.wait() != 0
    again = run("init", "--local", place, *OPTIONS)
    assert (again.code, "  shards    main (sealed, open)\n" in again.out) == (0, True), again.err
    assert run("tenant", "create", "acme").code == 0
