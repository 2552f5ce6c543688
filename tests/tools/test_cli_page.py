from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tenantry.cli.app import commands
from tools import cli_page

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_of_the_command_line_is_what_the_commands_say() -> None:
    command = [sys.executable, "-m", "tools.cli_page", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_page_that_is_behind_is_refused_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli_page, "PAGE", tmp_path / "cli.md")
    monkeypatch.setattr(sys, "argv", ["cli_page", "--check"])
    assert cli_page.main() == 1
    assert "run 'python -m tools.cli_page'" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["cli_page"])
    assert cli_page.main() == 0
    monkeypatch.setattr(sys, "argv", ["cli_page", "--check"])
    assert cli_page.main() == 0


def test_the_page_has_every_command_every_option_and_every_exit_code() -> None:
    page = cli_page.page()
    for name, command in commands():
        section = page.partition(f"# tenantry {name}\n")[2].partition("\n#")[0]
        spelled = {option for parameter in command.params for option in parameter.opts if option.startswith("--")}
        assert [option for option in spelled if option not in section] == [], name
    assert {code for code in cli_page.exit_codes() if f"| {code} | " not in page} == set()
