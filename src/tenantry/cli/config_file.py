"""The file ``tenantry.toml``: written once by ``tenantry init``, never changed by us afterwards."""

from __future__ import annotations

import json
import os
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tenantry.errors import Conflict, InvalidSettings
from tenantry.settings import CONFIG_FILE

Values = Mapping[str, Any]

_HEAD = """\
# How the processes in this folder reach their house. It holds passwords: keep it out of version control.
# Each setting can also be given as TENANTRY_<NAME> in the environment, which wins.
"""
_COMMENTS = {
    "catalog": "The catalog as an application reaches it: a role that only reads.",
    "control": "The catalog as operators reach it. An application's machine does not need it.",
    "template": "The source of the application's tables: 'sql:FOLDER', 'sqlalchemy:MODULE:METADATA' or 'alembic:FILE'.",
    "shared_tables": "Tables without the tenant column that all tenants may read.",
}


def path() -> Path:
    """Where the file is, or would be."""
    return Path(os.environ.get("TENANTRY_CONFIG", CONFIG_FILE))


def read(file: Path) -> dict[str, Any] | None:
    """What the file says; None if it is not there.

    Raises:
        InvalidSettings: it is not TOML.
    """
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as error:
        hint = "mend it, or move it away to begin afresh"
        raise InvalidSettings(f"the file can't be read: {error}", where=str(file), hint=hint) from None


def refuse_unwritable(file: Path) -> None:
    """See that the file can be written, before anything is made of which it alone will know the password.

    Raises:
        InvalidSettings: its folder is not there, or not ours to write in.
    """
    try:
        tempfile.TemporaryFile(dir=file.parent).close()
    except OSError as error:
        hint = "run it in a folder that you can write to, or name another file with --config"
        raise InvalidSettings(f"the file can't be written: {error.strerror}", where=str(file), hint=hint) from None


def write(file: Path, values: Values) -> None:
    """Write the file at one stroke, for nobody's eyes but ours; one that is there is left alone.

    Raises:
        Conflict: it is there.
    """
    lines = [_HEAD]
    for name, comment in _COMMENTS.items():
        value = values.get(name)
        lines.append(f"# {comment}\n{'' if value else '# '}{name} = {_toml(value) if value else '...'}\n")
    handle, draft = tempfile.mkstemp(prefix=".tenantry-", suffix=".toml", dir=file.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write("\n".join(lines))
        Path(draft).chmod(0o600)
        os.link(draft, file)
    except FileExistsError:
        raise Conflict("the file is there already", where=str(file), hint="move it away to begin afresh") from None
    finally:
        Path(draft).unlink()


def _toml(value: str | Sequence[str]) -> str:
    if isinstance(value, str):
        # A JSON string is a TOML string, but for DEL (TOML 1.0: String).
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return f"[{', '.join(map(_toml, value))}]"
