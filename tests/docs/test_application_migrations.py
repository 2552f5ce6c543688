"""The page on an application's migrations is followed from top to bottom."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tenantry.placements.template import LOCK_SECONDS
from tenantry.postgres.server import LocalServer
from tests.docs.lessons import Command, Shell, Write, matches, read

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "howto" / "application-migrations.md").read_text("utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    LocalServer(tmp_path / ".tenantry").remove()


@pytest.mark.timeout(240)
def test_the_page_runs_from_top_to_bottom(folder: Path) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("TENANTRY_")}
    env |= {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}", "NO_COLOR": "1"}
    page = PAGE.replace("```sql\n", '```sql title="grants.sql"\n')
    with Shell(folder, env, folder / "errors.log") as shell:
        for action in read(page):
            if isinstance(action, Write):
                file = folder / action.name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(action.text)
            elif isinstance(action, Command):
                code, output = shell.run(action.text)
                assert code == 0, f"{action.text}\n{output}\n{shell.errors}"
                assert action.output is None or matches(action.output, output), f"{action.text}\n{output}"


def test_what_it_says_of_locks_is_so() -> None:
    assert f"at most {LOCK_SECONDS} seconds for a lock" in PAGE.replace("\n", " ")
