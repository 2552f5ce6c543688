"""``tenantry op``: the verbs of :mod:`tenantry.service.op`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from tenantry.cli.command import Json, example, noun, operate
from tenantry.cli.output import Output, record
from tenantry.service import op as ops

app = noun()

Operation = Annotated[int, typer.Argument(metavar="ID", help="The operation's number.")]


@app.command("list", epilog=example("tenantry op list"))
def list_(as_json: Json = False) -> None:
    """List the operations that have not ended."""
    found = operate(ops.listing, "reading the catalog")
    Output(as_json).table(
        [dict(row) for row in found],
        ("ID", "KIND", "STATE", "DONE", "ACTOR", "SINCE", "AGAIN", "ERROR"),
        (
            (
                row["id"],
                row["kind"],
                "stalled" if row["stalled"] else row["state"],
                row["step"] or "",
                row["actor"],
                row["created_at"].isoformat(" ", "seconds"),
                row["resume_at"].isoformat(" ", "seconds") if row["resume_at"] else "",
                (row["error"] or {}).get("message", ""),
            )
            for row in found
        ),
    )


@app.command(epilog=example("tenantry op show 12"))
def show(operation: Operation, as_json: Json = False) -> None:
    """Show one operation: its state, the last step that is done, and its error."""
    row = operate(lambda control: ops.show(control, operation), "reading the catalog")
    Output(as_json).result(dict(row), record(f"operation {operation}", _fields(row)))


@app.command(epilog=example("tenantry op undo 12"))
def undo(operation: Operation, as_json: Json = False) -> None:
    """Undo an operation that waits: a tenant that was moved comes back, with what it has written since."""
    done = operate(lambda control: ops.undo(control, operation), f"undoing operation {operation}")
    Output(as_json).result(dict(done), f"operation {operation} ({done['kind']}) is {done['state']}")


def _fields(row: Mapping[str, Any]) -> dict[str, object]:
    def time(name: str) -> str | None:
        return row[name].isoformat(" ", "seconds") if row[name] else None

    error = row["error"] or {}
    return {
        "kind": row["kind"],
        "state": row["state"],
        "done": row["step"],
        "actor": row["actor"],
        "since": time("created_at"),
        "again": time("resume_at"),
        "ended": time("finished_at"),
        "error": error.get("message"),
    }
