"""What stands in a server and a database, as data that :mod:`.plan` compares. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

CLOSED_FUNCTIONS = (
    "pg_stat_get_activity",
    "pg_cancel_backend",
    "pg_terminate_backend",
    "pg_notify",
    "pg_export_snapshot",
    "query_to_xml",
    "query_to_xmlschema",
    "query_to_xml_and_xmlschema",
    "cursor_to_xml",
    "database_to_xml",
    "database_to_xml_and_xmlschema",
    "pg_lock_status",
    "pg_blocking_pids",
    "pg_logical_emit_message",
    "pg_get_replication_slots",
    "pg_stat_get_wal_senders",
    "pg_stat_get_progress_info",
    "pg_stat_get_subscription",
    "pg_prepared_xact",
    "pg_safe_snapshot_blocking_pids",
    "pg_isolation_test_session_is_blocked",
    # Follows a row's versions without asking row security.
    "currtid2",
    # Tells of statements that earlier transactions of a pooled backend have prepared.
    "pg_prepared_statement",
)
"""Functions of PostgreSQL that tell a session of other sessions or tenants, act on them, or leave something behind;
besides large objects, advisory locks and the counters of the own transaction."""

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """The server: roles, memberships, settings of roles, who may set parameters that are not for everybody."""

    server: Row
    roles: Sequence[Row]
    memberships: Sequence[Row]
    role_settings: Sequence[Row]
    parameter_grants: Sequence[Row]


@dataclass(frozen=True, slots=True)
class DatabaseFacts:
    """One database without the application's tables: grants, the binder, what is open to everybody."""

    database: str
    superuser: bool
    owners: Sequence[Row]
    database_grants: Sequence[Row]
    schema_grants: Sequence[Row]
    functions: Sequence[Row]
    operators: Sequence[Row]
    tables: Sequence[Row]
    open_functions: Sequence[str]
    open_views: Sequence[str]
    binder_calls: Sequence[str]
    signing_keys: int
    seal_keys: int


@dataclass(frozen=True, slots=True)
class SchemaFacts:
    """The application's relations in some schemas of one database, and what its role reaches outside of them."""

    relations: Sequence[Row]
    strays: Sequence[Row]
    policies: Sequence[Row]
    indexes: Sequence[Row]
    foreign_keys: Sequence[Row]
    definer_functions: Sequence[Row]
    searches: Sequence[Row] = ()
    """Columns of indexes that ask for seeks, with each operator."""
    seeks: Sequence[Row] = ()
    """The seeks that stand."""
    seek_schemas: Sequence[str] = ()
    """The schemas that seeks may use."""
