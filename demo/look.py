"""What people see of the demo in a terminal, below its steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from demo.app import DOMAIN
from demo.attacks import Attack
from demo.serve import ADDRESS
from demo.stage import LEVELS, Resident

_STYLES = {"pooled": "cyan", "schema": "blue", "database": "magenta", "dedicated": "red"}
_BELOW = (0, 0, 0, 4)


def homes(residents: Sequence[Resident]) -> Table:
    """Where everybody lives, how long it took to get there, and with how many rows."""
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    for name in ("company", "level", "lives in"):
        table.add_column(name, no_wrap=True)
    for name in ("onboarded", "rows", "loaded"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in sorted(residents, key=lambda resident: list(LEVELS).index(resident.level)):
        at = each.tenant.placement
        assert at is not None
        made = f"{each.created * 1000:,.0f} ms" if each.created else "before"
        loaded = f"{each.loaded:.2f} s" if each.loaded else "before"
        place, rows = f"{at.shard}/{at.database}/{at.schema}", f"{sum(each.counts.values()):,}"
        table.add_row(each.tenant.slug, Text(each.level, _STYLES[each.level]), place, made, rows, loaded)
    return table


def battle(attacks: Sequence[Attack], loot: dict[str, int]) -> Group:
    """What was tried, and what came back."""
    there = f"{loot['campaigns']} campaigns of {loot['companies']} companies"
    seen = Text(f"(an operator, who gives a reason and is on record, sees {there} in the shared tables)", "dim")
    return Group(seen, *map(_attack, attacks))


def _attack(attack: Attack) -> Group:
    shown = next((each for each in attack.outcomes if not each.held), attack.outcomes[0])
    levels = ", ".join(dict.fromkeys(outcome.level for outcome in attack.outcomes))
    mark, style = ("✓", "green") if attack.held else ("✗", "red")
    word = "answered" if shown.answer.refusal is None else "refused"
    return Group(
        Text.assemble((f"{mark} ", style), attack.title, (f"  {levels}", "dim")),
        Padding(Text(shown.sent, "yellow", overflow="ellipsis", no_wrap=True), _BELOW, expand=False),
        Padding(Text.assemble((f"{word}: ", "dim"), (shown.answer.said, style)), _BELOW, expand=False),
    )


def farewell(residents: Sequence[Resident], port: int, config: Path) -> list[Text]:
    """Where to go from here."""
    slug = residents[0].tenant.slug
    width = max(len(each.tenant.slug) for each in residents)
    lines = [Text(""), Text.assemble("Open ", (f"http://{DOMAIN}:{port}/", "bold underline"), ", or a company:")]
    for each in residents:
        url, gap = f"http://{each.tenant.slug}.{DOMAIN}:{port}/", " " * (width - len(each.tenant.slug) + 2)
        lines.append(Text.assemble("  ", (url, "underline"), gap, (each.level, _STYLES[each.level])))
    return [
        *lines,
        Text(""),
        Text("Ask the API, and the control plane:"),
        Text(f"  curl -H 'X-Tenant: {slug}' http://{ADDRESS}:{port}/api/stats"),
        Text(f"  TENANTRY_CONFIG='{config}' .venv/bin/tenantry tenant list"),
        Text(""),
        Text("Ctrl-C ends it."),
    ]
