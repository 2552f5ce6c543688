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

_EVERYBODY = (ADMIN, APP, OPERATOR, OWNER)

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
    """A function of the binder, with who may execute it besides its owner. ``arguments`` as the server writes them."""

    name: str
    arguments: str
    sql: str
    executors: tuple[str, ...] = ()
    stronger: str = ""
    """What a superuser makes instead; who is none leaves it as it is."""

    @property
    def signature(self) -> str:
        """``schema.name(types)``."""
        return f"{self.name}({self.arguments})"

    @property
    def digest(self) -> str:
        """Changes when our text of the function changes."""
        return _digest(self.sql)

    def marks(self, body: str) -> set[str]:
        """The comments that a function with this body may have; ``body``: a digest of what the server made of it."""
        return {f"tenantry {_digest(sql)} {body}" for sql in (self.sql, self.stronger) if sql}

    def install(self) -> str:
        """Make it, give it to its owner, and note what the server made of it, so that a later change shows."""
        grant = f"GRANT EXECUTE ON FUNCTION {self.signature} TO {', '.join(self.executors)};\n"
        return (
            f"{self.sql}\n"
            f"ALTER FUNCTION {self.signature} OWNER TO {SEC};\n"
            f"REVOKE ALL ON FUNCTION {self.signature} FROM PUBLIC;\n"
            f"{grant if self.executors else ''}"
            f"DO $note$ BEGIN EXECUTE format('COMMENT ON FUNCTION {self.signature} IS %L', 'tenantry {self.digest} '\n"
            f"  || md5(pg_get_functiondef('{self.signature}'::regprocedure))); END $note$;"
        )


def _digest(sql: str) -> str:
    return sha256(sql.encode()).hexdigest()[:16]


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
    made += _same(key_type, superuser)
    made += [
        BinderFunction("tenantry_priv.bound_v1", "", fill(f"{mode}_bound_v1")),
        BinderFunction("tenantry_priv.seal_v1", "text", fill(f"{mode}_seal_v1")),
        BinderFunction("tenantry.current_tenant_v1", "", fill(f"{mode}_current_tenant_v1"), _EVERYBODY),
        BinderFunction("tenantry.bind_v1", "text", fill("bind_v1"), (APP,)),
    ]
    return made


def _same(key_type: KeyType, superuser: bool) -> list[BinderFunction]:
    text = sqlfile.load("tenantry.perimeter", "sql/binder.sql")
    made = []
    for left, equality in _SAME[key_type].items():
        free, cheap = (
            text[name].replace("{{left}}", left).replace("{{right}}", key_type).replace("{{equality}}", equality)
            for name in ("same_v1", "cheap_same_v1")
        )
        arguments = f"{left}, {key_type}"
        if superuser:
            made.append(BinderFunction("tenantry.same_v1", arguments, free, _EVERYBODY))
        else:
            made.append(BinderFunction("tenantry.same_v1", arguments, cheap, _EVERYBODY, stronger=free))
    return made


def schemas_sql() -> str:
    """The two schemas."""
    return sqlfile.load("tenantry.perimeter", "sql/binder.sql")["schemas"]


def tables_sql(key_type: KeyType) -> str:
    """The tables: signing keys, plans, residents."""
    text = sqlfile.load("tenantry.perimeter", "sql/binder.sql")["tables"]
    return text.replace("{{key_type}}", key_type.value)
