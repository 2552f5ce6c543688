"""Parameters that an application's hooks set on a new connection, as libraries do for a time zone.

A binding clears what was set with ``SET``: it may be a tenant's. What stands in the startup packet stays. So what the
hooks have set is learned from the first connection, which is opened once more, and all later ones start with it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from tenantry.postgres.connect import parse_dsn

log = logging.getLogger("tenantry.routing")

CHANGED = """
SELECT name, setting FROM pg_catalog.pg_settings WHERE source = 'session' AND setting IS DISTINCT FROM reset_val
"""
"""What differs from how the session has started. Parameters that nobody has declared (``app.x``) do not show."""

_NAMED = frozenset(("application_name", "client_encoding"))
"""What libpq sends under its own name, which wins over an option."""

_THE_BINDINGS = frozenset(("role", "search_path", "session_authorization"))


class Learned:
    """What the hooks of one pool set."""

    def __init__(self) -> None:
        self.settings: dict[str, str] = {}

    def learn(self, rows: Iterable[Any]) -> bool:
        """Note what was changed on a new connection.

        Args:
            rows: of :data:`CHANGED`.

        Returns:
            Whether there is something that connections have not started with until now.
        """
        before = dict(self.settings)
        for name, setting in rows:
            if name in _THE_BINDINGS:
                log.warning("a hook sets %s on new connections; it does not hold: each binding sets its own", name)
            else:
                self.settings[name] = setting
        return self.settings != before


def start_options(dsn: str, arguments: Mapping[str, Any], learned: Mapping[str, str]) -> dict[str, Any]:
    """Arguments for psycopg's ``connect`` with the startup options of all: of the DSN, the arguments, and the learned.

    Later ones win.
    """
    named = {name: value for name, value in learned.items() if name in _NAMED}
    others = {name: value for name, value in learned.items() if name not in _NAMED}
    parts = [parse_dsn(dsn).get("options"), arguments.get("options"), as_options(others)]
    options = " ".join(str(part) for part in parts if part)
    return {**arguments, **named, **({"options": options} if options else {})}


def as_options(settings: Mapping[str, str]) -> str:
    """Parameters as the server's command-line options."""
    return " ".join(f"-c {name}={_escaped(value)}" for name, value in settings.items())


def _escaped(value: str) -> str:
    return "".join(f"\\{each}" if each.isspace() or each == "\\" else each for each in value)
