"""The tutorials are followed to the letter: each file is written, each command run, each answer compared."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from pathlib import Path

import pytest

from tests.docs.lessons import Action, Background, Command, Said, Shell, Write, matches, read

ROOT = Path(__file__).resolve().parents[2]
LESSONS = sorted((ROOT / "docs" / "tutorial").glob("[!i]*.md"))
PORT = "8000"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


def strangers_environment(home: Path) -> dict[str, str]:
    """A shell of somebody who has nothing of ours, but for the versions that CI uses."""
    programs = home / "bin"
    programs.mkdir()
    (programs / "python3").symlink_to(getattr(sys, "_base_executable", sys.executable))
    ours = str(Path(sys.executable).parent)
    others = [folder for folder in os.environ["PATH"].split(os.pathsep) if folder != ours]
    kept = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "LANG", "LC_"))}
    return {
        **kept,
        "HOME": str(home),
        "PATH": os.pathsep.join([str(programs), *others]),
        "PIP_CONSTRAINT": str(ROOT / "constraints.txt"),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "COLUMNS": "120",
    }


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("lesson", LESSONS, ids=lambda file: file.stem)
def test_a_tutorial_works_as_it_stands(lesson: Path, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    (tmp_path / "tenantry").symlink_to(ROOT)
    port = free_port()
    text = lesson.read_text("utf-8").replace(PORT, str(port))
    running: Background | None = None
    with Shell(tmp_path, strangers_environment(tmp_path), tmp_path / "errors.log") as shell:
        try:
            for action in read(text):
                running = follow(action, shell, port, running)
        finally:
            if running is not None:
                running.stop()
            shell.run("tenantry local stop .tenantry")  # whatever a lesson that failed has left


def follow(action: Action, shell: Shell, port: int, running: Background | None) -> Background | None:
    """Do one thing; what runs in the background afterwards."""
    match action:
        case Write(name, text, append):
            with (shell.folder() / name).open("a" if append else "w", encoding="utf-8") as file:
                file.write("\n\n" + text if append else text)
        case Said(text):
            assert running is not None
            running.wait_for(text)
        case Command(text, _, background=True):
            if running is not None:
                running.stop()
            return Background(shell, text, port)
        case Command(text, expected):
            code, output = shell.run(text)
            log = shell.errors + (running.log if running is not None else "")
            assert code == 0, f"$ {text}\n{output}\n{log}"
            assert expected is None or matches(expected, output), f"$ {text}\n{output}\nexpected:\n{expected}\n{log}"
    return running


def test_there_are_tutorials_and_the_index_names_each() -> None:
    index = (ROOT / "docs" / "tutorial" / "index.md").read_text("utf-8")
    assert LESSONS
    assert [lesson.name for lesson in LESSONS if f"({lesson.name})" not in index] == []


@pytest.mark.parametrize("name", ["models.py", "app.py", "report.py"])
def test_the_files_of_the_first_application_are_complete(name: str) -> None:
    actions = read((ROOT / "docs" / "tutorial" / "first-app.md").read_text("utf-8"))
    [text] = [each.text for each in actions if isinstance(each, Write) and each.name == name and not each.append]
    compile(text, name, "exec")
    assert "tenant_id" not in text or name == "models.py"


@pytest.mark.parametrize(
    ("expected", "output", "fits"),
    [
        ("a\nb", "a\nb\n", True),
        ("a", "a\nb", False),
        ("a...", "a\nb", True),
        ("...\nb\n...", "x\nb\ny", True),
        ("port 127.0.0.1:25432", "port 127.0.0.1:1", True),
        ("at d_68f3587843fe", "at d_000000000000", True),
        ("at d_68f3587843fe", "at public", False),
        ("(2 rows)", "(2 rows]", False),
    ],
)
def test_an_answer_is_compared_but_for_what_varies(expected: str, output: str, fits: bool) -> None:
    assert matches(expected, output) is fits


@pytest.mark.parametrize(
    "text",
    ["```python\nx = 1\n```", "```console\nls\n```", '```python {title="x"}\nx\n```', "```console\n$ ls\n"],
)
def test_a_block_that_would_be_passed_over_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"block|console"):
        read(f"\n{text}\n")


def test_a_lesson_is_read_as_files_and_commands() -> None:
    lesson = '\n```python title="a.py"\nx = 1\n```\n\n```console\n$ one \\\n  more\nout\n$ two\n```\n'
    assert read(lesson) == [
        Write("a.py", "x = 1\n", append=False),
        Command("one \\\n  more", "out"),
        Command("two", None),
    ]
