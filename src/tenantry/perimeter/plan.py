"""From what stands to what should stand: the changes that close the wall, and what SQL alone can't close. Pure.

Three parts, from wide to narrow: the server (roles), a database (binder, grants, hardening), a schema (tables).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tenantry.model import BindingMode, House
from tenantry.perimeter import binder
from tenantry.perimeter.binder import ADMIN, APP, OPERATOR, OWNER, SEC, SEEK
from tenantry.perimeter.facts import DatabaseFacts, Row, ServerFacts
from tenantry.perimeter.names import PUBLIC, grantee, quoted, revoke


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
    SEEK: {"login": False, "inherit": False, "bypassrls": True},
    APP: {"login": True, "inherit": False},
    OPERATOR: {"login": True, "inherit": False, "bypassrls": True},
    ADMIN: {"login": True, "inherit": True, "bypassrls": True, "createdb": True, "replication": True},
}
_FLAGS = ("login", "superuser", "bypassrls", "createrole", "createdb", "replication", "inherit")
_MEMBERS = {(ADMIN, OWNER)}
_LOGGED = ("log_parameter_max_length", "log_parameter_max_length_on_error")
_FOR_SUPERUSERS = _LOGGED[0]

_ROLE_SETTINGS = {(OPERATOR, "default_transaction_read_only", "on"): "reads only unless told otherwise"} | {
    (role, parameter, "0"): "tokens and the values of tenants must not get into the server's log"
    for role in (APP, OPERATOR, ADMIN)
    for parameter in _LOGGED
}
SEAL = "backtrace_functions"
"""The parameter that holds the bound tenant in sealed mode: anybody may read it, and only the binder may set it."""


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
    changes += _plan_parameters(facts, mode)
    return changes


def _plan_members(facts: ServerFacts) -> Iterable[Change]:
    ours = facts.server["role"]
    wanted = set(_MEMBERS)
    if not facts.server["superuser"]:
        # Who makes the wall without being a superuser has to act as those who own it, and to end everybody's sessions.
        wanted |= {(ours, role) for role in _ROLES}
    standing = {(row["member"], row["role"]) for row in facts.memberships if row["acts"]}
    for member, role in sorted(wanted - standing):
        options = "" if (member, role) in _MEMBERS else " WITH INHERIT TRUE, SET TRUE"
        sql = f"GRANT {role} TO {quoted(member)}{options};"
        yield Change(member, f"must be able to act as {role}", sql)
    for row in facts.memberships:
        member, role = row["member"], row["role"]
        if member == ours and not facts.server["superuser"]:
            continue  # It has made these roles, and may change them anyway.
        if (member, role) not in _MEMBERS and (member in _ROLES or role in (SEC, ADMIN, OPERATOR, APP, SEEK)):
            # Since PostgreSQL 16 each grantor's grant stands for itself.
            by = f" GRANTED BY {quoted(row['grantor'])}" if facts.server["version"] >= 160000 else ""
            yield Change(member, f"can become {role}", f"REVOKE {quoted(role)} FROM {quoted(member)}{by} CASCADE;")


def _plan_role_settings(facts: ServerFacts) -> Iterable[Change]:
    standing = set()
    for row in facts.role_settings:
        for setting in row["settings"]:
            name, _, value = setting.partition("=")
            if (row["role"], name, value) in _ROLE_SETTINGS and not row["database"]:
                standing.add((row["role"], name, value))
            elif row["role"] in (APP, OPERATOR) or name == SEAL:
                yield Change(row["role"] or "all roles", f"has the persistent setting {name}", _reset(row, name))
    for role, name, value in sorted(_ROLE_SETTINGS.keys() - standing):
        if facts.server["superuser"] or name != _FOR_SUPERUSERS:
            yield Change(role, _ROLE_SETTINGS[role, name, value], f"ALTER ROLE {role} SET {name} = {value};")


def _reset(row: Row, name: str) -> str:
    inside = f" IN DATABASE {quoted(row['database'])}" if row["database"] else ""
    return f"ALTER ROLE {quoted(row['role']) if row['role'] else 'ALL'}{inside} RESET {quoted(name)};"


def _plan_parameters(facts: ServerFacts, mode: BindingMode) -> Iterable[Change]:
    wanted = {(SEAL, SEC, "SET")} if mode is BindingMode.SEALED else set()
    standing = {(row["parameter"], row["grantee"], row["privilege"]) for row in facts.parameter_grants}
    for parameter, role, privilege in sorted(wanted - standing):
        sql = f"GRANT {privilege} ON PARAMETER {parameter} TO {role};"
        yield Change(parameter, "only the binder may set the seal", sql)
    for parameter, role, privilege in sorted(standing - {(SEAL, SEC, "SET")}):
        why = f"{role} can forge the seal" if parameter == SEAL else f"{role} may change it"
        sql = f"REVOKE {privilege} ON PARAMETER {parameter} FROM {grantee(role)};"
        yield Change(parameter, why, sql)


def plan_database(facts: DatabaseFacts, house: House, mode: BindingMode, schemas: Sequence[str]) -> list[Change]:
    """The binder, grants on the database and its schemas, and what PostgreSQL opens to everybody."""
    changes = [*_plan_binder(facts, house, mode), *_plan_owners(facts), *_plan_grants(facts, house, schemas)]
    changes += _plan_functions(facts) if facts.superuser else []
    if mode is BindingMode.SIGNED and facts.seal_keys == 0:
        changes.append(Change("seal key", "signed mode needs one", "SELECT tenantry_priv.new_seal_v1();"))
    return changes


_BINDER_CALLS = {
    "pg_prepared_statement()": "the binder looks for what SQL has left behind",
    "pg_advisory_xact_lock_shared(bigint)": "the binder waits at the door of a tenant that moves",
}


def _plan_functions(facts: DatabaseFacts) -> list[Change]:
    changes = []
    for name, why in _BINDER_CALLS.items():
        if name not in facts.binder_calls:
            changes.append(Change(name, why, f"GRANT EXECUTE ON FUNCTION {name} TO {SEC};"))
    if facts.open_functions:
        sql = "".join(f"REVOKE ALL ON FUNCTION {name} FROM PUBLIC;\n" for name in facts.open_functions)
        why = "they tell of other sessions or tenants, act on them, or leave something behind"
        changes.append(Change(f"{len(facts.open_functions)} functions of PostgreSQL", why, sql.rstrip()))
    for name in facts.open_views:
        changes += [Change(name, "tells of other sessions", f"REVOKE ALL ON {name} FROM PUBLIC;")]
    return changes


def find_open(facts: DatabaseFacts) -> list[Finding]:
    """What only a superuser can close, where the control plane is none: most managed services."""
    if facts.superuser or not (facts.open_functions or facts.open_views):
        return []
    count = len(facts.open_functions) + len(facts.open_views)
    what = "tell of other sessions, act on them, or leave something behind, and only a superuser can close them"
    fix = "ask the service to revoke them from PUBLIC, or take a server of your own for tenants who must not know"
    return [Finding(f"{count} functions and views of PostgreSQL", what, fix, "medium")]


_BINDER_SCHEMAS = ("tenantry", "tenantry_priv")
_NO: Row = {"grants": ()}
_BINDER_TABLES = {
    "tenantry.plans": [f"{ADMIN} {right}" for right in ("DELETE", "INSERT", "SELECT", "UPDATE")],
    "tenantry.residents": [f"{ADMIN} {right}" for right in ("DELETE", "INSERT", "SELECT", "UPDATE")],
    "tenantry.streams": [f"{ADMIN} {right}" for right in ("DELETE", "INSERT", "SELECT", "UPDATE")],
    "tenantry_priv.seal_key": [],
    "tenantry_priv.signing_keys": [],
}


def _plan_binder(facts: DatabaseFacts, house: House, mode: BindingMode) -> Iterable[Change]:
    tables = {row["name"]: row for row in facts.tables}
    grants = {(row["schema"], row["grantee"], row["privilege"]) for row in facts.schema_grants}
    schemas_wanted = {("tenantry", role, "USAGE") for role in (APP, OWNER, OPERATOR, ADMIN, SEEK)}
    schemas_wanted.add(("tenantry_priv", ADMIN, "USAGE"))
    if not tables or not schemas_wanted <= grants:
        yield Change("schema tenantry", "the binder's schemas", binder.schemas_sql())
    for schema, role, privilege in sorted(grants - schemas_wanted):
        if schema in _BINDER_SCHEMAS:
            sql = f"REVOKE {privilege} ON SCHEMA {schema} FROM {grantee(role)};"
            yield Change(f"schema {schema}", f"{role} has {privilege}", sql)
    yield from _plan_binder_tables(tables, house)
    standing = {(row["name"], row["arguments"]): row for row in facts.functions}
    functions = binder.functions(house.key_type, mode, superuser=facts.superuser)
    for function in functions:
        yield from plan_function(function, standing.get((function.name, function.arguments)))
    for name, arguments in sorted(set(standing) - {(function.name, function.arguments) for function in functions}):
        if any(name == function.name for function in functions):  # a call might find it instead of ours
            yield Change(f"{name}({arguments})", "is not of this version", f"DROP FUNCTION {name}({arguments});")
    known = {(row["name"], row["left"], row["right"]): row for row in facts.operators}
    for operator in binder.operators(house.key_type, superuser=facts.superuser):
        yield from _plan_operator(operator, known.get((operator.name, operator.left, operator.right)))


def _plan_binder_tables(tables: Mapping[str, Row], house: House) -> Iterable[Change]:
    wrong = [name for name in _BINDER_TABLES if name not in tables or tables[name]["owner"] != SEC]
    missing = [name for name, wanted in _BINDER_TABLES.items() if set(wanted) - set(tables.get(name, _NO)["grants"])]
    if wrong or missing:
        yield Change(
            ", ".join({**dict.fromkeys(wrong), **dict.fromkeys(missing)}),
            "the binder's tables",
            binder.tables_sql(house.key_type),
        )
    for name, wanted in _BINDER_TABLES.items():
        for extra in sorted(set(tables.get(name, _NO)["grants"]) - set(wanted)):
            role, _, privilege = extra.rpartition(" ")
            again = f"{role.removesuffix(' column')} {privilege}" in wanted
            yield Change(name, f"{role} has {privilege}", revoke(extra, name, wanted=again))


def plan_function(function: binder.BinderFunction, row: Row | None) -> Iterable[Change]:
    """What brings a function of ours into its right state; ``row``: what stands of it."""
    wanted = set(function.executors)
    if why := _function_fault(function, row):
        yield Change(function.signature, why, function.install())
    for role in sorted(set(row["executors"]) - wanted) if row is not None else ():
        sql = f"REVOKE ALL ON FUNCTION {function.signature} FROM {grantee(role)};"
        yield Change(function.signature, f"{role} may execute it", sql)


def _function_fault(function: binder.BinderFunction, row: Row | None) -> str | None:
    if row is None:
        return "is missing"
    if row["owner"] != function.owner:
        return f"belongs to {row['owner']}"
    if row["comment"] != f"tenantry {function.digest} {row['body']}":
        return "differs from this version's"
    return "can't be executed by those who must" if set(function.executors) - set(row["executors"]) else None


def _plan_operator(operator: binder.BinderOperator, row: Row | None) -> Iterable[Change]:
    name = operator.signature
    if row is None:
        yield Change(name, "is missing", operator.install())
    elif row["function"] != operator.function:
        yield Change(name, f"is {row['function']}", f"DROP OPERATOR {name};\n{operator.install()}")
    elif row["restrict"] != "nlikesel":
        yield Change(name, "estimates otherwise", f"ALTER OPERATOR {name} SET (RESTRICT = nlikesel);")
    elif row["owner"] != SEC:
        yield Change(name, f"belongs to {row['owner']}", f"ALTER OPERATOR {name} OWNER TO {SEC};")


def _plan_owners(facts: DatabaseFacts) -> Iterable[Change]:
    for row in facts.owners:
        kind, name, owner = row["kind"], row["name"], row["owner"]
        ours = kind == "schema" and name in _BINDER_SCHEMAS
        if (ours and owner != SEC) or (not ours and owner in (APP, OPERATOR)):
            sql = f"ALTER {kind.upper()} {quoted(name)} OWNER TO {SEC if ours else OWNER};"
            yield Change(f"{kind} {name}", f"belongs to {owner}", sql)


def _plan_grants(facts: DatabaseFacts, house: House, schemas: Sequence[str]) -> Iterable[Change]:
    database = quoted(facts.database)
    standing = {(row["grantee"], row["privilege"]) for row in facts.database_grants}
    public = sorted(privilege for role, privilege in standing if role == PUBLIC)
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
    for schema, role, privilege in sorted(standing):
        if schema not in _BINDER_SCHEMAS and (
            role == PUBLIC or (role == APP and (privilege == "CREATE" or schema not in used))
        ):
            sql = f"REVOKE {privilege} ON SCHEMA {quoted(schema)} FROM {grantee(role)};"
            yield Change(f"schema {schema}", f"{role} has {privilege}", sql)
    for schema in schemas:
        for role in (APP, OPERATOR, ADMIN):
            if (schema, role, "USAGE") not in standing:
                sql = f"GRANT USAGE ON SCHEMA {quoted(schema)} TO {role};"
                yield Change(f"schema {schema}", f"{role} must use it", sql)
        if (schema, OWNER, "CREATE") not in standing or (schema, OWNER, "USAGE") not in standing:
            sql = f"GRANT USAGE, CREATE ON SCHEMA {quoted(schema)} TO {OWNER};"
            yield Change(f"schema {schema}", "migrations run as the owner", sql)
