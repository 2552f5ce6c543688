"""Upgrade one schema with Alembic; the task comes as JSON on standard input, so that no secret is in the arguments.

The connection is handed to ``env.py`` as ``config.attributes["connection"]`` (Alembic's cookbook: "Sharing a
Connection"), and its URL as ``sqlalchemy.url`` for environments that connect by themselves.
"""

from __future__ import annotations

import json
import sys

import psycopg
from alembic import command
from alembic.config import Config
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import URL, create_engine
from sqlalchemy.pool import NullPool


def main() -> None:
    """Read the task and upgrade to the heads."""
    task = json.load(sys.stdin)
    parameters = {name: str(value) for name, value in conninfo_to_dict(task["dsn"]).items() if value is not None}
    url = URL.create("postgresql+psycopg", query=parameters).render_as_string(hide_password=False)
    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(task["dsn"]), poolclass=NullPool)
    config = Config(task["config"])
    config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "heads")
        connection.commit()


if __name__ == "__main__":
    main()
