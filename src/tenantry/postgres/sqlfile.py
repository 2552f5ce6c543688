"""Named statements from ``.sql`` files: each stands under a ``-- name --`` header, with an optional comment line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import LiteralString, cast

_HEADER = re.compile(r"^-- ([a-z][a-z0-9_]*) --$", re.MULTILINE)


def parse(text: str) -> dict[str, str]:
    """Split the text of a file into its named statements.

    Raises:
        ValueError: a name stands twice, or SQL stands before the first header.
    """
    parts = _HEADER.split(text)
    if any(line.strip() and not line.startswith("--") for line in parts[0].splitlines()):
        raise ValueError("SQL before the first '-- name --' header")
    names = parts[1::2]
    if len(names) != len(set(names)):
        raise ValueError(f"a name stands twice among {names}")
    return {name: body.strip() for name, body in zip(names, parts[2::2], strict=True)}


@cache
def load(package: str, file: str) -> Mapping[str, LiteralString]:
    """The named statements of ``file`` beside the modules of ``package``.

    They ship with Tenantry and hold no value from outside, which is what ``LiteralString`` promises to psycopg.
    """
    statements = parse(files(package).joinpath(file).read_text("utf-8"))
    return cast(Mapping[str, LiteralString], statements)
