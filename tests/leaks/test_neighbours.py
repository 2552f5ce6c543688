"""What other processes of the machine can read: arguments, environments, files, and what commands print."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tenantry.postgres.connect import merge_dsn, parse_dsn
from tenantry.postgres.server import THROWAWAY, LocalServer
from tests.leaks.conftest import Confession

SECRET = "squeamish-ossifrage"

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="this system has no /proc")


def children(pid: int) -> Iterator[int]:
    """A process's children, and theirs."""
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            yield child
            yield from children(child)


def told(pid: int) -> str:
    """The arguments and the environment of a process; of one that has ended, nothing."""
    files = (Path(f"/proc/{pid}/{name}") for name in ("cmdline", "environ"))
    with suppress(FileNotFoundError, ProcessLookupError):
        return "\n".join(file.read_bytes().decode(errors="replace") for file in files)
    return ""


def test_a_local_server_and_its_watchdog_inherit_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENANTRY_CONTROL", f"postgresql://postgres:{SECRET}@db.example.com/x")
    before = set(children(os.getpid()))
    with LocalServer(settings=THROWAWAY) as server:
        data = Path(server.directory, "server", "data", "postmaster.pid")
        postmaster = int(data.read_text().split()[0])
        ours = {postmaster, *children(postmaster), *children(os.getpid())} - before
        assert len(ours) > 5
        password = parse_dsn(server.dsn(tcp=True))["password"]
        for pid in ours:
            assert SECRET not in told(pid), told(pid)
            assert password not in told(pid)
        assert stat.S_IMODE(Path(server.directory, "password").stat().st_mode) == 0o600
        assert stat.S_IMODE(Path(server.directory, "server").resolve().stat().st_mode) & 0o077 == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("tenant", "list"),
        ("doctor",),
        ("shard", "add", "second", "DSN"),
        ("shard", "list"),
        ("key", "list"),
        ("init", "--catalog", "DSN"),
        ("sql", "acme", "SELECT 1"),
    ],
    ids=lambda arguments: " ".join(arguments),
)
@pytest.mark.parametrize("reachable", [True, False], ids=["reachable", "unreachable"])
def test_a_command_prints_no_secret_not_even_to_debug(
    confession: Confession, tmp_path: Path, arguments: tuple[str, ...], reachable: bool
) -> None:
    def dsn(known: str) -> str:
        return known if reachable else merge_dsn(known, port=1)

    control = dsn(confession.control_settings.control_dsn)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("TENANTRY_")},
        "TENANTRY_CATALOG": dsn(confession.settings.catalog_dsn),
        "TENANTRY_CONTROL": control,
        "TENANTRY_CONNECT_SECONDS": "1",
    }
    if arguments[0] == "init":
        del environment["TENANTRY_CATALOG"], environment["TENANTRY_CONTROL"]
    there = dsn(confession.server.dsn(tcp=True)) if arguments[0] == "shard" else control
    done = subprocess.run(
        [sys.executable, "-m", "tenantry", "--debug", *(there if word == "DSN" else word for word in arguments)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.stdout + done.stderr
    assert confession.found_in(done.stdout + done.stderr) == {}
    for file in tmp_path.iterdir():
        assert file.stat().st_mode & 0o077 == 0, file
