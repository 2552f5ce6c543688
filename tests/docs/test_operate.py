"""The page on operating a house is run from top to bottom, and its commands say what it shows."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tenantry.postgres import versions
from tenantry.postgres.server import LocalServer
from tenantry.service import check, doctor, doctor_residents, doctor_shards
from tests.fixtures.house import TEMPLATE

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "howto" / "operate.md").read_text("utf-8")
MODULES = (check, doctor, doctor_residents, doctor_shards, versions)
BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    work = tmp_path_factory.mktemp("operate")
    shutil.copytree(TEMPLATE, work / "migrations")
    yield work
    LocalServer(work / ".tenantry").remove()


def steps() -> Iterator[tuple[str, str]]:
    """Each command of the page, with what it shows."""
    for block in BLOCK.findall(PAGE):
        for step in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, shown = step.partition("\n")
            yield command, shown


def pattern(shown: str) -> str:
    """A line ``...`` is any lines, and ``...`` in a line is anything."""
    lines = [
        r"(?:.*\n)*" if line == "..." else re.escape(line).replace(r"\.\.\.", ".*") + "\n"
        for line in shown.splitlines()
    ]
    return "".join(lines)


@pytest.mark.timeout(240)
def test_the_page_runs_from_top_to_bottom(folder: Path) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("TENANTRY_")}
    env |= {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}", "NO_COLOR": "1"}
    for command, shown in steps():
        done = subprocess.run(["bash", "-c", command], cwd=folder, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        assert re.fullmatch(pattern(shown), done.stdout), f"{command}\n{done.stdout}"


def test_what_the_doctor_may_say_is_what_it_says() -> None:
    table = re.findall(r"^\| `([^`]+)` \|", PAGE.partition("## Ask the doctor")[2].partition("\n## ")[0], re.MULTILINE)
    code = "".join(Path(str(module.__file__)).read_text("utf-8") for module in MODULES)
    assert len(table) > 5
    assert [words for words in table if words not in code] == []
