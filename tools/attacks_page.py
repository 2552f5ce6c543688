"""Write the page of attacks from the tests that try them: ``python -m tools.attacks_page [--check]``.

A case is a test in ``tests/attacks`` with the mark ``attack(case, name, state, reason)``; its docstring says how it is
tried, the docstring of its file is the title of a section.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TESTS = ROOT / "tests" / "attacks"
PAGE = ROOT / "docs" / "reference" / "attacks.md"

HEAD = """\
<!-- Written by `python -m tools.attacks_page` from tests/attacks. -->
# Attacks

Somebody runs SQL of their own choice as the application's role: in a transaction that is bound to tenant A, in one that
is bound to nobody, or before tenant B's transaction on the same pooled connection. Each attack is a test. It runs in
both binding modes, at every level of isolation where it makes sense, and on each PostgreSQL there is (15 and 18 in CI).

- **refused**: it tells nothing of B and changes nothing of B's.
- **residual**: it succeeds, at least in part, for the reason given.

Not in here: whoever is a superuser, bypasses row security, reads the server's memory or files, or has the signing key.
"""


@dataclass(frozen=True)
class Case:
    """One test of an attack."""

    test: str
    case: str
    name: str
    tried: str
    state: str = "refused"
    reason: str = ""


@dataclass(frozen=True)
class Section:
    """One file of tests."""

    title: str
    cases: tuple[Case, ...]


def sections(folder: Path = TESTS) -> list[Section]:
    """What the tests say of themselves, in the order of the files."""
    found = []
    for path in sorted(folder.glob("test_*.py")):
        module = ast.parse(path.read_text("utf-8"), str(path))
        cases = tuple(_cases(module))
        if cases:
            found.append(Section(ast.get_docstring(module) or path.stem, cases))
    return found


def _cases(module: ast.Module) -> Iterator[Case]:
    for node in module.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for decorator in node.decorator_list:
                if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "attack":
                    case, name = (ast.literal_eval(argument) for argument in decorator.args)
                    more = {str(word.arg): ast.literal_eval(word.value) for word in decorator.keywords}
                    yield Case(node.name, case, name, " ".join((ast.get_docstring(node) or "").split()), **more)


def page(found: Iterable[Section], not_tried: dict[str, tuple[str, str]]) -> str:
    """The page, as Markdown."""
    parts = [HEAD]
    for section in found:
        parts.append(f"\n## {section.title}\n\n| case | attack | how it is tried | state |\n|---|---|---|---|\n")
        parts += [_row(case) for case in sorted(section.cases, key=lambda case: case.case)]
    parts.append("\n## Not tried\n\n| case | attack | why not |\n|---|---|---|\n")
    parts += [f"| {case} | {_cell(name)} | {_cell(why)} |\n" for case, (name, why) in sorted(not_tried.items())]
    return "".join(parts)


def _row(case: Case) -> str:
    state = f"**{case.state}**: {_cell(case.reason)}" if case.reason else case.state
    return f"| {case.case} | {_cell(case.name)} | {_cell(case.tried)} | {state} |\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_")


def main(arguments: list[str]) -> int:
    """Write the page, or with ``--check`` only compare it."""
    from tests.attacks.not_tried import NOT_TRIED

    text = page(sections(), NOT_TRIED)
    if "--check" not in arguments:
        PAGE.write_text(text, "utf-8")
        return 0
    if not PAGE.exists() or PAGE.read_text("utf-8") != text:
        print(
            f"{PAGE.relative_to(ROOT)} is not what the tests say: run 'python -m tools.attacks_page'", file=sys.stderr
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
