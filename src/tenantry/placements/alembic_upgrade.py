"""Upgrade one schema with Alembic; the task comes as JSON on standard input, so that no secret is in the arguments.

The connection is handed to ``env.py`` as ``config.attributes["connection"]`` (Alembic's cookbook: "Sharing a
Connection"), and its URL as ``sqlalchemy.url`` for environments that connect by themselves. What went wrong goes to
standard output as JSON; whatever ``env.py`` prints goes to standard error.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import psycopg
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool


def main() -> None:
    """Read the task, upgrade to the heads, and say what failed."""
    task = json.load(sys.stdin)
    with os.fdopen(os.dup(sys.stdout.fileno()), "w") as answer:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        try:
            _upgrade(task)
            failure = None
        except Exception as error:  # env.py and the revisions may raise anything
            failure = _told(error, task["config"])
        json.dump(failure, answer)


def _upgrade(task: dict[str, str]) -> None:
    parameters = {name: str(value) for name, value in conninfo_to_dict(task["dsn"]).items() if value is not None}
    url = URL.create("postgresql+psycopg", query=parameters).render_as_string(hide_password=False)
    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(task["dsn"]), poolclass=NullPool)
    config = Config(task["config"])
    config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))

    @event.listens_for(Engine, "commit")  # of any engine: env.py may make its own
    def hand_over(connection: Connection) -> None:
        if connection.dialect.name != "postgresql":
            return
        if connection.exec_driver_sql("SELECT current_user").scalar_one() == parameters.get("user"):
            connection.exec_driver_sql(task["finish"])

    with engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "heads")
        if connection.in_transaction():
            connection.commit()
        _check_place(connection, config, task["schema"])


def _check_place(connection: Connection, config: Config, schema: str) -> None:
    """An ``env.py`` that takes its URL from elsewhere has upgraded another database."""
    relations = connection.exec_driver_sql(
        "SELECT count(*) FROM pg_catalog.pg_class WHERE relnamespace = to_regnamespace(quote_ident(%s))", (schema,)
    ).scalar_one()
    if not relations and ScriptDirectory.from_config(config).get_heads():
        raise LookupError(
            "env.py ran the revisions in another place: let it use config.attributes['connection'] or sqlalchemy.url"
        )


def _told(error: Exception, config: str) -> dict[str, Any]:
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    lines = str(cause).strip().splitlines() or [""]
    name = "" if isinstance(cause, (psycopg.Error, CommandError)) else f"{type(cause).__name__}: "
    return {
        "message": f"{name}{lines[0]}",
        "statement": error.statement if isinstance(error, DBAPIError) else None,
        "is_passing": isinstance(cause, psycopg.OperationalError),
        "where": _where(error, config),
    }


def _where(error: Exception, config: str) -> str | None:
    """The last line of a revision or of ``env.py`` that was run."""
    try:
        home = Path(ScriptDirectory.from_config(Config(config)).dir).resolve()
    except Exception:  # then that is what went wrong
        return None
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if home in Path(frame.filename).parents]
    return f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else None


if __name__ == "__main__":
    main()
