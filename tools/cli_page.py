"""Write the reference page of the command line from the commands: ``python -m tools.cli_page [--check]``."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tenantry.cli.app import ENTRIES, NOUNS, PROGRAM, commands
from tenantry.errors import TenantryError

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference" / "cli.md"

_HEAD = """\
<!-- Written by tools/cli_page.py from the commands; change them instead, and run 'python -m tools.cli_page'. -->
# Command line

`tenantry` is also `python -m tenantry`. It reads `tenantry.toml` in the working directory (`--config FILE` or
`TENANTRY_CONFIG` names another) and `TENANTRY_*` in the environment, which wins. Your shell learns to complete it with
`tenantry --install-completion`.

## What holds for every command

- **Results** go to standard output, everything else (errors, warnings, progress) to standard error. Progress is shown
  at a terminal only, for what takes longer than a second.
- **`--json`** prints one JSON document. `tenant list` prints one a line instead, and so does the log of `worker`. An
  error is `{"error": {"code", "message", "where", "hint", "exit_code"}}` on standard error.
- **Errors** say what was wrong, where, and what to do next. There is no traceback, unless you ask with
  `tenantry --debug COMMAND`.
- **`-`** in the place of a DSN or a file reads it from standard input, so that a password is in no list of processes.
- **`--`** ends the options: what follows is an argument, even if it begins with a dash.

```text
error[slug-taken]: the slug 'acme' is taken
  where:  tenantry tenant create
  next:   choose another slug; a deleted tenant's slug is free once its deletion has finished
```

## Exit codes

| code | meaning |
|---|---|
"""

_CODES = {
    0: "done",
    1: "something is not as it should be: an operation failed, a wall is open, a check failed, a server refused SQL",
    2: "wrong input: an option, a name, a file, a setting",
    3: "what was named does not exist",
    4: "it contradicts what is there: a name is taken, a tenant is suspended or deleted, a thing is in use",
    5: "a server that is needed can't serve, or there is no room",
    6: "an optional package is not installed",
    70: "a bug in Tenantry",
    130: "interrupted; what had begun is durable, and a worker finishes or undoes it",
    141: "whoever read the output has gone",
}


def page() -> str:
    """The text of the page."""
    return _HEAD + "".join(f"| {code} | {text} |\n" for code, text in sorted(_CODES.items())) + "".join(_sections())


def _sections() -> Iterator[str]:
    for panel in dict.fromkeys(entry.panel for entry in ENTRIES.values()):
        yield f"\n## {panel}\n"
        noun = ""
        for name, command in commands():
            first = name.split()[0]
            if ENTRIES[first].panel != panel:
                continue
            if panel == NOUNS and first != noun:
                noun = first
                yield f"\n### {PROGRAM} {noun}\n\n{ENTRIES[noun].help}\n"
            level = "####" if panel == NOUNS else "###"
            yield f"\n{level} {PROGRAM} {name}\n\n{_command(name, command)}"


def _command(name: str, command: Any) -> str:
    parameters = [parameter for parameter in command.params if not getattr(parameter, "hidden", False)]
    arguments = [parameter for parameter in parameters if parameter.param_type_name == "argument"]
    options = [parameter for parameter in parameters if parameter.param_type_name == "option"]
    usage = " ".join([PROGRAM, name, *(["[OPTIONS]"] if options else []), *map(_argument, arguments)])
    examples = re.findall(r"^\$ (.*)$", command.epilog or "", re.MULTILINE)
    rows = "".join(f"| `{_spelled(each)}` | {_escaped(each.help)} |\n" for each in [*arguments, *options])
    table = f"\n| {'argument or option' if arguments else 'option'} | what it does |\n|---|---|\n{rows}" if rows else ""
    shown = "".join(f"{example}\n" for example in examples)
    return f"{_escaped(command.help)}\n\n```text\n{usage}\n```\n{table}\n```console\n{shown}```\n"


def _argument(parameter: Any) -> str:
    metavar = parameter.metavar or parameter.name.upper()
    return metavar if parameter.required else f"[{metavar}]"


def _spelled(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return str(parameter.metavar or parameter.name.upper())
    spelled = ", ".join(parameter.opts)
    return spelled if parameter.is_flag else f"{spelled} {parameter.metavar}"


def _escaped(text: str) -> str:
    """As Markdown: an option is code, so that its dashes stay two."""
    return re.sub(r"(?<![\w`'])(--?[a-z][a-z-]*)(?![\w`'])", r"`\1`", text.replace("|", "\\|").replace("<", "&lt;"))


def exit_codes() -> set[int]:
    """The exit codes of all errors, for the test that compares them with the page."""
    classes = [TenantryError]
    for each in classes:
        classes += each.__subclasses__()
    return {each.exit_code for each in classes}


def main() -> int:
    """Write the page, or with ``--check`` compare it."""
    if "--check" not in sys.argv:
        PAGE.write_text(page(), "utf-8")
        return 0
    if PAGE.exists() and PAGE.read_text("utf-8") == page():
        return 0
    print(f"{PAGE.name} is not what the commands say: run 'python -m tools.cli_page'", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
