"""The geometry of the charts: from weeks to paths and rectangles. Templates draw them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from demo.figures import Week, every_week

GUTTER = 46.0
PANEL = 92.0
GAP = 38.0
TOP = 26.0
FOOT = 22.0


@dataclass(frozen=True)
class Panel:
    """One measure over time: a line and the area below it.

    Attributes:
        kind: ``impressions``, ``clicks`` or ``spend``; the colour follows it.
        ticks: heights with their labels.
    """

    kind: str
    title: str
    top: float
    bottom: float
    line: str
    area: str
    ticks: tuple[tuple[float, str], ...]


@dataclass(frozen=True)
class Slot:
    """The place of one week, with the texts to show when the pointer is over it; one a panel."""

    week: Week
    x: float
    left: float
    width: float
    points: tuple[float, ...]
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Chart:
    """Panels above one another, on one axis of weeks."""

    width: float
    height: float
    panels: tuple[Panel, ...]
    slots: tuple[Slot, ...]
    months: tuple[tuple[float, str], ...]


def nice(largest: float, *, whole: bool) -> float:
    """The end of an axis: a round number that is not below a value.

    Args:
        whole: the middle of the axis, which has a label too, has to be a whole number.
    """
    power = 1.0 if whole or largest <= 0 else 0.01
    while True:
        for step in _STEPS:
            end = round(power * step, 6)
            if end >= largest and (not whole or end % 2 == 0):
                return end
        power *= 10


_STEPS = (1.0, 1.2, 1.6, 2.0, 2.4, 3.0, 4.0, 5.0, 6.0, 8.0)


def short(value: float) -> str:
    """A number for an axis: ``1500`` -> ``1.5k``."""
    if value >= 1_000_000:
        return f"{value / 1_000_000:g}M"
    if value >= 1000:
        return f"{value / 1000:g}k"
    return f"{value:.2f}" if value % 1 else f"{value:g}"


def chart(weeks: Sequence[Week], width: float) -> Chart | None:
    """The chart of a company's or a campaign's weeks; None if there are none.

    Args:
        width: in units of the view box, which are pixels where there is room.
    """
    shown = every_week(weeks)
    if not shown:
        return None
    step = (width - GUTTER) / len(shown)
    xs = [GUTTER + step * (n + 0.5) for n in range(len(shown))]
    measures = (
        ("impressions", "Impressions", [float(week.totals.impressions) for week in shown], "{:,.0f}"),
        ("clicks", "Clicks", [float(week.totals.clicks) for week in shown], "{:,.0f}"),
        ("spend", "Spend", [float(week.totals.spend) for week in shown], "${:,.2f}"),
    )
    tops = [TOP + n * (PANEL + GAP) for n in range(len(measures))]
    scales = [nice(max(values), whole=kind != "spend") for kind, _, values, _ in measures]
    heights = [
        [top + PANEL * (1 - value / scale) for value in values]
        for (_, _, values, _), top, scale in zip(measures, tops, scales, strict=True)
    ]
    panels = [
        _panel(kind, title, scale, top, ys, xs)
        for (kind, title, _, _), scale, top, ys in zip(measures, scales, tops, heights, strict=True)
    ]
    slots = [
        Slot(
            *(week, x, x - step / 2, step),
            tuple(ys[n] for ys in heights),
            tuple(form.format(values[n]) for _, _, values, form in measures),
        )
        for n, (week, x) in enumerate(zip(shown, xs, strict=True))
    ]
    height = tops[-1] + PANEL + FOOT
    return Chart(width, height, tuple(panels), tuple(slots), _months(slots, room=34.0))


def _panel(kind: str, title: str, scale: float, top: float, ys: Sequence[float], xs: Sequence[float]) -> Panel:
    bottom = top + PANEL
    points = " L".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=True))
    line = f"M{points}" if len(xs) > 1 else f"M{points}h0"  # with round ends, a line without length is a dot
    area = f"M{xs[0]:.1f},{bottom:.1f} L{points} L{xs[-1]:.1f},{bottom:.1f}Z"
    mark = "$" if kind == "spend" else ""
    ticks = tuple((top + PANEL * (1 - part), f"{mark}{short(scale * part)}") for part in (0.5, 1.0))
    return Panel(kind, title, top, bottom, line, area, ticks)


def _months(slots: Sequence[Slot], room: float) -> tuple[tuple[float, str], ...]:
    """A label where a month begins, and none where the one before still needs the room."""
    labels: list[tuple[float, str]] = []
    last: date | None = None
    for slot in slots:
        day = slot.week.begins
        if last is None or (day.year, day.month) != (last.year, last.month):
            if not labels or slot.left - labels[-1][0] >= room:
                labels.append((slot.left, f"{day:%b}"))
            last = day
    return tuple(labels)
