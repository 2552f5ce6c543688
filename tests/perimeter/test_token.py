"""Tokens that Python mints and the database verifies: they agree on every key, and on nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantry.errors import InvalidInput
from tenantry.model import TEXT_KEY_BYTES, BindingMode, Isolation, KeyType, Mode, TenantKey, decode_key, encode_key
from tenantry.perimeter.token import Signer
from tests.fixtures.walls import KEY, KEY_TYPES, KID, MakeWalled, Variant, Wall

BIGINTS = st.integers(-(2**63), 2**63 - 1) | st.sampled_from([0, -1, 1, 2**63 - 1, -(2**63), 10**18, -(10**18)])
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=50)
STRATEGIES: dict[KeyType, st.SearchStrategy[TenantKey]] = {
    KeyType.BIGINT: BIGINTS,
    KeyType.UUID: st.uuids() | st.sampled_from([UUID(int=0), UUID(int=2**128 - 1)]),
    KeyType.TEXT: TEXTS
    | st.sampled_from(
        ["%", "_", "\\", "'", '"', " ", "a ", " a", "tenantry_", "m7", "$1", "é", "e\u0301", "\U0010ffff"]
    )
    | st.sampled_from(["x" * TEXT_KEY_BYTES, "é" * (TEXT_KEY_BYTES // 2)]),
}
VARIANTS = [
    Variant(server, mode, level) for server in ("server", "server15") for mode in BindingMode for level in Isolation
]


@pytest.fixture(params=VARIANTS, ids=str)
def wall(request: pytest.FixtureRequest, walls: MakeWalled) -> Iterator[Wall]:
    """Each level has another type of keys."""
    with Wall.of(walls(request.param)) as wall:
        yield wall


def test_the_database_binds_whatever_key_the_token_was_minted_for(wall: Wall) -> None:
    admin, app = wall.admin(), wall.unbound()
    column = f"{wall.a.schema}.bookings"

    @given(key=STRATEGIES[KEY_TYPES[wall.level]], mode=st.sampled_from(Mode), with_pid=st.booleans())
    def check(key: TenantKey, mode: Mode, with_pid: bool) -> None:
        admin.execute(
            "INSERT INTO tenantry.residents VALUES (%s, %s, 3, 'open', %s, 'free')"
            " ON CONFLICT (code) DO UPDATE SET epoch = 3",
            (encode_key(key), key, wall.a.schema),
        )
        pid = app.info.backend_pid if with_pid else 0
        token = wall.walled.signer.mint(encode_key(key), wall.a.database, "tenantry_app", epoch=3, pid=pid, mode=mode)
        try:
            assert app.execute("SELECT tenantry.bind_v1(%s)", [token]).fetchone() == (3,)
            assert app.execute("SELECT tenantry.current_tenant_v1()").fetchone() == (key,)
            if mode is Mode.READ_WRITE:
                app.execute(f"INSERT INTO {column} (room) VALUES (77)")
                assert app.execute(f"SELECT company_id FROM {column} WHERE room = 77").fetchall() == [(key,)]
        finally:
            app.rollback()
            admin.execute("UPDATE tenantry.residents SET epoch = 1 WHERE code = %s", (encode_key(key),))
            ours = [wall.a.code, wall.b.code]
            admin.execute("DELETE FROM tenantry.residents WHERE code <> ALL (%s)", (ours,))

    check()


def test_a_token_with_any_other_character_is_refused(wall: Wall) -> None:
    app = wall.unbound()
    token = wall.mint(wall.a)

    @given(
        place=st.integers(0, len(token) - 1),
        character=st.characters(exclude_characters="\0", exclude_categories=["Cs"]),
    )
    def check(place: int, character: str) -> None:
        changed = token[:place] + character + token[place + 1 :]
        if changed == token:
            return
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="token is missing, malformed"):
            app.execute("SELECT tenantry.bind_v1(%s)", [changed])
        app.rollback()

    check()


@pytest.mark.parametrize("key_type", list(KeyType))
def test_a_code_is_plain_and_goes_back_to_its_key(key_type: KeyType) -> None:
    @given(STRATEGIES[key_type])
    def check(key: TenantKey) -> None:
        code = encode_key(key)
        assert code.isascii()
        assert code.isalnum()
        assert code == code.lower()
        assert decode_key(code, key_type) == key
        Signer(KID, KEY).mint(code, "d", "r")

    check()


TEXT_WALLS = [variant for variant in VARIANTS if KEY_TYPES[variant.level] is KeyType.TEXT]


@pytest.mark.parametrize("wall", TEXT_WALLS, ids=str, indirect=True)
def test_two_keys_that_look_alike_are_two_tenants(wall: Wall) -> None:
    """Case, blanks at the end, composed and decomposed letters, patterns."""
    alike = ["acme", "ACME", "acme ", " acme", "acm_", "acm%", "é", "e\u0301", "\u0430cme"]
    admin, app = wall.admin(), wall.unbound()
    for key in alike:
        admin.execute(
            "INSERT INTO tenantry.residents VALUES (%s, %s, 1, 'open', 'app', 'free')", (encode_key(key), key)
        )
        admin.execute("INSERT INTO app.bookings VALUES (%s, 1)", (key,))
    try:
        for key in alike:
            token = wall.walled.signer.mint(encode_key(key), wall.a.database, "tenantry_app", epoch=1)
            app.execute("SELECT tenantry.bind_v1(%s)", [token])
            assert app.execute("SELECT company_id FROM bookings").fetchall() == [(key,)]
            app.rollback()
    finally:
        admin.execute("DELETE FROM app.bookings WHERE company_id = ANY (%s)", (alike,))
        admin.execute("DELETE FROM tenantry.residents WHERE tenant = ANY (%s)", (alike,))


def test_the_body_of_a_token_says_what_it_is_for() -> None:
    token = Signer("k9", KEY, 30).mint("7", "db", "role", mode=Mode.READ_ONLY, epoch=4, pid=12, now=1000)
    body, _, mac = token.rpartition(".")
    assert body == "1.k9.7.1030.12.ro.4"
    assert len(mac) == 64
    assert token != Signer("k9", KEY, 30).mint("7", "db", "other", mode=Mode.READ_ONLY, epoch=4, pid=12, now=1000)


@pytest.mark.parametrize("size", [0, 31, 65])
def test_a_key_of_the_wrong_length_is_refused(size: int) -> None:
    with pytest.raises(InvalidInput, match=f"{size} bytes"):
        Signer("k1", bytes(size))


def test_a_key_of_any_allowed_length_is_the_same_to_both(wall: Wall) -> None:
    admin, app = wall.admin(), wall.unbound()
    for size in (32, 33, 63, 64):
        key = bytes(range(size))
        admin.execute("SELECT tenantry_priv.add_key_v1('k7', %s, now() + interval '1 day')", [key])
        token = Signer("k7", key).mint(wall.a.code, wall.a.database, "tenantry_app", epoch=1)
        assert app.execute("SELECT tenantry.bind_v1(%s)", [token]).fetchone() == (1,)
        app.rollback()
    for size in (0, 31, 65):
        with pytest.raises(psycopg.errors.InvalidParameterValue, match="32 to 64 bytes"):
            admin.execute("SELECT tenantry_priv.add_key_v1('k7', %s, now() + interval '1 day')", [bytes(size)])
    admin.execute("SELECT tenantry_priv.keep_keys_v1(ARRAY[%s])", [KID])


def test_a_signer_does_not_show_its_key() -> None:
    assert KEY.hex() not in repr(Signer(KID, KEY))
    assert repr(KEY) not in repr(Signer(KID, KEY))
