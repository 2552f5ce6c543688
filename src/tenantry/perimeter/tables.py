"""The wall around the application's tables: row security, policies, grants and keys. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tenantry.model import House, KeyType
from tenantry.perimeter.binder import APP, CHEAP, FREE, OPERATOR, OWNER, SEEK
from tenantry.perimeter.facts import Row, SchemaFacts
from tenantry.perimeter.names import PUBLIC, holder, quoted, revoke
from tenantry.perimeter.plan import Change, Finding
from tenantry.perimeter.seek import find_seeks, plan_seeks, readers

ISOLATION = "tenantry_isolation"
ACCESS = "tenantry_access"

BOOKKEEPING = frozenset({"alembic_version", "django_migrations", "tenantry_migrations"})
"""Tables of migration tools: the application's role can't reach them, and need not."""

_TYPES = {
    KeyType.BIGINT: {"bigint", "integer", "smallint"},
    KeyType.UUID: {"uuid"},
    KeyType.TEXT: {"text", "character varying", "character"},
}
_TENANT_GRANTS = {*(f"{APP} {p}" for p in ("SELECT", "INSERT", "UPDATE", "DELETE")), f"{OPERATOR} SELECT"}
_READ_GRANTS = {f"{APP} SELECT", f"{OPERATOR} SELECT"}
_SEQUENCE_GRANTS = {f"{APP} USAGE"}


def plan_tables(facts: SchemaFacts, house: House, shared: Sequence[str], *, superuser: bool = True) -> list[Change]:
    """What closes the wall around the relations of a schema.

    Args:
        shared: tables without the tenant column that all tenants may read.
        superuser: whether a superuser makes the wall.
    """
    changes: list[Change] = []
    sought = readers(facts, house)
    for relation in facts.relations:
        match relation["kind"]:
            case "r" | "p" if relation["has_tenant"]:
                changes += _plan_tenant_table(relation, facts, house, superuser)
                changes += _plan_grants(relation, _tenant_grants(relation, sought))
            case "r" | "p":
                wanted = _READ_GRANTS if relation["name"] in shared and not relation["child"] else set()
                changes += [*_plan_owner(relation, "TABLE"), *_plan_grants(relation, wanted)]
            case "S":
                changes += [*_plan_owner(relation, "SEQUENCE"), *_plan_grants(relation, _SEQUENCE_GRANTS, "SEQUENCE")]
            case "v":
                changes += _plan_view(relation)
            case _:
                changes += _plan_grants(relation, set())
    changes += plan_seeks(facts, house, superuser=superuser)
    return changes


def _plan_tenant_table(relation: Row, facts: SchemaFacts, house: House, superuser: bool) -> Iterable[Change]:
    table, column = _name(relation), quoted(house.tenant_column)
    yield from _plan_owner(relation, "TABLE")
    if not relation["rls"] or not relation["forced"]:
        sql = f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;\nALTER TABLE {table} FORCE ROW LEVEL SECURITY;"
        yield Change(table, "row security is not enabled and forced", sql)
    policies = {
        row["name"]: row
        for row in facts.policies
        if (row["schema"], row["table"]) == (relation["schema"], relation["name"])
    }
    if not _is_isolation(policies.get(ISOLATION), house.tenant_column, superuser):
        sql = _isolation_sql(table, column, FREE if superuser else CHEAP)
        yield Change(table, f"the policy {ISOLATION} is missing or differs", sql)
    if not _is_access(policies.get(ACCESS)):
        yield Change(table, f"the policy {ACCESS} is missing or differs", _access_sql(table))
    if relation["tenant_default"] != "tenantry.current_tenant_v1()":
        sql = f"ALTER TABLE {table} ALTER COLUMN {column} SET DEFAULT tenantry.current_tenant_v1();"
        yield Change(table, f"{column} does not default to the bound tenant", sql)


def _tenant_grants(relation: Row, sought: set[tuple[str, str]]) -> set[str]:
    if relation["child"]:
        return set()
    reader = {f"{SEEK} SELECT"} if (relation["schema"], relation["name"]) in sought else set()
    return _TENANT_GRANTS | reader


def _isolation_sql(table: str, column: str, same: str) -> str:
    bound = "(SELECT tenantry.current_tenant_v1())"
    return (
        f"DROP POLICY IF EXISTS {ISOLATION} ON {table};\n"
        f"CREATE POLICY {ISOLATION} ON {table} AS RESTRICTIVE FOR ALL TO PUBLIC\n"
        f"  USING ({column} OPERATOR(tenantry.{same}) {bound} AND {column} = {bound})\n"
        f"  WITH CHECK ({column} = {bound});"
    )


def _access_sql(table: str) -> str:
    return (
        f"DROP POLICY IF EXISTS {ACCESS} ON {table};\n"
        f"CREATE POLICY {ACCESS} ON {table} AS PERMISSIVE FOR ALL TO PUBLIC USING (true) WITH CHECK (true);"
    )


def _is_isolation(row: Row | None, column: str, superuser: bool) -> bool:
    if row is None or row["permissive"] or row["command"] != "*" or not row["for_all"]:
        return False
    call = "( SELECT tenantry.current_tenant_v1() AS current_tenant_v1)"
    # Which names the server quotes differs by version; a varchar or a domain is compared as its base type.
    names = (column, f'"{column}"')
    lefts = [*names, *(f"({name})::{base}" for name in names for base in ("text", "bigint", "integer", "uuid"))]
    equal = {f"({left} = {call})" for left in lefts}
    guarded = {
        f"(({left} OPERATOR(tenantry.{same}) {call}) AND ({left} = {call}))"
        for left in lefts
        for same in ((FREE,) if superuser else (FREE, CHEAP))
    }
    return row["using"] in guarded and row["check"] in equal


def _is_access(row: Row | None) -> bool:
    return (
        row is not None
        and row["permissive"]
        and row["command"] == "*"
        and row["for_all"]
        and row["using"] == row["check"] == "true"
    )


def _plan_owner(relation: Row, kind: str) -> Iterable[Change]:
    if relation["owner"] != OWNER and not relation["of_a_column"]:  # such a sequence follows its table
        name = _name(relation)
        yield Change(name, f"belongs to {relation['owner']}", f"ALTER {kind} {name} OWNER TO {OWNER};")


def _plan_view(relation: Row) -> Iterable[Change]:
    name = _name(relation)
    if not relation["invoker"]:
        sql = f"ALTER VIEW {name} SET (security_invoker = true);"
        yield Change(name, "the view reads with its owner's rights", sql)
    yield from _plan_owner(relation, "VIEW")
    yield from _plan_grants(relation, _READ_GRANTS)


def _plan_grants(relation: Row, wanted: set[str], kind: str = "") -> Iterable[Change]:
    name, standing = _name(relation), set(relation["grants"])
    target = f"{kind} {name}".lstrip()
    for grant in sorted(wanted - standing):
        role, _, privilege = grant.rpartition(" ")
        yield Change(name, f"{role} must have {privilege}", f"GRANT {privilege} ON {target} TO {role};")
    for grant in sorted(standing - wanted):
        role, privilege = holder(grant), grant.rpartition(" ")[2]
        if role in (PUBLIC, APP, OPERATOR, SEEK):
            sql = revoke(grant, name, kind, wanted=f"{role} {privilege}" in wanted)
            yield Change(name, f"{' '.join(grant.split(' ')[:-1])} has {privilege}", sql)


def find_holes(facts: SchemaFacts, house: House, shared: Sequence[str]) -> list[Finding]:
    """What only a change of the application's tables closes: keys without the tenant column, unclear tables."""
    return [
        *_find_columns(facts, house, shared),
        *_find_policies(facts),
        *_find_keys(facts, house),
        *_find_functions(facts),
        *_find_strays(facts, shared),
        *find_seeks(facts, house),
    ]


def _find_columns(facts: SchemaFacts, house: House, shared: Sequence[str]) -> Iterable[Finding]:
    column, known = house.tenant_column, {*shared, *BOOKKEEPING}
    for relation in facts.relations:
        name = _name(relation)
        if relation["kind"] == "m":
            fix = "replace it by a view, or by a table with the tenant column"
            yield Finding(name, "a materialized view has no row security: tenants can't read it", fix, "medium")
        elif relation["kind"] not in ("r", "p"):
            continue
        elif relation["has_tenant"]:
            yield from _find_column_faults(relation, house)
        elif relation["name"] not in known:
            fix = f"add the column {column}, or name the table in the setting shared_tables if all tenants may read it"
            yield Finding(name, f"has no column {column}: tenants can't read it", fix, "medium")


def _find_column_faults(relation: Row, house: House) -> Iterable[Finding]:
    name, column = _name(relation), house.tenant_column
    if not relation["tenant_not_null"]:
        fix = f"ALTER TABLE {name} ALTER COLUMN {quoted(column)} SET NOT NULL;"
        yield Finding(name, f"{column} may be NULL: such rows belong to nobody", fix)
    if relation["tenant_type"] not in _TYPES[house.key_type]:
        fix = f"make it {house.key_type}"
        yield Finding(name, f"{column} is {relation['tenant_type']}, keys are {house.key_type}", fix)
    if not relation["tenant_exact"]:
        fix = f'ALTER TABLE {name} ALTER COLUMN {quoted(column)} TYPE {relation["tenant_type"]} COLLATE "default";'
        yield Finding(name, f"the collation of {column} takes different keys for the same one", fix)


def _find_policies(facts: SchemaFacts) -> Iterable[Finding]:
    ours = {(row["schema"], row["table"]) for row in facts.policies if row["name"] == ISOLATION}
    for row in facts.policies:
        # PostgreSQL takes restrictive policies in the order of their names, and only the first comes before conditions.
        early = not row["permissive"] and row["name"].encode() < ISOLATION.encode()
        if early and (row["schema"], row["table"]) in ours:
            what = f"the restrictive policy {row['name']} is asked before {ISOLATION}: conditions then see others' rows"
            fix = f"rename it so that it comes after {ISOLATION} in the alphabet"
            yield Finding(quoted(row["schema"], row["table"]), what, fix)


def _find_keys(facts: SchemaFacts, house: House) -> Iterable[Finding]:
    column = house.tenant_column
    for row in facts.indexes:
        name = quoted(row["schema"], row["table"])
        if (row["unique"] or row["exclusion"]) and not row["has_tenant"]:
            what = f"{row['name']} is unique over all tenants: it tells whether another tenant has a value"
            fix = f"replace it by one that contains {column}"
            yield Finding(name, what, fix)
        elif not row["leads"]:
            what = f"the index {row['name']} does not begin with {column}: EXPLAIN ANALYZE counts others' rows"
            fix = f"replace it by one that begins with {column}"
            yield Finding(name, what, fix, "medium")
    for row in facts.foreign_keys:
        if not row["has_tenant"]:
            what = f"the foreign key {row['name']} ignores {column}: rows may refer to another tenant's"
            fix = f"replace it by FOREIGN KEY ({column}, ...) REFERENCES {row['target']} ({column}, ...)"
            yield Finding(quoted(row["schema"], row["table"]), what, fix)


def _find_functions(facts: SchemaFacts) -> Iterable[Finding]:
    for row in facts.definer_functions:
        risks = [
            text
            for text, risky in (
                (f"its owner {row['owner']} bypasses row security", row["bypasses"]),
                ("it has no search_path of its own", not row["has_path"]),
            )
            if risky
        ]
        if risks:
            fix = f"ALTER FUNCTION {row['name']} SECURITY INVOKER; or SET search_path and OWNER TO {OWNER}"
            yield Finding(row["name"], "is SECURITY DEFINER: " + "; ".join(risks), fix)


def _find_strays(facts: SchemaFacts, shared: Sequence[str]) -> Iterable[Finding]:
    for row in facts.strays:
        read_only = set(row["privileges"]) <= {"SELECT"}
        fine = {
            "r": row["walled"] or (row["name"] in shared and read_only),
            "p": row["walled"],
            "v": row["invoker"] and read_only,
        }
        if row["privileges"] and not fine.get(row["kind"], False):
            what = f"{APP} reaches it ({', '.join(row['privileges'])}), and it stands outside of the wall"
            fix = f"REVOKE USAGE ON SCHEMA {quoted(row['schema'])} FROM PUBLIC, {APP}; or make it one of the schemas"
            yield Finding(_name(row), what, fix)


def _name(relation: Row) -> str:
    return quoted(relation["schema"], relation["name"])
