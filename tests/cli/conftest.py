"""Runs the command line: in this process (most tests), in one of its own, or at a terminal."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path
from typing import Any

import pytest

from tenantry.cli import main
from tests.fixtures.house import House, MakeHouse

COMMAND = (sys.executable, "-m", "tenantry")


@dataclass(frozen=True)
class Answer:
    """What a command has said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output as one JSON document."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        """Standard output as JSON lines."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def error(self) -> dict[str, Any]:
        """The error of a command with --json."""
        found: dict[str, Any] = json.loads(self.err.splitlines()[-1])["error"]
        return found


Run = Callable[..., Answer]


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test reads the settings, or writes in the folder, of whoever runs it."""
    for name in [name for name in os.environ if name.startswith("TENANTRY_") and name != "TENANTRY_PG_BIN"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def settings_of(house: House) -> dict[str, str]:
    """The environment in which a command works on a house."""
    control = house.control_settings
    return {
        "TENANTRY_CATALOG": house.settings.catalog_dsn,
        "TENANTRY_CONTROL": control.control_dsn,
        "TENANTRY_TEMPLATE": control.template or "",
        "TENANTRY_SHARED_TABLES": json.dumps(control.shared_tables),
    }


@pytest.fixture
def loggers() -> Iterator[None]:
    """A command says where its process logs to; the next test's process is this one."""
    known = [getLogger(name) for name in ("tenantry", "psycopg")]
    states = [(logger, logger.handlers, logger.propagate, logger.level) for logger in known]
    yield
    for logger, handlers, propagate, level in states:
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


@pytest.fixture
def run(loggers: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process, without a terminal."""

    def call(*arguments: str, stdin: str | bytes = "", env: Mapping[str, str] | None = None) -> Answer:
        content = stdin if isinstance(stdin, bytes) else stdin.encode()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), "utf-8"))
            for name, value in (env or {}).items():
                patch.setenv(name, value)
            capsys.readouterr()
            code = main(list(arguments))
        out, err = capsys.readouterr()
        return Answer(code, out, err)

    return call


@pytest.fixture
def at(house: House, monkeypatch: pytest.MonkeyPatch) -> House:
    """The house that commands of this test work on."""
    for name, value in settings_of(house).items():
        monkeypatch.setenv(name, value)
    return house


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a command in a process of its own; what still runs after the test is killed."""
    with ExitStack() as stack:

        def call(*arguments: str, **options: Any) -> subprocess.Popen[str]:
            streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
            process = subprocess.Popen([*COMMAND, *arguments], text=True, **{**streams, **options})
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        yield call


def finish(process: subprocess.Popen[str]) -> Answer:
    """Wait for a started command."""
    out, err = process.communicate(timeout=60)
    return Answer(process.returncode, out, err)


@pytest.fixture(scope="module")
def make_settings(make_house: MakeHouse) -> Callable[..., dict[str, str]]:
    """Make a house of a special kind, and return the environment of its commands."""
    return lambda **options: settings_of(make_house(**options))
