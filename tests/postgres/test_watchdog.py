from __future__ import annotations

import os
import pwd
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tenantry.postgres import server as server_module
from tenantry.postgres.account import wait_for_end
from tests.postgres.helpers import is_root, python, said


class TestOtherProcesses:
    START = """
        server = LocalServer(settings=THROWAWAY).start()
        pid = (server.directory / "server/data/postmaster.pid").read_text().split()[0]
        print(pid, server._watchdog._child.pid, server.directory, flush=True)
    """

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
    def test_a_temporary_server_ends_when_its_process_is_killed(self, number: signal.Signals) -> None:
        process = python(self.START + "    sys.stdin.read()")
        pid, watchdog, home = said(process).split()
        os.killpg(process.pid, number)  # as a terminal does: to the whole group
        process.communicate()
        assert wait_for_end(int(watchdog))
        assert wait_for_end(int(pid), 0)
        assert not Path(home).exists()

    def test_a_temporary_server_ends_with_a_process_that_does_not_stop_it(self) -> None:
        process = python(self.START)
        pid, watchdog, home = said(process).split()
        process.communicate()
        assert process.returncode == 0
        assert not Path(home).exists()
        assert wait_for_end(int(pid), 0)
        assert wait_for_end(int(watchdog), 0)

    def test_a_temporary_server_does_not_end_with_a_forked_child(self) -> None:
        process = python(
            self.START
            + """
        if os.fork() == 0:
            sys.exit()
        os.wait()
        print(server.is_running(), flush=True)
        """
        )
        said(process)
        assert said(process) == "True"
        process.communicate()

    def test_it_works_for_a_user_without_rights(self, open_folder: Path) -> None:
        command, environment = python_of_nobody()
        mine = open_folder / "mine"
        mine.mkdir(mode=0o700)
        os.chown(mine, *who())
        program = """
            import os, sys
            import psycopg
            from tenantry.postgres.server import *
            for directory in (None, sys.argv[1], sys.argv[1]):
                with LocalServer(directory, settings=THROWAWAY) as server:
                    for tcp in (False, True):
                        with psycopg.connect(server.dsn(tcp=tcp)) as conn:
                            conn.execute("CREATE TABLE IF NOT EXISTS t ()")
                    server.crash()
                    server.start()
                    home = server.directory
            print(os.geteuid(), (home / "server/data").stat().st_uid)
        """
        done = subprocess.run(
            [*command, "-c", textwrap.dedent(program), str(mine / "kept")],
            env=environment,
            cwd="/",
            capture_output=True,
            text=True,
            **as_nobody(),
        )
        assert done.stderr == ""
        assert done.stdout.split() == [str(who()[0])] * 2


def who() -> tuple[int, int]:
    entry = pwd.getpwnam("nobody") if is_root else pwd.getpwuid(os.geteuid())
    return entry.pw_uid, entry.pw_gid


def as_nobody() -> dict[str, Any]:
    return {"user": who()[0], "group": who()[1], "extra_groups": []} if is_root else {}


def python_of_nobody() -> tuple[list[str], dict[str, str]]:
    """A Python that ``nobody`` can run: this one, or the system's of the same version with the packages of this one."""
    paths = [str(Path(server_module.__file__).parents[2]), str(Path(psycopg.__file__).parents[1])]
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(paths), "PYTHONDONTWRITEBYTECODE": "1"}
    version = f"python3.{sys.version_info.minor}"
    for candidate in (sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        check = [candidate, "-c", "import psycopg, tenantry.postgres.server"]
        try:
            if subprocess.run(check, env=environment, cwd="/", capture_output=True, **as_nobody()).returncode == 0:
                return [candidate], environment
        except OSError:
            continue
    pytest.skip(f"user nobody can run no {version} with these packages; apt-get install {version}")
