"""Servers that don't answer, refuse, are too old, or have known holes: what the commands say of them."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import psycopg
import pytest

from tenantry.postgres.connect import merge_dsn, shown_dsn
from tenantry.postgres.server import LocalServer
from tests.cli.conftest import Run, settings_of
from tests.fixtures.house import House
from tests.fixtures.proxy import Proxy


@pytest.fixture
def silent() -> Iterator[str]:
    """The DSN of something that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"postgresql://postgres:secret@127.0.0.1:{listener.getsockname()[1]}/postgres"


@pytest.fixture
def refusing() -> str:
    """The DSN of a port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    return f"postgresql://postgres:secret@127.0.0.1:{port}/postgres"


def posing_as(server: LocalServer, version: str) -> Proxy:
    """A server that says that it is of another version: ``ParameterStatus`` names it at the start of a session
    (PostgreSQL: Message Formats). Both texts have the same length, since messages begin with theirs."""
    old, new = (f"server_version\0{text}".encode() for text in (server.binaries.text, version))
    assert len(old) == len(new)
    return Proxy(server.dsn(tcp=True), change=lambda data: data.replace(old, new))


def too_old(server: LocalServer) -> Proxy:
    """It says that it is of the version before the oldest that will do."""
    return posing_as(server, f"14.{server.binaries.text.partition('.')[2]}")


COMMANDS = {"init": ("init", "--catalog"), "shard add": ("shard", "add", "far")}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_a_server_that_does_not_answer_is_named_within_seconds(
    run: Run, at: House, silent: str, command: tuple[str, ...]
) -> None:
    answer = run(*command, silent, env={"TENANTRY_CONNECT_SECONDS": "1"})
    assert answer.code == 5
    # Log lines of threads that other tests have left may stand before it.
    assert any(line.startswith("error[server-unreachable]: can't connect: ") for line in answer.err.splitlines())
    assert "timeout" in answer.err
    assert "  where:  postgres@127.0.0.1:" in answer.err
    assert "  next:   check host, port, user and password of the DSN" in answer.err
    assert "secret" not in answer.err


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_a_port_on_which_nobody_listens_is_named(run: Run, at: House, refusing: str, command: tuple[str, ...]) -> None:
    answer = run(*command, refusing)
    assert (answer.code, "Connection refused" in answer.err) == (5, True)
    assert ("secret" in answer.err, "Traceback" in answer.err) == (False, False)


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_a_wrong_password_is_said_and_not_shown(
    run: Run, at: House, server: LocalServer, command: tuple[str, ...]
) -> None:
    answer = run(*command, merge_dsn(server.dsn(tcp=True), password="wr0ng"))
    assert (answer.code, 'password authentication failed for user "postgres"' in answer.err) == (5, True)
    assert "wr0ng" not in answer.err


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_a_server_that_is_too_old_is_refused_with_its_version(
    run: Run, at: House, server: LocalServer, command: tuple[str, ...]
) -> None:
    with too_old(server) as proxy:
        through = proxy.through(server.dsn(tcp=True))
        answer = run(*command, through)
    first, where, hint = answer.err.splitlines()
    assert answer.code == 5
    assert first.startswith("error[server-unsuitable]: the server is PostgreSQL 14.")
    assert first.endswith("; 15 or later is needed")
    assert where == f"  where:  {shown_dsn(through)}"
    assert hint == "  next:   upgrade the server, or name another one"


def test_the_proxy_alone_changes_nothing(run: Run, at: House, server: LocalServer) -> None:
    with Proxy(server.dsn(tcp=True)) as proxy:
        dsn = proxy.through(at.control_settings.control_dsn)
        assert run("tenant", "list", env={"TENANTRY_CONTROL": dsn}).code == 0


@pytest.mark.parametrize("which", ["catalog", "shard"])
def test_the_doctor_says_the_same_and_goes_on_with_what_is_left(
    run: Run, at: House, server: LocalServer, which: str
) -> None:
    with too_old(server) as proxy:
        env = settings_of(at)
        if which == "catalog":
            env["TENANTRY_CONTROL"] = proxy.through(env["TENANTRY_CONTROL"])
        else:
            change_way(at, proxy.through)
        try:
            answer = run("doctor", "--json", env=env)
        finally:
            change_way(at, lambda dsn: merge_dsn(dsn, port=server.port))
    checks = {check["name"]: check for check in answer.json["checks"]}
    name = "catalog" if which == "catalog" else "shard main"
    assert answer.code == 1
    assert (checks[name]["status"], "the server is PostgreSQL 14." in checks[name]["what"]) == ("failed", True)
    assert checks[name]["next"] == "upgrade the server, or name another one"
    del checks["catalog login"]  # goes another way
    left = [check for check in checks.values() if check["name"].startswith(f"{name} ") and check is not checks[name]]
    assert {check["status"] for check in left} == {"skipped"}
    assert checks["settings"]["status"] == "ok"
    if which == "shard":
        assert checks["signing key"]["status"] == "ok"


def change_way(house: House, change: Callable[[str], str]) -> None:
    """Let the control plane reach the shard another way."""
    with psycopg.connect(house.control_settings.control_dsn) as conn:
        row = conn.execute("SELECT admin_dsn FROM tenantry_catalog.shards WHERE name = 'main'").fetchone()
        assert row is not None
        conn.execute("UPDATE tenantry_catalog.shards SET admin_dsn = %s WHERE name = 'main'", (change(row[0]),))


@pytest.mark.parametrize(("minor", "status"), [("0", "warning"), ("9", "ok")])
def test_a_minor_version_with_known_holes_is_a_warning_with_the_fix(
    run: Run, at: House, server: LocalServer, minor: str, status: str
) -> None:
    major, _, rest = server.binaries.text.partition(".")
    version = f"{major}.{minor * len(rest)}"
    env = settings_of(at)
    with posing_as(server, version) as proxy:
        env["TENANTRY_CONTROL"] = proxy.through(env["TENANTRY_CONTROL"])
        report = run("doctor", "--json", env=env)
    [check] = [check for check in report.json["checks"] if check["name"] == "catalog version"]
    assert (check["status"], report.code) == (status, 0)
    if status == "warning":
        assert "lacks fixes for Row-Level Security and code execution" in check["what"]
        assert check["next"].startswith(f"update to {major}.")


def test_a_server_with_known_holes_is_warned_of_when_it_is_taken_in(
    run: Run, at: House, second_server: LocalServer
) -> None:
    major, _, rest = second_server.binaries.text.partition(".")
    with posing_as(second_server, f"{major}.{'0' * len(rest)}") as proxy:
        dsn = proxy.through(second_server.dsn(tcp=True))
        added = run("shard", "add", "unsafe", dsn, "--take-over", "--database", "app_unsafe")
        assert (added.code, added.out.startswith("added shard unsafe: ")) == (0, True), added.err
        assert "lacks fixes for Row-Level Security and code execution\n  where:  shard unsafe version\n" in added.err
        assert f"  next:   update to {major}." in added.err
        [warning] = [
            check for check in run("doctor", "--json").json["checks"] if check["name"] == "shard unsafe version"
        ]
        assert warning["status"] == "warning"
