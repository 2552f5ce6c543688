"""A contract type for import-linter: a module whose docstring says "Pure." on its first line does no I/O."""

from __future__ import annotations

import ast
from pathlib import Path

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output

SOURCES = Path(__file__).resolve().parents[1] / "src"


def says_pure(source: str) -> bool:
    """Whether the first line of a module's docstring ends with the word."""
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0].endswith("Pure.")


def pure_modules(sources: Path = SOURCES) -> set[str]:
    """The names of the modules that promise it."""
    return {_name(file.relative_to(sources)) for file in sources.rglob("*.py") if says_pure(file.read_text("utf-8"))}


def _name(file: Path) -> str:
    parts = file.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


class PureContract(Contract):
    """Pure modules do not import what does I/O, reads a clock or rolls dice, directly or through others.

    Options:
        forbidden_modules: top-level modules that a pure module may not reach.
    """

    type_name = "pure"

    forbidden_modules = fields.ListField(subfield=fields.StringField())

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        forbidden_modules: list[str] = self.forbidden_modules  # type: ignore[assignment]  # a descriptor without types
        chains = [
            chain
            for module in sorted(pure_modules() & graph.modules)
            for forbidden in forbidden_modules
            if forbidden in graph.modules
            if (chain := graph.find_shortest_chain(importer=module, imported=forbidden))
        ]
        return ContractCheck(kept=not chains, metadata={"chains": chains})

    def render_broken_contract(self, check: ContractCheck) -> None:
        for chain in check.metadata["chains"]:
            output.print_error(" -> ".join(chain), bold=False)
        output.print("Move the I/O to the caller, or take the word 'Pure.' out of the docstring.")
