"""The SQL of the binder: what every database that holds tenants gets, for a type of keys and a binding mode. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256

from tenantry.model import BindingMode, KeyType
from tenantry.postgres import sqlfile

OWNER = "tenantry_owner"
SEC = "tenantry_sec"
APP = "tenantry_app"
ADMIN = "tenantry_admin"
OPERATOR = "tenantry_operator"
SEEK = "tenantry_seek"

_EVERYBODY = (ADMIN, APP, OPERATOR, OWNER, SEEK)

_SEALED = {
    KeyType.BIGINT: "replace({code}, 'm', '-')::bigint",
    KeyType.UUID: "({code})::uuid",
    KeyType.TEXT: "convert_from(decode({code}, 'hex'), 'UTF8')",
}
_SIGNED = {
    KeyType.BIGINT: "pg_catalog.replace(code, 'm', '-')::bigint",
    KeyType.UUID: "code::pg_catalog.uuid",
    KeyType.TEXT: "pg_catalog.convert_from(pg_catalog.decode(code, 'hex'), 'UTF8')",
}
_SAME = {
    KeyType.BIGINT: {"bigint": "int8eq", "integer": "int48eq", "smallint": "int28eq"},
    KeyType.UUID: {"uuid": "uuid_eq"},
    KeyType.TEXT: {"text": "texteq"},
}
"""PostgreSQL's own equality, by the type of the tenant column."""

_SEALED_CODE = "nullif(split_part(current_setting('backtrace_functions'), 'tenantry_', 2), '')"


@dataclass(frozen=True, slots=True)
class BinderFunction:
    """A function of ours, with who may execute it besides its owner. ``arguments`` as the server writes them."""

    name: str
    arguments: str
    sql: str
    executors: tuple[str, ...] = ()
    owner: str = SEC

    @property
    def signature(self) -> str:
        """``schema.name(types)``."""
        return f"{self.name}({self.arguments})"

    @property
    def digest(self) -> str:
        """Changes when our text of the function changes."""
        return sha256(self.sql.encode()).hexdigest()[:16]

    def install(self) -> str:
        """Make it, give it to its owner, and note what the server made of it, so that a later change shows."""
        grant = f"GRANT EXECUTE ON FUNCTION {self.signature} TO {', '.join(self.executors)};\n"
        return (
            f"{self.sql}\n"
            f"ALTER FUNCTION {self.signature} OWNER TO {self.owner};\n"
            f"REVOKE ALL ON FUNCTION {self.signature} FROM PUBLIC;\n"
            f"{grant if self.executors else ''}"
            f"DO $note$ BEGIN EXECUTE format('COMMENT ON FUNCTION {self.signature} IS %L', 'tenantry {self.digest} '\n"
            f"  || md5(pg_get_functiondef('{self.signature}'::regprocedure))); END $note$;"
        )


@dataclass(frozen=True, slots=True)
class BinderOperator:
    """The operator with which policies ask whether a row is the tenant's."""

    name: str
    left: str
    right: str
    function: str

    @property
    def signature(self) -> str:
        """``schema.name(types)``, as it stands in ALTER OPERATOR."""
        return f"tenantry.{self.name} ({self.left}, {self.right})"

    def install(self) -> str:
        """Make it, and give it to its owner."""
        text = sqlfile.load("tenantry.perimeter", "sql/binder.sql")["same"]
        values = {"name": self.name, "left": self.left, "right": self.right, "function": self.function}
        for name, value in values.items():
            text = text.replace("{{" + name + "}}", value)
        return text


FREE, CHEAP = "===", "===="
"""The operator that costs nothing, which only a superuser can make, and the one for walls that no superuser makes."""


def operators(key_type: KeyType, *, superuser: bool = True) -> list[BinderOperator]:
    """The operators, one for each type that the tenant column may have."""
    return [
        BinderOperator(FREE, left, key_type.value, "tenantry.same_v1")
        if superuser
        else BinderOperator(CHEAP, left, key_type.value, equality)
        for left, equality in _SAME[key_type].items()
    ]


def functions(key_type: KeyType, mode: BindingMode, *, superuser: bool = True) -> list[BinderFunction]:
    """The functions in the order in which they can be made.

    Args:
        superuser: whether a superuser makes them.
    """
    text = sqlfile.load("tenantry.perimeter", "sql/binder.sql")

    def fill(section: str) -> str:
        sql = text[section].replace("{{key_type}}", key_type.value)
        sql = sql.replace("{{decode_sealed}}", _SEALED[key_type].format(code=_SEALED_CODE))
        return sql.replace("{{decode_code}}", _SIGNED[key_type])

    signed = mode is BindingMode.SIGNED
    made = [
        BinderFunction("tenantry_priv.hmac_v1", "bytea, bytea, text", fill("hmac_v1")),
        BinderFunction("tenantry_priv.pad_v1", "bytea, integer", fill("pad_v1")),
        BinderFunction(
            "tenantry_priv.add_key_v1", "text, bytea, timestamp with time zone", fill("add_key_v1"), (ADMIN,)
        ),
        BinderFunction("tenantry_priv.keep_keys_v1", "text[]", fill("keep_keys_v1"), (ADMIN,)),
        BinderFunction("tenantry_priv.new_seal_v1", "", fill("new_seal_v1"), (ADMIN,)),
        BinderFunction("tenantry.unbound_v1", "", fill("unbound_v1"), _EVERYBODY),
    ]
    if signed:
        made.append(BinderFunction("tenantry_priv.claim_v1", "text", fill("signed_claim_v1")))
    for left, equality in _SAME[key_type].items() if superuser else ():
        sql = text["same_v1"].replace("{{left}}", left).replace("{{right}}", key_type).replace("{{equality}}", equality)
        made.append(BinderFunction("tenantry.same_v1", f"{left}, {key_type}", sql, _EVERYBODY))
    made += [
        BinderFunction("tenantry_priv.bound_v1", "", fill(f"{mode}_bound_v1")),
        BinderFunction("tenantry_priv.seal_v1", "text", fill(f"{mode}_seal_v1")),
        BinderFunction("tenantry.current_tenant_v1", "", fill(f"{mode}_current_tenant_v1"), _EVERYBODY),
        BinderFunction("tenantry.bind_v1", "text, boolean", fill("bind_v1"), (APP,)),
        BinderFunction("tenantry.caught_up_v1", "pg_lsn, integer", fill("caught_up_v1"), (APP,)),
    ]
    return made


def schemas_sql() -> str:
    """The two schemas."""
    return sqlfile.load("tenantry.perimeter", "sql/binder.sql")["schemas"]


def tables_sql(key_type: KeyType) -> str:
    """The tables: signing keys, plans, residents."""
    text = sqlfile.load("tenantry.perimeter", "sql/binder.sql")["tables"]
    return text.replace("{{key_type}}", key_type.value)
