from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tenantry.placements.deletion import Group, deletion_groups

TABLES = st.integers(0, 8)
GRAPHS = st.tuples(st.lists(TABLES, unique=True), st.lists(st.tuples(TABLES, TABLES)))
"""Tables, and pairs of a table and the one that it refers to; some pairs name other tables."""


def test_who_refers_goes_first() -> None:
    assert deletion_groups([1, 2, 3], [(3, 2), (2, 1)]) == [Group((3,), False), Group((2,), False), Group((1,), False)]


def test_who_refers_to_itself_goes_at_once() -> None:
    assert deletion_groups([1], [(1, 1)]) == [Group((1,), True)]


def test_a_circle_goes_at_once_and_what_hangs_on_it_before_and_after() -> None:
    groups = deletion_groups([1, 2, 3, 4], [(4, 2), (2, 3), (3, 2), (3, 1)])
    assert groups == [Group((4,), False), Group((2, 3), True), Group((1,), False)]


def test_two_circles_go_one_after_the_other() -> None:
    groups = deletion_groups([1, 2, 3, 4], [(1, 2), (2, 1), (3, 4), (4, 3), (2, 3)])
    assert groups == [Group((1, 2), True), Group((3, 4), True)]


@given(GRAPHS)
def test_each_table_goes_once_and_never_before_one_that_refers_to_it(
    graph: tuple[list[int], list[tuple[int, int]]],
) -> None:
    tables, references = graph
    groups = deletion_groups(tables, references)
    turn = {table: n for n, group in enumerate(groups) for table in group.tables}
    assert sorted(table for group in groups for table in group.tables) == sorted(tables)
    for child, parent in references:
        if child in turn and parent in turn:
            assert turn[child] < turn[parent] or (turn[child] == turn[parent] and groups[turn[child]].at_once)


@given(GRAPHS)
def test_only_what_must_goes_at_once(graph: tuple[list[int], list[tuple[int, int]]]) -> None:
    tables, references = graph
    for group in deletion_groups(tables, references):
        inside = [(child, parent) for child, parent in references if {child, parent} <= set(group.tables)]
        assert group.at_once == bool(inside)
        for table in group.tables:
            assert len(group.tables) == 1 or reached(table, inside) == set(group.tables)


def reached(start: int, references: list[tuple[int, int]]) -> set[int]:
    """What a table refers to, by however many steps."""
    found: set[int] = set()
    todo = [start]
    while todo:
        here = todo.pop()
        for child, parent in references:
            if child == here and parent not in found:
                found.add(parent)
                todo.append(parent)
    return found
