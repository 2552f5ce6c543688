"""Check that files, classes and functions stay small enough to read: ``python -m tools.bounds``.

A file has at most 600 lines, a class 300, a function 50; a function's docstring does not count. What is larger stands
in ``EXCEPTIONS`` with its reason, and leaves it when it has become small.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("src", "tests", "tools", "benchmarks", "demo", "examples")
LIMITS = {"file": 600, "class": 300, "function": 50}

EXCEPTIONS: Mapping[str, str] = {}
"""``path`` or ``path::Qualified.name`` -> why it is larger, in one sentence."""

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


class Size(NamedTuple):
    """How large one thing is."""

    name: str
    kind: str
    lines: int

    @property
    def too_large(self) -> bool:
        return self.lines > LIMITS[self.kind]

    def __str__(self) -> str:
        return f"{self.name}: a {self.kind} of {self.lines} lines, the bound is {LIMITS[self.kind]}"


def sizes(path: str, source: str) -> Iterator[Size]:
    """The sizes of a file and of every class and function in it."""
    yield Size(path, "file", len(source.splitlines()))
    yield from _definitions(ast.parse(source, path), f"{path}::")


def _definitions(parent: ast.AST, prefix: str) -> Iterator[Size]:
    for node in ast.iter_child_nodes(parent):
        if not isinstance(node, Definition):
            yield from _definitions(node, prefix)
            continue
        kind = "class" if isinstance(node, ast.ClassDef) else "function"
        yield Size(prefix + node.name, kind, _lines(node))
        yield from _definitions(node, f"{prefix}{node.name}.")


def _lines(node: Definition) -> int:
    lines = _span(node)
    if isinstance(node, ast.ClassDef) or ast.get_docstring(node) is None:
        return lines
    return lines - _span(node.body[0])


def _span(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def faults(found: Iterator[Size], exceptions: Mapping[str, str]) -> list[str]:
    """What is too large without a reason, and every reason that nothing needs any more."""
    large = {size.name: size for size in found if size.too_large}
    unexplained = [
        f"{size}; split it, or give the reason in tools/bounds.py"
        for name, size in large.items()
        if name not in exceptions
    ]
    stale = [
        f"{name}: is not too large any more; remove it from tools/bounds.py" for name in exceptions if name not in large
    ]
    return unexplained + stale


def _everything() -> Iterator[Size]:
    for folder in FOLDERS:
        for file in sorted((ROOT / folder).rglob("*.py")):
            yield from sizes(file.relative_to(ROOT).as_posix(), file.read_text("utf-8"))


def main() -> int:
    found = faults(_everything(), EXCEPTIONS)
    for fault in found:
        print(fault, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
