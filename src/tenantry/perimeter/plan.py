"""From what stands to what should stand: the changes that close the wall, and what SQL alone can't close. Pure.

Three parts, from wide to narrow: the server (roles), a database (binder, grants, hardening), a schema (tables).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tenantry.model import BindingMode, House
from tenantry.perimeter import binder
from tenantry.perimeter.binder import ADMIN, APP, OPERATOR, OWNER, SEC
from tenantry.perimeter.facts import DatabaseFacts, Row, ServerFacts


@dataclass(frozen=True, slots=True)
class Change:
    """SQL that closes one hole. Running it twice does no harm."""

    object: str
    why: str
    sql: str


@dataclass(frozen=True, slots=True)
class Finding:
    """A hole that the perimeter can't close by itself, because closing it changes the application's tables."""

    object: str
    what: str
    fix: str
    severity: str = "high"


_ROLES = {
    OWNER: {"login": False, "inherit": False},
    SEC: {"login": False, "inherit": False},
    APP: {"login": True, "inherit": False},
    OPERATOR: {"login": True, "inherit": False, "bypassrls": True},
    ADMIN: {"login": True, "inherit": True, "bypassrls": True, "createdb": True, "replication": True},
}
_FLAGS = ("login", "superuser", "bypassrls", "createrole", "createdb", "replication", "inherit")
_MEMBERS = {(ADMIN, OWNER)}
OPERATOR_SETTING = "default_transaction_read_only=on"


def plan_server(facts: ServerFacts, mode: BindingMode) -> list[Change]:
    """Roles, memberships, settings of roles, and the grant that sealed mode stands on."""
    changes: list[Change] = []
    standing = {row["name"]: row for row in facts.roles}
    for role, wanted in _ROLES.items():
        flags = {flag: wanted.get(flag, False) for flag in _FLAGS}
        options = " ".join(flag.upper() if on else f"NO{flag.upper()}" for flag, on in flags.items())
        if role not in standing:
            changes.append(Change(role, "the role does not exist", f"CREATE ROLE {role} {options};"))
        elif wrong := [flag for flag in _FLAGS if standing[role][flag] != flags[flag]]:
            why = "wrong attributes: " + ", ".join(wrong)
            changes.append(Change(role, why, f"ALTER ROLE {role} {options};"))
    changes += _plan_members(facts)
    changes += _plan_role_settings(facts)
    if mode is BindingMode.SEALED:
        changes += _plan_seal(facts)
    return changes


def _plan_members(facts: ServerFacts) -> Iterable[Change]:
    standing = {(row["member"], row["role"]) for row in facts.memberships}
    for member, role in sorted(_MEMBERS - standing):
        yield Change(member, f"must be able to act as {role}", f"GRANT {role} TO {member};")
    for member, role in sorted(standing - _MEMBERS):
        if member in _ROLES or role in (SEC, ADMIN, OPERATOR, APP):
            yield Change(member, f"can become {role}", f"REVOKE {_quoted(role)} FROM {_quoted(member)};")


def _plan_role_settings(facts: ServerFacts) -> Iterable[Change]:
    has_read_only = False
    for row in facts.role_settings:
        for setting in row["settings"]:
            name = setting.partition("=")[0]
            if row["role"] == OPERATOR and setting == OPERATOR_SETTING and not row["database"]:
                has_read_only = True
            elif row["role"] in (APP, OPERATOR) or name == "backtrace_functions":
                yield Change(row["role"] or "all roles", f"has the persistent setting {name}", _reset(row, name))
    if not has_read_only:
        sql = f"ALTER ROLE {OPERATOR} SET default_transaction_read_only = on;"
        yield Change(OPERATOR, "reads only unless told otherwise", sql)


def _reset(row: Row, name: str) -> str:
    inside = f" IN DATABASE {_quoted(row['database'])}" if row["database"] else ""
    return f"ALTER ROLE {_quoted(row['role']) if row['role'] else 'ALL'}{inside} RESET {_quoted(name)};"


def _plan_seal(facts: ServerFacts) -> Iterable[Change]:
    grantees = {row["grantee"] for row in facts.seal_grants if row["privilege"] == "SET"}
    if SEC not in grantees:
        sql = f"GRANT SET ON PARAMETER backtrace_functions TO {SEC};"
        yield Change("backtrace_functions", "only the binder may set the seal", sql)
    for grantee in sorted({row["grantee"] for row in facts.seal_grants} - {SEC}):
        sql = f"REVOKE ALL ON PARAMETER backtrace_functions FROM {'PUBLIC' if grantee == '-' else _quoted(grantee)};"
        yield Change("backtrace_functions", f"{grantee} can forge the seal", sql)


def plan_database(facts: DatabaseFacts, house: House, mode: BindingMode, schemas: Sequence[str]) -> list[Change]:
    """The binder, grants on the database and its schemas, and what PostgreSQL opens to everybody."""
    changes = [*_plan_binder(facts, house, mode), *_plan_grants(facts, house, schemas)]
    if facts.open_functions:
        sql = "".join(f"REVOKE ALL ON FUNCTION {name} FROM PUBLIC;\n" for name in facts.open_functions)
        why = "they tell of other sessions, act on them, or leave something behind"
        changes.append(Change(f"{len(facts.open_functions)} functions of PostgreSQL", why, sql.rstrip()))
    for name in facts.open_views:
        changes += [Change(name, "tells of other sessions", f"REVOKE ALL ON {name} FROM PUBLIC;")]
    if mode is BindingMode.SIGNED and facts.seal_keys == 0:
        changes.append(Change("seal key", "signed mode needs one", "SELECT tenantry_priv.new_seal_v1();"))
    return changes


_BINDER_TABLES = {
    "tenantry.plans": [f"{ADMIN} {right}" for right in ("DELETE", "INSERT", "SELECT", "UPDATE")],
    "tenantry.residents": [f"{ADMIN} {right}" for right in ("DELETE", "INSERT", "SELECT", "UPDATE")],
    "tenantry_priv.seal_key": [],
    "tenantry_priv.signing_keys": [],
}


def _plan_binder(facts: DatabaseFacts, house: House, mode: BindingMode) -> Iterable[Change]:
    tables = {row["name"]: row for row in facts.tables}
    grants = {(row["schema"], row["grantee"], row["privilege"]) for row in facts.schema_grants}
    schemas_wanted = {("tenantry", role, "USAGE") for role in (APP, OWNER, OPERATOR, ADMIN)}
    schemas_wanted.add(("tenantry_priv", ADMIN, "USAGE"))
    if not tables or not schemas_wanted <= grants:
        yield Change("schema tenantry", "the binder's schemas", binder.schemas_sql())
    for schema, grantee, privilege in sorted(grants - schemas_wanted):
        if schema in ("tenantry", "tenantry_priv"):
            sql = f"REVOKE {privilege} ON SCHEMA {schema} FROM {_grantee(grantee)};"
            yield Change(f"schema {schema}", f"{grantee} has {privilege}", sql)
    wrong = [n for n, g in _BINDER_TABLES.items() if n not in tables or tables[n]["owner"] != SEC]
    missing = [n for n, g in _BINDER_TABLES.items() if n in tables and not set(g) <= set(tables[n]["grants"])]
    if wrong or missing:
        yield Change(", ".join(wrong + missing), "the binder's tables", binder.tables_sql(house.key_type))
    for name, wanted in _BINDER_TABLES.items():
        for extra in sorted(set(tables[name]["grants"]) - set(wanted)) if name in tables else ():
            grantee, _, privilege = extra.rpartition(" ")
            yield Change(name, f"{grantee} has {privilege}", f"REVOKE {privilege} ON {name} FROM {_grantee(grantee)};")
    standing = {row["name"]: row for row in facts.functions}
    for function in binder.functions(house.key_type, mode):
        if why := _function_fault(function, standing.get(function.name)):
            yield Change(function.signature, why, function.install())


def _function_fault(function: binder.BinderFunction, row: Row | None) -> str | None:
    if row is None:
        return "is missing"
    if row["owner"] != SEC:
        return f"belongs to {row['owner']}"
    if row["comment"] != f"tenantry {function.digest} {row['body']}":
        return "differs from this version's"
    if set(row["executors"]) - set(function.executors):
        return "may be executed by " + ", ".join(sorted(set(row["executors"]) - set(function.executors)))
    return None if set(row["executors"]) == set(function.executors) else "can't be executed by those who must"


def _plan_grants(facts: DatabaseFacts, house: House, schemas: Sequence[str]) -> Iterable[Change]:
    database = _quoted(facts.database)
    standing = {(row["grantee"], row["privilege"]) for row in facts.database_grants}
    public = sorted(privilege for grantee, privilege in standing if grantee == "public")
    if public:
        sql = f"REVOKE ALL ON DATABASE {database} FROM PUBLIC;"
        yield Change(f"database {facts.database}", "everybody has " + ", ".join(public), sql)
    for role in (APP, OPERATOR, ADMIN):
        if (role, "CONNECT") not in standing:
            sql = f"GRANT CONNECT ON DATABASE {database} TO {role};"
            yield Change(f"database {facts.database}", f"{role} must connect", sql)
    for privilege in sorted({p for g, p in standing if g == APP and p != "CONNECT"}):
        sql = f"REVOKE {privilege} ON DATABASE {database} FROM {APP};"
        yield Change(f"database {facts.database}", f"{APP} has {privilege}", sql)
    yield from _plan_schema_grants(facts, house, schemas)


def _plan_schema_grants(facts: DatabaseFacts, house: House, schemas: Sequence[str]) -> Iterable[Change]:
    used = {*schemas, house.app_schema}
    standing = {(row["schema"], row["grantee"], row["privilege"]) for row in facts.schema_grants}
    for schema, grantee, privilege in sorted(standing):
        if schema not in ("tenantry", "tenantry_priv") and (
            grantee == "public" or (grantee == APP and (privilege == "CREATE" or schema not in used))
        ):
            sql = f"REVOKE {privilege} ON SCHEMA {_quoted(schema)} FROM {_grantee(grantee)};"
            yield Change(f"schema {schema}", f"{grantee} has {privilege}", sql)
    for schema in schemas:
        for role in (APP, OPERATOR, ADMIN):
            if (schema, role, "USAGE") not in standing:
                sql = f"GRANT USAGE ON SCHEMA {_quoted(schema)} TO {role};"
                yield Change(f"schema {schema}", f"{role} must use it", sql)
        if (schema, OWNER, "CREATE") not in standing or (schema, OWNER, "USAGE") not in standing:
            sql = f"GRANT USAGE, CREATE ON SCHEMA {_quoted(schema)} TO {OWNER};"
            yield Change(f"schema {schema}", "migrations run as the owner", sql)


def _grantee(name: str) -> str:
    return "PUBLIC" if name == "public" else _quoted(name)


def _quoted(name: str) -> str:
    """An identifier in quotes where it needs them (PostgreSQL: Lexical Structure)."""
    if name and name.replace("_", "a").isalnum() and name.isascii() and name == name.lower() and not name[0].isdigit():
        return name if name not in _RESERVED else f'"{name}"'
    return '"' + name.replace('"', '""') + '"'


_RESERVED_WORDS = """
    all analyse analyze and any array as asc asymmetric both case cast check collate column constraint create
    current_user default deferrable desc distinct do else end except false fetch for foreign from grant group having
    in initially intersect into lateral leading limit localtime not null offset on only or order placing primary
    references returning select session_user some symmetric table then to trailing true union unique user using
    variadic when where window with authorization binary collation concurrently cross freeze full ilike inner is
    isnull join left like natural notnull outer overlaps right similar tablesample verbose
"""
_RESERVED = frozenset(_RESERVED_WORDS.split())


def quoted(*names: Any) -> str:
    """``schema.table`` with quotes where they are needed."""
    return ".".join(_quoted(str(name)) for name in names)
