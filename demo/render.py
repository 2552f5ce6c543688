"""Templates, with everything escaped that people wrote."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from demo.charts import Chart, chart
from demo.figures import Week

WIDE, NARROW = 1000.0, 400.0


def number(value: int) -> str:
    """``12345`` -> ``12,345``."""
    return f"{value:,}"


def money(value: Decimal | float, places: int = 2) -> str:
    """``1234.5`` -> ``$1,234.50``."""
    return f"${value:,.{places}f}"


def percent(value: float) -> str:
    """``0.1234`` -> ``12.3%``."""
    return f"{value:.1%}"


def day(value: date) -> str:
    """``8 May``."""
    return f"{value.day} {value:%b}"


def words(value: str) -> str:
    """``cost_per_click`` -> ``per click``."""
    return value.removeprefix("cost_").replace("_", " ")


_templates = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_templates.filters.update(number=number, money=money, percent=percent, day=day, words=words)


def page(template: str, *, status: int = 200, **context: Any) -> HTMLResponse:
    """A page made of a template."""
    return HTMLResponse(_templates.get_template(template).render(context, status=status), status)


def charts(weeks: Sequence[Week]) -> dict[str, Chart | None]:
    """One chart for wide screens and one for narrow ones; the style sheet shows the one that fits."""
    return {"wide": chart(weeks, WIDE), "narrow": chart(weeks, NARROW)}
