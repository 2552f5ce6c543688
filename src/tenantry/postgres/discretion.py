"""Keep secrets out of what a server writes down (its log, ``pg_stat_activity``, ``pg_stat_statements``) and out of what
a reporter of crashes collects."""

from __future__ import annotations

from typing import Any, LiteralString, TypeVar

import psycopg
from psycopg import AsyncConnection, Connection

_Error = TypeVar("_Error", bound=BaseException | None)

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


def hushed(error: _Error) -> _Error:
    """An error that came of connecting, without what its frames and attributes know: drivers keep passwords there."""
    todo: list[BaseException | None] = [error]
    seen: set[int] = set()
    while todo:
        each = todo.pop()
        if each is None or id(each) in seen:  # errors that were raised again may come of each other
            continue
        seen.add(id(each))
        each.__traceback__ = None
        if isinstance(each, psycopg.Error):
            each._pgconn = None
        todo += [each.__cause__, each.__context__]
    return error
