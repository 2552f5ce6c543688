"""In which order rows of many tables can be deleted when tables refer to each other. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Group:
    """Tables whose turn has come: one, or several that refer to each other in a circle.

    ``at_once``: one statement must delete all rows, because they may refer to each other.
    """

    tables: tuple[int, ...]
    at_once: bool


def deletion_groups(tables: Sequence[int], references: Iterable[tuple[int, int]]) -> list[Group]:
    """Groups in such an order that no table is emptied before those that refer to it.

    Args:
        tables: the tables' ids.
        references: pairs of a table and the one that it refers to; others than ``tables`` are passed over.
    """
    children: dict[int, set[int]] = {table: set() for table in tables}
    for child, parent in references:
        if child in children and parent in children:
            children[parent].add(child)
    left = dict.fromkeys(tables)
    groups: list[Group] = []
    while left:
        free = [table for table in left if not (children[table] & left.keys()) - {table}]
        if free:
            groups += [Group((table,), at_once=table in children[table]) for table in free]
        else:
            free = sorted(_smallest_circle(children, left))
            groups.append(Group(tuple(free), at_once=True))
        for table in free:
            del left[table]
    return groups


def _smallest_circle(children: dict[int, set[int]], left: Iterable[int]) -> set[int]:
    """Nobody outside of what the least far-reaching table reaches refers to it: that is one circle, or several knotted
    together."""
    among = set(left)
    return min((_reached(children, among, table) for table in sorted(among)), key=len)


def _reached(children: dict[int, set[int]], among: set[int], start: int) -> set[int]:
    seen = {start}
    todo = [start]
    while todo:
        for child in children[todo.pop()] & among - seen:
            seen.add(child)
            todo.append(child)
    return seen
