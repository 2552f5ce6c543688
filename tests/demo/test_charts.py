from __future__ import annotations

import itertools
import re
from datetime import date, timedelta
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from demo.charts import GUTTER, PANEL, chart, nice, short
from demo.figures import Totals, Week, every_week, total

MONDAYS = st.integers(0, 80).map(lambda n: date(2026, 1, 5) + timedelta(weeks=n))
TOTALS = st.builds(
    Totals, st.integers(0, 10**7), st.integers(0, 10**6), st.decimals(0, 10**6, places=4, allow_nan=False)
)
WEEKS = st.dictionaries(MONDAYS, TOTALS, max_size=30).map(
    lambda found: [Week(day, found[day]) for day in sorted(found)]
)
NUMBER = re.compile(r"-?[0-9.]+")


@given(WEEKS)
def test_no_week_is_left_out_and_nothing_is_added(weeks: list[Week]) -> None:
    shown = every_week(weeks)
    assert total(shown) == total(weeks)
    assert all(b.begins - a.begins == timedelta(weeks=1) for a, b in itertools.pairwise(shown))
    assert [week for week in shown if week in weeks] == weeks


@given(WEEKS, st.sampled_from([400.0, 1000.0]))
def test_every_point_is_inside_its_panel(weeks: list[Week], width: float) -> None:
    drawn = chart(weeks, width)
    if drawn is None:
        assert weeks == []
        return
    for number, panel in enumerate(drawn.panels):
        assert panel.bottom - panel.top == PANEL
        assert all(panel.top - 0.01 <= slot.points[number] <= panel.bottom + 0.01 for slot in drawn.slots)
    assert all(GUTTER <= slot.x <= width for slot in drawn.slots)
    assert len(drawn.slots) == len(every_week(weeks))


@given(st.floats(0, 1e12), st.booleans())
def test_an_axis_ends_above_the_value_and_not_far_above(largest: float, whole: bool) -> None:
    end = nice(largest, whole=whole)
    assert end >= largest
    assert end <= max(2.5 * largest, 2.0) or end == 0.01
    assert not whole or (end / 2) % 1 == 0


def test_a_single_week_is_drawn_as_a_dot() -> None:
    drawn = chart([Week(date(2026, 1, 5), Totals(3, 1, Decimal(2)))], 400)
    assert drawn is not None
    assert all(panel.line.endswith("h0") for panel in drawn.panels)


def test_labels_of_months_never_overlap() -> None:
    weeks = [Week(date(2020, 1, 6) + timedelta(weeks=n), Totals()) for n in range(300)]
    drawn = chart(weeks, 400)
    assert drawn is not None
    places = [x for x, _ in drawn.months]
    assert all(b - a >= 34 for a, b in itertools.pairwise(places))


def test_numbers_on_an_axis_are_short() -> None:
    assert [short(n) for n in (0, 2, 0.05, 500, 1500, 2_000_000)] == ["0", "2", "0.05", "500", "1.5k", "2M"]
