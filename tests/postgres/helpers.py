from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from tenantry.postgres.server import THROWAWAY, LocalServer

is_root = os.geteuid() == 0
as_root = pytest.mark.skipif(not is_root, reason="only root runs servers as another user")


def local(directory: Path | None = None, *, settings: dict[str, str] | None = None, **options: Any) -> LocalServer:
    """A server whose data may be lost when the machine fails."""
    return LocalServer(directory, settings={**THROWAWAY, **(settings or {})}, **options)


def ask(dsn: str, query: str) -> object:
    with psycopg.connect(dsn, autocommit=True) as conn:
        row = conn.execute(query).fetchone()
        return row[0] if row else None


def run(dsn: str, command: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(command)


def postmaster(server: LocalServer) -> int:
    return int((server.directory / "server" / "data" / "postmaster.pid").read_text().splitlines()[0])


def socket_folder(server: LocalServer) -> Path:
    return Path(str(conninfo_to_dict(server.dsn())["host"]))


def python(program: str, *arguments: object) -> subprocess.Popen[str]:
    """Another process that uses LocalServer; it says what it has to say on one line, and waits for its input to end."""
    head = "import os, sys\nfrom tenantry.postgres.server import *\n"
    command = [sys.executable, "-c", head + textwrap.dedent(program), *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()
