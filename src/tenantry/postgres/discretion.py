"""Keep secrets out of what a server writes down: its log, ``pg_stat_activity``, ``pg_stat_statements``."""

from __future__ import annotations

from typing import Any, LiteralString

from psycopg import AsyncConnection, Connection

NO_PARAMETERS: LiteralString = (
    "SELECT set_config(name, '0', false)"
    " FROM unnest(ARRAY['log_parameter_max_length', 'log_parameter_max_length_on_error']) AS name"
    " WHERE name = 'log_parameter_max_length_on_error' OR has_parameter_privilege(name, 'SET')"
)
"""Keeps the parameters of a session's statements out of the server's log, as far as the session may decide that."""


def verifier(conn: AsyncConnection[Any] | Connection[Any], role: str, password: str) -> str:
    """What stands for a password in ``ALTER ROLE ... PASSWORD``: a SCRAM verifier (RFC 5803).

    A password in the text of a statement would be logged with it. Nobody can log in with a verifier.
    """
    return conn.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256").decode()
