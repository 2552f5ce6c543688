"""Read what an application's role can reach in a database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from tenantry.postgres import sqlfile
from tenantry.testing.facts import Check, Column, Facts, Function, Reference, Relation

_SQL = sqlfile.load("tenantry.testing", "facts.sql")


def identifier(relation: Relation) -> sql.Identifier:
    """The name of a relation in SQL."""
    return sql.Identifier(relation.schema, relation.name)


def read(conn: psycopg.Connection[Any], column: str, schemas: Sequence[str], homes: Sequence[str]) -> Facts:
    """Read the facts of a database.

    Args:
        conn: a superuser's.
        column: the tenant column.
        schemas: those of the two tenants.
        homes: those of all tenants: what others than these two have is left out.
    """
    with conn.cursor(row_factory=dict_row) as cursor:
        where: dict[str, Any] = {"column": column, "schemas": list(schemas), "homes": list(homes)}

        def rows(query: str) -> list[dict[str, Any]]:
            return cursor.execute(_SQL[query], where).fetchall()

        relations = rows("relations")
        where["relations"] = [row["oid"] for row in relations]
        columns, checks, references = rows("columns"), rows("checks"), rows("references")
        return Facts(
            tuple(_relation(row, columns, checks, references) for row in relations),
            tuple(Function(**{**row, "arguments": tuple(row["arguments"])}) for row in rows("functions")),
            tuple(row["name"] for row in rows("open_sequences")),
        )


def _relation(
    row: Mapping[str, Any],
    columns: Sequence[Mapping[str, Any]],
    checks: Sequence[Mapping[str, Any]],
    references: Sequence[Mapping[str, Any]],
) -> Relation:
    oid = row["oid"]
    own = tuple(_part(Column, each) for each in columns if each["relation"] == oid)
    domains = {column.domain for column in own if column.domain}
    return Relation(
        **{**row, "primary_key": tuple(row["primary_key"])},
        columns=own,
        checks=tuple(_part(Check, each) for each in checks if each["relation"] == oid or each["domain"] in domains),
        references=tuple(_part(Reference, each) for each in references if each["relation"] == oid),
    )


def _part(kind: Any, row: Mapping[str, Any]) -> Any:
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in row.items() if k != "relation"})
