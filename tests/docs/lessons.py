"""Reads a lesson of the documentation as a list of things to do, and does them in a real shell.

A block of code with ``title="name"`` is a file to write, with ``title="name, at the end"`` a text to append to it. A
block ``console`` holds commands after ``$``; a backslash at the end continues them. What stands below a command has to
be its standard output; ``...`` stands for anything, and nothing below it means that the output does not matter.

A command titled ``leave it running`` is started, after the one before has been stopped, and left until the lesson ends.
What is titled ``in the first terminal`` has to be among what it has said.
"""

from __future__ import annotations

import contextlib
import re
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

BACKGROUND = "leave it running"
FOREGROUND = "in the first terminal"
AT_THE_END = ", at the end"
PATIENCE = 60.0

_BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
_VARIES = (  # what is another one each time, as it is written in the lesson
    (re.compile(r"127\.0\.0\.1:\d+"), "127.0.0.1:PORT"),
    (re.compile(r"\b([dt])_[0-9a-f]{12}\b"), r"\1_ID"),
)


@dataclass(frozen=True)
class Write:
    """A file to write, or to append to."""

    name: str
    text: str
    append: bool


@dataclass(frozen=True)
class Command:
    """A command, and what it has to say; None: anything."""

    text: str
    output: str | None
    background: bool = False


@dataclass(frozen=True)
class Said:
    """What the command that was left running has said."""

    text: str


Action = Write | Command | Said


def read(lesson: str) -> list[Action]:
    """The actions of a lesson in Markdown, in their order.

    Raises:
        ValueError: a block can't be read.
    """
    actions: list[Action] = []
    for language, title, text in _BLOCK.findall(lesson):
        if language == "console":
            actions += _commands(text, background=title == BACKGROUND)
        elif title == FOREGROUND:
            actions.append(Said(text.strip()))
        elif title:
            actions.append(Write(title.removesuffix(AT_THE_END), text, title.endswith(AT_THE_END)))
        else:
            raise ValueError(f"a block of {language} says no file to be written to: {text[:60]!r}")
    if lesson.count("\n```") != 2 * len(_BLOCK.findall(lesson)):
        raise ValueError('a block can\'t be read: only ```LANGUAGE and ```LANGUAGE title="..." are known')
    return actions


def _commands(text: str, *, background: bool) -> Iterator[Command]:
    if not text.startswith("$ "):
        raise ValueError(f"a console begins with '$ ', not with {text[:40]!r}")
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, output = "", part
        while not command or command.endswith("\\\n"):
            line, _, output = output.partition("\n")
            command += line + "\n"
        yield Command(command.strip(), output.rstrip() or None, background)


def matches(expected: str, output: str) -> bool:
    """Whether an output is the expected one, in which ``...`` stands for anything."""
    for pattern, name in _VARIES:
        expected, output = pattern.sub(name, expected), pattern.sub(name, output)
    parts = (re.escape(part) for part in _plain(expected).split("..."))
    return re.fullmatch(".*?".join(parts), _plain(output), re.DOTALL) is not None


def _plain(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


class Shell:
    """One bash, in which one command after the other is run, as in a terminal.

    Args:
        folder: where it begins.
        environment: all of its variables.
        errors: the file that gets what commands write to standard error.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str], errors: Path) -> None:
        self._errors = errors
        with errors.open("w") as file:
            self._bash = subprocess.Popen(
                ["bash", "--norc", "--noprofile"],
                cwd=folder,
                env=dict(environment),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bash.communicate()

    @property
    def errors(self) -> str:
        """What commands have written to standard error."""
        return self._errors.read_text("utf-8", "replace")

    def run(self, command: str) -> tuple[int, str]:
        """Run a command; its exit code and its standard output."""
        assert self._bash.stdin is not None
        assert self._bash.stdout is not None
        mark = "=== the command has ended:"
        self._bash.stdin.write(f"{command}\nprintf '\\n%s %s\\n' {shlex.quote(mark)} $?\n")
        self._bash.stdin.flush()
        lines: list[str] = []
        for line in self._bash.stdout:
            if line.startswith(mark):
                return int(line.removeprefix(mark)), "".join(lines).strip()
            lines.append(line)
        raise AssertionError(f"the shell has ended after {command!r}: {''.join(lines)}{self.errors}")

    def folder(self) -> Path:
        """Where it is now."""
        return Path(self.run("pwd")[1])

    def environment(self) -> dict[str, str]:
        """The variables that it has exported by now."""
        pairs = self.run("env -0 | tr '\\0' '\\036'")[1].strip("\036").split("\036")
        return dict(pair.split("=", 1) for pair in pairs)


class Background:
    """A server that a lesson leaves running."""

    def __init__(self, shell: Shell, command: str, port: int) -> None:
        self._log = shell.folder() / ".background.log"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                ["bash", "-c", f"exec {command}"], cwd=shell.folder(), env=shell.environment(), stdout=log, stderr=log
            )
        try:
            self._wait(lambda: _answers(port), "an answer")
        except AssertionError:
            self.stop()
            raise

    @property
    def log(self) -> str:
        """What it has said."""
        return self._log.read_text()

    def wait_for(self, text: str) -> None:
        """Wait until it has said something."""
        self._wait(lambda: text in self.log, repr(text))

    def _wait(self, has_come: Callable[[], bool], what: str) -> None:
        until = time.monotonic() + PATIENCE
        while not has_come():
            assert self._process.poll() is None, f"it ended before {what} came: {self.log}"
            assert time.monotonic() < until, f"{what} did not come: {self.log}"
            time.sleep(0.05)  # nothing tells us when somebody else's server is ready, or has written its log

    def stop(self) -> None:
        """End it by Ctrl-C."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGINT)
        self._process.wait(PATIENCE)


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True
