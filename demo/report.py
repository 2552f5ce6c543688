"""What happened, step by step: told to people as it goes, and kept for the JSON document."""

from __future__ import annotations

import asyncio
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tenantry.errors import TenantryError

WIDTH = 110
"""The width of the output where it goes to a file or a pipe."""


TITLE = 30
"""The width of the titles of steps."""


@dataclass
class Step:
    """One step.

    Attributes:
        name: for programs.
        title: for people.
        note: what came of it, in a few words.
        facts: the same for programs.
        shows: what is printed below.
    """

    name: str
    title: str
    ok: bool = False
    seconds: float = 0.0
    note: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    shows: list[RenderableType] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """As JSON-ready data."""
        return {"name": self.name, "ok": self.ok, "seconds": round(self.seconds, 4), **self.facts}


class StepFailed(Exception):
    """A step did not hold. It has been told already."""


class NotHeld(TenantryError):
    """Something that the demo wants to show is not so."""

    code = "not-held"


class Report:
    """Runs the steps of the demo.

    Args:
        console: for people.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.steps: list[Step] = []

    @property
    def ok(self) -> bool:
        """Whether there were steps, and all held."""
        return bool(self.steps) and all(step.ok for step in self.steps)

    def as_dict(self) -> dict[str, Any]:
        """The JSON document."""
        return {"steps": [step.as_dict() for step in self.steps], "ok": self.ok}

    @contextmanager
    def step(self, name: str, title: str) -> Iterator[Step]:
        """Do a step inside the block; fill in what came of it.

        Raises:
            StepFailed: the block raised an error.
        """
        step = Step(name, title)
        self.steps.append(step)
        began = time.perf_counter()
        try:
            with self.console.status(Text(f"{title} ...")):
                yield step
            step.ok = True
        except Exception as error:
            step.facts["error"] = _told(error, step)
            raise StepFailed(name) from error
        except (KeyboardInterrupt, asyncio.CancelledError):
            step.facts["error"] = {"code": "interrupted", "message": "the step was interrupted"}
            raise
        finally:
            step.seconds = time.perf_counter() - began
            self._tell(step)

    def say(self, *lines: RenderableType) -> None:
        """Tell people something between steps; what they may want to copy is not broken into lines."""
        for line in lines:
            self.console.print(line, soft_wrap=True)

    def _tell(self, step: Step) -> None:
        line = Table.grid(padding=(0, 1, 0, 0), expand=True)
        line.add_column(width=1)
        line.add_column(min_width=TITLE, no_wrap=True)
        line.add_column(ratio=1)
        line.add_column(justify="right", no_wrap=True)
        mark = Text("✓", "bold green") if step.ok else Text("✗", "bold red")
        took = Text(f"{step.seconds:.2f} s", "dim")
        line.add_row(mark, Text(step.title, "bold"), Text(step.note if step.ok else "", overflow="fold"), took)
        self.console.print(line)
        for shown in step.shows:
            self.console.print(Padding(shown, (0, 0, 0, 2), expand=False))
        if not step.ok:
            self._tell_error(step.facts["error"])

    def _tell_error(self, error: dict[str, Any]) -> None:
        for label, style in (("message", "red"), ("where", ""), ("hint", "bold"), ("trace", "dim")):
            if error.get(label):
                title = {"message": "what", "hint": "next"}.get(label, label)
                self.console.print(
                    Padding(Text.assemble((f"{title:<6}", "dim"), (str(error[label]), style)), (0, 0, 0, 4))
                )


def _told(error: BaseException, step: Step) -> dict[str, Any]:
    while isinstance(error, BaseExceptionGroup):  # of tasks that ran side by side; one is enough to go on with
        error = error.exceptions[0]
    if isinstance(error, TenantryError):
        return {"where": f"step {step.name}", **error.as_dict()}
    trace = "".join(traceback.format_exception(error))
    hint = "this is a fault of the demo or of Tenantry: report it with the trace"
    return {
        "code": "fault",
        "message": f"{type(error).__name__}: {error}",
        "where": f"step {step.name}",
        "hint": hint,
        "trace": trace,
    }


def console(*, to_stderr: bool) -> Console:
    """A console for people: colours in a terminal, plain lines of a fixed width elsewhere."""
    stream = sys.stderr if to_stderr else sys.stdout
    stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # a terminal that knows no check marks
    return Console(file=stream, width=None if stream.isatty() else WIDTH, highlight=False)
