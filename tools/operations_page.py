"""Write the reference page of operations from their steps: ``python -m tools.operations_page [--check]``."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

from tenantry.operations.kinds import KINDS
from tenantry.operations.steps import Kind, Step

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference" / "operations.md"

_HEAD = """\
<!-- Written by tools/operations_page.py from the steps; change them, and run 'python -m tools.operations_page'. -->
# Operations

How they work is [explained here](../explanation/operations.md). The names below stand in errors, in `tenantry doctor`
and in the catalog's tables `operations` and `operation_steps`.

## States

| state | somebody works on it | ends when |
|---|---|---|
| `running` | yes, or its lease runs out | it is `done`, has to wait, or fails |
| `waiting` | no | its time has come (`resume_at`): the end of a grace period, of a key's overlap |
| `pending` | no | it is tried again (`resume_at`): a server was away, or a final step failed |
| `undoing` | yes, or its lease runs out, or at `resume_at` | it is `undone` |
| `done`, `undone` | no | never |

A step that fails because a server is away is tried again after 1, 5, 15 and then each 60 seconds: five times if it can
be undone, for ever if it can't. A lease lasts 15 seconds; its heartbeat comes every 5.

## Moments

A plugin hears of them through the hook `operation_moment`: `before` a step, when it has `acted`, and `after` it, when
its journal row is committed; and `undo`, `undo acted` and `undone` when it is undone.

## Kinds

**Acts**: the step does something outside of the catalog. **Records**: it changes the catalog, in the transaction that
notes the step as done. **Undo**: it has something to undo. **Final**: from here on there is only forward.
"""


def page() -> str:
    """The whole page."""
    return "\n".join([_HEAD, *(_section(kind) for kind in sorted(KINDS, key=lambda kind: kind.name))])


def _section(kind: Kind) -> str:
    module = importlib.import_module(f"tenantry.operations.{kind.name}")
    what = (module.__doc__ or "").partition("\n\n")[0].replace("\n", " ").strip()
    return "\n".join([f"### `{kind.name}`\n", what, "", *_table(kind), ""])


def _table(kind: Kind) -> Iterator[str]:
    yield "| step | acts | records | undo | final |"
    yield "|---|---|---|---|---|"
    final = False
    for step in kind.steps:
        final = final or step.final
        marks = (step.act is not None, step.record is not None, _can_be_undone(step), final)
        yield f"| `{step.name}` | " + " | ".join("yes" if mark else "" for mark in marks) + " |"


def _can_be_undone(step: Step) -> bool:
    return step.undo_act is not None or step.undo_record is not None


def main() -> int:
    """Write the page, or with ``--check`` compare it."""
    text = page()
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(text, "utf-8")
    elif not PAGE.is_file() or PAGE.read_text("utf-8") != text:
        print(f"{PAGE.name} is not what the operations say: run 'python -m tools.operations_page'", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
