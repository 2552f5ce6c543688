"""``tenantry plan``: the verbs of :mod:`tenantry.service.plan`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from tenantry.cli import forms
from tenantry.cli.command import Json, example, isolations, noun, operate
from tenantry.cli.output import Output, record
from tenantry.errors import InvalidInput
from tenantry.model import Plan, shown
from tenantry.service import plan as plans
from tenantry.service.control import Control

app = noun()

Name = Annotated[str, typer.Argument(metavar="NAME", help="The plan's name.")]
Level = Annotated[
    str | None,
    typer.Option("--isolation", metavar="LEVEL", help="pooled, schema or database.", autocompletion=isolations),
]
Weight = Annotated[int | None, typer.Option(metavar="N", help="Its tenants' share of the time, against other plans'.")]
Limits = Annotated[
    list[str] | None,
    typer.Option("--limit", metavar="SETTING=VALUE", help=f"May be repeated: {', '.join(plans.LIMITS)}."),
]
Features = Annotated[
    list[str] | None,
    typer.Option("--feature", metavar="NAME=VALUE", help="May be repeated; the value is JSON, or a plain word."),
]
Warm = Annotated[int | None, typer.Option(metavar="N", help="Empty homes to keep ready on each open shard.")]
Grace = Annotated[int | None, typer.Option(metavar="SECONDS", help="How long a deleted tenant can be brought back.")]

ReplicaSeconds = Annotated[
    int | None,
    typer.Option(metavar="SECONDS", help="Let replicas answer ro transactions, at most so many seconds behind; 0: no."),
]


@app.command(
    epilog=example("tenantry plan create gold --isolation schema --limit statement_timeout=30s --warm 5 --weight 4")
)
def create(
    name: Name,
    isolation: Level = None,
    weight: Weight = None,
    limit: Limits = None,
    feature: Features = None,
    warm: Warm = None,
    grace: Grace = None,
    replica_seconds: ReplicaSeconds = None,
    as_json: Json = False,
) -> None:
    """Create a plan: pooled, weight 1, no limits and a week's grace, unless told otherwise."""
    values = _values(isolation, weight, warm, grace, replica_seconds)
    given = {each: value for each, value in values.items() if value is not None}
    limits, features = _pairs(limit, "limit"), _features(feature)
    made = operate(
        lambda control: plans.create(control, name, limits=limits, features=features, **given), "creating the plan"
    )
    Output(as_json).result(forms.plan(made), f"created plan {made.name}")


@app.command("list", epilog=example("tenantry plan list"))
def list_(as_json: Json = False) -> None:
    """List all plans, with the numbers of their tenants."""
    found = operate(plans.listing, "reading the catalog")
    Output(as_json).table(
        [forms.plan(plan, tenants) for plan, tenants in found],
        ("PLAN", "TENANTS", "ISOLATION", "WEIGHT", "WARM", "GRACE", "LIMITS"),
        ((p.name, n, p.isolation, p.weight, p.warm, _span(p.grace), _shown_limits(p)) for p, n in found),
    )


@app.command(epilog=example("tenantry plan show free"))
def show(name: Name, as_json: Json = False) -> None:
    """Show one plan."""
    _show(operate(lambda control: plans.show(control, name), "reading the catalog"), as_json)


@app.command(
    epilog=example("tenantry plan change free --limit statement_timeout=10s", "tenantry plan change business --warm 20")
)
def change(
    name: Name,
    isolation: Level = None,
    weight: Weight = None,
    limit: Limits = None,
    no_limit: Annotated[
        list[str] | None, typer.Option(metavar="SETTING", help="Remove this limit; may be repeated.")
    ] = None,
    feature: Features = None,
    no_feature: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Remove this feature; may be repeated.")
    ] = None,
    warm: Warm = None,
    grace: Grace = None,
    replica_seconds: ReplicaSeconds = None,
    as_json: Json = False,
) -> None:
    """Change what is named; the rest stays. Limits hold from each tenant's next transaction on."""

    async def run(control: Control) -> Plan:
        old = await plans.show(control, name)
        changes = _values(isolation, weight, warm, grace, replica_seconds)
        if limit or no_limit:
            changes["limits"] = _without({**old.limits, **_pairs(limit, "limit")}, no_limit, "limit")
        if feature or no_feature:
            changes["features"] = _without({**old.features, **_features(feature)}, no_feature, "feature")
        return await plans.change(control, name, **changes)

    _show(operate(run, "changing the plan"), as_json)


@app.command(epilog=example("tenantry plan delete gold"))
def delete(name: Name, as_json: Json = False) -> None:
    """Delete a plan that no tenant has, or ever had."""
    operate(lambda control: plans.delete(control, name), "deleting the plan")
    Output(as_json).result({"name": name, "state": "deleted"}, f"deleted plan {name}")


def _show(plan: Plan, as_json: bool) -> None:
    fields = {
        "isolation": plan.isolation,
        "weight": plan.weight,
        "limits": _shown_limits(plan) or "none",
        "features": json.dumps(dict(plan.features), ensure_ascii=False) if plan.features else "none",
        "warm": plan.warm,
        "grace": _span(plan.grace),
        "replicas": f"at most {_span(plan.replica_seconds)} behind" if plan.replica_seconds else "not read",
    }
    Output(as_json).result(forms.plan(plan), record(f"plan {plan.name}", fields))


def _values(
    isolation: str | None, weight: int | None, warm: int | None, grace: int | None, replica_seconds: int | None
) -> dict[str, Any]:
    values = {"isolation": isolation, "weight": weight, "warm": warm, "grace": grace}
    return {**values, "replica_seconds": replica_seconds}


def _shown_limits(plan: Plan) -> str:
    return ", ".join(f"{name}={value}" for name, value in sorted(plan.limits.items()))


def _span(seconds: int) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds and seconds % size == 0:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def _pairs(given: Sequence[str] | None, what: str) -> dict[str, str]:
    pairs = {}
    for each in given or ():
        name, equals, value = each.partition("=")
        if not equals or not name or not value:
            raise InvalidInput(f"{shown(each)} is not a {what}", hint=f"write it as --{what} NAME=VALUE")
        pairs[name] = value
    return pairs


def _features(given: Sequence[str] | None) -> dict[str, Any]:
    """Values are JSON; what is not is a text, so that ``--feature support=phone`` does what it says."""
    found: dict[str, Any] = {}
    for name, value in _pairs(given, "feature").items():
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def _without(values: dict[str, Any], names: Sequence[str] | None, what: str) -> dict[str, Any]:
    for name in names or ():
        if name not in values:
            raise InvalidInput(f"the plan has no {what} {shown(name)}", hint=f"it has {', '.join(values) or 'none'}")
        del values[name]
    return values
