"""``tenantry perimeter``: the verbs of :mod:`tenantry.service.perimeter`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from tenantry.cli import forms
from tenantry.cli.command import Json, ShardName, example, noun, operate
from tenantry.cli.output import Output, printable, write
from tenantry.service import perimeter
from tenantry.service.perimeter import Section

app = noun()

Database = Annotated[str | None, typer.Option("--database", metavar="NAME", help="Only this database.")]


@app.command(epilog=example("tenantry perimeter plan", "tenantry perimeter plan --shard main -o wall.sql"))
def plan(
    shard: ShardName = None,
    database: Database = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", metavar="FILE", help="Write the SQL there.")] = None,
    as_json: Json = False,
) -> None:
    """Print the SQL that would close the wall, to be reviewed; nothing is changed."""
    found = operate(lambda control: perimeter.plan(control, shard=shard, database=database), "comparing the walls")
    script = "\n".join(_script(found))
    if output is not None:
        output.write_text(script + "\n", "utf-8")
        write(f"wrote {output}", err=True)
    out = Output(as_json)
    if as_json or output is None:
        out.result(_form(found), script.splitlines())


@app.command(epilog=example("tenantry perimeter apply", "tenantry perimeter apply --shard main --database tenantry"))
def apply(shard: ShardName = None, database: Database = None, as_json: Json = False) -> None:
    """Close the wall: make the changes of the plan. Exit 1 if findings are left that SQL can't mend."""
    done = operate(lambda control: perimeter.apply(control, shard=shard, database=database), "closing the walls")
    left = [section for section in done if section.plan.findings]
    form = {**_form(done), "closed": not left}
    Output(as_json).result(form, [*_changed(done), *_findings(done), "open: see the findings" if left else "closed"])
    if left:
        raise typer.Exit(1)


@app.command(epilog=example("tenantry perimeter check"))
def check(shard: ShardName = None, database: Database = None, as_json: Json = False) -> None:
    """Say where the wall is open. Exit 1 if it is."""
    found = operate(lambda control: perimeter.check(control, shard=shard, database=database), "comparing the walls")
    lines = [*_missing(found), *_findings(found)]
    Output(as_json).result(_form(found), lines or ["closed"])
    if found:
        raise typer.Exit(1)


def _form(sections: Sequence[Section]) -> dict[str, Any]:
    return {
        "closed": all(section.plan.closed for section in sections),
        "sections": [forms.section(section) for section in sections],
    }


def _script(sections: Sequence[Section]) -> Iterator[str]:
    for section in sections:
        if section.plan.changes:
            yield f"-- Shard {section.shard}\n{section.plan.as_sql()}"
        for finding in section.plan.findings:
            place = f"{section.shard}/{section.database}"
            yield f"-- Finding in {place}: {finding.object} {finding.what}\n-- To mend it: {finding.fix}\n"
    if all(section.plan.closed for section in sections):
        yield "-- The wall is closed; there is nothing to change."


def _changed(sections: Sequence[Section]) -> Iterator[str]:
    for section in sections:
        for change in section.plan.changes:
            yield printable(f"changed {section.shard}/{section.database}: {change.object}: {change.why}")


def _missing(sections: Sequence[Section]) -> Iterator[str]:
    for section in sections:
        for change in section.plan.changes:
            yield printable(f"open: {section.shard}/{section.database}: {change.object}: {change.why}")
        if section.plan.changes:
            yield f"  next:   'tenantry perimeter apply --shard {section.shard} --database {section.database}'"


def _findings(sections: Sequence[Section]) -> Iterator[str]:
    for section in sections:
        for finding in section.plan.findings:
            place = f"{section.shard}/{section.database}"
            yield printable(f"finding ({finding.severity}): {place}: {finding.object}: {finding.what}")
            yield printable(f"  next:   {finding.fix}")
