"""Names as they stand in SQL. Pure."""

from __future__ import annotations

from typing import Any

PUBLIC = "public"
"""How a grant to everybody is read; no role can have this name (PostgreSQL: CREATE ROLE)."""

# Every word of PostgreSQL 15 to 18 that a table or a column can't have without quotes (Appendix: SQL Key Words).
_KEYWORDS = frozenset(
    """
    all analyse analyze and any array as asc asymmetric authorization between bigint binary bit boolean both case cast
    char character check coalesce collate collation column concurrently constraint create cross current_catalog
    current_date current_role current_schema current_time current_timestamp current_user dec decimal default deferrable
    desc distinct do else end except exists extract false fetch float for foreign freeze from full grant greatest group
    grouping having ilike in initially inner inout int integer intersect interval into is isnull join json json_array
    json_arrayagg json_exists json_object json_objectagg json_query json_scalar json_serialize json_table json_value
    lateral leading least left like limit localtime localtimestamp merge_action national natural nchar none normalize
    not notnull null nullif numeric offset on only or order out outer overlaps overlay placing position precision
    primary real references returning right row select session_user setof similar smallint some substring symmetric
    system_user table tablesample then time timestamp to trailing treat trim true union unique user using values varchar
    variadic verbose when where window with xmlattributes xmlconcat xmlelement xmlexists xmlforest xmlnamespaces
    xmlparse xmlpi xmlroot xmlserialize xmltable
    """.split()
)


def quoted(*names: Any) -> str:
    """``schema.table``, with quotes where they are needed (PostgreSQL: Lexical Structure)."""
    return ".".join(_quoted(str(name)) for name in names)


def _quoted(name: str) -> str:
    plain = name.isascii() and name.replace("_", "a").isalnum() and name == name.lower() and not name[:1].isdigit()
    return name if plain and name not in _KEYWORDS else '"' + name.replace('"', '""') + '"'


def grantee(name: str) -> str:
    """A role as it stands in GRANT and REVOKE."""
    return "PUBLIC" if name == PUBLIC else quoted(name)


def revoke(grant: str, name: str, kind: str = "", *, wanted: bool = False) -> str:
    """The SQL that takes one privilege away.

    Args:
        grant: as the facts hold it: ``role PRIVILEGE``, ``role column PRIVILEGE`` (of some columns), or
            ``role option PRIVILEGE`` (the right to grant it).
        name: the relation.
        kind: ``SEQUENCE``, or nothing for a table.
        wanted: whether the role is to keep the privilege on the whole relation.
    """
    who, _, privilege = grant.rpartition(" ")
    role = grantee(who.removesuffix(" column").removesuffix(" option"))
    target = f"ON {kind} {name}" if kind else f"ON {name}"
    if who.endswith(" option"):
        return f"REVOKE GRANT OPTION FOR {privilege} {target} FROM {role} CASCADE;"
    again = f"\nGRANT {privilege} {target} TO {role};" if wanted else ""
    return f"REVOKE {privilege} {target} FROM {role};{again}"


def holder(grant: str) -> str:
    """The role of a grant as the facts hold it."""
    return grant.rpartition(" ")[0].removesuffix(" column").removesuffix(" option")
